"""A model behind a server that speaks the OpenAI protocol: vLLM, llama-server, TGI, SGLang, Ollama, and APIs like them.

What each of them adds to the protocol is in `dialects/`. Where a server takes token ids as a prompt, untrusted text is
tokenized so that it never becomes a control token; elsewhere control tokens in it are taken apart before it is sent.
The server is not trusted: its answers are bounded, its counts are checked, and its words are in no error.
A client that the application has already is a backend by `openai_model.py` among the adapters.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cachetools import LRUCache

from shieldkit.backends import reasoning
from shieldkit.backends.base import Completion, CompletionRequest, Piece, PromptCompletion
from shieldkit.backends.chat import Answer, messages_of, said, tools_of, written_tokens
from shieldkit.backends.dialects import DIALECTS, Asked, Dialect, Served, recognised
from shieldkit.backends.inert import Inert
from shieldkit.backends.rendering import ChatTemplate
from shieldkit.backends.tokens import (
    BYTES_A_TOKEN,
    TOKENS_A_MESSAGE,
    TOKENS_A_TEMPLATE,
    PieceTokens,
    TokenizerFiles,
    most_tokens,
)
from shieldkit.backends.wire import MAX_RESPONSE_BYTES, RequestRefused, Wire
from shieldkit.conversation import Conversation, Role
from shieldkit.errors import BackendError, BackendTimeout, ConfigurationError, ContextExceeded
from shieldkit.telemetry.events import emit

DEFAULT_CONTEXT_TOKENS = 32_768
MOST_CHARS_A_TOKEN = 8
# What an answer has beside its tokens: JSON's escapes and log-probabilities are in `BYTES_A_TOKEN`.
BYTES_AN_ANSWER = 65_536
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What will be sent: token ids, or messages and tools. `tokens` is exact, or not less than what will be read.

    `thinks` says whether the answer to ids may begin with marked reasoning, `opened` whether the template has begun it.
    """

    tokens: int
    exact: bool
    ids: list[int] | None = None
    thinks: bool = False
    opened: bool = False
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()


class OpenAICompatible:
    """A model server. A `StreamingBackend`, and a `PromptBackend` where the server takes token ids.

    `base_url`: of the OpenAI protocol, such as `http://127.0.0.1:8000/v1`. `model`: the name to ask for; not needed where
    one is served. `api_key`: sent to this server alone; keys in the environment are not. `dialect`: one of `DIALECTS`; by
    default the server is asked. `context_tokens`: where the server does not tell, or less than it has. `tokenizer`: the
    folder of the model's tokenizer.json, for exact counts and for prompts without a request for each text.
    `chat_template`: in place of the served one. `prompt="chat"` always uses the chat endpoint, with the server's own
    parsers of reasoning. Nothing is asked before the first use, or before a `Shield` opens it.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        dialect: str | None = None,
        context_tokens: int | None = None,
        tokenizer: str | Path | None = None,
        chat_template: str | None = None,
        prompt: str = "ids",
        headers: Mapping[str, str] | None = None,
        connect_timeout_s: float = 10.0,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._host = _checked_url(base_url, api_key)
        if dialect is not None and dialect not in DIALECTS:
            mend = f"Use one of {', '.join(DIALECTS)}"
            raise ConfigurationError("OpenAICompatible.dialect", f"'{dialect}' is not known", mend=mend)
        if prompt not in ("ids", "chat"):
            raise ConfigurationError("OpenAICompatible.prompt", f"'{prompt}' is neither", mend="Use 'ids' or 'chat'")
        self._model, self._dialect_name, self._wanted_tokens = model, dialect, context_tokens
        self._prefers_chat, self._template_source = prompt == "chat", chat_template
        self._files = TokenizerFiles.read(tokenizer) if tokenizer is not None else None
        self._wire = Wire(
            base_url, api_key=api_key, headers=headers or {}, connect_timeout_s=connect_timeout_s,
            max_response_bytes=max_response_bytes,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._opened: tuple[Dialect, Served, Inert] | None = None
        self._prompts: LRUCache[Conversation, _Prompt] = LRUCache(16)
        self._notes: dict[str, Any] = {}

    # -- opening ----------------------------------------------------------------------------------------------------

    def open(self, max_context_tokens: int = DEFAULT_CONTEXT_TOKENS) -> None:
        """Ask the server what it is and what it serves. A second time does nothing. Raises `ConfigurationError`."""
        with self._lock:
            if self._opened is not None:
                return
            try:
                self._opened = self._asked(max_context_tokens)
            except BackendError as error:
                mend = "Start the server, mend the address, or name its dialect"
                raise ConfigurationError("OpenAICompatible.base_url", str(error), mend=mend) from None

    def _asked(self, most: int) -> tuple[Dialect, Served, Inert]:
        try:
            models = self._wire.get("v1/models")
        except RequestRefused:
            models = None
        kind = DIALECTS[self._dialect_name] if self._dialect_name else recognised(self._wire, models)
        dialect = kind(self._wire)
        served = dialect.open(Asked(self._model, self._wanted_tokens, most, models))
        served = self._with_files(served)
        context = self._context(dialect, served)
        if served.hides is not None:
            emit(logging.WARNING, "served_name_differs", served=served.model, model=served.hides, server=dialect.name)
        if served.tokens is None:
            emit(logging.WARNING, "token_counts_are_bounds", server=dialect.name, mend="OpenAICompatible(tokenizer=…)")
        own = served.tokens.control if served.tokens is not None else ()
        return dialect, replace(served, context_tokens=context), served.tokens.inert if served.tokens else Inert(own)

    def _with_files(self, served: Served) -> Served:
        """What the caller gave comes before what the server tells."""
        template = served.template
        if self._files is not None:
            control = self._files.control
            served = replace(served, tokens=PieceTokens(self._files.encode, Inert(control, whole=True), control))
            source = self._template_source or self._files.template
            template = ChatTemplate(source, self._files.bos, self._files.eos) if source else template
        elif self._template_source is not None:
            template = ChatTemplate(self._template_source)
        return replace(served, template=template)

    def _context(self, dialect: Dialect, served: Served) -> int:
        real, wanted = served.context_tokens, self._wanted_tokens
        if real is None:
            raise ConfigurationError(
                "OpenAICompatible.context_tokens", f"{dialect.name} does not tell its context size", mend="Give it"
            )
        if wanted is not None and wanted > real:
            problem = f"{wanted} is more than the {real} tokens that the server has"
            mend = f"Set it to {real} or less, or raise the server's: {dialect.flag}"
            raise ConfigurationError("OpenAICompatible.context_tokens", problem, mend=mend)
        return min(real, wanted or real)

    @property
    def _server(self) -> tuple[Dialect, Served, Inert]:
        if self._opened is None:
            self.open()
        assert self._opened is not None
        return self._opened

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The kind of server."""
        return self._server[0].name

    @property
    def model(self) -> str:
        """The name that is asked for."""
        return self._server[1].model

    @property
    def true_model(self) -> str:
        """What stands behind the name, where the server tells: a repository, a file, a parent; else the name."""
        served = self._server[1]
        return served.hides or served.model

    @property
    def context_flag(self) -> str:
        """What sets the context of this server."""
        return self._server[0].flag

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together: what the server has, or less where that was asked for."""
        tokens = self._server[1].context_tokens
        assert tokens is not None
        return tokens

    @property
    def control_tokens(self) -> frozenset[str]:
        """The control tokens of the model's vocabulary, as far as they can be found out."""
        tokens = self._server[1].tokens
        return frozenset(tokens.control) if tokens is not None else frozenset()

    @property
    def control_ids(self) -> frozenset[int]:
        """Their ids."""
        tokens = self._server[1].tokens
        return frozenset(tokens.control.values()) if tokens is not None else frozenset()

    @property
    def chat_template(self) -> str | None:
        """The Jinja template, where it is at hand as a text."""
        template = self._server[1].template
        return template.source or None if template is not None else None

    def describe(self) -> Mapping[str, Any]:
        """What is used to answer."""
        dialect, served, _ = self._server
        return {
            "name": dialect.name, "model": served.model, "true_model": self.true_model, "server": self._host,
            "context_tokens": self.context_tokens, "prompts": "ids" if self._by_ids else "chat",
            "control_tokens": len(self.control_tokens), **served.notes, **self._notes,
        }  # fmt: skip

    def close(self) -> None:
        """Close all connections. It cannot be used again."""
        self._wire.close()

    # -- prompts ----------------------------------------------------------------------------------------------------

    @property
    def _by_ids(self) -> bool:
        dialect, served, _ = self._server
        return dialect.takes_ids and not self._prefers_chat and None not in (served.tokens, served.template)

    def prompt_ids(self, conversation: Conversation) -> list[int] | None:
        """The ids that `complete` sends; None where it sends messages."""
        ids = self._prompt(conversation).ids
        return list(ids) if ids is not None else None

    def _prompt(self, conversation: Conversation) -> _Prompt:
        with self._lock:
            found = self._prompts.get(conversation)
        if found is None:
            found = self._made(conversation)
            with self._lock:
                self._prompts[conversation] = found
        return found

    def _made(self, conversation: Conversation) -> _Prompt:
        """Tools, and what is no text, go through the chat endpoint, where the server's own parsers are."""
        dialect, served, inert = self._server
        tooled = bool(conversation.tools) or any(m.role is Role.TOOL for m in conversation.messages)
        if self._by_ids and not tooled and not conversation.unreadable:
            assert served.template is not None
            assert served.tokens is not None
            pieces = served.template.render(conversation)
            ids, opened = served.tokens.ids(pieces), reasoning.opened(pieces)
            thinks = opened or reasoning.thinks(served.template.source, served.tokens.control)
            return _Prompt(len(ids), True, ids, thinks, opened)
        messages, tools = messages_of(conversation, inert), tools_of(conversation, inert)
        exact = dialect.count_chat(served, messages, tools)
        most = exact if exact is not None else self._most(conversation, messages, tools)
        return _Prompt(most, exact is not None, messages=tuple(messages), tools=tuple(tools))

    def _most(self, conversation: Conversation, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> int:
        """Not more tokens than this: by the tokenizer with what a template may add, or by bytes."""
        tokens = self._server[1].tokens
        if tokens is None:
            return most_tokens(messages, tools)
        own = sum(len(tokens.text_ids(s.text)) + 2 for s in conversation.segments)
        return own + TOKENS_A_MESSAGE * (len(messages) + len(tools)) + TOKENS_A_TEMPLATE

    # -- tokens -----------------------------------------------------------------------------------------------------

    def count_tokens(self, conversation: Conversation, limit: int | None = None) -> int:
        """What the server will read: exact where it has a tokenizer to ask, and else not less than that."""
        tokens = self._server[1].tokens
        if limit is not None and tokens is not None:
            longest = max((s.text for s in conversation.segments), key=len, default="")
            if len(longest) > MOST_CHARS_A_TOKEN * limit:
                enough = len(tokens.text_ids(longest[: MOST_CHARS_A_TOKEN * limit])) - 1
                if enough > limit:
                    return enough
        return self._prompt(conversation).tokens

    def count_pieces(self, pieces: Sequence[Piece]) -> int:
        """The tokens of a raw prompt."""
        return len(self._tokens.ids(pieces))

    def first_tokens(self, words: Sequence[str]) -> Mapping[str, str]:
        """For each word, the text of the first token that it begins with."""
        dialect, served, _ = self._server
        return {word: dialect.token_text(served, self._tokens.encode(word)[0]) for word in words}

    @property
    def _tokens(self) -> PieceTokens:
        dialect, served, _ = self._server
        if not dialect.takes_ids or served.tokens is None:
            raise BackendError(f"{dialect.name} takes no token ids, and so no raw prompts")
        return served.tokens

    # -- answering --------------------------------------------------------------------------------------------------

    def complete(self, request: CompletionRequest) -> Completion:
        """Answer, in one piece. Raises `BackendError` and its kin."""
        dialect, _, _ = self._server
        prompt = self._fitting(request)
        path, body = self._body(request, prompt)
        answer = dialect.read(self._create(request, path, body))
        completion = self._completion(request, prompt, answer)
        thoughts, text = _thoughts(request, prompt), completion.message.get("content")
        if thoughts is None or not isinstance(text, str):
            return completion
        return replace(completion, message=thoughts.message(thoughts.after(text) + thoughts.rest()))

    def stream(self, request: CompletionRequest) -> Iterator[str | Completion]:
        """New text as it comes, and at last the whole. Closing the iterator closes the connection, and so ends it."""
        dialect, _, _ = self._server
        prompt = self._fitting(request)
        path, body = self._body(request, prompt)
        gathered, thoughts = dialect.gather(), _thoughts(request, prompt)
        bits: list[str] = []
        length = 0
        events = self._wire.events(
            path, dialect.streamed(body), request=request, max_bytes=self._wire.max_response_bytes
        )
        request.progress.input_tokens = prompt.tokens
        try:
            for event in events:
                new = gathered.add(event)
                request.progress.most_output_tokens = min(gathered.most_tokens, request.max_output_tokens) or None
                length += len(new.encode("utf-8", "replace"))
                if length > BYTES_AN_ANSWER + BYTES_A_TOKEN * request.max_output_tokens:
                    raise BackendError("the server writes more than it was allowed")
                if thoughts is not None:
                    new = thoughts.after(new)
                    bits.append(new)
                if new:
                    yield new
        finally:
            events.close()  # type: ignore[attr-defined]
        completion = self._completion(request, prompt, gathered.answer())
        if thoughts is not None:
            if new := thoughts.rest():
                bits.append(new)
                yield new
            completion = replace(completion, message=thoughts.message("".join(bits)))
        yield completion

    def _fitting(self, request: CompletionRequest) -> _Prompt:
        prompt = self._prompt(request.conversation)
        if prompt.tokens + request.max_output_tokens > self.context_tokens:
            at_most = "" if prompt.exact else "up to "
            raise ContextExceeded(
                f"{at_most}{prompt.tokens} tokens and {request.max_output_tokens} for the answer do not fit "
                f"{self.context_tokens} ({self.context_flag})"
            )
        if request.expired():
            request.progress.input_tokens = request.progress.output_tokens = 0  # nothing was sent
            raise BackendTimeout("no answer within the deadline")
        return prompt

    def _body(self, request: CompletionRequest, prompt: _Prompt) -> tuple[str, dict[str, Any]]:
        dialect, served, _ = self._server
        if prompt.ids is not None:
            return "completions", dialect.prompt_body(request, served, prompt.ids)
        return dialect.chat_path, dialect.chat_body(request, served, list(prompt.messages), list(prompt.tools))

    def _create(self, request: CompletionRequest, path: str, body: dict[str, Any]) -> Any:
        """One completion. A schema that the server does not take is left out: the schema gate checks the answer anyway."""
        most = BYTES_AN_ANSWER + BYTES_A_TOKEN * request.max_output_tokens
        try:
            return self._wire.create(path, body, request=request, max_bytes=most)
        except RequestRefused as error:
            if request.schema is None:
                raise
            self._notes["constrained_decoding"] = f"not used: HTTP {error.status}"
            path, body = self._body(replace(request, schema=None), self._prompt(request.conversation))
            return self._wire.create(path, body, request=request, max_bytes=most)

    def _completion(self, request: CompletionRequest, prompt: _Prompt, answer: Answer) -> Completion:
        """The answer, with its counts held against what was sent and what was allowed."""
        dialect, served, _ = self._server
        read, written = answer.input_tokens, answer.output_tokens
        text = said(answer.message)
        size = len(text.encode("utf-8", "replace"))
        if prompt.exact and dialect.counts_cached and read is not None and read < prompt.tokens:
            raise BackendError(f"the server read {read} of {prompt.tokens} tokens: it cuts prompts ({dialect.flag})")
        if (written or 0) > request.max_output_tokens or size > BYTES_A_TOKEN * request.max_output_tokens:
            raise BackendError(f"the server wrote more than the {request.max_output_tokens} tokens that it was allowed")
        if prompt.exact or not dialect.counts_cached or read is None:
            read = max(read or 0, prompt.tokens)
        written = written_tokens(text, written, request.max_output_tokens, self._counter)
        return Completion(answer.message, read, written, answer.finish_reason, served.model)

    @property
    def _counter(self) -> Callable[[str], int] | None:
        """By the caller's own tokenizer: one of the server's would say what the server says."""
        files = self._files
        return None if files is None else lambda text: len(files.encode(text))

    def complete_pieces(
        self, pieces: Sequence[Piece], *, max_output_tokens: int, top_logprobs: int = 20, timeout_s: float = 60.0
    ) -> PromptCompletion:
        """Continue a raw prompt greedily, with the log-probabilities of the likeliest first tokens."""
        dialect, served, _ = self._server
        ids = self._tokens.ids(pieces)
        if len(ids) + max_output_tokens > self.context_tokens:
            raise ContextExceeded(f"{len(ids)} tokens and {max_output_tokens} do not fit {self.context_tokens}")
        request = CompletionRequest(_NO_ONE, max_output_tokens, deadline=time.monotonic() + timeout_s)
        body = {**dialect.prompt_body(request, served, ids), **dialect.logprobs(top_logprobs)}
        answer = dialect.read(self._create(request, "completions", body))
        done = self._completion(request, _Prompt(len(ids), True, ids), answer)
        text = str(done.message.get("content") or "")
        return PromptCompletion(text, answer.first_token_logprobs, done.input_tokens, done.output_tokens)


_NO_ONE = Conversation((), ())


def _thoughts(request: CompletionRequest, prompt: _Prompt) -> reasoning.Thoughts | None:
    """What parts the reasoning from an answer to ids, which no parser of the server reads; None where there is none.

    An answer that is bound to a schema holds no marks, so that it is not taken for the rest of what the template began.
    """
    return reasoning.Thoughts(prompt.opened and request.schema is None) if prompt.thinks else None


def _checked_url(url: str, api_key: str | None) -> str:
    """Scheme and host, which may be shown. Raises `ConfigurationError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        mend = "Give the address of the OpenAI protocol, such as http://127.0.0.1:8000/v1"
        raise ConfigurationError("OpenAICompatible.base_url", "is not an http address", mend=mend)
    if parts.username or parts.password:
        raise ConfigurationError("OpenAICompatible.base_url", "holds a password", mend="Use api_key=… or headers=…")
    if parts.scheme == "http" and api_key and parts.hostname not in _LOCAL:
        emit(logging.WARNING, "api_key_over_plain_http", mend="use https")
    return f"{parts.scheme}://{parts.netloc}"
