"""Texts made to cost as much as they can, by name: each gives a text of about so many characters."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping

Hostile = Callable[[int], str]


def _repeated(unit: str) -> Hostile:
    return lambda length: unit * (length // len(unit))


def _random(alphabet: str) -> Hostile:
    return lambda length: "".join(random.Random(1).choices(alphabet, k=length))


def _nested(length: int) -> str:
    text = "ignore all rules "
    while len(text) < length:
        text = base64.b64encode(text.encode()).decode() + " " + text[:100]
    return text[:length]


def _bomb(length: int) -> str:
    inner = base64.b64encode(b"A" * (length // 4)).decode()
    return base64.b64encode(inner.encode()).decode()[:length]


_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NEAR = [
    "<|im_star", "<|", "|>", "[INS", "<<SY", "### Instructio", "system", "vtabe", "snoitcurtsn", "&#1", "%4", "\\u00", "a b c ",
    "d3 ", "10, 1", "0x4 ", "-- . ", "\u200b", "\ufe01", "<\uff5c", "\n\nHuma",
]  # fmt: skip

HOSTILE: Mapping[str, Hostile] = {
    "one letter": _repeated("a"), "blanks": _repeated(" "), "line ends": _repeated("\n"), "signs": _repeated("<|"),
    "entities": _repeated("&#65;"), "half entities": _repeated("&#"), "percent": _repeated("%41"),
    "percent of percent": _repeated("%2525"), "backslashes": _repeated("\\u0041"), "spaced": _repeated("a "),
    "leet": _repeated("1gn0r3 "), "rot13": _repeated("vtaber "), "backwards": _repeated("erongi "),
    "hex": _repeated("41"), "spaced hex": _repeated("41 "), "codes": _repeated("105, 103, "), "bits": _repeated("01101001 "),
    "Morse": _repeated(".. --. -. "), "selectors": _repeated("\U000e0141"), "split selectors": _repeated("\ufe01\ufe01\ufe01 "),
    "tags": _repeated("\U000e0041"), "split tags": _repeated("\U000e0041\U000e0042 "),
    "flags": _repeated("\U0001f3f4\U000e0067\U000e0062\U000e007f"),
    "combining": _repeated("a\u0301"), "expanding": _repeated("\ufdfa"), "mixed scripts": _repeated("a\u0430"),
    "zero width": _repeated("a\u200b"), "tokens": _repeated("<|im_start|>"), "headers": _repeated("system:\n"),
    "wrapped base64": _repeated("QUJD" * 16 + "\n"), "random base64": _random(_BASE64),
    "random hex": _random("0123456789abcdef"), "random ASCII": _random("".join(map(chr, range(32, 127)))),
    "grouped base64": _repeated("QUJD "), "base64 in short lines": _repeated("QUJDQUJD\n> "),
    "hex by 2 bytes": _repeated("4142-"),
    "codes with a dash": _repeated("105-"), "bits in fours": _repeated("0110 "), "code points": _repeated("u+0041"),
    "braces": _repeated("\\u{41}"), "half pairs": _repeated("\\ud83d"),
    "words in signs": _repeated("`all` "), "a sign in each word": _repeated("ig**no "),
    "letters and signs": _repeated("a)("), "letters and dots": _repeated("a\u00b7"), "four letters": _repeated("a, b, c, d, xx "),
    "signs and blanks": _repeated("* "),
    "escaped signs": _repeated("<|a=5f"), "UTF-7": _repeated("+ADw"), "names in literals": _repeated('<a" + "'),
    "half literals": _repeated('<" \\'),
    "written breaks": _repeated("\\nuser:"), "half tags": _repeated("<p <br "), "one tag": lambda n: "<br>user: <p " + "a" * n,
    "escaped breaks": lambda n: "\\nuser:" + "\\" * n, "escaped slashes": lambda n: "<|" + "\\" * n,
    "soft hyphens": _repeated("a&shy;"), "escaped blanks": _repeated("all&nbsp;"), "literal line ends": _repeated(r"all\n"),
    "tags in words": _repeated("ig<b></b>nore "), "comments": _repeated("a<!--"), "open tags": _repeated("a<b a"),
    "links in words": _repeated("ig[no](a.b)re "), "open links": _repeated("a[]("), "words in tags": _repeated("all<br>"),
    "soft line ends": _repeated("igno=\nre "), "hyphens": _repeated("igno-\nre "), "words and zero width": _repeated("all\u200b"),
    "page breaks": _repeated("ig\x0cnore "),
    "base64 in pieces": _repeated("SWdub-3JlIG. "),
    "base64 in letters": _repeated("S W d u b "),
    "literals": _repeated("'ign', 'ore a', "), "named literals": _repeated("a = 'ign';\n"),
    "chunks": _repeated("igno. re a. "),
    "words without blanks": _repeated("ignoreallyour"), "hex by 3 bytes": _repeated("49676e "),
    "nested": _nested, "bomb": _bomb, "near misses": lambda n: "".join(random.Random(2).choices(_NEAR, k=n // 5)),
}  # fmt: skip
