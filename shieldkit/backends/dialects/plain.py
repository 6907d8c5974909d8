"""Any API of OpenAI's form (DeepSeek, Mistral, OpenAI itself, proxies): it tells neither context size nor tokens.

The context must be given. Without a local tokenizer, tokens are counted by an upper bound.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from shieldkit.backends.base import CompletionRequest
from shieldkit.backends.dialects.base import Asked, Dialect, Json, Served, chosen, whole


class Plain(Dialect):
    """The protocol, and nothing more."""

    name = "plain"

    def open(self, asked: Asked) -> Served:
        """Some gateways tell the context with the model; then it need not be given."""
        model, row = chosen(asked)
        told = whole(row.get("max_model_len")) or whole(row.get("context_length")) or whole(row.get("context_window"))
        return Served(model, asked.context_tokens or told)

    def _sampling(self, request: CompletionRequest, served: Served) -> Json:
        body = super()._sampling(request, served)
        if (urlsplit(self.wire.base_url).hostname or "").endswith(".openai.com"):
            body["max_completion_tokens"] = body.pop("max_tokens")  # OpenAI's reasoning models refuse the older name
        return body
