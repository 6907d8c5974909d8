"""A backend that says what a test tells it to, for answers and faults that no real model gives on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shieldkit.backends.base import Completion, CompletionRequest
from shieldkit.conversation import Conversation

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


def hang(request: CompletionRequest) -> str:
    """Answers only when it is told to stop."""
    while not request.expired():
        time.sleep(0.005)
    time.sleep(0.3)
    return "too late"
