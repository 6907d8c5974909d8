"""What each kind of server says of itself, and how it is asked: a file each. To add one, write it and name it here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shieldkit.backends.dialects.base import Asked, Dialect, Served
from shieldkit.backends.dialects.llama_cpp_python import LlamaCppPython
from shieldkit.backends.dialects.llama_server import LlamaServer
from shieldkit.backends.dialects.ollama import Ollama
from shieldkit.backends.dialects.plain import Plain
from shieldkit.backends.dialects.sglang import SGLang
from shieldkit.backends.dialects.tgi import TGI
from shieldkit.backends.dialects.vllm import VLLM
from shieldkit.backends.wire import Wire

__all__ = ["DIALECTS", "Asked", "Dialect", "Served", "recognised"]

DIALECTS: Mapping[str, type[Dialect]] = {
    dialect.name: dialect for dialect in (VLLM, LlamaServer, TGI, SGLang, Ollama, LlamaCppPython, Plain)
}
"""By name. `Plain` is last: it is what a server is that shows no sign of being another."""


def recognised(wire: Wire, models: Any) -> type[Dialect]:
    """Which server this is: by the owner that it gives its models, or by a path that only it answers."""
    rows = models.get("data") if isinstance(models, Mapping) else None
    owner = rows[0].get("owned_by") if isinstance(rows, list) and rows and isinstance(rows[0], Mapping) else None
    for dialect in DIALECTS.values():
        if dialect.owner is not None and dialect.owner == owner:
            return dialect
    return next((dialect for dialect in DIALECTS.values() if dialect.answers(wire)), Plain)
