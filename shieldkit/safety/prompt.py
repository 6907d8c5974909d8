"""A conversation in a family's frame, as pieces: control tokens from the family, text from the conversation.

The judged text stands inside the prompt, so it could try to close its own frame. Its control tokens are inert (pieces of
text are tokenized with special tokens off), and lines that imitate the frame or a turn's start are set off with a sign:
the same text, always in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shieldkit.backends.base import Piece
from shieldkit.safety.families import Family

MARK = "| "


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: `agent` says whether the model spoke, or the user."""

    text: str
    agent: bool = False


def build(family: Family, turns: Sequence[Turn], categories: Mapping[str, str]) -> list[Piece]:
    """The prompt that asks about the last of `turns`."""
    role = family.speakers[1 if turns[-1].agent else 0]
    listed = "\n".join(family.category.format(id=key, name=name) for key, name in categories.items())
    pieces = [Piece(family.head, control=True), Piece(_filled(family.before, role, listed))]
    for turn in turns:
        speaker = family.speakers[1 if turn.agent else 0]
        pieces += [Piece(f"{speaker}: "), Piece(neutral(family, turn.text)), Piece("\n\n")]
    pieces += [Piece(_filled(family.after, role, listed)), Piece(family.foot, control=True)]
    return _joined(pieces)


def _filled(text: str, role: str, categories: str) -> str:
    return text.replace("{role}", role).replace("{categories}", categories)


def neutral(family: Family, text: str) -> str:
    """`text` with every line that imitates the frame, or the start of a turn, set off by a sign."""
    starts = tuple(f"{speaker}:".lower() for speaker in family.speakers)
    words = tuple(word.lower() for word in family.frame_words)
    out = []
    for line in text.splitlines(keepends=True):
        plain = line.strip().lower()
        imitates = plain.startswith(starts) or any(word in plain for word in words)
        out.append(MARK + line if imitates else line)
    return "".join(out)


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbouring pieces of text as one, so that words are tokenized whole."""
    out: list[Piece] = []
    for piece in pieces:
        if out and not out[-1].control and not piece.control:
            out[-1] = Piece(out[-1].text + piece.text)
        elif piece.text:
            out.append(piece)
    return out
