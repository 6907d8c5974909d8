"""GGUF files and Hugging Face folders: context, templates, tokens, provenance, and what would run when they are loaded."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shieldkit.audit import gguf, located, pickles
from shieldkit.audit.findings import Given
from shieldkit.audit.located import Problem

MAX_JSON_BYTES, MAX_HEADER_BYTES, MAX_FILES = 64_000_000, 50_000_000, 2_000
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "max_sequence_length")
_WEIGHTS = (".safetensors", ".gguf", *pickles.SUFFIXES)
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.S)
Progress = Callable[[str, int, int], None]
"""Told of a file's name, the bytes that are read and all of its bytes."""


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template as a file carries it. `tokens` are the model's control tokens, where they are known."""

    name: str
    where: Given
    """`value` is the template's text."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that a tokenizer treats apart from ordinary text. `control`: only where special tokens are wanted."""

    text: str
    control: bool


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model as it lies on disk."""

    name: str
    where: Given
    names: tuple[Given, ...] = ()
    """What the model says that it is."""
    bases: tuple[Given, ...] = ()
    """What it says that it was made from."""
    context: Given | None = None
    templates: tuple[Template, ...] = ()
    tokens: tuple[Token, ...] = ()
    code: tuple[Given, ...] = ()
    pickles: tuple[tuple[Given, tuple[str, ...], bool], ...] = ()
    digests: tuple[tuple[Given, str], ...] = ()
    """Weights and their SHA-256."""


def gguf_file(path: Path, *, digest: bool, progress: Progress | None = None) -> ModelFiles:
    """A GGUF file. Raises `Problem`."""
    metadata = gguf.read(path)
    file = str(path)
    length = metadata.number(f"{metadata.text('general.architecture')}.context_length")
    named = [metadata.text("tokenizer.chat_template")]
    named += [metadata.text(k) for k in metadata.values if k.startswith("tokenizer.chat_template.")]
    types = metadata.token_types if len(metadata.token_types) == len(metadata.tokens) else (1,) * len(metadata.tokens)
    return ModelFiles(
        path.name, Given(path.name, file, 0),
        names=tuple(_given(file, metadata.text("general.name"), metadata.text("general.repo_url"))),
        bases=tuple(_given(file, *_gguf_bases(metadata))),
        context=Given(str(length), file, 0) if length is not None else None,
        templates=tuple(Template(f"{path.name}: chat template", Given(text, file, 0)) for text in named if text),
        tokens=tuple(
            Token(text, kind == gguf.CONTROL) for text, kind in zip(metadata.tokens, types, strict=True)
            if kind in (gguf.CONTROL, gguf.USER_DEFINED)
        ),
        digests=((Given(path.name, file, 0), sha256(path, progress)),) if digest else (),
    )  # fmt: skip


def _gguf_bases(metadata: gguf.Metadata) -> Iterator[str]:
    for index in range(min(metadata.number("general.base_model.count") or 0, 64)):
        part = f"general.base_model.{index}"
        url = metadata.text(f"{part}.repo_url")
        yield "/".join(url.rstrip("/").rsplit("/", 2)[-2:]) if url else metadata.text(f"{part}.name")


def _given(file: str, *values: str) -> Iterator[Given]:
    yield from (Given(value, file, 0) for value in values if value)


def is_folder(path: Path) -> bool:
    """Is this the folder of a Hugging Face model, or of an adapter?"""
    if (path / "adapter_config.json").is_file():
        return True
    others = ("tokenizer_config.json", "tokenizer.json", "generation_config.json", "model.safetensors.index.json")
    return (path / "config.json").is_file() and (
        any((path / name).is_file() for name in others) or any(p.suffix in _WEIGHTS for p in _files(path))
    )


def folder(path: Path, *, digest: Callable[[Path], bool], progress: Progress | None = None) -> ModelFiles:
    """A Hugging Face folder. Raises `Problem` when a file that counts cannot be read."""
    config, tokenizer = _json(path / "config.json"), _json(path / "tokenizer_config.json")
    adapter = _json(path / "adapter_config.json")
    generation = _json(path / "generation_config.json")
    found, code, digests = [], [], []
    for file in _files(path):
        where = Given(file.name, str(file), 0)
        if file.suffix == ".py":
            code.append(where)
        elif file.suffix == ".safetensors":
            _safetensors(file)
            digests += [(where, sha256(file, progress))] if digest(file) else []
        elif pickles.is_pickle(file):
            names, whole = pickles.calls(file)
            found.append((where, names, whole))
    for name, values in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer),
        ("generation_config.json", generation),
    ):
        code += [Given(key, str(path / name), 0) for key in ("auto_map", "trust_remote_code") if values.get(key)]
    lengths = [config.get(key) for key in _CONTEXT_KEYS] + [
        _mapping(config.get("text_config")).get(k) for k in _CONTEXT_KEYS
    ]
    longest = max((n for n in lengths if isinstance(n, int) and not isinstance(n, bool)), default=None)
    return ModelFiles(
        path.name, Given(path.name, str(path), 0),
        names=tuple(_strings(path / "config.json", config.get("_name_or_path"))),
        bases=(*_strings(path / "adapter_config.json", adapter.get("base_model_name_or_path")), *_card(path / "README.md")),
        context=Given(str(longest), str(path / "config.json"), 0) if longest is not None else None,
        templates=tuple(_templates(path, tokenizer)), tokens=tuple(_tokens(path, tokenizer)),
        code=tuple(code), pickles=tuple(found), digests=tuple(digests),
    )  # fmt: skip


def _files(path: Path) -> list[Path]:
    try:
        found = [p for p in sorted(path.iterdir()) if not p.is_dir()][:MAX_FILES]
        return [p for p in found if p.is_file()]
    except OSError:
        return []


def _json(path: Path) -> Mapping[str, Any]:
    """A JSON object; an empty one where there is no file. Raises `Problem`."""
    if not path.exists():
        return {}
    data = located.read_bytes(path, MAX_JSON_BYTES)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Problem(f"its {path.name} is not JSON") from None
    if not isinstance(found, dict):
        raise Problem(f"its {path.name} is not a JSON object")
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(path: Path, value: Any) -> Iterator[Given]:
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and text and len(text) < 500:
            yield Given(text, str(path), 0)


def _card(path: Path) -> Iterator[Given]:
    """`base_model` of the model card's metadata."""
    if not path.is_file():
        return
    match = _FRONT_MATTER.match(located.read_text(path, MAX_JSON_BYTES)[:200_000])
    documents = located.documents(match[1]) if match else []
    if documents and isinstance(documents[0], located.Map):
        values = documents[0].get("base_model")
        for text in values if isinstance(values, list) else [values]:
            if isinstance(text, str) and text:
                yield Given(text, str(path), documents[0].at("base_model") + 1)


def _templates(path: Path, tokenizer: Mapping[str, Any]) -> Iterator[Template]:
    carried = tokenizer.get("chat_template")
    where = str(path / "tokenizer_config.json")
    for entry in carried if isinstance(carried, list) else [carried]:
        text = _mapping(entry).get("template") if isinstance(entry, dict) else entry
        if isinstance(text, str) and text:
            which = _mapping(entry).get("name") if isinstance(entry, dict) else None
            yield Template(
                f"{path.name}: chat template" + (f" {which}" if isinstance(which, str) else ""), Given(text, where, 0)
            )
    for file in (path / "chat_template.jinja", *sorted((path / "additional_chat_templates").glob("*.jinja"))[:50]):
        if file.is_file():
            yield Template(f"{path.name}: {file.name}", Given(located.read_text(file), str(file), 1))
    extra = _json(path / "chat_template.json").get("chat_template")
    if isinstance(extra, str) and extra:
        yield Template(f"{path.name}: chat_template.json", Given(extra, str(path / "chat_template.json"), 0))


def _tokens(path: Path, tokenizer: Mapping[str, Any]) -> Iterator[Token]:
    entries = list(_mapping(tokenizer.get("added_tokens_decoder")).values())
    if not entries:
        listed = _json(path / "tokenizer.json").get("added_tokens")
        entries = listed if isinstance(listed, list) else []
    for entry in entries:
        text = _mapping(entry).get("content")
        if isinstance(text, str):
            yield Token(text, bool(_mapping(entry).get("special")))


def _safetensors(path: Path) -> None:
    """Hold a safetensors header to its file. Raises `Problem`."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise Problem(f"its {path.name} has no header that fits into the file")
        data = stream.read(length)
    try:
        header = json.loads(data)
        ends = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        sound = all(0 <= start <= end <= size - 8 - length for start, end in ends)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise Problem(f"its {path.name} has a header that does not describe the file")


def sha256(path: Path, progress: Progress | None = None) -> str:
    """The digest of a file, read in pieces."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while piece := stream.read(1 << 22):
            digest.update(piece)
            done += len(piece)
            if progress is not None:
                progress(path.name, done, size)
    return digest.hexdigest()
