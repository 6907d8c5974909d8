"""A route: a backend, and what a policy must know to allow it or not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shieldkit.backends.base import Backend
from shieldkit.errors import ConfigurationError

if TYPE_CHECKING:
    from shieldkit.policy.model import RoutingSettings

_NAME = re.compile(r"[\w.:/-]{1,80}")
_FIELDS = {"not_local": "security_critical", "residency": "residency", "cost": "max_cost", "model": "models"}
FORBIDS = frozenset(_FIELDS)
"""Reasons for which a policy does not allow a route."""


@dataclass(frozen=True, slots=True)
class RouteLimit:
    """Hard maximums of tokens for one route in a sliding window of `window_s` seconds, whoever asks."""

    window_s: float
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A backend and what is to be known of it.

    `residency`: where its data stays, as a label of one's own. `cost`: its class, from 0. `local`: it runs on this machine or
    network; by default what the backend says of itself. `timeout_s` bounds one attempt, `attempts` is how many are made.
    `max_context_tokens`, `max_output_tokens` and `streaming=False` tighten the policy, for this route and for those that
    are asked after it. `limits` are the route's own budget.
    """

    backend: Backend
    name: str = ""
    residency: str | None = None
    cost: int = 0
    local: bool | None = None
    timeout_s: float | None = None
    attempts: int = 2
    max_context_tokens: int | None = None
    max_output_tokens: int | None = None
    streaming: bool = True
    limits: tuple[RouteLimit, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.backend.name)
        if self.local is None:
            object.__setattr__(self, "local", bool(getattr(self.backend, "local", False)))
        if not _NAME.fullmatch(self.name):
            mend = "Use up to 80 letters, digits and . : / - _"
            raise ConfigurationError("Route.name", "is not an id", mend=mend)
        if self.attempts < 1:
            raise ConfigurationError("Route.attempts", f"{self.attempts} is none", mend="Use 1 or more")

    @property
    def context_tokens(self) -> int:
        """The most tokens that this route takes, prompt and answer together."""
        real = self.backend.context_tokens
        return real if self.max_context_tokens is None else min(real, self.max_context_tokens)

    def forbidden_by(self, rules: RoutingSettings) -> str | None:
        """Why a policy does not allow this route; None when it does."""
        if rules.security_critical and not self.local:
            return "not_local"
        if rules.residency is not None and self.residency not in rules.residency:
            return "residency"
        if rules.max_cost is not None and self.cost > rules.max_cost:
            return "cost"
        if rules.models is not None and self.backend.model not in rules.models:
            return "model"
        return None


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A route that did not answer, and why: what forbids it, or how it failed."""

    route: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """As plain JSON."""
        return {"route": self.route, "reason": self.reason}


def allowed_by(rules: RoutingSettings, backend: Backend) -> Backend:
    """The backend as a policy allows it: a router without the routes that are not allowed.

    Raises `ConfigurationError` when nothing is left, or a backend that is no router is not allowed.
    """
    under = getattr(backend, "under", None)
    if under is not None:
        allowed: Backend = under(rules)
        return allowed
    reason = Route(backend, name="backend").forbidden_by(rules) if rules.restricts else None
    if reason is not None:
        mend = "Give Router([Route(backend, …)]) with what is true of it, or change the policy"
        raise ConfigurationError(f"routing.{_FIELDS[reason]}", f"does not allow this backend ({reason})", mend=mend)
    return backend
