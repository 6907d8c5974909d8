"""Keys and passwords by their shapes: a fixed prefix and a fixed alphabet, as their issuers document them.

Only shapes that ordinary prose and code do not have. detect-secrets knows more of them, and is
slower than a request can wait for; these run on RE2, and only where a cheap literal says that one could be there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import re2


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of secret: its rule id, literals one of which it always has, and its pattern."""

    rule: str
    literals: tuple[str, ...]
    pattern: Any


def _shape(rule: str, literals: tuple[str, ...], pattern: str) -> Shape:
    return Shape(rule, literals, re2.compile(pattern))


SHAPES: tuple[Shape, ...] = (
    _shape("private_key", ("PRIVATE KEY",), r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=\s]*"),
    _shape("aws_key", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    _shape("github_token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
           r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})"),
    _shape("gitlab_token", ("glpat-",), r"\bglpat-[A-Za-z0-9_\-]{20,}"),
    _shape("slack_token", ("xox",), r"\bxox[abeoprs]-[A-Za-z0-9\-]{20,}"),
    _shape("stripe_key", ("sk_live_", "rk_live_", "sk_test_"), r"\b(?:[sr]k_live|sk_test)_[A-Za-z0-9]{20,}"),
    _shape("google_key", ("AIza",), r"\bAIza[A-Za-z0-9_\-]{35}\b"),
    _shape("huggingface_token", ("hf_",), r"\bhf_[A-Za-z0-9]{30,}"),
    _shape("anthropic_key", ("sk-ant-",), r"\bsk-ant-[A-Za-z0-9_\-]{24,}"),
    _shape("openai_key", ("sk-",), r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_]{8}[A-Za-z0-9_\-]{24,}"),
    _shape("npm_token", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
    _shape("jwt", ("eyJ",), r"\beyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}"),
    _shape("connection_string", ("://",), r"\b[a-z][a-z0-9+]{2,20}://[^\s:/@\"'<>{}$%]+:[^\s:/@\"'<>{}$]{6,}@[A-Za-z0-9.\-]+"),
    _shape("azure_key", ("AccountKey=",), r"AccountKey=[A-Za-z0-9+/]{60,}={0,2}"),
)  # fmt: skip

RULES = frozenset(shape.rule for shape in SHAPES)


MAX_FOUND = 1000

# Most shapes are of characters that are no blanks; those that go over blanks, or have a host's or user's name in any
# script, have a beginning to be known by.
_BEGUN = re2.compile(
    r"(?:[!-~]+"
    r"|\b[a-z][a-z0-9+]{2,20}://\S*"
    r"|-----BEGIN [A-Z \-]*"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=\s]*)\z"
)


def pending(text: str) -> int:
    """Where at the end of `text` something begins that may still become a secret, or be more of one: its length if nowhere."""
    match = _BEGUN.search(text)
    return match.start() if match is not None else len(text)


def find(text: str) -> Iterator[tuple[str, int, int]]:
    """Each secret in `text`, in order: its rule, and its span. Shapes earlier in the list win.

    Of a kind, `MAX_FOUND` at most; then one from the first of all others to the last of them.
    """
    found: list[tuple[int, int, int]] = []
    others: list[tuple[str, int, int]] = []
    for rank, shape in enumerate(SHAPES):
        if any(literal in text for literal in shape.literals):
            matches = shape.pattern.finditer(text)
            found += [(match.start(), rank, match.end()) for match in itertools.islice(matches, MAX_FOUND)]
            others += [(shape.rule, *over) for over in _over(match.span() for match in matches)]
    reached = 0
    for start, rank, end in sorted(found):
        if start >= reached:
            yield SHAPES[rank].rule, start, end
            reached = end
    yield from others


def places(token: str, text: str) -> Iterator[tuple[int, int]]:
    """Where `token` stands in `text`, bounded as `find` is."""
    matches = (match.span() for match in re.finditer(re.escape(token), text))
    yield from itertools.islice(matches, MAX_FOUND)
    yield from _over(matches)


def _over(spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """One span over all of them, if there are any."""
    first = next(spans, None)
    if first is not None:
        yield first[0], max((end for _, end in spans), default=first[1])
