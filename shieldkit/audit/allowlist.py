"""Which models may be used: a file with a name a line, as `--allow-models` takes it.

# a name, or the beginning of names where it ends in *; a digest where the file must be that one
meta-llama/Llama-3.1-8B-Instruct
Qwen/Qwen3-*
smollm2-135m-instruct.gguf sha256:8a2a…
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shieldkit.errors import ConfigurationError

MAX_BYTES, MAX_ENTRIES = 1_000_000, 10_000
_LINE = re.compile(r"(?P<name>[^\s*]+\*?)(?:\s+sha256:(?P<digest>[0-9a-f]{64}))?")


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Names of models, compared without regard to case; digests by name where the list has them."""

    names: frozenset[str]
    prefixes: tuple[str, ...] = ()
    digests: frozenset[tuple[str, str]] = frozenset()

    def allows(self, name: str) -> bool:
        """Is the name, or its last part (the file's name, the repository's), on the list?"""
        whole = name.strip().rstrip("/").casefold()
        return whole in self.names or whole.startswith(self.prefixes or ("\0",))

    def digest_of(self, name: str) -> str | None:
        """The digest that the list wants of a file of this name."""
        return dict(self.digests).get(Path(name).name.casefold())

    @property
    def named_digests(self) -> frozenset[str]:
        """The names of files whose digest the list has."""
        return frozenset(name for name, _ in self.digests)

    @classmethod
    def read(cls, path: Path) -> Allowlist:
        """Read a file. Raises `ConfigurationError`, which names the line."""
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ConfigurationError(str(path), f"is larger than {MAX_BYTES} bytes", mend="One model name a line")
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problem = f"cannot be read ({type(error).__name__})"
            raise ConfigurationError(str(path), problem, mend="Give a text file with one model name a line") from None
        return cls.of(lines[:MAX_ENTRIES], str(path))

    @classmethod
    def of(cls, lines: list[str], source: str = "allowlist") -> Allowlist:
        """The list from its lines. Raises `ConfigurationError`."""
        names, prefixes, digests = set(), [], set()
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            match = _LINE.fullmatch(text)
            if match is None:
                mend = "Write a name, and after it sha256: and 64 hexadecimal digits where the digest counts"
                raise ConfigurationError(f"{source}:{number}", "is not a model name", mend=mend)
            name = match["name"].casefold()
            if name.endswith("*"):
                prefixes.append(name[:-1])
            else:
                names.add(name)
            if match["digest"]:
                digests.add((Path(name).name, match["digest"]))
        return cls(frozenset(names), tuple(prefixes), frozenset(digests))
