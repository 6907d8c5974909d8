"""Every error of the core is in one tree, and says what to do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from shieldkit import ConfigurationError, Shield, ShieldError
from shieldkit import errors as tree
from shieldkit.errors import MissingExtra
from shieldkit.schema import NotConforming, compile_schema

CORE = Path(tree.__file__).resolve().parent
CAUGHT_INSIDE = {"Problem", "BadRow"}
"""They tell one part of a command from another, and leave none."""


@pytest.mark.parametrize("caught", [ConfigurationError, ImportError])
def test_a_missing_extra_names_the_command_and_is_caught_as_either_error(caught: type[Exception]) -> None:
    with pytest.raises(caught) as raised:
        raise MissingExtra("Pydantic AI", "pydantic-ai", name="pydantic_ai")
    assert str(raised.value) == "Pydantic AI: is not installed. Install it: pip install 'shieldkit[pydantic-ai]'"
    assert isinstance(raised.value, MissingExtra) and raised.value.name == "pydantic_ai"


def test_no_error_of_the_core_stands_beside_the_tree() -> None:
    beside = set()
    for source in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(b).endswith("Exception") for b in node.bases):
                beside.add(node.name)
    assert {name for name in beside if not name.startswith("_")} == {"ShieldError"} | CAUGHT_INSIDE


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = tree.__doc__.split("    ShieldError\n")[1].split("\n\n")[0]  # type: ignore[union-attr]
    known = {name for name, value in vars(tree).items() if isinstance(value, type)} | {"NotConforming"}
    assert {line.strip("│├└─ ").split()[0] for line in drawn.splitlines()} == known - {"ShieldError"}


def test_whatever_does_not_conform_or_is_no_stage_is_a_shield_error() -> None:
    with pytest.raises(ShieldError) as caught:
        compile_schema({"type": "object"}).read("no")
    assert isinstance(caught.value, NotConforming)
    with Shield("builtin:default") as shield, pytest.raises(ConfigurationError, match="Did you mean 'output'"):
        shield.screen("hi", stage="outpt")
