"""Backends: each a file, loaded when it is first named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shieldkit.backends.base import (
    Backend,
    CallOptions,
    Completion,
    CompletionRequest,
    Piece,
    Progress,
    PromptBackend,
    PromptCompletion,
    StreamingBackend,
)

if TYPE_CHECKING:
    from shieldkit.backends.llama_cpp import LlamaCpp

__all__ = [
    "Backend",
    "CallOptions",
    "Completion",
    "CompletionRequest",
    "LlamaCpp",
    "Piece",
    "Progress",
    "PromptBackend",
    "PromptCompletion",
    "StreamingBackend",
]


def __getattr__(name: str) -> Any:
    if name == "LlamaCpp":
        from shieldkit.backends.llama_cpp import LlamaCpp

        return LlamaCpp
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
