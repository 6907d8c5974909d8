"""The shapes of control tokens, and what is the same token written otherwise.

The operators of Elm, F# and others, and the cells of diagrams, have the shape `<| … |>` too: only what a token could be
called counts there. Known tokens are known with blanks, one line break, Markdown's escapes, an HTML tag or comment
inside, and without their end.
"""

from __future__ import annotations

import re

from shieldkit.text.sieve import OVERLAP

LEAST_LETTERS, LEAST_ALONE, LONGEST_SHAPE = 3, 9, 64
"""Letters of an unknown name, in bytes (one of a Chinese name says more); of a known one that has no end; and signs in all."""

# In narrowed text \x1a stands for whatever is not ASCII.
_GAP = r"[\s\\]*"
_CHAR = r"[a-z0-9_\\\x1a]"
_BREAK = r"[ \t]*(?:=?\r?\n)?[ \t]*"
_TAG = r"(?:<!--[a-z0-9_ ]*-->|</?(?:b|i|u|em|span|strong|wbr)>)"
_BODY = rf"{_BREAK}/?{_CHAR}+(?:(?:[:./-]|{_TAG}+|{_BREAK}){_CHAR}+)*{_BREAK}"
_BLANKS = r"[ \t\\]"
_NAME = r"[a-z0-9_:\\\x1a]+"

SHAPES = (
    rf"<{_GAP}\|{_BODY}\|{_GAP}>",
    rf"\[\s*\|{_BODY}\|\s*\]",
    r"<<\s*/?\s*sys\s*>>",
    rf"[<\[]{_BLANKS}+/?{_BLANKS}*{_NAME}{_BLANKS}*[>\]]",
    rf"[<\[]/{_BLANKS}+{_NAME}{_BLANKS}*[>\]]",
    rf"[<\[]/?{_NAME}{_BLANKS}+[>\]]",
    rf"<\|{_CHAR}+",
)
_INSIDE = rf"[a-z0-9_\s\\:./=!<>\x1a-]{{0,{OVERLAP}}}(?:\|{_GAP})?"
BEGUN = (
    rf"<[\s\\/<]*(?:\|{_INSIDE})?"
    rf"|\[\s*(?:\|{_INSIDE})?"
    rf"|[<\[]{_BLANKS}*/?{_BLANKS}*[a-z0-9_:\\\x1a]{{0,{OVERLAP}}}{_BLANKS}*"
)
"""What may be the beginning of one of them at the end of a text."""

_AFTER_GREEK = "\u0400"
_PARTS = re.compile("[_:./-]")
_TELLING = frozenset(
    "system developer user human assistant agent model bot role turn message msg prompt tool tools call function result header "
    "start end begin bos eos eot eom sep pad token special reserved think image audio video part".split()
)
_CHOICES = frozenset({"||", "|=", "=|", "==", "(|", "|)", "(=", "=)"})
"""What stands before and after one of a list of choices, as in `(>|<|equals|>=)`. In parentheses alone it may be a token."""
_CELL = re.compile("</?[a-z]{1,4}>")
_COMPARED = re.compile(r"<\s+[a-z]+\s+>")
_NAMED = re.compile(r"</?(?:[A-Z][a-z]+)+>|<([a-z]+)>[A-Za-z]+</\1>")
_MARKUP = re.compile(_TAG)
_NEUTRAL = str.maketrans("", "", " \t\r\n_=\\")
_CALLED = re.compile(r"<(\s*)\|(\s*)/?(\w(?:[\w:./-]*\w)?)\2\|\1>|\[\|/?(\w(?:[\w:./-]*\w)?)\|\]")


def tight(spelled: str) -> str:
    """A spelling of a token without all that makes it no other one."""
    return _MARKUP.sub("", spelled).translate(_NEUTRAL)


def is_cell(token: str) -> bool:
    """Whether it is a short word between the signs that stand around any word in HTML: `<b>Pos</b>`.

    Backwards or in rot13 it is another word, and no sign of anything.
    """
    return _CELL.fullmatch(token) is not None


def is_compared(folded: str) -> bool:
    """Whether it is a word between two signs of comparison, as in `x < think > y`."""
    return _COMPARED.fullmatch(folded) is not None


def is_named(spelled: str) -> bool:
    """Whether it is spelled as types and components are (`<ToolCall>`), or a tag around a word: `<role>Assistant</role>`."""
    return _NAMED.fullmatch(spelled) is not None


def without_end(token: str) -> str | None:
    """A token without its last two signs, where it cannot be taken for anything else."""
    name = token[2:-2]
    is_name = token.startswith("<|") and token.endswith("|>") and name.replace("_", "").isalnum()
    return token[:-2] if is_name and ("_" in name or len(name) >= LEAST_ALONE) else None


def likely(folded: str, beside: str = "") -> bool:
    """Whether a match is what an unknown token could look like: a name of a few letters, blanks on both sides alike.

    A variable stands between operators with blanks around it, and in brackets of arrays; there a name needs two parts. In
    an array, and in a list of choices (`beside` are the signs on both sides), one of them is what a token is called for.
    """
    called = _CALLED.fullmatch(folded.replace("\\", ""))
    if called is None or len(folded) > LONGEST_SHAPE:
        return False
    name = called[3] or called[4]
    letters = sum(1 if c < _AFTER_GREEK else len(c.encode()) for c in name if c.isalpha())
    is_bare = called[3] is not None and not called[1] and not called[2]
    is_chosen = called[3] is None or beside in _CHOICES
    is_telling = not is_chosen or not _TELLING.isdisjoint(_PARTS.split(name))
    return letters >= LEAST_LETTERS and is_telling and (is_bare or "_" in name)
