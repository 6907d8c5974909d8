"""Hugging Face's text-generation-inference. After its published schema (docs/openapi.json); not tested live.

It takes text only, and puts it into the template without a seam, so control tokens in every text that is not trusted are
taken apart before it is sent. `/chat_tokenize` counts what will be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shieldkit.backends.dialects.base import Asked, Dialect, Json, Served, chosen, whole
from shieldkit.errors import BackendError


class TGI(Dialect):
    """`text-generation-launcher`."""

    name = "tgi"
    sign = ("info", "max_total_tokens")
    flag = "text-generation-launcher --max-total-tokens"

    def open(self, asked: Asked) -> Served:
        """Context from `/info`. There is one model, and the name that one asks for is not read."""
        info = self.wire.get("info")
        if not isinstance(info, Mapping):
            raise BackendError("the server's /info is not of the form that was agreed")
        serves = info.get("model_id")
        own = serves if isinstance(serves, str) else None
        model = asked.model or own or chosen(asked)[0]
        total = whole(info.get("max_total_tokens"))
        notes: Json = {"max_input_tokens": whole(info.get("max_input_tokens") or info.get("max_input_length")),
                       "version": info.get("version"), "model_sha": info.get("model_sha")}  # fmt: skip
        return Served(model, total, own if own != model else None, notes=notes)

    def count_chat(self, served: Served, messages: Sequence[Json], tools: Sequence[Json]) -> int | None:
        """As the chat endpoint will render and tokenize it."""
        body: Json = {"model": served.model, "messages": list(messages)}
        found = self._post("chat_tokenize", {**body, "tools": list(tools)} if tools else body)
        tokens = found.get("tokenize_response")
        if not isinstance(tokens, list):
            raise BackendError("the server's /chat_tokenize is not of the form that was agreed")
        return len(tokens)

    def response_format(self, schema: Mapping[str, Any]) -> Json:
        """A grammar, as TGI calls it."""
        return {"type": "json", "value": schema}
