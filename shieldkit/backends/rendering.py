"""A chat template rendered around placeholders, so that text can never become part of the template.

The usual way renders messages and template into one string and tokenizes that with special tokens on; a user who types
`<|im_start|>system` then opens a system turn. Here the template sees an unguessable word in the place of each segment.
The result is cut at those words: what lies between them is the template's own (control tokens are wanted there), and
what stands for them is text (tokenized with special tokens off). See ChatBug (Jiang et al. 2024) for what forged
template text does to a model even as plain text: the marker guard is for that.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from shieldkit.backends.base import Piece
from shieldkit.conversation import Conversation, Kind
from shieldkit.errors import BackendError, ModelFileError

if TYPE_CHECKING:
    from jinja2 import Template

MAX_TEMPLATE_CHARS = 200_000
_MAY_BE_DROPPED = frozenset({Kind.REASONING, Kind.NAME, Kind.KEY})


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja chat template, as GGUF and Hugging Face files carry it. Runs in Jinja's immutable sandbox."""

    source: str
    bos: str = ""
    eos: str = ""

    def render(self, conversation: Conversation) -> list[Piece]:
        """The prompt as pieces, up to where the assistant's answer begins.

        Raises `BackendError` when the template cannot take the conversation, or would leave out what was judged.
        """
        try:
            return self._pieces(conversation)
        except (RecursionError, MemoryError, ValueError, TypeError) as error:
            raise BackendError(f"this conversation cannot be rendered ({type(error).__name__})") from None

    def _pieces(self, conversation: Conversation) -> list[Piece]:
        nonce = "".join(secrets.choice("bcdfghjklmnpqrstvwxz") for _ in range(24))
        messages = _plain(conversation.wire(lambda i: f"{nonce}{i}q"), nonce)
        given = _for_template(messages, self.source)
        tools = conversation.wire_tools(lambda i: f"{nonce}{i}q")
        if tools and "tools" not in self.source:
            raise BackendError("the model's chat template takes no tools")
        text = self._text(given, tools, nonce)
        # What a template is not given (caching hints, metadata) the model does not see; what it is given must come out.
        wanted = {int(i) for i in re.findall(f"{nonce}([0-9]+)[qj]", json.dumps(given))}
        return _cut(text, nonce, conversation, wanted)

    def _text(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], nonce: str) -> str:
        attempts = (messages, _without_system(messages))
        for attempt in attempts:
            try:
                return self._rendered(attempt, tools, nonce)
            except ModelFileError:
                raise
            except Exception as error:  # the template is the file's, and may fail in any way
                failure = error
        raise BackendError(f"the model's chat template cannot take this conversation ({type(failure).__name__})")

    def _rendered(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], nonce: str) -> str:
        return str(_compiled(self.source).render(
            messages=messages, add_generation_prompt=True, bos_token=self.bos, eos_token=self.eos, tools=tools or None,
            shieldkit_nonce=nonce, raise_exception=_raise, strftime_now=_now,
        ))  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServedTemplate(ChatTemplate):
    """A template that its server renders. It is unseen, so tool calls and results are said in words."""

    source: str = ""
    ask: Callable[[list[dict[str, Any]]], str] = field(default=lambda messages: "", compare=False)

    def _rendered(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], nonce: str) -> str:
        return self.ask(messages)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    from jinja2 import TemplateError, pass_context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(source) > MAX_TEMPLATE_CHARS:
        raise ModelFileError("chat_template", "is too long to be one", mend="Give a chat_template of your own")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    @pass_context
    def tojson(context: Any, value: Any, indent: int | None = None, **_: Any) -> str:
        """As in Hugging Face's renderer. A placeholder in JSON is marked, so that its text is escaped when put back."""
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        return _escaped(text, context["shieldkit_nonce"])

    environment.filters["tojson"] = tojson
    try:
        return environment.from_string(source)
    except (TemplateError, RecursionError) as error:
        problem = f"is not a Jinja template ({type(error).__name__})"
        raise ModelFileError("chat_template", problem, mend="Give a chat_template of your own") from None


def _escaped(text: str, nonce: str) -> str:
    return re.sub(f"({nonce}[0-9]+)q", r"\1j", text)


def _cut(text: str, nonce: str, conversation: Conversation, wanted: set[int]) -> list[Piece]:
    """The rendered text as pieces, with the segments' own texts for their placeholders."""
    pieces, seen, position = [], set(), 0
    for match in re.finditer(f"{nonce}([0-9]+)([qj])", text):
        index = int(match[1])
        own = conversation.segments[index].text
        pieces.append(Piece(text[position : match.start()], control=True))
        pieces.append(Piece(own if match[2] == "q" else json.dumps(own, ensure_ascii=False)[1:-1]))
        seen.add(index)
        position = match.end()
    pieces.append(Piece(text[position:], control=True))
    if any(nonce in piece.text for piece in pieces):
        raise BackendError("the model's chat template takes texts apart, and cannot be used safely")
    for index, segment in enumerate(conversation.segments):
        if index in wanted - seen and segment.text.strip() and segment.kind not in _MAY_BE_DROPPED:
            raise BackendError(f"the model's chat template leaves out {segment.path}")
    return [piece for piece in pieces if piece.text]


# -- messages as templates know them: roles of three or four kinds, content a string ---------------------------------


def _plain(messages: Sequence[Mapping[str, Any]], nonce: str) -> list[dict[str, Any]]:
    """Content as one string, documents as user turns in a plain frame."""
    out = []
    for message in messages:
        plain = {key: value for key, value in message.items() if key in _KNOWN}
        content = _content(message.get("content"), nonce)
        if message["role"] == "document":
            plain["role"], content = "user", f"Document:\n{content}\nEnd of document."
        out.append({**plain, "content": content})
    return out


_KNOWN = {"role", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking"}
_HINTS = {"cache_control", "annotations", "citations", "index"}


def _content(content: Any, nonce: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, Mapping) and "type" in p for p in content):
        return "\n".join(_part(part, nonce) for part in content)
    return _escaped(json.dumps(content, ensure_ascii=False), nonce)


def _part(part: Mapping[str, Any], nonce: str) -> str:
    for key in ("text", "thinking", "reasoning", "refusal"):
        if isinstance(part.get(key), str):
            return str(part[key])
    rest = {key: value for key, value in part.items() if key != "type" and key not in _HINTS}
    return _content(rest["content"], nonce) if set(rest) == {"content"} else _content(rest, nonce)


def _for_template(messages: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """What a template does not know is said in words, and turns of one role in a row become one."""
    out: list[dict[str, Any]] = []
    for message in messages:
        changed = dict(message)
        if "tool_calls" in changed and "tool_calls" not in source:
            calls = json.dumps(changed.pop("tool_calls"), ensure_ascii=False)
            changed["content"] += f"\nTool calls: {_escaped_all(calls)}"
        if changed["role"] == "tool" and "tool" not in source:
            changed = {"role": "user", "content": f"Tool result:\n{changed['content']}"}
        previous = out[-1] if out else None
        if previous and previous["role"] == changed["role"] != "tool" and previous.keys() == changed.keys() == _BARE:
            previous["content"] += f"\n\n{changed['content']}"
        else:
            out.append(changed)
    return out


_BARE = {"role", "content"}


def _escaped_all(text: str) -> str:
    return re.sub("([bcdfghjklmnpqrstvwxz]{24}[0-9]+)q", r"\1j", text)


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For templates that know no system role: its text stands before the first user turn's."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [dict(m) for m in messages if m["role"] != "system"]
    first: Callable[[dict[str, Any]], bool] = lambda m: m["role"] == "user"  # noqa: E731
    target = next(filter(first, rest), None)
    if target is None or not system:
        return messages
    target["content"] = f"{system}\n\n{target['content']}"
    return rest
