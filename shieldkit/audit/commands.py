"""From the words of a command to a `Deployment`: wrappers unwrapped, `docker run` understood, options by long names."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shieldkit.audit import located
from shieldkit.audit.deployment import Container, Deployment, Reach, gather, is_loopback, is_on
from shieldkit.audit.findings import Given
from shieldkit.audit.servers import Server, of_image, of_words

_WRAPPERS = frozenset(
    "exec nohup sudo env time nice ionice stdbuf numactl tini dumb-init gosu su-exec setsid timeout uv poetry conda run"
    " screen tmux srun taskset chrt catchsegv bash sh dash zsh ash command doas systemd-run mpirun -- then do else".split()
)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_RUNNERS = frozenset({"docker", "podman", "nerdctl"})
_SHELLS = frozenset({"bash", "sh", "dash", "zsh", "ash"})
_MAX_WRAPPED, _MAX_CONFIG_BYTES = 24, 200_000


@dataclass(frozen=True, slots=True)
class Started:
    """A command that starts a server: its words after the server's name, and the variables it is given."""

    server: Server
    where: Given
    words: tuple[Given, ...]
    environment: Mapping[str, Given]
    container: Container | None = None
    reach: Reach = Reach.NETWORK
    gate: Given | None = None


def started(words: Sequence[Given], environment: Mapping[str, Given] | None = None) -> Started | None:
    """The server that a command starts, if it starts one."""
    given = dict(environment or {})
    at = 0
    while at < len(words) and _ASSIGNMENT.match(words[at].value):
        _assign(given, words[at])
        at += 1
    rest = words[at:]
    if not rest:
        return None
    head = rest[0].value.rpartition("/")[2]
    if head in _RUNNERS and any(w.value in ("run", "create") for w in rest[1:3]):
        return _container_run(rest, given)
    return _wrapped(head, rest, given) if head in _WRAPPERS else _direct(rest, given)


def _wrapped(head: str, words: Sequence[Given], given: dict[str, Given]) -> Started | None:
    """What `sudo -u x …`, `timeout 10 …`, `bash -c "…"` and their like start."""
    for index in range(1, min(len(words), _MAX_WRAPPED)):
        word = words[index]
        if _ASSIGNMENT.match(word.value):
            _assign(given, word)
        elif head in _SHELLS and words[index - 1].value.startswith("-") and words[index - 1].value.endswith("c"):
            from shieldkit.audit.readers.shell import statements

            inner = (started(s, given) for s in statements(word.value, word.file, word.line))
            return next(filter(None, inner), None)
        elif (found := _direct(words[index:], given)) is not None:
            return found
        elif word.value.rpartition("/")[2] in _RUNNERS | _SHELLS:
            return started(words[index:], given)
    return None


def _assign(environment: dict[str, Given], word: Given) -> None:
    name, _, value = word.value.partition("=")
    environment[name] = replace(word, value=value)


def _direct(words: Sequence[Given], environment: Mapping[str, Given]) -> Started | None:
    found = of_words([w.value for w in words[:4]])
    if found is None:
        return None
    server, used = found
    return Started(server, words[0], tuple(words[used:]), environment)


def of_container(
    image: Given, entry: Sequence[Given], arguments: Sequence[Given], environment: Mapping[str, Given]
) -> Started | None:
    """What a container starts: by its command, or by what the image's own entry point is known to do."""
    whole = [*entry, *arguments]
    found = started(whole, environment) if whole else None
    if found is not None:
        return replace(found, where=whole[0])
    server = of_image(image.value)
    if server is None or entry:
        return None
    if server.name == "ollama" and arguments and arguments[0].value not in ("serve", "start"):
        return None
    return Started(server, image, tuple(arguments), environment)


# -- docker run -------------------------------------------------------------------------------------------------------

_VALUED = frozenset(
    "-p --publish -e --env -v --volume --mount --network --net -u --user --name --ipc --gpus --shm-size --restart"
    " --cap-add --cap-drop --security-opt --env-file --entrypoint -w --workdir -h --hostname --memory -m --cpus --device"
    " --label -l --ulimit --platform --log-driver --log-opt --runtime --add-host --pid --tmpfs --pull --link --expose"
    " --cpuset-cpus --group-add --dns --health-cmd --stop-timeout --cidfile --userns".split()
)


def _container_run(words: Sequence[Given], environment: Mapping[str, Given]) -> Started | None:
    options: list[tuple[str, Given]] = []
    at = next(i for i, w in enumerate(words) if w.value in ("run", "create")) + 1
    while at < len(words) and words[at].value.startswith("-"):
        name, equals, value = words[at].value.partition("=")
        if equals:
            options.append((name, replace(words[at], value=value)))
        elif name in _VALUED and at + 1 < len(words):
            options.append((name, words[at + 1]))
            at += 1
        elif name.startswith("-p") and len(name) > 2 and name[2].isdigit():
            options.append(("-p", replace(words[at], value=name[2:])))
        else:
            options.append((name, replace(words[at], value="true")))
        at += 1
    if at >= len(words):
        return None
    inside = dict(environment)
    image, arguments = words[at], words[at + 1 :]
    for given in _all(options, "-e", "--env"):
        if "=" in given.value:
            _assign(inside, given)
    entry = _all(options, "--entrypoint")
    found = of_container(image, entry, arguments, inside)
    if found is None:
        return None
    container = _run_container(words[0], image, options)
    reach, gate = published_reach(container)
    return replace(found, where=words[0], container=container, reach=reach, gate=gate)


def _all(options: Sequence[tuple[str, Given]], *names: str) -> list[Given]:
    return [given for name, given in options if name in names]


def _run_container(where: Given, image: Given, options: Sequence[tuple[str, Given]]) -> Container:
    def last(*names: str) -> Given | None:
        return next(reversed(_all(options, *names)), None)

    network, ipc = last("--network", "--net"), last("--ipc")
    privileged = last("--privileged")
    return Container(
        where, image, user=last("-u", "--user"),
        privileged=privileged if privileged is not None and is_on(privileged.value) else None,
        host_network=network if network is not None and network.value == "host" else None,
        host_ipc=ipc if ipc is not None and ipc.value == "host" else None,
        published=tuple(_all(options, "-p", "--publish")), mounts=tuple(_all(options, "-v", "--volume", "--mount")),
        capabilities=tuple(_all(options, "--cap-add")), says_user=False,
    )  # fmt: skip


def published_reach(container: Container) -> tuple[Reach, Given | None]:
    """How far a container's published ports, or the host's network, let it be reached."""
    if container.host_network is not None:
        return Reach.NETWORK, container.host_network
    for port in container.published:
        host, separator, _ = port.value.rpartition(":")
        address, inner, _ = host.rpartition(":")
        if not separator or not inner or not is_loopback(address or "0.0.0.0"):  # noqa: S104 - compared
            return Reach.NETWORK, port
    return (Reach.HOST, None) if container.published else (Reach.INTERNAL, None)


# -- options ----------------------------------------------------------------------------------------------------------


def deployment(found: Started, name: str) -> Deployment:
    """The deployment that a command makes. Options of the command line count before variables, those before a file."""
    server = found.server
    from_command = list(_options(server, found.words))
    from_environment = list(_variables(server, found.environment))
    config = next((g for n, g in reversed(from_command) if n == "config"), None)
    from_file = list(_config_file(config)) if config is not None else []
    image = found.container.image if found.container is not None else None
    return Deployment(
        server, name, found.where, gather([*from_file, *from_environment, *from_command]),
        on_command_line=frozenset(n for n, _ in from_command), container=found.container,
        reach=found.reach, gate=found.gate, version=_version(image),
    )  # fmt: skip


def _options(server: Server, words: Sequence[Given]) -> Iterator[tuple[str, Given]]:
    words = words[1:] if server.start and words and words[0].value in server.start else words
    pending: Given | None = None
    bare = False
    for word in words:
        if word.value.startswith("-") and len(word.value) > 1 and not _is_number(word.value):
            if pending is not None:
                yield pending.value, replace(pending, value="true")
            name, equals, value = word.value.lstrip("-").partition("=")
            pending, on = replace(word, value=_long(server, name)), "true"
            if (
                pending.value.startswith("no-") and pending.value[3:] in server.flags
            ):  # the last of --x and --no-x counts
                pending, on = replace(pending, value=pending.value[3:]), "false"
            if equals or pending.value in server.flags or pending.value.startswith("no-"):
                yield pending.value, replace(word, value=value if equals else on)
                pending = None
        elif pending is not None:
            yield pending.value, word
            pending = None
        elif server.positional and not bare:
            bare = True
            yield server.positional, word
    if pending is not None:
        yield pending.value, replace(pending, value="true")


def _is_number(text: str) -> bool:
    return text[1:].replace(".", "", 1).isdigit()


def _long(server: Server, name: str) -> str:
    name = name.replace("_", "-").partition(".")[0]
    negated = name.startswith("no-")
    bare = name[3:] if negated else name
    return ("no-" if negated else "") + server.short.get(bare, bare)


def _variables(server: Server, environment: Mapping[str, Given]) -> Iterator[tuple[str, Given]]:
    for variable, given in environment.items():
        name = server.environment.get(variable, "")
        if not name and server.prefix and variable.startswith(server.prefix):
            name = variable[len(server.prefix) :].lower().replace("_", "-")
        if name:
            yield name, given


def _config_file(config: Given) -> Iterator[tuple[str, Given]]:
    """vLLM and SGLang take a YAML file of options. It is looked for beside the file that names it, and nowhere else."""
    folder = Path(config.file).parent
    path = folder / os.path.basename(config.value)  # noqa: PTH119 - the name alone, whatever the path was
    if not path.is_file() or path.is_symlink():
        return
    try:
        documents = located.documents(located.read_text(path, _MAX_CONFIG_BYTES))
    except located.Problem:
        return
    yield from config_options(documents[0] if documents else None, str(path))


def config_options(document: object, file: str) -> Iterator[tuple[str, Given]]:
    """The options that stand in a configuration file."""
    if isinstance(document, located.Map):
        for key, value in document.items():
            if isinstance(value, str | int | float | bool) or value is None:
                yield key.replace("_", "-"), Given(located.text_of(value), file, document.at(key))


def _version(image: Given | None) -> tuple[int, ...] | None:
    match = re.search(r":v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", image.value) if image is not None else None
    return tuple(int(part or 0) for part in match.groups()) if match else None
