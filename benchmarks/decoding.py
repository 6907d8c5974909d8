"""Which disguises fall away: the share of attack texts that canonical text holds in plain, by disguise, and what it adds
to text without any.

    python benchmarks/decoding.py [--json FILE]

Encoded rows of the development corpora are undone by the plain inverse of their disguise, and attack texts of the other
kinds are disguised by `tests/disguises.py`. A text counts when its letters and digits, in order, stand in the canonical
text or in one decoded part. Needs the development corpora beside the project.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import gzip
import html
import json
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shieldkit.text import canonicalise
from tests.disguises import DISGUISES

CORPORA = ROOT.parent / "shared" / "corpora"
CYRILLIC = str.maketrans("аеорсухіѕјһԁԛԝАВЕЅІЈКМНОРСТУХ", "aeopcyxisjhdqwABESIJKMHOPCTYX")


def _after(text: str) -> str:
    """The payload of "Decode this: payload"."""
    return text.split(": ", 1)[1]


def _selected(text: str) -> str:
    points = [ord(c) for c in text]
    return bytes(
        p - 0xFE00 if p < 0xE0100 else p - 0xE0100 + 16 for p in points if 0xFE00 <= p < 0xFE10 or p >= 0xE0100
    ).decode()


PLAIN: dict[str, Callable[[str], str]] = {
    "base64": lambda t: base64.b64decode(_after(t)).decode(),
    "hex": lambda t: bytes.fromhex(_after(t)).decode(),
    "rot13": lambda t: codecs.encode(_after(t), "rot13"),
    "reversed": lambda t: _after(t)[::-1],
    "leet": lambda t: t.lower().translate(str.maketrans("013457", "oieast")),
    "html_entities": html.unescape,
    "url_escape": unquote,
    "spaced": lambda t: t.replace(" ", ""),
    "homoglyph": lambda t: t.translate(CYRILLIC),
    "fullwidth": lambda t: unicodedata.normalize("NFKC", t),
    "math_alnum": lambda t: unicodedata.normalize("NFKC", t),
    "zero_width": lambda t: re.sub("[\u200b-\u200d\u2060\ufeff]", "", t),
    "unicode_tags": lambda t: "".join(chr(ord(c) - 0xE0000) for c in t if ord(c) > 0xE0000),
    "variation_selectors": _selected,
}


def bare(text: str) -> str:
    """Letters and digits, accents dropped."""
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum())


def holds(text: str, plain: str) -> bool:
    """Whether canonical text of `text` has `plain` in it."""
    canonical = canonicalise(text)
    return any(bare(plain) in bare(seen) for seen in (canonical.text, *(c.text for c in canonical.children)))


def rows(kind: str) -> list[dict[str, Any]]:
    """The rows of one file of the development corpora."""
    with gzip.open(CORPORA / "dev" / f"{kind}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def on_encoded_rows(show: int = 0) -> dict[str, tuple[int, int]]:
    """By disguise: how many rows are held in plain, and of how many."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for row in rows("encoded"):
        disguise = row["source"].removeprefix("encoded-")
        plain = PLAIN[disguise](row["text"])
        counts[disguise].append(holds(row["text"], plain))
        if show and not counts[disguise][-1]:
            print(disguise, repr(row["text"])[:show])
    return {name: (sum(hit), len(hit)) for name, hit in sorted(counts.items())}


def on_attacks(most: int, show: int = 0) -> dict[str, tuple[int, int]]:
    """The same for attack texts of the other kinds, disguised here, in the middle of a sentence."""
    texts = [r["text"] for kind in ("x_slabs", "direct_injection", "system_prompt_extraction") for r in rows(kind)
             if r["label"] == "attack" and 30 <= len(r["text"]) <= 300 and r["text"].isascii()]  # fmt: skip
    texts = texts[:: max(1, len(texts) // most)]
    out = {}
    for name, disguise in DISGUISES.items():
        hit = []
        for text in texts:
            plain = text.lower().translate(str.maketrans("013457@$!", "oieastasi")) if name == "leet" else text
            hit.append(holds(f"Dear team,\n{disguise(text)}\nThanks", plain))
            if show and not hit[-1]:
                print(name, repr(disguise(text))[:show])
        out[name] = (sum(hit), len(hit))
    return out


def added() -> dict[str, dict[str, float]]:
    """What ordinary text gets: decoded parts, and their characters, per million characters."""
    texts: dict[str, list[str]] = {}
    for kind in ("benign_chat", "benign_document", "benign_trigger_words", "benign_markup"):
        texts[kind] = [row["text"] for row in rows(kind)]
    for path in sorted((CORPORA / "haystack").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts[path.name.split(".")[0]] = [file.read()]
    out = {}
    for name, group in texts.items():
        children = [child for text in group for child in canonicalise(text).children]
        total = sum(map(len, group)) / 1e6
        out[name] = {"parts": len(children) / total, "characters": sum(len(c.text) for c in children) / total}
    return out


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--attacks", type=int, default=1000, help="how many attack texts to disguise")
    parser.add_argument("--show", type=int, default=0, help="print so many characters of each miss")
    options = parser.parse_args()
    if not CORPORA.is_dir():
        raise SystemExit("the development corpora are not beside the project")
    encoded, attacks = on_encoded_rows(options.show), on_attacks(options.attacks, options.show)
    for title, table in (("encoded rows", encoded), ("attacks, disguised here", attacks)):
        print(title)
        for name, (hit, count) in table.items():
            print(f"  {name:22} {hit / count:7.1%} of {count}")
    print("decoded parts of ordinary text, per million characters")
    ordinary = added()
    for name, row in ordinary.items():
        print(f"  {name:22} {row['parts']:7.1f} parts, {row['characters']:9.0f} characters")
    if options.json:
        result = {"encoded": encoded, "attacks": attacks, "ordinary": ordinary}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
