"""Ways to write a text so that a reader or a model still gets it, and a plain comparison does not.

Homoglyphs are of Unicode's confusables (UTS #39); tag characters and variation selectors carry bytes that no font shows.
"""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Mapping
from urllib.parse import quote

from shieldkit.text.folding import encodable

_HOMOGLYPHS = str.maketrans("aeiopcsxy", "аеіорсѕху")
_LEET = str.maketrans("aeiost", "431057")


def _octets(text: str) -> bytes:
    """UTF-8, also of a text with lone surrogates, as a row of JSON may have them."""
    return encodable(text).encode()


def _selectors(text: str) -> str:
    return "".join(chr(0xFE00 + b) if b < 16 else chr(0xE0100 + b - 16) for b in _octets(text))


DISGUISES: Mapping[str, Callable[[str], str]] = {
    "fullwidth": lambda s: "".join(chr(ord(c) + 0xFEE0) if 33 <= ord(c) <= 126 else c for c in s),
    "homoglyphs": lambda s: s.translate(_HOMOGLYPHS),
    "zero_width": "\u200b".join,
    "tag_characters": lambda s: "".join(chr(0xE0000 + ord(c)) if 32 <= ord(c) < 127 else c for c in s),
    "variation_selectors": _selectors,
    "html_entities": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "url_escapes": lambda s: "".join(f"%{ord(c):02x}" if c.isascii() else quote(_octets(c)) for c in s),
    "backslash_escapes": lambda s: "".join(f"\\u{ord(c):04x}" for c in s),
    "spaced": " ".join,
    "base64": lambda s: base64.b64encode(_octets(s)).decode(),
    "hex": lambda s: _octets(s).hex(),
    "rot13": lambda s: codecs.encode(s, "rot13"),
    "reversed": lambda s: s[::-1],
    "mathematical": lambda s: "".join(chr(0x1D41A + ord(c) - 97) if "a" <= c <= "z" else c for c in s),
    "case": str.swapcase,
    "leet": lambda s: s.translate(_LEET),
}  # fmt: skip
"""By name: a function from a text to its disguise. All are without chance: the same text, the same disguise."""
