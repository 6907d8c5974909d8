"""Any LangChain chat model behind the shield: Anthropic, Google, Bedrock and the rest, with their own packages.

The chat protocol hides tokenizer, template and control tokens. So control tokens in text that is not trusted are taken
apart, and tokens are counted by an upper bound, unless the caller gives a counter. LangChain's own default counter is not
used by itself: it loads GPT-2's tokenizer from the network.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from shieldkit.backends.base import Completion, CompletionRequest
from shieldkit.backends.chat import count, messages_of, said, tools_of, written_tokens
from shieldkit.backends.inert import Inert
from shieldkit.backends.loop import LoopThread
from shieldkit.backends.tokens import BYTES_A_TOKEN, most_tokens
from shieldkit.conversation import Conversation
from shieldkit.errors import (
    BackendBusy,
    BackendError,
    BackendTimeout,
    ConfigurationError,
    ContextExceeded,
    MissingExtra,
)

# Contexts travel to worker threads and event loops, and with them the caller's callbacks: through these a host streams
# what a model says before any guard has read it. With a list of its own, the model inside has none of them.
_ALONE: dict[str, Any] = {"callbacks": []}
_LIMITS = ("max_tokens", "max_output_tokens", "num_predict", "max_completion_tokens")
_REASONS: Mapping[str, str] = {
    "max_tokens": "length", "length": "length", "MAX_TOKENS": "length", "tool_calls": "tool_calls",
    "tool_use": "tool_calls", "content_filter": "content_filter", "refusal": "content_filter", "SAFETY": "content_filter",
}  # fmt: skip


class LangChainModel:
    """A LangChain chat model. A `StreamingBackend`.

    `model`: a chat model of the shield's own; its async client belongs to the shield's event loop. `context_tokens`:
    needed unless the model's profile tells it. `counter`: counts the tokens of LangChain messages, for example
    `model.get_num_tokens_from_messages` where that works offline. `output_limit`: the keyword that bounds the answer; by
    default the one of these that the model has: max_tokens, max_output_tokens, num_predict, max_completion_tokens.
    `response_format`: whether the model takes OpenAI's `response_format` for schemas; by default, if it is of
    `langchain_openai`. `parameters`: keywords for every call. Raises `ConfigurationError`.
    """

    name = "langchain"

    def __init__(
        self,
        model: Any,
        *,
        context_tokens: int | None = None,
        counter: Callable[[Sequence[Any]], int] | None = None,
        output_limit: str | None = None,
        response_format: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            from langchain_core.language_models import BaseChatModel
        except ImportError as error:
            raise MissingExtra("langchain-core", "langchain", name=error.name) from None
        if not isinstance(model, BaseChatModel):
            mend = "Give a chat model, such as ChatAnthropic(…)"
            raise ConfigurationError("LangChainModel.model", f"a {type(model).__name__} is no chat model", mend=mend)
        self._chat = model
        self._context_tokens = _context(model, context_tokens)
        self._counter = counter
        self._limit = output_limit or next((n for n in _LIMITS if hasattr(model, n)), _LIMITS[0])
        of_openai = any(base.__module__.startswith("langchain_openai") for base in type(model).__mro__)
        self._formats = of_openai if response_format is None else response_format
        self._parameters = dict(parameters or {})
        self._inert = Inert()
        self._loop = LoopThread("shieldkit-langchain")

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """The name that the chat model gives, or that of its class."""
        names = (getattr(self._chat, key, None) for key in ("model_name", "model", "model_id"))
        return next((n for n in names if isinstance(n, str) and n), type(self._chat).__name__)

    @property
    def context_tokens(self) -> int:
        """As given, or as the model's profile has it."""
        return self._context_tokens

    @property
    def control_tokens(self) -> frozenset[str]:
        """None are known."""
        return frozenset()

    def describe(self) -> Mapping[str, Any]:
        """What is used to answer."""
        return {
            "name": self.name, "model": self.model, "class": type(self._chat).__name__, "prompts": "chat",
            "context_tokens": self.context_tokens, "counts": "counter" if self._counter else "bound",
            "output_limit": self._limit, "constrained_decoding": self._formats,
        }  # fmt: skip

    def close(self) -> None:
        """End calls under way. The chat model stays the caller's."""

        async def nothing() -> None:
            return None

        self._loop.close(nothing)

    # -- tokens -----------------------------------------------------------------------------------------------------

    def count_tokens(self, conversation: Conversation, limit: int | None = None) -> int:
        """By the caller's counter, or not less than what will be read."""
        wire, tools = messages_of(conversation, self._inert), tools_of(conversation, self._inert)
        most = most_tokens(wire, tools)
        if self._counter is None or (limit is not None and most > 64 * limit):
            return most
        from langchain_core.messages import convert_to_messages

        counted = count(self._counter(convert_to_messages(wire)))
        if counted is None:
            raise BackendError("the counter answered with what is no number of tokens")
        return counted + (len(json.dumps(tools, ensure_ascii=False).encode()) if tools else 0)

    # -- answering --------------------------------------------------------------------------------------------------

    def complete(self, request: CompletionRequest) -> Completion:
        """Answer, in one piece. Raises `BackendError` and its kin."""
        runnable, messages, keywords, tokens = self._asked(request)
        try:
            message = self._loop.run(
                lambda: runnable.ainvoke(messages, _ALONE, **keywords), request.deadline, request.cancelled
            )
        except Exception as error:
            raise _mapped(error) from None
        return self._completion(request, message, tokens)

    def stream(self, request: CompletionRequest) -> Iterator[str | Completion]:
        """New text as it comes, and at last the whole. Closing the iterator ends the call."""
        runnable, messages, keywords, tokens = self._asked(request)
        request.progress.input_tokens = tokens
        come: list[Any] = []
        length = pieces = 0

        def chunks() -> AsyncIterator[Any]:
            found: AsyncIterator[Any] = runnable.astream(messages, _ALONE, **keywords)
            return found

        arriving = self._loop.iterate(chunks, request.deadline, request.cancelled)
        try:
            for chunk in arriving:
                come.append(chunk)
                new = _said(chunk.content)[0]
                size = _size_bytes(chunk)
                pieces, length = pieces + bool(size), length + size
                # A token is at least a byte, and some vocabularies spell rare scripts so; a piece is at least a token.
                most = min(max(pieces, length), request.max_output_tokens)
                request.progress.most_output_tokens = most or None
                if length > BYTES_A_TOKEN * request.max_output_tokens:
                    raise BackendError("the model writes more than it was allowed")
                if new:
                    yield new
            # All in one step: each addition reads again what it adds to, and the arguments of a tool call as JSON.
            whole = come[0] + come[1:] if come else None
        except Exception as error:
            raise _mapped(error) from None
        finally:
            arriving.close()  # type: ignore[attr-defined]
        yield self._completion(request, whole, tokens)

    def _asked(self, request: CompletionRequest) -> tuple[Any, list[Any], dict[str, Any], int]:
        from langchain_core.messages import convert_to_messages

        tokens = self.count_tokens(request.conversation)
        if tokens + request.max_output_tokens > self.context_tokens:
            at_most = "" if self._counter else "up to "
            raise ContextExceeded(
                f"{at_most}{tokens} tokens and {request.max_output_tokens} for the answer do not fit {self.context_tokens}"
            )
        if request.expired():
            raise BackendTimeout("no answer within the deadline")
        keywords: dict[str, Any] = {
            **self._parameters, self._limit: request.max_output_tokens, "temperature": request.temperature
        }  # fmt: skip
        if request.seed is not None:
            keywords["seed"] = request.seed
        if request.stop:
            keywords["stop"] = list(request.stop)
        if request.schema is not None and self._formats:
            schema = {"name": "answer", "schema": dict(request.schema)}
            keywords["response_format"] = {"type": "json_schema", "json_schema": schema}
        runnable: Any = self._chat
        tools = tools_of(request.conversation, self._inert)
        if tools:
            choice: dict[str, Any] = {} if request.tool_choice is None else {"tool_choice": request.tool_choice}
            try:
                runnable = self._chat.bind_tools(tools, **choice)
            except Exception as error:
                raise BackendError(f"this chat model takes no tools ({type(error).__name__})") from None
        return runnable, convert_to_messages(messages_of(request.conversation, self._inert)), keywords, tokens

    def _completion(self, request: CompletionRequest, message: Any, tokens: int) -> Completion:
        """The answer in the wire form, with its counts held against what was allowed."""
        from langchain_core.messages import AIMessage

        if not isinstance(message, AIMessage):
            raise BackendError(f"the chat model answered with a {type(message).__name__}")
        text, reasoning = _said(message.content)
        usage: Mapping[str, Any] = message.usage_metadata or {}
        read, written = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
        size = len(text.encode("utf-8", "replace"))
        if (written or 0) > request.max_output_tokens or size > BYTES_A_TOKEN * request.max_output_tokens:
            raise BackendError(f"the model wrote more than the {request.max_output_tokens} tokens that it was allowed")
        wire: dict[str, Any] = {"role": "assistant", "content": text}
        if reasoning:
            wire["reasoning_content"] = reasoning
        if message.tool_calls:
            wire["tool_calls"] = [_call(c["id"], c["name"], c["args"]) for c in message.tool_calls]
        about = message.response_metadata
        reason = _REASONS.get(
            str(about.get("finish_reason") or about.get("stop_reason") or about.get("done_reason")), "stop"
        )
        written = written_tokens(said(wire), written, request.max_output_tokens)
        return Completion(wire, tokens if read is None else read, written, reason, self.model)


def _context(model: Any, given: int | None) -> int:
    profile = getattr(model, "profile", None)
    told = profile.get("max_input_tokens") if isinstance(profile, Mapping) else None
    told = told if type(told) is int and told > 0 else None
    if given is None and told is None:
        mend = "Give LangChainModel(model, context_tokens=…)"
        raise ConfigurationError("LangChainModel.context_tokens", "the model's profile does not tell it", mend=mend)
    if given is not None and told is not None and given > told:
        problem = f"{given} is more than the {told} tokens of the model's profile"
        raise ConfigurationError("LangChainModel.context_tokens", problem, mend=f"Set it to {told} or less")
    size = given or told
    assert size is not None
    return size


def _said(content: Any) -> tuple[str, str]:
    """Text and reasoning of a message's content, which is a string or a list of blocks."""
    if isinstance(content, str):
        return content, ""
    blocks = [b if isinstance(b, Mapping) else {"type": "text", "text": b} for b in content]
    text = "".join(str(b.get("text") or "") for b in blocks if b.get("type") in ("text", "output_text"))
    thought = (
        b.get("thinking") or b.get("reasoning") or "" for b in blocks if b.get("type") in ("thinking", "reasoning")
    )
    return text, "".join(str(t) for t in thought)


def _size_bytes(chunk: Any) -> int:
    """How much text came in a chunk: of its answer, its reasoning and its tool calls."""
    said = [*_said(chunk.content), chunk.additional_kwargs.get("reasoning_content")]
    for call in chunk.tool_call_chunks:
        said += call.get("name"), call.get("args")
    return sum(len(str(part).encode("utf-8", "replace")) for part in said if part)


def _call(call_id: Any, name: str, arguments: Any) -> dict[str, Any]:
    encoded = json.dumps(arguments, ensure_ascii=False, default=str)
    return {"id": str(call_id or ""), "type": "function", "function": {"name": name, "arguments": encoded}}


def _mapped(error: BaseException) -> BackendError:
    """Of this tree, by what providers' packages have in common. No word of theirs is kept."""
    cause: BaseException | None = error
    while cause is not None:
        name = type(cause).__name__
        if isinstance(cause, BackendError):
            return cause
        if isinstance(cause, TimeoutError) or "Timeout" in name:
            return BackendTimeout("no answer within the deadline")
        if "ContextOverflow" in name:
            return ContextExceeded("the provider says that prompt and answer do not fit its context")
        if getattr(cause, "status_code", None) in (429, 503, 529):
            headers = getattr(getattr(cause, "response", None), "headers", None)
            from shieldkit.backends.wire import retry_after_s

            return BackendBusy("the provider has too much to do", retry_after_s(headers or {}))
        last, cause = cause, cause.__cause__
    return BackendError(f"the chat model failed ({type(last).__name__})")
