"""One pass of one compiled pattern over folded text; each match is then told apart.

Known tokens, the backend's own, their spellings in rot13 and backwards, and the shapes of unknown ones are alternatives
of a single RE2 pattern: linear time, whatever the text. Scores: a known token as it is spelled is 1; the same disguised
0.9; an unknown token of the same shape 0.8; a token that ordinary text contains too 0.3, below any sensible threshold,
until two that belong together make a frame (0.7). Text at the start of a segment, or in the last twentieth of it, right
before the model's turn, weighs more: models attend most to both ends of their context (Liu et al. 2023, "Lost in the
Middle"; Xiao et al. 2023, on attention sinks), so ambiguous findings there gain 0.1.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import re2

from shieldkit.markers.catalogue import catalogue
from shieldkit.text import Canonical
from shieldkit.text.folding import fold

VERBATIM, DISGUISED, SHAPED, FRAMED, OTHER_CASE, AMBIGUOUS = 1.0, 0.9, 0.8, 0.7, 0.4, 0.3
EDGE_CHARS, EDGE_SHARE, EDGE_BONUS = 64, 0.05, 0.1
BELOW = 0.45  # what is ambiguous by itself stays below the usual threshold, also at an edge
LONGEST_SHAPE = 64

_SHAPES = (
    r"<\s*\|[^|<>\n]*\|\s*>",
    r"\[\s*\|[a-z][a-z_ ]+\|\s*\]",
    r"<<\s*/?\s*sys\s*>>",
    r">\s*\|[^|<>\n]*\|\s*<",
)
_ROLE = (
    "(system|developer|user|human|assistant|ai|bot|instructions?|response|input)(?:[ \\t]+(?:prompt|message|override))?"
)
_HEADER = re2.compile(
    rf"(?m)^[ \t>*_]*(?:#{{1,6}}[ \t]*|\[|<){_ROLE}[\]>]?[ \t*_]*:?[ \t]*$|(?m)^[ \t>*_]*(?:#{{1,6}}[ \t]*)?{_ROLE}[ \t*_]*:"
)
_TELLERS = frozenset({"system", "developer"})
_ASKERS, _REPLIERS = frozenset({"user", "human", "input"}), frozenset({"assistant", "ai", "bot", "response"})
_ASKS, _ANSWERS = frozenset({"instruction", "instructions"}), frozenset({"response", "input"})


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker at `[start, end)` of the original text."""

    rule: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Known:
    """What a folded spelling stands for: the texts that fold to it, and how much it says."""

    spellings: frozenset[str]
    score: float


# What may be the beginning of a shape, or of a pattern of the catalogue, at the end of a text.
_BEGUN = re2.compile(
    r"(?:<[\s/<]*(?:\|[^|<>\n]{0,64}(?:\|\s*)?|[a-z_]{0,24}[0-9]{0,6})"
    r"|\[\s*(?:\|[a-z_ ]{0,64}(?:\|\s*)?|[a-z_]{0,24}[0-9]{0,6})"
    r"|>\s*(?:\|[^|<>\n]{0,64}(?:\|\s*)?)?"
    r"|\]<?(?:\](?:[a-z ]{0,40}(?:\[>?)?)?)?)\z"
)
_BEGUN_HEADER = re2.compile(
    r"(?m)^[ \t>*_]*(?:#{0,6}[ \t]*|\[|<)(?:[a-z]{0,12}(?:[ \t]+[a-z]{0,8})?)?[\]>]?[ \t*_]*:?[ \t]*\z"
)


class MarkerEngine:
    """Compiled once for the catalogue and a backend's own tokens; safe to share between threads."""

    def __init__(self, backend_tokens: Iterable[str] = (), extra_tokens: Iterable[str] = ()) -> None:
        self._known: dict[str, _Known] = {}
        patterns: list[str] = []
        for token in catalogue():
            if token.regex:
                patterns.append(_folded_pattern(token.text))
            elif not _is_header(token.text):
                self._add(token.text, AMBIGUOUS if token.ambiguous else VERBATIM)
            elif not token.ambiguous:
                self._add(token.text, FRAMED)
        for own in extra_tokens:
            self._add(own, VERBATIM)
        for own in backend_tokens:
            if _folded(own) not in self._known and len(own.strip()) > 2:
                self._add(own, VERBATIM)
        self._disguised = {
            other
            for text, known in self._known.items() if known.score >= FRAMED
            for other in _other_spellings(text, known.spellings) if other not in self._known
        }  # fmt: skip
        literals = sorted([*self._known, *self._disguised], key=len, reverse=True)
        alternatives = [*(re2.escape(text) for text in literals), *patterns, *_SHAPES]
        options = re2.Options()
        options.max_mem = 64 << 20
        self._pattern: Any = re2.compile("|".join(alternatives), options)

    def find(self, canonical: Canonical) -> list[Marker]:
        """All markers of a text and of what is decoded from it, with original offsets, in order."""
        found = [self._weighed(marker, canonical) for marker in self._own(canonical)]
        found += [
            Marker("control_token_disguised", DISGUISED, child.start, child.end)
            for child in canonical.children
            if any(m.score >= FRAMED for m in self._matches(child.text, child.text, verbatim=False))
        ]
        return sorted(set(found), key=lambda m: (m.start, m.end, m.rule))

    def pending(self, canonical: Canonical) -> tuple[int, int]:
        """For a text that goes on: from where on it may become part of a marker, and from where on it is not settled.

        Beside what decoding says (`shieldkit.text.pending`). A role header is settled, and one more may make a frame of it.
        """
        text = canonical.text
        longest = min(self._longest, len(text))
        begun = [len(text) - n for n in range(longest, 0, -1) if text[-n:] in self._beginnings][:1]
        begun += [match.start() for pattern in (_BEGUN, _BEGUN_HEADER) if (match := pattern.search(text))]
        header = _HEADER.search(text)
        settled = canonical.span(at := min(begun, default=len(text)), at)[0]
        return (min(settled, canonical.span(*header.span())[0]) if header else settled), settled

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(text[:n] for text in (*self._known, *self._disguised) for n in range(1, len(text)))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._beginnings), default=0)

    def _own(self, canonical: Canonical) -> Iterator[Marker]:
        for marker in self._matches(canonical.text, canonical.original, verbatim=True, canonical=canonical):
            yield marker
        for marker in _headers(canonical.text):
            start, end = canonical.span(marker.start, marker.end)
            yield replace(marker, start=start, end=end)

    def _matches(
        self, text: str, original: str, *, verbatim: bool, canonical: Canonical | None = None
    ) -> Iterator[Marker]:
        for match in self._pattern.finditer(text):
            start, end = match.span()
            spelled = match.group()
            if canonical is not None:
                start, end = canonical.span(start, end)
            yield self._told_apart(spelled, original[start:end] if verbatim else spelled, start, end, verbatim)

    def _told_apart(self, folded: str, original: str, start: int, end: int, verbatim: bool) -> Marker:
        known = self._known.get(folded)
        if known is None:
            if folded in self._disguised:
                return Marker("control_token_disguised", DISGUISED, start, end)
            inner = folded.strip("<>[]|/ ")
            likely = len(inner) > 0 and len(folded) <= LONGEST_SHAPE and any(c.isalpha() for c in inner)
            return Marker("unknown_token", SHAPED if likely else AMBIGUOUS, start, end)
        if known.score < VERBATIM:
            return Marker("role_header" if known.score == FRAMED else "template_marker", known.score, start, end)
        if not verbatim or original in known.spellings:
            return Marker("control_token", VERBATIM, start, end)
        if original.lower() == folded and not folded.startswith("<"):
            return Marker("template_marker", OTHER_CASE, start, end)
        return Marker("control_token_disguised", DISGUISED, start, end)

    def _weighed(self, marker: Marker, canonical: Canonical) -> Marker:
        length = len(canonical.original)
        tail = max(EDGE_CHARS, int(EDGE_SHARE * length))
        if marker.score < SHAPED and (marker.start < EDGE_CHARS or marker.end > length - tail):
            return replace(marker, score=max(marker.score, min(marker.score + EDGE_BONUS, BELOW)))
        return marker

    def _add(self, token: str, score: float) -> None:
        folded = _folded(token)
        if not folded:
            return
        before = self._known.get(folded, _Known(frozenset(), score))
        self._known[folded] = _Known(before.spellings | {token, token.strip()}, min(before.score, score))


def _headers(text: str) -> list[Marker]:
    """Role headers at line starts. One is a heading; a whole chat, or an instruction with a response, is a forged frame."""
    spans = [(match[1] or match[2], *match.span()) for match in _HEADER.finditer(text)]
    roles = {role for role, _, _ in spans}
    # "System:" over "User:" is also how tables and reports are written; a chat has somebody who answers.
    chat = bool(roles & _TELLERS) and bool(roles & _ASKERS) and bool(roles & _REPLIERS)
    framed = chat or bool(roles & _ASKS and roles & _ANSWERS)
    return [Marker("role_header", FRAMED if framed else AMBIGUOUS, start, end) for _, start, end in spans]


def _other_spellings(text: str, spellings: Iterable[str]) -> Iterator[str]:
    """Backwards, in rot13, and (where that is too short for the decoder) in base64, folded."""
    plain = text.strip()
    if len(plain) < 5:
        return
    yield plain[::-1]
    yield codecs.encode(plain, "rot13")
    for spelling in spellings:
        if len(spelling.encode()) <= 8:
            yield base64.b64encode(spelling.encode()).decode().lower().rstrip("=")


def _folded(token: str) -> str:
    """Line ends in front of a token belong to it; blanks around it do not."""
    return fold(token)[0].rstrip().lstrip(" ")


def _is_header(token: str) -> bool:
    """Role headers such as `User: ` and `### Response:`: the common ones are judged by their place, not as literals."""
    return token.strip().endswith(":") and token.strip()[0] not in "<["


def _folded_pattern(pattern: str) -> str:
    """A catalogue pattern for folded text: its characters folded, its escapes kept."""
    out, at = "", 0
    while at < len(pattern):
        step = 2 if pattern[at] == "\\" else 1
        folded = fold(pattern[at])[0]
        # A fullwidth bar folds to a bar, which would mean something else in a pattern.
        out += pattern[at : at + 2] if step == 2 else folded if pattern[at].isascii() else re2.escape(folded)
        at += step
    return f"(?:{out})"
