"""Lines in, verdicts out, in order: how `screen --jsonl` reads and writes.

One thread reads and parses, some threads judge, the main thread writes. A row is written as soon as all before it are,
without waiting for further input, so that a program can talk with the command line by line. Memory is bounded by the
rows and the bytes under way; when either is used up, reading waits.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, BinaryIO

from shieldkit.conversation import Role
from shieldkit.jsonl import MAX_LINE_BYTES, BadRow, lines, record
from shieldkit.workers import Workers

_BYTES_UNDER_WAY = 64 * 2**20
_ROWS_UNDER_WAY = 256


@dataclass(frozen=True, slots=True)
class Row:
    """A text to judge. `id` is a JSON scalar, handed back as it came; None when there is none."""

    id: Any
    text: str
    role: Role


def parse(line: bytes | None, default_role: Role) -> Row:
    """Read one line. Raises `BadRow`."""
    row = record(line)
    identifier = row.get("id")
    if isinstance(identifier, dict | list | bool):
        raise BadRow("id is not a string or a number")
    text = row.get("text")
    if not isinstance(text, str):
        raise BadRow("text is missing or not a string", identifier)
    try:
        role = Role(row.get("role", default_role))
    except ValueError:
        raise BadRow(f"role is not one of {', '.join(Role)}", identifier) from None
    return Row(identifier, text, role)


class _Allowance:
    """Bytes under way. `take` waits until there is room; something larger than all of it passes when alone."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._condition = threading.Condition()

    def take(self, size: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size

    def give(self, size: int) -> None:
        with self._condition:
            self._used -= size
            self._condition.notify_all()


@dataclass(frozen=True, slots=True)
class _Pending:
    line: int
    size: int
    id: Any
    result: Future[dict[str, Any]]


def judged(
    stream: BinaryIO,
    judge: Callable[[Row], dict[str, Any]],
    *,
    default_role: Role,
    jobs: int,
    limit_bytes: int = MAX_LINE_BYTES,
) -> Iterator[dict[str, Any]]:
    """A verdict for each line that is not blank, in order; for a line that has none, `{"id", "line", "error"}`.

    `judge` runs in up to `jobs` threads. What it raises becomes that row's error, by the name of its type alone.
    """
    reader = _Reader(judge, default_role, Workers("row", max_threads=jobs))
    source = lines(stream, limit_bytes)
    threading.Thread(target=reader.run, args=(source,), name="shieldkit-read", daemon=True).start()
    try:
        while (item := reader.pending.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield _verdict(item)
            reader.allowance.give(item.size)
    finally:
        reader.stop()


class _Reader:
    """Reads and parses lines, hands them to the workers, and keeps the order in `pending`; None ends it."""

    def __init__(self, judge: Callable[[Row], dict[str, Any]], default_role: Role, workers: Workers) -> None:
        self._judge = judge
        self._default_role = default_role
        self._workers = workers
        self._stopped = threading.Event()
        self.pending: queue.Queue[_Pending | Exception | None] = queue.Queue(_ROWS_UNDER_WAY)
        self.allowance = _Allowance(_BYTES_UNDER_WAY)

    def run(self, source: Iterator[tuple[int, bytes | None]]) -> None:
        last: Exception | None = None
        try:
            for number, line in source:
                if self._stopped.is_set():
                    break
                if line is None or line.strip():
                    self.pending.put(self._begin(number, line))
        except Exception as error:
            last = error
        self.pending.put(last)

    def _begin(self, number: int, line: bytes | None) -> _Pending:
        size = len(line or b"")
        self.allowance.take(size)
        try:
            row = parse(line, self._default_role)
            return _Pending(number, size, row.id, self._workers.submit(lambda: self._judge(row)))
        except BadRow as bad:
            failed: Future[dict[str, Any]] = Future()
            failed.set_exception(bad)
            return _Pending(number, size, bad.identifier, failed)

    def stop(self) -> None:
        """Stop judging, and wake the thread that reads, should it wait for room."""
        self._stopped.set()
        self._workers.close()
        while not self.pending.empty():
            item = self.pending.get_nowait()
            if isinstance(item, _Pending):
                self.allowance.give(item.size)


def _verdict(item: _Pending) -> dict[str, Any]:
    try:
        return {"id": item.id, **item.result.result()}
    except BadRow as bad:
        problem = str(bad)
    except Exception as error:
        problem = f"could not be judged ({type(error).__name__})"
    return {"id": item.id, "line": item.line, "error": problem}
