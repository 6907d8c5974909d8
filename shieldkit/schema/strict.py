"""Text to one JSON value, by RFC 8259 and stricter where the RFC lets readers differ.

Parsers that disagree about the same bytes are how a checked answer becomes another one downstream. So: one value and
nothing after it, no key twice, no NaN or Infinity, no lone surrogates, and limits on size, depth and digits that hold
before the parser does any work. Everything is linear in the size of the text.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from shieldkit.errors import ShieldError

# A whole string (or one that does not end), or a bracket outside of strings.
# There is one way only to match it, so the standard engine is linear here too.
_PART = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_bytes` of UTF-8, `max_depth` of nested brackets, `max_number_digits` of one number."""

    max_bytes: int = 1_000_000
    max_depth: int = 64
    max_number_digits: int = 400


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong, and where. `rule` is the guard's rule, `pointer` a JSON pointer, `kind` the schema keyword broken.

    Keys that the schema does not name are written `*`: they are the model's words, and do not belong into logs.
    """

    rule: str
    pointer: str = ""
    kind: str = ""
    at: int = 0


class NotConforming(ShieldError):
    """The text does not pass; `violations` says why, without quoting it."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__(", ".join(f"{v.rule} {v.kind}".strip() for v in violations))
        self.violations = violations


def parse(text: str, limits: Limits) -> Any:
    """The one JSON value that `text` is. Raises `NotConforming`."""
    if len(text) > limits.max_bytes or len(text.encode("utf-8", "surrogatepass")) > limits.max_bytes:
        raise NotConforming(Violation("too_large", kind="max_bytes"))
    _check_depth(text, limits.max_depth)
    reader = _Reader(limits)
    try:
        value, end = reader.decoder.raw_decode(text, len(text) - len(text.lstrip(" \t\r\n")))
    except json.JSONDecodeError as error:
        raise NotConforming(Violation("not_json", at=min(error.pos, len(text)))) from None
    except RecursionError:
        raise NotConforming(Violation("too_deep", kind="max_depth")) from None
    if text[end:].strip(" \t\r\n"):
        raise NotConforming(Violation("trailing_text", at=end))
    if "\\u" in text or not text.isascii():
        _check_surrogates(value)
    return value


class _Reader:
    """The standard library's decoder, with its leniencies taken away."""

    def __init__(self, limits: Limits) -> None:
        self._digits = limits.max_number_digits
        self.decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_int=self._integer,
            parse_float=self._float,
            strict=True,
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise NotConforming(Violation("duplicate_key"))
        return found

    def _constant(self, _: str) -> NoReturn:
        raise NotConforming(Violation("number", kind="finite"))

    def _integer(self, text: str) -> int:
        if len(text) > self._digits:
            raise NotConforming(Violation("number", kind="max_number_digits"))
        return int(text)

    def _float(self, text: str) -> float:
        value = float(text) if len(text) <= self._digits else math.inf
        if not math.isfinite(value):
            raise NotConforming(Violation("number", kind="finite"))
        return value


def _check_depth(text: str, most: int) -> None:
    """Count brackets outside strings, before any recursive work."""
    if text.count("[") + text.count("{") <= most:
        return
    depth = 0
    for match in _PART.finditer(text):
        part = match.group()
        if part in "[{":
            depth += 1
            if depth > most:
                raise NotConforming(Violation("too_deep", kind="max_depth", at=match.start()))
        elif part in "]}":
            depth -= 1


def _check_surrogates(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                raise NotConforming(Violation("not_json", kind="surrogate")) from None
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list):
            stack += item
