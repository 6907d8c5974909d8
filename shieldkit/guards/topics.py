"""Keeps a constrained product surface to its topic: NeMo Guardrails topical rails, with no language model call.

A rail pack says by example utterances what the surface is for. Each turn is scored against them by sentence
embeddings (`shieldkit.rails.judge`), and the pack's Colang flows, run by NeMo Guardrails, have the last word: the
action `topic_guard` tells them the judgement, and whatever rails the pack has beside it run too.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shieldkit.conversation import Kind, Role, Segment
from shieldkit.errors import SelfTestError
from shieldkit.guards.base import Inspection, Report
from shieldkit.outcome import Finding, Span, Stage

if TYPE_CHECKING:
    from shieldkit.backends.base import Backend
    from shieldkit.policy.model import TopicSettings

_REPORTED_FROM = 0.2  # scores below are noise
_SHARE_OF_TIMEOUT, _LEAST_S = 0.8, 0.05  # the guard ends by itself before the chain gives it up
_NONSENSE = "flibber the quantum walrus sings zxqv"
_NAMES = frozenset({Kind.NAME, Kind.KEY, Kind.EXTRA})
_NAME_WORDS = 4  # a key or name of so many words is text in disguise

MEANINGS: Mapping[str, str] = {
    "off_topic": "not a matter of the pack's surface",
    "rail": "stopped by another rail of the pack",
}
"""What each rule means."""


class TopicGuard:
    """Reports `off_topic` for turns that are not what the pack is for, and `rail` when another rail of it stops a turn.

    Made once: the model, the pack's index and NeMo are loaded at construction, which takes seconds; a turn takes
    milliseconds. Raises `ModelFileError` and `ConfigurationError` when the model or the pack cannot be used.
    """

    name = "topics"
    streamable, classifies = 0, True
    rules = tuple(MEANINGS)
    locates = False

    def __init__(self, settings: TopicSettings, backend: Backend | None = None) -> None:
        from shieldkit.embedding import SentenceEmbedder
        from shieldkit.rails import Pack, RailsEngine, TurnJudge

        self._settings = settings
        self._pack = Pack.load(settings.pack)
        model = "builtin"
        if settings.model == "builtin":
            embedder = SentenceEmbedder.builtin()
        else:
            embedder = SentenceEmbedder.from_folder(Path(settings.model), sha256=settings.model_sha256)
            model = f"{settings.model}#{settings.model_sha256}"
        self._engine = RailsEngine(self._pack, model, backend if settings.use_llm else None)
        try:
            self._judge = TurnJudge.fit(self._engine.intents, embedder, pleasantries=self._pack.pleasantries)
        except BaseException:
            self._engine.close()
            raise

    @property
    def stages(self) -> frozenset[Stage]:
        """Input, and output when `check_output` is set."""
        return frozenset(Stage) if self._settings.check_output else frozenset({Stage.INPUT})

    def reads(self, segment: Segment) -> bool:
        """The user's words, and the assistant's when `check_output` is set; its calls, names and short keys are not words."""
        if segment.trusted or (segment.kind in _NAMES and len(segment.text.split(None, _NAME_WORDS)) < _NAME_WORDS):
            return False
        speaks = segment.role is Role.ASSISTANT and segment.kind is not Kind.TOOL_CALL
        return segment.role is Role.USER or (self._settings.check_output and speaks)

    def check(self, inspection: Inspection) -> Report:
        """Judge each segment, with the user's turns before it. What there was no time for is reported as unread."""
        deadline = time.monotonic() + _SHARE_OF_TIMEOUT * self._settings.timeout
        findings: list[Finding] = []
        unread: dict[int, tuple[Span, ...]] = {}
        segments = inspection.conversation.segments
        asked = [i for i, s in enumerate(segments) if s.role is Role.USER and s.kind is Kind.TEXT]
        for index, _ in inspection.texts():
            try:
                found = self._judged(inspection, index, asked, deadline)
            except TimeoutError:
                unread[index] = ()
            else:
                findings += [found] if found is not None else []
        return Report(tuple(findings), unread)

    def self_test(self) -> None:
        """An example of the pack must pass, nonsense must not, and the flows must obey. Raises `SelfTestError`."""
        example = next(u for name, us in self._engine.intents.items() if name != "ask off topic" for u in us)
        tells = self._judge.score(example) < 0.5 <= self._judge.score(_NONSENSE)
        timeout_s = self._settings.timeout
        for stage in self.stages:
            passes = self._engine.run(example, stage, on_topic=True, timeout_s=timeout_s)
            stopped = self._engine.run(_NONSENSE, stage, on_topic=False, timeout_s=timeout_s)
            tells = tells and passes is None and stopped is not None and stopped.topic
        if not tells:
            mend = "Give the pack more example utterances, and see that its topic flows stop what is off topic"
            raise SelfTestError("guards.topics.pack", "does not tell its own examples from nonsense", mend=mend)

    def describe(self) -> Mapping[str, Any]:
        """Pack, surface, number of examples and embedding model."""
        return {
            "pack": self._pack.name, "surface": self._pack.surface,
            "examples": len(self._judge.topics.examples), "embedding": self._judge.embedder.name,
        }  # fmt: skip

    def close(self) -> None:
        """Stop NeMo's thread."""
        self._engine.close()

    def _earlier(self, inspection: Inspection, index: int, asked: Sequence[int]) -> list[str]:
        """The last of the user's turns before a segment, oldest first; before an answer, its question is among them."""
        number = bisect.bisect_left(asked, index)
        last = asked[max(0, number - self._settings.history_turns) : number]
        return [inspection.canonical(i).text for i in last]

    def _judged(self, inspection: Inspection, index: int, asked: Sequence[int], deadline: float) -> Finding | None:
        """The judgement of one segment, and what the pack's rails make of it. `asked` are the segments of the user's turns."""
        text = inspection.canonical(index).text
        earlier = self._earlier(inspection, index, asked)
        score = self._judge.score(text, earlier, lambda: time.monotonic() < deadline)
        on_topic = score < self._settings.threshold
        left_s = max(_LEAST_S, deadline - time.monotonic())
        stopped = self._engine.run(text, inspection.stage, on_topic=on_topic, timeout_s=left_s)
        end = len(inspection.conversation.segments[index].text)
        if stopped is not None and not stopped.topic:
            return inspection.finding("rail", 1.0, index, 0, end, f"stopped by the pack's rail '{stopped.rail}'")
        if stopped is None and not on_topic:
            return None  # the pack's own flow lets it pass
        score = score if stopped is None else max(score, self._settings.threshold)
        if score < _REPORTED_FROM:
            return None
        return inspection.finding("off_topic", score, index, 0, end, f"not a matter of {self._pack.surface}")
