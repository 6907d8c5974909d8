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

from shieldkit.conversation import Role
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
    - {scope: user, window: 1h, total_tokens: 10000}
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
        ("name: x\nguards: {markers: {}}\ntenants: {a: {guards: {markers: {threshold: 3}}}}", ["tenants.a", "threshold"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {tenants: {}}}", ["tenants.a.tenants"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {budget: {max_accounts: 1}}}", ["tenants.a.budget.max_accounts"]),
        ("name: x\nguards: {custom: {markers: {}}}", ["guards", "custom.markers", "built-in"]),
        ("name: x\nguards: {schema: {}, custom: {schema: {action: allow}}}", ["custom.schema", "built-in"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {guards: {custom: {budget: {}}}}}", ["tenants.a", "custom.budget"]),
        ("name: x\nformat: 2\nguards: {}", ["format", "1"]),
        ("name: x\nguards:\n  markers:\n  leak: {}", ["policy:3: guards.markers: has no value", "`markers: {}`", "`null`"]),
        ("name: x\nguards:\n  topics:", ["policy:3: guards.topics", "Write its keys", "`null`"]),
        ("name: x\nguards: {markers: {}}\ncontext:", ["policy:3: context: has no value", "`context: {}`", "remove the line"]),
        ("name: x\nguards: {markers: {}}\nbudget:\n  limits:", ["policy:4: budget.limits: has no value"]),
        ("name: x\nguards: {markers: {}}\nstreaming:\n", ["policy:3: streaming: has no value"]),
        ("name: x\nguards: {markers: {}}\ntenants:\n  acme:", ["policy:4: tenants.acme: has no value", "`acme: {}`"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {guards: {markers: }}}", ["tenants.a.guards.markers: has no", "`null`"]),
        ("name: x\nguards: {markers: {flag_threshold: }}", ["guards.markers.flag_threshold: has no value", "Write a value"]),
        ("name: x\nguards: {markers: {timeout: 250}}", ["guards.markers.timeout", "250 ", "250ms or 250s"]),
        ("name: x\nguards: {markers: {timeout: true}}", ["guards.markers.timeout", "true is not a duration"]),
        ("name: x\nguards: {}\nmodel: {timeout: 30000}", ["policy:3: model.timeout", "30000ms or 30000s"]),
        ("name: x\nguards: {}\nbudget: {limits: [{scope: user, window: 60, total_tokens: 9}]}", ["window", "60ms or 60s"]),
        ("name: x\nguards: {markers: {}}\ntenants: {a: {model: {timeout: 5}}}", ["policy:3: tenants.a.model.timeout", "5s"]),
        ("name: x\nguards: {markers: {flag_threshold: 0.8}}", ["guards.markers.flag_threshold", "0.8", "`threshold` is 0.5"]),
        ("name: x\nguards: {markers: {flag_threshold: 0.5}}", ["guards.markers.flag_threshold", "would flag nothing"]),
        ("name: x\nguards: {custom: {mine: {flag_threshold: 0.9}}}", ["guards.custom.mine.flag_threshold", "Lower it"]),
        ("name: x\nguards: {injection: {threshold: 0.9, flag_threshold: 0.6}}", ["guards.injection.data_threshold", "0.6"]),
        ("name: x\nguards: {markers: {timeout: 2026-01-01}}", ["guards.markers.timeout", "is not a duration", "250ms"]),
        ("name: x\nguards:", ["policy:2: guards: has no value. Write the guards under it, such as `markers: {}`"]),
        ("", ["holds no policy", "`name: my-app`"]),
        ("[]", ["holds no policy"]),
        ("name: 7\nguards: {}", ["policy:1: name: 7 is not text", '"7"']),
        ("name: x\nguards: 5", ["policy:2: guards: 5 is not a section"]),
        ("name: x\nguards: {markers: {threshold: high}}", ["'high' is not a number"]),
        ("name: x\nguards: {schema: {reasks: often}}", ["'often' is not a whole number"]),
        ("name: x\nguards: {}\ncontext: {max_tokens: 32k}", ["'32k' is not a whole number", "`max_tokens: 32000`"]),
        ("name: x\nguards: {}\nbudget: {limits: [{scope: request, output_tokens: 100}]}",
         ["budget.limits[0].output_tokens: 100 has no room for an answer of 1024", "lower `context.max_output_tokens`"]),
        ("policy.yaml", ["is where a policy is", "Policy.load('policy.yaml')"]),
        ("builtin:default", ["is where a policy is", "Policy.load('builtin:default')"]),
        ("name: x\nguards: {schema: {reasks: 9}}", ["9 is too large", "at most 5"]),
        ("name: x\nguards: {leak: {secrets: maybe}}", ["'maybe' is neither true nor false"]),
        ("name: x\nguards: {markers: {extra_tokens: a}}", ["'a' is not a list"]),
        ("name: x\nguards: {safety: {stages: []}}", ["[] has too few entries", "at least 1"]),
        ("name: ''\nguards: {}", ["name: '' is too short"]),
        ("name: x\nmode: null\nguards: {}", ["mode: null is not allowed", "'enforce'"]),
        ("name: x\nguards: {topics: {}}", ["policy:2: guards.topics.pack: is missing"]),
    ],
)  # fmt: skip
def test_a_bad_policy_names_field_value_and_mend(text: str, said: list[str]) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(text)
    for word in said:
        assert word in str(caught.value)
    assert caught.value.mend


SLIPS = """\
name: mine
mode: enforced
guards:
  markers: {treshold: 0.4}
  leak:
  schema: {reasks: 9}
tenants:
  acme:
    guards: {markers: {timout: 1s}}
    tenants: {}
"""


def test_all_problems_are_told_each_with_its_line() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(SLIPS, source="p.yaml")
    told = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in told] == [
        ["p.yaml:2", "mode"], ["p.yaml:4", "guards.markers.treshold"], ["p.yaml:5", "guards.leak"],
        ["p.yaml:6", "guards.schema.reasks"], ["p.yaml:9", "tenants.acme.guards.markers.timout"],
        ["p.yaml:10", "tenants.acme.tenants"],
    ]  # fmt: skip
    assert "pydantic" not in str(caught.value)
    assert (caught.value.field, caught.value.mend) == ("p.yaml:2: mode", "Use 'enforce' or 'monitor'")


def test_what_only_the_whole_shows_is_told_together_and_with_its_line() -> None:
    text = "name: x\nguards:\n  topics: {pack: bank, action: redact}\n  tools: {allow: [a], arguments: {b: {}}}\n"
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(text + "tenants:\n  acme:\n    guards: {markers: {action: approve}}\n")
    lines = [line.split(": ")[:2] for line in str(caught.value).splitlines()]
    assert lines == [["policy:3", "guards.topics.action"], ["policy:4", "guards.tools.arguments.b"],
                     ["policy:7", "tenants.acme.guards.markers.action"]]  # fmt: skip


def test_a_guard_is_left_out_by_a_null_that_is_written() -> None:
    policy = Policy.from_yaml("name: x\nguards: {markers: null, leak: {}}\ntenants: {a: {guards: {leak: ~}}}")
    assert list(policy.sections()) == ["leak"]
    assert list(policy.for_tenant("a").sections()) == []


def test_a_rule_of_its_own_threshold_below_the_flagged_ones_is_an_exception_that_may_be_made() -> None:
    policy = Policy.from_yaml(
        "name: x\nguards: {markers: {flag_threshold: 0.3, rules: {role_header: {threshold: 0.2}}}}"
    )
    assert policy.sections()["markers"].threshold_for("role_header", Role.USER) == 0.2


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (250.0, "250s"),
        (0.25, "250ms"),
        (60.0, "1m"),
        (90.0, "90s"),
        (3600.0, "1h"),
        (86400.0, "1d"),
        (1.0005, "1.0005s"),
    ],
)
def test_durations_are_shown_with_a_unit(value: float, written: str) -> None:
    policy = Policy.from_dict({"name": "x", "guards": {}, "model": {"timeout": value}})
    assert policy.model.timeout == value
    assert f"timeout: {written}\n" in policy.to_yaml()
    assert Policy.from_dict(policy.model_dump()) == policy


@given(st.floats(min_value=1e-6, max_value=31_536_000, exclude_min=True))
def test_a_duration_that_is_shown_can_be_read_again_as_it_was(value: float) -> None:
    policy = Policy.from_dict({"name": "x", "guards": {}, "model": {"timeout": value}})
    assert Policy.from_yaml(policy.to_yaml()).model.timeout == value


def test_the_published_schema_asks_for_a_unit_too() -> None:
    validator = jsonschema_rs.validator_for(Policy.json_schema())
    assert validator.is_valid({"name": "x", "guards": {}, "model": {"timeout": "250ms"}})
    assert not validator.is_valid({"name": "x", "guards": {}, "model": {"timeout": 250}})
    assert Policy.json_schema()["$defs"]["ModelSettings"]["properties"]["timeout"]["default"] == "5m"


def test_the_published_schema_describes_every_key() -> None:
    def bare(node: Any, path: str = "") -> list[str]:
        if isinstance(node, list):
            return [found for item in node for found in bare(item, path)]
        if not isinstance(node, dict):
            return []
        keys = node.get("properties", {})
        own = [f"{path}/{key}" for key, value in keys.items() if not value.get("description")]
        return own + [found for key, value in node.items() for found in bare(value, f"{path}/{key}")]

    assert bare(Policy.json_schema()) == []


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


@pytest.mark.parametrize(("text", "field"), [
    ("guards: {markers: {threshold: yes}}", "guards.markers.threshold: true is yes or no"),
    ("guards: {markers: {}}\nbudget: {limits: [{scope: user, window: 1h, total_tokens: on}]}", "total_tokens: true is yes"),
    ("guards: {markers: {}}\ncontext: {max_output_tokens: 1:30}", "1:30 is a number that YAML counts in sixties"),
    ("guards: {tools: {flows: [{tool: s, after: ['tool: read'], action: block}]}}", "after[0]"),
])  # fmt: skip
def test_a_value_that_means_another_than_it_says_is_refused(text: str, field: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_yaml(f"name: x\n{text}")
    assert field in str(caught.value)


@pytest.mark.parametrize("given", [None, 3, {"name": "x"}, ["name: x"], b"name: x"])
def test_what_is_no_text_and_no_path_is_a_policy_error(given: Any) -> None:
    for read in (Policy.from_yaml, Policy.load):
        with pytest.raises(PolicyError, match=r"Policy.from_dict\(…\) takes a dict"):
            read(given)
