"""JSON Lines as input from outside: lines of bounded size, read strictly, in errors that never quote them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Protocol

MAX_LINE_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**16


class Readable(Protocol):
    """Where bytes come from."""

    def read(self, size: int = -1, /) -> bytes | None:
        """Up to `size` bytes; none at the end."""
        ...


class BadRow(Exception):
    """A line that is not a row. The message says what is wrong and never quotes the line."""

    def __init__(self, problem: str, identifier: Any = None) -> None:
        super().__init__(problem)
        self.identifier = identifier


def lines(stream: Readable, limit_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a stream with their numbers, from 1. None stands for a line above the limit, which is not kept."""
    pieces: list[bytes] = []
    size, number = 0, 1
    for chunk in iter(lambda: stream.read(_CHUNK_BYTES) or b"", b""):
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            yield number, b"".join((*pieces, end)) if size + len(end) <= limit_bytes else None
            pieces, size, number = [], 0, number + 1
        size += len(rest)
        if size <= limit_bytes:
            pieces.append(rest)
        else:
            pieces = []
    if size:
        yield number, b"".join(pieces) if size <= limit_bytes else None


def record(line: bytes | None) -> dict[str, Any]:
    """A line as a JSON object. Raises `BadRow`."""
    if line is None:
        raise BadRow("the line is too long")
    try:
        row = json.loads(
            line.decode("utf-8-sig"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
        )
    except UnicodeDecodeError:
        raise BadRow("not UTF-8") from None
    except RecursionError:
        raise BadRow("nested too deep") from None
    except ValueError:  # also an integer with thousands of digits
        raise BadRow("not JSON") from None
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that has a key twice is two objects to two parsers: judged by one, used by the other."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadRow("a key occurs twice")
    return made


def _finite(number: str) -> float:
    """NaN, and what is too large for a float, could be read here and not be written again."""
    if not math.isfinite(value := float(number)):
        raise BadRow("not JSON")
    return value
