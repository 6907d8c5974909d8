"""Backends: each a file, loaded when it is first named."""

from __future__ import annotations

from importlib import import_module
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
    from shieldkit.backends.langchain_model import LangChainModel
    from shieldkit.backends.llama_cpp import LlamaCpp
    from shieldkit.backends.openai_compatible import OpenAICompatible
    from shieldkit.backends.router import Router
    from shieldkit.backends.routes import Route, RouteLimit

__all__ = [
    "Backend",
    "CallOptions",
    "Completion",
    "CompletionRequest",
    "LangChainModel",
    "LlamaCpp",
    "OpenAICompatible",
    "Piece",
    "Progress",
    "PromptBackend",
    "PromptCompletion",
    "Route",
    "RouteLimit",
    "Router",
    "StreamingBackend",
]


_HOMES = {
    "LangChainModel": "langchain_model",
    "LlamaCpp": "llama_cpp",
    "OpenAICompatible": "openai_compatible",
    "Route": "routes",
    "RouteLimit": "routes",
    "Router": "router",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"shieldkit.backends.{_HOMES[name]}"), name)
