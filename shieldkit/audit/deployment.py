"""How a model server is started, wherever that is written: the one shape that rules look at."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from shieldkit.audit.findings import Given
from shieldkit.audit.servers import Server

_OFF = frozenset({"false", "0", "no", "off", "f", "n", "none", "null"})
_SCALE = {"k": 1000, "m": 1_000_000, "g": 1_000_000_000, "K": 1024, "M": 1024**2, "G": 1024**3}


class Reach(enum.IntEnum):
    """From where the server can be reached."""

    HOST = 0
    """This machine (or pod) alone."""
    INTERNAL = 1
    """Other containers, the cluster's network; or it is not said, as in a Dockerfile."""
    NETWORK = 2
    """Whoever reaches the machine."""
    PUBLIC = 3
    """A load balancer, a node port or an ingress."""


@dataclass(frozen=True, slots=True)
class Container:
    """What a manifest says of the container that a server runs in. `None`: it says nothing."""

    where: Given
    image: Given | None = None
    user: Given | None = None
    non_root: bool | None = None
    privileged: Given | None = None
    host_network: Given | None = None
    host_ipc: Given | None = None
    published: tuple[Given, ...] = ()
    mounts: tuple[Given, ...] = ()
    capabilities: tuple[Given, ...] = ()
    says_user: bool = True
    """Whether a missing user means root, as in a Dockerfile; a compose file may leave it to the image."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a service manager says of the process. `user` is `None` where it runs as root."""

    where: Given
    user: Given | None
    kind: str


@dataclass(frozen=True)
class Deployment:
    """A model server as it is started: its options from command line, environment and configuration file."""

    server: Server
    name: str
    where: Given
    options: Mapping[str, tuple[Given, ...]] = field(default_factory=dict)
    on_command_line: frozenset[str] = frozenset()
    container: Container | None = None
    unit: Unit | None = None
    reach: Reach = Reach.NETWORK
    """How far it can be reached when it listens on all interfaces."""
    gate: Given | None = None
    """What makes it reachable: a published port, a service."""
    tls_in_front: bool = False
    version: tuple[int, ...] | None = None

    def get(self, *names: str) -> Given | None:
        """What is given for the first of these options that is given; the last value counts, as it does for servers."""
        for name in names:
            given = self.options.get(name)
            if given:
                return given[-1]
        return None

    def on(self, *names: str) -> Given | None:
        """The flag among these that is switched on."""
        for name in names:
            given = self.get(name)
            if given is not None and is_on(given.value):
                return given
        return None

    def off(self, name: str) -> bool:
        """Is the flag switched off, by `--no-NAME`, `--NAME=false` or its variable?"""
        given = self.get(name)
        return given is not None and not is_on(given.value)

    @property
    def listens(self) -> Given:
        """The address it listens on; without an option the server's own default, at the place of the command."""
        given = self.get("uds") or self.get("host")
        if given is not None and given.value:
            return given
        host = self.server.image_host if self.container is not None and self.container.image else self.server.host
        return replace(self.where, value=host)

    @property
    def reachable(self) -> Reach:
        """From where the server can be reached, all told."""
        return Reach.HOST if is_loopback(self.listens.value) else self.reach

    @property
    def key(self) -> Given | None:
        """The key that clients must show."""
        return self.get(*self.server.keys)

    @property
    def model(self) -> Given | None:
        """The model that is served."""
        return self.get("model", "hf-repo")

    @property
    def context(self) -> Given | None:
        """What caps the context."""
        return self.get(*self.server.context)


def is_on(value: str) -> bool:
    """Does the text of an option or variable switch it on? An option without a value does."""
    return value.strip().lower() not in _OFF


def is_loopback(address: str) -> bool:
    """Is this an address, a `host:port`, a URL or a socket's path that only this machine reaches?"""
    text = address.strip().strip("\"'")
    if text.endswith(".sock") or text.startswith(("/", "unix:")):
        return True
    text = text.partition("://")[2] or text
    host = text.split("/")[0]
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tokens(text: str) -> int | None:
    """A number of tokens as servers take it: `8192`, `32k`, `1M`, `-1`; `None` where it is no number."""
    text = text.strip().replace("_", "")
    scale = 1
    if text and text[-1] in _SCALE:
        scale, text = _SCALE[text[-1]], text[:-1]
    try:
        number = float(text) * scale if len(text) < 20 else None
    except ValueError:
        return None
    return int(number) if number is not None and abs(number) < 1e15 else None


def gather(given: Iterable[tuple[str, Given]]) -> dict[str, tuple[Given, ...]]:
    """Options by name, in the order in which they were given."""
    options: dict[str, tuple[Given, ...]] = {}
    for name, value in given:
        options[name] = (*options.get(name, ()), value)
    return options
