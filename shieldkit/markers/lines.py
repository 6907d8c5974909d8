r"""Line breaks that are written out: `\n` in JSON and in code, `<br>` and paragraphs in HTML, and escapes of one.

What a reader, or a program, sees as lines stands in one line there, and a role header in the middle of it. Text is read once
more with a line end in their place, of the same length, so that offsets stay what they are.
"""

from __future__ import annotations

import re

from shieldkit.markers.frames import ROLE

_INLINE = r"</?(?:b|strong|i|em|u|span)(?:[ \t][^<>\n]*)?>"
# An end of a paragraph is a break too: there is an empty line between two.
_TAG = r"</p[ \t]*>|<(?:br|p|div|li|tr|td)(?:[ \t/][^<>\n]*)?>"
_ESCAPE = r"%0[ad]|=0[ad]|&#(?:x0{0,4}[ad]|0{0,4}1[03]);?|&newline;?"
_OPENED = r"[ \t>*_]*(?:#{1,6}[ \t]*|\[|<)?"
WRITTEN = rf"(?:\\[nr]|\\(?:u00|x)0[ad]|{_TAG}|{_ESCAPE})(?:{_INLINE}|[ \t>*_])*{_OPENED}{ROLE}"
"""A role header after one of them, in folded text."""

# A backslash may be escaped in turn. It is a run of one class where none stands before: linear also in the standard engine.
_BROKEN = re.compile(
    rf"(?<!\\)\\+(?:[nr]|(?:u00|x)0[ad])|{_TAG}|{_ESCAPE}|(?P<quote>[\x22'`])(?={_OPENED}{ROLE}[\]>]?[ \t*_]*[:\\\n])"
    rf"|(?P<inline>{_INLINE})"
)
_UNFINISHED = re.compile(r"(?:(?<!\\)\\+(?:u0{0,3}|x0?)?|[%=]0?|&[#a-z0-9]{0,8}|<[^<>\n]*)\Z")


def broken(text: str) -> str:
    """Folded text with its written line breaks as line ends. A literal may begin with a header: so may a line."""
    return _BROKEN.sub(_replaced, text)


def unfinished(text: str) -> str:
    """The same with blanks for what may be the beginning of a written line break at its end."""
    return broken(_UNFINISHED.sub(lambda begun: " " * len(begun[0]), text))


def _replaced(match: re.Match[str]) -> str:
    return " " * len(match[0]) if match["inline"] else "\n".rjust(len(match[0]))
