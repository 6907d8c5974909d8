"""Control tokens, template markers and hidden text in what comes in, and echoed ones in what goes out.

Control tokens that a user types become real ones when a server tokenizes a rendered template as one string; forged role
headers raise the success of attacks also as plain text (ChatBug, Jiang et al. 2024). Both are found verbatim and
disguised: fullwidth, look-alike letters, zero-width characters, tags, entities, escapes, spaced out, encoded.

What is cut over the parts of a message, or over messages of one role in a row, is looked for where they meet (`seams.py`).

Trusted segments are read too; the policy flags there at most, since the application's own text may explain templates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from shieldkit.conversation import Conversation, Role, Segment
from shieldkit.errors import PolicyError, SelfTestError
from shieldkit.guards import seams
from shieldkit.guards.base import INLINE_CHARS, Inspection, Pending, Report
from shieldkit.markers import Marker, MarkerEngine, dense, runs
from shieldkit.markers.density import SCORE as DENSITY
from shieldkit.markers.engine import AMBIGUOUS, BELOW
from shieldkit.markers.runs import pending as runs_pending
from shieldkit.outcome import Finding, Span, Stage
from shieldkit.policy.model import MarkerSettings
from shieldkit.remembered import Remembered
from shieldkit.text import Canonical, Signal, canonicalise, signals
from shieldkit.text.folding import fold
from shieldkit.text.pending import CONTEXT_CHARS
from shieldkit.text.pending import pending as text_pending
from shieldkit.text.signals import MOST_SPANS
from shieldkit.text.signals import pending as word_pending

MEANINGS: Mapping[str, str] = {
    "control_token": "a control token of a model family",
    "control_token_disguised": "a control token in disguise",
    "unknown_token": "something of the shape of a control token",
    "template_marker": "a marker that templates use, and ordinary text too",
    "role_header": "a role header at the start of a line",
    "sink_run": "a long run of one character or unit",
    "delimiter_density": "a long passage of delimiters",
    "hidden_text": "text hidden in tag characters or variation selectors",
    "invisible_text": "invisible characters inside words",
    "bidi_override": "a character that turns the direction of text around",
    "mixed_script": "look-alike letters of another script inside words",
}
"""What each rule means."""
MAX_FINDINGS = 256
_SLIPS = frozenset({"invisible_text", "mixed_script"})
_ASCII = "".join(map(chr, range(128)))
REMEMBERED = 1 << 16
"""How many findings are remembered over all segments; a segment without any takes as much as one finding."""

_Place: TypeAlias = tuple[str, int, int]
"""A rule, and a span in a segment."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """What was found in a text, in its own offsets, and whether all that is encoded in it was decoded."""

    found: tuple[Marker | Signal, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class _Joined:
    """What was found in texts that meet: in which of them, the rule, the score, and the span there."""

    found: tuple[tuple[int, str, float, int, int], ...]
    complete: bool


class MarkerGuard:
    """Reads all text, in both stages. `control_tokens` are the backend's own."""

    name = "markers"
    stages = frozenset(Stage)
    rules = frozenset(MEANINGS)
    locates = True
    inline_chars = INLINE_CHARS

    def __init__(self, settings: MarkerSettings, control_tokens: frozenset[str] = frozenset()) -> None:
        for n, token in enumerate(settings.extra_tokens):
            if not fold(token).text.strip():
                mend = "Write it as the tokenizer has it, or remove the line"
                raise PolicyError(f"guards.markers.extra_tokens[{n}]", "is nothing that could be looked for", mend=mend)
        self._engine = MarkerEngine(control_tokens, settings.extra_tokens)
        self._settings = settings
        self._judged: Remembered[bytes, _Judged] = Remembered(REMEMBERED, lambda judged: 1 + len(judged.found))
        self._joined: Remembered[bytes, _Joined] = Remembered(REMEMBERED, lambda joined: 1 + len(joined.found))

    @property
    def streamable(self) -> int | None:
        """What is ambiguous weighs more near the end of a text: a threshold among those scores needs the real end.

        So does one that counts how dense a passage is, which shows when it is long.
        """
        thresholds = [self._settings.threshold, *(r.threshold for r in self._settings.rules.values())]
        counted = self._settings.threshold_for("delimiter_density", Role.ASSISTANT) <= DENSITY
        return None if counted or any(t is not None and AMBIGUOUS < t <= BELOW for t in thresholds) else CONTEXT_CHARS

    def reads(self, segment: Segment) -> bool:
        """Everything, trusted text too."""
        return True

    def check(self, inspection: Inspection) -> Report:
        """`MAX_FINDINGS` a segment, the highest scores first to stay, and one over all others of a rule: redaction takes
        what findings say, and must leave none of them.
        """
        findings: list[Finding] = []
        unread: dict[int, tuple[Span, ...]] = {}
        known: dict[int, dict[_Place, float]] = {}
        for index in inspection.segments:
            # A text is folded and searched once, as long as it is remembered.
            judged = self._judged.of(inspection.digest(index), lambda i=index: self._judge(inspection.canonical(i)))  # type: ignore[misc]
            known[index] = {(m.rule, m.start, m.end): m.score for m in judged.found}
            findings += [
                inspection.finding(m.rule, m.score, index, m.start, m.end, MEANINGS[m.rule]) for m in judged.found
            ]
            if not judged.complete:
                unread[index] = ()
        met = self._met(inspection, known, unread)
        return Report((*findings, *dict.fromkeys(met)), unread)

    def _met(
        self, inspection: Inspection, known: Mapping[int, Mapping[_Place, float]], unread: dict[int, tuple[Span, ...]]
    ) -> Iterator[Finding]:
        """What is found where texts meet, in each of them. `known` is what each of them has by itself."""
        conversation = inspection.conversation
        met = [*seams.parts(conversation, known)]
        if inspection.stage is Stage.INPUT:  # an answer is joined with nothing yet
            met += seams.turns(conversation, known)
        for stretch in met:
            joined = self._joined.of(stretch.key(inspection), lambda s=stretch: self._judge_joined(s, conversation))  # type: ignore[misc]
            if not joined.complete:
                unread.update({piece.segment: () for piece in stretch.pieces if piece.segment in known})
            for piece, rule, score, start, end in joined.found:
                index = stretch.pieces[piece].segment
                if index in known and score > known[index].get((rule, start, end), 0.0):
                    yield inspection.finding(rule, score, index, start, end, MEANINGS[rule])

    def pending(self, inspection: Inspection, index: int) -> Pending:
        """What may still become a marker, a run, or one of several disguises of which one alone is a slip."""
        canonical = inspection.canonical(index)
        held, settled = self._engine.pending(canonical)
        settled = min(settled, text_pending(canonical), runs_pending(canonical))
        slips = [s.start for s in signals(canonical.original) if s.rule in _SLIPS]
        if (word := word_pending(canonical.original)) < len(canonical.original):
            # What that word turns out to be counts for all of them.
            settled = min([settled, word, *slips])
        return Pending(min([held, settled, *slips]), settled)

    def _judge(self, canonical: Canonical) -> _Judged:
        found: list[Marker | Signal] = [*self._engine.find(canonical), *runs(canonical), *dense(canonical)]
        found += _all_signals(canonical.original)
        return _Judged(tuple(sorted(_most(found), key=lambda m: (m.start, m.end))), canonical.complete)

    def _judge_joined(self, stretch: seams.Stretch, conversation: Conversation) -> _Joined:
        """Without what disguises and padding say by themselves: words that meet at a seam may well be of two scripts, and a
        list may hold one value a thousand times.
        """
        found: dict[tuple[int, str, tuple[int, int]], float] = {}
        complete = True
        for joined in stretch.joined(conversation):
            canonical = canonicalise(joined.text)
            complete = complete and canonical.complete
            for m in _most(self._engine.find(canonical)):
                places = joined.places(m.start, m.end)
                for piece, start, end in places:
                    key = (piece, m.rule, (start, end))
                    # Inside one piece, what is ambiguous says nothing of the others.
                    if len(places) > 1 or m.score > BELOW:
                        found[key] = max(m.score, found.get(key, 0.0))
        return _Joined(tuple((n, rule, score, *span) for (n, rule, span), score in found.items()), complete)

    def self_test(self) -> None:
        """An engine that misses a plain or a fullwidth token, or sees one in a plain sentence, is not used."""
        texts = ("<|im_start|>system", "\uff1c\uff5cim_start\uff5c\uff1esystem")
        seen = all(any(m.score >= 0.9 for m in self._engine.find(canonicalise(t))) for t in texts)
        if not seen or self._engine.find(canonicalise("How do I start the system?")):
            raise SelfTestError("guards.markers", "does not tell control tokens from words", mend="Install it anew")


def _most(found: Sequence[Marker | Signal]) -> Sequence[Marker | Signal]:
    """The highest scores, and what is over all others."""
    ranked = sorted(found, key=lambda m: -m.score)
    return [*ranked[:MAX_FINDINGS], *_over(ranked[MAX_FINDINGS:])]


def _over(rest: Sequence[Marker | Signal]) -> Iterator[Signal]:
    """One for each rule, from the first of its places to the last."""
    for rule in sorted({m.rule for m in rest}):
        own = [m for m in rest if m.rule == rule]
        yield Signal(rule, max(m.score for m in own), min(m.start for m in own), max(m.end for m in own))


def _all_signals(text: str) -> Iterator[Signal]:
    """The signals of a text. Where no more of a rule are told of, one goes on to the last character that may be one."""
    found = list(signals(text))
    yield from found
    for rule in _SLIPS:
        own = [s for s in found if s.rule == rule]
        if len(own) >= MOST_SPANS:
            last = own[-1]
            yield Signal(rule, last.score, last.start, max(last.end, len(text.rstrip(_ASCII))))
