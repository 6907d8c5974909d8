"""Every error of the core is in one tree, and says what to do."""

from __future__ import annotations

import pytest

from shieldkit import ConfigurationError
from shieldkit.errors import MissingExtra


@pytest.mark.parametrize("caught", [ConfigurationError, ImportError])
def test_a_missing_extra_names_the_command_and_is_caught_as_either_error(caught: type[Exception]) -> None:
    with pytest.raises(caught) as raised:
        raise MissingExtra("Pydantic AI", "pydantic-ai", name="pydantic_ai")
    assert str(raised.value) == "Pydantic AI: is not installed. Install it: pip install 'shieldkit[pydantic-ai]'"
    assert isinstance(raised.value, MissingExtra) and raised.value.name == "pydantic_ai"
