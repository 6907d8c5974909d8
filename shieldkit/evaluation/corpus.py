"""Corpora: JSON Lines of `{"id", "text", "label", "kind", "source", "role"?}`, plain or gzipped.

`label` is `attack` or `benign`. `kind` and `source` are free names to group by. `role` says whose text it is. `marker` is
optional: a word that only an answer which obeyed the attack holds. Other keys are ignored. A corpus is input: lines and
files are bounded, names are made such that they can be written again, and an error names the file, the line and the mend,
and never quotes.
"""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from shieldkit.conversation import Role, Segment
from shieldkit.errors import ConfigurationError
from shieldkit.evaluation.cases import Case
from shieldkit.jsonl import MAX_LINE_BYTES, BadRow, lines, record
from shieldkit.text.folding import encodable

MAX_FILE_BYTES = 4 * 2**30
"""Of a file, unpacked: a small gzip file can hold very much."""
_SUFFIXES = (".jsonl", ".jsonl.gz")
_LENGTHS = (100, 500, 2_000, 10_000, 100_000)
_NAME_CHARS = 100
_MEND = 'A row is {"id", "text", "label": "attack" or "benign", "kind", "source", "role"?}'


def files(paths: Iterable[str | Path], suffixes: tuple[str, ...] = _SUFFIXES) -> list[Path]:
    """The files named, and those in folders that are named, in order. Raises `ConfigurationError`."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.name.endswith(suffixes) and p.is_file())
        if not inside:
            raise ConfigurationError(str(path), f"no {' or '.join(suffixes)} in this folder", mend="Name another one")
        found += inside
    if not found:
        raise ConfigurationError("corpus", "no file is named", mend="Name files or a folder")
    return found


def open_bytes(path: Path) -> IO[bytes]:
    """A file, unpacked where its name ends in `.gz`. Raises `ConfigurationError`."""
    try:
        return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise ConfigurationError(str(path), f"cannot be read ({error.strerror})", mend="Name a file") from None


class Bounded:
    """A file that is read to its end in pieces, and not beyond a limit."""

    def __init__(self, path: Path, file: IO[bytes], limit_bytes: int) -> None:
        self._path, self._file, self._limit, self._read = path, file, limit_bytes, 0

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes. Raises `ConfigurationError`."""
        try:
            content = self._file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            problem = f"cannot be read ({type(error).__name__})"
            raise ConfigurationError(str(self._path), problem, mend="Is it whole?") from None
        self._read += len(content)
        if self._read > self._limit:
            problem = f"is larger than {self._limit} bytes, unpacked"
            raise ConfigurationError(str(self._path), problem, mend="Split it")
        return content


def read(
    paths: Iterable[str | Path], *, role: Role | str = Role.USER, limit_bytes: int = MAX_LINE_BYTES
) -> Iterator[Case]:
    """The rows of files and folders as cases, in order. `role` holds where a row does not say whose text it is.

    Facets: `kind`, `source`, `role`, and `length` (in characters, by magnitude). Raises `ConfigurationError` with the file
    and the line.
    """
    for path in files(paths):
        with open_bytes(path) as file:
            for number, line in lines(Bounded(path, file, MAX_FILE_BYTES), limit_bytes):
                if line is None or line.strip():
                    try:
                        yield _case(line, path, number, Role(role))
                    except BadRow as bad:
                        raise ConfigurationError(f"{path}:{number}", str(bad), mend=_MEND) from None


def sample(cases: Iterable[Case], size: int, seed: int = 0) -> list[Case]:
    """`size` cases drawn evenly (Vitter's algorithm R), in their order; all of them where there are fewer."""
    generator = random.Random(seed)  # noqa: S311 - to draw rows, not secrets
    kept: list[tuple[int, Case]] = []
    for number, case in enumerate(cases):
        if number < size:
            kept.append((number, case))
        elif (place := generator.randrange(number + 1)) < size:
            kept[place] = (number, case)
    return [case for _, case in sorted(kept, key=lambda pair: pair[0])]


def _case(line: bytes | None, path: Path, number: int, default_role: Role) -> Case:
    row = record(line)
    text, label, identifier = row.get("text"), row.get("label"), row.get("id", number)
    if not isinstance(text, str):
        raise BadRow("text is missing or not a string")
    if label not in ("attack", "benign"):
        raise BadRow("label is missing, or neither 'attack' nor 'benign'")
    if isinstance(identifier, dict | list):
        raise BadRow("id is not a string or a number")
    try:
        role = Role(row.get("role", default_role))
    except ValueError:
        raise BadRow(f"role is not one of {', '.join(Role)}") from None
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    facets = {"kind": _named(row, "kind", stem), "source": _named(row, "source", stem), "role": role.value,
              "length": magnitude(len(text))}  # fmt: skip
    return Case(encodable(str(identifier)[:_NAME_CHARS]), (Segment(text, role),), label == "attack", facets,
                marker=_named(row, "marker", ""))  # fmt: skip


def _named(row: dict[str, object], key: str, default: str) -> str:
    value = row.get(key)
    if value is None:
        return encodable(default)  # names of files may hold bytes that are no text
    if not isinstance(value, str) or len(value) > _NAME_CHARS:
        raise BadRow(f"{key} is not a string of up to {_NAME_CHARS} characters")
    return encodable(value)


def magnitude(characters: int) -> str:
    """Which group of lengths a text is in, by its characters."""
    for most in _LENGTHS:
        if characters <= most:
            return f"to {most:,}"
    return f"over {_LENGTHS[-1]:,}"
