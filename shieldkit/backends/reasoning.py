"""What a reasoning model thinks before it answers: `<think>`, its thoughts, `</think>`, the answer.

DeepSeek R1 and V4, Qwen3, GLM, MiniMax and others write so; for some the chat template has written the first mark already.
Servers with a parser of reasoning give it as `reasoning_content` in the answer to a chat, and so does what stands here for
the answers that no server parses. Only the marks that frame the beginning are taken away, and the blanks beside them; all
other text is judged, marks in it too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from shieldkit.backends.base import Piece

OPENS, CLOSES = "<think>", "</think>"


def thinks(template: str, control_tokens: Collection[str]) -> bool:
    """Whether a model has the marks: in its template, or among its tokens."""
    return CLOSES in template or CLOSES in control_tokens


def opened(prompt: Sequence[Piece]) -> bool:
    """Whether the template's own last words are the first mark, so that the answer begins with thoughts."""
    return bool(prompt) and prompt[-1].control and prompt[-1].text.rstrip().endswith(OPENS)


class Thoughts:
    """Takes the reasoning off an answer that comes in bits. `text` is what was thought so far."""

    def __init__(self, opened: bool) -> None:
        self._opened = opened
        self._begun = self._inside = self._answers = False
        self._held = ""
        self._thought: list[str] = []

    @property
    def text(self) -> str:
        """The reasoning, without the blanks around it."""
        return "".join(self._thought).strip()

    def after(self, bit: str) -> str:
        """What of the answer has come, not given out yet."""
        self._held += bit
        if not self._begun:
            self._begin()
        if self._inside:
            self._think()
        return self._answer() if self._begun and not self._inside else ""

    def rest(self) -> str:
        """What was held when the text ended: less than a mark. Thoughts that did not end are thoughts."""
        held, self._held = self._held, ""
        if self._inside or (self._opened and not self._begun):
            self._thought.append(held)
            return ""
        return held

    def message(self, text: str) -> dict[str, Any]:
        """The message in the wire form; `text` is all that was given out."""
        thought = {"reasoning_content": self.text} if self.text else {}
        return {"role": "assistant", "content": text, **thought}

    def _begin(self) -> None:
        start = self._held.lstrip()
        if start.startswith(OPENS):
            self._held = start[len(OPENS) :]
            self._begun = self._inside = True
        elif not OPENS.startswith(start):
            self._begun, self._inside = True, self._opened
            self._answers = not self._opened

    def _think(self) -> None:
        thought, closed, answer = self._held.partition(CLOSES)
        if closed:
            self._inside, self._held = False, answer
        else:
            tails = range(min(len(CLOSES) - 1, len(thought)), 0, -1)
            keep = next((n for n in tails if CLOSES.startswith(thought[-n:])), 0)
            self._held = thought[len(thought) - keep :]
            thought = thought[: len(thought) - keep]
        self._thought.append(thought)

    def _answer(self) -> str:
        """The blanks between the last mark and the answer belong to neither."""
        text = self._held if self._answers else self._held.lstrip()
        self._answers = self._answers or bool(text)
        self._held = ""
        return text
