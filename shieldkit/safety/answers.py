"""A guard model's answer, read strictly: it is safe, or unsafe for reasons, or an error, and so closed.

The score is P(unsafe) from the first token's log-probabilities, as the Llama Guard card says:
p = e^lp(unsafe) / (e^lp(unsafe) + e^lp(safe)). The first tokens are found by tokenizing the two words.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shieldkit.errors import GuardError
from shieldkit.safety.families import Family


@dataclass(frozen=True, slots=True)
class Judgement:
    """`probability` of unsafe, 0..1, and the ids of the categories that an unsafe answer names."""

    probability: float
    unsafe: bool
    categories: tuple[str, ...] = ()


def judge(
    family: Family, text: str, logprobs: Mapping[str, float], first: Mapping[str, str], categories: Collection[str]
) -> Judgement:
    """What the answer says. Raises `GuardError` when it is neither word, or when words and probabilities disagree wildly."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    word = lines[0] if lines else ""
    if word not in (family.safe.strip(), family.unsafe.strip()):
        raise GuardError("the guard model answered neither of the two words that it may answer")
    unsafe = word == family.unsafe.strip()
    probability = _probability(logprobs, first[family.unsafe], first[family.safe])
    if probability is None:
        # The engine told no log-probabilities: the word is all there is.
        probability = 1.0 if unsafe else 0.0
    named: tuple[str, ...] = ()
    if unsafe and family.lists_categories:
        ids = [part.strip() for part in lines[1].split(",")] if len(lines) > 1 else []
        named = tuple(dict.fromkeys(i for i in ids if i in categories))
    return Judgement(probability, unsafe, named)


def _probability(logprobs: Mapping[str, float], unsafe: str, safe: str) -> float | None:
    """P(unsafe) of the two; a word that is not among the likeliest tokens counts as no likelier than the least of them."""
    if not logprobs or unsafe == safe:
        return None
    stripped: dict[str, float] = {}
    for token, value in logprobs.items():
        if not math.isfinite(value) and value > 0:
            raise GuardError("the guard model's log-probabilities are not numbers")
        key = token.strip()
        stripped[key] = max(value, stripped.get(key, -math.inf))
    floor = min(logprobs.values())
    a, b = stripped.get(unsafe.strip(), floor), stripped.get(safe.strip(), floor)
    if math.isnan(a) or math.isnan(b):
        raise GuardError("the guard model's log-probabilities are not numbers")
    if unsafe.strip() not in stripped and safe.strip() not in stripped:
        return None
    return 1.0 / (1.0 + math.exp(min(700.0, b - a)))
