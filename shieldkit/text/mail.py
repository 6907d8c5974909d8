"""Encodings of mail: quoted-printable where few signs are escaped (RFC 2045), and UTF-7 (RFC 2152).

Escapes in a row are read with all others (`encodings.escapes`). One alone looks like `a=30` of an address or of settings, and
counts where it may be the sign of a control token.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

from shieldkit.text.folding import narrowed
from shieldkit.text.regions import MARGIN, Decoded, regions, spots, with_margin
from shieldkit.text.sieve import compiled

# Behind the sign no number in hex goes on: folded text has no capitals to tell one by.
QUOTED = (
    "=3c(?:=7c|[|/]|[a-z0-9]{0,2}[g-z_])",
    "=5b(?:[|/]|[a-z0-9]{0,2}[g-z_])",
    r"<(?:=7c|=2f|/?\|[a-z0-9_]{0,8}=[2-7][0-9a-f]|/?[a-z]{0,8}=(?:5f|3e))",
    r"\[(?:=7c|=2f|/?[a-z]{0,8}=(?:[4-7][0-9a-f][a-z=\]]|5d))",
)
_QUOTED = compiled("|".join(QUOTED))
_OCTET = re.compile("=(?:([2-7][0-9a-f])|\r?\n)")


def quoted(text: str) -> Iterator[Decoded]:
    """Single escapes in a control token: `=3C|im_start|=3E`."""
    for start, end in with_margin(text, regions(spots(_QUOTED, narrowed(text)), least=1, gap=2 * MARGIN)):
        decoded = _OCTET.sub(lambda octet: chr(int(octet[1], 16)) if octet[1] else "", text[start:end])
        yield Decoded("escapes", decoded, start, end)


# A printable character of ASCII in base64 of UTF-16, and the end, or another one.
UTF7 = (r"\+A[C-H][AEIMQUYcgkosw048][A-]",)
_RUN = compiled(r"\+A[C-H][AEIMQUYcgkosw048](?:-|A[A-Za-z0-9+/]*-?)")
_SHIFTED = re.compile(r"\+(?=A[C-H][AEIMQUYcgkosw048])([A-Za-z0-9+/]+)-?")  # a run of one class: linear


def utf7(text: str) -> Iterator[Decoded]:
    """Signs in UTF-7: `+ADw-|im_start|+AD4-`, where what comes out can be seen. In base64 of files it cannot."""
    for start, end in with_margin(text, regions(spots(_RUN, narrowed(text)), least=1, gap=2 * MARGIN)):
        decoded = _SHIFTED.sub(_unshifted, text[start:end])
        if decoded != text[start:end]:
            yield Decoded("utf7", decoded, start, end)


def _unshifted(match: re.Match[str]) -> str:
    run = match[1][: len(match[1]) - (len(match[1]) % 4 == 1)]
    octets = binascii.a2b_base64(run + "=" * (-len(run) % 4))
    said = octets[: len(octets) // 2 * 2].decode("utf-16-be", "replace")
    return said if all(c.isprintable() or c.isspace() for c in said) else match[0]
