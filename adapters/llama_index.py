"""shieldkit in LlamaIndex: a guarded LLM, and a postprocessor that screens what was retrieved.

    Settings.llm = ShieldedLLM(shield)                                         # asks the shield's backend
    index.as_query_engine(node_postprocessors=[ShieldNodeFilter(shield)])      # poisoned nodes never reach the prompt

A query engine puts retrieved text into its prompt, where it stands as the user's words. `ShieldNodeFilter` judges each node
before that, as the document that it is; use both. Needs `pip install 'shieldkit[llama-index]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import PrivateAttr

from shieldkit.adapters import checks
from shieldkit.backends.base import CallOptions
from shieldkit.budget import Principal
from shieldkit.conversation import Role, Segment
from shieldkit.errors import ConfigurationError, MissingExtra
from shieldkit.outcome import Action, Reply
from shieldkit.shield import Shield

try:
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseGen,
        LLMMetadata,
        MessageRole,
        TextBlock,
    )
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.custom import CustomLLM
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise MissingExtra("LlamaIndex", "llama-index", name=error.name) from None

_ROLES = {
    MessageRole.SYSTEM: "system", MessageRole.DEVELOPER: "system", MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant", MessageRole.MODEL: "assistant", MessageRole.CHATBOT: "assistant",
    MessageRole.TOOL: "tool", MessageRole.FUNCTION: "tool",
}  # fmt: skip
_MEDIA = ("image", "image_path", "image_url", "image_resource", "audio_resource", "video_resource")
_OPTIONS = {"temperature": "temperature", "max_tokens": "max_output_tokens", "seed": "seed", "stop": "stop"}


class ShieldedLLM(CustomLLM):
    """An LLM that asks through a shield, which must have a backend. Text alone is taken; tools are not.

    `on_refusal`: `"text"` answers with the refusal's text and says so in `additional_kwargs["refusal"]`; `"raise"`
    raises `Refused`. Streams give one piece, when all gates have passed. Raises `ConfigurationError`.
    """

    on_refusal: Literal["text", "raise"] = "text"
    _shield: Shield = PrivateAttr()
    _principal: Principal | None = PrivateAttr(default=None)

    def __init__(self, shield: Shield, *, principal: Principal | None = None, **kwargs: Any) -> None:
        checks.shield(shield, answers=True)
        super().__init__(**kwargs)
        self._shield, self._principal = shield, principal

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's serialized settings."""
        return "ShieldedLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The context that the policy grants, so that prompts are packed to fit it."""
        context, backend = self._shield.policy.context, self._shield.backend
        assert backend is not None
        return LLMMetadata(
            context_window=min(context.cap, backend.context_tokens), num_output=context.max_output_tokens,
            is_chat_model=True, model_name=backend.model,
        )  # fmt: skip

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Ask with a conversation."""
        return self._answer(self._shield.invoke(_wire(messages), principal=self._principal, options=_options(kwargs)))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` for async code."""
        call = self._shield.ainvoke(_wire(messages), principal=self._principal, options=_options(kwargs))
        return self._answer(await call)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """One piece: the whole answer."""
        reply = self._shield.invoke(_wire(messages), principal=self._principal, options=_options(kwargs))

        def pieces() -> ChatResponseGen:
            answer = self._answer(reply)
            answer.delta = answer.message.content
            yield answer

        return pieces()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` for async code."""
        call = self._shield.ainvoke(_wire(messages), principal=self._principal, options=_options(kwargs))
        reply = await call

        async def pieces() -> ChatResponseAsyncGen:
            answer = self._answer(reply)
            answer.delta = answer.message.content
            yield answer

        return pieces()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Ask with a prompt, which is judged as the user's words."""
        reply = self._shield.invoke(prompt, principal=self._principal, options=_options(kwargs))
        return _completion(self._answer(reply))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete` for async code."""
        reply = await self._shield.ainvoke(prompt, principal=self._principal, options=_options(kwargs))
        return _completion(self._answer(reply))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """One piece: the whole answer."""
        reply = self._shield.invoke(prompt, principal=self._principal, options=_options(kwargs))

        def pieces() -> CompletionResponseGen:
            answer = _completion(self._answer(reply))
            answer.delta = answer.text
            yield answer

        return pieces()

    def _answer(self, reply: Reply) -> ChatResponse:
        if self.on_refusal == "raise":
            reply.raise_for_refusal()
        text = reply.text if reply.refusal is None else reply.refusal.message
        told: dict[str, Any] = {"trace_id": reply.trace_id}
        if reply.refusal is not None:
            told |= {"refusal": reply.refusal.message, "rule": reply.refusal.rule, "finish_reason": "content_filter"}
        message = ChatMessage(role=MessageRole.ASSISTANT, content=text or "", additional_kwargs=told)
        return ChatResponse(message=message, raw=None, additional_kwargs=told)


def _completion(answer: ChatResponse) -> CompletionResponse:
    return CompletionResponse(text=answer.message.content or "", additional_kwargs=answer.additional_kwargs)


def _wire(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages in the wire form. What is no text is passed on as what it is, for the policy's `unreadable` to hold."""
    wire = []
    for message in messages:
        parts = [
            {"type": "text", "text": block.text} if isinstance(block, TextBlock) else {"type": type(block).__name__}
            for block in message.blocks
        ]
        plain = len(parts) == 1 and "text" in parts[0]
        made: dict[str, Any] = {
            "role": _ROLES.get(message.role, "user"),
            "content": parts[0]["text"] if plain else parts,
        }
        if made["role"] == "tool":
            made["tool_call_id"] = str(message.additional_kwargs.get("tool_call_id") or "call")
        wire.append(made)
    return wire


def _options(given: dict[str, Any]) -> CallOptions:
    """The call options among the arguments. Raises `ConfigurationError` for those that the shield cannot hold to."""
    unknown = {name for name, value in given.items() if name not in _OPTIONS and value is not None}
    if unknown:
        mend = f"Known are {', '.join(_OPTIONS)}"
        raise ConfigurationError(sorted(unknown)[0], "is an argument that the shield does not take", mend=mend)
    found = {_OPTIONS[name]: value for name, value in given.items() if value is not None}
    if "stop" in found:
        found["stop"] = (found["stop"],) if isinstance(found["stop"], str) else tuple(found["stop"])
    return CallOptions(**found)


class ShieldNodeFilter(BaseNodePostprocessor):
    """Judges retrieved nodes as documents, with what the LLM would see of their metadata; drops the refused ones.

    Images, audio and video are read by no guard: a node that has any passes where the policy's `unreadable` says so.
    What the policy redacts is redacted. What passes carries `metadata["shieldkit"]`, the action, which is kept from the
    LLM and from embeddings.
    """

    on_refusal: Literal["drop", "raise"] = "drop"
    _shield: Shield = PrivateAttr()
    _tenant: str | None = PrivateAttr(default=None)

    def __init__(self, shield: Shield, *, tenant: str | None = None, **kwargs: Any) -> None:
        checks.shield(shield)
        super().__init__(**kwargs)
        self._shield, self._tenant = shield, tenant

    @classmethod
    def class_name(cls) -> str:
        """The name in LlamaIndex's serialized settings."""
        return "ShieldNodeFilter"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return [kept for node in nodes if (kept := self._kept(node)) is not None]

    def _kept(self, scored: NodeWithScore) -> NodeWithScore | None:
        node = scored.node
        seen = node.get_content(metadata_mode=MetadataMode.LLM)
        segment = Segment(seen, Role.DOCUMENT, origin=_origin(scored))
        # What is no text is there as what it is, for the policy's `unreadable` to hold.
        others = [{"role": "document", "content": [{"type": name}]} for name in _MEDIA if getattr(node, name, None)]
        screening = self._shield.screen([segment, *others], tenant=self._tenant)
        if not screening.allowed:
            if self.on_refusal == "raise":
                Reply(screening.verdicts, refusal=screening.refusal, trace_id=screening.trace_id).raise_for_refusal()
            return None
        if screening.action is Action.REDACT and screening.conversation is not None:
            # Metadata and text were judged as one; what passed is the text now.
            passed = screening.conversation.segments[0]
            return NodeWithScore(node=TextNode(text=passed.text, id_=node.node_id), score=scored.score)
        hidden = {
            key: sorted({*getattr(node, key), "shieldkit"})
            for key in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")
        }
        labelled = node.model_copy(
            update={"metadata": {**node.metadata, "shieldkit": screening.action.value}, **hidden}
        )
        return NodeWithScore(node=labelled, score=scored.score)


def _origin(scored: NodeWithScore) -> str | None:
    metadata = scored.node.metadata
    named = (metadata.get(key) for key in ("source", "url", "file_path", "file_name"))
    return next((name for name in named if isinstance(name, str) and name), None)
