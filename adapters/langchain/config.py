"""What a `RunnableConfig` says to the shield: who asks, and under which labels it is traced."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

from shieldkit.budget import Principal

T = TypeVar("T")

_PARTS: Mapping[str, tuple[str, ...]] = {
    "tenant": ("tenant", "tenant_id"),
    "user": ("user", "user_id"),
    "session": ("session", "session_id", "thread_id"),
    "task": ("task", "task_id"),
}
_PRINCIPAL_KEYS = frozenset(key for keys in _PARTS.values() for key in keys) | {"principal"}
_ID = re.compile(r"[\w.:/-]{1,80}")
MAX_LABELS = 32


def principal_of(config: RunnableConfig | None) -> Principal | None:
    """Who asks: `config["configurable"]` with `principal`, or with the ids that applications keep there anyway.

    `tenant_id`, `user_id`, `session_id` (or `thread_id`) and `task_id`, with or without `_id`. Raises
    `ConfigurationError` for an id that is none.
    """
    given = (config or {}).get("configurable") or {}
    principal = given.get("principal")
    if isinstance(principal, Principal):
        return principal
    source = principal if isinstance(principal, Mapping) else given
    found = {part: next((source[k] for k in keys if source.get(k) is not None), None) for part, keys in _PARTS.items()}
    ids = {part: value if isinstance(value, str) else str(value) for part, value in found.items() if value is not None}
    return Principal(**ids) if ids else None


def labels_of(config: RunnableConfig | None) -> dict[str, AttributeValue]:
    """Tags and metadata as attributes of a span: ids and numbers alone, at most 32; no text, and not who asks."""
    config = config or {}
    tags = [tag for tag in config.get("tags") or () if isinstance(tag, str) and _ID.fullmatch(tag)]
    found: dict[str, AttributeValue] = {"langchain.tags": tags[:MAX_LABELS]} if tags else {}
    for key, value in (config.get("metadata") or {}).items():
        if len(found) >= MAX_LABELS or key in _PRINCIPAL_KEYS or not _ID.fullmatch(str(key)):
            continue
        if isinstance(value, bool | int | float) or (isinstance(value, str) and _ID.fullmatch(value)):
            found[f"langchain.metadata.{key}"] = value
    return found


class Traced:
    """A span of LangChain's around what the shield does, so that its trace is found by tag and metadata."""

    def __init__(self, name: str, config: RunnableConfig | None, provider: trace.TracerProvider | None = None) -> None:
        tracer = trace.get_tracer("shieldkit.adapters.langchain", tracer_provider=provider)
        self._span = tracer.start_span(f"langchain {name}", attributes=labels_of(config))

    def __enter__(self) -> Traced:
        return self

    def __exit__(self, *_: object) -> None:
        self._span.end()

    def current(self) -> Any:
        """Makes the span the current one for a block, and keeps exceptions, which may hold content, out of it."""
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def each(self, items: Iterator[T]) -> Iterator[T]:
        """The items, each made under the span, and handed on outside it."""
        while True:
            with self.current():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    async def aeach(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        """`each` for async code."""
        while True:
            with self.current():
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            yield item
