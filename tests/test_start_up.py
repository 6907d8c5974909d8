"""Start-up: what a shield cannot be made of is an error that says where and how to mend it."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from shieldkit import (
    Action,
    ConfigurationError,
    Inspection,
    PolicyError,
    Principal,
    Report,
    SelfTestError,
    Shield,
    Stage,
    guard,
)  # fmt: skip
from shieldkit.budget import Charge
from shieldkit.errors import LedgerError, Overloaded
from shieldkit.guards.base import FunctionGuard
from tests.scripted import Scripted, policy, word_guard

FOUND = word_guard()


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(PolicyError, match="empty"):
        Shield(policy("guards: {}"))


def test_a_rewriting_guard_without_places_is_refused() -> None:
    blind = FunctionGuard("blind", frozenset(Stage), lambda i: None)
    with pytest.raises(PolicyError, match="redact"):
        Shield(policy("guards: {custom: {blind: {action: redact}}}"), guards=[blind])


@pytest.mark.parametrize("names", [["a", "a"], ["markers"], ["budget"]])
def test_guards_with_clashing_names_are_refused(names: list[str]) -> None:
    with pytest.raises(PolicyError, match="name"):
        Shield(policy(), guards=[word_guard(n) for n in names])


@pytest.mark.parametrize("stages", [frozenset(), frozenset({"ouptut"}), frozenset({"input", "ouptut"}), "output", None])
def test_a_guard_that_would_never_run_is_refused(stages: Any) -> None:
    class Own:
        name = "own"
        check = word_guard().check

    Own.stages = stages  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=r"'own'.*stages"):
        Shield(policy(), guards=[Own()])  # type: ignore[list-item]


def test_a_custom_section_without_a_guard_is_refused() -> None:
    with pytest.raises(PolicyError, match="no guard of this name"):
        Shield(policy("guards: {markers: {}, custom: {nobody: {}}}"))


def test_a_rule_that_a_guard_does_not_have_is_refused() -> None:
    with pytest.raises(PolicyError, match="control_token"):
        Shield(policy("guards: {markers: {rules: {control_tokn: {action: flag}}}}"))


def test_a_backend_with_less_context_than_the_policy_claims_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"context\.max_tokens.*16384.*8192"):
        Shield(policy(context="{max_tokens: 16384}"), Scripted(context_tokens=8192))
    with pytest.raises(ConfigurationError, match="max_output_tokens"):
        Shield(policy(), Scripted(context_tokens=512))
    Shield(policy(), Scripted(context_tokens=8192)).close()


def test_the_context_of_the_backend_bounds_the_request() -> None:
    with Shield(policy(), Scripted(context_tokens=2048)) as shield:
        reply = shield.invoke("word " * 1500)
    assert reply.refusal is not None
    assert reply.refusal.rule == "budget.context"


def test_a_guard_that_fails_its_self_test_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from shieldkit.guards.markers import MarkerGuard

    def broken(self: Any) -> None:
        raise SelfTestError("guards.markers", "does not work", mend="x")

    monkeypatch.setattr(MarkerGuard, "self_test", broken, raising=False)
    with pytest.raises(SelfTestError):
        Shield(policy())


class Closing:
    """Notes when it is closed, and may fail at it."""

    stages = frozenset(Stage)

    def __init__(self, name: str, closed: list[str], fails: bool = False) -> None:
        self.name, self.closed, self.fails = name, closed, fails

    def check(self, inspection: Inspection) -> Report:
        return Report()

    def close(self) -> None:
        self.closed.append(self.name)
        if self.fails:
            raise RuntimeError(f"{self.name} cannot be closed")


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Guards of entry points, `one` (which cannot be closed) and `two`; a list of those that were closed."""
    closed: list[str] = []
    made = {"one": lambda: Closing("one", closed, fails=True), "two": lambda: Closing("two", closed)}
    monkeypatch.setattr("shieldkit.shield.from_entry_point", lambda name: made[name]())
    return closed


def test_a_guard_that_cannot_be_closed_keeps_nothing_else_open(closings: list[str]) -> None:
    shield = Shield(policy("guards: {custom: {one: {}, two: {}}}"))
    with pytest.raises(RuntimeError, match="one cannot"):
        shield.close()
    assert sorted(closings) == ["one", "two"]
    with pytest.raises(LedgerError, match="closed"):
        shield._own_ledger.reserve([Charge("a", 1.0, 1, 1, 9, 9, 9)])  # type: ignore[union-attr]
    with pytest.raises(Overloaded, match="closed"):
        shield.screen("hello")


def test_a_start_up_that_fails_leaves_nothing_open(closings: list[str]) -> None:
    with pytest.raises(PolicyError, match="control_tokn"):
        Shield(policy("guards: {custom: {two: {}}}\n"
                      "tenants: {t: {guards: {markers: {rules: {control_tokn: {action: flag}}}}}}"))  # fmt: skip
    assert closings == ["two"]


def test_asking_a_shield_without_a_backend_is_an_error() -> None:
    with Shield(policy()) as shield, pytest.raises(ConfigurationError, match="backend"):
        shield.invoke("hello")


def test_tenants_have_their_own_rules() -> None:
    head = """
guards: {leak: {}, custom: {words: {}}}
tenants: {lenient: {guards: {custom: {words: {action: flag}}}}}
"""
    with Shield(policy(head), Scripted(), guards=[word_guard()]) as shield:
        assert shield.invoke("forbidden").refused
        assert shield.invoke("forbidden", principal=Principal(tenant="other")).refused
        assert not shield.invoke("forbidden", principal=Principal(tenant="lenient")).refused
        assert shield.screen("forbidden", tenant="lenient").action is Action.FLAG


def test_what_is_wrong_with_a_guard_of_ones_own_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "name: x\nguards:\n  markers: {}\n  custom:\n    words:\n      action: redact\n      rules: {ibn: {}}\n"
    )

    @guard("words", rules=["iban"])
    def words(inspection: Inspection) -> Any:
        yield from ()

    with pytest.raises(PolicyError, match=r"policy.yaml:6: guards.custom.words.action: 'redact' cannot work"):
        Shield(file, guards=[words])
    file.write_text(file.read_text().replace("      action: redact\n", ""))
    with pytest.raises(PolicyError, match=r"policy.yaml:6: guards.custom.words.rules.ibn: the guard has no such rule"):
        Shield(str(file), guards=[words])


def test_a_guard_of_a_package_that_cannot_be_loaded_is_a_policy_error(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "broken": "no_such_module:guard", "nothing": "shieldkit:nope", "text": "shieldkit.outcome:Action",
        "other": "tests.test_start_up:FOUND",
    }  # fmt: skip
    monkeypatch.setattr("shieldkit.guards.entry_points", lambda group, name: [EntryPoint(name, points[name], group)])
    problems = {
        "broken": "ModuleNotFoundError", "nothing": "AttributeError", "text": "TypeError", "other": "a guard named 'words'",
    }  # fmt: skip
    for name, problem in problems.items():
        with pytest.raises(PolicyError, match=f"guards.custom.{name}: its entry point .*{problem}"):
            Shield(policy(f"guards: {{custom: {{{name}: {{}}}}}}"))


def test_guards_of_ones_own_are_tested_at_start_up() -> None:
    class Untrue(Closing):
        def self_test(self) -> None:
            raise SelfTestError("faulty", "does not work", mend="x")

    with pytest.raises(SelfTestError):
        Shield(policy(), guards=[Untrue("untrue", [])])


def test_a_tenant_that_claims_more_context_than_there_is_is_refused_at_start_up() -> None:
    head = """
guards: {leak: {}}
tenants: {big: {context: {max_tokens: 100000}}}
"""
    with pytest.raises(ConfigurationError, match=r"tenants\.big\.context\.max_tokens"):
        Shield(policy(head), Scripted())
