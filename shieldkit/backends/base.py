"""What the chain asks of a model, whatever serves it.

`Backend` completes a conversation within a token limit, counts its tokens, and tells its true context size and control
tokens. `PromptBackend` completes a raw prompt made of pieces, and tells the log-probabilities of the first token:
what guard models such as Llama Guard need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from shieldkit.conversation import Conversation


@dataclass(slots=True)
class Progress:
    """How many tokens have been generated so far, by a backend that counts them as they come; None where it does not.

    What is charged for an answer that was cut off.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One call of a model.

    `schema` is a JSON Schema for constrained decoding. `deadline` is in `time.monotonic()` seconds. A backend stops
    generating soon after `cancelled` is set.
    """

    conversation: Conversation
    max_output_tokens: int
    schema: Mapping[str, Any] | None = None
    temperature: float = 0.0
    seed: int | None = None
    deadline: float = float("inf")
    cancelled: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=Progress)

    def expired(self) -> bool:
        """Whether generating should stop now."""
        return self.cancelled.is_set() or time.monotonic() >= self.deadline


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer: the assistant's message in the wire form, and the real token counts."""

    message: Mapping[str, Any]
    input_tokens: int
    output_tokens: int
    finish_reason: str = "stop"
    model: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a raw prompt. Only `control` pieces may contain control tokens; other text never becomes one."""

    text: str
    control: bool = False


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """The continuation of a raw prompt. `first_token_logprobs` maps token text to its natural log-probability."""

    text: str
    first_token_logprobs: Mapping[str, float]
    input_tokens: int
    output_tokens: int


@runtime_checkable
class Backend(Protocol):
    """A model behind the shield. Calls may come from several threads at once."""

    @property
    def name(self) -> str:
        """What serves the model: `llama.cpp`, `vllm`, …"""
        ...

    @property
    def model(self) -> str:
        """The model's name, as it reports it."""
        ...

    @property
    def context_tokens(self) -> int:
        """The most tokens, prompt and answer together, that this backend takes."""
        ...

    @property
    def control_tokens(self) -> frozenset[str]:
        """The texts of all control tokens in the model's own vocabulary."""
        ...

    def count_tokens(self, conversation: Conversation, limit: int | None = None) -> int:
        """The tokens of the conversation as it will be sent, template included, by the model's own tokenizer.

        Far above `limit` it may stop, and return any number above it.
        """
        ...

    def complete(self, request: CompletionRequest) -> Completion:
        """Answer. Raises `BackendError`, `BackendTimeout` or `ContextExceeded`, and nothing else."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """What is used to answer (context size, GPU layers, digest); plain JSON, no secrets."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@runtime_checkable
class StreamingBackend(Backend, Protocol):
    """A backend that can answer bit by bit."""

    def stream(self, request: CompletionRequest) -> Iterator[str | Completion]:
        """New text of the answer as it comes, and at last the whole `Completion`; its text is that of the bits together.

        Only the answer's text comes in bits; reasoning and tool calls are in the completion. Closing the iterator, or
        setting `request.cancelled`, ends the generation, also on the server that does it. The deadline is for the whole
        answer. A backend that counts tokens as they come keeps `request.progress`. Raises what `complete` raises; an
        iterator that ends without a completion has failed.
        """
        ...


@runtime_checkable
class PromptBackend(Protocol):
    """A model that continues a raw prompt and tells log-probabilities."""

    @property
    def context_tokens(self) -> int:
        """The most tokens, prompt and answer together."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template that the model file carries, if any."""
        ...

    def count_pieces(self, pieces: Sequence[Piece]) -> int:
        """The tokens of a raw prompt."""
        ...

    def first_tokens(self, words: Sequence[str]) -> Mapping[str, str]:
        """For each word, the text of the first token that it begins with in this vocabulary."""
        ...

    def complete_pieces(
        self, pieces: Sequence[Piece], *, max_output_tokens: int, top_logprobs: int = 20, timeout_s: float = 60.0
    ) -> PromptCompletion:
        """Continue the prompt, greedily. Raises `BackendError`, `BackendTimeout` or `ContextExceeded`."""
        ...
