"""Backends, policies and a guard for tests: they say what a test tells them to, and fail as no real model does on demand."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shieldkit.backends.base import Completion, CompletionRequest
from shieldkit.budget import MemoryLedger
from shieldkit.conversation import Conversation
from shieldkit.guards.base import FunctionGuard, Inspection, guard
from shieldkit.policy import Policy

Answer = str | Mapping[str, Any] | Exception | Callable[[CompletionRequest], Any]


class Scripted:
    """Answers with each of `answers` in turn, then with the last again. A token is a word here."""

    name = "scripted"
    model = "scripted-1"
    control_tokens = frozenset({"<|im_start|>", "<|im_end|>"})

    def __init__(self, *answers: Answer, context_tokens: int = 32_768) -> None:
        self.answers: Sequence[Answer] = answers or ("All is well.",)
        self.context_tokens = context_tokens
        self.requests: list[CompletionRequest] = []
        self.closed = False
        self._lock = threading.Lock()

    def count_tokens(self, conversation: Conversation, limit: int | None = None) -> int:
        return sum(len(s.text.split()) for s in conversation.segments)

    def complete(self, request: CompletionRequest) -> Completion:
        with self._lock:
            answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
            self.requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, str):
            answer = {"role": "assistant", "content": answer}
        if not isinstance(answer, Mapping):
            return answer
        tokens = self.count_tokens(request.conversation)
        return Completion(answer, tokens, 4, model=self.model)

    def describe(self) -> Mapping[str, Any]:
        return {"name": self.name, "model": self.model}

    def close(self) -> None:
        self.closed = True


class Streamed(Scripted):
    """Answers in bits: `bits`, or what a function makes of the request. Tells how far it was read, and how it was left.

    `counts` says whether it keeps `request.progress`, one token a bit, as a backend may or may not.
    """

    def __init__(
        self,
        bits: Sequence[Any] | Callable[[CompletionRequest], Iterator[Any]],
        *,
        counts: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._bits, self._counts = bits, counts
        self.given = 0
        self.left = threading.Event()

    def stream(self, request: CompletionRequest) -> Iterator[Any]:
        self.requests.append(request)
        tokens, said = self.count_tokens(request.conversation), []
        try:
            for bit in self._bits(request) if callable(self._bits) else self._bits:
                if isinstance(bit, Exception):
                    raise bit
                self.given += 1
                if self._counts:
                    request.progress.input_tokens, request.progress.output_tokens = tokens, self.given
                if isinstance(bit, str):
                    said.append(bit)
                yield bit
            yield Completion({"role": "assistant", "content": "".join(said)}, tokens, self.given, model=self.model)
        finally:
            self.left.set()

    def complete(self, request: CompletionRequest) -> Completion:
        *_, last = self.stream(request)
        assert isinstance(last, Completion)
        return last


def settled(ledger: MemoryLedger) -> bool:
    """Whether nothing is held any more, within a second: a model that was left settles when it has stopped."""
    until = time.monotonic() + 1.0
    while ledger._holds and time.monotonic() < until:
        time.sleep(0.005)
    return not ledger._holds


def cut(text: str, places: Sequence[int]) -> list[str]:
    """`text` in bits, cut at `places`."""
    edges = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def hang(request: CompletionRequest) -> str:
    """Answers only when it is told to stop."""
    while not request.expired():
        time.sleep(0.005)
    time.sleep(0.3)
    return "too late"


def policy(body: str = "guards: {markers: {}, leak: {}, schema: {}}", **parts: str) -> Policy:
    return Policy.from_yaml("\n".join(["name: test", body, *(f"{key}: {value}" for key, value in parts.items())]))


def word_guard(name: str = "words", stages: tuple[str, ...] = ("input", "output")) -> FunctionGuard:
    """Reports the word `forbidden` wherever it stands."""

    @guard(name, stages=stages, locates=True)
    def words(inspection: Inspection) -> Any:
        for index, segment in inspection.texts():
            at = segment.text.find("forbidden")
            if at >= 0:
                yield inspection.finding("forbidden", 1.0, index, at, at + 9, "a forbidden word")

    return words
