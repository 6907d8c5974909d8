"""From YAML text to plain data, and from pydantic's complaints to errors that name field, value, line and mend.

Stricter than YAML is by itself: one document, no duplicate keys, no anchors or aliases, no tags, and a size limit, so
that what a reviewer reads in the file is what the shield does.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from shieldkit.errors import PolicyError

MAX_BYTES = 1_000_000
MAX_DEPTH = 24
_MEND = "See `shieldkit policy schema` for what may stand here"


def read_file(path: Path) -> str:
    """The text of a policy file. Raises `PolicyError`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PolicyError(str(path), f"is larger than {MAX_BYTES} bytes", mend="A policy is a short file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        mend = "Give the path of a YAML file, or builtin:default"
        raise PolicyError(str(path), f"cannot be read ({error.strerror})", mend=mend) from None
    except UnicodeDecodeError:
        raise PolicyError(str(path), "is not UTF-8", mend="Save the file as UTF-8") from None


def parse(text: str, source: str) -> tuple[Any, Mapping[str, int]]:
    """Plain data, and the line number (from 1) of each dotted field. Raises `PolicyError`."""
    lines: dict[str, int] = {}
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            _plain_yaml(event, depth, source)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark: Any = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        problem = getattr(error, "problem", None) or "cannot be read"
        raise PolicyError(where, f"is not YAML: {problem}", mend="Mend the file's syntax") from None
    if node is not None:
        for path, line, duplicate in _walk(node, ""):
            if duplicate:
                raise PolicyError(f"{source}:{line}: {path}", "stands twice", mend="Keep one of the two")
            lines[path] = line
    return data, lines


def _plain_yaml(event: Any, depth: int, source: str) -> None:
    """Refuse what makes a file mean something other than it seems to: aliases, anchors, tags, merge keys, deep nesting."""
    where = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
    if depth > MAX_DEPTH:
        raise PolicyError(where, f"is nested deeper than {MAX_DEPTH}", mend="A policy is a flat file")
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise PolicyError(where, "uses an anchor or alias (&…, *…)", mend="Write the value out where it is used")
    if getattr(event, "tag", None) is not None:
        raise PolicyError(where, "uses a tag (!…)", mend="Write a plain value; quote it if it is text")
    if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
        raise PolicyError(where, "uses a merge key (<<)", mend="Write the values out where they are used")


def _walk(node: yaml.Node, path: str) -> Iterator[tuple[str, int, bool]]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            below = f"{path}.{key.value}" if path else str(key.value)
            yield below, key.start_mark.line + 1, key.value in seen
            seen.add(key.value)
            yield from _walk(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield f"{path}[{index}]", item.start_mark.line + 1, False
            yield from _walk(item, f"{path}[{index}]")


def explain(error: ValidationError, lines: Mapping[str, int], source: str, *, model: type[BaseModel]) -> PolicyError:
    """The first complaint in plain words; how many more there are is said too."""
    problems = error.errors(include_url=False)
    first = problems[0]
    field = dotted(first["loc"]) or "policy"
    line = lines.get(field)
    where = f"{source}:{line}: {field}" if line else f"{source}: {field}"
    more = f" ({len(problems) - 1} more problems after this one.)" if len(problems) > 1 else ""
    problem, mend = _plain(first, model)
    return PolicyError(where, problem, mend=mend + more)


def _plain(problem: Mapping[str, Any], model: type[BaseModel]) -> tuple[str, str]:
    kind, value, context = problem["type"], problem.get("input"), problem.get("ctx", {})
    if kind == "extra_forbidden":
        known = sorted(_keys_at(model, problem["loc"][:-1]))
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(known)}." if known else _MEND
        return "is not a key that a policy has here", hint
    if kind == "missing":
        return "is missing", "Add it. " + _MEND
    shown = f"{value!r:.60}"
    if kind == "value_error":
        text = str(context.get("error", ""))
        what, _, mend = text.partition(": ")
        return f"{what}" if isinstance(value, Mapping) else f"{shown} {what}", _sentence(mend or _MEND)
    if "expected" in context:
        return f"{shown} is not allowed", f"Use {context['expected']}"
    message = str(problem["msg"]).replace("Input should be", "must be")
    return f"{shown} {message}", _MEND


def _keys_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys known at a place of the model, by walking its fields."""
    current: type[BaseModel] | None = model
    for part in loc:
        if current is None:
            return []
        fields = {(f.alias or name): f for name, f in current.model_fields.items()}
        if part in fields:
            current = _model_in(fields[part].annotation)
    return [f.alias or name for name, f in current.model_fields.items()] if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(arg) for arg in typing.get_args(annotation))
    return next((model for model in found if model), None)


def dotted(loc: tuple[Any, ...]) -> str:
    """A pydantic location as a path: `guards.custom.x`, `keys[0].id`."""
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def published_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema, with the tenants' parts described: any part of a policy, nothing required."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "shieldkit policy"
    part = {key: {**value} for key, value in schema["properties"].items() if key != "tenants"}
    part["guards"] = {"type": "object"}
    schema["properties"]["tenants"]["additionalProperties"] = {
        "type": "object", "properties": part, "additionalProperties": False,
    }  # fmt: skip
    return schema


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
