"""The policy's limits hold for every part of the principal, and a part left out escapes none of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldkit.budget import Budget, MemoryLedger, Principal
from shieldkit.errors import ConfigurationError
from shieldkit.outcome import Usage
from shieldkit.policy.model import BudgetSettings, ContextSettings, Limit

ids = st.none() | st.text(st.characters(exclude_categories=("Cc", "Zl", "Zp")), min_size=1, max_size=20)
principals = st.builds(Principal, tenant=ids, user=ids, session=ids, task=ids)


def budget(*limits: Limit, require: tuple[str, ...] = ()) -> Budget:
    settings = BudgetSettings.model_validate({"limits": limits, "require": require})
    return Budget(settings, ContextSettings(max_tokens=1000, max_output_tokens=10), MemoryLedger())


def rules(made: Budget, who: Principal | None, tokens: int, output: int = 10) -> list[str]:
    return [rule for rule, _ in made.reserve(who, tokens, output).findings]


def limit(scope: str, tokens: int) -> Limit:
    window = {} if scope == "request" else {"window": "1h"}
    return Limit.model_validate({"scope": scope, "total_tokens": tokens, **window})


@pytest.mark.parametrize("scope", ["task", "session", "user", "tenant"])
def test_a_limit_holds_for_its_scope_over_requests(scope: str) -> None:
    made, who = budget(limit(scope, 100)), Principal(**{scope: "x"})
    assert rules(made, who, 80) == []
    assert rules(made, who, 80) == [scope]
    assert rules(made, Principal(**{scope: "y"}), 80) == []


def test_context_and_request_are_bounded_without_a_ledger() -> None:
    made = budget(limit("request", 500))
    assert rules(made, None, 991) == ["context"]
    assert rules(made, None, 491) == ["request"]
    assert rules(made, None, 490) == []


@given(principals)
def test_leaving_an_id_out_never_escapes_a_limit(who: Principal) -> None:
    made = budget(*(limit(scope, 100) for scope in ("task", "session", "user", "tenant")))
    assert rules(made, who, 80) == []
    assert rules(made, who, 80) != []


def test_the_same_user_id_at_two_tenants_is_two_accounts() -> None:
    made = budget(limit("user", 100))
    assert rules(made, Principal(tenant="a", user="u"), 80) == []
    assert rules(made, Principal(tenant="b", user="u"), 80) == []


def test_a_new_user_id_does_not_open_a_new_session_account() -> None:
    made = budget(limit("session", 100))
    assert rules(made, Principal(user="u1", session="s"), 80) == []
    assert rules(made, Principal(user="u2", session="s"), 80) == ["session"]


@given(principals, principals, st.sampled_from(["task", "session", "user", "tenant"]))
def test_different_principals_never_share_an_account_by_spelling(a: Principal, b: Principal, scope: str) -> None:
    same = (a.tenant, getattr(a, scope)) == (b.tenant, getattr(b, scope))
    assert (a.account(scope) == b.account(scope)) == same


def test_required_parts_are_required() -> None:
    made = budget(require=("user", "session"))
    assert rules(made, Principal(user="u"), 1) == ["principal"]
    assert rules(made, Principal(user="u", session="s"), 1) == []


def test_no_id_stands_in_a_message() -> None:
    made = budget(limit("user", 5), require=())
    message = made.reserve(Principal(user="very-private", tenant="very-private"), 80, 10).findings[0][1]
    assert "very-private" not in message
    assert "5 left" in message
    assert "90 asked for" in message


def test_no_id_stands_in_what_a_ledger_is_given() -> None:
    made = budget(limit("user", 500), limit("session", 500), limit("tenant", 500))
    held = made.reserve(Principal("very-private", "very-private", "very-private"), 80, 10).reservation
    assert held is not None
    assert "very-private" not in repr(held)


def test_keys_are_the_same_in_every_process() -> None:
    assert (
        Principal("t", "u").account("user") == "e8b40f5c3558c09d07263be70ce4c46abd4a5010"
    )  # pinned: stores outlive processes


@pytest.mark.parametrize("count", [-1, 1.5, float("nan"), "9", None, True])
def test_a_count_that_is_none_is_neither_admitted_nor_credited(count: Any) -> None:
    made, who = budget(limit("user", 100)), Principal(user="u")
    for tokens, output in ((count, 10), (10, count)):
        with pytest.raises(ValueError, match="whole numbers"):
            made.reserve(who, tokens, output)
    held = made.reserve(who, 60, 30).reservation
    assert held is not None
    made.settle(held, Usage(count, count))
    assert rules(made, who, 1) == ["user"]


def test_settling_and_releasing_give_room_back() -> None:
    made, who = budget(limit("user", 100)), Principal(user="u")
    held = made.reserve(who, 80, 10).reservation
    assert held is not None
    made.settle(held, Usage(20, 5))
    second = made.reserve(who, 60, 10).reservation
    assert second is not None
    made.release(second)
    assert made.reserve(who, 65, 10).reservation is not None


@pytest.mark.parametrize("bad", ["", "x" * 257, 7, "a\nb", "a\x00", "\x85", "a\u2028b"])
def test_an_id_that_is_none_is_refused(bad: object) -> None:
    with pytest.raises(ConfigurationError, match="user"):
        Principal(user=bad)  # type: ignore[arg-type]
