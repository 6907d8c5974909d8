"""llama-cpp-python's server (`python -m llama_cpp.server`). Tested live.

It tokenizes over HTTP, but takes no token ids as a prompt, and tells neither its template nor its context size: the
context must be given. Its chat endpoint renders to one string and tokenizes that with control tokens on, so control
tokens in text that is not trusted are taken apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from shieldkit.backends.dialects.base import Asked, Dialect, Json, Served, chosen, ids_of
from shieldkit.backends.inert import Inert, known
from shieldkit.backends.tokens import PieceTokens, probed


class LlamaCppPython(Dialect):
    """`python -m llama_cpp.server`."""

    name = "llama-cpp-python"
    owner = "me"
    flag = "OpenAICompatible(context_tokens=…), the server's --n_ctx"

    def open(self, asked: Asked) -> Served:
        """The file behind the name is the name, unless the server was given an alias."""
        model, _ = chosen(asked)
        own = probed(self._encode, sorted(known()))
        tokens = PieceTokens(self._encode, Inert(own), own)
        return Served(model, asked.context_tokens, tokens=tokens, notes={"file": PurePath(model).name})

    def _encode(self, text: str) -> list[int]:
        return ids_of(self._post("extras/tokenize", {"input": text}))

    def response_format(self, schema: Mapping[str, Any]) -> Json:
        """The form that it had before OpenAI's."""
        return {"type": "json_object", "schema": schema}
