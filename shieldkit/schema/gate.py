"""A schema compiled once, and what it makes of an answer.

JSON Schemas are checked by jsonschema-rs (draft 2020-12 unless `$schema` says otherwise), offline and with the linear
regular-expression engine; pydantic models and other types by pydantic, in strict mode: `"2"` is not 2. A model's own
configuration decides about unknown keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shieldkit.errors import ConfigurationError
from shieldkit.outcome import Finding
from shieldkit.schema.strict import Limits, NotConforming, Violation, parse

MAX_SCHEMA_BYTES = 1_000_000
MAX_VIOLATIONS = 16
KEYWORDS = frozenset(
    "$anchor $comment $defs $dynamicAnchor $dynamicRef $id $ref $schema $vocabulary additionalItems additionalProperties allOf "
    "anyOf const contains contentEncoding contentMediaType contentSchema default definitions dependencies dependentRequired "
    "dependentSchemas deprecated description else enum examples exclusiveMaximum exclusiveMinimum format if items maxContains "
    "maxItems maxLength maxProperties maximum minContains minItems minLength minProperties minimum multipleOf not oneOf pattern "
    "patternProperties prefixItems properties propertyNames readOnly required then title type unevaluatedItems "
    "unevaluatedProperties uniqueItems writeOnly".split()
)
"""Of drafts 4 to 2020-12."""
_OF_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_OF_VALUES = frozenset({"const", "default", "enum", "examples", "required", "type", "$vocabulary", "dependentRequired"})


def unknown_keyword(schema: object) -> str | None:
    """A key of a JSON Schema, or of one within it, that means nothing in any draft: a misspelt keyword checks nothing."""
    if isinstance(schema, list):
        return next(filter(None, map(unknown_keyword, schema)), None)
    if not isinstance(schema, Mapping):
        return None
    for key, value in schema.items():
        if key not in KEYWORDS:
            return str(key)
        within = list(value.values()) if key in _OF_SCHEMAS and isinstance(value, Mapping) else value
        if key not in _OF_VALUES and (found := unknown_keyword(within)) is not None:
            return found
    return None


class _Check(Protocol):
    def __call__(self, value: Any, text: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class SchemaGate:
    """`json_schema` is for constrained decoding; `read` is the gate, and `check` the gate for what is no text any more."""

    json_schema: Mapping[str, Any]
    _check: _Check

    def check(self, value: Any) -> Any:
        """The validated value that plain data is. Raises `NotConforming`."""
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise NotConforming(Violation("not_json")) from None
        return self._check(value, text)

    def read(self, text: str, limits: Limits = Limits()) -> Any:  # noqa: B008 - frozen
        """The validated value that `text` is. Raises `NotConforming`."""
        return self._check(parse(text, limits), text)


def compile_schema(target: Any) -> SchemaGate:
    """A gate for a pydantic model, a JSON Schema (a dict), or any type that pydantic knows.

    Raises `ConfigurationError` for a schema that is invalid, refers to something outside itself, or has a pattern that
    cannot be matched in linear time (lookaround, backreferences).
    """
    if isinstance(target, Mapping):
        return _from_json_schema(dict(target))
    return _from_type(target)


def _from_json_schema(schema: dict[str, Any]) -> SchemaGate:
    import jsonschema_rs

    try:
        size = len(json.dumps(schema))
    except (TypeError, ValueError, RecursionError):
        raise ConfigurationError("schema", "is not JSON", mend="Give a plain dict") from None
    if size > MAX_SCHEMA_BYTES:
        raise ConfigurationError("schema", f"is larger than {MAX_SCHEMA_BYTES} bytes", mend="Split it")
    try:
        validator = jsonschema_rs.validator_for(
            schema, pattern_options=jsonschema_rs.RegexOptions(), offline=True, validate_formats=True
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, TypeError) as error:
        mend = "Mend the schema: no references outside it, no lookaround or backreferences in patterns"
        raise ConfigurationError("schema", f"cannot be used: {_unusable(error)}", mend=mend) from None
    names = _property_names(schema)

    def check(value: Any, text: str) -> Any:
        if not validator.is_valid(value):
            found = []
            for error in validator.iter_errors(value):
                kind = type(error.kind).__name__
                found.append(Violation("violates_schema", _pointer(error.instance_path, names), kind))
                if len(found) == MAX_VIOLATIONS:
                    break
            raise NotConforming(*(found or [Violation("violates_schema")]))
        return value

    return SchemaGate(schema, check)


def _unusable(error: Exception) -> str:
    """What is wrong with a schema, and where. A client of a gateway may have sent it, so only JSON Schema's words are told."""
    path = list(getattr(error, "instance_path", ()))
    if not path:
        return "a reference in it, its `$id` or its `$schema` leads nowhere, or it is no schema"
    keyword = next((part for part in reversed(path) if part in KEYWORDS), "*")
    return f"`{keyword}` at {_pointer(path, KEYWORDS)} has a value that it cannot have"


def _from_type(target: Any) -> SchemaGate:
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(target)
        schema = adapter.json_schema()
    except (PydanticUserError, TypeError, NameError) as error:
        problem = f"{getattr(target, '__name__', type(target).__name__)} is not a type with a JSON Schema"
        mend = f"Give a pydantic model, a JSON Schema or a plain type ({type(error).__name__})"
        raise ConfigurationError("schema", problem, mend=mend) from None
    names = _property_names(schema)

    def check(value: Any, text: str) -> Any:
        try:
            # From the text again: in JSON, strict mode takes what JSON cannot say otherwise (dates, tuples, enums).
            return adapter.validate_json(text, strict=True)
        except ValidationError as error:
            problems = error.errors(include_input=False, include_context=False, include_url=False)
            found = [Violation("violates_schema", _pointer(p["loc"], names), p["type"]) for p in problems]
            raise NotConforming(*found[:MAX_VIOLATIONS]) from None
        except Exception as error:
            # A validator of the application's own, which raised something of its own.
            raise NotConforming(Violation("violates_schema", kind=type(error).__name__)) from None

    return SchemaGate(schema, check)


def _pointer(path: Iterable[str | int], names: frozenset[str]) -> str:
    """A JSON pointer in which only the schema's own words appear."""
    parts = (str(p) if isinstance(p, int) or p in names else "*" for p in path)
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def _property_names(schema: Any) -> frozenset[str]:
    names: set[str] = set()
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            properties = node.get("properties")
            if isinstance(properties, Mapping):
                names.update(properties)
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    return frozenset(names)


def reask_message(findings: Sequence[Finding]) -> str:
    """What to tell the model when its answer did not conform. Holds rules and places, and none of its words."""
    reasons = "; ".join(dict.fromkeys(f.message for f in findings)) or "it does not conform to the schema"
    return (
        f"Your answer cannot be used: {reasons}. Answer again with one JSON value that conforms to the schema, "
        "and nothing before or after it."
    )
