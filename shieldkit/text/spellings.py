"""Spellings: letters set apart, words in markup, digits for letters, rot13, backwards, Morse.

Each is looked for where it shows, and the line around is read that way. What comes out counts where it says words.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import re2

from shieldkit.text.folding import narrowed
from shieldkit.text.regions import Decoded, regions, spots, with_lines, with_margin
from shieldkit.text.sieve import compiled
from shieldkit.text.words import VOCABULARY, speaks, strong

# -- letters set apart -------------------------------------------------------------------------------------------------

# By bytes: any signs between letters of ASCII, or signs of ASCII between any letters.
_KINDS = (("a-z", "[^a-z0-9]"), (r"a-z\x1a", r"[^a-z0-9\x1a]"))
# A control token is short, and half of it may be signs: blanks between, after one of these.
_AFTER_SIGN = r"(?:\A|\s)[<>\[\]|#_](?: {1,3}[^\s]){%s}(?:\z|\s)"
SPACED = (
    *(rf"(?:\A|{sign})(?:[{letters}]{sign}{{1,4}}){{3}}[{letters}](?:\z|{sign})" for letters, sign in _KINDS),
    _AFTER_SIGN % "4",
)
_SPACED = compiled(
    "|".join(
        rf"(?:\A|{sign})(?:[0-9{letters}]{sign}{{1,12}}){{4,}}[0-9{letters}](?:\z|{sign})" for letters, sign in _KINDS
    )
)
_LETTERS_APART, _SIGNS_APART = compiled("|".join(SPACED[:-1])), compiled(_AFTER_SIGN % "4,")
_BLANKS = re.compile(" +")
_GAP = re.compile(r"[\W_]+")  # a run of one class: linear also in the standard engine
_ALONE = re.compile(r"(?:(?<![^\W_])[^\W_][\W_]+){3}[^\W_](?![^\W_])")
LEAST_LETTERS, LEAST_AFTER_SIGN, MOST_SIGNS = 12, 3, 8


def spaced(text: str) -> Iterator[Decoded]:
    """Letters set apart, by whatever: `i g n o r e   a l l`, `(i)(g)(n)`, `i/g/n/o/r/e a/l/l`.

    What stands between most letters is within a word, and what is longer is between words. A sign in the middle of a gap
    (`e _ t`), or beside the letters in the same way, is one of them. Rows of numbers and of names are none of it.
    """
    data = narrowed(text)
    runs = [run for match in _SPACED.finditer(data) if (run := _closed(text, *match.span())) is not None]
    runs = sorted([*_tokens(text, data), *runs], key=lambda run: run[0])  # of two from one place the first
    firsts = [first for first, _, _ in runs]
    for start, end in with_margin(text, regions(((first, last) for first, last, _ in runs), least=1, gap=40)):
        parts: list[str] = []
        at = start
        for first, last, said in runs[bisect_left(firsts, start) : bisect_left(firsts, end)]:
            if at <= first and last <= end:  # what the margin cuts belongs to the next region
                parts += text[at:first], said
                at = last
        yield Decoded("spaced", "".join(parts) + text[at:end], start, end)


def _tokens(text: str, data: bytes) -> Iterator[tuple[int, int, str]]:
    """Runs that begin with a sign as control tokens do (`< | i m _ s t a r t`), and what they say."""
    for match in _SIGNS_APART.finditer(data):
        start, end = match.start() + match.group()[:1].isspace(), match.end() - match.group()[-1:].isspace()
        run = text[start:end]
        usual = Counter(_BLANKS.findall(run)).most_common(1)[0][0]
        said = _BLANKS.sub(lambda gap, usual=usual: " " if gap.group() > usual else "", run)  # type: ignore[misc]
        # A row of a table, too, begins with a bar.
        signs = "" if said[0] == "|" else "<>[]|/#"
        letters, size = sum(c.isalpha() or c in signs for c in said), len(said.replace(" ", ""))
        if letters >= LEAST_AFTER_SIGN and 2 * letters > size:
            yield start, end, said


def _closed(text: str, start: int, end: int) -> tuple[int, int, str] | None:
    """A run with the signs beside it that are set apart as its letters are, and what it says; None if that is nothing."""
    # Letters outside of ASCII look like gaps there, and half of the letters of Cyrillic text fold to ASCII.
    if _LETTERS_APART.search(narrowed(text[start:end])) is None or _ALONE.search(text, start, end) is None:
        return None
    start, end = start + (not text[start].isalnum()), end - (not text[end - 1].isalnum())
    run = text[start:end]
    gaps = Counter(_GAP.findall(run))
    if not gaps:
        return None
    usual, count = gaps.most_common(1)[0]
    letters = sum(map(str.isalpha, run))
    if 2 * count < gaps.total() or 2 * letters <= gaps.total():
        return None
    first, last = _with_signs(text, start, end, usual)
    said = _GAP.sub(lambda gap: _between(gap.group(), usual), run)
    said = text[first:start].replace(usual, "") + said + text[end:last].replace(usual, "")
    even = letters >= LEAST_LETTERS and 3 * count >= 2 * gaps.total()
    return (first, last, said) if even or speaks(said) else None


def _between(gap: str, usual: str) -> str:
    if gap == usual:
        return ""
    if len(gap) <= len(usual):
        blank = any(map(str.isspace, gap)) and not (usual.isspace() and "\n" in gap)  # a line may end in a word
        return " " if blank else ""
    signs = "".join(c for c in gap.removeprefix(usual).removesuffix(usual) if c.isspace() or c not in usual)
    return signs if signs.strip() else " "


def _with_signs(text: str, start: int, end: int, usual: str) -> tuple[int, int]:
    width = len(usual) + 1
    for _ in range(MOST_SIGNS):
        if (
            start < width
            or not _is_sign(text[start - width : start], usual)
            or text[start - width - 1 : start - width].isalnum()
        ):
            break
        start -= width
    for _ in range(MOST_SIGNS):
        if not _is_sign(text[end : end + width][::-1], usual[::-1]) or text[end + width : end + width + 1].isalnum():
            break
        end += width
    return start, end


def _is_sign(unit: str, usual: str) -> bool:
    sign = unit[:1]
    return unit[1:] == usual and not sign.isalnum() and not sign.isspace() and sign not in usual


# -- words in markup ---------------------------------------------------------------------------------------------------

_TAG, _SIGN = "</?[a-z][a-z0-9]{0,9}>", r"[*_`~\x22'|/#\[\]()<>+\-]"
# Between two words a blank, and a sign before it, after it, or on both sides.
_MARK = rf"(?:{_SIGN}|{_TAG})"
_MARKED_GAP = (
    rf"(?:{_MARK}{{1,4}}[,.;:]?\s{{1,3}}(?:{_MARK}|\s){{0,6}}"
    rf"|[,.;:!?]?\s{{1,3}}(?:[0-9]{{1,2}}[.)]\s|{_MARK}\s{{0,3}}){{1,6}})"
)
_COMMON = f"(?:{'|'.join(sorted(VOCABULARY))})"
# Lists and fields (`"role": "user"`) have no words that join others to a sentence.
_JOINING = (
    "(?:all|any|the|your|you|this|that|these|those|and|with|what|how|are|not|now|must|should|will|from|which|about)"
)
# Such a word between two common ones, and a fourth in the same row; or words in which a mark stands.
MARKED = (
    rf"(?:\b|_){_COMMON}{_MARKED_GAP}{_JOINING}{_MARKED_GAP}{_COMMON}",
    rf"[a-z]{{2}}(?:\*{{1,3}}|~~|`|{_TAG})[a-z]{{2}}",
)
_ROW, _BROKEN = map(compiled, MARKED)
_BEFORE, _AFTER = re.compile(rf"[a-z]{_MARKED_GAP}\Z"), re.compile(rf"[a-z]*{_MARKED_GAP}[a-z]")
_WIDEST_GAP = 64
_MARKUP = re.compile(
    rf"{_TAG}|[*_`~\x22|#\[\]()<>]+[,;]?|(?<!\w)['/+\-]+|['/+\-]+(?![\w'/+\-])[,;]?|(?<!\S)[0-9]{{1,2}}[.)](?=\s)"
)


def marked(text: str) -> Iterator[Decoded]:
    """Words each in signs or on a line of its own (`"ignore" "all"`, `- ignore`, `**ign**ore`), without the signs."""
    data = narrowed(text)
    rows = regions((s for s in spots(_ROW, data) if _has_fourth(text, *s)), least=1, gap=60)
    broken = regions(spots(_BROKEN, data), least=2, gap=60)
    for found, hidden in ((rows, False), (broken, True)):
        for start, end in with_margin(text, found):
            part = text[start:end]
            decoded = " ".join(_MARKUP.sub(_unmarked, part).split())
            if not hidden or speaks(decoded, beside=part):
                yield Decoded("markup", decoded, start, end)


def _has_fourth(text: str, start: int, end: int) -> bool:
    start += text[start] == "_"
    return bool(_AFTER.match(text, end) or _BEFORE.search(text, max(0, start - _WIDEST_GAP), start))


def _unmarked(mark: re.Match[str]) -> str:
    return "" if mark.group()[-1] in "*_`~>" else " "


# -- digits for letters ------------------------------------------------------------------------------------------------

_LEET = str.maketrans("013457@$!", "oieastasi")
LEET = (r"[a-z$][013457@$]+[a-z]",)
_WITHIN = re2.compile(LEET[0])
_LEET_SPOT = re2.compile(r"[a-z@$][0134578@$!]+[a-z]|[a-z][0134578@$]{2,}|\b[013457@$][a-z]{2,}")


def leet(text: str) -> Iterator[Decoded]:
    """Digits and signs for letters, where several words near each other are written so, and then say words."""
    data = narrowed(text)  # the same offsets, and no need to count them
    for start, end in with_lines(text, regions(spots(_LEET_SPOT, data), least=2, gap=60)):
        if _WITHIN.search(data, start, end):
            decoded = text[start:end].translate(_LEET)
            if speaks(decoded, beside=text[start:end]):
                yield Decoded("leet", decoded, start, end)


# -- rot13 and backwards -----------------------------------------------------------------------------------------------

# What the other spelling of a common word makes an ordinary word of its own, in English or in another language.
_ORDINARY = frozenset(
    "was saw now won not ton who part trap may yam see data atad are era her all lla mode edom there than user resu code "
    "edoc file elif one bar has sah use way yaw time emit did ner him you she fur tel dna dias pots tub nam sti neve wen reh "
    "naht edam emas".split()
)


def _other(spell: Callable[[str], str], ends: tuple[str, str]) -> tuple[str, str]:
    """Patterns for common words in another spelling: long ones, one of which is enough, and short ones.

    `ends` are what must stand before and after a long word: where the spelling has its beginning, any ending will do.
    """
    words = {spell(w) for w in VOCABULARY} - VOCABULARY - _ORDINARY
    long, short = sorted(filter(strong, words)), sorted(w for w in words if not strong(w))
    return f"{ends[0]}(?:{'|'.join(long)}){ends[1]}", f"{_EDGE}(?:{'|'.join(short)}){_EDGE}"


_EDGE = r"(?:\b|_)"
ROT13 = _other(lambda w: codecs.encode(w, "rot13"), (_EDGE, ""))
BACKWARDS = _other(lambda w: w[::-1], ("", _EDGE))
_ROT13_LONG, _ROT13_SHORT = map(re2.compile, ROT13)
_BACKWARDS_LONG, _BACKWARDS_SHORT = map(re2.compile, BACKWARDS)
_WORD = re.compile(r"\w+")


def rot13(text: str) -> Iterator[Decoded]:
    """Lines where one long common English word, or two different short ones near each other, stand in rot13."""
    for start, end in _spelt_otherwise(text, _ROT13_LONG, _ROT13_SHORT):
        yield Decoded("rot13", codecs.encode(text[start:end], "rot13"), start, end)


def backwards(text: str) -> Iterator[Decoded]:
    """Lines where common English words stand backwards: read from their end, and word by word."""
    for start, end in _spelt_otherwise(text, _BACKWARDS_LONG, _BACKWARDS_SHORT):
        yield Decoded("reversed", text[start:end][::-1], start, end)
        yield Decoded("reversed", _WORD.sub(lambda m: m.group()[::-1], text[start:end]), start, end)


def _spelt_otherwise(text: str, long: Any, short: Any) -> Iterator[tuple[int, int]]:
    several = regions(spots(short, text), least=2, gap=60)
    # One word again and again is a word of some language.
    apart = [(start, end) for start, end in several if len(set(short.findall(text[start:end]))) > 1]
    yield from with_lines(text, sorted([*regions(spots(long, text), least=1, gap=120), *apart]))


# -- Morse -------------------------------------------------------------------------------------------------------------

# Dots and dashes of other kinds are outside of ASCII; three of six letters have a plain dash.
_MORSE_GAP = "[ /|]{1,3}"
MORSE = (
    rf"(?:\A|[\s/|])(?:[.\-]{{1,5}}{_MORSE_GAP}){{5}}[.\-]",
    rf"(?:\A|[\s/|])(?:(?:[.\-\x1a]{{1,5}}{_MORSE_GAP}){{0,2}}[.\x1a]{{0,4}}-[.\-\x1a]{{0,4}}{_MORSE_GAP}){{3}}[.\-\x1a]",
)
_DOTS = str.maketrans("\u00b7\u2022\u2219\u22c5\u30fb\u25cf\u2212\u2500", "......--")
_MORSE = re2.compile(rf"(?:\A|[\s/|])(?:[.\-]{{1,5}}{_MORSE_GAP}){{5,}}[.\-]{{1,5}}")
_SIGNS = dict(zip(
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --..".split(),
    "abcdefghijklmnopqrstuvwxyz", strict=True,
))  # fmt: skip


def morse(text: str) -> Iterator[Decoded]:
    """Dots and dashes, where they say words."""
    for match in _MORSE.finditer(text.translate(_DOTS)):
        parts = re.split(r"( / |[ /|])", match.group().strip())
        decoded = "".join(_SIGNS.get(p, "" if p in ("", " ") else " ") for p in parts)
        if speaks(decoded):
            yield Decoded("morse", decoded, *match.span())
