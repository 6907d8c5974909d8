"""GGUF files made for tests: metadata alone, as the format's document describes it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, int):
        return struct.pack("<IQ", 10, value)
    assert isinstance(value, Sequence)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def write(path: Path, values: Mapping[str, object]) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(values))
    path.write_bytes(head + b"".join(_string(key) + _value(value) for key, value in values.items()))
    return path
