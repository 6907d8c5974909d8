"""Corpora and haystacks are input: read strictly, bounded, and told by file and line what is wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldkit.conversation import Role
from shieldkit.errors import ConfigurationError
from shieldkit.evaluation import read, read_haystack, sample
from shieldkit.evaluation.cases import Case
from shieldkit.evaluation.corpus import Bounded, magnitude

ROW = {"id": "a", "text": "Hello", "label": "benign", "kind": "chat", "source": "mine", "role": "document"}


def line(**changes: object) -> bytes:
    return json.dumps(ROW | changes).encode() + b"\n"


def test_rows_of_files_folders_and_gzip_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(
        line(id="2") + b"\n  \n" + b'{"id": 3, "text": "x", "label": "benign", "source": "mine"}'
    )
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line(id="1", label="attack", marker="Zork")))
    (tmp_path / "notes.txt").write_bytes(b"not a corpus")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "x", "label": "attack"}')
    cases = list(read([tmp_path], role="tool"))
    assert [(c.id, c.attack, c.messages[0].role) for c in cases] == [
        ("1", True, Role.DOCUMENT), ("2", False, Role.DOCUMENT), ("3", False, Role.TOOL), ("1", True, Role.TOOL),
    ]  # fmt: skip
    assert (cases[0].marker, cases[0].facets["kind"], cases[3].facets["kind"]) == ("Zork", "chat", "c")


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (b"{", "not JSON"),
        (line(label="bad"), "label is missing, or neither 'attack' nor 'benign'"),
        (line(text=5), "text is missing or not a string"),
        (line(role="root"), "role is not one of"),
        (line(role=None), "role is not one of"),
        (line(kind=["x"]), "kind is not a string"),
        (line(source="s" * 101), "source is not a string of up to 100"),
        (line(id={}), "id is not a string or a number"),
        (b'{"text": "a", "text": "b", "label": "attack"}', "a key occurs twice"),
        (line(text="x" * 200), "the line is too long"),
    ],
)
def test_an_error_names_file_line_and_mend_and_never_quotes(tmp_path: Path, broken: bytes, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line() + b"\n" + broken)
    with pytest.raises(ConfigurationError) as caught:
        list(read([path], limit_bytes=250))
    message = str(caught.value)
    assert message.startswith(f"{path}:3: {problem}")
    assert "A row is" in message
    assert "xxxx" not in message and "ssss" not in message


def test_names_can_be_written_again_whatever_they_hold(tmp_path: Path) -> None:
    half = "half \ud83d"
    (tmp_path / "a.jsonl").write_bytes(line(id=half, kind=half, source=half, marker=half))
    (case,) = read([tmp_path])
    assert {case.id, case.facets["kind"], case.facets["source"], case.marker} == {"half \ufffd"}
    unnamed = tmp_path / os.fsdecode(b"b\xff.jsonl")
    unnamed.write_bytes(b'{"text": "x", "label": "attack"}')
    (case,) = read([unnamed])
    assert case.facets["kind"] == "b\ufffd"


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz"])
def test_what_cannot_be_read_is_a_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        list(read([tmp_path / name]))
    with pytest.raises(ConfigurationError, match=r"no \.jsonl or"):
        list(read([tmp_path]))


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(line() * 50)[:-20]])
def test_a_broken_gzip_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    with pytest.raises(ConfigurationError, match="Is it whole"):
        list(read([tmp_path]))


def test_a_file_that_unpacks_to_too_much_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 10_000_000))
    with gzip.open(path) as file, pytest.raises(ConfigurationError, match="larger than 100000 bytes"):
        bounded = Bounded(path, file, 100_000)  # type: ignore[arg-type]
        while bounded.read(4096):
            pass


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 5))
def test_a_sample_is_of_the_size_asked_for_in_order_and_repeatable(total: int, size: int, seed: int) -> None:
    cases = [Case(str(n), (), False) for n in range(total)]
    drawn = sample(iter(cases), size, seed)
    assert len(drawn) == min(size, total)
    assert [int(c.id) for c in drawn] == sorted({int(c.id) for c in drawn})
    assert drawn == sample(iter(cases), size, seed)


def test_lengths_are_grouped_by_magnitude() -> None:
    assert [magnitude(n) for n in (0, 100, 101, 10_000, 5_000_000)] == [
        "to 100", "to 100", "to 500", "to 10,000", "over 100,000",
    ]  # fmt: skip


def test_a_haystack_is_the_text_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("één")
    (tmp_path / "b.md.gz").write_bytes(gzip.compress(b"two"))
    assert read_haystack([tmp_path]) == "één\ntwo"
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        read_haystack([tmp_path])
    (tmp_path / "d.txt").write_text("  ")
    with pytest.raises(ConfigurationError, match="holds no text"):
        read_haystack([tmp_path / "d.txt"])
