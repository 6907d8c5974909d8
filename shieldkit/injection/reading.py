"""One text of a judgement, read around each peak of the sweep, as closely as it takes: by the skim, and by the encoder.

Logits become scores by a logistic map per head (Platt 1999); 0.5 stands for the same share of false alarms in each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shieldkit.injection.parallel import THREADS, in_parallel
from shieldkit.injection.windows import WINDOW, Window

Logits: TypeAlias = NDArray[np.float32]
Native: TypeAlias = Callable[[int, int], str]
"""A part of a text as it was written (`Canonical.native`)."""
View: TypeAlias = Callable[[str, Native, int, int, list[int]], Logits]
"""The encoder's logits of a part of a text, for these heads."""
Skimmed: TypeAlias = Callable[[str, Native, int, int], Logits]
"""The skim's logits of a part of a text."""

GLANCE = 0.5
"""Logits: a window of which what is next to its peak is lower is let go: none of 815 attacks that were found, of which none had
less than 1.0 (`training.let_go`). Not higher, since an attack can be stretched with words between.
"""
SURELY, LIKELY = -3.0, -1.5
"""Logits of the skim: what is lower is let go in a short text, and in a long one. The first is higher than 82 in 100 ordinary
prompts, and none of 524 attacks that were found; the second than 85 in 100 of the 512 highest peaks of a million tokens, and 1 of
815 attacks (`training.let_go`).
"""
SUSPECT = 1.0
"""Logits of the skim: what is higher the encoder should read, also where there is much of it. Most attacks are higher, and most
windows of what the skim does not know, such as style sheets, are lower."""
UNSURE_EACH = 20
"""Of what is lower it reads, after the first windows, one in so many windows of the text's length."""
FEW = 8
"""Windows."""
SURE_OF, WINDOWS_EACH = 4, 50
"""How many plain peaks of a text are read whatever the skim says: so many, and one in so many windows of its length. Of ordinary
text one window in a thousand has one; where there are many the sweep is out of its depth: in scripts of which it knows few words.
"""
LIKELY_EACH = 5
"""One more window in so many of the text's length is read of those that the skim does not let go: manuals are full of orders."""
FIRST, AT_ONCE = 32, 16
"""How many windows the encoder reads before it asks whether the others say anything new, and then at once."""
FAR, RUN, ALIKE = 0.3, 5, 3
"""A score that is far from an alarm; words of a run; in how many windows far from an alarm it is known from."""
HIGHEST = (8.0, 8.0)
"""Logits that no window reaches: of the first windows of 1,400 attacks the highest got 6.7 (direct) and 7.1 (data)."""
LINE = 0.2
"""How much the line of the peak counts by itself; the rest is the whole window's."""
ALONE = 1.5
"""How much lower a line counts whatever stands around it."""
WHATEVER = 1.0
"""How much lower a whole window counts whatever the line of its peak is: that may be what stands beside an attack."""
PLAIN = 0.5
"""From which height of a peak on (1 is certain) its line may be an attack that the whole window does not show."""
PEAK, HIGHEST_PEAK = 0.5, 2.0
"""What a sweep's peak that is certain adds to the encoder's logits, and how many times that at the most."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's map from logits to scores, for each head: `1 / (1 + exp(-scale * (logit - shift)))`."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def score(self, logits: Logits, heads: list[int]) -> float:
        """The higher score of the heads asked."""
        odds = self.scale[heads] * (logits[heads].astype(np.float64) - self.shift[heads])
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, float(odds.max())))))


@dataclass(frozen=True, slots=True)
class Reading:
    """A text, and how it is read: with more care if it is `short`, for which heads, against which thresholds.

    `more` logits are added for having been hidden; the encoder reads up to `most` windows, and one more in `LIKELY_EACH`, beside
    those that it must; `proceed` is asked before each: `TimeoutError` on no.
    """

    text: str
    native: Native
    short: bool
    more: float
    heads: list[int]
    stage: Stage
    skim: Skimmed
    encoder: View
    most: int
    proceed: Callable[[], bool]

    def scores(self, windows: Sequence[Window]) -> tuple[list[float], int, int]:
        """The score of each window, how many the encoder read, and how many it had to pass over; the highest peaks come first."""
        logits, read, over = self.logits(windows)
        return [self.stage.score(of_window, self.heads) for of_window in logits], read, over

    def logits(self, windows: Sequence[Window]) -> tuple[list[Logits], int, int]:
        """What the scores are made of, shape (2,) each, and how many windows the encoder read, and had to pass over."""
        # A thread costs more than to skim a few.
        found = in_parallel(self._skimmed, windows, THREADS if len(windows) > FEW else 1)
        left, others = self._left(windows, found)
        # What is read of nearly every one, so that also of a single window two views are read side by side. They are remembered.
        closely = [windows[k] for k in left if windows[k].closely]
        sure = {(w.start, w.end) for w in closely} | {w.line(self.text) for w in closely if self._with_line(w)}
        in_parallel(self._read, sorted(sure))
        self._read_all(left, windows, found)
        return found, *self._rest(left, others, windows, found)

    @property
    def _most(self) -> int:
        """How many windows the encoder reads beside those that are plain."""
        return self.most + len(self.text) // (LIKELY_EACH * WINDOW)

    def _read_all(self, left: Sequence[int], windows: Sequence[Window], found: list[Logits]) -> None:
        for k, logits in zip(left, in_parallel(self._of_window, [windows[k] for k in left]), strict=True):
            found[k] = logits

    def _rest(
        self, read: list[int], skimmed: Mapping[int, float], windows: Sequence[Window], found: list[Logits]
    ) -> tuple[int, int]:
        """Read the others, but for what says nothing new: how many were read in all, and how many there was no room for.

        Logs, tables and style sheets are rows alike: nothing is new where each run of words stands in `ALIKE` windows that were
        read and are far from an alarm. Where it is below `SUSPECT` the skim's word holds but for some.
        """
        if not skimmed:
            return len(read), 0
        suspect = sum(logit >= SUSPECT for logit in skimmed.values())
        others = list(skimmed)[: suspect + len(self.text) // (UNSURE_EACH * WINDOW)]
        total, room = len(read), self._most - min(FIRST, self._most)
        runs = {k: runs_of_words(self.text[slice(*windows[k].near(self.text))]) for k in (*read, *others)}
        times: Counter[tuple[str, ...]] = Counter()
        while others:
            for k in read:
                if self.stage.score(found[k], self.heads) < FAR:
                    times.update(runs[k])
            others = [k for k in others if any(times[run] < ALIKE for run in runs[k])]
            read, others = others[: min(AT_ONCE, room)], others[min(AT_ONCE, room) :]
            if not read:
                break
            self._read_all(read, windows, found)
            total, room = total + len(read), room - len(read)
        return total, sum(skimmed[k] >= SUSPECT for k in others)

    def _skimmed(self, window: Window) -> Logits:
        """The skim's logits of what is around a peak; of a short text of all of its window."""
        if not self.proceed():
            raise TimeoutError
        span = (window.start, window.end) if self.short else window.near(self.text)
        return self.skim(self.text, self.native, *span)

    def _left(self, windows: Sequence[Window], skimmed: list[Logits]) -> tuple[list[int], dict[int, float]]:
        """Which windows the encoder reads first, and which more it should, with the skim's logit, highest first.

        All others get the logits of what is let go.
        """
        let_go = np.float32(SURELY if self.short else LIKELY)
        highest = [float((logits + self.more)[self.heads].max()) for logits in skimmed]
        plain = [k for k, window in enumerate(windows) if window.peak >= 1]  # the highest come first
        plain = plain[: SURE_OF + len(self.text) // (WINDOWS_EACH * WINDOW)]
        first = min(FIRST, self._most)
        others = [k for k in {*range(len(windows))}.difference(plain) if highest[k] >= let_go]
        others.sort(key=lambda k: -highest[k])
        left = {*plain, *others[:first]}
        for k in range(len(windows)):
            if k not in left:
                skimmed[k] = np.minimum(skimmed[k], let_go)
        return sorted(left), {k: highest[k] for k in others[first:]}

    def _of_window(self, window: Window) -> Logits:
        """The logits of both views of a window, and of its peak: the whole first, its line only where that can matter.

        That is in a short text, at a plain peak, and where a line of `HIGHEST` would make an alarm of the whole. Where it is not
        read closely, what is next to the peak comes first, and may settle it.
        """
        from_sweep = np.float32(PEAK * min(window.peak, HIGHEST_PEAK) + self.more)
        if not window.closely:
            near = self._read(window.near(self.text))
            if (near + self.more < GLANCE)[self.heads].all():
                return near + from_sweep
        logits = whole = self._read((window.start, window.end))
        could_be = LINE * np.array(HIGHEST) + (1 - LINE) * whole + from_sweep
        if self._with_line(window) or (could_be >= self.stage.shift)[self.heads].any():
            logits = together(self._read(window.line(self.text)), whole)
        return logits + from_sweep

    def _with_line(self, window: Window) -> bool:
        return len(self.text) <= WINDOW or window.peak >= PLAIN

    def _read(self, span: tuple[int, int]) -> Logits:
        if not self.proceed():
            raise TimeoutError
        return self.encoder(self.text, self.native, *span, self.heads)


def together(line: Logits, whole: Logits) -> Logits:
    """The logits of a window, from those of its two views."""
    both = LINE * line + (1 - LINE) * whole
    return np.asarray(np.maximum(both, np.maximum(line - ALONE, whole - WHATEVER)), np.float32)


_WORD, _DIGIT = re.compile(r"[^\W_]+|[^\w\s]|_"), re.compile("[0-9]")


def runs_of_words(text: str) -> set[tuple[str, ...]]:
    """Each `RUN` words and signs in a row, numbers and whatever has a digit as one word."""
    words = ["0" if _DIGIT.search(word) else word for word in _WORD.findall(text)]
    return {tuple(words[k : k + RUN]) for k in range(max(1, len(words) - RUN + 1))}
