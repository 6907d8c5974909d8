"""What a ledger must do, wherever it keeps its numbers.

Reserve the most that a call may use in all accounts at once, or in none; settle with what it did use; release when it
did not happen. Plain strings and numbers only, so that a shared store can do the same in one atomic step.

Two rules keep every window below its limit, and every ledger must hold to them. What is held counts for as long as it
is held, also when the call takes longer than the window; what was used counts for a whole window from the moment it is
settled. And a reservation that is never settled or released, since its process died, counts as settled in full when a
time of the ledger's own is over, and so until a window after that: over-counting is safe, under-counting is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shieldkit.outcome import Usage


@dataclass(frozen=True, slots=True)
class Charge:
    """Tokens to reserve in one account, and that account's limits in a sliding window of `window_s` seconds.

    A limit that is None does not bound. `account` is a digest and tells nothing of the principal. `id` tells which
    limit of the policy this is; it is not part of the key. Raises `ValueError` for tokens below 0, which would be credit.
    """

    account: str
    window_s: float
    input_tokens: int
    output_tokens: int
    max_input_tokens: int | None
    max_output_tokens: int | None
    max_total_tokens: int | None
    id: str = ""

    def __post_init__(self) -> None:
        if self.input_tokens < 0 or self.output_tokens < 0:
            raise ValueError("tokens to reserve are whole numbers from 0")

    def room_for(self, used: Usage) -> str | None:
        """None when the charge fits on top of `used`; else the limit that it would break."""
        after = Usage(used.input_tokens + self.input_tokens, used.output_tokens + self.output_tokens)
        if self.max_input_tokens is not None and after.input_tokens > self.max_input_tokens:
            return "input_tokens"
        if self.max_output_tokens is not None and after.output_tokens > self.max_output_tokens:
            return "output_tokens"
        if self.max_total_tokens is not None and after.total_tokens > self.max_total_tokens:
            return "total_tokens"
        return None


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens held in every account of `charges`, under an id of the ledger's own."""

    id: str
    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The first charge that did not fit, which of its limits it would have broken, and what was left of that."""

    charge: Charge
    limit: str
    left: int


class Ledger(Protocol):
    """Keeps the accounts. All methods are atomic, and raise `LedgerError` when the store cannot answer."""

    def reserve(self, charges: Sequence[Charge]) -> Reservation | Exceeded:
        """Hold all the charges, or none of them. The charges of one call are all of the same tokens."""
        ...

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Put real usage (from 0) in place of what was held, also when it is more. A second time does nothing."""
        ...

    def release(self, reservation: Reservation) -> None:
        """Give back what was held. After `settle`, or a second time, does nothing."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...
