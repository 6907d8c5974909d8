"""A policy that loads is one that can work; one that does not says which field, which value, and how to mend it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shieldkit.errors import PolicyError
from shieldkit.outcome import Action
from shieldkit.policy import BUILTINS, Policy

GOOD = """
name: mine
guards:
  markers: {action: redact, timeout: 250ms}
  injection: {threshold: 0.7, rules: {indirect: {action: flag}}}
budget:
  limits:
    - {scope: user, window: 1h, total_tokens: 1000}
tenants:
  acme:
    mode: monitor
    guards: {injection: {threshold: 0.9}}
"""


@pytest.mark.parametrize("name", BUILTINS)
def test_built_in_policies_load_and_survive_being_written_out(name: str) -> None:
    policy = Policy.load(f"builtin:{name}")
    assert Policy.from_yaml(policy.to_yaml()) == policy


@pytest.mark.parametrize("text", [GOOD, *(Policy.load(f"builtin:{n}").to_yaml() for n in BUILTINS)])
def test_what_loads_conforms_to_the_published_schema(text: str) -> None:
    validator = jsonschema_rs.validator_for(Policy.json_schema())
    data = yaml.safe_load(text)
    assert [e.message for e in validator.iter_errors(data)] == []
    json.dumps(Policy.json_schema())


def test_the_published_schema_refuses_unknown_keys() -> None:
    validator = jsonschema_rs.validator_for(Policy.json_schema())
    assert not validator.is_valid({"name": "x", "guards": {"markers": {"treshold": 1}}})


def test_a_policy_is_frozen() -> None:
    policy = Policy.from_yaml(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        policy.mode = "monitor"  # type: ignore[misc]


def test_a_tenant_gets_its_parts_and_keeps_the_rest() -> None:
    policy = Policy.from_yaml(GOOD)
    own = policy.for_tenant("acme")
    assert (own.mode, own.sections()["injection"].threshold) == ("monitor", 0.9)
    assert own.sections()["injection"].rule("indirect").action is Action.FLAG
    assert own.sections()["markers"] == policy.sections()["markers"]
    assert own.budget == policy.budget
    assert policy.for_tenant("other") is policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nguards:\n  markers:\n    treshold: 1\n", ["policy:4", "guards.markers.treshold", "'threshold'"]),
        ("name: x\nguards:\n  markers:\n    threshold: 7\n", ["policy:4", "guards.markers.threshold", "7", "1"]),
        ("name: x\nguards: {markers: {timeout: soon}}", ["guards.markers.timeout", "'soon'", "250ms"]),
        ("name: x\nguards: {markers: {action: delete}}", ["guards.markers.action", "'delete'", "block"]),
        ("name: x\nguards: {topics: {pack: bank, action: redact}}", ["guards.topics.action", "redact", "block"]),
        ("name: x\nguards: {safety: {rules: {S1: {action: redact}}}}", ["guards.safety.rules.S1.action", "redact"]),
        ("name: x\nguards: {}\nbudget: {limits: [{scope: user, total_tokens: 5}]}", ["budget.limits[0]", "window"]),
        ("name: x\nguards: {}\nbudget: {limits: [{scope: user, window: 1h}]}", ["budget.limits[0]", "total_tokens"]),
        ("name: x\nguards: {}\ncontext: {max_tokens: 200000}", ["context", "131072", "allow_over_128k"]),
        ("name: x\nguards: {}\ncontext: {max_tokens: 100, max_output_tokens: 100}", ["no room", "raise max_tokens"]),
        ("name: x", ["guards", "missing"]),
        ("guards: {}", ["name", "missing"]),
        ("name: x\nguards: {}\nname: y", ["policy:3", "name", "twice"]),
        ("name: &a x\nguards: {}\ndescription: *a", ["policy:1", "alias"]),
        ("name: [", ["not YAML"]),
        ("name: !!python/object/apply:os.system [ls]\nguards: {}", ["policy:1", "tag"]),
        ("base: 1\n<<: {mode: monitor}", ["policy:2", "merge key"]),
        ("name: x\nguards: " + "{a: " * 30, ["nested"]),
        ("- 1", ["policy"]),
        ("", ["policy"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {guards: {markers: {threshold: 3}}}}", ["tenants.a", "threshold"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {tenants: {}}}", ["tenants.a.tenants"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {budget: {max_accounts: 1}}}", ["tenants.a.budget.max_accounts"]),
        ("name: x\nguards: {custom: {markers: {}}}", ["guards", "custom.markers", "built-in"]),
        ("name: x\nguards: {schema: {}, custom: {schema: {action: allow}}}", ["custom.schema", "built-in"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {guards: {custom: {budget: {}}}}}", ["tenants.a", "custom.budget"]),
        ("name: x\nformat: 2\nguards: {}", ["format", "1"]),
    ],
)  # fmt: skip
def test_a_bad_policy_names_field_value_and_mend(text: str, said: list[str]) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(text)
    for word in said:
        assert word in str(caught.value)
    assert caught.value.mend


def test_a_missing_file_and_an_unknown_built_in_are_policy_errors(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="builtin:default"):
        Policy.load("builtin:nope")
    with pytest.raises(PolicyError, match="cannot be read"):
        Policy.load(tmp_path / "none.yaml")
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * 1_000_001)
    with pytest.raises(PolicyError, match="larger"):
        Policy.load(big)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff")
    with pytest.raises(PolicyError, match="UTF-8"):
        Policy.load(tmp_path / "latin.yaml")


def test_a_deeply_nested_file_is_refused_at_once() -> None:
    start = time.perf_counter()
    with pytest.raises(PolicyError):
        Policy.from_yaml("[" * 200_000)
    assert time.perf_counter() - start < 5


@given(st.text() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "guards", "markers", "budget", "limits", "tenants", "x"]), inner, max_size=4),
).map(yaml.safe_dump))  # fmt: skip
def test_whatever_stands_in_the_file_the_outcome_is_a_policy_or_a_policy_error(text: Any) -> None:
    try:
        policy = Policy.from_yaml(text)
    except PolicyError:
        return
    assert policy.name
