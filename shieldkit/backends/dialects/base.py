"""What a dialect answers for: whether a server is of its kind, what is served, and how a completion is asked and read.

The defaults are those of the OpenAI protocol alone: nothing is known of tokenizer, template or context.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shieldkit.backends.base import CompletionRequest
from shieldkit.backends.chat import Answer, Gathered, read_answer
from shieldkit.backends.rendering import ChatTemplate
from shieldkit.backends.tokens import PieceTokens
from shieldkit.backends.wire import Wire
from shieldkit.errors import BackendError, ConfigurationError

ASK_S = 30.0
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller says of the server."""

    model: str | None
    context_tokens: int | None
    most_tokens: int
    models: Any


@dataclass(frozen=True, slots=True)
class Served:
    """What a server says of what it serves.

    `model` is the name to ask for; `hides` is what stands behind that name, where the server tells and it is another.
    `template` and `tokens` are there where prompts can be sent as token ids. `notes` go into `describe()`.
    """

    model: str
    context_tokens: int | None = None
    hides: str | None = None
    template: ChatTemplate | None = None
    tokens: PieceTokens | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Dialect:
    """The OpenAI protocol, and what a server adds to it."""

    name: ClassVar[str]
    owner: ClassVar[str | None] = None
    """What it gives as `owned_by` of its models."""
    sign: ClassVar[tuple[str, str] | None] = None
    """A path below the root that only this server answers, and a key that its answer has."""
    flag: ClassVar[str] = "OpenAICompatible(context_tokens=…)"
    """What sets the context on this server."""
    chat_path: ClassVar[str] = "chat/completions"
    takes_ids: ClassVar[bool] = False
    """Whether a prompt can be a list of token ids (in `completions`)."""
    most_logprobs: ClassVar[int] = 5
    counts_cached: ClassVar[bool] = True
    """Whether the prompt tokens that it reports are those of the whole prompt, whatever it had cached."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    @classmethod
    def answers(cls, wire: Wire) -> bool:
        """Whether the server answers on the path that is this one's sign."""
        if cls.sign is None:
            return False
        path, key = cls.sign
        try:
            found = wire.get(path)
        except BackendError:
            return False
        return isinstance(found, Mapping) and key in found

    def open(self, asked: Asked) -> Served:
        """Ask the server what it serves. Raises `BackendError` and `ConfigurationError`."""
        return Served(chosen(asked)[0], asked.context_tokens)

    # -- counting ---------------------------------------------------------------------------------------------------

    def count_chat(self, served: Served, messages: Sequence[Json], tools: Sequence[Json]) -> int | None:
        """The exact tokens of a chat as the server will render it; None where it cannot tell."""
        return None

    # -- asking -----------------------------------------------------------------------------------------------------

    def chat_body(self, request: CompletionRequest, served: Served, messages: list[Json], tools: list[Json]) -> Json:
        """The body of a chat completion."""
        body = {**self._sampling(request, served), "messages": messages}
        if tools:
            body["tools"] = tools
            if request.tool_choice is not None:
                body["tool_choice"] = request.tool_choice
        if request.schema is not None:
            body["response_format"] = self.response_format(request.schema)
        return body

    def prompt_body(self, request: CompletionRequest, served: Served, ids: list[int]) -> Json:
        """The body of a completion of token ids."""
        body = {**self._sampling(request, served), "prompt": ids}
        if request.schema is not None:
            body["response_format"] = self.response_format(request.schema)
        return body

    def _sampling(self, request: CompletionRequest, served: Served) -> Json:
        body: Json = {"model": served.model, "max_tokens": request.max_output_tokens,
                      "temperature": request.temperature, "stream": False}  # fmt: skip
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        return body

    def streamed(self, body: Json) -> Json:
        """The same, asked for as a stream that ends with the counts."""
        return {**body, "stream": True, "stream_options": {"include_usage": True}}

    def response_format(self, schema: Mapping[str, Any]) -> Json:
        """How an answer is bound to a JSON Schema."""
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}

    def logprobs(self, top: int) -> Json:
        """What is added to a completion of token ids, so that the likeliest first tokens are told."""
        return {"logprobs": min(top, self.most_logprobs)}

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self, answer: Any) -> Answer:
        """A completion. Raises `BackendError`."""
        return read_answer(answer)

    def gather(self) -> Gathered:
        """Reads a streamed completion, event by event."""
        return Gathered()

    def token_text(self, served: Served, token: int) -> str:
        """A token as it is spelled in the log-probabilities."""
        raise BackendError(f"{self.name} does not tell how tokens are spelled")

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _post(self, path: str, body: Json) -> Mapping[str, Any]:
        found = self.wire.post(path, body, deadline=time.monotonic() + ASK_S)
        if not isinstance(found, Mapping):
            raise BackendError(f"the server's answer to /{path} is not of the form that was agreed")
        return found


def chosen(asked: Asked) -> tuple[str, Mapping[str, Any]]:
    """The model to ask for, and what the server says of it. Raises `ConfigurationError` when it is none or not clear."""
    rows = asked.models.get("data") if isinstance(asked.models, Mapping) else None
    known = {str(r["id"]): r for r in rows or () if isinstance(r, Mapping) and isinstance(r.get("id"), str)}
    if asked.model is not None:
        if known and asked.model not in known:
            names = ", ".join(sorted(known)[:8])
            problem = f"the server serves no '{asked.model}'"
            raise ConfigurationError("OpenAICompatible.model", problem, mend=f"It serves: {names}")
        return asked.model, known.get(asked.model, {})
    if len(known) != 1:
        problem = f"the server serves {len(known)} models" if known else "the server does not tell what it serves"
        mend = f"Name one: {', '.join(sorted(known)[:8])}" if known else "Give model=…"
        raise ConfigurationError("OpenAICompatible.model", problem, mend=mend)
    return next(iter(known.items()))


def ids_of(answer: Any) -> list[int]:
    """A list of token ids under `tokens`. Raises `BackendError`."""
    ids = answer.get("tokens") if isinstance(answer, Mapping) else None
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise BackendError("the server's tokenizer answered with what are no token ids")
    return ids


def text_of(answer: Any, key: str) -> str:
    """A text under `key`. Raises `BackendError`."""
    text = answer.get(key) if isinstance(answer, Mapping) else None
    if not isinstance(text, str):
        raise BackendError("the server answered with no text")
    return text


def whole(value: Any) -> int | None:
    """A context size that a server tells; None where it is none."""
    return value if type(value) is int and 0 < value <= 1_000_000_000 else None
