"""Budgets: hard maximums of tokens, reserved before a call and settled after it.

Its modules:

    principal.py  who asks, and the accounts that this touches
    ledger.py     what a ledger must do: reserve all or nothing, settle, release
    memory.py     the ledger of this process
    guard.py      the policy's limits, held against one request
"""

from shieldkit.budget.guard import Admission, Budget
from shieldkit.budget.ledger import Charge, Exceeded, Ledger, Reservation
from shieldkit.budget.memory import MemoryLedger
from shieldkit.budget.principal import Principal

__all__ = ["Admission", "Budget", "Charge", "Exceeded", "Ledger", "MemoryLedger", "Principal", "Reservation"]
