"""What the chain asks of a model, whatever serves it.

`Backend` completes a conversation within a token limit, counts its tokens, and tells its true context size and control
tokens. `PromptBackend` completes a raw prompt made of pieces, and tells the log-probabilities of the first token:
what guard models such as Llama Guard need. `CallOptions` is what a caller may choose about one call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

from shieldkit.conversation import Conversation, Trust
from shieldkit.errors import BackendTimeout, InvalidConversation
from shieldkit.outcome import Usage
from shieldkit.tool_definitions import name_of

MAX_STOPS, MAX_STOP_CHARS = 16, 256
ToolChoice: TypeAlias = "str | Mapping[str, Any] | None"
_CHOICES = ("auto", "none", "required")
_LATE = (TimeoutError, BackendTimeout, GeneratorExit)


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a caller may choose about one call of the model. What is unset, the policy or the server decides.

    `tools` are definitions in the OpenAI wire form, which is sent to the model: they count against the budget, and the
    guards read them. `tool_trust`: `untrusted` for definitions that are not the application's own (an MCP server's).
    `tool_choice`: `auto`, `none`, `required`, or `{"type": "function", "function": {"name": …}}` for one of `tools`.
    `max_output_tokens` lowers the policy's cap, and cannot raise it. `temperature` is in 0..2, `stop` is up to 16 strings
    at which the answer ends. Raises `InvalidConversation` with the path of what cannot be.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: ToolChoice = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tool_trust: Trust = Trust.TRUSTED

    def __post_init__(self) -> None:
        _check(isinstance(self.tools, (tuple, list)), "tools", "is not a list of tools")
        names = [name_of(tool, f"options.tools[{i}]") for i, tool in enumerate(self.tools)]
        _check(len(set(names)) == len(names), "tools", "two tools have the same name")
        _check(_is_choice(self.tool_choice, names), "tool_choice", f"is none of {', '.join(_CHOICES)} or a tool given")
        most, stop = self.max_output_tokens, (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        _check(most is None or (type(most) is int and most >= 1), "max_output_tokens", "is not a number of tokens")
        _check(self.temperature is None or 0.0 <= self.temperature <= 2.0, "temperature", "is not within 0..2")
        _check(self.seed is None or type(self.seed) is int, "seed", "is not a whole number")
        fits = len(stop) <= MAX_STOPS and all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARS for s in stop)
        _check(fits, "stop", f"is not up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters")
        object.__setattr__(self, "tools", tuple(self.tools))
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "tool_trust", Trust(self.tool_trust))

    def output_tokens(self, most: int) -> int:
        """The most tokens that the answer may have, under a policy's cap of `most`."""
        return most if self.max_output_tokens is None else min(self.max_output_tokens, most)


def _is_choice(choice: ToolChoice, names: Sequence[str]) -> bool:
    if isinstance(choice, Mapping):
        function = choice.get("function")
        named = isinstance(function, Mapping) and function.get("name") in names and set(function) == {"name"}
        return named and choice.get("type") == "function" and set(choice) == {"type", "function"}
    return choice is None or choice in _CHOICES


def _check(holds: bool, field_name: str, problem: str) -> None:
    if not holds:
        raise InvalidConversation(f"options.{field_name}", problem)


@dataclass(slots=True)
class Progress:
    """How many tokens have been read and generated so far, by a backend that counts them as they come; None where it does not.

    What is charged for an answer that was cut off. `most_output_tokens` is for whoever reads a stream of a backend that does
    not count: no fewer than what has come of it. `attempted` is what the costliest attempt before this one has used, where a
    router makes several: what is held for a request is held for one.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    most_output_tokens: int | None = None
    attempted: Usage = field(default_factory=Usage)

    def used(self, otherwise: Usage) -> Usage:
        """What was counted; `otherwise`, where nobody did."""
        written = self.most_output_tokens if self.output_tokens is None else self.output_tokens
        return Usage(
            otherwise.input_tokens if self.input_tokens is None else self.input_tokens,
            otherwise.output_tokens if written is None else written,
        )


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One call of a model.

    `schema` is a JSON Schema for constrained decoding. `deadline` is in `time.monotonic()` seconds. A backend stops
    generating soon after `cancelled` is set. Tools are in the conversation (`conversation.wire_tools()`).
    """

    conversation: Conversation
    max_output_tokens: int
    schema: Mapping[str, Any] | None = None
    temperature: float = 0.0
    seed: int | None = None
    deadline: float = float("inf")
    cancelled: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=Progress)
    tool_choice: ToolChoice = None
    stop: tuple[str, ...] = ()

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tool definitions, in the OpenAI wire form, as the guards have passed them."""
        return self.conversation.wire_tools()

    def expired(self) -> bool:
        """Whether generating should stop now."""
        return self.cancelled.is_set() or time.monotonic() >= self.deadline

    def used(self, most: Usage, error: BaseException | None = None) -> Usage:
        """What a call that gave no answer has used, or is using, at the most: `most`, where nobody counts.

        With an `error` of its own, in time and before anything came of the answer, it has not worked: nothing.
        """
        used, before = self.used_now(most, error), self.progress.attempted
        return Usage(max(used.input_tokens, before.input_tokens), max(used.output_tokens, before.output_tokens))

    def used_now(self, most: Usage, error: BaseException | None = None) -> Usage:
        """The same, without attempts before this one."""
        left = error is None or isinstance(error, _LATE) or self.expired()
        used = self.progress.used(most if left else replace(most, output_tokens=0))
        return used if left or used.output_tokens else Usage()


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer: the assistant's message in the wire form, and the real token counts.

    `route` is a router's: the name of who answered, and who was passed over for which reason.
    """

    message: Mapping[str, Any]
    input_tokens: int
    output_tokens: int
    finish_reason: str = "stop"
    model: str = ""
    route: Mapping[str, Any] | None = None


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


def can_stream(backend: Backend) -> TypeGuard[StreamingBackend]:
    """Whether a backend answers bit by bit; tells it without asking the backend anything."""
    return callable(getattr(backend, "stream", None))


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
