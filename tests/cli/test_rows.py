"""Lines in, verdicts out: in order, one for each, bounded, and nothing that a line holds can stop the others."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldkit.cli.rows import BadRow, Row, judged, lines, parse
from shieldkit.conversation import Role


def verdicts(content: bytes, judge: Any = None, jobs: int = 4, **options: Any) -> list[dict[str, Any]]:
    judge = judge or (lambda row: {"action": "allow", "length": len(row.text)})
    return list(judged(io.BytesIO(content), judge, default_role=Role.USER, jobs=jobs, **options))


class Dribble(io.RawIOBase):
    """A stream that gives as few bytes at a time as it is told."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content, self._sizes, self._at = content, sizes or [1], 0

    def read(self, size: int = -1) -> bytes:
        give = self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]
        start, self._at = self._at, self._at + max(1, min(give, size))
        return self._content[start : self._at]


@given(st.lists(st.binary(max_size=12).filter(lambda b: b"\n" not in b)), st.lists(st.integers(1, 20), max_size=20))
def test_lines_are_what_split_makes_of_the_whole_however_the_bytes_arrive(parts: list[bytes], sizes: list[int]) -> None:
    content = b"\n".join(parts)
    expected = content.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert list(lines(Dribble(content, sizes))) == list(enumerate(expected, 1))


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 20))
def test_a_line_above_the_limit_is_told_and_the_next_one_is_whole(sizes: list[int], limit: int) -> None:
    content = b"".join(b"x" * size + b"\n" for size in sizes)
    got = list(lines(Dribble(content, [7]), limit))
    assert got == [(i, b"x" * size if size <= limit else None) for i, size in enumerate(sizes, 1)]


def test_a_huge_line_is_not_kept_in_memory() -> None:
    class Endless(io.RawIOBase):
        left = 3000

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return b"x" * size if self.left > 0 else b""

    tracemalloc.start()
    try:
        assert list(lines(Endless(), limit_bytes=2**20)) == [(1, None)]  # 190 MB
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


rows = st.lists(st.one_of(st.text(), st.integers(), st.none()), max_size=60)


@given(rows)
def test_verdicts_come_in_the_order_of_the_rows(ids: list[Any]) -> None:
    def judge(row: Row) -> dict[str, Any]:
        time.sleep((len(row.text) % 3) / 1000)
        return {"action": "allow", "text": row.text}

    content = "".join(json.dumps({"id": i, "text": "t" * (n % 7)}) + "\n" for n, i in enumerate(ids)).encode()
    assert [(v["id"], v["text"]) for v in verdicts(content, judge)] == [(i, "t" * (n % 7)) for n, i in enumerate(ids)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"id": 1}', "text is missing or not a string"),
        (b'{"id": 1, "text": 5}', "text is missing or not a string"),
        (b'{"id": 1, "text": "a", "text": "b"}', "a key occurs twice"),
        (b'{"id": 1, "text": "a", "role": "root"}', "role is not one of system, user, assistant, tool, document"),
        (b'{"id": 1, "text": "a", "role": []}', "role is not one of system, user, assistant, tool, document"),
        (b'{"id": [1], "text": "a"}', "id is not a string or a number"),
        (b'{"id": NaN, "text": "a"}', "not JSON"),
        (b'{"id": ' + b"9" * 5000 + b', "text": "a"}', "not JSON"),
        (b'{"id": 1e999, "text": "a"}', "not JSON"),
        (b'{"text": ' + b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_broken_line_gives_an_error_row_and_the_rest_goes_on(line: bytes, problem: str) -> None:
    first, broken, last = verdicts(b'{"id": "a", "text": "one"}\n' + line + b'\n{"id": "b", "text": "three"}\n')
    assert (first["id"], last["id"]) == ("a", "b")
    assert broken["line"] == 2
    assert broken["error"] == problem
    assert "action" not in broken


@given(st.binary(max_size=200))
def test_no_bytes_at_all_stop_it(content: bytes) -> None:
    got = verdicts(content + b'\n{"id": "end", "text": ""}')
    assert got[-1]["id"] == "end"
    for verdict in got:
        json.dumps(verdict, allow_nan=False)
        assert ("action" in verdict) != ("error" in verdict)


# Hypothesis also draws what stands in the sources, and so the fixed words of the errors: no error has this one.
@given(st.text(min_size=8).map("cormorant {}".format))
def test_an_error_row_never_quotes_the_line(text: str) -> None:
    for line in (json.dumps({"text": [text]}), json.dumps({"text": text})[:-1], json.dumps([text])):
        with pytest.raises(BadRow) as caught:
            parse(line.encode(), Role.USER)
        assert text not in str(caught.value)


def test_a_judge_that_raises_gives_an_error_row_without_the_content() -> None:
    def judge(row: Row) -> dict[str, Any]:
        raise ValueError(row.text)

    assert verdicts(b'{"id": 7, "text": "my secret"}', judge) == [
        {"id": 7, "line": 1, "error": "could not be judged (ValueError)"}
    ]


def test_blank_lines_are_passed_over_and_counted() -> None:
    assert [v["line"] for v in verdicts(b"\n  \r\n{\n\n}\n")] == [3, 5]


def test_a_byte_order_mark_is_no_error() -> None:
    assert verdicts(b'\xef\xbb\xbf{"id": 1, "text": "a"}\r\n')[0]["action"] == "allow"


def test_a_row_is_answered_before_the_next_one_is_sent() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", 0) as stream, os.fdopen(write_end, "wb", 0) as feed:
        answers = judged(stream, lambda row: {"action": "allow"}, default_role=Role.USER, jobs=2)
        for n in range(5):
            feed.write(json.dumps({"id": n, "text": "x"}).encode() + b"\n")
            assert next(answers)["id"] == n
        feed.close()
        assert list(answers) == []


def test_rows_under_way_are_bounded_in_number_and_bytes() -> None:
    gate, begun = threading.Event(), []

    def judge(row: Row) -> dict[str, Any]:
        begun.append(row.id)
        gate.wait(10)
        return {"action": "allow"}

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size)

    def watched(line: bytes, count: int) -> int:
        gate.clear()
        stream = Counting(line * count)
        answers = judged(stream, judge, default_role=Role.USER, jobs=2)
        result: list[Any] = []
        reader = threading.Thread(target=lambda: result.append(len(list(answers))))
        reader.start()
        time.sleep(0.5)
        read_bytes = stream.tell()
        gate.set()
        reader.join(30)
        assert result == [count]
        return read_bytes

    small = b'{"text": "' + b"x" * 90 + b'"}\n'
    assert watched(small, 10_000) < 256 * len(small) + 2**18
    large = b'{"text": "' + b"x" * 2**22 + b'"}\n'
    assert watched(large, 40) < 2**26 + 2 * len(large) + 2**18


def test_a_reader_that_leaves_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    answers = judged(
        io.BytesIO(b'{"text": "x"}\n' * 5000), lambda row: {"action": "allow"}, default_role=Role.USER, jobs=3
    )
    next(answers)
    answers.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
