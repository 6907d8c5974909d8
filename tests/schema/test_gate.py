"""One JSON value that conforms, or nothing; and nothing of the answer in what is said about it."""

from __future__ import annotations

import datetime
import enum
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from shieldkit import ConfigurationError, Policy, Shield
from shieldkit.schema import Limits, NotConforming, compile_schema
from shieldkit.schema.strict import parse

SECRET = "zanzibar-pelican"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def rule_of(text: str, limits: Limits = Limits()) -> str:  # noqa: B008
    with pytest.raises(NotConforming) as caught:
        parse(text, limits)
    assert text[:40] == "" or len(text) < 6 or text[:40] not in str(caught.value)
    return caught.value.violations[0].rule


@given(json_values, st.sampled_from([None, 2]), st.booleans())
def test_what_is_json_reads_back(value: Any, indent: int | None, ascii_only: bool) -> None:
    assert parse(f" \n{json.dumps(value, indent=indent, ensure_ascii=ascii_only)}\t", Limits()) == value


@given(st.text(max_size=200))
def test_whatever_the_text_the_outcome_is_a_value_or_not_conforming(text: str) -> None:
    try:
        value = parse(text, Limits(max_bytes=150, max_depth=4, max_number_digits=10))
    except NotConforming:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not_json"), ("   ", "not_json"), ("```json\n{}\n```", "not_json"), ("{'a': 1}", "not_json"),
        ('{"a": 1,}', "not_json"), ("[1 2]", "not_json"), ('{"a"', "not_json"), ("\ufeff{}", "not_json"),
        ('"\x00"', "not_json"), ("tru", "not_json"), ("01", "trailing_text"), ("{} {}", "trailing_text"),
        ("{} // done", "trailing_text"), ("{}\u00a0", "trailing_text"), ('{"a":1,"a":1}', "duplicate_key"),
        ('{"a":1,"\\u0061":2}', "duplicate_key"), ('[{"b":{"a":1,"a":2}}]', "duplicate_key"), ("NaN", "number"),
        ("-Infinity", "number"), ("1e999", "number"), ("1" * 401, "number"), ("0." + "1" * 401, "number"),
        ('"\\ud800"', "not_json"), ("[" * 65 + "]" * 65, "too_deep"), ("[" * 100_000, "too_deep"),
        ('{"a":' * 100_000, "too_deep"), ('"' + "x" * 1_000_001 + '"', "too_large"), ('"' + "é" * 500_001 + '"', "too_large"),
    ],
)  # fmt: skip
def test_what_other_parsers_forgive_is_refused(text: str, rule: str) -> None:
    assert rule_of(text) == rule


def test_brackets_inside_strings_are_not_depth() -> None:
    assert parse(json.dumps(["[" * 500 + '\\"{']), Limits()) == ["[" * 500 + '\\"{']


@pytest.mark.parametrize("unit", ["[", '{"a":', '"', "\\", "1", "1,", "{}", "[[]],", "e9", " "])
def test_hostile_text_costs_linear_time(unit: str) -> None:
    start = time.perf_counter()
    with pytest.raises(NotConforming):
        parse(unit * (900_000 // len(unit)) + "x", Limits())
    assert time.perf_counter() - start < 2.0


class Kind(enum.Enum):
    A = "a"


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: str = Field(max_length=10)
    count: int
    kind: Kind = Kind.A
    day: datetime.date | None = None


def test_pydantic_models_types_and_schemas_are_gates() -> None:
    assert compile_schema(Order).read('{"city": "Rome", "count": 2, "day": "2026-01-02"}').day == datetime.date(
        2026, 1, 2
    )
    assert compile_schema(list[int]).read("[1, 2]") == [1, 2]
    assert compile_schema({"type": "string", "maxLength": 3}).read('"abc"') == "abc"
    assert compile_schema(Order).json_schema["properties"]["city"]["maxLength"] == 10


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('{"city": "Rome", "count": "2"}', "/count"),
        ('{"city": "Rome", "count": 2.5}', "/count"),
        ('{"city": "Rome", "count": true}', "/count"),
        (f'{{"city": "Rome", "count": 2, "{SECRET}": 1}}', "/*"),
        (f'{{"city": "{SECRET}", "count": 2}}', "/city"),
        ('{"city": "Rome", "count": 2, "kind": "b"}', "/kind"),
        ("[]", ""),
    ],
)
def test_violations_name_the_place_and_never_the_text(text: str, pointer: str) -> None:
    with pytest.raises(NotConforming) as caught:
        compile_schema(Order).read(text)
    violations = caught.value.violations
    assert pointer in [v.pointer for v in violations]
    assert SECRET not in repr(violations) + str(caught.value)


def test_a_validator_that_raises_is_a_violation() -> None:
    class Odd(BaseModel):
        x: int

        def model_post_init(self, context: Any) -> None:
            raise RuntimeError(SECRET)

    with pytest.raises(NotConforming) as caught:
        compile_schema(Odd).read('{"x": 1}')
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nope"}, {"$ref": "https://example.org/x.json"}, {"$ref": "#/nowhere"}, {"pattern": "(?=a)b"},
        {"pattern": "("}, {"default": object()}, object(), {"type": "object", "description": "x" * 1_000_001},
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_held_is_refused_at_once(schema: Any) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        compile_schema(schema)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": SECRET}, "`type` at /type "),
        ({"properties": {SECRET: {"pattern": "(?=zanzibar)"}}}, "`pattern` at /properties/*/pattern "),
        ({"patternProperties": {f"(?={SECRET})": {}}}, "`patternProperties` at /patternProperties/* "),
        ({"allOf": [{"minimum": SECRET}]}, "`minimum` at /allOf/0/minimum "),
        ({"$ref": f"http://{SECRET}.example/x"}, "reference"),
        ({"$ref": f"#/$defs/{SECRET}"}, "reference"),
        ({"$schema": f"http://{SECRET}.example"}, "$schema"),
        ({"$id": f"::{SECRET}::"}, "$id"),
        ({SECRET: {1, 2}}, "not JSON"),
    ],
)
def test_what_is_said_of_a_bad_schema_is_json_schemas_words_alone(schema: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compile_schema(schema)
    assert said in str(caught.value)
    assert "zanzibar" not in str(caught.value)


def test_patterns_are_matched_in_linear_time() -> None:
    gate = compile_schema({"type": "string", "pattern": "^(a+)+$"})
    start = time.perf_counter()
    with pytest.raises(NotConforming):
        gate.read(json.dumps("a" * 50_000 + "!"))
    assert time.perf_counter() - start < 1.0


def test_the_policys_limits_hold_in_a_shield() -> None:
    policy = Policy.from_yaml("name: x\nguards: {schema: {max_bytes: 50, max_depth: 3, max_number_digits: 5}}")
    with Shield(policy) as shield:
        for text, rule in [('"' + "x" * 60 + '"', "too_large"), ("[[[[]]]]", "too_deep"), ("123456", "number")]:
            screening = shield.screen(text, stage="output", schema={})
            assert screening.refusal is not None
            assert screening.refusal.rule == f"schema.{rule}"
        assert shield.screen("[[[1]]]", stage="output", schema={}).allowed
        assert shield.screen("anything", stage="output").allowed


def _suite() -> list[Any]:
    folder = Path(__file__).resolve().parents[3] / "shared" / "suites" / "json-schema" / "draft2020-12"
    return sorted(folder.glob("*.json")) or [
        pytest.param(None, marks=pytest.mark.skip("the JSON Schema suite is not there"))
    ]


@pytest.mark.parametrize("path", _suite(), ids=lambda p: p.stem if p else "suite")
def test_the_official_suite_is_judged_as_it_says(path: Path) -> None:
    """The required tests of draft 2020-12; schemas that refer outside themselves must be refused instead."""
    for case in json.loads(path.read_text(encoding="utf-8")):
        schema = case["schema"]
        if not isinstance(schema, dict):
            continue
        try:
            gate = compile_schema(schema)
        except ConfigurationError:
            assert "$ref" in json.dumps(schema) or "pattern" in json.dumps(schema) or "$schema" in json.dumps(schema)
            continue
        for test in case["tests"]:
            try:
                gate.read(json.dumps(test["data"]))
                valid = True
            except NotConforming:
                valid = False
            # A format is checked here; the suite's required part takes it for a comment.
            assert valid == test["valid"] or path.stem == "format", (case["description"], test["description"])
