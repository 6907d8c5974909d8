"""What an adapter is told by name, checked when it is made: a word misspelt would mean its opposite without a sign."""

from __future__ import annotations

from collections.abc import Collection

from shieldkit.errors import ConfigurationError


def check(field: str, value: object, known: Collection[str]) -> None:
    """Raises `ConfigurationError` when `value` is none of the words that are known."""
    if not isinstance(value, str) or value not in known:
        raise ConfigurationError(field, "is none of the words that are known", mend=f"Use {' or '.join(known)}")
