"""Chat templates as programs: what they reach for, and what they hide.

A template is read as Jinja's syntax tree and never rendered. Templates that reach into Python are attacks on the server;
ones that watch for a phrase, or carry text that nobody sees, are attacks on the model's users: a template writes what
the model reads, after every filter before it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shieldkit.audit.findings import Given, Hit, Severity
from shieldkit.audit.located import Problem
from shieldkit.audit.readers.modelfiles import ModelFiles, Template
from shieldkit.audit.registry import Context, rule

if TYPE_CHECKING:
    from jinja2 import nodes

MAX_CHARS = 200_000
_LARGE, _MANY = 60_000, 100_000
_SOURCE = "https://jinja.palletsprojects.com/en/stable/sandbox/"
_INTERNAL = frozenset({"mro", "gi_frame", "gi_code", "cr_frame", "cr_code", "func_globals", "func_code", "f_globals"})
_REACHING = frozenset({"cycler", "joiner", "lipsum", "self", "config", "request", "url_for", "get_flashed_messages"})
_HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\u00ad\U000e0000-\U000e007f]")
_ADDRESS = re.compile(r"(?i)\b(?:https?|ftp|wss?)://[\w.-]+|\bdata:[\w/+.-]+;base64,")
_CONCEALING = re.compile(
    r"(?i)\b(?:do not|don't|never) (?:mention|reveal|tell|disclose|admit)\b|\bsecretly\b|\bwithout (?:telling|mentioning)\b"
    r"|\b(?:ignore|disregard) (?:all|any|the) (?:previous|prior|above|user)|\bregardless of (?:safety|policy|the rules)"
)
_KNOWN_SWITCHES = frozenset({"/think", "/no_think", "/nothink", "/no_thinking", "/system_override"})
_TEXTS = frozenset({"content", "text"})


def parse(template: Template) -> nodes.Template:
    """The syntax tree. Raises `Problem` when it is no template, or Jinja is not installed."""
    return _parsed(template.where.value)


@lru_cache(maxsize=64)
def _parsed(text: str) -> nodes.Template:
    try:
        from jinja2 import TemplateError
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise Problem("is not read without Jinja: pip install 'shieldkit[audit]'") from None

    class Generation(Extension):
        """`{% generation %}`, which marks the assistant's words for training."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    if len(text) > MAX_CHARS:
        raise Problem(f"has a chat template of more than {MAX_CHARS} characters")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    try:
        return environment.parse(text)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise Problem("has a chat template that is not Jinja" + (f" (its line {line})" if line else "")) from None
    except (RecursionError, ValueError, MemoryError):
        raise Problem("has a chat template that cannot be parsed safely") from None


def _hit(template: Template, node: nodes.Node, note: str = "") -> Hit:
    """A hit at a node: the line in a template's own file, or the template's line as a note."""
    where = template.where
    if where.line:
        return Hit(Given("", where.file, node.lineno), note)
    return Hit(Given("", where.file, 0), f"line {node.lineno} of the template" + (f": {note}" if note else ""))


@rule(
    "template-runs-code", Severity.CRITICAL, "The chat template reaches into Python",
    why="Outside of a sandbox (older servers and scripts) it runs code on the server; no chat needs it.",
    mend="Do not load this model; take the template from the model's maker", source=_SOURCE,
)  # fmt: skip
def template_runs_code(template: Template, context: Context) -> Iterator[Hit]:
    from jinja2 import nodes

    kinds = (
        nodes.Getattr,
        nodes.Getitem,
        nodes.Filter,
        nodes.Name,
        nodes.Include,
        nodes.Import,
        nodes.FromImport,
        nodes.Extends,
    )
    tree = parse(template)
    # `self.NAME` is a block of the template's own; `self` in any other place leads to Python.
    blocks = {
        id(node.node) for node in tree.find_all(nodes.Getattr)
        if isinstance(node.node, nodes.Name) and node.node.name == "self" and not node.attr.startswith("_")
    }  # fmt: skip
    for node in tree.find_all(kinds):
        what = _reaches(node) if id(node) not in blocks else ""
        if what:
            yield _hit(template, node, what)
            return


def _reaches(node: Any) -> str:
    from jinja2 import nodes

    if isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends):
        return "it includes another file"
    if isinstance(node, nodes.Filter):
        named = [k.value.value for k in node.kwargs if k.key == "attribute" and isinstance(k.value, nodes.Const)]
        dunder = any("__" in str(value) for value in named)
        return "it looks attributes up by name" if node.name == "attr" or dunder else ""
    if isinstance(node, nodes.Name):
        return "it uses an object that leads to Python's own" if node.name in _REACHING and node.ctx == "load" else ""
    if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Const):
        # A name put together from pieces: messages['__cla' ~ 'ss__'].
        return "it puts an attribute's name together" if any("_" in part for part in _pieces(node.arg)) else ""
    key = node.attr if isinstance(node, nodes.Getattr) else node.arg.value
    internal = isinstance(key, str) and (key.startswith("__") or key in _INTERNAL)
    return "it uses Python's internal attributes" if internal else ""


def _pieces(node: Any) -> Iterator[str]:
    from jinja2 import nodes

    if isinstance(node, nodes.Concat | nodes.Add | nodes.Filter | nodes.Mod):
        yield from (leaf.value for leaf in node.find_all(nodes.Const) if isinstance(leaf.value, str))


@rule(
    "template-has-trigger", Severity.HIGH, "The chat template watches for a phrase in the conversation",
    why="What the model reads changes when somebody says the phrase: a back door that no filter before the template sees.",
    mend="Take the template from the model's maker, and compare", source="https://www.splunk.com/en_us/blog/security/gguf-llm-security-inference-time-poisoning-templates.html",
)  # fmt: skip
def template_has_trigger(template: Template, context: Context) -> Iterator[Hit]:
    from jinja2 import nodes

    tree = parse(template)
    texts = set(_TEXTS)
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_text(assignment.node, texts):
            texts.add(assignment.target.name)
    for node in tree.find_all((nodes.Compare, nodes.Call)):
        if any(_is_text(side, texts) for side in _sides(node)) and any(map(_is_phrase, _literals(node))):
            yield _hit(template, node)
            return


def _sides(node: Any) -> Iterator[Any]:
    """What is searched: the sides of a comparison, or the text whose method is called."""
    from jinja2 import nodes

    if isinstance(node, nodes.Compare):
        yield node.expr
        yield from (operand.expr for operand in node.ops)
    elif isinstance(node.node, nodes.Getattr) and node.node.attr in (
        "startswith",
        "endswith",
        "find",
        "count",
        "index",
    ):
        yield node.node.node


def _literals(node: Any) -> Iterator[str]:
    from jinja2 import nodes

    parts = [node.expr, *(o.expr for o in node.ops)] if isinstance(node, nodes.Compare) else node.args
    for part in parts:
        for leaf in part.items if isinstance(part, nodes.List | nodes.Tuple) else [part]:
            if isinstance(leaf, nodes.Const) and isinstance(leaf.value, str):
                yield leaf.value


def _is_phrase(text: str) -> bool:
    """Words as people say them, and not a marker such as `</think>` or `[TOOL_CALLS]`."""
    bare = text.strip()
    letters = sum(c.isalpha() for c in bare)
    return letters >= 3 and not set(bare) & set("<>[]|{}") and bare not in _KNOWN_SWITCHES


def _is_text(node: Any, texts: set[str]) -> bool:
    """Does this expression stand for what somebody has said?"""
    from jinja2 import nodes

    while node is not None:
        if isinstance(node, nodes.Name):
            return node.name in texts
        if isinstance(node, nodes.Getattr):
            return node.attr in _TEXTS
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            return node.arg.value in _TEXTS
        if isinstance(node, nodes.CondExpr) and _is_text(node.expr2, texts):
            return True
        # A filter, a slice, a method: what it is applied to.
        method = isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr)
        node = (
            node.node.node if method else getattr(node, "expr1" if isinstance(node, nodes.CondExpr) else "node", None)
        )
    return False


@rule(
    "template-hides-text", Severity.HIGH, "The chat template contains invisible characters",
    why="Zero-width, bidirectional and tag characters hide instructions from people who read the template.",
    mend="Take the template from the model's maker", source="https://unicode.org/reports/tr36/",
)  # fmt: skip
def template_hides_text(template: Template, context: Context) -> Iterator[Hit]:
    match = _HIDDEN.search(template.where.value)
    if match is not None:
        line = template.where.value.count("\n", 0, match.start()) + 1
        where = Given("", template.where.file, line if template.where.line else 0)
        yield Hit(where, f"U+{ord(match.group()):04X} in line {line} of the template")


def _written(node: Any) -> str:
    """The text that a node writes, or compares with."""
    text = getattr(node, "data", None) or getattr(node, "value", None)
    return text if isinstance(text, str) else ""


@rule(
    "template-has-address", Severity.MEDIUM, "The chat template writes an internet address into prompts",
    why="A model that is given an address passes it on, or calls it when it has tools.",
    mend="Take the template from the model's maker", source="https://www.splunk.com/en_us/blog/security/gguf-llm-security-inference-time-poisoning-templates.html",
)  # fmt: skip
def template_has_address(template: Template, context: Context) -> Iterator[Hit]:
    from jinja2 import nodes

    for node in parse(template).find_all((nodes.TemplateData, nodes.Const)):
        text = _written(node)
        if _ADDRESS.search(text):
            yield _hit(template, node)
            return


@rule(
    "template-conceals", Severity.HIGH, "The chat template tells the model to keep something from its user",
    why="Hidden instructions in templates come after every filter, and in every conversation.",
    mend="Take the template from the model's maker, and compare",
    source="https://www.splunk.com/en_us/blog/security/gguf-llm-security-inference-time-poisoning-templates.html",
)  # fmt: skip
def template_conceals(template: Template, context: Context) -> Iterator[Hit]:
    from jinja2 import nodes

    for node in parse(template).find_all((nodes.TemplateData, nodes.Const)):
        text = _written(node)
        if _CONCEALING.search(text):
            yield _hit(template, node)
            return


@rule(
    "template-exhausts", Severity.HIGH, "The chat template can use up the server",
    why="It repeats a text, or counts, more than a hundred thousand times for each request.",
    mend="Do not load this model", source=_SOURCE,
)  # fmt: skip
def template_exhausts(template: Template, context: Context) -> Iterator[Hit]:
    from jinja2 import nodes

    for node in parse(template).find_all((nodes.Mul, nodes.Pow, nodes.Call)):
        if isinstance(node, nodes.BinExpr):
            parts = [node.left, node.right]
        else:
            called = node.node if isinstance(node, nodes.Call) else None
            parts = node.args if isinstance(called, nodes.Name) and called.name == "range" else []  # type: ignore[attr-defined]
        large = [p for p in parts if isinstance(p, nodes.Const) and isinstance(p.value, int) and p.value > _MANY]
        if large or isinstance(node, nodes.Pow):
            yield _hit(template, node)
            return


@rule(
    "template-huge", Severity.MEDIUM, "The chat template is far larger than templates are",
    why="The largest templates of known models have some 20000 characters; nobody reviews this one.",
    mend="Take the template from the model's maker, and compare", source="https://huggingface.co/docs/transformers/chat_templating",
)  # fmt: skip
def template_huge(template: Template, context: Context) -> Iterator[Hit]:
    if len(template.where.value) > _LARGE:
        yield Hit(Given("", template.where.file, template.where.line), f"{len(template.where.value)} characters")


@rule(
    "template-differs", Severity.HIGH, "Two files of one model carry different chat templates",
    why="Which one holds depends on the server; one of them may have been changed.",
    mend="Keep one; compare both with the model's maker's", source="https://huggingface.co/docs/transformers/chat_templating",
)  # fmt: skip
def template_differs(model: ModelFiles, context: Context) -> Iterator[Hit]:
    default = [
        t for t in model.templates if t.name.endswith((": chat template", " default", ".json", "chat_template.jinja"))
    ]
    for one, other in itertools.pairwise(default):
        if _essence(one) != _essence(other):
            yield Hit(
                Given("", other.where.file, other.where.line), f"not the one in {one.where.file.rpartition('/')[2]}"
            )


def _essence(template: Template) -> str:
    return "\n".join(line.strip() for line in template.where.value.strip().splitlines() if line.strip())
