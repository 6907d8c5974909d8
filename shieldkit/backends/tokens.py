"""Pieces of a prompt to token ids, by a server's tokenizer or by a local `tokenizer.json`, and what to do without one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from shieldkit.backends.base import Piece
from shieldkit.backends.inert import Inert
from shieldkit.errors import BackendError, MissingExtra, ModelFileError

MAX_FILE_BYTES = 256_000_000
CACHED_CHARS = 4096
# What templates add of their own: a few tokens for each message, and for some a system prompt of their own.
TOKENS_A_MESSAGE, TOKENS_A_TEMPLATE = 16, 256
# No token of an answer is longer, reasoning included.
BYTES_A_TOKEN = 1024


@dataclass(slots=True)
class PieceTokens:
    """Tokenizes pieces: control pieces with control tokens on; all other text so that it never becomes one.

    `encode` tokenizes with control tokens on, `plain` with them off, for engines that can; without it, text is cut inside
    control tokens. `control` are the model's control tokens with their ids, as far as they are known. `prefix` stands
    before every prompt that does not begin with it.
    """

    encode: Callable[[str], list[int]]
    inert: Inert
    control: Mapping[str, int]
    plain: Callable[[str], list[int]] | None = None
    prefix: tuple[int, ...] = ()
    _cache: LRUCache[tuple[str, bool], list[int]] = field(default_factory=lambda: LRUCache(4096), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        """The ids of a prompt. Raises `BackendError` when text would become a control token all the same."""
        ids: list[int] = []
        for piece in pieces:
            ids += self._encoded(piece.text, True) if piece.control else self.text_ids(piece.text)
        return ids if tuple(ids[: len(self.prefix)]) == self.prefix else [*self.prefix, *ids]

    def text_ids(self, text: str) -> list[int]:
        """The ids of text that is no part of a template."""
        if self.plain is not None:
            ids = self._encoded(text, False)
        else:
            ids = [i for part in self.inert.parts(text) for i in self._encoded(part, True)]
        # A tokenizer that folds its input may see a control token where none is spelled: then nothing is sent.
        if not set(self.control.values()).isdisjoint(ids):
            raise BackendError("a text would become a control token in this model's tokenizer")
        return ids

    def _encoded(self, text: str, special: bool) -> list[int]:
        if not text:
            return []
        with self._lock:
            found = self._cache.get((text, special))
        if found is None:
            found = self.encode(text) if special or self.plain is None else self.plain(text)
            if len(text) <= CACHED_CHARS:
                with self._lock:
                    self._cache[text, special] = found
        return found


def most_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> int:
    """No tokenizer is at hand: not more tokens than this. A token is at least a byte, and templates add little."""
    data = json.dumps([messages, tools], ensure_ascii=False).encode("utf-8", "replace")
    return len(data) + TOKENS_A_MESSAGE * len(messages) + TOKENS_A_TEMPLATE


def probed(encode: Callable[[str], list[int]], candidates: Sequence[str]) -> dict[str, int]:
    """Which of `candidates` are one token, in one or a few requests: they are tokenized together, on lines of their own.

    A token of the ordinary vocabulary may be among them. That does no harm: its text is cut in two, which reads the same.
    """
    mark = encode("7\n7\n7")[-3:-1]  # a digit and a line end melt with nothing, in any common tokenizer
    found: dict[str, int] = {}
    _halved(encode, [c for c in candidates if "\n" not in c and c.strip() == c and len(c) > 1], mark, found)
    return found


def _halved(encode: Callable[[str], list[int]], words: Sequence[str], mark: list[int], found: dict[str, int]) -> None:
    """Between two marks stands what a word became. Where a mark is missing, the words are asked in two halves."""
    if not words:
        return
    ids = encode("".join(f"7\n{word}" for word in words) + "7\n7")
    places = [i for i in range(len(ids) - 1) if ids[i : i + 2] == mark]
    if len(places) == len(words) + 1:
        found |= {w: ids[a + 2] for w, (a, b) in zip(words, pairwise(places), strict=True) if b - a == 3}
    elif len(words) > 1:
        half = len(words) // 2
        _halved(encode, words[:half], mark, found)
        _halved(encode, words[half:], mark, found)


# -- a tokenizer on disk ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer as Hugging Face models carry it: `tokenizer.json`, and beside it, where they are, template and names."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    control: Mapping[str, int]
    template: str | None
    bos: str
    eos: str

    @classmethod
    def read(cls, path: str | Path) -> TokenizerFiles:
        """Of a folder, or of the file. Raises `ModelFileError`."""
        given = Path(path)
        file = given / "tokenizer.json" if given.is_dir() else given
        try:
            import tokenizers
        except ImportError as error:
            raise MissingExtra("tokenizers", "openai", name=error.name) from None
        try:
            tokenizer = tokenizers.Tokenizer.from_str(_text(file))
        except Exception as error:  # the library raises a plain Exception for what is no tokenizer
            problem = f"{file.name} cannot be read as a tokenizer ({type(error).__name__})"
            raise ModelFileError("tokenizer", problem, mend="Give the tokenizer.json of the model") from None
        added = tokenizer.get_added_tokens_decoder()
        control = {token.content: i for i, token in added.items() if token.content.strip()}
        config = _config(file.parent / "tokenizer_config.json")
        template = file.parent / "chat_template.jinja"
        source = _text(template) if template.is_file() else config.get("chat_template")
        return cls(
            encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
            decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)),
            control=control, template=source if isinstance(source, str) else None,
            bos=_spelled(config.get("bos_token")), eos=_spelled(config.get("eos_token")),
        )  # fmt: skip


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ModelFileError("tokenizer", f"{file.name} is too long", mend="Give the tokenizer.json of the model")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{file.name} cannot be read ({type(error).__name__})"
        raise ModelFileError("tokenizer", problem, mend="Give the folder that holds tokenizer.json") from None


def _config(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(_text(file)) if file.is_file() else {}
    except (ValueError, RecursionError):
        raise ModelFileError("tokenizer", f"{file.name} is not JSON", mend="Get it again from its publisher") from None
    return config if isinstance(config, Mapping) else {}


def _spelled(token: Any) -> str:
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""
