"""What a GGUF file says of itself, read with bounds: a file may be hostile, and its weights are not needed.

Follows https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Sizes are checked
before anything is read; arrays of numbers are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shieldkit.audit.located import Problem

MAX_KEYS, MAX_KEY_BYTES, MAX_STRING_BYTES = 20_000, 65_536, 8_000_000
MAX_ELEMENTS, MAX_TOTAL_BYTES = 2_000_000, 512_000_000

_SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _INT32 = 8, 9, 5
CONTROL, USER_DEFINED = 3, 4
"""`tokenizer.ggml.token_type`: a control token; a token of a user, which is found in any text."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The scalars and short lists of a file, and its tokens with their types (equal length, or no types)."""

    values: Mapping[str, str | int | float | bool]
    tokens: tuple[str, ...]
    token_types: tuple[int, ...]

    def text(self, key: str) -> str:
        """A string; empty where there is none."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """A whole number."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read(path: Path) -> Metadata:
    """Read the metadata of a file. Raises `Problem`."""
    try:
        with path.open("rb") as stream:
            return _Reader(stream).metadata()
    except OSError as error:
        raise Problem(f"cannot be read ({type(error).__name__})") from None


class _Reader:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = MAX_TOTAL_BYTES

    def metadata(self) -> Metadata:
        if self._bytes(4) != b"GGUF":
            raise Problem("is no GGUF file")
        version, _, keys = self._unpack("I"), self._unpack("Q"), self._unpack("Q")
        if version not in (2, 3):
            raise Problem("is GGUF of a version that is not known, or of another byte order")
        if keys > MAX_KEYS:
            raise Problem(f"says that it has more than {MAX_KEYS} keys")
        values: dict[str, str | int | float | bool] = {}
        tokens: tuple[str, ...] = ()
        types: tuple[int, ...] = ()
        for _ in range(keys):
            key, kind = self._string(MAX_KEY_BYTES), self._unpack("I")
            if kind == _ARRAY:
                found = self._array(keep=key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"))
                if key == "tokenizer.ggml.tokens":
                    tokens = tuple(t for t in found if isinstance(t, str))
                elif key == "tokenizer.ggml.token_type":
                    types = tuple(t for t in found if isinstance(t, int))
            else:
                values[key] = self._string(MAX_STRING_BYTES) if kind == _STRING else self._number(kind)
        return Metadata(values, tokens, types)

    def _array(self, *, keep: bool) -> list[str | int | float | bool]:
        kind, count = self._unpack("I"), self._unpack("Q")
        if count > MAX_ELEMENTS:
            raise Problem(f"has a list of more than {MAX_ELEMENTS} parts")
        if kind == _STRING:
            found: list[str | int | float | bool] = []
            for _ in range(count):
                text = self._string(MAX_STRING_BYTES)
                if keep:
                    found.append(text)
            return found
        if kind not in _SIZES:
            raise Problem("has a list of a kind that is not known")
        data = self._bytes(count * struct.calcsize("<" + _SIZES[kind]))
        return list(struct.unpack(f"<{count}{_SIZES[kind]}", data)) if keep and kind == _INT32 else []

    def _string(self, limit: int) -> str:
        length = self._unpack("Q")
        if length > limit:
            raise Problem(f"has a string of more than {limit} bytes")
        return self._bytes(length).decode("utf-8", errors="replace")

    def _number(self, kind: int) -> int | float | bool:
        if kind not in _SIZES:
            raise Problem("has a value of a kind that is not known")
        value: int | float | bool = struct.unpack("<" + _SIZES[kind], self._bytes(struct.calcsize("<" + _SIZES[kind])))[
            0
        ]
        return value

    def _unpack(self, letter: str) -> int:
        return int(struct.unpack("<" + letter, self._bytes(struct.calcsize("<" + letter)))[0])

    def _bytes(self, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise Problem(f"has more than {MAX_TOTAL_BYTES} bytes of metadata")
        data = self._stream.read(count)
        if len(data) < count:
            raise Problem("ends before its metadata does")
        return data
