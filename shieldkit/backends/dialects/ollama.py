"""Ollama, by its own protocol (`/api/chat`). After its published documentation; not tested live.

A prompt that is longer than `num_ctx` is cut without a word, from its beginning: the system prompt goes first, and whoever
can make a prompt long can take it away. So `num_ctx` is set with every request, prompts are counted by an upper bound
and refused before they are sent, and the server is told not to cut (`truncate`, `shift`; older ones do not know that).
It has no tokenizer to ask, and takes no token ids; control tokens in text that is not trusted are taken apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shieldkit.backends.base import CompletionRequest
from shieldkit.backends.chat import Answer, Gathered, count
from shieldkit.backends.dialects.base import Asked, Dialect, Json, Served, chosen, whole
from shieldkit.errors import BackendError, ConfigurationError


class Ollama(Dialect):
    """`ollama serve`."""

    name = "ollama"
    owner = "library"
    sign = ("api/version", "version")
    flag = "num_ctx, which is set by OpenAICompatible(context_tokens=…)"
    chat_path = "api/chat"
    counts_cached = False

    def open(self, asked: Asked) -> Served:
        """The context is what is asked for, and not more than the model was trained for."""
        model, _ = chosen(asked)
        show = self._post("api/show", {"model": model})
        info = show.get("model_info")
        info = info if isinstance(info, Mapping) else {}
        trained = whole(info.get(f"{info.get('general.architecture')}.context_length"))
        if trained is not None and (asked.context_tokens or 0) > trained:
            problem = f"{asked.context_tokens} is more than the {trained} tokens that the model was trained for"
            raise ConfigurationError("OpenAICompatible.context_tokens", problem, mend=f"Set it to {trained} or less")
        context = min(asked.context_tokens or asked.most_tokens, trained or asked.most_tokens)
        details = show.get("details")
        parent = details.get("parent_model") if isinstance(details, Mapping) else None
        hides = parent if isinstance(parent, str) and parent not in ("", model) else None
        return Served(model, context, hides, notes={"num_ctx": context, "trained_context_tokens": trained})

    def chat_body(self, request: CompletionRequest, served: Served, messages: list[Json], tools: list[Json]) -> Json:
        """In its own form: options of their own, arguments of tool calls as objects."""
        options: Json = {
            "num_ctx": served.context_tokens, "num_predict": request.max_output_tokens, "temperature": request.temperature
        }  # fmt: skip
        if request.seed is not None:
            options["seed"] = request.seed
        if request.stop:
            options["stop"] = list(request.stop)
        body: Json = {"model": served.model, "messages": [_own(m) for m in messages], "options": options,
                      "stream": False, "truncate": False, "shift": False}  # fmt: skip
        if tools:
            body["tools"] = tools
        if request.schema is not None:
            body["format"] = request.schema
        return body

    def streamed(self, body: Json) -> Json:
        """A JSON value a line."""
        return {**body, "stream": True}

    def read(self, answer: Any) -> Answer:
        """In its own form, to OpenAI's."""
        return _Lines.of(answer).answer()

    def gather(self) -> Gathered:
        """Reads its lines."""
        return _Lines()


class _Lines(Gathered):
    @classmethod
    def of(cls, answer: Any) -> Gathered:
        lines = cls()
        lines.add(answer)
        return lines

    def add(self, event: Any) -> str:
        if not isinstance(event, Mapping) or event.get("error") is not None:
            raise BackendError("the server failed in the middle of its answer")
        message = event.get("message")
        if not isinstance(message, Mapping):
            raise BackendError("the server's answer holds no message")
        delta: Json = {"content": message.get("content"), "reasoning": message.get("thinking")}
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            delta["tool_calls"] = [_numbered(c, len(self.calls) + i) for i, c in enumerate(calls)]
        done = event.get("done") is True
        reason = "length" if event.get("done_reason") == "length" else "stop"
        if done:
            self.input_tokens, self.output_tokens = (
                count(event.get("prompt_eval_count")),
                count(event.get("eval_count")),
            )
        return Gathered.add(self, {"choices": [{"delta": delta, "finish_reason": reason if done else None}]})


def _numbered(call: Any, index: int) -> Json:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise BackendError("the server's answer is not of the form that was agreed")
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return {"index": index, "id": f"call_{index}", "function": {"name": function.get("name"), "arguments": arguments}}


def _own(message: Json) -> Json:
    """A message with the arguments of its tool calls as objects."""
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        try:
            function["arguments"] = json.loads(function.get("arguments") or "{}")
        except ValueError:
            function["arguments"] = {}
        calls.append({"function": function})
    return {**message, "tool_calls": calls}
