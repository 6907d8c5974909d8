"""What an adapter is given, checked when it is made.

A policy in a shield's place would show at the first request, and a word misspelt would mean its opposite without a sign.
"""

from __future__ import annotations

from collections.abc import Collection

from shieldkit.errors import ConfigurationError
from shieldkit.shield import Shield


class NotInstalled(ConfigurationError, ImportError):
    """What an adapter is for is not installed, and no extra of shieldkit brings it. See `MissingExtra` for the others."""

    def __init__(self, what: str, requirement: str, *, name: str | None = None) -> None:
        super().__init__(what, "is not installed", mend=f"Install it: pip install '{requirement}'")
        self.name = name


def word(field: str, value: object, known: Collection[str]) -> None:
    """Raises `ConfigurationError` when `value` is none of the words that are known."""
    if not isinstance(value, str) or value not in known:
        raise ConfigurationError(field, "is none of the words that are known", mend=f"Use {' or '.join(known)}")


def shield(given: object, *, answers: bool = False) -> None:
    """Raises `ConfigurationError` for what is no `Shield`, and, where it has to answer, for one without a model.

    A policy is not enough: a shield made here would be closed by nobody.
    """
    if not isinstance(given, Shield):
        problem = f"a {type(given).__name__} is no Shield"
        mend = "Give a Shield, as in Shield('builtin:default')"
        raise ConfigurationError("shield", problem, mend=mend)
    if answers and given.backend is None:
        raise ConfigurationError("shield", "has no model to ask", mend="Give Shield(policy, backend=…)")
