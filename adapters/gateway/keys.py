"""API keys: who calls, and what the call may say of itself.

A key is 256 random bits, so its SHA-256 is as hard to turn back as the key is to guess, and the file needs no slow hash; a
password that a person made up has no place here. Every record is compared, in constant time, also after one has matched.
Records are configuration of the operator's; what a client sends can only pick one of them.

    keys:
      - id: shop
        sha256: 0f3c…
        tenant: acme
        may_instruct: true
        may_name: [user, session]
        requests: {limit: 600, window: 1m}
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from shieldkit.budget import Principal
from shieldkit.errors import ConfigurationError
from shieldkit.policy import reading
from shieldkit.policy.durations import Seconds
from shieldkit.policy.model import Section
from shieldkit.policy.problems import PolicyProblems, Problem, dotted

PREFIX = "sk-shield-"
MAX_KEYS = 10_000

Part = Literal["user", "session", "task"]
_Id = Annotated[str, Field(min_length=1, max_length=256)]


class Rate(Section):
    """At most `limit` requests in any `window`."""

    limit: Annotated[int, Field(ge=1, le=10_000_000)]
    window: Seconds


class Key(Section):
    """What one key stands for. Everything that it may do beyond asking has to be said."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")] = Field(
        description="A name for people, logs and metrics. Not secret."
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = Field(description="Of the key: `--new-key` tells it.")
    tenant: _Id | None = None
    user: _Id | None = None
    roles: tuple[Literal["admin", "metrics"], ...] = Field(
        (), description="admin: the dashboard and the metrics. metrics: the metrics."
    )
    may_instruct: bool = Field(
        False, description="Whether system and developer messages are trusted, and tools and schemas are taken."
    )
    may_name: tuple[Part, ...] = Field(
        (), description="Which parts of the principal a request may name; those of the key hold otherwise."
    )
    show_rule: bool = Field(False, description="Whether a refusal names its rule (`x-shieldkit-rule`).")
    stream: bool = Field(
        True, description="Whether text may leave before all gates have passed, if the policy streams."
    )
    over_budget: Literal["error", "refusal"] = Field(
        "error", description="A used-up budget is a 429; or a refusal like any other, for tools that retry 429 forever."
    )
    requests: Rate | None = Field(None, description="How many requests, whatever their tokens.")

    def principal(self, named: Mapping[str, str]) -> Principal:
        """Who asks, when a request names these parts. Raises `ConfigurationError` for what is not an id."""
        may = {part: value for part, value in named.items() if part in self.may_name}
        return Principal(tenant=self.tenant, **{"user": self.user, **may})


_WORDS = {
    "extra_forbidden": "is not known here", "missing": "is missing", "too_short": "has no entry",
    "string_type": "is not text", "tuple_type": "is not a list", "model_type": "is not a section",
    "string_pattern_mismatch": "is not of the form that it must have",
}  # fmt: skip


class _File(Section):
    keys: Annotated[tuple[Key, ...], Field(min_length=1, max_length=MAX_KEYS)]

    @model_validator(mode="after")
    def _distinct(self) -> _File:
        for name in ("id", "sha256"):
            values = [getattr(key, name) for key in self.keys]
            if len(set(values)) != len(values):
                raise ValueError(f"two keys have the same {name}")
        return self


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that are known. `Keys.load(path)` reads the file; `find` tells whose key it is."""

    records: tuple[Key, ...]

    @classmethod
    def load(cls, path: str | Path) -> Keys:
        """Read a keys file (YAML or JSON). Raises `ConfigurationError`.

        A file that others than its owner may write is refused: whoever writes it lets himself in. Reading it lets nobody in.
        """
        path = Path(path)
        text = reading.read_file(
            path, mend="Give the path of a keys file; `shieldkit serve --new-key NAME` prints a record"
        )
        if os.name == "posix" and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            problem = "others than its owner may write it, and so let themselves in"
            raise ConfigurationError(str(path), problem, mend=f"chmod go-w {path.name}")
        document = reading.parse(text, str(path))
        lines = document.lines
        empty = [dotted(loc) for loc in document.empty]
        without = [Problem(key, "has no value", "Write one, or remove the line", lines.get(key)) for key in empty]
        if without or document.unclear:
            raise PolicyProblems(str(path), [*document.unclear, *without])
        try:
            return cls(_File.model_validate(document.data, context={"written": True}).keys)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = dotted(first["loc"]) or "keys"
            where = f"{path}:{lines[field]}: {field}" if field in lines else f"{path}: {field}"
            # Not the value: it may be a key itself, written where its digest belongs.
            problem = _WORDS.get(first["type"]) or str(first["msg"]).replace("Input should be", "must be")
            raise ConfigurationError(where, problem, mend="`shieldkit serve --new-key NAME` prints a record") from None

    def find(self, presented: str) -> Key | None:
        """The record of a key, or None."""
        digest, found = digest_of(presented), None
        for record in self.records:
            if hmac.compare_digest(record.sha256, digest):
                found = record
        return found


def digest_of(key: str) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)
