"""A random mark in the system prompt of each request. An answer that carries it has read the prompt out.

The mark stands at the *end* of the system prompt, so that a provider's or engine's prompt cache still serves all that is
before it. It is a plain comment with a number that means nothing; it works for verbatim disclosure, also when the answer
spells, reverses or encodes it. A model that paraphrases its prompt leaves it out: the overlap check is for that.
"""

from __future__ import annotations

import secrets

from shieldkit.conversation import Conversation, Role
from shieldkit.text import Canonical

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


def find(canary: str, canonical: Canonical) -> tuple[int, int] | None:
    """Where in the original text the canary stands: as it is, spelled out, cut up, reversed, or encoded."""
    for form in (canary, canary[::-1]):
        place = _scattered(form, canonical.text)
        if place is not None:
            return canonical.span(*place)
    for child in canonical.children:
        if any(_scattered(form, child.text) is not None for form in (canary, canary[::-1])):
            return child.start, child.end
    return None


def _scattered(needle: str, text: str) -> tuple[int, int] | None:
    """`needle` in `text`, whatever stands between its characters that is neither letter nor digit."""
    at = "".join(filter(str.isalnum, text)).find(needle)
    if at < 0:
        return None
    places = [i for i, char in enumerate(text) if char.isalnum()]
    return places[at], places[at + len(needle) - 1] + 1
