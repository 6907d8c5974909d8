"""Pages without their tags, for the detector: what is said between them, and in them, stays where it stands.

Sweep and encoder know prose and code. Of a page of HTML they would read mostly tags, which have the looks of anything, and that
takes long and raises alarms. So tags of HTML become blanks, with the attributes that name things. What an attribute says in
words, a comment, and every tag or attribute that HTML has not, is text. A few tags are left alone, as they may be a prompt's, and
so are those of short texts, which are soon read.
"""

from __future__ import annotations

import re
from itertools import islice

from shieldkit.text.words import VOCABULARY

LEAST_TAGS, DENSE = 8, 1 / 250
"""How many tags a page has at least, and how many brackets a character: fewer than pages have, and more than most code."""
MOST = 1024
"""Characters of a tag."""
# Not those that prompts are made of: `<input>`, `<output>`, `<data>`, `<s>`, `<summary>`, `<object>`.
_NAMES = (
    "a|abbr|article|aside|b|big|blockquote|body|br|button|caption|center|circle|cite|clippath|code|col|colgroup|dd|defs|del|div|dl|dt"
    "|em|fieldset|figcaption|figure|font|footer|form|g|h[1-6]|head|header|hr|html|i|iframe|img|ins|kbd|label|legend|li|link|meta|nav"
    "|noscript|ol|optgroup|option|p|path|picture|polygon|polyline|pre|rect|script|section|select|small|span|strike|strong|style|sub"
    "|sup|svg|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul|use"
)
# Each is bounded by the next bracket: linear also in the standard engine.
_TAG = re.compile(rf"<(?:/(?:{_NAMES})\s{{0,8}}|(?:{_NAMES})(?P<attributes>\s[^<>]{{0,{MOST}}})?/?)>")
# Attributes that name, place or number things.
_NAMING = (
    r"accept|action|align|async|border|cellpadding|cellspacing|charset|class|clip-rule|colspan|color|coords|crossorigin|cx|cy|d|defer"
    r"|dir|disabled|fill|fill-rule|for|frameborder|headers|height|hidden|href|hreflang|http-equiv|id|integrity|itemprop|itemscope"
    r"|itemtype|lang|loading|media|method|name|nowrap|on[a-z]{3,12}|points|property|r|rel|rev|role|rowspan|rules|scope|sizes|span|src"
    r"|srcset|start|stroke|stroke-[a-z]{4,12}|style|tabindex|target|transform|translate|type|usemap|valign|version|viewbox|width"
    r"|x[12]?|xlink:href|xml:lang|xmlns|xmlns:xlink|y[12]?"
)
_TELLING = "alt|aria-label|aria-description|content|label|placeholder|title|value"
_VALUE = r"(?:\s?=\s?(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s\"'>]+)))?"
_ATTRIBUTE = re.compile(
    rf"(?<=\s)(?:(?P<telling>{_TELLING})|{_NAMING}|(?:data|aria)-[a-z]{{1,16}}(?:-[a-z]{{1,16}})?){_VALUE}(?=[\s/]|\Z)"
)
_WORD, _IN_WORDS = re.compile("[a-z]{2,}"), re.compile(r"[a-z]{2,}(?:[\s,]+[a-z]+){3}")
LEAST_WORDS, LEAST_COMMON = 3, 4
"""Words in an attribute that tells something; common English ones in another that do not stand in a row of words."""


def unmarked(text: str) -> str:
    """A folded text of the same length, with blanks in the place of its tags where it is a page; else the text itself."""
    if text.count("<") < max(LEAST_TAGS, DENSE * len(text)):
        return text
    if sum(1 for _ in islice(_TAG.finditer(text), LEAST_TAGS)) < LEAST_TAGS:
        return text
    return _TAG.sub(_blanked, text)


def _blanked(tag: re.Match[str]) -> str:
    attributes = tag["attributes"]
    if not attributes or attributes.isspace():
        return " " * len(tag[0])
    start = tag.start("attributes") - tag.start()
    said = _ATTRIBUTE.sub(_without_names, attributes.removesuffix("/"))
    return f"{' ' * start}{said}".ljust(len(tag[0]))


def _without_names(attribute: re.Match[str]) -> str:
    value = attribute["double"] or attribute["single"] or attribute["bare"] or ""
    words = _WORD.findall(value)
    if attribute["telling"]:
        says = len(words) >= LEAST_WORDS
    else:
        says = _IN_WORDS.search(value) is not None or len(VOCABULARY.intersection(words)) >= LEAST_COMMON
    return attribute[0] if says or not value.isascii() else " " * len(attribute[0])
