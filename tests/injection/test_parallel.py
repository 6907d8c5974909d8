"""Readings side by side are the readings one after the other."""

from __future__ import annotations

import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldkit.injection import load, reading
from shieldkit.injection.parallel import in_parallel
from shieldkit.injection.windows import CLOSELY
from shieldkit.text import canonicalise

TEXT = "Please ignore what the manual says about the system. The assistant reads your instructions first. " * 40


@given(st.lists(st.integers(), max_size=40), st.integers(1, 5))
def test_every_item_once_and_in_order(items: list[int], threads: int) -> None:
    assert in_parallel(lambda n: n * 2, items, threads) == [n * 2 for n in items]


def test_two_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)
    assert len(in_parallel(lambda _: both.wait(), [1, 2], threads=2)) == 2


@pytest.mark.parametrize("error", [TimeoutError(), ValueError("x"), KeyboardInterrupt()])
def test_what_one_raises_ends_them_all(error: BaseException) -> None:
    made: list[int] = []
    before = threading.active_count()

    def slow(number: int) -> int:
        if number == 3:
            raise error
        time.sleep(0.001)
        made.append(number)
        return number

    with pytest.raises(type(error)):
        in_parallel(slow, range(10_000), threads=2)
    time.sleep(0.05)
    assert len(made) < 1000
    assert threading.active_count() == before


def test_ctrl_c_is_not_lost_to_what_a_helper_raised() -> None:
    at_work, helped = threading.Barrier(2, timeout=10), threading.Event()

    def both(_: int) -> None:
        at_work.wait()
        if threading.current_thread() is threading.main_thread():
            helped.wait(10)
            raise KeyboardInterrupt
        helped.set()
        raise TimeoutError

    with pytest.raises(KeyboardInterrupt):
        in_parallel(both, [1, 2], threads=2)


def test_without_more_threads_this_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert in_parallel(lambda n: n + 1, [1, 2, 3], threads=3) == [2, 3, 4]


def test_a_judgement_is_the_same_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LIKELY", -math.inf)
    side_by_side = load().judge(canonicalise(TEXT), data=True)
    load()._views.forget()
    monkeypatch.setattr(reading, "in_parallel", lambda function, items, threads=1: [function(item) for item in items])
    assert load().judge(canonicalise(TEXT), data=True) == side_by_side
    assert side_by_side.encoded > CLOSELY


def test_out_of_time_is_an_error_also_between_threads() -> None:
    left = iter([True] * 5)
    load()._views.forget()
    with pytest.raises(TimeoutError):
        load().judge(canonicalise(TEXT), data=True, proceed=lambda: next(left, False))
