"""Long text to bury attacks in: files of one's own, read once and cut to length."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shieldkit.errors import ConfigurationError
from shieldkit.evaluation.corpus import Bounded, files, open_bytes

CHARS_A_TOKEN = 4.5
"""Lengths are given in tokens, and cut in characters: English prose has about 4.5 in a token of today's vocabularies."""
MAX_BYTES = 2**30
_SUFFIXES = (".txt", ".md", ".rst", ".csv", ".py", ".txt.gz", ".md.gz")


def read_haystack(paths: Iterable[str | Path], field: str = "haystack") -> str:
    """The text of the files (UTF-8, plain or `.gz`), and of the text files in folders, one after the other.

    `field` is what an error calls them. Raises `ConfigurationError`.
    """
    parts: list[str] = []
    left = MAX_BYTES
    for path in files(paths, _SUFFIXES):
        with open_bytes(path) as file:
            bounded = Bounded(path, file, left)
            content = b"".join(iter(lambda bounded=bounded: bounded.read(2**20), b""))  # type: ignore[misc]
        left -= len(content)
        try:
            parts.append(content.decode("utf-8"))
        except UnicodeDecodeError:
            raise ConfigurationError(str(path), "is not UTF-8 text", mend="Save it as UTF-8") from None
    text = "\n".join(parts)
    if not text.strip():
        raise ConfigurationError(field, "holds no text", mend="Name files with text")
    return text


def cut(text: str, characters: int, start: int = 0) -> str:
    """`characters` of `text` from the line after `start` on; from its start again, as often as it takes, where it ends."""
    if not text:
        raise ValueError("an empty text cannot be cut to length")
    start %= len(text)
    begin = text.find("\n", start) + 1 if start else 0
    made = text[begin : begin + characters]
    missing = characters - len(made)
    if missing <= 0:
        return made
    whole, rest = divmod(missing, len(text))
    return made + text * whole + text[:rest]
