"""Budgets never go over their hard maximum, in any interleaving, in any window."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from shieldkit.budget import Charge, Exceeded, MemoryLedger, Reservation, memory
from shieldkit.errors import LedgerError
from shieldkit.outcome import Usage

WINDOW_S = 60.0
LIMIT = 100
TTL_S = 200.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def charge(tokens: int, account: str = "a", *, output: int = 0, window_s: float = WINDOW_S, **limits: Any) -> Charge:
    most = {"max_input_tokens": None, "max_output_tokens": None, "max_total_tokens": LIMIT, **limits}
    return Charge(account, window_s, tokens, output, id="user", **most)


def reserved(outcome: Reservation | Exceeded) -> Reservation:
    assert isinstance(outcome, Reservation)
    return outcome


@dataclass
class Call:
    """A call that was let in: when, until when (for ever, while it is under way), in which accounts, for how much."""

    began_s: float
    accounts: tuple[str, ...]
    tokens: Usage
    reservation: Reservation
    ended_s: float = math.inf
    ends: list[float] = field(default_factory=list)


LIMITS = {"input_tokens": 80, "output_tokens": 50, "total_tokens": LIMIT}
WINDOWS_S = (WINDOW_S, 7.0)


class LedgerMachine(RuleBasedStateMachine):
    """Against a list of calls. A call's tokens may be dated to any moment between its beginning and its end."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.ledger = MemoryLedger(clock=self.clock, ttl_s=TTL_S)
        self.calls: list[Call] = []

    under_way = Bundle("under_way")

    @rule(
        target=under_way,
        input_tokens=st.integers(0, 60),
        output_tokens=st.integers(0, 30),
        accounts=st.sampled_from([("a",), ("b",), ("a", "b")]),
    )
    def reserve(self, input_tokens: int, output_tokens: int, accounts: tuple[str, ...]) -> Any:
        self.lapse()
        tokens = Usage(input_tokens, output_tokens)
        most = {f"max_{name}": limit for name, limit in LIMITS.items()}
        charges = [
            charge(input_tokens, account, output=output_tokens, window_s=window_s, **most)
            for account in accounts
            for window_s in WINDOWS_S
        ]
        outcome = self.ledger.reserve(charges)
        if isinstance(outcome, Exceeded):
            # Room comes back at most two slots late, so it was truly short.
            late = 1 + 2 / memory.SLOTS
            assert any(
                self.spent(a, name, self.clock.now_s, w * late) + getattr(tokens, name) > limit
                for a in accounts
                for w in WINDOWS_S
                for name, limit in LIMITS.items()
            )
            used = self.ledger.used(outcome.charge.account, outcome.charge.window_s)
            assert outcome.left == LIMITS[outcome.limit] - getattr(used, outcome.limit)
            return multiple()
        call = Call(self.clock.now_s, accounts, tokens, outcome)
        self.calls.append(call)
        return call

    @rule(call=consumes(under_way), input_share=st.floats(0, 1), output_share=st.floats(0, 1), again=st.booleans())
    def settle(self, call: Call, input_share: float, output_share: float, again: bool) -> None:
        self.lapse()
        used = Usage(int(call.tokens.input_tokens * input_share), int(call.tokens.output_tokens * output_share))
        self.ledger.settle(call.reservation, used)
        if again:
            self.ledger.settle(call.reservation, call.tokens)
            self.ledger.release(call.reservation)
        if call.ended_s == math.inf:
            call.ended_s, call.tokens = self.clock.now_s, used

    @rule(call=consumes(under_way), again=st.booleans())
    def release(self, call: Call, again: bool) -> None:
        self.lapse()
        self.ledger.release(call.reservation)
        if again:
            self.ledger.release(call.reservation)
            self.ledger.settle(call.reservation, call.tokens)
        if call.ended_s == math.inf:
            call.ended_s, call.tokens = self.clock.now_s, Usage()

    @rule(seconds=st.floats(0, 3) | st.floats(0, 90) | st.just(WINDOW_S) | st.just(TTL_S))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    def lapse(self) -> None:
        """Calls that nobody ended in time ended at this moment, at which the ledger is asked for the first time."""
        self.ledger.used("a", WINDOW_S)
        for call in self.calls:
            if call.ended_s == math.inf and call.began_s + TTL_S <= self.clock.now_s:
                call.ended_s = self.clock.now_s

    def spent(self, account: str, name: str, end_s: float, window_s: float) -> int:
        """The most that can be dated into the window that ends at `end_s`."""
        return sum(
            getattr(call.tokens, name)
            for call in self.calls
            if account in call.accounts and call.began_s <= end_s and call.ended_s > end_s - window_s
        )

    @invariant()
    def no_window_goes_over(self) -> None:
        for end_s in {call.began_s for call in self.calls}:
            for account in ("a", "b"):
                for window_s in WINDOWS_S:
                    for name, limit in LIMITS.items():
                        assert self.spent(account, name, end_s, window_s) <= limit

    @invariant()
    def the_ledger_counts_what_is_in_the_window_and_soon_forgets_what_is_not(self) -> None:
        self.lapse()
        for account in ("a", "b"):
            for window_s in WINDOWS_S:
                used = self.ledger.used(account, window_s)
                for name in LIMITS:
                    least = self.spent(account, name, self.clock.now_s, window_s)
                    most = self.spent(account, name, self.clock.now_s, window_s * (1 + 2 / memory.SLOTS))
                    assert least <= getattr(used, name) <= most


LedgerMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_a_call_that_outlasts_the_window_still_holds_its_tokens() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock=clock)
    slow = reserved(ledger.reserve([charge(60)]))
    clock.now_s += 10 * WINDOW_S
    assert isinstance(ledger.reserve([charge(60)]), Exceeded)
    ledger.settle(slow, Usage(60, 0))
    clock.now_s += WINDOW_S * 0.99
    assert isinstance(ledger.reserve([charge(60)]), Exceeded)
    clock.now_s += WINDOW_S * 0.05
    assert isinstance(ledger.reserve([charge(60)]), Reservation)


def test_what_nobody_settles_counts_in_full_for_a_window_more_and_is_then_forgotten() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock=clock, ttl_s=TTL_S)
    lost = reserved(ledger.reserve([charge(60)]))
    clock.now_s += TTL_S
    assert isinstance(ledger.reserve([charge(60)]), Exceeded)
    ledger.release(lost)  # too late: it may have been used
    assert isinstance(ledger.reserve([charge(60)]), Exceeded)
    clock.now_s += WINDOW_S * 1.05
    assert isinstance(ledger.reserve([charge(60)]), Reservation)


@pytest.mark.parametrize("within_slot", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("window_s", [0.5, 60.0, 86_400.0])
def test_room_comes_back_after_the_window_and_at_most_one_slot_late(within_slot: float, window_s: float) -> None:
    clock, slot_s = Clock(), window_s / memory.SLOTS
    clock.now_s = window_s * 1000 + slot_s * within_slot
    began_s = clock.now_s
    ledger = MemoryLedger(clock=clock)
    ledger.settle(reserved(ledger.reserve([charge(LIMIT, window_s=window_s)])), Usage(LIMIT, 0))
    clock.now_s = began_s + window_s * 0.9999
    assert isinstance(ledger.reserve([charge(1, window_s=window_s)]), Exceeded)
    clock.now_s = began_s + window_s + slot_s * 1.001
    assert isinstance(ledger.reserve([charge(1, window_s=window_s)]), Reservation)


def test_64_threads_never_admit_more_than_the_limit() -> None:
    ledger, admitted, lock = MemoryLedger(), [], threading.Lock()
    gate = threading.Barrier(64)

    def hammer(seed: int) -> None:
        dice = random.Random(seed)
        gate.wait()
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
    assert 900 < sum(admitted) <= 1000
    assert ledger.used("a", WINDOW_S).total_tokens == sum(admitted)


def test_64_threads_that_end_one_reservation_end_it_once() -> None:
    ledger = MemoryLedger()
    gate = threading.Barrier(64)
    kept = reserved(ledger.reserve([charge(30)]))
    shared = reserved(ledger.reserve([charge(50)]))

    def end(n: int) -> None:
        gate.wait()
        ledger.release(shared) if n % 2 else ledger.settle(shared, Usage(50, 0))

    threads = [threading.Thread(target=end, args=(n,)) for n in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert ledger.used("a", WINDOW_S).total_tokens in (30, 80)
    ledger.settle(kept, Usage(0, 0))
    assert ledger.used("a", WINDOW_S).total_tokens in (0, 50)


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
    outcome = reserved(ledger.reserve([charge(10), charge(10, max_input_tokens=20)]))
    assert ledger.used("a", WINDOW_S).total_tokens == 10
    ledger.release(outcome)
    assert ledger.used("a", WINDOW_S) == Usage()


def test_usage_above_what_was_reserved_counts() -> None:
    ledger = MemoryLedger()
    reservation = reserved(ledger.reserve([charge(10)]))
    ledger.settle(reservation, Usage(500, 0))
    assert ledger.used("a", WINDOW_S) == Usage(500, 0)
    assert isinstance(ledger.reserve([charge(1)]), Exceeded)


def test_no_number_is_too_large_to_count() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock=clock)
    held = [reserved(ledger.reserve([charge(1)])) for _ in range(LIMIT)]
    for reservation in held:
        ledger.settle(reservation, Usage(10**30, 10**30))
    assert isinstance(ledger.reserve([charge(1)]), Exceeded)
    clock.now_s += 2 * WINDOW_S
    assert ledger.used("a", WINDOW_S) == Usage()


def test_nothing_below_zero_is_ever_credited() -> None:
    ledger = MemoryLedger()
    reservation = reserved(ledger.reserve([charge(10)]))
    for used in (Usage(-500, 0), Usage(0, -500)):
        with pytest.raises(ValueError, match="from 0"):
            ledger.settle(reservation, used)
    for tokens, output in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="from 0"):
            charge(tokens, output=output)
    assert ledger.used("a", WINDOW_S) == Usage(10, 0)


@pytest.mark.parametrize("charges", [[], [charge(10, "a"), charge(20, "b")]])
def test_charges_that_are_not_those_of_one_call_are_refused(charges: list[Charge]) -> None:
    with pytest.raises(ValueError, match="one call"):
        MemoryLedger().reserve(charges)


def test_a_full_ledger_refuses_new_accounts_and_forgets_no_live_one() -> None:
    clock = Clock()
    ledger = MemoryLedger(max_accounts=2, clock=clock)
    held = reserved(ledger.reserve([charge(60, "a")]))
    ledger.settle(reserved(ledger.reserve([charge(60, "b")])), Usage(60, 0))
    with pytest.raises(LedgerError):
        ledger.reserve([charge(1, "c")])
    with pytest.raises(LedgerError):
        ledger.reserve([charge(1, "a"), charge(1, "c")])
    assert isinstance(ledger.reserve([charge(60, "a")]), Exceeded)
    clock.now_s += 2 * WINDOW_S
    late = reserved(ledger.reserve([charge(1, "c")]))  # in the place of b
    with pytest.raises(LedgerError):
        ledger.reserve([charge(1, "b")])  # a is still held
    ledger.release(held)
    ledger.release(late)
    assert isinstance(ledger.reserve([charge(1, "x"), charge(1, "y")]), Reservation)


def test_several_new_accounts_at_once_do_not_overfill() -> None:
    with pytest.raises(LedgerError):
        MemoryLedger(max_accounts=3).reserve([charge(1, name) for name in "abcd"])


def test_too_many_open_reservations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_HELD", 3)
    ledger = MemoryLedger()
    first, *_ = [reserved(ledger.reserve([charge(1)])) for _ in range(3)]
    with pytest.raises(LedgerError):
        ledger.reserve([charge(1)])
    ledger.release(first)
    assert isinstance(ledger.reserve([charge(1)]), Reservation)


def test_a_closed_ledger_has_forgotten_and_so_admits_nothing() -> None:
    ledger = MemoryLedger()
    reservation = reserved(ledger.reserve([charge(10)]))
    ledger.close()
    ledger.close()
    ledger.settle(reservation, Usage(10, 0))
    ledger.release(reservation)
    with pytest.raises(LedgerError):
        ledger.reserve([charge(1)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_that_forks_while_the_ledger_is_at_work_has_one_that_answers_and_has_forgotten_nothing() -> None:
    ledger = MemoryLedger()
    ledger.settle(reserved(ledger.reserve([charge(60)])), Usage(60, 0))
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with ledger._lock:
            held.set()
            let_go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)  # a child that waits for ever is ended
        outcomes = ledger.reserve([charge(50)]), ledger.reserve([charge(40)])
        os._exit(0 if [type(o) for o in outcomes] == [Exceeded, Reservation] else 1)
    let_go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_is_bounded_by_what_is_live() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock=clock, ttl_s=TTL_S)
    for n in range(2000):
        reservation = reserved(ledger.reserve([charge(1, f"user-{n}")]))
        if n % 2:
            ledger.settle(reservation, Usage(1, 0))
        clock.now_s += 1
    assert len(ledger._holds) <= TTL_S
    assert len(ledger._accounts) <= TTL_S + 2 * WINDOW_S


def test_a_busy_account_takes_less_than_three_kilobytes() -> None:
    clock = Clock()
    ledger = MemoryLedger(clock=clock)
    tracemalloc.start()
    try:
        for _ in range(3 * memory.SLOTS):
            for n in range(50):
                ledger.settle(reserved(ledger.reserve([charge(1000, f"u{n}", max_total_tokens=None)])), Usage(1000, 9))
            clock.now_s += WINDOW_S / memory.SLOTS
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used_bytes / 50 < 3072
