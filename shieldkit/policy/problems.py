"""What is wrong with a policy, all of it at once: each problem with its field, its value, its line and its mend.

pydantic says what it found in words of its own; here they become the words of a policy file.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from shieldkit.errors import PolicyError

MOST_TOLD = 100
UNKNOWN_KEY = "is not a key that a policy has here"
_MEND = "See `shieldkit policy schema` for what may stand here"

Location = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place. `path` is empty for the file as a whole; `line`, from 1, where it is known."""

    path: str
    problem: str
    mend: str
    line: int | None = None

    def field(self, source: str) -> str:
        """`policy.yaml:3: guards.markers.treshold`."""
        where = f"{source}:{self.line}" if self.line else source
        return f"{where}: {self.path}" if self.path else where

    def told(self, source: str) -> str:
        """The whole of it, in one line."""
        return f"{self.field(source)}: {self.problem}. {self.mend}"


class PolicyProblems(PolicyError):
    """A policy that cannot be used. Field, problem and mend are the first one's; `problems` are all, by line."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda p: p.line or 0))
        first = self.problems[0]
        super().__init__(first.field(source), first.problem, mend=first.mend)

    def __str__(self) -> str:
        lines = [problem.told(self.source) for problem in self.problems[:MOST_TOLD]]
        more = len(self.problems) - len(lines)
        return "\n".join([*lines, f"{self.source}: and {more} more problems"] if more else lines)


def placed(problem: Problem, lines: Mapping[str, int]) -> Problem:
    """The problem with its line, or that of the part it stands in: what is missing has none of its own."""
    path = problem.path
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return replace(problem, line=lines.get(path))


def dotted(loc: Location) -> str:
    """A location as a path: `guards.custom.x`, `keys[0].id`."""
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


# -- from pydantic's words ---------------------------------------------------------------------------------------------


def complaints(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """What pydantic has found, in plain words; no lines yet."""
    return [_plain(problem, model) for problem in error.errors(include_url=False)]


def _plain(found: Mapping[str, Any], model: type[BaseModel]) -> Problem:
    loc: Location = found["loc"]
    is_key = loc[-1:] == ("[key]",)
    path = dotted(loc[:-1] if is_key else loc)
    kind, value = found["type"], found.get("input")
    if kind == "extra_forbidden":
        return Problem(path, UNKNOWN_KEY, nearest(str(loc[-1]), keys_at(model, loc[:-1])))
    if kind == "missing":
        return Problem(path, "is missing", "Add it. " + _MEND)
    if kind == "value_error":
        what, _, mend = str(found["ctx"]["error"]).partition(": ")
        return Problem(path, what if isinstance(value, Mapping) else f"{shown(value)} {what}", _sentence(mend or _MEND))
    if not loc:
        return Problem("", *_WHOLE_FILE)
    problem, mend = _words(kind, value, found.get("ctx", {}), loc[-2 if is_key else -1])
    return Problem(path, f"{'the key ' if is_key else ''}{shown(value)} {problem}", mend)


_WHOLE_FILE = ("holds no policy", "Write keys and values; the least is `name: my-app` and `guards: {markers: {}}`")
_COMPARED = {
    "greater_than": ("gt", "is too small", "more than"), "greater_than_equal": ("ge", "is too small", "at least"),
    "less_than": ("lt", "is too large", "less than"), "less_than_equal": ("le", "is too large", "at most"),
    "string_too_short": ("min_length", "is too short", "at least so many characters:"),
    "string_too_long": ("max_length", "is too long", "at most so many characters:"),
    "too_short": ("min_length", "has too few entries", "at least"),
    "too_long": ("max_length", "has too many entries", "at most"),
}  # fmt: skip
_SHORT, _TIMES = re.compile("([0-9]{1,9}) ?([kKmM])"), {"k": 1_000, "m": 1_000_000}
_KINDS = (
    (("model", "dict", "mapping", "dataclass"), "is not a section", "Write keys and values under it, or `{}: {{}}`"),
    (("tuple", "list", "iterable"), "is not a list", "Write it as a list: `{}: [one, two]`"),
    (("int",), "is not a whole number", "Write a whole number, such as `{}: 2`"),
    (("float", "finite"), "is not a number", "Write a number, such as `{}: 0.5`"),
    (("bool",), "is neither true nor false", "Write `{0}: true` or `{0}: false`"),
    (("path",), "is not the path of a file", "Write the path as text"),
)  # fmt: skip


def _words(kind: str, value: Any, context: Mapping[str, Any], key: Any) -> tuple[str, str]:
    """Problem and mend of a value that is not of its field's kind, or out of its range."""
    if "expected" in context:
        return "is not allowed", f"Use {context['expected']}"
    if kind in _COMPARED:
        bound, problem, words = _COMPARED[kind]
        return problem, f"It must be {words} {context[bound]:g}"
    if kind == "string_pattern_mismatch":
        return "has characters, or an order of them, that may not stand here", f"It must fit {context['pattern']}"
    if kind.startswith("string"):
        text = shown(value)
        return "is not text", f'Put it in quotes: "{text}"' if isinstance(value, int | float) else "Write text"
    short = _SHORT.fullmatch(value) if kind.startswith("int") and isinstance(value, str) else None
    for kinds, problem, mend in _KINDS:
        if kind.startswith(kinds):
            written_out = f"Write it out: `{key}: {int(short[1]) * _TIMES[short[2].lower()]}`" if short else ""
            return problem, written_out or mend.format(key)
    return "cannot stand here", _MEND


def shown(value: Any) -> str:
    """A value as it would stand in the file, cut to a length that an error bears."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(name: str, known: Iterable[str], others: str = "Known keys") -> str:
    """The mend of a name that is not known: the one that it looks like, or all there are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{near[0]}'?" if near else f"{others}: {', '.join(known)}." if known else _MEND


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- what the model has at a place -------------------------------------------------------------------------------------


def keys_at(model: type[BaseModel], loc: Location) -> list[str]:
    """The keys that are known at a place."""
    found = model_in(annotation_at(model, loc))
    return [f.alias or name for name, f in found.model_fields.items()] if found is not None else []


def annotation_at(model: type[BaseModel], loc: Location) -> Any:
    """The type of what may stand at a place; None where there is no such place."""
    current: Any = model
    for part in loc:
        options = [option for option in _options(current) if option is not type(None)]
        current = options[0] if options else None
        if isinstance(current, type) and issubclass(current, BaseModel):
            fields = {(f.alias or name): f for name, f in current.model_fields.items()}
            current = fields[part].annotation if part in fields else None
        else:
            within = typing.get_args(current)
            is_mapping = isinstance(origin := typing.get_origin(current), type) and issubclass(origin, Mapping)
            current = None if not within else within[1] if is_mapping else within[0]
    return current


def may_be_null(annotation: Any) -> bool:
    """Whether `null` may stand there."""
    return type(None) in _options(annotation)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a place holds, where it holds one."""
    models = (o for o in _options(annotation) if isinstance(o, type) and issubclass(o, BaseModel))
    return next(models, None)


def _options(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, without what `Annotated` says beside them."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(option for arg in typing.get_args(annotation) for option in _options(arg))
    return (annotation,)
