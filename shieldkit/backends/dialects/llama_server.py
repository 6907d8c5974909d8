"""llama.cpp's `llama-server`: tokenizer and template over HTTP, prompts as token ids.

`/tokenize` can leave control tokens alone (`parse_special`), which its chat endpoint does not do. `-c` is the context of
all slots together: `/props` tells what one request has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from shieldkit.backends.base import CompletionRequest
from shieldkit.backends.chat import Answer
from shieldkit.backends.dialects.base import Asked, Dialect, Json, Served, chosen, ids_of, text_of, whole
from shieldkit.backends.inert import Inert, known
from shieldkit.backends.rendering import ServedTemplate
from shieldkit.backends.tokens import PieceTokens, probed
from shieldkit.errors import BackendError


class LlamaServer(Dialect):
    """`llama-server`."""

    name = "llama-server"
    owner = "llamacpp"
    sign = ("props", "default_generation_settings")
    flag = "llama-server -c (divided by --parallel)"
    takes_ids = True
    most_logprobs = 100

    def open(self, asked: Asked) -> Served:
        """Context of a slot, file and template from `/props`."""
        model, _ = chosen(asked)
        props = self.wire.get("props")
        settings = props.get("default_generation_settings") if isinstance(props, dict) else None
        if not isinstance(settings, dict):
            raise BackendError("the server's /props is not of the form that was agreed")
        own = probed(self._encode, sorted(known()))
        begins = ids_of(self._post("tokenize", {"content": "7", "add_special": True}))
        bare = self._plain("7")
        prefix = tuple(begins[: begins.index(bare[0])]) if bare and bare[0] in begins else ()
        tokens = PieceTokens(self._encode, Inert(own), own, self._plain, prefix)
        path = props.get("model_path")
        file = PurePath(path).name if isinstance(path, str) and path else None
        notes: Json = {"slots": props.get("total_slots"), "file": file}
        hides = file if file is not None and model not in (file, path, PurePath(file).stem) else None
        template = ServedTemplate(ask=lambda messages: self._rendered(messages, ()))
        return Served(model, whole(settings.get("n_ctx")), hides, template, tokens, notes)

    def _encode(self, text: str) -> list[int]:
        return ids_of(self._post("tokenize", {"content": text, "add_special": False, "parse_special": True}))

    def _plain(self, text: str) -> list[int]:
        return ids_of(self._post("tokenize", {"content": text, "add_special": False, "parse_special": False}))

    def _rendered(self, messages: Sequence[Json], tools: Sequence[Json]) -> str:
        body: Json = {"messages": list(messages)}
        return text_of(self._post("apply-template", {**body, "tools": list(tools)} if tools else body), "prompt")

    def count_chat(self, served: Served, messages: Sequence[Json], tools: Sequence[Json]) -> int | None:
        """As the chat endpoint will render and tokenize it."""
        rendered = self._rendered(messages, tools)
        return len(ids_of(self._post("tokenize", {"content": rendered, "add_special": True, "parse_special": True})))

    def prompt_body(self, request: CompletionRequest, served: Served, ids: list[int]) -> Json:
        """With llama-server's own name for a schema; the other one is of its chat endpoint alone."""
        body = super().prompt_body(request, served, ids)
        if body.pop("response_format", None) is not None:
            body["json_schema"] = request.schema
        return body

    def token_text(self, served: Served, token: int) -> str:
        """As the log-probabilities spell it: decoded."""
        return text_of(self._post("detokenize", {"tokens": [token]}), "content")

    def read(self, answer: Any) -> Answer:
        """A prompt that was cut to fit is an error, not an answer."""
        verbose = answer.get("__verbose") if isinstance(answer, dict) else None
        if isinstance(verbose, dict) and verbose.get("truncated") is True:
            raise BackendError("the server cut the prompt or the answer to its context")
        return super().read(answer)
