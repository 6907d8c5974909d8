"""Is a user's turn on topic? Scored by the pack's example utterances, with the turns before it and clause by clause.

A turn is on topic when it is nearer to the pack's examples than to the background (`shieldkit.embedding.nearest`), or
when it is a pleasantry, or when it is a follow-up ("and how long does that take?") to an earlier turn that was on
topic. It is off topic, however much on-topic text surrounds it, when one of its clauses is clearly off: further off
than nearly every example, near to something that the background knows, and no mere aside ("I am in a hurry").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import re2

from shieldkit.embedding import NearestExamples, SentenceEmbedder
from shieldkit.errors import ConfigurationError, ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

OFF_TOPIC_INTENT = "ask off topic"

_HOME = Path(__file__).parent
_SHORT_WORDS = 16  # pleasantries and follow-ups are no longer than this
_CLAUSE_WORDS = 3  # fewer words are no request of their own
_CLAUSE = re2.compile(r"(?:[.!?;:\n]+(?:\s|$)|,\s|\s(?:and|but|or|also|then|plus)\s)")


@dataclass(frozen=True, slots=True)
class TurnJudge:
    """Scores turns of one surface: 0 on topic, 1 off topic, 0.5 the threshold fitted on the examples."""

    embedder: SentenceEmbedder
    topics: NearestExamples
    pleasantries: NearestExamples | None
    followups: NearestExamples
    asides: NearestExamples

    @classmethod
    def fit(
        cls, intents: Mapping[str, Sequence[str]], embedder: SentenceEmbedder, *, pleasantries: bool = True
    ) -> TurnJudge:
        """Fit on a pack's example utterances by intent. `ConfigurationError` when they are too few.

        The intent `ask off topic` is not an example of the surface: its utterances join the background.
        """
        known = Known.load(embedder)
        subjects, texts = read_background()
        background = known.vectors(texts)
        own = list(intents.get(OFF_TOPIC_INTENT, ()))
        pairs = {u: name for name, utterances in intents.items() if name != OFF_TOPIC_INTENT for u in utterances}
        try:
            topics = NearestExamples.fit(
                known.vectors(list(pairs)),
                list(pairs.values()),
                np.concatenate([background, known.vectors(own)]),
                [*subjects, *["own"] * len(own)],
                keep=[*[False] * len(subjects), *[True] * len(own)],
            )
        except ValueError as error:
            mend = "Give at least eight example utterances of what the surface is for"
            raise ConfigurationError("guards.topics.pack", f"cannot be fitted: {error}", mend=mend) from None

        def kind(name: str) -> NearestExamples:
            texts = read_lines(name)
            keep = [True] * len(subjects)
            return NearestExamples.fit(known.vectors(texts), [name] * len(texts), background, subjects, keep)

        polite = kind("pleasantries.txt") if pleasantries else None
        return cls(embedder, topics, polite, kind("followups.txt"), kind("asides.txt"))

    def score(self, text: str, earlier: Sequence[str] = (), proceed: Callable[[], bool] = lambda: True) -> float:
        """How far off topic a turn is, 0..1, given the user's earlier turns, oldest first.

        `proceed` is asked before each piece of work; `TimeoutError` when it says no.
        """
        if not text.strip():
            return 0.0
        alone = self._alone(text, proceed)
        if alone < 0.5 or not earlier or not self._like(self.followups, text, proceed):
            return alone
        return min((self._followed(turn, text, proceed) for turn in earlier), default=alone)

    def _followed(self, turn: str, text: str, proceed: Callable[[], bool]) -> float:
        """The score of a follow-up to `turn`: that of both together, or 1 when `turn` was itself off topic."""
        if self._alone(turn, proceed) >= 0.5:
            return 1.0
        return self._whole(f"{turn}. {text}", proceed)

    def _alone(self, text: str, proceed: Callable[[], bool]) -> float:
        if self.pleasantries is not None and self._like(self.pleasantries, text, proceed):
            return 0.0
        whole = self._whole(text, proceed)
        clauses = [part for part in _clauses(text) if len(part.split()) >= _CLAUSE_WORDS]
        if len(clauses) < 2 and len(text) < 400:
            return whole
        vectors = np.concatenate([self.embedder.windows(clause, proceed) for clause in clauses or [text]])
        off = self.topics.off_scores(vectors)[
            self.topics.clearly_off(vectors) & (self.asides.off_scores(vectors) >= 0.5)
        ]
        return max(whole, float(off.max(initial=0.0)))

    def _whole(self, text: str, proceed: Callable[[], bool]) -> float:
        vector = self.embedder.windows(text, proceed).mean(axis=0, keepdims=True)
        return float(self.topics.off_scores(vector / max(float(np.linalg.norm(vector)), 1e-9))[0])

    def _like(self, kind: NearestExamples, text: str, proceed: Callable[[], bool]) -> bool:
        if len(text) > 200 or len(text.split()) > _SHORT_WORDS:
            return False
        return bool(kind.off_scores(self.embedder.windows(text, proceed))[0] < 0.5)


def _clauses(text: str) -> list[str]:
    """Sentences and clauses, by punctuation and conjunctions."""
    return [part.strip() for part in _CLAUSE.split(text) if part and part.strip()]


def read_lines(name: str) -> list[str]:
    """The lines of a text file that comes with shieldkit, without comments."""
    content = (_HOME / name).read_text(encoding="utf-8")
    return [line for line in content.splitlines() if line and not line.startswith("#")]


def read_background() -> tuple[list[str], list[str]]:
    """The subjects and the texts of the background."""
    subjects, texts, subject = [], [], ""
    for line in read_lines("background.txt"):
        if line.startswith("== "):
            subject = line[3:]
        else:
            subjects.append(subject)
            texts.append(line)
    return subjects, texts


@dataclass(frozen=True, slots=True)
class Known:
    """Vectors of the texts that come with shieldkit, computed beforehand for the built-in model (`vectors.npz`).

    They save seconds at start-up. Any other text, and any other model, is computed.
    """

    embedder: SentenceEmbedder
    stored: dict[bytes, Vectors]

    @classmethod
    def load(cls, embedder: SentenceEmbedder) -> Known:
        """Read the stored vectors, when they are of this model and their digest is right."""
        from shieldkit.rails.vectors import MODEL, SHA256

        path = _HOME / "vectors.npz"
        if embedder.name != MODEL or not path.is_file():
            return cls(embedder, {})
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise ModelFileError(
                "shieldkit.rails", "the SHA-256 of vectors.npz is wrong", mend="Install shieldkit again"
            )
        import io

        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            keys, vectors = arrays["keys"], arrays["vectors"].astype(np.float32)
        return cls(embedder, {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)})

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text, shape (texts, dimensions)."""
        if not texts:
            return np.zeros((0, self.embedder.dimensions), np.float32)
        found = [self.stored.get(key_of(text)) for text in texts]
        return np.stack(
            [v if v is not None else self.embedder.encode([t])[0] for t, v in zip(texts, found, strict=True)]
        )


def key_of(text: str) -> bytes:
    """The key of a text among the stored vectors: 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
