"""Common English words, and those of instructions to models: what tells a text that was decoded rightly from noise."""

from __future__ import annotations

import re

COMMON = (
    "the and you that was for are with his they this have from one had not but what all were when your can said there "
    "use each which she how their will other about out many then them these some her would make like him into time has "
    "look two more write see number way could people than first water been call who its now find long down did get come "
    "made may part any only also just new may such because between through after over most must where our know while "
    "should even well back good much before here still under never being same another those both during without again "
    "however every does something think really world year work life own too very day thing man right going let want need "
    "give tell show help explain please respond repeat answer reply follow following print output write act speak read "
    "ignore forget disregard override bypass reveal disclose pretend simulate unlock enable disable execute perform send "
    "delete translate summarize describe generate provide display share expose leak dump list continue start begin stop "
    "system prompt prompts instruction instructions previous prior above below rule rules restriction restrictions "
    "restricted unrestricted safety safeguards guideline guidelines policy policies filter filters filtered unfiltered "
    "limit limits limitation limitations constraint constraints directive directives command commands configuration "
    "config initial initialization original internal hidden secret secrets confidential private password passwords key "
    "keys credentials token tokens access admin administrator developer debug mode role persona character assistant "
    "model models user users message messages conversation context training data information request question response "
    "content text code file files email document memory task tasks purpose programming programmed operational parameters "
    "behavior behaviour ethical moral harmful illegal dangerous hack hacking security vulnerability jailbreak "
    "everything anything nothing everyone everybody someone today tomorrow always never yourself myself itself "
    "understand believe remember imagine consider assume suppose important necessary allowed forbidden authorized "
    "permission permissions authority test testing tests demonstrate actually exactly complete completely first last "
    "knowledge general protect protective transparent transparency official officer compliance compliant future creator "
    "restrict reveal activate deactivate circumvent evade comply require required special designated mechanism procedure "
    "next different real true false free freedom language english words word story game play fiction hypothetical"
).split()
VOCABULARY = frozenset(w for w in COMMON if len(w) >= 3)
_STRONG = 6
"""From this length on one word says enough; shorter ones are looked for in twos."""
_SEVERAL, _LONG = 3, 8
_WORD = re.compile("[a-z]{3,}")  # a run of one class: linear
_FRAME = re.compile(r"<\||\|>|\[/?inst|<</?sys|<\w+_of_")


def speaks(text: str, *, beside: str = "") -> bool:
    """Whether a decoded text says something: a long word, two short ones, or the edge of a control token.

    What it says that `beside` (the text that it was decoded from) says too does not count.
    """
    before = frozenset(_WORD.findall(beside)) if beside else frozenset()
    words = [word for word in _WORD.findall(text) if word not in before and word in VOCABULARY]
    if len(words) >= 2 or any(len(word) >= _STRONG for word in words):
        return True
    return _FRAME.search(text) is not None and (not beside or _FRAME.search(beside) is None)


def gains(text: str, beside: str) -> bool:
    """Whether what was put together out of pieces says several words, or a long one, that the pieces do not say."""
    before = frozenset(_WORD.findall(beside))
    words = {word for word in _WORD.findall(text) if word not in before and word in VOCABULARY}
    if len(words) >= _SEVERAL or any(len(word) >= _LONG for word in words):
        return True
    return _FRAME.search(text) is not None and _FRAME.search(beside) is None


def strong(word: str) -> bool:
    """Whether a word is long enough to say something by itself."""
    return len(word) >= _STRONG
