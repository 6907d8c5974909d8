"""From YAML text to plain data, with the line of each field.

Stricter than YAML is by itself: one document, no duplicate keys, no anchors or aliases, no tags, no key without a value,
and a size limit, so that what a reviewer reads in the file is what the shield does.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from shieldkit.errors import PolicyError
from shieldkit.policy.durations import PATTERN, written
from shieldkit.policy.problems import (
    Location,
    PolicyProblems,
    Problem,
    annotation_at,
    dotted,
    may_be_null,
    model_in,
    placed,
)

MAX_BYTES = 1_000_000
MAX_DEPTH = 24
_NULL = "tag:yaml.org,2002:null"
_NUMBERS = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


@dataclass(frozen=True, slots=True)
class Document:
    """A policy file as it is written: plain data, the line (from 1) of each dotted field, and what only the text shows."""

    data: Any
    lines: Mapping[str, int]
    unclear: tuple[Problem, ...] = ()
    empty: tuple[Location, ...] = ()


def read_file(path: Path, mend: str = "Give the path of a YAML file, or builtin:default") -> str:
    """The text of a policy file. Raises `PolicyError`, with this mend where there is no such file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _refused(str(path), f"is larger than {MAX_BYTES} bytes", "A policy is a short file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _refused(str(path), f"cannot be read ({error.strerror})", mend) from None
    except UnicodeDecodeError:
        raise _refused(str(path), "is not UTF-8", "Save the file as UTF-8") from None


def lines_of(source: str) -> Mapping[str, int]:
    """The lines of a policy's fields; of a built-in one, that is not to be mended, none."""
    return {} if source.startswith("builtin:") else parse(read_file(Path(source)), source).lines


@contextmanager
def read_from(source: str | None) -> Iterator[None]:
    """What is found wrong with a policy while it is put to use is told with its line in the file that it was read from."""
    try:
        yield
    except PolicyProblems:
        raise
    except PolicyError as error:
        problem = Problem(error.field, error.problem, error.mend)
        if source is None or (problem := placed(problem, lines_of(source))).line is None:
            raise
        raise PolicyProblems(source, [problem]) from error.__cause__


def parse(text: str, source: str) -> Document:
    """Read YAML text. Raises `PolicyError` for what is not YAML, or YAML that means something other than it seems to."""
    try:
        if problems := list(_not_plain(text, source)):
            raise PolicyProblems(source, problems)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark: Any = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "cannot be read"
        line = mark.line + 1 if mark is not None else None
        raise _refused(source, f"is not YAML: {problem}", "Mend the file's syntax", line) from None
    lines: dict[str, int] = {}
    unclear: list[Problem] = []
    empty: list[Location] = []
    for loc, line, value in _walk(node, ()) if node is not None else ():
        path = dotted(loc)
        if path in lines:
            unclear.append(Problem(path, "stands twice", "Keep one of the two", line))
        lines[path] = line
        if isinstance(value, yaml.ScalarNode) and value.tag == _NULL and not value.value:
            empty.append(loc)
        if isinstance(value, yaml.ScalarNode) and value.tag in _NUMBERS and ":" in value.value:
            problem = f"{value.value} is a number that YAML counts in sixties"
            unclear.append(Problem(path, problem, "Write it out, or in quotes if it is text", line))
    return Document(data, lines, tuple(unclear), tuple(empty))


def _refused(source: str, problem: str, mend: str, line: int | None = None) -> PolicyProblems:
    return PolicyProblems(source, [Problem("", problem, mend, line)])


def _not_plain(text: str, source: str) -> Iterator[Problem]:
    """What makes a file mean something other than it seems to: aliases, anchors, tags, merge keys, deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        line = event.start_mark.line + 1 if event.start_mark else None
        if depth > MAX_DEPTH:
            raise _refused(source, f"is nested deeper than {MAX_DEPTH}", "A policy is a flat file", line)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            yield Problem("", "uses an anchor or alias (&…, *…)", "Write the value out where it is used", line)
        if getattr(event, "tag", None) is not None:
            yield Problem("", "uses a tag (!…)", "Write a plain value; quote it if it is text", line)
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            yield Problem("", "uses a merge key (<<)", "Write the values out where they are used", line)


def _walk(node: yaml.Node, loc: Location) -> Iterator[tuple[Location, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*loc, str(key.value))
            yield below, key.start_mark.line + 1, value
            yield from _walk(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*loc, index), item.start_mark.line + 1, item
            yield from _walk(item, (*loc, index))


def no_value(loc: Location, model: type[BaseModel]) -> Problem:
    """A key without a value reads like a section with its defaults, and would be none: `markers:` removes the guard."""
    key = loc[-1]
    place = annotation_at(model, loc[2:] if loc[0] == "tenants" and len(loc) > 2 else loc)
    section = model_in(place)
    mend = "Write a value, or remove the line"
    if key == "guards" and section is not None:  # with all of them left out, nothing would be guarded
        mend = "Write the guards under it, such as `markers: {}`"
    elif section is not None:
        needs = any(field.is_required() for field in section.model_fields.values())
        first = "Write its keys under it" if needs else f"Write `{key}: {{}}` for the defaults"
        mend = f"{first}, or {'`null` to leave it out' if may_be_null(place) else 'remove the line'}"
    elif isinstance(origin := typing.get_origin(place), type) and issubclass(origin, Mapping):
        mend = f"Write its keys under it, or `{key}: {{}}`, or remove the line"
    return Problem(dotted(loc), "has no value", mend)


def published_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema, with the tenants' parts described: any part of a policy, nothing required."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "shieldkit policy"
    part = {key: {**value} for key, value in schema["properties"].items() if key != "tenants"}
    part["guards"] = {"type": "object", "description": "Sections and settings of guards; null leaves a guard out."}
    schema["properties"]["tenants"]["additionalProperties"] = {
        "type": "object", "properties": part, "additionalProperties": False,
    }  # fmt: skip
    for section in schema["$defs"].values():
        for field in section.get("properties", {}).values():
            if field.get("pattern") == PATTERN and "default" in field:
                field["default"] = written(field["default"])
    return schema
