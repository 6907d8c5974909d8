"""vLLM: tokenizer and template over HTTP, prompts as token ids. Tested live with 0.32 (`make test-vllm`).

`/tokenize` turns the spelling of a control token into the token, with `add_special_tokens` off too, and the chat endpoint
does the same. So prompts are sent as ids: the server renders its template around placeholders, and what stands for
them is tokenized in parts that hold no control token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shieldkit.backends.base import CompletionRequest
from shieldkit.backends.dialects.base import Asked, Dialect, Json, Served, chosen, ids_of, text_of, whole
from shieldkit.backends.inert import Inert, known
from shieldkit.backends.rendering import ServedTemplate
from shieldkit.backends.tokens import PieceTokens, probed
from shieldkit.errors import BackendError

_SAMPLE: list[Json] = [{"role": "user", "content": "7 a"}]


class VLLM(Dialect):
    """`vllm serve`."""

    name = "vllm"
    owner = "vllm"
    flag = "vllm serve --max-model-len"
    takes_ids = True
    most_logprobs = 20  # more is an error, unless the server was started with --max-logprobs

    def open(self, asked: Asked) -> Served:
        """Context from `/v1/models`; control tokens by asking the tokenizer for each that is known anywhere."""
        model, row = chosen(asked)
        told = self._tokenizer_info()
        own = told if told is not None else probed(lambda text: self._encode(model, text), sorted(known()))
        tokens = PieceTokens(lambda text: self._encode(model, text), Inert(own, whole=told is not None), own)
        template: ServedTemplate | None = ServedTemplate(ask=lambda messages: self._rendered(model, messages))
        notes: Json = {"control_tokens_from": "tokenizer_info" if told is not None else "catalogue"}
        if not self._faithful(model, tokens):
            template, notes["prompt"] = None, "the server's template cannot be read back: chat endpoint"
        root = row.get("root")
        hides = root if isinstance(root, str) and root != model else None
        return Served(model, whole(row.get("max_model_len")), hides, template, tokens, notes)

    def _tokenizer_info(self) -> dict[str, int] | None:
        """All added tokens, from a server that was started with `--enable-tokenizer-info-endpoint`."""
        try:
            found = self.wire.get("tokenizer_info")
        except BackendError:
            return None
        added = found.get("added_tokens_decoder") if isinstance(found, Mapping) else None
        if not isinstance(added, Mapping) or not added:
            return None
        rows = ((i, t.get("content") if isinstance(t, Mapping) else t) for i, t in added.items())
        return {t: int(i) for i, t in rows if isinstance(t, str) and t.strip() and str(i).isdecimal()}

    def _encode(self, model: str, text: str) -> list[int]:
        return ids_of(self._post("tokenize", {"model": model, "prompt": text, "add_special_tokens": False}))

    def _decode(self, model: str, ids: Sequence[int]) -> str:
        return text_of(self._post("detokenize", {"model": model, "tokens": list(ids)}), "prompt")

    def _rendered(self, model: str, messages: Sequence[Json]) -> str:
        return self._decode(model, self._chat_ids(model, messages, ()))

    def _chat_ids(self, model: str, messages: Sequence[Json], tools: Sequence[Json]) -> list[int]:
        body: Json = {"model": model, "messages": list(messages), "add_generation_prompt": True}
        return ids_of(self._post("tokenize", {**body, "tools": list(tools)} if tools else body))

    def _faithful(self, model: str, tokens: PieceTokens) -> bool:
        """Whether ids, read back as text and tokenized again, are the same ids: else texts cannot be put in their places."""
        try:
            ids = self._chat_ids(model, _SAMPLE, ())
            return tokens.encode(self._decode(model, ids)) == ids
        except BackendError:
            return False

    def count_chat(self, served: Served, messages: Sequence[Json], tools: Sequence[Json]) -> int | None:
        """As the chat endpoint will render and tokenize it."""
        return len(self._chat_ids(served.model, messages, tools))

    def prompt_body(self, request: CompletionRequest, served: Served, ids: list[int]) -> Json:
        """Control tokens that the model writes stay visible, so that guards see them."""
        return {**super().prompt_body(request, served, ids), "skip_special_tokens": False, "add_special_tokens": False}

    def token_text(self, served: Served, token: int) -> str:
        """As the log-probabilities spell it: decoded."""
        return self._decode(served.model, [token])
