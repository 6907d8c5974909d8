"""The ledger of this process: sliding windows in a cachetools cache, under one lock.

What a call holds counts for as long as it is held, however long the call takes. What it used counts from the moment it
is settled, in slots of 1/60 of the window, until the whole slot has left the window. So in *no* interval of the window's
length do the tokens go over the limit, whatever moment of its call one dates each of them to; room comes back up to one
slot late, and never early.

An account lives while something is held in it or counts in its window. When the ledger is full of live accounts a new
one is refused: evicting a live one would forget what it has used.
"""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
import weakref
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cachetools import TLRUCache

from shieldkit.budget.ledger import Charge, Exceeded, Reservation
from shieldkit.errors import LedgerError
from shieldkit.outcome import Usage

SLOTS = 60
MAX_HELD = 1_000_000
"""How many reservations may be open at once."""

_MOST = 2**40  # above any limit, and small enough that no sum of them leaves 64 bits
_NOTHING = Usage()

_Key = tuple[str, float]


@dataclass(slots=True)
class _Account:
    """Reservations that are open and what they hold; and tokens spent, in triples (slot, input, output), oldest first."""

    window_s: float
    holds: int = 0
    held: Usage = _NOTHING
    spent: Usage = _NOTHING
    by_slot: array[int] = field(default_factory=lambda: array("q"))

    @property
    def total(self) -> Usage:
        return self.held + self.spent

    def spend(self, usage: Usage, now_s: float) -> None:
        if usage == _NOTHING:
            return
        slot, last = self._slot(now_s), len(self.by_slot) - 3
        if last < 0 or self.by_slot[last] < slot:
            self.by_slot.extend((slot, usage.input_tokens, usage.output_tokens))
        else:
            self.by_slot[last + 1] += usage.input_tokens
            self.by_slot[last + 2] += usage.output_tokens
        self.spent += usage

    def expire(self, now_s: float) -> None:
        """Forget the slots that lie wholly outside the window."""
        oldest, gone = self._slot(now_s) - SLOTS, 0
        while gone < len(self.by_slot) and self.by_slot[gone] < oldest:
            self.spent = _less(self.spent, Usage(self.by_slot[gone + 1], self.by_slot[gone + 2]))
            gone += 3
        del self.by_slot[:gone]

    def _slot(self, now_s: float) -> int:
        return int(now_s / self.window_s * SLOTS)


@dataclass(frozen=True, slots=True)
class _Hold:
    """What a reservation holds in each of its accounts, until it is settled, released, or lapses."""

    lapses_s: float
    keys: tuple[_Key, ...]
    tokens: Usage


class MemoryLedger:
    """A `Ledger` for one process. `clock` gives seconds that never go back.

    A reservation that nobody settles or releases within `ttl_s` counts as settled in full at that moment; let it be more
    than the longest call. Raises `LedgerError` from `reserve` when `max_accounts` accounts are live and another is asked
    for, and when the ledger is closed.
    """

    def __init__(
        self, max_accounts: int = 100_000, clock: Callable[[], float] = time.monotonic, *, ttl_s: float = 86_400.0
    ) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._max_accounts = max_accounts
        self._lock = threading.Lock()
        self._closed = False
        self._holds: dict[str, _Hold] = {}  # in the order in which they lapse
        # No size of the cache's own: it would evict live accounts. `reserve` refuses new ones instead.
        self._accounts: TLRUCache[_Key, _Account] = TLRUCache(maxsize=math.inf, ttu=_dies_s, timer=clock)
        _all.add(self)

    def reserve(self, charges: Sequence[Charge]) -> Reservation | Exceeded:
        """Hold all the charges, or none of them."""
        tokens = _tokens(charges)
        with self._lock:
            now_s = self._clock()
            self._lapse(now_s)
            accounts: dict[_Key, _Account] = {}
            for charge in charges:
                # Two limits on one account in one window are one entry in it.
                key = (charge.account, charge.window_s)
                account = accounts.get(key) or self._account(key, now_s)
                accounts[key] = account
                if (limit := charge.room_for(account.total)) is not None:
                    return Exceeded(charge, limit, _left(charge, limit, account.total))
            self._check_room(accounts)
            for key, account in accounts.items():
                account.holds += 1
                account.held += tokens
                self._accounts[key] = account
            reservation = Reservation(uuid.uuid4().hex, tuple(charges))
            self._holds[reservation.id] = _Hold(now_s + self._ttl_s, tuple(accounts), tokens)
            return reservation

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Put real usage in place of what was held."""
        if usage.input_tokens < 0 or usage.output_tokens < 0:
            raise ValueError("tokens used are whole numbers from 0")
        with self._lock:
            self._end(reservation.id, Usage(min(usage.input_tokens, _MOST), min(usage.output_tokens, _MOST)))

    def release(self, reservation: Reservation) -> None:
        """Give back what was held."""
        with self._lock:
            self._end(reservation.id, _NOTHING)

    def close(self) -> None:
        """Forget everything, and refuse from now on: a ledger that forgot must not go on admitting."""
        with self._lock:
            self._closed = True
            self._accounts.clear()
            self._holds.clear()

    def used(self, account: str, window_s: float) -> Usage:
        """What an account has used or holds in its window now."""
        with self._lock:
            now_s = self._clock()
            self._lapse(now_s)
            return self._account((account, window_s), now_s).total

    def _account(self, key: _Key, now_s: float) -> _Account:
        """The live account, without what has left its window; or a new one, which is not kept yet."""
        account = self._accounts.get(key) or _Account(key[1])
        account.expire(now_s)
        return account

    def _check_room(self, wanted: dict[_Key, _Account]) -> None:
        if self._closed:
            raise LedgerError("the in-process ledger is closed")
        if len(self._holds) >= MAX_HELD:
            raise LedgerError("the in-process ledger is full of open reservations")
        new = sum(key not in self._accounts for key in wanted)
        if not new:
            return
        self._accounts.expire()
        if len(self._accounts) + new > self._max_accounts:
            raise LedgerError("the in-process ledger is full of live accounts (policy: budget.max_accounts)")

    def _lapse(self, now_s: float) -> None:
        """Count as spent what has been held for too long: whoever reserved it is not coming back."""
        while self._holds:
            first = next(iter(self._holds))
            if self._holds[first].lapses_s > now_s:
                return
            self._end(first, self._holds[first].tokens)

    def _end(self, reservation: str, usage: Usage) -> None:
        """End a reservation, with what was used counting from now on. Nothing, when it has ended before."""
        hold = self._holds.pop(reservation, None)
        if hold is None:
            return
        now_s = self._clock()
        for key in hold.keys:
            account = self._accounts[key]  # it is there: an open reservation keeps it alive
            account.holds -= 1
            account.held = _less(account.held, hold.tokens)
            account.expire(now_s)
            account.spend(usage, now_s)
            if account.holds or account.by_slot:
                self._accounts[key] = account
            else:
                del self._accounts[key]


_all: weakref.WeakSet[MemoryLedger] = weakref.WeakSet()


def _forked() -> None:
    """The child goes on with the numbers, and a lock of its own: of its parent's, nobody may be there to release it."""
    for ledger in list(_all):
        ledger._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _dies_s(_: _Key, account: _Account, now_s: float) -> float:
    """When an account that nobody touches any more may be forgotten.

    It lives for more slots than the window has, since the slot that is under way when the window ends still counts.
    """
    return math.inf if account.holds else now_s + account.window_s * (1 + 2 / SLOTS)


def _tokens(charges: Sequence[Charge]) -> Usage:
    """What one call asks for: the same in every account."""
    asked = {(charge.input_tokens, charge.output_tokens) for charge in charges}
    if len(asked) != 1:
        raise ValueError("the charges of one call are at least one, and all of them of the same tokens")
    return Usage(*asked.pop())


def _less(a: Usage, b: Usage) -> Usage:
    return Usage(a.input_tokens - b.input_tokens, a.output_tokens - b.output_tokens)


def _left(charge: Charge, limit: str, used: Usage) -> int:
    most = {
        "input_tokens": charge.max_input_tokens,
        "output_tokens": charge.max_output_tokens,
        "total_tokens": charge.max_total_tokens,
    }[limit]
    return max(0, (most or 0) - int(getattr(used, limit)))
