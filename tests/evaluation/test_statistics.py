"""Intervals hold their rate and shrink; scores are judged as by comparing every pair."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shieldkit.evaluation import Rate, percentiles, recall_at, roc_auc

scores = st.lists(st.floats(0, 1).map(lambda v: round(v, 2)), min_size=1, max_size=40)


@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(0.5, 0.999))
def test_an_interval_contains_its_rate_and_stays_within_0_and_1(count: int, more: int, confidence: float) -> None:
    rate = Rate.of(count, count + more, confidence)
    assert 0 <= rate.low <= rate.high <= 1
    if rate.total:
        assert rate.low <= rate.share <= rate.high


@given(st.integers(0, 50), st.integers(0, 50), st.integers(2, 20))
def test_more_of_the_same_narrows_an_interval(count: int, more: int, times: int) -> None:
    few, many = Rate.of(count, count + more), Rate.of(count * times, (count + more) * times)
    assert many.high - many.low <= few.high - few.low


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # By hand from Wilson's formula with z = 1.959964; the first two are the worked examples of Newcombe (1998), table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(count: int, total: int, low: float, high: float) -> None:
    rate = Rate.of(count, total)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_of_nothing_nothing_is_known() -> None:
    rate = Rate.of(0, 0)
    assert (rate.low, rate.high, math.isnan(rate.share), rate.to_dict()["share"]) == (0, 1, True, None)
    with pytest.raises(ValueError, match="no share"):
        Rate.of(2, 1)


@given(scores, scores)
def test_auc_is_the_share_of_pairs_in_the_right_order(attacks: list[float], benign: list[float]) -> None:
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in attacks for b in benign]
    assert roc_auc(attacks, benign) == pytest.approx(sum(pairs) / len(pairs))


@given(scores, scores, st.floats(0, 1))
@example([0.0, 1.0], [1.0], 1.0)  # where every false alarm is allowed, everything is caught
def test_recall_is_that_of_the_lowest_threshold_with_few_enough_false_alarms(
    attacks: list[float], benign: list[float], allowed: float
) -> None:
    best = max(
        (sum(a > bar for a in attacks) / len(attacks) for bar in {*benign, *attacks, -math.inf}
         if sum(b > bar for b in benign) <= int(allowed * len(benign))),
        default=0.0,
    )  # fmt: skip
    assert recall_at(attacks, benign, allowed) == pytest.approx(best)


def test_without_both_sides_there_is_no_curve() -> None:
    assert roc_auc([], [0.1]) is None
    assert recall_at([0.1], []) is None


def test_percentiles_are_of_the_values() -> None:
    assert percentiles([]) == {}
    assert percentiles([float(n) for n in range(101)]) == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
