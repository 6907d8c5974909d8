"""Retrieved text, before anybody reads it: screened as data, labelled with what was found, or dropped.

A document is judged at the input stage as a segment of role `document`, with its source as origin, so that the data
threshold of the policy holds. Its metadata is judged with it, since prompts often show titles and sources.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, SkipValidation

from shieldkit.adapters import checks
from shieldkit.adapters.langchain.messages import META, outcome_of, refused
from shieldkit.conversation import MAX_DEPTH, Role, Segment
from shieldkit.errors import ConfigurationError, InvalidConversation
from shieldkit.outcome import Action, Screening, Stage
from shieldkit.shield import Shield

MAX_AT_ONCE = 8


class ShieldDocumentFilter(BaseDocumentTransformer):
    """Screens documents. What passes carries `metadata["shieldkit"]`: action, score, rule, origin, policy and trace.

    `on_refusal`: `"drop"` leaves a refused document out, `"label"` keeps it with `action: block` in its label (whoever
    builds the prompt must look at it), `"raise"` raises `RefusedByShield`. `origin_keys`: where in the metadata the
    origin is looked for.
    """

    def __init__(
        self, shield: Shield, *, on_refusal: Literal["drop", "label", "raise"] = "drop",
        origin_keys: Sequence[str] = ("source", "url", "id"), tenant: str | None = None,
    ) -> None:  # fmt: skip
        checks.shield(shield)
        checks.word("on_refusal", on_refusal, ("drop", "label", "raise"))
        self.shield = shield
        self.on_refusal = on_refusal
        self.origin_keys = tuple(origin_keys)
        self.tenant = tenant

    def transform_documents(self, documents: Sequence[Document], **kwargs: Any) -> list[Document]:
        """The documents that may be read, in order, each a labelled copy."""
        screened = ((d, self.shield.screen(self._segments(d), tenant=self.tenant)) for d in documents)
        return [kept for d, screening in screened if (kept := self._kept(d, screening)) is not None]

    async def atransform_documents(self, documents: Sequence[Document], **kwargs: Any) -> list[Document]:
        """`transform_documents` for async code; up to eight at once."""
        gate = asyncio.Semaphore(MAX_AT_ONCE)

        async def screen(document: Document) -> Screening:
            async with gate:
                return await self.shield.ascreen(self._segments(document), tenant=self.tenant)

        screenings = await asyncio.gather(*map(screen, documents))
        kept = (self._kept(d, screening) for d, screening in zip(documents, screenings, strict=True))
        return [d for d in kept if d is not None]

    def _origin(self, document: Document) -> str | None:
        named = (document.metadata.get(key) for key in self.origin_keys)
        return next((name for name in (*named, document.id) if isinstance(name, str) and name), None)

    def _segments(self, document: Document) -> list[Segment]:
        origin = self._origin(document)
        told = {key: value for key, value in document.metadata.items() if key != META}
        texts = (document.page_content, *_strings(told))
        return [Segment(text, Role.DOCUMENT, origin=origin) for text in texts]

    def _kept(self, document: Document, screening: Screening) -> Document | None:
        if not screening.allowed and self.on_refusal == "raise":
            raise refused(outcome_of(screening))
        if not screening.allowed and self.on_refusal == "drop":
            return None
        text = document.page_content
        if screening.conversation is not None and screening.action is Action.REDACT:
            # The text alone can be redacted in its place; the metadata is dropped where something in it has to go.
            text = screening.conversation.segments[0].text
            changed = any(f.segment > 0 for f in screening.findings)
            told = {} if changed else document.metadata
        else:
            told = document.metadata
        label = self._label(document, screening)
        return document.model_copy(update={"page_content": text, "metadata": {**told, META: label}})

    def _label(self, document: Document, screening: Screening) -> dict[str, Any]:
        rule = screening.refusal.rule if screening.refusal is not None else ""
        return {
            "action": screening.action.value, "score": round(screening.score, 6), "rule": rule,
            "stage": Stage.INPUT.value, "origin": self._origin(document), "policy": screening.policy,
            "trace_id": screening.trace_id,
        }  # fmt: skip


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    """Every string of the metadata as a prompt may show it, keys included."""
    if depth > MAX_DEPTH:
        raise InvalidConversation("metadata", f"is nested deeper than {MAX_DEPTH}", mend="Flatten it")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(key, depth + 1)
            yield from _strings(inner, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _strings(inner, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float):
        yield str(value)


class ShieldRetriever(BaseRetriever):
    """A retriever whose documents are screened and labelled by `documents`, a `ShieldDocumentFilter`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    retriever: BaseRetriever
    documents: SkipValidation[ShieldDocumentFilter] = Field(exclude=True, repr=False)

    def model_post_init(self, context: Any, /) -> None:
        """Raises `ConfigurationError` for what is no filter."""
        super().model_post_init(context)
        if not isinstance(self.documents, ShieldDocumentFilter):
            problem = f"a {type(self.documents).__name__} is no ShieldDocumentFilter"
            raise ConfigurationError("documents", problem, mend="Give ShieldDocumentFilter(shield)")

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        found = self.retriever.invoke(query, config={"callbacks": run_manager.get_child()})
        return self.documents.transform_documents(found)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        found = await self.retriever.ainvoke(query, config={"callbacks": run_manager.get_child()})
        return await self.documents.atransform_documents(found)
