"""The known tokens: `data/catalogue.json`, built by `training/build_markers.py`; each names the files it was read from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_FILE = Path(__file__).parent / "data" / "catalogue.json"


@dataclass(frozen=True, slots=True)
class Token:
    """A control token or template marker. `ambiguous` ones stand in ordinary text too, such as `User: ` or `<image>`.

    `inert`: whether backends ask servers for it, and cut text inside it; also of some that say nothing by themselves.
    """

    text: str
    role: str
    regex: bool
    ambiguous: bool
    inert: bool
    families: tuple[str, ...]


@lru_cache(maxsize=1)
def catalogue() -> tuple[Token, ...]:
    """All known tokens."""
    rows = json.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(
        Token(
            row["token"], row["role"], row["kind"] == "regex", row["ambiguous"], row["inert"],
            tuple(f["family"] for f in row["families"]),
        )
        for row in rows
    )  # fmt: skip
