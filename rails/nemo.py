"""What NeMo Guardrails 0.24 is given of ours: an embedding provider, and a language model over a `Backend`.

Follows NeMo's `EmbeddingModel` base class and its `LLMModel` protocol (`nemoguardrails.types`). Import it only where
NeMo is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from nemoguardrails.embeddings.providers import register_embedding_provider
from nemoguardrails.embeddings.providers.base import EmbeddingModel
from nemoguardrails.types import ChatMessage, LLMResponse, LLMResponseChunk, UsageInfo

from shieldkit.backends.base import Backend, CompletionRequest
from shieldkit.conversation import Conversation, Segment
from shieldkit.embedding import SentenceEmbedder
from shieldkit.workers import Workers

EMBEDDING_ENGINE = "shieldkit"
_MAX_OUTPUT_TOKENS = 512
_TIMEOUT_S = 60.0


class OnnxEmbeddings(EmbeddingModel):  # type: ignore[misc]
    """NeMo's own searches (dialog rails, knowledge base) on the local ONNX model. Loaded when first used.

    `embedding_model` is `builtin`, or `FOLDER#SHA256` of a model of one's own.
    """

    engine_name = EMBEDDING_ENGINE

    def __init__(self, embedding_model: str = "builtin", **_: Any) -> None:
        folder, _hash, sha256 = embedding_model.rpartition("#")
        builtin = embedding_model == "builtin"
        self._model = (
            SentenceEmbedder.builtin() if builtin else SentenceEmbedder.from_folder(Path(folder), sha256=sha256)
        )
        self.embedding_size = self._model.dimensions

    def encode(self, documents: list[str]) -> list[list[float]]:
        """A unit vector for each document."""
        vectors: list[list[float]] = self._model.encode(documents).tolist()
        return vectors

    async def encode_async(self, documents: list[str]) -> list[list[float]]:
        """`encode`, for NeMo's loop, which is a private one: milliseconds, so it is not moved to another thread."""
        return self.encode(documents)


def register_embeddings() -> None:
    """Make the provider known to NeMo, whose registry is one for the process and refuses a name twice."""
    with contextlib.suppress(ValueError):  # already there
        register_embedding_provider(OnnxEmbeddings)


class BackendModel:
    """NeMo's `LLMModel` over a shieldkit backend. The prompt is sent as a user's text, so nothing in it is control."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._workers = Workers("rails-model", max_threads=4)

    @property
    def model_name(self) -> str:
        """The backend's model."""
        return self._backend.model

    @property
    def provider_name(self) -> str | None:
        """What serves it."""
        return self._backend.name

    @property
    def provider_url(self) -> str | None:
        """None: the backend knows where it is."""
        return None

    async def generate_async(
        self, prompt: str | list[ChatMessage], *, stop: list[str] | None = None, **kwargs: Any
    ) -> LLMResponse:
        """One answer. `max_tokens` and `temperature` are honoured; other parameters are the backend's own affair."""
        request = CompletionRequest(
            Conversation.of(_messages(prompt)),
            max_output_tokens=min(int(kwargs.get("max_tokens") or _MAX_OUTPUT_TOKENS), _MAX_OUTPUT_TOKENS),
            temperature=float(kwargs.get("temperature") or 0.0),
            deadline=time.monotonic() + _TIMEOUT_S,
        )
        try:
            answer = await asyncio.wrap_future(self._workers.submit(lambda: self._backend.complete(request)))
        except asyncio.CancelledError:
            request.cancelled.set()
            raise
        content = str(answer.message.get("content") or "")
        for mark in stop or ():
            content = content.split(mark, 1)[0]
        usage = UsageInfo(answer.input_tokens, answer.output_tokens, answer.input_tokens + answer.output_tokens)
        return LLMResponse(content=content, model=answer.model, finish_reason="stop", usage=usage)

    async def stream_async(
        self, prompt: str | list[ChatMessage], *, stop: list[str] | None = None, **kwargs: Any
    ) -> AsyncIterator[LLMResponseChunk]:
        """The whole answer as one chunk: rails judge whole texts."""
        answer = await self.generate_async(prompt, stop=stop, **kwargs)
        yield LLMResponseChunk(
            delta_content=answer.content, model=answer.model, finish_reason="stop", usage=answer.usage
        )


def _messages(prompt: str | list[ChatMessage]) -> list[Segment]:
    if isinstance(prompt, str):
        return [Segment(prompt)]
    return [Segment(m.content if isinstance(m.content, str) else "", role=m.role.value) for m in prompt]
