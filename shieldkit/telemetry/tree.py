"""A finished trace as a tree for people: what ran, how long it took, what it decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shieldkit.telemetry import names

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from rich.tree import Tree

_COLOURS = {"allow": "green", "flag": "yellow", "redact": "magenta", "approve": "cyan", "block": "red"}


def render(spans: Sequence[ReadableSpan]) -> Tree:
    """A rich `Tree` of the spans of one trace, in the order in which they began."""
    from rich.tree import Tree

    ordered = sorted(spans, key=lambda span: span.start_time or 0)
    ids = {span.context.span_id for span in ordered if span.context}
    roots = [span for span in ordered if span.parent is None or span.parent.span_id not in ids]
    tree = Tree(_line(roots[0])) if roots else Tree("(no spans)")
    if roots:
        _grow(tree, roots[0], ordered)
    return tree


def _grow(branch: Tree, span: ReadableSpan, spans: Sequence[ReadableSpan]) -> None:
    for child in spans:
        if child.parent is not None and span.context is not None and child.parent.span_id == span.context.span_id:
            _grow(branch.add(_line(child)), child, spans)


def _line(span: ReadableSpan) -> str:
    from rich.markup import escape

    attributes = span.attributes or {}
    took_ms = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    action = str(attributes.get(names.GUARDRAIL_RESULT_VALUE) or attributes.get(names.ACTION) or "")
    rule = str(attributes.get(names.GUARDRAIL_RULE) or attributes.get(names.RULE) or "")
    stage = str(attributes.get(names.STAGE) or "")
    tokens = ""
    if names.USAGE_OUTPUT in attributes:
        tokens = f"{attributes[names.USAGE_INPUT]!s} → {attributes[names.USAGE_OUTPUT]!s} tokens"
    error = str(attributes.get(names.ERROR_TYPE) or "")
    colour = _COLOURS.get(action, "default")
    parts = [
        f"[bold]{escape(span.name)}[/]",
        f"{took_ms:.1f} ms",
        escape(stage),
        f"[{colour}]{escape(action)}[/]" if action else "",
        escape(rule),
        tokens,
        f"[red]{escape(error)}[/]" if error else "",
    ]
    return "  ".join(part for part in parts if part)
