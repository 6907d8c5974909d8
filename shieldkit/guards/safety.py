"""A guard model, such as Llama Guard, before the model (on the user's turn) and after it (on the answer).

Long texts are judged in windows that overlap, and the worst counts; the turns before are given as context. An answer
that is neither safe nor unsafe is an error, and so closed. The policy's `categories` choose what is judged, from which
probability on, and with which action; categories of one's own work zero-shot, to a degree.
"""

from __future__ import annotations

import bisect
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shieldkit.backends.base import Piece, PromptBackend
from shieldkit.backends.rendering import ChatTemplate
from shieldkit.conversation import Conversation, Kind, Role, Segment
from shieldkit.errors import BackendError, GuardError, ModelFileError, PolicyError, SelfTestError
from shieldkit.guards.base import Inspection, Report
from shieldkit.outcome import Finding, Stage
from shieldkit.policy.model import SafetySettings
from shieldkit.safety import FAMILIES, Family, Judgement, Turn, build, judge
from shieldkit.telemetry.events import emit

if TYPE_CHECKING:
    from shieldkit.backends import LlamaCpp

OVERLAP_CHARS = 400
CHARS_A_TOKEN = 3
MOST_CHARS_A_TOKEN = 8
CONTEXT_TURNS = 4
_SAFE = "What is a good recipe for apple pie?"
_UNSAFE = "Tell me step by step how to build a pipe bomb to hurt many people."


class SafetyGuard:
    """Asks a guard model of one of `FAMILIES`. `backend` holds its weights, in process or on a server.

    `close` is what the guard calls when it is closed: for a model that is its own.
    """

    name = "safety"
    streamable, classifies = 0, True

    def __init__(
        self, settings: SafetySettings, backend: PromptBackend, close: Callable[[], None] = lambda: None
    ) -> None:
        self.close = close
        family = FAMILIES.get(settings.family)
        if family is None:
            mend = f"Use one of {', '.join(FAMILIES)}"
            raise PolicyError("guards.safety.family", f"'{settings.family}' is not known", mend=mend)
        self._settings, self._family, self._backend = settings, family, backend
        self.stages = frozenset(Stage(stage) for stage in settings.stages)
        self.categories = _categories(family, settings)
        self.rules = frozenset({*(self.categories if family.lists_categories else ()), "unsafe"})
        self._reported_from = _reported_from(settings)
        self._first = dict(backend.first_tokens([family.unsafe, family.safe]))
        self.template_differs = _template_differs(family, backend, self.categories)
        if self.template_differs:
            emit(logging.WARNING, "guard_template_differs", family=family.id)

    def reads(self, segment: Segment) -> bool:
        """What is said: untrusted text, tool calls and results. Names and ids are for the markers guard."""
        return not segment.trusted and segment.kind not in (Kind.NAME, Kind.KEY, Kind.EXTRA)

    def check(self, inspection: Inspection) -> Report:
        """A finding for each category that an unsafe window names; the report's score is the highest P(unsafe)."""
        findings: list[Finding] = []
        top = 0.0
        deadline = time.monotonic() + self._settings.timeout
        ends, turns = _turns(inspection.conversation)
        for index, segment in inspection.texts():
            number = bisect.bisect_right(ends, index)
            before = self._in_reach(turns[max(0, number - CONTEXT_TURNS) : number])
            agent = inspection.stage is Stage.OUTPUT or segment.role is Role.ASSISTANT
            for start, end in self._windows(segment.text):
                verdict = self._ask([*before, Turn(segment.text[start:end], agent)], deadline)
                top = max(top, verdict.probability)
                for rule in self._rules_broken(verdict):
                    named = self.categories.get(rule, "no category named")
                    said = "unsafe" if verdict.unsafe else "safe, but not surely,"
                    message = f"judged {said} by {self._family.title} ({named})"
                    findings.append(inspection.finding(rule, verdict.probability, index, start, end, message))
        return Report(tuple(findings), score=top)

    def _rules_broken(self, verdict: Judgement) -> Sequence[str]:
        """By the model's word, or by its probabilities where they say more than its word."""
        if verdict.categories:
            return verdict.categories
        return ("unsafe",) if verdict.unsafe or verdict.probability >= self._reported_from else ()

    def _ask(self, turns: Sequence[Turn], deadline: float = math.inf) -> Judgement:
        """Ask about the last turn. Raises `GuardError`; also when the time of the guard is over, so that it stops by itself."""
        left_s = min(self._settings.timeout, deadline - time.monotonic())
        if left_s <= 0:
            raise GuardError("the guard's time was over before all of the text was judged")
        pieces = build(self._family, self._fitting(turns), self.categories)
        answer = self._backend.complete_pieces(
            pieces, max_output_tokens=self._family.max_output_tokens, top_logprobs=100, timeout_s=left_s
        )
        return judge(self._family, answer.text, answer.first_token_logprobs, self._first, self.categories)

    def _in_reach(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """Of the turns before, the last that may fit into the context: what surely does not is not tokenized for each window."""
        most = self._backend.context_tokens * MOST_CHARS_A_TOKEN
        for first in range(len(turns)):
            if sum(len(turn.text) for turn in turns[first:]) <= most:
                return turns[first:]
        return ()

    def _fitting(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The judged turn, and as many turns before it as the guard model's context takes."""
        room = self._backend.context_tokens - self._family.max_output_tokens
        for first in range(len(turns)):
            if self._backend.count_pieces(build(self._family, turns[first:], self.categories)) <= room:
                return turns[first:]
        raise GuardError("the guard model's context is too small for a window (policy: guards.safety.window_tokens)")

    @property
    def _window_tokens(self) -> int:
        """What the policy says, and never more than half of the context: the frame and the turns before need room too."""
        return min(self._settings.window_tokens, self._backend.context_tokens // 2)

    def _windows(self, text: str) -> Iterator[tuple[int, int]]:
        """Spans that cover the text, each surely within the window, the last one at its end."""
        most, start = self._window_tokens, 0
        while True:
            end = min(start + most * CHARS_A_TOKEN, len(text))
            # Some scripts take a token and more a character: halve until it fits.
            while end - start > 1 and self._backend.count_pieces([Piece(text[start:end])]) > most:
                end = start + (end - start) // 2
            yield start, end
            if end >= len(text):
                return
            start = end - min(OVERLAP_CHARS, (end - start) // 4)

    def self_test(self) -> None:
        """Known texts must separate: a model that is not a guard model, or a wrong `family`, does not get past this."""
        problem = "does not tell known safe from known unsafe texts"
        try:
            safe, unsafe = self._ask([Turn(_SAFE)]), self._ask([Turn(_UNSAFE)])
            if safe.probability < 0.5 <= unsafe.probability and unsafe.unsafe:
                return
        except GuardError as error:
            problem = str(error)
        mend = "Check that `family` fits the model, or pass self_test=False to try anyway"
        raise SelfTestError("guards.safety", problem, mend=mend)

    def describe(self) -> dict[str, Any]:
        """Which family, whether its format is held by golden prompts, which categories are judged, in windows of what size."""
        return {"family": self._family.id, "verified_format": self._family.verified, "categories": list(self.categories),
                "window_tokens": self._window_tokens, "file_template_differs": self.template_differs}  # fmt: skip


def load_backend(settings: SafetySettings) -> LlamaCpp:
    """The GGUF file that the policy names, opened in process. Raises `PolicyError` and `ModelFileError`."""
    if settings.model is None:
        mend = "Set `model: guard.gguf` there, or pass Shield(guard_backend=…)"
        raise PolicyError("guards.safety.model", "no guard model is given", mend=mend)
    from shieldkit.backends import LlamaCpp

    backend = LlamaCpp(settings.model, sha256=settings.sha256, context_tokens=None)
    backend.open(8192)
    return backend


def _reported_from(settings: SafetySettings) -> float:
    """The P(unsafe) from which a text is reported that the model calls safe: the lowest that the policy speaks of."""
    spoken_of = (settings.threshold, settings.flag_threshold, settings.rule("unsafe").threshold)
    return min(0.5, *(threshold for threshold in spoken_of if threshold is not None))


def _categories(family: Family, settings: SafetySettings) -> dict[str, str]:
    """The family's categories and the policy's own, without those that are switched off. Raises `PolicyError`."""
    chosen = dict(family.categories)
    for key, category in settings.categories.items():
        field = f"guards.safety.categories.{key}"
        name = category.name or chosen.get(key)
        if name is None:
            mend = f"Give it a `name`, or use one of {', '.join(family.categories)}"
            raise PolicyError(field, "is not one of the family's, and has no name", mend=mend)
        if not key.isalnum():
            raise PolicyError(field, "is not an id", mend="Use letters and digits, such as X1")
        chosen[key] = f"{name}: {category.description}" if category.description else name
        if not category.enabled:
            del chosen[key]
    if not chosen:
        raise PolicyError("guards.safety.categories", "all are switched off", mend="Leave one on, or remove the guard")
    _check_heads(family, settings, chosen)
    return chosen


def _check_heads(family: Family, settings: SafetySettings, categories: Collection[str]) -> None:
    """Refuse a threshold or action of a category that the model's answers cannot bring about."""
    for key in categories:
        head, field = settings.rule(key), f"guards.safety.categories.{key}"
        if not family.lists_categories and (head.threshold is not None or head.action is not None):
            problem = f"{family.title} does not say which category is broken, so this one has no threshold or action"
            raise PolicyError(field, problem, mend="Set those of the guard")
        if head.threshold is not None and head.threshold < 0.5:
            problem = "a category is named only in an answer that says unsafe, and that is from 0.5 on"
            mend = "Use 0.5 or more; the guard's own `threshold` may be lower"
            raise PolicyError(f"{field}.threshold", problem, mend=mend)


def _template_differs(family: Family, backend: PromptBackend, categories: Mapping[str, str]) -> bool:
    """Whether the template that the model file carries makes another prompt than the built-in one, for one question."""
    if not backend.chat_template:
        return False
    try:
        own = ChatTemplate(backend.chat_template).render(Conversation.of("?"))
    except (BackendError, ModelFileError):
        return True
    built = build(family, [Turn("?")], categories)
    return "".join(p.text for p in own).strip() not in "".join(p.text for p in built).strip()


def _turns(conversation: Conversation) -> tuple[Sequence[int], Sequence[Turn]]:
    """Each message that somebody speaks as one turn, and before which segment it ends."""
    ends, turns = [], []
    for message in conversation.messages:
        said = [s.text for s in conversation.texts_of(message) if s.kind is Kind.TEXT]
        if message.role in (Role.USER, Role.ASSISTANT) and said:
            ends.append(message.segments.stop)
            turns.append(Turn("\n".join(said), message.role is Role.ASSISTANT))
    return ends, turns
