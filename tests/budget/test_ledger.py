"""Budgets never go over their hard maximum, in any interleaving, in any window."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shieldkit.budget import Charge, Exceeded, MemoryLedger, Reservation
from shieldkit.errors import LedgerError
from shieldkit.outcome import Usage

WINDOW_S = 60.0
LIMIT = 100


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def charge(tokens: int, account: str = "a", *, output: int = 0, window_s: float = WINDOW_S, **limits: Any) -> Charge:
    most = {"max_input_tokens": None, "max_output_tokens": None, "max_total_tokens": LIMIT, **limits}
    return Charge(account, window_s, tokens, output, id="user", **most)


class LedgerMachine(RuleBasedStateMachine):
    """Against a list of (when, tokens) for each account, summed over every window there is."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ledger = MemoryLedger(clock=self.clock)
        self.spent: dict[str, list[list[float]]] = {"a": [], "b": []}

    held = Bundle("held")

    @rule(target=held, tokens=st.integers(1, 60), accounts=st.sampled_from([("a",), ("b",), ("a", "b")]))
    def reserve(self, tokens: int, accounts: tuple[str, ...]) -> Any:
        outcome = self.ledger.reserve([charge(tokens, account) for account in accounts])
        if isinstance(outcome, Exceeded):
            used = {a: self.ledger.used(a, WINDOW_S).total_tokens for a in accounts}
            assert any(u + tokens > LIMIT for u in used.values())
            assert outcome.left == LIMIT - used[outcome.charge.account]
            return (None, [])
        entries = []
        for account in accounts:
            entry = [self.clock.now_s, float(tokens)]
            self.spent[account].append(entry)
            entries.append(entry)
        return (outcome, entries)

    @rule(pair=consumes(held), share=st.floats(0, 1))
    def settle(self, pair: tuple[Reservation | None, list[list[float]]], share: float) -> None:
        reservation, entries = pair
        if reservation is None:
            return
        used = int(entries[0][1] * share)
        self.ledger.settle(reservation, Usage(used, 0))
        self.ledger.settle(reservation, Usage(used, 0))
        self.ledger.release(reservation)
        for entry in entries:
            entry[:] = [self.clock.now_s, float(used)]

    @rule(pair=consumes(held))
    def release(self, pair: tuple[Reservation | None, list[list[float]]]) -> None:
        reservation, entries = pair
        if reservation is None:
            return
        self.ledger.release(reservation)
        self.ledger.release(reservation)
        for entry in entries:
            entry[1] = 0.0

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @invariant()
    def no_window_goes_over(self) -> None:
        for entries in self.spent.values():
            for end_s, _ in entries:
                inside = sum(tokens for at_s, tokens in entries if end_s - WINDOW_S < at_s <= end_s)
                assert inside <= LIMIT

    @invariant()
    def the_ledger_forgets_nothing_that_is_still_in_the_window(self) -> None:
        for account, entries in self.spent.items():
            live = sum(tokens for at_s, tokens in entries if at_s > self.clock.now_s - WINDOW_S)
            assert self.ledger.used(account, WINDOW_S).total_tokens >= live


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_64_threads_never_admit_more_than_the_limit() -> None:
    ledger, admitted, lock = MemoryLedger(), [], threading.Lock()

    def hammer(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(50):
            tokens = dice.randint(1, 20)
            outcome = ledger.reserve([charge(tokens, max_total_tokens=1000)])
            if isinstance(outcome, Exceeded):
                continue
            choice = dice.random()
            if choice < 0.4:
                ledger.release(outcome)
            elif choice < 0.7:
                ledger.settle(outcome, Usage(tokens // 2, 0))
                with lock:
                    admitted.append(tokens // 2)
            else:
                with lock:
                    admitted.append(tokens)

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(admitted) <= 1000
    assert ledger.used("a", WINDOW_S).total_tokens == sum(admitted)


def test_all_or_nothing() -> None:
    ledger = MemoryLedger()
    assert isinstance(ledger.reserve([charge(90, "b")]), Reservation)
    outcome = ledger.reserve([charge(50, "a"), charge(50, "b")])
    assert isinstance(outcome, Exceeded)
    assert (outcome.charge.account, outcome.limit, outcome.left) == ("b", "total_tokens", 10)
    assert ledger.used("a", WINDOW_S) == Usage()


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        ({"max_input_tokens": 9}, "input_tokens"),
        ({"max_output_tokens": 4}, "output_tokens"),
        ({"max_total_tokens": 14}, "total_tokens"),
    ],
)
def test_each_of_the_three_limits_bounds(limits: dict[str, int], broken: str) -> None:
    outcome = MemoryLedger().reserve([charge(10, output=5, **{"max_total_tokens": None, **limits})])
    assert isinstance(outcome, Exceeded)
    assert outcome.limit == broken


def test_two_limits_on_one_account_and_window_count_once() -> None:
    ledger = MemoryLedger()
    outcome = ledger.reserve([charge(10), charge(10, max_input_tokens=20)])
    assert isinstance(outcome, Reservation)
    assert ledger.used("a", WINDOW_S).total_tokens == 10
    ledger.release(outcome)
    assert ledger.used("a", WINDOW_S) == Usage()


def test_usage_above_what_was_reserved_counts() -> None:
    ledger = MemoryLedger()
    reservation = ledger.reserve([charge(10)])
    assert isinstance(reservation, Reservation)
    ledger.settle(reservation, Usage(500, 0))
    assert isinstance(ledger.reserve([charge(1)]), Exceeded)


def test_a_full_ledger_refuses_new_accounts_and_forgets_no_live_one() -> None:
    clock = Clock()
    ledger = MemoryLedger(max_accounts=2, clock=clock)
    ledger.reserve([charge(60, "a")])
    ledger.reserve([charge(60, "b")])
    with pytest.raises(LedgerError):
        ledger.reserve([charge(1, "c")])
    assert isinstance(ledger.reserve([charge(60, "a")]), Exceeded)
    clock.now_s += 2 * WINDOW_S
    assert isinstance(ledger.reserve([charge(1, "c")]), Reservation)


def test_memory_is_bounded_by_the_live_accounts() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock=clock)
    for n in range(2000):
        reservation = ledger.reserve([charge(1, f"user-{n}")])
        assert isinstance(reservation, Reservation)
        ledger.settle(reservation, Usage(1, 0))
        clock.now_s += 1
    assert len(ledger._accounts) <= 2 * WINDOW_S
    assert not ledger._held
