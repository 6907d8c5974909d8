"""The policy's limits, held against one request. Every message names scope and numbers, and never an id."""

from __future__ import annotations

from dataclasses import dataclass

from shieldkit.budget.ledger import Charge, Exceeded, Ledger, Reservation
from shieldkit.budget.principal import Principal
from shieldkit.errors import LedgerError
from shieldkit.outcome import Usage
from shieldkit.policy.model import BudgetSettings, ContextSettings, Limit

RULES = frozenset({"context", "principal", "request", "task", "session", "user", "tenant", "timeout", "ledger"})

_NOBODY = Principal()


@dataclass(frozen=True, slots=True)
class Admission:
    """A reservation, or the findings (rule, message) that stand against one."""

    reservation: Reservation | None = None
    findings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """Reserve, settle and release by a policy's limits, in a ledger."""

    settings: BudgetSettings
    context: ContextSettings
    ledger: Ledger

    def reserve(self, principal: Principal | None, input_tokens: int, max_output_tokens: int) -> Admission:
        """Hold `input_tokens` and the most that may be answered, in every account that a limit names, or in none.

        Raises `LedgerError` when the ledger cannot answer, and `ValueError` for counts that are none (below 0, or not
        whole); the caller refuses then.
        """
        if not (_is_count(input_tokens) and _is_count(max_output_tokens)):
            raise ValueError("token counts are whole numbers from 0")
        who = principal or _NOBODY
        refused = self._refused(who, input_tokens, max_output_tokens)
        if refused is not None:
            return Admission(findings=(refused,))
        charges = tuple(
            _charge(limit, who, input_tokens, max_output_tokens)
            for limit in self.settings.limits
            if limit.scope != "request"
        )
        if not charges:
            return Admission()
        outcome = self.ledger.reserve(charges)
        if isinstance(outcome, Exceeded):
            message = (
                f"{outcome.limit} of this {outcome.charge.id}: {outcome.left} left in a window of "
                f"{outcome.charge.window_s:g} s, {_asked(outcome.limit, input_tokens, max_output_tokens)} asked for"
            )
            return Admission(findings=((outcome.charge.id, message),))
        if not isinstance(outcome, Reservation):
            raise LedgerError(f"the ledger answered with a {type(outcome).__name__}")
        return Admission(outcome)

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Put real counts in place of what was held. A count that is none (below 0, not whole) leaves what was held."""
        held = reservation.charges[0]
        self.ledger.settle(reservation, Usage(
            usage.input_tokens if _is_count(usage.input_tokens) else held.input_tokens,
            usage.output_tokens if _is_count(usage.output_tokens) else held.output_tokens,
        ))  # fmt: skip

    def release(self, reservation: Reservation) -> None:
        """Give back what was held."""
        self.ledger.release(reservation)

    def _refused(self, who: Principal, input_tokens: int, output_tokens: int) -> tuple[str, str] | None:
        """What stands against the request whatever the ledger says."""
        missing = [part for part in self.settings.require if getattr(who, part) is None]
        if missing:
            return "principal", f"the policy requires {', '.join(missing)}, and the request names none"
        cap = self.context.cap
        if input_tokens + output_tokens > cap:
            return (
                "context",
                f"at least {input_tokens} tokens and {output_tokens} for the answer, over the cap of {cap}",
            )
        for limit in self.settings.limits:
            if limit.scope == "request":
                broken = _charge(limit, who, input_tokens, output_tokens).room_for(Usage())
                if broken is not None:
                    most, asked = getattr(limit, broken), _asked(broken, input_tokens, output_tokens)
                    return "request", f"{broken} of a request: at most {most}, {asked} asked for"
        return None


def _is_count(tokens: object) -> bool:
    """Counts come from backends: a negative one would be credit, and nothing is above a limit when it is not a number."""
    return type(tokens) is int and tokens >= 0


def _charge(limit: Limit, who: Principal, input_tokens: int, output_tokens: int) -> Charge:
    return Charge(
        account=who.account(limit.scope) if limit.scope != "request" else "",
        window_s=limit.window or 0.0,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        max_input_tokens=limit.input_tokens,
        max_output_tokens=limit.output_tokens,
        max_total_tokens=limit.total_tokens,
        id=limit.scope,
    )


def _asked(limit: str, input_tokens: int, output_tokens: int) -> int:
    return int(getattr(Usage(input_tokens, output_tokens), limit))
