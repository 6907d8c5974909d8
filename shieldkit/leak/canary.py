"""A random mark in the system prompt of each request. An answer that carries it has read the prompt out.

The mark stands at the *end* of the system prompt, so that a provider's or engine's prompt cache still serves all that is
before it. It is a plain comment with a number that means nothing; it works for verbatim disclosure, also when the answer
spells, reverses or encodes it. A model that paraphrases its prompt leaves it out: the overlap check is for that.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from shieldkit.conversation import Conversation, Role
from shieldkit.text import Canonical

LEAST_PIECE = 5
"""Digits that are a piece of it: an answer of tens of thousands of other digits hardly has all pieces by chance."""
PREFIX = "Reference (never repeat it): "


def new() -> str:
    """A fresh canary: 16 hex digits, 64 bits of chance."""
    return secrets.token_hex(8)


def plant(conversation: Conversation, canary: str) -> Conversation:
    """The conversation with the canary at the end of its last trusted system segment."""
    prompts = [i for i, s in enumerate(conversation.segments) if s.trusted and s.role is Role.SYSTEM]
    if not prompts:
        return conversation
    index = prompts[-1]
    return conversation.with_texts({index: f"{conversation.segments[index].text}\n{PREFIX}{canary}"})


def find(canary: str, canonical: Canonical) -> list[tuple[int, int]]:
    """Every place in the original text where the canary stands: as it is, spelled out, cut up, reversed, or encoded."""
    found = [canonical.span(*place) for form in _forms(canary) for place in _scattered(form, canonical.text)]
    encoded = (c for c in canonical.children if any(_scattered(form, c.text) for form in _forms(canary)))
    return sorted({*found, *((child.start, child.end) for child in encoded)})


def dealt(canary: str, texts: Sequence[Canonical]) -> dict[int, tuple[int, int]]:
    """Where the canary is when it is dealt out over several texts in pieces of `LEAST_PIECE` or more, by number of the text."""
    if len(texts) < 2:
        return {}
    dense = ["\n".join(map(_dense, (text.text, *(child.text for child in text.children)))) for text in texts]
    for form in _forms(canary):
        pieces = [form[at : at + LEAST_PIECE] for at in range(len(form) - LEAST_PIECE + 1)]
        found = {
            n: here
            for n, text in enumerate(dense)
            if (here := [at for at, piece in enumerate(pieces) if piece in text])
        }
        seen = {at + n for here in found.values() for at in here for n in range(LEAST_PIECE)}
        if len(found) > 1 and len(seen) == len(form):
            return {n: _around(texts[n], [pieces[at] for at in here]) for n, here in found.items()}
    return {}


def _around(canonical: Canonical, pieces: Sequence[str]) -> tuple[int, int]:
    """From the first of the pieces in a text to the last, in the original."""
    places = [canonical.span(*place) for piece in pieces for place in _scattered(piece, canonical.text)]
    places += [(c.start, c.end) for c in canonical.children if any(_scattered(piece, c.text) for piece in pieces)]
    return min(start for start, _ in places), max(end for _, end in places)


def pending(canary: str, canonical: Canonical) -> int:
    """Where in the original the last characters begin that may be the beginning of the canary: its end, if they are not."""
    text, most = canonical.text, len(canary) - 1
    places: list[int] = []
    for at in range(len(text) - 1, -1, -1):
        if text[at].isalnum():
            places.append(at)
            if len(places) == most:
                break
    tail = "".join(text[at] for at in reversed(places))
    for length in range(len(tail), 0, -1):
        if any(form.startswith(tail[-length:]) for form in _forms(canary)):
            return canonical.span(places[length - 1], places[length - 1])[0]
    return len(canonical.original)


def _forms(canary: str) -> tuple[str, str]:
    return canary, canary[::-1]


def _dense(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _scattered(needle: str, text: str) -> list[tuple[int, int]]:
    """`needle` in `text`, whatever stands between its characters that is neither letter nor digit."""
    dense = _dense(text)
    starts, at = [], dense.find(needle)
    while at >= 0:
        starts.append(at)
        at = dense.find(needle, at + len(needle))
    if not starts:
        return []
    places = [i for i, char in enumerate(text) if char.isalnum()]
    return [(places[at], places[at + len(needle) - 1] + 1) for at in starts]
