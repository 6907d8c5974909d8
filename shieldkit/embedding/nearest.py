"""Is a text like these examples? Measured against a background of other subjects, on sentence vectors.

The margin of a text is the sum of four cosine-like quantities:

    mean cosine with its three nearest examples
    + 0.5 · cosine with the centre of the nearest intent
    − 1.2 · mean cosine with its three nearest background texts
    + 0.3 · a kernel ridge classifier: examples +1, background −1, both weighing the same, kernel exp(2·(cos − 1))

A plain similarity threshold lacks the third and fourth: a question that is near to everything (short, common words) is
not on topic for that. The weights were chosen by cross-validation on example utterances (see docs/topics.md).

The threshold comes from the examples and the background alone, by leaving out: each example from its own neighbours,
centre and classifier, each background text with its whole subject. It stands halfway between the margin that 90 % of
the examples reach and the one that 90 % of the background stays under.
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
    Labels = NDArray[np.str_]

_NEIGHBOURS = 3
_CENTRE, _BACKGROUND, _RIDGE = 0.5, 1.2, 0.3
_KERNEL_WIDTH, _RIDGE_PENALTY = 2.0, 1.0
_TAIL = 0.10  # of the examples, and of the background, on the far side of the threshold's two anchors
_NEAR = 0.25  # a background text nearer to the examples than a quarter of them are to each other is on topic …
_NEARER = 0.05  # … when it is also so much nearer to them than to other subjects
_SUBJECT_NEARER = 0.03  # and a subject that is nearer by so much, on average, is on topic as a whole
_CLEARLY = 0.01  # clearly off is what is further off than all but 1 % of the examples
_MIN_EXAMPLES = 8


def _mean_of_nearest(queries: Vectors, known: Vectors, skip: Flags | None = None) -> Numbers:
    """Mean cosine of each query with its nearest three of `known`, shape (queries,); `skip` marks pairs to ignore."""
    cosines = queries @ known.T
    if skip is not None:
        cosines = np.where(skip, np.float32(-1.0), cosines)
    count = min(_NEIGHBOURS, cosines.shape[1])
    return np.asarray(np.partition(cosines, -count, axis=1)[:, -count:].mean(axis=1), np.float64)


def _kernel(a: Vectors, b: Vectors) -> Numbers:
    return np.asarray(np.exp(_KERNEL_WIDTH * (a @ b.T - 1.0)), np.float64)


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


@dataclass(frozen=True, slots=True)
class NearestExamples:
    """Example vectors, background vectors, the classifier's weights, and where on the margin the threshold stands."""

    examples: Vectors
    centres: Vectors
    background: Vectors
    weights: Numbers
    threshold: float
    steepness: float
    lowest: float
    familiar: float

    @classmethod
    def fit(
        cls,
        examples: Vectors,
        intents: Sequence[str],
        background: Vectors,
        subjects: Sequence[str],
        keep: Sequence[bool] | None = None,
    ) -> NearestExamples:
        """Fit on unit vectors, (n, d) with the intent of each, and (m, d) with the subject of each.

        Background that is on the examples' topic is left out by itself, but for the texts that `keep` marks.

        `ValueError` when there are fewer than eight examples, or fewer than eight background texts are off their topic.
        """
        if len(examples) < _MIN_EXAMPLES:
            raise ValueError(f"fewer than {_MIN_EXAMPLES} examples")
        kept = _off_topic(examples, background, np.asarray(subjects))
        kept |= np.asarray(keep if keep is not None else [False] * len(kept), np.bool_)
        background, groups, kinds = background[kept], np.asarray(subjects)[kept], np.asarray(intents)
        if len(background) < _MIN_EXAMPLES:
            raise ValueError(f"fewer than {_MIN_EXAMPLES} background texts are off the topic of these examples")
        weights, of_examples, of_background = _ridge(examples, background, groups)
        centres = _unit(np.stack([examples[kinds == kind].mean(axis=0) for kind in np.unique(kinds)]))
        same = groups[:, None] == groups[None, :]
        among = _mean_of_nearest(background, background, same)
        on = (
            _mean_of_nearest(examples, examples, np.eye(len(examples), dtype=bool))
            + _CENTRE * _nearest_centre_without_self(examples, kinds)
            - _BACKGROUND * _mean_of_nearest(examples, background)
            + _RIDGE * of_examples
        )
        off = (
            _mean_of_nearest(background, examples)
            + _CENTRE * (background @ centres.T).max(axis=1)
            - _BACKGROUND * among
            + _RIDGE * of_background
        )
        threshold = float((np.quantile(off, 1 - _TAIL) + np.quantile(on, _TAIL)) / 2)
        return cls(
            examples, centres, background, weights, threshold,
            steepness=_steepness(on - threshold, off - threshold),
            lowest=float(min(np.quantile(on, _CLEARLY), threshold)),
            familiar=float(np.quantile(among, 0.5)),
        )  # fmt: skip

    def margins(self, vectors: Vectors) -> Numbers:
        """How much more each vector is like the examples than like the background, shape (n,)."""
        ridge = _kernel(vectors, np.concatenate([self.examples, self.background])) @ self.weights
        return np.asarray(
            _mean_of_nearest(vectors, self.examples)
            + _CENTRE * (vectors @ self.centres.T).max(axis=1)
            - _BACKGROUND * _mean_of_nearest(vectors, self.background)
            + _RIDGE * ridge,
            np.float64,
        )

    def off_scores(self, vectors: Vectors) -> Numbers:
        """For each vector, the odds that it is off topic as a number in 0..1; 0.5 is the fitted threshold."""
        odds = np.clip(self.steepness * (self.threshold - self.margins(vectors)), -30, 30)
        return np.asarray(1 / (1 + np.exp(-odds)), np.float64)

    def clearly_off(self, vectors: Vectors) -> Flags:
        """Whether each is further off than (nearly) every example, and near to something known to be off topic."""
        known = _mean_of_nearest(vectors, self.background) >= self.familiar
        return np.asarray((self.margins(vectors) < self.lowest) & known, np.bool_)


def _off_topic(examples: Vectors, background: Vectors, subjects: Labels) -> Flags:
    """Which background texts are off the topic of the examples."""
    among = _mean_of_nearest(examples, examples, np.eye(len(examples), dtype=bool))
    near = _mean_of_nearest(background, examples)
    nearer = near - _mean_of_nearest(background, background, subjects[:, None] == subjects[None, :])
    on_topic = (near > np.quantile(among, _NEAR)) & (nearer > _NEARER)
    for subject in np.unique(subjects):
        member = subjects == subject
        if nearer[member].mean() > _SUBJECT_NEARER:
            on_topic |= member
    return np.asarray(~on_topic, np.bool_)


def _nearest_centre_without_self(examples: Vectors, kinds: Labels) -> Numbers:
    """Cosine of each example with the nearest intent's centre, its own intent's taken without it."""
    best = np.full(len(examples), -1.0)
    for kind in np.unique(kinds):
        member = kinds == kind
        total, size = examples[member].sum(axis=0), int(member.sum())
        best = np.where(member, best, np.maximum(best, examples @ _unit(total[None])[0]))
        if size > 1:
            own = _unit(total[None] - examples[member])
            best[member] = np.maximum(best[member], (own * examples[member]).sum(axis=1))
    return np.asarray(best, np.float64)


def _ridge(examples: Vectors, background: Vectors, subjects: Labels) -> tuple[Numbers, Numbers, Numbers]:
    """Weights of the classifier, and its values on the examples (each left out) and background (its subject left out).

    With A = K + λD, leaving out a set S changes the prediction there to y_S − (A⁻¹_SS)⁻¹ (A⁻¹ y)_S: no refitting.
    """
    n, m = len(examples), len(background)
    points = np.concatenate([examples, background])
    labels = np.concatenate([np.ones(n), -np.ones(m)])
    shares = np.concatenate([np.full(n, (n + m) / (2 * n)), np.full(m, (n + m) / (2 * m))])
    inverse = np.linalg.inv(_kernel(points, points) + np.diag(_RIDGE_PENALTY / shares))
    weights = inverse @ labels
    of_examples = labels[:n] - weights[:n] / np.diag(inverse)[:n]
    of_background = np.empty(m)
    for subject in np.unique(subjects):
        at = np.flatnonzero(subjects == subject)
        block = inverse[np.ix_(n + at, n + at)]
        of_background[at] = labels[n + at] - np.linalg.solve(block, weights[n + at])
    return weights, of_examples, of_background


def _steepness(on: Numbers, off: Numbers) -> float:
    """Log-odds per unit of margin that fit left-out examples and background best (Platt scaling, slope alone)."""
    slope, weight_on, weight_off = 10.0, 0.5 / len(on), 0.5 / len(off)
    for _ in range(50):
        p_on, p_off = 1 / (1 + np.exp(-slope * on)), 1 / (1 + np.exp(-slope * off))
        gradient = weight_on * ((p_on - 1) * on).sum() + weight_off * (p_off * off).sum() + 1e-5 * slope
        curve = weight_on * (p_on * (1 - p_on) * on**2).sum() + weight_off * (p_off * (1 - p_off) * off**2).sum() + 1e-5
        slope = float(np.clip(slope - gradient / curve, slope / 2, slope * 2))
    return float(np.clip(slope, 1.0, 100.0))
