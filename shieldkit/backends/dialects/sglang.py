"""SGLang. After its published routes; not tested live.

It takes token ids as a prompt, but renders no template for others: with a local tokenizer (`tokenizer=`) prompts are sent
as ids; without one, as chat messages with control tokens taken apart, and counted by an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shieldkit.backends.dialects.base import Asked, Dialect, Json, Served, chosen, whole
from shieldkit.errors import BackendError


class SGLang(Dialect):
    """`python -m sglang.launch_server`."""

    name = "sglang"
    owner = "sglang"
    sign = ("get_model_info", "model_path")
    flag = "sglang.launch_server --context-length"
    takes_ids = True
    most_logprobs = 20

    def open(self, asked: Asked) -> Served:
        """Context from `/v1/models`, or else from `/get_server_info`, which also tells what the cache can hold."""
        model, row = chosen(asked)
        about, server = self._told("get_model_info"), self._told("get_server_info") or self._told("server_info")
        sizes = [whole(row.get("max_model_len")), whole(server.get("context_length"))]
        context = next((size for size in sizes if size is not None), None)
        held = whole(server.get("max_total_num_tokens"))
        if context is not None and held is not None:
            context = min(context, held)
        path = about.get("model_path")
        hides = path if isinstance(path, str) and path != model else None
        notes: Json = {"max_total_num_tokens": held, "version": server.get("version")}
        return Served(model, context, hides, notes=notes)

    def _told(self, path: str) -> Mapping[str, Any]:
        try:
            found = self.wire.get(path)
        except BackendError:
            return {}
        return found if isinstance(found, Mapping) else {}
