"""YAML and JSON as plain data that knows its lines, read from files that may be hostile.

A mapping is a `Map` (a `dict`), a list a `Seq` (a `list`); both know the line of each of their parts. Size, depth and
the number of parts after aliases are written out are bounded, so that an alias bomb costs nothing; tags make nothing.
JSON with comments and trailing commas (VS Code, Zed) is read too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2_000_000
MAX_DEPTH, MAX_PARTS, MAX_DOCUMENTS = 64, 100_000, 500


class Problem(Exception):
    """A file cannot be read; says why, in words that quote nothing of it."""


class Map(dict[str, Any]):
    """A mapping; `line` is its own, `at(key)` that of a key."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}

    def at(self, key: str) -> int:
        """The line of a key, or of the mapping where it has no such key."""
        return self.lines.get(key, self.line)


class Seq(list[Any]):
    """A list; `at(index)` is the line of a part."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int] = []

    def at(self, index: int) -> int:
        """The line of a part."""
        return self.lines[index] if index < len(self.lines) else self.line


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """A file's text. Raises `Problem` when it is no plain file, too large, or not UTF-8."""
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem("is not UTF-8") from None
    if "\0" in text:
        raise Problem("is not text")
    return text


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """At most `limit` bytes of a plain file; one that is larger is a `Problem`."""
    try:
        if not path.is_file():
            raise Problem("is not a plain file")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise Problem(f"cannot be read ({type(error).__name__})") from None
    if len(data) > limit:
        raise Problem(f"is larger than {limit} bytes")
    return data


def documents(text: str) -> list[Any]:
    """The documents of a YAML file. Raises `Problem`."""
    try:
        nodes = []
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            nodes.append(node)
            if len(nodes) > MAX_DOCUMENTS:
                raise Problem(f"has more than {MAX_DOCUMENTS} documents")
        builder = _Builder()
        return [builder.build(node, 0) for node in nodes if node is not None]
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        raise Problem("is not YAML" + (f" (line {mark.line + 1})" if mark is not None else "")) from None
    except (RecursionError, ValueError, OverflowError):
        raise Problem("is not YAML that can be read safely") from None


def jsonc(text: str) -> Any:
    """The value of a JSON file, with comments and trailing commas allowed. Raises `Problem`."""
    found = documents(_plain_json(text))
    if len(found) != 1:
        raise Problem("is not one JSON value")
    return found[0]


# Each alternative takes what it begins with to some end, so that no character is looked at more than a few times.
_STRING = r'"(?:[^"\\\n]|\\.)*"?'
_COMMENTS = re.compile(rf"{_STRING}|//[^\n]*|/\*(?:.*?\*/|.*\Z)|\t", re.S)
_COMMAS = re.compile(rf"{_STRING}|,(?=\s*[}}\]])", re.S)


def _plain_json(text: str) -> str:
    """The text without comments, trailing commas and tabs; lines stay where they are."""
    bare = _COMMENTS.sub(_uncommented, text)
    return _COMMAS.sub(lambda match: match.group() if match.group().startswith('"') else "", bare)


def _uncommented(match: re.Match[str]) -> str:
    part = match.group()
    return part if part.startswith('"') else "\n" * part.count("\n") or " "


class _Builder:
    """Nodes to data. Aliases are the same node again, so parts are counted as they are written out."""

    def __init__(self) -> None:
        self._parts = 0
        self._scalars = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, depth: int) -> Any:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Problem(f"has more than {MAX_PARTS} parts when its aliases are written out")
        if depth > MAX_DEPTH:
            raise Problem(f"is nested deeper than {MAX_DEPTH}")
        if isinstance(node, yaml.MappingNode):
            return self._map(node, depth)
        if isinstance(node, yaml.SequenceNode):
            made = Seq(node.start_mark.line + 1)
            for child in node.value:
                made.append(self.build(child, depth + 1))
                made.lines.append(child.start_mark.line + 1)
            return made
        return self._scalar(node)

    def _map(self, node: yaml.MappingNode, depth: int) -> Map:
        made = Map(node.start_mark.line + 1)
        merged: list[Map] = []
        for key, value in node.value:
            built = self.build(value, depth + 1)
            if key.tag == "tag:yaml.org,2002:merge":
                merged += [part for part in (built if isinstance(built, Seq) else [built]) if isinstance(part, Map)]
                continue
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
            made[name] = built
            made.lines[name] = key.start_mark.line + 1
        for part in merged:
            for name in part.keys() - made.keys():
                made[name] = part[name]
                made.lines[name] = part.at(name)
        return made

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag in _PLAIN:
            try:
                return self._scalars.construct_object(node)
            except (yaml.YAMLError, ValueError, OverflowError):
                return str(node.value)
        return str(node.value)


_PLAIN = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str"))


def text_of(value: Any) -> str:
    """A scalar as the text a program is given: `true` and `false` as YAML writes them, nothing for null."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def maps(value: Any) -> list[Map]:
    """The mappings in a list; none where it is no list."""
    return [part for part in value if isinstance(part, Map)] if isinstance(value, list) else []


def sub(value: Any, *keys: str) -> Map:
    """The mapping at a path of keys; an empty one where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Map) else None
    return value if isinstance(value, Map) else Map(0)
