"""What must not leave: the request's canary, the system prompt, the backend's control tokens, secrets.

The system prompt is looked for verbatim and nearly so (shingles of words), also inside decoded text. A secret of the
system prompt counts as one wherever it is repeated. Paraphrase and translation are out of reach of this guard.
"""

from __future__ import annotations

from collections.abc import Iterator

from shieldkit.conversation import Role
from shieldkit.errors import SelfTestError
from shieldkit.guards.base import Inspection, Pending, Report
from shieldkit.leak import canary, escapes, overlap, secrets
from shieldkit.outcome import Finding, Stage
from shieldkit.policy.model import LeakSettings
from shieldkit.remembered import Remembered
from shieldkit.text import Canonical, canonicalise, digest
from shieldkit.text.pending import CONTEXT_CHARS
from shieldkit.text.pending import pending as text_pending

_WORDS = {"control_token": "a control token of the model is in the answer"}


class LeakGuard:
    """Reads the answer against what the request keeps in confidence."""

    name = "leak"
    stages = frozenset({Stage.OUTPUT})
    rules = frozenset({"canary", "system_prompt", "control_token"}) | secrets.RULES
    locates = True
    streamable = CONTEXT_CHARS

    def __init__(self, settings: LeakSettings, control_tokens: frozenset[str] = frozenset()) -> None:
        self._settings = settings
        self._prompts: Remembered[bytes, frozenset[str]] = Remembered(32)
        self._control_tokens = tuple(sorted(control_tokens, key=len, reverse=True))
        self._beginnings = frozenset(token[:n] for token in control_tokens for n in range(1, len(token)))

    def check(self, inspection: Inspection) -> Report:
        """Every leak found; the whole answer is read."""
        prompts = self._prompts_of(inspection)
        return Report(tuple(f for index in inspection.segments for f in self._leaks(inspection, index, prompts)))

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

    def _leaks(self, inspection: Inspection, index: int, prompts: list[frozenset[str]]) -> Iterator[Finding]:
        text = inspection.conversation.segments[index].text
        mark = inspection.request.get("canary")
        if isinstance(mark, str):
            for place in canary.find(mark, inspection.canonical(index)):
                yield inspection.finding("canary", 1.0, index, *place, "the mark of the system prompt is in the answer")
        for prompt in prompts:
            found = self._disclosure(prompt, inspection.canonical(index))
            if found is not None:
                message = f"{found.share:.0%} of the system prompt's word runs are in the answer"
                score = self._score(found.share)
                yield inspection.finding("system_prompt", score, index, found.start, found.end, message)
        for rule, start, end in dict.fromkeys(self._by_shape(text)):
            yield inspection.finding(
                rule, 1.0, index, start, end, _WORDS.get(rule, "something of the shape of a secret")
            )

    def _by_shape(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Control tokens and secrets, also as they are read out of JSON: who asked for data gets it parsed."""
        yield from self._in(text)
        for read, way in escapes.unescaped(text):
            for rule, start, end in self._in(read):
                yield rule, escapes.place(way, start), escapes.place(way, end)

    def _in(self, text: str) -> Iterator[tuple[str, int, int]]:
        for token in self._control_tokens:
            for place in secrets.places(token, text):
                yield "control_token", *place
        if self._settings.secrets:
            yield from secrets.find(text)

    def _runs(self, prompt: str) -> frozenset[str]:
        """The prompt's runs of words; an application asks with the same prompt again and again."""
        return self._prompts.of(digest(prompt), lambda: overlap.runs_of(canonicalise(prompt).text))

    def _disclosure(self, prompt: frozenset[str], canonical: Canonical) -> overlap.Overlap | None:
        found = overlap.containment(prompt, canonical.text)
        if found is not None:
            found = overlap.Overlap(found.share, *canonical.span(found.start, found.end))
        for child in canonical.children:
            inner = overlap.containment(prompt, child.text)
            if inner is not None and (found is None or inner.share > found.share):
                found = overlap.Overlap(inner.share, child.start, child.end)
        return found

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
