"""What stands between applications and models: LiteLLM's and nginx's configuration, and Ollama's Modelfiles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from shieldkit.audit.findings import Given
from shieldkit.audit.located import Map, maps, sub, text_of


@dataclass
class Proxy:
    """A proxy's routes to models, and what it lets through."""

    name: str
    models: list[Given] = field(default_factory=list)
    keys: list[Given] = field(default_factory=list)
    streaming: list[Given] = field(default_factory=list)
    logging: list[Given] = field(default_factory=list)
    unguarded: Given | None = None
    """The place where a key should be asked for, and none is."""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """An Ollama Modelfile."""

    name: str
    where: Given
    base: Given | None = None
    context: Given | None = None
    template: Given | None = None
    adapter: Given | None = None


def litellm(document: Map, file: str) -> Iterator[Proxy]:
    """A LiteLLM proxy's `config.yaml`."""
    made = Proxy("LiteLLM proxy")
    for route in maps(document.get("model_list")):
        parameters = sub(route, "litellm_params")
        model = text_of(parameters.get("model"))
        if model:
            made.models.append(Given(model, file, parameters.at("model")))
        if parameters.get("api_key"):
            made.keys.append(Given(text_of(parameters["api_key"]), file, parameters.at("api_key")))
        if parameters.get("stream") is True:
            made.streaming.append(Given("stream", file, parameters.at("stream")))
    general, common = sub(document, "general_settings"), sub(document, "litellm_settings")
    for key in ("master_key", "salt_key", "database_url"):
        if general.get(key):
            made.keys.append(Given(text_of(general[key]), file, general.at(key)))
    if not general.get("master_key"):
        made.unguarded = Given("", file, document.at("general_settings") if general else document.at("model_list"))
    made.logging += [Given(key, file, common.at(key)) for key in ("set_verbose",) if common.get(key) is True]
    for key in ("success_callback", "callbacks"):
        if common.get(key) and common.get("turn_off_message_logging") is not True:
            made.logging.append(Given(key, file, common.at(key)))
    yield made


_LOCATION = re.compile(r"\s*location\s")


def nginx(text: str, file: str) -> Iterator[Proxy]:
    """nginx in front of a model server: locations that pass tokens on as they come."""
    made = Proxy("nginx")
    depth, serves = 0, False
    unbuffered: list[Given] = []
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.partition("#")[0].strip()
        if _LOCATION.match(line) or (depth == 0 and bare.startswith("server")):
            serves, unbuffered = False, []
        serves = serves or bare.startswith("proxy_pass")
        if re.fullmatch(r"proxy_buffering\s+off\s*;", bare):
            unbuffered.append(Given("proxy_buffering", file, number))
        depth = max(0, depth + bare.count("{") - bare.count("}"))
        if serves and unbuffered:
            made.streaming += unbuffered
            unbuffered = []
    yield made


_INSTRUCTION = re.compile(r"(?i)^\s*(FROM|PARAMETER|TEMPLATE|ADAPTER|SYSTEM|LICENSE|MESSAGE)\s+(.*)$")


def modelfile(text: str, file: str) -> Iterator[Modelfile]:
    """An Ollama Modelfile; texts in triple quotes are passed over."""
    found: dict[str, Given] = {}
    quoted = False
    for number, line in enumerate(text.splitlines(), 1):
        match = None if quoted else _INSTRUCTION.match(line)
        if line.count('"""') % 2:
            quoted = not quoted
        if match is None:
            continue
        name, rest = match[1].upper(), match[2].strip()
        if name == "PARAMETER":
            key, _, value = rest.partition(" ")
            if key.lower() == "num_ctx":
                found["context"] = Given(value.strip(), file, number)
        elif name in ("FROM", "TEMPLATE", "ADAPTER"):
            found[name.lower()] = Given(rest, file, number)
    yield Modelfile(
        "Modelfile", Given("", file, 1), found.get("from"), found.get("context"), found.get("template"), found.get("adapter")
    )  # fmt: skip
