"""Where texts of a conversation meet without a seam: what is cut over them is whole again in front of the model.

Chat templates that loop over the parts of a message put them side by side, or a line apart; messages of one role in a row
are sent as one (`shieldkit.backends.chat`). What is joined is looked at in stretches: short pieces whole, of long ones
what is next to a seam. A conversation that grows gets new stretches at its end, and the others stay as they were.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, chain, groupby
from typing import NamedTuple

from shieldkit.conversation import Conversation, Kind, Message, Role
from shieldkit.guards.base import Inspection

WINDOW = 2000
"""Characters on both sides of a seam that are looked at: as far as the headers of a frame may be apart."""
STRETCH = 16 * WINDOW

_PART = re.compile(
    r"(messages\[\d+\]\.(?:.+\.)?(?:content|output))(\[\d+\](?:\.(?:text|thinking|reasoning|refusal))?)?\Z"
)
_KINDS = frozenset({Kind.TEXT, Kind.REASONING, Kind.TOOL_RESULT})


class Piece(NamedTuple):
    """Characters `[start, end)` of a segment. `glue` is what may stand between it and the piece before it, way by way."""

    segment: int
    start: int
    end: int
    glue: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Pieces that meet, in order."""

    pieces: tuple[Piece, ...]

    def joined(self, conversation: Conversation) -> Iterator[Joined]:
        """The text that they make, for each way to join them."""
        for way in range(len(self.pieces[0].glue)):
            glues = ["", *(piece.glue[way] for piece in self.pieces[1:])]
            texts = [conversation.segments[p.segment].text[p.start : p.end] for p in self.pieces]
            ends = tuple(accumulate(len(glue) + len(text) for glue, text in zip(glues, texts, strict=True)))
            yield Joined("".join(chain.from_iterable(zip(glues, texts, strict=True))), self.pieces, ends)

    def key(self, inspection: Inspection) -> bytes:
        """The same for the same pieces: made of digests, so that long text is not read again."""
        made = sha256()
        for segment, start, end, glue in self.pieces:
            made.update(inspection.digest(segment) + f"{start} {end} {glue}".encode())
        return made.digest()


@dataclass(frozen=True, slots=True)
class Joined:
    """The text that pieces make, and where in it each ends."""

    text: str
    pieces: tuple[Piece, ...]
    ends: tuple[int, ...]

    def places(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """What of the text's `[start, end)` stands in each piece, by the piece's number, and where in its segment."""
        found: list[tuple[int, int, int]] = []
        for n in range(bisect_right(self.ends, start), len(self.ends)):
            piece = self.pieces[n]
            begin = self.ends[n] - (piece.end - piece.start)
            low, high = max(start, begin), min(end, self.ends[n])
            if low < high:
                found.append((n, piece.start + low - begin, piece.start + high - begin))
            if self.ends[n] >= end:
                break
        return found

    def in_segments(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """The same by the segment's index."""
        return [(self.pieces[n].segment, low, high) for n, low, high in self.places(start, end)]


def parts(conversation: Conversation, wanted: Collection[int]) -> Iterator[Stretch]:
    """The parts of each message's content, side by side and a line apart, where they meet one of the segments `wanted`."""
    for message in conversation.messages:
        if len(message.segments) > 1:
            listed = sorted((part[1], i) for i, part in _content(conversation, message) if part[2])
            for _, group in groupby(listed, key=lambda part: part[0]):
                own = [Piece(i, 0, len(conversation.segments[i].text), ("", "\n")) for _, i in group]
                yield from _near(conversation, own, wanted)


def turns(conversation: Conversation, wanted: Collection[int]) -> Iterator[Stretch]:
    """Messages of one role in a row, as backends join them; documents are turns of the user."""

    def side(message: Message) -> Role | None:
        if any(conversation.segments[i].trusted for i in message.segments[:1]):
            return None
        return Role.USER if message.role is Role.DOCUMENT else message.role

    for role, group in groupby(conversation.messages, key=side):
        run = list(group)
        if len(run) > 1 and role not in (None, Role.TOOL):
            yield from _near(conversation, list(_said(conversation, run)), wanted)


def _said(conversation: Conversation, run: Iterable[Message]) -> Iterator[Piece]:
    """What messages say, with what is put between them; the parts of one message are a line apart."""
    after = ""
    for message in run:
        is_document = message.role is Role.DOCUMENT
        glue = f"{after}\n\nDocument:\n" if is_document else f"{after}\n\n"
        for index, part in _content(conversation, message):
            if part[1].count(".") == 1:
                yield Piece(index, 0, len(conversation.segments[index].text), (glue,))
                glue = "\n"
        after = "\nEnd of document." if is_document else ""


def _content(conversation: Conversation, message: Message) -> Iterator[tuple[int, re.Match[str]]]:
    """The strings of a message's content that are not trusted: by themselves, or as parts of a list."""
    for index in message.segments:
        segment = conversation.segments[index]
        if segment.kind in _KINDS and not segment.trusted and (part := _PART.match(segment.path)):
            yield index, part


def _near(conversation: Conversation, pieces: Sequence[Piece], wanted: Collection[int]) -> Iterator[Stretch]:
    if len(pieces) > 1 and any(p.segment in wanted for p in pieces):
        for stretch in stretches(conversation, [p for p in pieces if p.end]):
            if any(p.segment in wanted for p in stretch.pieces):
                yield stretch


def stretches(conversation: Conversation, pieces: Sequence[Piece]) -> Iterator[Stretch]:
    """Each begins `WINDOW` characters or more before the one in front of it ends, and stays the same whatever follows."""
    held: list[Piece] = []
    size, is_new = 0, False
    for piece in pieces:
        is_long = piece.end > 2 * WINDOW
        held.append(piece._replace(end=WINDOW) if is_long else piece)
        size, is_new = size + held[-1].end, True
        if is_long or size >= STRETCH:
            if len(held) > 1:
                yield Stretch(tuple(held))
            held = [_end_of(conversation, piece)] if is_long else _last(held)
            size, is_new = sum(p.end - p.start for p in held), False
    if is_new and len(held) > 1:
        yield Stretch(tuple(held))


def _last(pieces: Sequence[Piece]) -> list[Piece]:
    size, count = 0, 0
    while count < len(pieces) and size < WINDOW:
        count += 1
        size += pieces[-count].end - pieces[-count].start
    return list(pieces[-count:])


def _end_of(conversation: Conversation, piece: Piece) -> Piece:
    """The last part of a long piece, from a line's beginning on if one is near: a header is one by its place."""
    line = conversation.segments[piece.segment].text.rfind("\n", piece.end - 2 * WINDOW, piece.end - WINDOW)
    return piece._replace(start=line + 1 if line >= 0 else piece.end - WINDOW)
