"""The ledger of this process: sliding windows in a cachetools cache, under one lock.

A window is kept as slots of 1/60 of its length. Whatever was used in a slot counts until the whole slot has left the
window, so in *no* interval of the window's length does the sum go over its limit; up to one slot's worth of room comes
back a little late. An account lives in the cache until its window has passed since its last use. When the cache is full
of live accounts a new one is refused: evicting a live one would forget what it has used.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cachetools import TLRUCache

from shieldkit.budget.ledger import Charge, Exceeded, Reservation
from shieldkit.errors import LedgerError
from shieldkit.outcome import Usage

SLOTS = 60

_Key = tuple[str, float]
_NOTHING = Usage()


@dataclass(slots=True)
class _Account:
    """Tokens by slot number, and their sum."""

    window_s: float
    slots: dict[int, Usage] = field(default_factory=dict)
    total: Usage = _NOTHING

    def slot(self, now_s: float) -> int:
        return int(now_s / self.window_s * SLOTS)

    def expire(self, now_s: float) -> None:
        """Drop the slots that lie wholly outside the window."""
        oldest = self.slot(now_s) - SLOTS
        for slot in [s for s in self.slots if s < oldest]:
            self.add(slot, self.slots[slot], sign=-1)

    def add(self, slot: int, usage: Usage, sign: int = 1) -> None:
        """Add to a slot, or take away. A slot that has left the window meanwhile has nothing to give back."""
        if sign < 0 and slot not in self.slots:
            return
        self.slots[slot] = _plus(self.slots.get(slot, _NOTHING), usage, sign)
        self.total = _plus(self.total, usage, sign)
        if self.slots[slot] == _NOTHING:
            del self.slots[slot]


@dataclass(frozen=True, slots=True)
class _Held:
    """The slot in which each charge of a reservation stands."""

    slots: tuple[int, ...]


class MemoryLedger:
    """A `Ledger` for one process. `clock` gives seconds that never go back.

    Raises `LedgerError` from `reserve` when `max_accounts` accounts are live and another is asked for.
    """

    def __init__(self, max_accounts: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._max_accounts = max_accounts
        # No size of the cache's own: it would evict live accounts. `reserve` refuses new ones instead. An account lives
        # for more slots than the window has, since the slot that is under way when the window ends still counts.
        self._accounts: TLRUCache[_Key, _Account] = TLRUCache(
            maxsize=math.inf, ttu=lambda _, account, now: now + account.window_s * (1 + 2 / SLOTS), timer=clock
        )

    def reserve(self, charges: Sequence[Charge]) -> Reservation | Exceeded:
        """Hold all the charges, or none of them."""
        with self._lock:
            now_s = self._clock()
            accounts = [self._account(charge, now_s) for charge in charges]
            for charge, account in zip(charges, accounts, strict=True):
                if (limit := charge.room_for(account.total)) is not None:
                    return Exceeded(charge, limit, _left(charge, limit, account.total))
            # Two limits on one account in one window are one entry in it.
            keys = {(c.account, c.window_s): (c, a) for c, a in zip(charges, accounts, strict=True)}
            slots = []
            for key, (charge, account) in keys.items():
                slot = account.slot(now_s)
                account.add(slot, Usage(charge.input_tokens, charge.output_tokens))
                self._accounts[key] = account
                slots.append(slot)
            reservation = Reservation(uuid.uuid4().hex, tuple(charge for charge, _ in keys.values()))
            self._held[reservation.id] = _Held(tuple(slots))
            return reservation

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Put real usage in place of what was held."""
        self._finish(reservation, usage)

    def release(self, reservation: Reservation) -> None:
        """Give back what was held."""
        self._finish(reservation, _NOTHING)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._accounts.clear()
            self._held.clear()

    def used(self, account: str, window_s: float) -> Usage:
        """What an account has used or holds in its window now."""
        with self._lock:
            found = self._accounts.get((account, window_s))
            if found is None:
                return _NOTHING
            found.expire(self._clock())
            return found.total

    def _account(self, charge: Charge, now_s: float) -> _Account:
        key = (charge.account, charge.window_s)
        account = self._accounts.get(key)
        if account is None:
            self._accounts.expire()
            if len(self._accounts) >= self._max_accounts:
                raise LedgerError("the in-process ledger is full of live accounts (policy: budget.max_accounts)")
            return _Account(charge.window_s)
        account.expire(now_s)
        return account

    def _finish(self, reservation: Reservation, usage: Usage) -> None:
        with self._lock:
            held = self._held.pop(reservation.id, None)
            if held is None:
                return
            now_s = self._clock()
            for charge, slot in zip(reservation.charges, held.slots, strict=True):
                key = (charge.account, charge.window_s)
                account = self._accounts.get(key) or _Account(charge.window_s)
                account.add(slot, Usage(charge.input_tokens, charge.output_tokens), sign=-1)
                if usage != _NOTHING:
                    # What was used counts from now on: that is when the answer was made.
                    account.add(account.slot(now_s), usage)
                    self._accounts[key] = account


def _plus(a: Usage, b: Usage, sign: int) -> Usage:
    return Usage(a.input_tokens + sign * b.input_tokens, a.output_tokens + sign * b.output_tokens)


def _left(charge: Charge, limit: str, used: Usage) -> int:
    most = {
        "input_tokens": charge.max_input_tokens,
        "output_tokens": charge.max_output_tokens,
        "total_tokens": charge.max_total_tokens,
    }[limit]
    return max(0, (most or 0) - int(getattr(used, limit)))
