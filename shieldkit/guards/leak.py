"""What must not leave: the request's canary, the system prompt, the backend's control tokens, secrets.

The system prompt is looked for verbatim and nearly so (shingles of words), also inside decoded text. A secret that the
system prompt, a tool or a document has told counts as one, also where it looks like a sample. What is dealt out over content,
reasoning and arguments of tool calls counts as if it were in one text. Paraphrase and translation are out of reach of this
guard.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from shieldkit.conversation import Kind, Role, Segment
from shieldkit.errors import SelfTestError
from shieldkit.guards import seams
from shieldkit.guards.base import Inspection, Pending, Report
from shieldkit.leak import canary, escapes, overlap, secrets
from shieldkit.outcome import Finding, Stage
from shieldkit.policy.model import LeakSettings
from shieldkit.remembered import Remembered
from shieldkit.text import Canonical, canonicalise, digest
from shieldkit.text.pending import CONTEXT_CHARS
from shieldkit.text.pending import pending as text_pending

MEANINGS: Mapping[str, str] = {
    "canary": "the mark of the system prompt is in the answer",
    "system_prompt": "runs of words of the system prompt are in the answer",
    "control_token": "a control token of the model is in the answer",
    **{shape.rule: f"the shape of a secret: {shape.rule.replace('_', ' ')}" for shape in secrets.SHAPES},
}
"""What each rule means."""
TOLD = 1 << 14
"""How many secrets that requests hold are remembered; a segment without any counts as one."""


class LeakGuard:
    """Reads the answer against what the request keeps in confidence."""

    name = "leak"
    stages = frozenset({Stage.OUTPUT})
    rules = frozenset(MEANINGS)
    locates = True
    streamable = CONTEXT_CHARS

    def __init__(self, settings: LeakSettings, control_tokens: frozenset[str] = frozenset()) -> None:
        self._settings = settings
        self._prompts: Remembered[bytes, frozenset[str]] = Remembered(32)
        self._told: Remembered[bytes, frozenset[str]] = Remembered(TOLD, lambda told: 1 + len(told))
        self._control_tokens = tuple(sorted(control_tokens, key=len, reverse=True))
        self._beginnings = frozenset(token[:n] for token in control_tokens for n in range(1, len(token)))

    def check(self, inspection: Inspection) -> Report:
        """Every leak found; the whole answer is read."""
        joined = list(self._joined(inspection))
        found = [
            *self._canaries(inspection, joined),
            *self._disclosures(inspection, joined),
            *self._shapes(inspection),
        ]
        return Report(tuple(dict.fromkeys(found)))

    def _joined(self, inspection: Inspection) -> Iterator[tuple[seams.Joined, Canonical]]:
        """Where the answer's texts would meet if they were put together: all of them, and all but keys and names."""
        segments = inspection.conversation.segments
        said = tuple(i for i in inspection.segments if segments[i].kind not in (Kind.KEY, Kind.NAME))
        for own in dict.fromkeys((inspection.segments, said)):
            pieces = [seams.Piece(i, 0, len(segments[i].text), ("", " ")) for i in own if segments[i].text]
            for stretch in seams.stretches(inspection.conversation, pieces):
                for text in stretch.joined(inspection.conversation):
                    yield text, canonicalise(text.text)

    def pending(self, inspection: Inspection, index: int) -> Pending:
        """What may still become a leak: from the first run of words of the system prompt on, all that follows."""
        canonical = inspection.canonical(index)
        text, mark = canonical.original, inspection.request.get("canary")
        last_words = overlap.pending(canonical.text)
        settled = min(
            text_pending(canonical),
            canonical.span(last_words, last_words)[0],
            canary.pending(mark, canonical) if isinstance(mark, str) else len(text),
            self._begun(text),
            *(escapes.place(way, self._begun(read)) for read, way in escapes.unescaped(text)),
        )
        begun = (self._disclosure(prompt, canonical) for prompt in self._prompts_of(inspection))
        return Pending(min([settled, *(found.start for found in begun if found is not None)]), settled)

    def _begun(self, text: str) -> int:
        """Where at the end of a text a control token or a secret may have begun."""
        longest = min(max(map(len, self._beginnings), default=0), len(text))
        tokens = (len(text) - n for n in range(longest, 0, -1) if text[-n:] in self._beginnings)
        return min([len(text), *tokens, secrets.pending(text) if self._settings.secrets else len(text)])

    def _prompts_of(self, inspection: Inspection) -> list[frozenset[str]]:
        return [
            self._runs(segment.text)
            for index, segment in enumerate(inspection.conversation.segments)
            if segment.trusted and segment.role is Role.SYSTEM and index not in inspection.segments
        ]

    def _canaries(self, inspection: Inspection, joined: Sequence[tuple[seams.Joined, Canonical]]) -> Iterator[Finding]:
        """The canary in each text, over two of them that meet, and dealt out over several."""
        mark = inspection.request.get("canary")
        if not isinstance(mark, str):
            return
        texts = [inspection.canonical(index) for index in inspection.segments]
        places = [(n, *place) for n, text in enumerate(texts) for place in canary.find(mark, text)]
        places += [(n, *place) for n, place in canary.dealt(mark, texts).items()]
        places = [(inspection.segments[n], start, end) for n, start, end in places]
        for meeting, canonical in joined:
            for start, end in canary.find(mark, canonical):
                places += meeting.in_segments(start, end)
        for index, start, end in places:
            message = "the mark of the system prompt is in the answer"
            yield inspection.finding("canary", 1.0, index, start, end, message)

    def _disclosures(
        self, inspection: Inspection, joined: Sequence[tuple[seams.Joined, Canonical]]
    ) -> Iterator[Finding]:
        """What of each system prompt is in all texts together, in each of those that have some of it."""
        for prompt in self._prompts_of(inspection):
            found: dict[int, list[overlap.Overlap]] = {}
            for index in inspection.segments:
                if (own := self._disclosure(prompt, inspection.canonical(index))) is not None:
                    found[index] = [own]
            for meeting, canonical in joined:
                if (met := self._disclosure(prompt, canonical)) is not None:
                    for index, start, end in meeting.in_segments(met.start, met.end):
                        found.setdefault(index, []).append(replace(met, start=start, end=end))
            share = overlap.together(prompt, [each for parts in found.values() for each in parts]).share
            message = f"{share:.0%} of the system prompt's word runs are in the answer"
            for index, parts in found.items():
                here = overlap.together(prompt, parts)
                yield inspection.finding("system_prompt", self._score(share), index, here.start, here.end, message)

    def _shapes(self, inspection: Inspection) -> Iterator[Finding]:
        told = cache(partial(self._confided, inspection))
        for index, segment in inspection.texts():
            for rule, start, end in dict.fromkeys(self._by_shape(segment.text, told)):
                yield inspection.finding(rule, 1.0, index, start, end, MEANINGS[rule])

    def _by_shape(self, text: str, told: Callable[[], Collection[str]]) -> Iterator[tuple[str, int, int]]:
        """Control tokens and secrets, also as they are read out of JSON: who asked for data gets it parsed."""
        yield from self._in(text, told)
        for read, way in escapes.unescaped(text):
            for rule, start, end in self._in(read, told):
                yield rule, escapes.place(way, start), escapes.place(way, end)

    def _in(self, text: str, told: Callable[[], Collection[str]]) -> Iterator[tuple[str, int, int]]:
        for token in self._control_tokens:
            for place in secrets.places(token, text):
                yield "control_token", *place
        if self._settings.secrets:
            yield from secrets.find(text, told)

    def _confided(self, inspection: Inspection) -> frozenset[str]:
        """What has the shape of a secret in the request, but for what users and the model have said themselves."""
        segments = enumerate(inspection.conversation.segments)
        told = (
            self._told.of(inspection.digest(index), lambda text=segment.text: secrets.shaped(text))  # type: ignore[misc]
            for index, segment in segments
            if index not in inspection.segments and _confides(segment)
        )
        return frozenset().union(*told)

    def _runs(self, prompt: str) -> frozenset[str]:
        """The prompt's runs of words; an application asks with the same prompt again and again."""
        return self._prompts.of(digest(prompt), lambda: overlap.runs_of(canonicalise(prompt).text))

    def _disclosure(self, prompt: frozenset[str], canonical: Canonical) -> overlap.Overlap | None:
        """What of a prompt is in a text and in all that is decoded from it."""
        own = overlap.containment(prompt, canonical.text)
        inner = ((overlap.containment(prompt, child.text), child.start, child.end) for child in canonical.children)
        placed = [(own, *canonical.span(own.start, own.end))] if own is not None else []
        found = [replace(o, start=start, end=end) for o, start, end in (*placed, *inner) if o is not None]
        return overlap.together(prompt, found) if found else None

    def _score(self, share: float) -> float:
        """0.5 at the share that the policy calls disclosure; 1 for all of the prompt."""
        limit = self._settings.system_prompt_similarity
        return 0.5 * share / limit if share < limit else 0.5 + 0.5 * (share - limit) / max(1.0 - limit, 1e-9)

    def self_test(self) -> None:
        """A guard that does not see a planted key is not used."""
        planted = "AKIA" + "ABCDEFGHIJKLMNOP"
        if [rule for rule, _, _ in secrets.find(f"the key is {planted}.")] != ["aws_key"] or list(
            secrets.find("hello")
        ):
            raise SelfTestError("guards.leak", "does not tell secrets from words", mend="Install google-re2 anew")


def _confides(segment: Segment) -> bool:
    return segment.role not in (Role.USER, Role.ASSISTANT) or segment.kind is Kind.TOOL_RESULT
