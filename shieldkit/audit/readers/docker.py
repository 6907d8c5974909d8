"""Dockerfiles and compose files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shieldkit.audit import commands
from shieldkit.audit.deployment import Container, Deployment, Reach, is_on
from shieldkit.audit.findings import Given
from shieldkit.audit.located import Map, Problem, Seq, text_of
from shieldkit.audit.readers.shell import expanded, statements

_INSTRUCTION = re.compile(r"\s*([A-Za-z]+)\s+(.*)", re.S)


@dataclass
class _Stage:
    """One stage of a Dockerfile, as it is built up."""

    image: Given
    environment: dict[str, Given] = field(default_factory=dict)
    user: Given | None = None
    entry: list[Given] = field(default_factory=list)
    command: list[Given] = field(default_factory=list)


def dockerfile(text: str, file: str) -> Iterator[Deployment]:
    """The server that the last stage of a Dockerfile starts. Raises `Problem` when it is no Dockerfile."""
    stages: dict[str, _Stage] = {}
    arguments: dict[str, Given] = {}
    stage: _Stage | None = None
    for line, name, rest in _instructions(text):
        if name == "ARG":
            variable, _, default = rest.partition("=")
            arguments[variable.strip()] = Given(default.strip().strip("\"'"), file, line)
        elif name == "FROM":
            stage = _from(rest, Given(rest, file, line), stages, arguments)
        elif stage is not None:
            _instruct(stage, name, rest, Given(rest, file, line), arguments)
    if stage is None:
        raise Problem("is no Dockerfile: it has no FROM")
    found = commands.of_container(stage.image, stage.entry, stage.command, stage.environment)
    if found is not None:
        container = Container(where=stage.image, image=stage.image, user=stage.user)
        found = replace(found, container=container, reach=Reach.INTERNAL)
        yield commands.deployment(found, f"image from {file.rpartition('/')[2]}")


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Instructions, continuation lines joined by a line end so that each line keeps its number."""
    pending: list[str] = []
    first = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("#") or (not line and not pending):
            if pending:
                pending.append("")
            continue
        first = first if pending else number
        pending.append(line.removesuffix("\\"))
        if line.endswith("\\"):
            continue
        match = _INSTRUCTION.fullmatch("\n".join(pending))
        if match is not None:
            yield first, match[1].upper(), match[2]
        pending = []


def _from(rest: str, where: Given, stages: dict[str, _Stage], arguments: Mapping[str, Given]) -> _Stage:
    words = [word for word in expanded(rest, arguments).split() if not word.startswith("--")]
    image = words[0] if words else ""
    base = stages.get(image.lower())
    # What an earlier stage has set holds in a stage that is built on it.
    stage = replace(base, environment=dict(base.environment)) if base else _Stage(replace(where, value=image))
    if len(words) >= 3 and words[1].lower() == "as":
        stages[words[2].lower()] = stage
    return stage


def _instruct(stage: _Stage, name: str, rest: str, where: Given, arguments: Mapping[str, Given]) -> None:
    if name == "ENV":
        for given in _words(rest, where):
            variable, equals, value = given.value.partition("=")
            if equals:
                stage.environment[variable] = replace(given, value=expanded(value, {**arguments, **stage.environment}))
            else:  # the old form: ENV NAME value
                stage.environment[variable] = replace(where, value=rest.partition(" ")[2].strip())
                break
    elif name == "USER":
        stage.user = where
    elif name == "ENTRYPOINT":
        stage.entry, stage.command = _form(rest, where, stage), []
    elif name == "CMD":
        stage.command = _form(rest, where, stage)


def _form(rest: str, where: Given, stage: _Stage) -> list[Given]:
    """A command in exec form (a JSON list) or shell form."""
    if rest.lstrip().startswith("["):
        try:
            parsed = json.loads(rest)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, list) and all(isinstance(word, str) for word in parsed):
            return _placed(parsed, rest, where)
    return [replace(w, value=expanded(w.value, stage.environment)) for w in _words(rest, where)]


def _placed(words: Sequence[str], text: str, where: Given) -> list[Given]:
    """Words of a JSON list that goes over several lines, each with its line."""
    placed, at = [], 0
    for word in words:
        found = text.find(json.dumps(word), at)
        at = found if found >= 0 else at
        placed.append(Given(word, where.file, where.line + text.count("\n", 0, at)))
    return placed


def _words(text: str, where: Given) -> list[Given]:
    joined = text.replace("\n", " \\\n")
    return [word for words in statements(joined, where.file, where.line) for word in words]


# -- compose ----------------------------------------------------------------------------------------------------------


def is_compose(document: Any) -> bool:
    """Has this document the shape of a compose file?"""
    services = document.get("services") if isinstance(document, Map) else None
    return isinstance(services, Map) and any(
        isinstance(s, Map) and ({"image", "build"} & s.keys()) for s in services.values()
    )


def compose(document: Map, file: str) -> Iterator[Deployment]:
    """The servers among the services of a compose file."""
    for name, service in document["services"].items():
        if not isinstance(service, Map):
            continue
        where = Given(name, file, document["services"].at(name))
        image = Given(text_of(service.get("image")), file, service.at("image"))
        image = replace(image, value=expanded(image.value, {}))
        found = commands.of_container(
            image, words(service, "entrypoint", file), words(service, "command", file), environment(service, file)
        )
        if found is None:
            continue
        container = _service(service, where, image if image.value else None, file)
        reach, gate = commands.published_reach(container)
        found = replace(found, container=container, reach=reach, gate=gate)
        yield commands.deployment(found, f"service {name}")


def words(holder: Map, key: str, file: str) -> list[Given]:
    """A command: a list of words, or one string that a shell would split."""
    value = holder.get(key)
    if isinstance(value, Seq):
        found = []
        for index, word in enumerate(value):
            text = text_of(word)
            at = Given(text, file, value.at(index))
            # `- --flag value` as one item is written often, and shells out there forgive it.
            split = text.startswith("-") and " " in text and "\n" not in text and "=" not in text.split(" ")[0]
            found += [replace(at, value=part) for part in text.split(" ", 1)] if split else [at]
        return found
    text = text_of(value)
    line = holder.at(key)
    return _words(" ".join(text.splitlines()) if "\\" not in text else text.replace("\\\n", " "), Given(text, file, line)) \
        if text else []  # fmt: skip


def environment(service: Map, file: str) -> dict[str, Given]:
    """A service's variables, in either form."""
    value = service.get("environment")
    found: dict[str, Given] = {}
    if isinstance(value, Map):
        found = {name: Given(text_of(content), file, value.at(name)) for name, content in value.items()}
    elif isinstance(value, Seq):
        for index, entry in enumerate(value):
            name, _, content = text_of(entry).partition("=")
            found[name] = Given(content, file, value.at(index))
    return found


def _service(service: Map, where: Given, image: Given | None, file: str) -> Container:
    def given(key: str) -> Given | None:
        return Given(text_of(service[key]), file, service.at(key)) if service.get(key) is not None else None

    network, ipc, privileged = given("network_mode"), given("ipc"), given("privileged")
    return Container(
        where, image, user=given("user"),
        privileged=privileged if privileged is not None and is_on(privileged.value) else None,
        host_network=network if network is not None and network.value == "host" else None,
        host_ipc=ipc if ipc is not None and ipc.value == "host" else None,
        published=tuple(_parts(service.get("ports"), file, _port)), mounts=tuple(_parts(service.get("volumes"), file, _mount)),
        capabilities=tuple(_parts(service.get("cap_add"), file, text_of)), says_user=False,
    )  # fmt: skip


def _parts(value: Any, file: str, text: Any) -> Iterator[Given]:
    if isinstance(value, Seq):
        for index, part in enumerate(value):
            yield Given(text(part), file, value.at(index))


def _port(value: Any) -> str:
    if isinstance(value, Map):  # the long form
        host, published = text_of(value.get("host_ip")), text_of(value.get("published"))
        return (
            f"{host}:{published}:{text_of(value.get('target'))}"
            if host
            else f"{published}:{text_of(value.get('target'))}"
        )
    return text_of(value)


def _mount(value: Any) -> str:
    return (
        f"{text_of(value.get('source'))}:{text_of(value.get('target'))}" if isinstance(value, Map) else text_of(value)
    )
