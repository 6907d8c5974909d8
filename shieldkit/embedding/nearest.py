"""Is a text like these examples? Nearest neighbours among the examples, held against nearest neighbours elsewhere.

The margin of a text is the mean cosine with its three nearest examples, less 0.8 times the mean cosine with its three
nearest texts of a background of other subjects. The second part is what a plain similarity threshold lacks: a
question that is near to everything (short, common words) is not on topic for that.

The threshold comes from the examples and the background alone, by leaving each out of its own neighbours: halfway
between the margin that 95 % of the examples reach and the one that 95 % of the background stays under. Nothing is
tuned on the texts to be judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Numbers = NDArray[np.float64]
    Flags = NDArray[np.bool_]

_NEIGHBOURS = 3
_BACKGROUND_WEIGHT = 0.8
_TAIL = 0.05  # of the examples, and of the background, on the far side of the threshold's two anchors
_NEAR = 0.10  # background as near to the examples as all but 10 % of them are to each other is left out
_SUBJECT_SHARE = 0.34  # … and with a third of its subject gone, the whole subject goes
_STEEPNESS = 4.0  # log-odds at either anchor; the score there is 0.02 and 0.98


def _nearest(queries: Vectors, known: Vectors, skip: Flags | None = None) -> Numbers:
    """Mean cosine of each query with its nearest three of `known`, shape (queries,); `skip` marks pairs to ignore."""
    cosines = queries @ known.T
    if skip is not None:
        cosines = np.where(skip, np.float32(-1.0), cosines)
    count = min(_NEIGHBOURS, cosines.shape[1])
    return np.asarray(np.partition(cosines, -count, axis=1)[:, -count:].mean(axis=1), np.float64)


@dataclass(frozen=True, slots=True)
class NearestExamples:
    """Example vectors, background vectors, and the two margins between which the score goes from 1 to 0."""

    examples: Vectors
    background: Vectors
    threshold: float
    spread: float
    lowest: float
    familiar: float

    @classmethod
    def fit(cls, examples: Vectors, background: Vectors, subjects: Sequence[str]) -> NearestExamples:
        """Fit on unit vectors, (n, d) and (m, d), and the subject of each background text.

        At least eight examples; `ValueError` when there are fewer, or when the background is all on topic.
        """
        if len(examples) < 8:
            raise ValueError("fewer than eight examples")
        themselves = np.eye(len(examples), dtype=bool)
        groups = np.asarray(subjects)
        kept = _unlike(examples, background, groups, _nearest(examples, examples, themselves))
        background, groups = background[kept], groups[kept]
        if len(background) < 8:
            raise ValueError("nothing in the background is off the topic of these examples")
        same_subject = groups[:, None] == groups[None, :]
        of_background = _nearest(background, background, same_subject)
        on = _nearest(examples, examples, themselves) - _BACKGROUND_WEIGHT * _nearest(examples, background)
        off = _nearest(background, examples) - _BACKGROUND_WEIGHT * of_background
        low, high = np.quantile(off, 1 - _TAIL), np.quantile(on, _TAIL)
        return cls(
            examples,
            background,
            threshold=float((low + high) / 2),
            spread=max(float(abs(high - low)) / 2, 0.04),
            lowest=float(on.min()),
            familiar=float(np.quantile(of_background, 0.5)),
        )

    def margins(self, vectors: Vectors) -> Numbers:
        """How much nearer each vector is to the examples than to the background, shape (n,)."""
        return _nearest(vectors, self.examples) - _BACKGROUND_WEIGHT * _nearest(vectors, self.background)

    def off_scores(self, vectors: Vectors) -> Numbers:
        """For each vector, 0 (like the examples) to 1 (like none of them); 0.5 is the fitted threshold."""
        odds = _STEEPNESS * (self.threshold - self.margins(vectors)) / self.spread
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))), np.float64)

    def clearly_off(self, vectors: Vectors) -> Flags:
        """Whether each is further off than every example, and near to something that is known to be off topic."""
        known = _nearest(vectors, self.background) >= self.familiar
        return np.asarray((self.margins(vectors) < self.lowest) & known, np.bool_)


def _unlike(examples: Vectors, background: Vectors, subjects: NDArray[np.str_], among: Numbers) -> Flags:
    """Which background texts are off the topic of the examples; `among` is how near these are to each other."""
    near = _nearest(background, examples) > np.quantile(among, _NEAR)
    for subject in np.unique(subjects):
        member = subjects == subject
        if near[member].mean() >= _SUBJECT_SHARE:
            near |= member
    return np.asarray(~near, np.bool_)
