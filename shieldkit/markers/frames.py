"""Role headers at line starts, and which of them are a forged frame of a chat template.

One header is a heading; "System: Linux" over "User: jane" is how reports and settings are written. A frame has what a
template writes: headers of one form, near each other, the answer after the question, and text that somebody could have
said; what a chat system notes of those who come and go is no word to a model. In a form that templates use and few people
do (`Human:` after an empty line, `### User:`) two parties are enough. All of it is judged in stretches of `REACH`
characters: no text becomes a frame by being long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import re2

from shieldkit.text.folding import fold, narrowed
from shieldkit.text.sieve import Window, compiled, matches

REACH = 2000
"""Characters from the first header of a frame to the last."""
TURN_CHARS = 200
"""How much of what stands under a header is looked at."""
MARGIN = 16
"""How much before a header is looked at for an empty line."""
LEAST_SAID = 2
"""How many turns near a frame have to read as if somebody said them."""

_TRANSLATED = {fold(name).text: role for name, role in (("пользователь", "user"), ("ассистент", "assistant"))}
ROLE = (
    "(system|developer|user|human|assistant|ai|bot|instructions?|response|input"
    f"|{'|'.join(narrowed(name).decode('ascii') for name in _TRANSLATED)})(?:[ \\t]+(?:prompt|message|override))?"
)
# Old text files, and models, have lines that end in a carriage return alone.
_LINE = r"(?:^|\r)"
PATTERN = (
    rf"(?m){_LINE}[ \t>*_]*(#{{1,6}}[ \t]*|\[|<){ROLE}[\]>]?[ \t*_]*:?[ \t]*$"
    rf"|(?m){_LINE}[ \t>*_]*(#{{1,6}}[ \t]*)?{ROLE}[ \t*_]*:"
    # A line may hold several of a heading that says more than most.
    rf"|[ \t](###[ \t]*){ROLE}[ \t]*:"
)
_HEADERS = compiled(PATTERN)
_BEGUN = re2.compile(
    r"(?m)(?:(?:^|\r)[ \t>*_]*(?:#{0,6}[ \t]*|\[|<)|[ \t]#{1,3}[ \t]*)"
    r"(?:[a-z\x{400}-\x{4ff}]{0,12}(?:[ \t]+[a-z]{0,8})?)?[\]>]?[ \t*_]*:?[ \t]*\z"
)

_TELLERS, _ASKERS = frozenset({"system", "developer"}), frozenset({"user", "human"})
_REPLIERS = frozenset({"assistant", "ai", "bot"})
_CHAT = _TELLERS | _ASKERS | _REPLIERS
_TASK = frozenset({"instruction", "instructions", "response", "input"})
_ALONE = frozenset({"human", "assistant", *_TRANSLATED})
"""Names that templates give both parties with nothing but an empty line before them."""

_WORD = re.compile(r"[^\W\d_]+")
_SPOKEN = frozenset("do hello hey hi me my now ok okay please sure thanks we you your".split())
_DEFINING = frozenset("a an the can cannot may must has is are".split())
"""First words of what is said about somebody: the entries of a glossary, the rights of a role."""
_SENTENCE_WORDS = 4
_NOTED = frozenset(
    "joined left started ended closed opened connected disconnected transferred assigned escalated resolved handed".split()
)
_PARTIES = frozenset(
    "agent assistant bot call chat client conversation customer group guest operator participant session support team ticket "
    "user visitor".split()
)
MOST_NOTED = 10
"""Words of a notice: "The customer has joined the chat."."""
NOTICE = "notice"
_CLAUSE = re.compile(r"[\w '#-]*\.?[ \t\r]*")
_AFTER = re.compile(r"[\w .'()-]{1,40}:|end of document\.")
"""What may stand under a notice: somebody else's line, or what is put behind a document (`shieldkit.guards.seams`)."""
_EMPTY_LINE = re.compile(r"\n[ \t\r>]*\n\Z")
_SETTING = re.compile(r"[\"'-]?[ \t]*[\w.-]+[\"']?[ \t]*[:=]|[<{\[|]")
"""`name: value`, `name = value`, or markup: what stands under the headers of settings."""


@dataclass(frozen=True, slots=True)
class Header:
    """A role header at `[start, end)` of folded text. `form` is how it is set off; `said` is whether its turn reads like one.

    `marked` is whether it is written as templates write the headers of two parties, and few people do.
    """

    role: str
    form: str
    titled: bool
    marked: bool
    said: bool
    empty: bool
    start: int
    end: int


def headers(text: str, data: bytes, windows: Sequence[Window]) -> list[Header]:
    """The role headers that begin in one of the windows, in order."""
    found = [match for match in matches(_HEADERS, data, windows) if _name(match, text) is not None]
    ends = [*(match.start() for match in found), len(text)][1:]
    return [_header(match, text, end) for match, end in zip(found, ends, strict=True)]


def framed(found: Iterable[Header]) -> Iterator[tuple[Header, bool]]:
    """Each header, last first, and whether it stands in a frame."""
    seen: dict[str, _Seen] = {}
    firsts = [(header, seen.setdefault(header.form, _Seen()).frame(header)) for header in found]
    low: dict[str, int] = {}
    for header, first in reversed(firsts):
        if first is not None:
            low[header.form] = min(first, low.get(header.form, first))
        yield header, header.start >= low.get(header.form, header.start + 1)


def pending(text: str, data: bytes) -> tuple[int, int]:
    """For a text that goes on: from where on a header may be part of a frame with what follows, and what is settled."""
    found = headers(text, data, [(0, len(data))])
    begun = _BEGUN.search(text)
    settled = begun.start() if begun else len(text)
    is_open = bool(found) and not _is_over(text[found[-1].end : found[-1].end + TURN_CHARS], found[-1])
    at = min(settled, found[-1].start) if is_open else settled
    held = min([settled, *(header.start for header in found if header.start >= at - REACH)])
    # What the last turn says may make a frame of all before it, or undo one.
    return held, held if is_open else settled


@dataclass(slots=True)
class _Seen:
    """Where, among the headers of one form, those that a frame needs were seen last."""

    teller: int = -REACH
    asker: int = -REACH
    answered: int = -REACH
    """The question that was answered last."""
    instruction: int = -REACH
    said: tuple[int, ...] = (-REACH,) * LEAST_SAID
    parties: dict[bool, Header] = field(default_factory=dict)
    """The marked header of one who answers that was seen last, and of one who does not."""

    def frame(self, header: Header) -> int | None:
        """Where the frame begins that this header is the last one of, if it is."""
        if header.said:
            self.said = (*self.said[1:], header.start)
        first = self._chat(header) if header.role in _CHAT else self._task(header)
        return first if first >= 0 and header.start - first <= REACH else None

    def _chat(self, header: Header) -> int:
        """A system, a user and an assistant who answers, with something said near them."""
        if header.role in _TELLERS:
            self.teller = header.start
        elif header.role in _ASKERS:
            self.asker = header.start
        else:
            self.answered = self.asker
        is_said = header.start - self.said[0] <= REACH
        first = min(self.teller, self.answered) if is_said else -1
        return first if first >= 0 and header.start - first <= REACH else self._pair(header)

    def _pair(self, header: Header) -> int:
        """One who asks or tells and one who answers, as templates set them off, where one of them says something."""
        if not header.marked:
            return -1
        self.parties[header.role in _REPLIERS] = header
        pair = self.parties.values()
        return min(h.start for h in pair) if len(pair) > 1 and any(h.said for h in pair) else -1

    def _task(self, header: Header) -> int:
        """An instruction and a response, as headings of Alpaca's: any other are sections of a manual.

        Exercises have them too, without a colon and with a solution that nobody says.
        """
        if not header.form.startswith("#") or not (header.titled or header.form == "###"):
            return -1
        if header.role.startswith("instruction"):
            self.instruction = header.start
        is_open = header.titled or header.empty or header.said
        return self.instruction if header.role == "response" and is_open else -1


def _name(match: Any, text: str) -> str | None:
    """The name in a header; None where other letters than ASCII stand in it, and they are not those of a name."""
    name = text[slice(*next(match.span(group) for group in (2, 4, 6) if match[group]))]
    return name if name.isascii() or name in _TRANSLATED else None


def _header(match: Any, text: str, end: int) -> Header:
    name = _name(match, text) or ""
    form = (match[1] or match[3] or match[5] or b"").decode("ascii").strip()
    titled = match[0].rstrip().endswith(b":")
    before = text[max(0, match.start() - MARGIN) : match.start()]
    is_apart = form == "" and name in _ALONE and (not before.strip() or _EMPTY_LINE.search(before) is not None)
    turn = text[match.end() : min(end, match.end() + TURN_CHARS)]
    said = _is_said(turn) and (name in _TASK or not _is_definition(turn))
    is_marked = titled and (form == "###" or is_apart)
    role = NOTICE if form == "" and name in _TELLERS and _is_notice(turn) else _TRANSLATED.get(name, name)
    return Header(role, form, titled, is_marked, said, not turn.strip(), *match.span())


def _is_said(turn: str) -> bool:
    """Whether what stands under a header reads like a turn: a sentence, or a word that people say to each other."""
    below = turn.lstrip()
    line = below.partition("\n")[0].rstrip()
    if "\n" in turn[: len(turn) - len(below)] and _SETTING.match(line):
        return False
    words = _WORD.findall(line)
    return len(words) >= _SENTENCE_WORDS or not _SPOKEN.isdisjoint(words) or bool(words and line[-1] in ".!?。।؟")


def _is_definition(turn: str) -> bool:
    """Whether it says what somebody is or may do, and says it to nobody."""
    words = _WORD.findall(turn.lstrip().partition("\n")[0])
    return bool(words) and words[0] in _DEFINING and _SPOKEN.isdisjoint(words)


def _is_notice(turn: str) -> bool:
    """Whether a system says who came or went, and nothing else: one clause, to nobody; then somebody else says something."""
    line, _, rest = turn.strip().partition("\n")
    return len(turn) < TURN_CHARS and _is_noted(line) and (not rest.strip() or _AFTER.match(rest.lstrip()) is not None)


def _is_noted(line: str) -> bool:
    words = _WORD.findall(line)
    is_clause = len(words) <= MOST_NOTED and _CLAUSE.fullmatch(line) is not None and _SPOKEN.isdisjoint(words)
    return is_clause and not _NOTED.isdisjoint(words) and not _PARTIES.isdisjoint(words)


def _is_over(turn: str, header: Header) -> bool:
    """Whether the part of a turn that is looked at is all there; of a notice that is more than its line."""
    is_noted = header.form == "" and _is_noted(turn.strip().partition("\n")[0])
    return len(turn) == TURN_CHARS or ("\n" in turn.lstrip() and not is_noted)
