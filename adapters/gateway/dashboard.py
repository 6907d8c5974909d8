"""The page /shield: what was refused and why, how long guards take, how full budgets are. Numbers and names, never text.

The server renders all of it, the first time as a page and then, every two seconds, as the part that changes. Nothing is
fetched from elsewhere; the one style and the one script of the page carry a nonce, and no other may run.
"""

from __future__ import annotations

import functools
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from shieldkit.adapters.gateway.tally import SLOT_S, SLOTS, Histogram, Slot, Tally
from shieldkit.budget import MemoryLedger, Principal
from shieldkit.policy import Policy
from shieldkit.policy.model import Limit
from shieldkit.shield import Shield

MAX_ACCOUNTS = 500
FASTEST_S, SLOWEST_S = 1e-5, 100.0
"""The ends of the latency scale, which is logarithmic."""

WHY = {
    "budget": "asked for more tokens than a limit of the policy has left",
    "markers": "control tokens or chat-template markers in text that may not instruct",
    "injection": "text that tries to give the model orders",
    "topics": "outside what this product may talk about",
    "safety": "a category of the guard model",
    "leak": "the system prompt, its canary, or a secret on its way out",
    "schema": "an answer that does not conform to the schema",
    "shield": "content that no guard can read",
}


@dataclass(slots=True)
class Accounts:
    """Which accounts of the budget were touched lately, by limit: digests, and the tenant's name where it is a tenant's."""

    _limits: dict[str | None, tuple[Limit, ...]] = field(default_factory=dict)
    _seen: dict[tuple[str, Limit], OrderedDict[str, None]] = field(default_factory=dict)

    def saw(self, policy: Policy, who: Principal) -> None:
        """A request of `who` was let in."""
        limits = self._limits.get(who.tenant)
        if limits is None:  # tenants come from the keys file, so there are not many
            limits = self._limits[who.tenant] = policy.for_tenant(who.tenant).budget.limits
        for limit in limits:
            if limit.scope == "request":
                continue
            label = who.tenant or "no tenant" if limit.scope == "tenant" else f"each {limit.scope}"
            seen = self._seen.setdefault((label, limit), OrderedDict())
            seen[who.account(limit.scope)] = None
            seen.move_to_end(who.account(limit.scope))
            if len(seen) > MAX_ACCOUNTS:
                seen.popitem(last=False)

    def rows(self, ledger: MemoryLedger | None) -> Iterator[dict[str, Any]]:
        """How full each limit is: of a tenant, or of the fullest account seen."""
        for (label, limit), seen in self._seen.items():
            for kind in ("input_tokens", "output_tokens", "total_tokens"):
                most = getattr(limit, kind)
                if most is None:
                    continue
                used = None
                if ledger is not None:
                    used = max(int(getattr(ledger.used(a, limit.window or 0.0), kind)) for a in seen)
                yield {
                    "label": label, "scope": limit.scope, "kind": kind.replace("_", " "), "used": used, "most": most,
                    "window": duration(limit.window or 0.0), "accounts": len(seen),
                    "share": min(1.0, (used or 0) / most),
                }  # fmt: skip


def page(shield: Shield, model: str, tally: Tally, accounts: Accounts, ledger: MemoryLedger | None) -> Response:
    """The whole page."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    html = _templates().get_template("page.html").render(nonce=nonce, **view(shield, model, tally, accounts, ledger))
    return HTMLResponse(html, headers={**_HEADERS, "content-security-policy": policy})


def live(shield: Shield, model: str, tally: Tally, accounts: Accounts, ledger: MemoryLedger | None) -> Response:
    """The part of the page that changes."""
    html = _templates().get_template("live.html").render(**view(shield, model, tally, accounts, ledger))
    return HTMLResponse(html, headers={**_HEADERS, "content-security-policy": "default-src 'none'"})


_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@functools.lru_cache(maxsize=1)
def _templates() -> Environment:
    folder = Path(__file__).parent / "pages"
    made = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters.update(seconds=seconds, number=number, x=_x)
    return made


def view(shield: Shield, model: str, tally: Tally, accounts: Accounts, ledger: MemoryLedger | None) -> dict[str, Any]:
    """All that the templates show."""
    answered, refused, errors = (tally.total(outcome) for outcome in ("answered", "refused", "error"))
    most = max((c.count for c in tally.refusals.values()), default=1)
    rules = sorted(tally.refusals.items(), key=lambda item: -item[1].count)
    return {
        "policy": f"{shield.policy.name}@{shield.policy.version}", "mode": shield.policy.mode, "model": model,
        "uptime": duration(time.time() - tally.started_s), "answered": answered, "refused": refused, "errors": errors,
        "total": answered + refused + errors, "in_flight": tally.in_flight, "usage": tally.usage,
        "p50": tally.seconds.quantile(0.5), "p99": tally.seconds.quantile(0.99),
        "columns": _columns(tally.history, int(time.time() // SLOT_S)), "peak": _peak(tally.history),
        "rules": [
            {"rule": rule, "guard": c.guard, "stage": c.stage, "count": c.count, "share": c.count / most,
             "ago": duration(time.time() - c.last_s), "why": WHY.get(c.guard, "a guard of the application's own")}
            for rule, c in rules
        ],
        "watched": tally.watched.most_common(),
        "guards": [
            {"guard": guard, "stage": stage, "count": h.count, "p50": h.quantile(0.5), "p99": h.quantile(0.99)}
            for (guard, stage), h in _slowest_first(tally)
        ],
        "ticks": [10.0**n for n in range(-5, 3)],
        "budgets": list(accounts.rows(ledger)), "codes": tally.errors.most_common(),
    }  # fmt: skip


def _slowest_first(tally: Tally) -> Sequence[tuple[tuple[str, str], Histogram]]:
    return sorted(tally.guards.items(), key=lambda item: -item[1].quantile(0.99))


def _peak(history: Sequence[Slot]) -> int:
    """A round number at or above the busiest slot: 1, 2, 4, 6 or 8 times a power of ten."""
    busiest = max((slot.answered + slot.refused + slot.error for slot in history), default=0)
    step = 10 ** max(0, len(str(busiest)) - 1)
    return next(n * step for n in (1, 2, 4, 6, 8, 10) if n * step >= busiest) if busiest else 1


def _columns(history: Sequence[Slot], now: int) -> list[dict[str, Any]]:
    """A column for each slot that is still shown: its place from the left, its age in seconds, and its counts."""
    return [
        {"x": SLOTS - 1 - (now - slot.number), "ago": SLOT_S * (now - slot.number), "answered": slot.answered,
         "refused": slot.refused, "error": slot.error}
        for slot in history
        if now - slot.number < SLOTS
    ]  # fmt: skip


def _x(seconds: float, width: float) -> float:
    """The place of a duration on the latency scale."""
    share = math.log(max(seconds, FASTEST_S) / FASTEST_S) / math.log(SLOWEST_S / FASTEST_S)
    return round(width * min(1.0, share), 1)


def seconds(value: float) -> str:
    """A short duration for people: `12 µs`, `3.4 ms`, `1.2 s`."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale or unit == "µs":
            scaled = value / scale
            return f"{scaled:.0f} {unit}" if scaled >= 10 or scaled == int(scaled) else f"{scaled:.1f} {unit}"
    raise AssertionError


def duration(value: float) -> str:
    """A long duration for people, in its largest unit: `45 s`, `12 min`, `3 h`, `2 d`."""
    for unit, scale in (("d", 86_400), ("h", 3600), ("min", 60)):
        if value >= scale:
            return f"{value / scale:.0f} {unit}"
    return f"{max(0, value):.0f} s"


def number(value: int) -> str:
    """A count for people: `950`, `12.3k`, `4.0M`."""
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**4)):
        if value >= scale:
            return f"{value / (1000 if unit == 'k' else scale):.1f}{unit}"
    return str(value)
