"""Words without blanks: `ignoreallpreviousinstructions`, `IgnoreAllPreviousInstructions`, told apart by a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shieldkit.text.folding import narrowed
from shieldkit.text.regions import Decoded
from shieldkit.text.sieve import compiled
from shieldkit.text.words import VOCABULARY, gains

_SHORT = frozenset("to of in is it on or as at be by do go he if me my no so up us we an am".split())
# A name in a program is made of verbs and nouns (`getUserMessageContent`) and a few more words (`readAllFilesFrom`); a sentence
# has some of these, and one at least that names have not.
_IN_NAMES = frozenset(
    "all any this that and with how not from which about everything nothing every has have been".split()
)
_IN_SENTENCES = frozenset("the your you these those what are now must should will their previous prior above".split())
_JOINING = _IN_NAMES | _IN_SENTENCES
_COMMON = f"(?:{'|'.join(sorted(VOCABULARY))})"
_AMID = f"(?:{'|'.join(sorted(_IN_SENTENCES))})"
# Of what stands before one letter will do: the fewer states the automaton of all triggers has, the faster it is.
UNSPACED = (f"[a-z]{_AMID}{_COMMON}",)
LEAST_LETTERS, LEAST_WORDS, LEAST_JOINING, COVERED = 16, 4, 2, 0.8
_RUN, _TRIGGER = compiled(f"[a-z]{{{LEAST_LETTERS},}}"), compiled(UNSPACED[0])


def _by_beginning() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for word in sorted(VOCABULARY | _JOINING | _SHORT):
        found.setdefault(word[:2], []).append(word)
    return {beginning: tuple(words) for beginning, words in found.items()}


_BY_BEGINNING = _by_beginning()


def unspaced(text: str) -> Iterator[Decoded]:
    """Runs of letters that are common English words one after the other, with blanks between them."""
    data = narrowed(text)
    for match in _RUN.finditer(data):
        if _TRIGGER.search(match.group()) is not None:
            start, end = match.span()
            words = _told_apart(text[start:end])
            if words is not None:
                yield Decoded("unspaced", words, start, end)


def words_of(text: str) -> str | None:
    """A text without blanks with its words told apart; None where it is not made of words."""
    letters = "".join(text.split())
    data = narrowed(letters)
    if _TRIGGER.search(data) is None:
        return None
    parts: list[str] = []
    at, told = 0, False
    for match in _RUN.finditer(data):
        words = _told_apart(match.group().decode("ascii"))
        if words is not None:
            parts += letters[at : match.start()], words
            at, told = match.end(), True
    return "".join([*parts, letters[at:]]) if told else None


def _told_apart(run: str) -> str | None:
    """The words of a run of letters: those that cover most of it, the fewest of them. Linear: no word is long."""
    size = len(run)
    best, length = [0] * (size + 1), [1] * size
    for at in range(size - 1, -1, -1):
        best[at] = best[at + 1]
        for word in _BY_BEGINNING.get(run[at : at + 2], ()):
            long = len(word)
            # Each word costs a letter: `understand` is no `under stand`.
            if run.startswith(word, at) and best[at + long] + long - 1 > best[at]:
                best[at], length[at] = best[at + long] + long - 1, long
    words, unknown, at = [], "", 0
    while at < size:
        if length[at] == 1:
            unknown += run[at]
        else:
            words += [unknown, run[at : at + length[at]]] if unknown else [run[at : at + length[at]]]
            unknown = ""
        at += length[at]
    words += [unknown] if unknown else []
    known = [word for word in words if word in VOCABULARY or word in _JOINING]
    covered = sum(len(word) for word in words if word in _SHORT) + sum(map(len, known))
    is_joined = len(_JOINING.intersection(known)) >= LEAST_JOINING and not _IN_SENTENCES.isdisjoint(known)
    is_said = is_joined and len(known) >= LEAST_WORDS and covered >= COVERED * size
    return " ".join(words) if is_said else None


def put_together(said: str, part: str, start: int, end: int) -> Iterator[Decoded]:
    """What pieces make, where it says words that they do not; words without blanks are told apart."""
    if gains(said, part):
        yield Decoded("pieces", said, start, end)
    elif (words := words_of(said)) is not None and gains(words, part):
        yield Decoded("pieces", words, start, end)
