"""No text makes folding, decoding or the markers cost more than in proportion to its length."""

from __future__ import annotations

import time

import pytest

from shieldkit.markers import MarkerEngine, runs
from shieldkit.text import canonicalise, signals
from tests.text.hostile import HOSTILE

ENGINE = MarkerEngine()


def cost_s(text: str, tries: int = 2) -> float:
    best = float("inf")
    for _ in range(tries):
        start = time.process_time()
        canonical = canonicalise(text)
        ENGINE.find(canonical)
        list(runs(canonical))
        list(signals(text))
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("name", [*HOSTILE])
def test_four_times_the_text_costs_at_most_about_four_times_as_much(name: str) -> None:
    make = HOSTILE[name]
    cost_s(make(2000), 1)
    small, large = cost_s(make(25_000)), cost_s(make(100_000))
    assert large < 4 * 2 * small + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", [*HOSTILE])
def test_a_megabyte_made_to_be_slow_is_read_in_seconds(name: str) -> None:
    assert cost_s(HOSTILE[name](1_000_000), 1) < 20
