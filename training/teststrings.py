"""Strings in the test suites of security packages: what their authors call an attack, and what they call ordinary.

    python -m training.teststrings OUT.jsonl    finds candidates, labelled by the names around them

The names are often wrong: the candidates on which the detector of the time did not agree with them were read. Only what was read, or
agreed upon, is trained on: `vetted.tsv` holds the digest of each text's words, and its label (a attack, b ordinary).
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from training.collected import distributions, members
from training.sources import Example

VETTED = Path(__file__).parent / "vetted.tsv"
_BENIGN = re.compile(
    r"benign|safe(?!ty)|clean|legit|normal|allow|false_?pos|\bfp|_fp|harmless|innocu|ordinary|negativ|not_(flag|block|detect)|"
    r"no_(inject|alarm|threat|detect|match|finding)|pass(es|ed)?_|doesnt|does_not|good|hard_neg|permit|accept|trusted(?!_)"
)
_ATTACK = re.compile(
    r"attack|malicious|inject|jailbreak|block|detect|unsafe|payload|positiv|exploit|override|leak|extract|exfil|evil|bad|"
    r"adversar|hostile|poison|hijack|bypass|threat|flag|deny|reject|danger|catch|dan_|roleplay|smuggl"
)
_ABOUT_PROMPTS = re.compile(
    r"inject|jailbreak|attack|malicious|override|payload|prompt|\bdan\b|_dan|leak|extract|exfil|role_?play|smuggl|hijack|"
    r"adversar|bypass|evil|poison|persona|encod|obfusc|multi_?turn|crescendo|system"
)
_FILE = re.compile(r"test|corpus|payload|dataset|attack|probe|bench|eval|example|fixture|data|seed|templates")
_CODE = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|DROP|CREATE|import|def|class|function|curl|sudo|rm -rf|eval|exec|http|os\.|subprocess)\b|"
    r"[{};=<>]{3,}"
)
_CALLS = frozenset("compile match search sub skip skipif raises ArgumentParser add_argument print info warning debug error fail Field "
                   "xfail".split())  # fmt: skip


def _strings(node: ast.AST, around: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """String constants, each with the names around it, the nearest last."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        documented = node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
        for inner in [*node.decorator_list, *node.body[1 if documented else 0 :]]:
            yield from _strings(inner, (*around, node.name))
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [
            t.id if isinstance(t, ast.Name) else t.attr for t in targets if isinstance(t, ast.Name | ast.Attribute)
        ]
        if node.value is not None:
            yield from _strings(node.value, (*around, *names))
    elif isinstance(node, ast.Assert):
        yield from _strings(node.test, around)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            short = isinstance(key, ast.Constant) and isinstance(key.value, str) and len(key.value) < 40
            yield from _strings(value, (*around, key.value) if short else around)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield around, node.value
    elif not isinstance(node, ast.JoinedStr | ast.Compare):
        called = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        if called not in _CALLS:
            for child in ast.iter_child_nodes(node):
                yield from _strings(child, around)


def _label(around: tuple[str, ...]) -> str | None:
    lower = [name.lower() for name in around]
    for scope in (lower[-1:], lower[-2:], lower):
        text = " ".join(scope)
        benign, attack = bool(_BENIGN.search(text)), bool(_ATTACK.search(text))
        if benign != attack:
            return "b" if benign else "a"
        if benign:
            return None
    return None


def digest(text: str) -> str:
    """Of the words alone, so that layout and case do not matter."""
    return hashlib.sha256(re.sub(r"\W+", " ", text.lower()).strip().encode()).hexdigest()[:16]


def candidates() -> Iterator[tuple[str, str, str]]:
    """Guessed label, package, text."""
    seen: Counter[object] = Counter()
    for path in distributions():
        for name, size, read in members(path):
            base = name.lower()
            if not base.endswith(".py") or size > 600_000 or not _FILE.search(base):
                continue
            try:
                found = list(_strings(ast.parse(read()), (base.rsplit("/", 1)[-1][:-3],)))
            except (SyntaxError, ValueError, RecursionError):
                continue
            for around, raw in found:
                text, label = raw.strip(), _label(around)
                words = re.findall(r"\w+", text.lower())
                if label is None or not 18 <= len(text) <= 1200 or text.count(" ") < 3 or len(words) < 4:
                    continue
                if sum(map(str.isalpha, text)) < 0.55 * len(text) or (_CODE.search(text) and len(text) < 120):
                    continue
                if label == "a" and not _ABOUT_PROMPTS.search(" ".join(around).lower()):
                    continue
                start, all_words = (label, *words[:4]), (label, frozenset(words))
                seen[start] += 1
                seen[all_words] += 1
                if seen[start] <= 3 and seen[all_words] == 1:
                    yield label, path.name, text


def vetted() -> Iterator[Example]:
    """The strings of `vetted.tsv`, as the packages have them."""
    labels = dict(line.split("\t") for line in VETTED.read_text(encoding="utf-8").splitlines() if line)
    for path in distributions():
        for name, size, read in members(path):
            if not name.lower().endswith(".py") or size > 600_000 or not _FILE.search(name.lower()):
                continue
            try:
                found = list(_strings(ast.parse(read()), ()))
            except (SyntaxError, ValueError, RecursionError):
                continue
            for _, raw in found:
                label = labels.pop(digest(raw), None)
                if label == "a":
                    yield Example(raw.strip(), 1, 1, "teststrings", "direct_injection")
                elif label == "b":
                    yield Example(raw.strip(), 0, 0, "teststrings", "benign_trigger_words")


def main() -> None:
    """Write the candidates, to be read."""
    with Path(sys.argv[1]).open("w", encoding="utf-8") as out:
        for label, package, text in candidates():
            out.write(json.dumps({"label": label, "package": package, "text": text}) + "\n")


if __name__ == "__main__":
    main()
