"""Keys and passwords by their shapes: a fixed prefix and a fixed alphabet, as their issuers document them.

Only shapes that ordinary prose and code do not have. detect-secrets knows more of them, and is
slower than a request can wait for; these run on RE2, and only where a cheap literal says that one could be there.

What has the shape and is known to open nothing is told apart by `samples`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import re2

from shieldkit.leak import samples


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of secret: its rule id, literals one of which it always has, its pattern, and that of what is no secret."""

    rule: str
    literals: tuple[str, ...]
    pattern: Any
    sample: Any

    def real(self, text: str) -> bool:
        """Whether a match is more than a sample."""
        prefix = next(filter(text.startswith, self.literals), "")
        return not samples.made_up(text[len(prefix) :], self.sample, whole=not prefix)


def _shape(rule: str, literals: tuple[str, ...], pattern: str, sample: str = samples.WORDS) -> Shape:
    return Shape(rule, literals, re2.compile(pattern), re2.compile(sample))


# What may stand between the first line of a key and the key: blanks, headers, and what quotes, joins or numbers lines.
_UNTIL_KEY = (
    r"(?:[^A-Za-z0-9]|[A-Za-z0-9]{1,3}[^A-Za-z0-9]|n?(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset): ?[^\n]*)*"
)
_KEY_BEGINS = r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----" + _UNTIL_KEY

SHAPES: tuple[Shape, ...] = (
    _shape("private_key", ("PRIVATE KEY",), _KEY_BEGINS + r"[A-Za-z0-9+/]{32}[A-Za-z0-9+/=\s\\]*", samples.NONE),
    _shape("aws_key", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b", samples.AWS),
    _shape("github_token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
           r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})"),
    _shape("gitlab_token", ("glpat-",), r"\bglpat-[A-Za-z0-9_\-]{20,}"),
    _shape("slack_token", ("xox",), r"\bxox[abeoprs]-[A-Za-z0-9\-]{20,}"),
    _shape("stripe_key", ("sk_live_", "rk_live_", "sk_test_"), r"\b(?:[sr]k_live|sk_test)_[A-Za-z0-9]{20,}",
           samples.STRIPE),
    _shape("google_key", ("AIza",), r"\bAIza[A-Za-z0-9_\-]{35}\b"),
    _shape("huggingface_token", ("hf_",), r"\bhf_[A-Za-z0-9]{30,}"),
    _shape("anthropic_key", ("sk-ant-",), r"\bsk-ant-[A-Za-z0-9_\-]{24,}"),
    _shape("openai_key", ("sk-",), r"\bsk-(?:proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_]{8}[A-Za-z0-9_\-]{24,}"),
    _shape("npm_token", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
    _shape("jwt", ("eyJ",), r"\beyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}", samples.JWT),
    _shape("connection_string", ("://",), r"\b[a-z][a-z0-9+]{2,20}://[^\s:/@\"'<>{}$%]+:[^\s:/@\"'<>{}$]{6,}@[A-Za-z0-9.\-]+",
           samples.LOGIN),
    _shape("azure_key", ("AccountKey=",), r"AccountKey=[A-Za-z0-9+/]{60,}={0,2}", samples.AZURE),
)  # fmt: skip

RULES = frozenset(shape.rule for shape in SHAPES)


MAX_FOUND = 1000

# Most shapes are of characters that are no blanks; those that go over blanks, or have a host's or user's name in any
# script, have a beginning to be known by.
_BEGUN = re2.compile(
    r"(?:[!-~]+"
    r"|\b[a-z][a-z0-9+]{2,20}://\S*"
    r"|-----BEGIN [A-Z \-]*"
    rf"|{_KEY_BEGINS}[A-Za-z0-9+/=\s\\:-]*)\z"
)


def pending(text: str) -> int:
    """Where at the end of `text` something begins that may still become a secret, or be more of one: its length if nowhere."""
    match = _BEGUN.search(text)
    return match.start() if match is not None else len(text)


def find(text: str, told: Callable[[], Collection[str]] = frozenset) -> Iterator[tuple[str, int, int]]:
    """Each secret in `text`, in order: its rule, and its span. Shapes earlier in the list win.

    Of a kind, `MAX_FOUND` at most; then one from the first of all others to the last of them. What is only a sample is none, but
    for those in `told()`: the ones that were told in confidence.
    """
    known = cache(told)
    found: list[tuple[int, int, int]] = []
    others: list[tuple[str, int, int]] = []
    for rank, shape in enumerate(SHAPES):
        if any(literal in text for literal in shape.literals):
            secret = (m.span() for m in shape.pattern.finditer(text) if shape.real(m[0]) or core(m[0]) in known())
            found += [(start, rank, end) for start, end in itertools.islice(secret, MAX_FOUND)]
            others += [(shape.rule, *over) for over in _over(secret)]
    reached = 0
    for start, rank, end in sorted(found):
        if start >= reached:
            yield SHAPES[rank].rule, start, end
            reached = end
    yield from others


def shaped(text: str) -> frozenset[str]:
    """The `core` of all that has the shape of a secret in `text`, samples too."""
    shapes = (shape for shape in SHAPES if any(literal in text for literal in shape.literals))
    return frozenset(core(match[0]) for shape in shapes for match in shape.pattern.finditer(text))


def core(match: str) -> str:
    """What of a match is the secret: without the scheme of an address, and a full stop or dash that follows it."""
    return match.rpartition("://")[2].rstrip(".-_")


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
