"""String literals put together as program text does it: with an operator, side by side, in a list, or each under a name.

Code is full of them. They are read where a name in angle or square brackets goes over the seam (`"<|im_" + "start|>"`), and
where together they say words that they do not say by themselves (`"Ign", "ore a", "ll"`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import re2

from shieldkit.text.folding import narrowed
from shieldkit.text.regions import MARGIN, Decoded, regions, spots, with_margin
from shieldkit.text.sieve import compiled
from shieldkit.text.unspaced import put_together

# -- a name in brackets over the seam -----------------------------------------------------------------------------------

_QUOTE, _WITHIN = r"\\?[\x22'`]", r"[^\s\x22'`<>\[\]\\]"
_OPERATOR = r"(?:\+\+?|\.\.?|&|\|\||<>|~)"
_MOST = "{0,24}"
"""Characters of a name before the seam, and blanks on each side of the operator."""


def _seam(most: str) -> str:
    """The end of a literal and the beginning of the next, with a blank or an operator between them."""
    blank = rf"[\s\\()]{most}"
    return rf"{_QUOTE}(?:[\s\\()]{blank}|{blank}{_OPERATOR}{blank})[rbuf]?{_QUOTE}"


def _joined(most: str) -> tuple[str, ...]:
    return (
        rf"[<\[]{_WITHIN}{most}{_seam(most)}[a-z0-9_|/]",
        rf"[<\[]{_WITHIN}{most}{_WITHIN}{_seam(most)}[>\]]",
        # In tables a quotation mark is doubled: `"[""a"", ""b""]"`.
        rf"[<\[]{_WITHIN}{most}[a-z_|]{_QUOTE}{_QUOTE}[a-z_|]",
    )


NAMES = _joined("*")  # counted repeats make the sieve explode
_SEAM = re2.compile(f"{_seam(_MOST)}|{_QUOTE}{_QUOTE}")
_SPOT = compiled(f"(?:{'|'.join(_joined(_MOST))})(?:{_WITHIN}{{0,16}}{_seam(_MOST)})*")
NAMES_BEGUN = rf"[<\[]{_WITHIN}{_MOST}(?:{_QUOTE}[\s\\()]{_MOST}(?:{_OPERATOR}[\s\\()]{_MOST})?[rbuf]?\\?)?"
"""What may be the beginning of one at the end of a text."""


def names(text: str) -> Iterator[Decoded]:
    """Literals without the seams between them, where a name goes over one."""
    for start, end in with_margin(text, regions(spots(_SPOT, narrowed(text)), least=1, gap=2 * MARGIN)):
        yield Decoded("joined", _SEAM.sub("", text[start:end]), start, end)


# -- words over the seams ------------------------------------------------------------------------------------------------

_BESIDE = r"[\s,+.|&;\\]"
_NAME = r"[;\n]\s{0,8}(?:(?:let|var|const|my|string|str) )?[$a-z_][a-z_0-9]{0,11} {0,2}[+.]?= {0,2}"
# A literal that begins or ends with a blank beside another, or three that are short.
WORDS = (
    rf"[a-z][\x22']{_BESIDE}+[\x22'] [a-z]|[a-z] [\x22']{_BESIDE}+[\x22'][a-z]",
    rf"(?:[\x22'][a-z]{{1,4}}[\x22']{_BESIDE}+){{3}}",
    rf"[a-z] ?[\x22']{_BESIDE}*[;\n]\s*[a-z0-9_$ ]+[+.]?= ?[\x22'] ?[a-z]",
)
_BETWEEN = rf"(?:{_BESIDE}{{1,12}}|{_BESIDE}{{0,4}}{_NAME})"
MOST_IN_ONE = 40
_LITERAL = {quote: f"{quote}[^{quote}\n]{{0,{MOST_IN_ONE}}}{quote}" for quote in ("\\x22", "'")}
_SEVERAL = compiled("|".join(f"{literal}(?:{_BETWEEN}{literal}){{3,}}" for literal in _LITERAL.values()))
_BETWEEN_QUOTES = {quote: re.compile(f"{quote}{_BETWEEN}{quote}") for quote in "\"'"}
WORDS_BEGUN = "|".join(
    rf"(?:{literal}{_BETWEEN})*(?:{quote}[^{quote}\n]{{0,{MOST_IN_ONE}}}{quote}?)?"
    rf"(?:{_BESIDE}{{0,16}}[a-z$_]{{0,6}} ?[$a-z_]?[a-z_0-9]{{0,11}} {{0,2}}[+.]?=? {{0,2}})"
    for quote, literal in _LITERAL.items()
)


def words(text: str) -> Iterator[Decoded]:
    """String literals side by side, in a list, added up, or each under a name (`"Ign", "ore a", "ll"`), as the one they make."""
    for match in _SEVERAL.finditer(narrowed(text)):
        start, end = match.span()
        part = text[start:end]
        yield from put_together(_BETWEEN_QUOTES[part[0]].sub("", part)[1:-1], part, start, end)
