"""String literals put together as program text does it, with an operator or side by side: `"<|im_" + "start|>"`.

Code is full of them. They are read where a name in angle or square brackets goes over the seam.
"""

from __future__ import annotations

from collections.abc import Iterator

import re2

from shieldkit.text.folding import narrowed
from shieldkit.text.regions import MARGIN, Decoded, regions, spots, with_margin
from shieldkit.text.sieve import compiled

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


JOINED = _joined("*")  # counted repeats make the sieve explode
_SEAM = re2.compile(f"{_seam(_MOST)}|{_QUOTE}{_QUOTE}")
_SPOT = compiled(f"(?:{'|'.join(_joined(_MOST))})(?:{_WITHIN}{{0,16}}{_seam(_MOST)})*")
BEGUN = rf"[<\[]{_WITHIN}{_MOST}(?:{_QUOTE}[\s\\()]{_MOST}(?:{_OPERATOR}[\s\\()]{_MOST})?[rbuf]?\\?)?"
"""What may be the beginning of one at the end of a text."""


def joined(text: str) -> Iterator[Decoded]:
    """Literals without the seams between them."""
    for start, end in with_margin(text, regions(spots(_SPOT, narrowed(text)), least=1, gap=2 * MARGIN)):
        yield Decoded("joined", _SEAM.sub("", text[start:end]), start, end)
