"""One pass of a set of patterns over folded text, one pattern where something of it is, and each match told apart.

Known tokens, the backend's own, their spellings in rot13 and backwards, and the shapes of unknown ones are alternatives
of a single RE2 pattern: linear time, whatever the text. Scores: a known token as it is spelled is 1; the same disguised
0.9; an unknown token of the same shape 0.8; a token that ordinary text contains too 0.3, below any sensible threshold,
until it stands in a frame (0.7, `frames.py`). Text at the start of a segment, or in the last twentieth of it, right
before the model's turn, weighs more: models attend most to both ends of their context (Liu et al. 2023, "Lost in the
Middle"; Xiao et al. 2023, on attention sinks), so ambiguous findings there that stand near each other gain 0.1.
"""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import re2

from shieldkit.markers import frames, lines, shapes
from shieldkit.markers.catalogue import catalogue
from shieldkit.text import Canonical
from shieldkit.text.folding import PLACEHOLDER, fold, narrowed
from shieldkit.text.sieve import OVERLAP, Sieve, Window, compiled, matches

VERBATIM, DISGUISED, SHAPED, FRAMED, OTHER_CASE, AMBIGUOUS = 1.0, 0.9, 0.8, 0.7, 0.4, 0.3
EDGE_CHARS, EDGE_SHARE, EDGE_BONUS = 64, 0.05, 0.1
NEAR_CHARS = 200  # between two ambiguous ones that weigh more together
BELOW = 0.45  # what is ambiguous by itself stays below the usual threshold, also at an edge
FILLERS = frozenset({"bos", "eos", "padding", "sep", "unk", "cls", "turn_end"})
LEAST_FILLERS = 8
"""How many tokens of these roles in a row are a run; ordinary text has one of them, or explains a few."""

_WIDE_BAR = "\uff5c"
_QUOTES = frozenset("\u00ab\u00bb\u2039\u203a\u300a\u300b\u3008\u3009\u3010\u3011\u27e8\u27e9")
"""Brackets that are quotation marks in some language; what is set in them is a token only where its name could be no other."""
_NAMES = frozenset("|_")
_INDENT = re.compile("\n[ \t]+")
_SLASH, MOST_SLASHES = re.compile(r"(?<!\\)\\+(?=/|\Z)"), 8
"""JSON may have a backslash before each slash (RFC 8259); how many of them a beginning of a token is known with."""


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
_BEGUN = compiled(rf"(?:{shapes.BEGUN}|<[\s|]*[a-z_ :-]{{0,64}}[0-9]{{0,6}}|\]<?(?:\](?:[a-z ]{{0,40}}(?:\[>?)?)?)?)\z")


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
        self._ordinary = frozenset(text for text, known in self._known.items() if known.score < FRAMED)
        for own in extra_tokens:
            self._own(own)
        for own in backend_tokens:
            if len(own.strip()) > 2:
                self._own(own)
        self._disguised = {
            other
            for text, known in self._known.items() if known.score >= FRAMED
            for other in _other_spellings(text, known.spellings) if other not in self._known
        }  # fmt: skip
        ordinary = set(map(shapes.tight, self._ordinary))
        self._alike = {
            shapes.tight(other): _Known(frozenset(map(shapes.tight, known.spellings)), DISGUISED)
            for text, known in self._known.items() if known.score == VERBATIM
            for other in (text, shapes.without_end(text)) if other and shapes.tight(other) not in ordinary
        }  # fmt: skip
        literals = sorted([*self._known, *self._disguised], key=len, reverse=True)
        sources = [_literal(text) for text in literals] + patterns + [*shapes.SHAPES]
        self._pattern = compiled("|".join(sources))
        self._sieve = Sieve([sources, [frames.PATTERN], [lines.WRITTEN]])
        fillers = {_folded(t.text) for t in catalogue() if t.ambiguous and not t.regex and t.role in FILLERS}
        filler = "|".join(_literal(text) for text in sorted(fillers, key=len, reverse=True))
        self._filler_run = compiled(rf"(?:(?:{filler})[ \t\r\n]*){{{LEAST_FILLERS - 1},}}(?:{filler})")
        self._fillers_begun = compiled(rf"(?:(?:{filler})[ \t\r\n]*)+\z")

    def find(self, canonical: Canonical) -> list[Marker]:
        """All markers of a text and of what is decoded from it, with original offsets, in order."""
        data = canonical.data
        windows, headed, written = self._sieve.windows(data)
        found = [
            *chain.from_iterable(self._placed(m, canonical) for m in matches(self._pattern, data, windows)),
            *_headers(canonical, headed, written),
        ]
        found = _weighed(sorted(found, key=lambda marker: marker.start), canonical.original)
        # Attention gathers at tokens that say nothing (Xiao et al. 2023): `<s><s><s>`...
        runs = matches(self._filler_run, data, windows)
        found += [Marker("sink_run", FRAMED, *canonical.span(*run.span())) for run in runs]
        found += [
            Marker("control_token_disguised", DISGUISED, child.start, child.end)
            for child in canonical.children
            if self._in_child(child.text)
        ]
        return sorted(set(found), key=lambda m: (m.start, m.end, m.rule))

    def pending(self, canonical: Canonical) -> tuple[int, int]:
        """For a text that goes on: from where on it may become part of a marker, and from where on it is not settled.

        Beside what decoding says (`shieldkit.text.pending`).
        """
        text = canonical.text
        longest = min(self._longest + MOST_SLASHES, len(text))
        begun = [len(text) - n for n in range(longest, 0, -1) if _slashed(text[-n:]) in self._beginnings][:1]
        begun += [match.start()] if (match := _BEGUN.search(canonical.data)) else []
        begun += [fillers.start()] if (fillers := self._fillers_begun.search(canonical.data)) else []
        readings = {text, lines.broken(text), lines.unfinished(text)}
        held, settled = map(min, zip(*(frames.pending(read, narrowed(read)) for read in readings), strict=True))
        settled = min([settled, *begun])
        held = min(held, settled)
        return canonical.span(held, held)[0], canonical.span(settled, settled)[0]

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(text[:n] for text in (*self._known, *self._disguised) for n in range(1, len(text)))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._beginnings), default=0)

    def _placed(self, match: Any, canonical: Canonical) -> Iterator[Marker]:
        folded = canonical.text[match.start() : match.end()]
        start, end = canonical.span(*match.span())
        text, (low, high) = canonical.text, match.span()
        beside = text[max(0, low - 1) : low] + text[high : high + 1]
        rule, score = self._told_apart(folded, canonical.original[start:end], beside)
        if score:
            yield Marker(rule, score, start, end)

    def _in_child(self, text: str) -> bool:
        data = narrowed(text)
        windows, headed, written = self._sieve.windows(data)
        spelled = (text[match.start() : match.end()] for match in matches(self._pattern, data, windows))
        return any(self._told_apart(folded)[1] >= FRAMED for folded in spelled) or any(
            is_framed for _, is_framed in _framed(text, data, headed, written)
        )

    def _told_apart(self, folded: str, original: str = "", beside: str = "") -> tuple[str, float]:
        """The rule and the score of a match; a score of 0 where it is nothing.

        `original` is how it was spelled, `beside` the signs on both sides, where that is known.
        """
        folded, unslashed = _slashed(folded), _slashed(original)
        known = self._known.get(_unindented(folded))
        if known is not None and known.score < VERBATIM:
            return "role_header" if known.score == FRAMED else "template_marker", known.score
        if known is not None and original in known.spellings:
            return "control_token", VERBATIM
        if known is not None and unslashed in known.spellings:
            return "control_token_disguised", DISGUISED
        if _is_ordinary(folded, original, beside):
            return "template_marker", OTHER_CASE
        return self._written_otherwise(folded, unslashed, beside, known)

    def _written_otherwise(self, folded: str, original: str, beside: str, known: _Known | None) -> tuple[str, float]:
        """The same of what is no known token as it is spelled."""
        is_ordinary = folded in self._ordinary
        if known is None and folded in self._disguised:
            return "control_token_disguised", DISGUISED
        if known is None:
            known = self._alike.get(shapes.tight(folded)) if len(folded) <= OVERLAP else None
            if known is None:
                return "unknown_token", SHAPED if shapes.likely(folded, beside) else 0.0
            folded, original = shapes.tight(folded), shapes.tight(original)
        if original.lower() == folded and (
            (is_ordinary or shapes.is_named(original)) if folded.startswith("<") else original not in known.spellings
        ):
            return "template_marker", OTHER_CASE
        return "control_token_disguised", DISGUISED

    def _own(self, token: str) -> None:
        """A token of the backend or the policy, in all spellings; what ordinary text has too, as spelled and disguised alone."""
        folded = _folded(token)
        if folded in self._known and self._known[folded].score == AMBIGUOUS:
            self._known[folded] = _Known(_spellings(token), VERBATIM)
        else:
            self._add(token, VERBATIM)

    def _add(self, token: str, score: float) -> None:
        folded = _folded(token)
        if not folded:
            return
        before = self._known.get(folded, _Known(frozenset(), score))
        self._known[folded] = _Known(before.spellings | _spellings(token), min(before.score, score))


def _headers(canonical: Canonical, headed: Sequence[Window], written: Sequence[Window]) -> Iterator[Marker]:
    for (start, end), is_framed in _framed(canonical.text, canonical.data, headed, written):
        yield Marker("role_header", FRAMED if is_framed else AMBIGUOUS, *canonical.span(start, end))


def _framed(text: str, data: bytes, headed: Sequence[Window], written: Sequence[Window]) -> list[tuple[Window, bool]]:
    """Where headers stand, and whether in a frame: as the text is, and with the line breaks that are written in it."""
    found = {(h.start, h.end): is_framed for h, is_framed in frames.framed(frames.headers(text, data, headed))}
    for low, high in _around(written, len(text)):
        read = lines.broken(text[low:high])
        # What is cut off in the middle of a line begins none.
        headers = [h for h in frames.headers(read, narrowed(read), [(0, len(read))]) if h.start or not low]
        for header in (h for h, is_framed in frames.framed(headers) if is_framed):
            start, end = _trimmed(read, header.start, header.end)
            found[low + start, low + end] = True
    return [*found.items()]


def _around(windows: Sequence[Window], length: int) -> Iterator[Window]:
    """The windows with as much on both sides as the headers of a frame may be apart; what touches is one."""
    wide = frames.REACH + frames.TURN_CHARS
    before: Window | None = None
    for start, end in windows:
        low, high = max(0, start - wide), min(length, end + wide)
        if before is not None and low <= before[1]:
            low = before[0]
        elif before is not None:
            yield before
        before = low, high
    if before is not None:
        yield before


def _trimmed(text: str, start: int, end: int) -> Window:
    """Without the blanks on both sides: they stand for what is none."""
    return end - len(text[start:end].lstrip()), start + len(text[start:end].rstrip())


def _weighed(found: list[Marker], text: str) -> list[Marker]:
    """Markers in order, of which ambiguous ones at an edge weigh more, where another one stands near them.

    One alone is a heading or a tag, and a tag with its end is one; a short text is edge everywhere.
    """
    tail = max(EDGE_CHARS, int(EDGE_SHARE * len(text)))

    def weighed(at: int, marker: Marker) -> Marker:
        is_edge = marker.start < EDGE_CHARS or marker.end > len(text) - tail
        beside = found[max(0, at - 1) : at] + found[at + 1 : at + 2]
        if marker.score >= SHAPED or not is_edge or not any(_is_other(other, marker, text) for other in beside):
            return marker
        return replace(marker, score=max(marker.score, min(marker.score + EDGE_BONUS, BELOW)))

    return [weighed(at, marker) for at, marker in enumerate(found)]


def _is_other(other: Marker, marker: Marker, text: str) -> bool:
    is_near = other.start - marker.end < NEAR_CHARS and marker.start - other.end < NEAR_CHARS
    return is_near and _named(other, text) != _named(marker, text)


def _named(marker: Marker, text: str) -> str:
    return text[marker.start : min(marker.end, marker.start + OVERLAP)].lower().replace("/", "").strip()


def _is_ordinary(folded: str, original: str, beside: str) -> bool:
    """Whether a match that is no token as it stands is what tables, comparisons, quotations or tests are written with."""
    is_cell = folded.startswith("|") and original[:1] not in ("", _WIDE_BAR)
    is_quoted = original[:1] in _QUOTES and _NAMES.isdisjoint(folded)
    is_compared = shapes.is_compared(folded) and original.lower() in ("", folded)
    is_shifted = original == "<<sys>>" and beside[:1].isalnum() and len(beside) > 1
    is_tested = folded.startswith("[ ") and beside == "[]"
    return is_cell or is_quoted or is_compared or is_shifted or is_tested


def _other_spellings(text: str, spellings: Iterable[str]) -> Iterator[str]:
    """Backwards, in rot13, and (where that is too short for the decoder) in base64, folded."""
    plain = text.strip()
    if len(plain) < 5 or shapes.is_cell(plain):
        return
    yield plain[::-1]
    yield codecs.encode(plain, "rot13")
    for spelling in spellings:
        if len(spelling.encode()) <= 8:
            yield base64.b64encode(spelling.encode()).decode().lower().rstrip("=")


def _folded(token: str) -> str:
    """Line ends in front of a token belong to it; blanks around it do not."""
    return fold(token).text.rstrip().lstrip(" ")


def _spellings(token: str) -> frozenset[str]:
    """A token with its blanks and without them; line ends in front of it may be there without those."""
    return frozenset({token, token.strip(), token.rstrip()})


def _literal(token: str) -> str:
    """A pattern for narrowed text, where all that is not ASCII is alike. Line ends may have blanks after them, slashes
    backslashes before them.
    """
    narrow = "".join(c if c.isascii() else chr(PLACEHOLDER) for c in token)
    pattern: str = re2.escape(narrow)
    return pattern.replace("\\\n", "\\n[ \\t]*").replace("\\/", "/").replace("/", r"\\*/")


def _slashed(text: str) -> str:
    """A match, or a beginning of one, without the backslashes before its slashes."""
    return _SLASH.sub("", text) if "\\" in text else text


def _unindented(folded: str) -> str:
    """A match without the blanks after its line ends."""
    return _INDENT.sub("\n", folded) if "\n" in folded else folded


def _is_header(token: str) -> bool:
    """Role headers such as `User: ` and `### Response:`: the common ones are judged by their place, not as literals."""
    return token.strip().endswith(":") and token.strip()[0] not in "<["


def _folded_pattern(pattern: str) -> str:
    """A catalogue pattern for folded text: its characters folded, its escapes kept."""
    out, at = "", 0
    while at < len(pattern):
        step = 2 if pattern[at] == "\\" else 1
        folded = fold(pattern[at]).text
        # A fullwidth bar folds to a bar, which would mean something else in a pattern.
        out += pattern[at : at + 2] if step == 2 else folded if pattern[at].isascii() else re2.escape(folded)
        at += step
    return f"(?:{out})"
