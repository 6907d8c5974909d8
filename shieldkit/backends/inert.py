"""Text that can never become a control token, for tokenizers that cannot be told to leave them alone.

Hugging Face tokenizers, and so vLLM, TGI and SGLang, turn the spelling of a control token into the token wherever it
stands, whatever `add_special_tokens` says (that is about the ends of a prompt). So text is cut inside every spelling: the
parts, tokenized apart, hold none. Where only text can be sent, a blank is put at the cut.

Cut is at what is known (the catalogue, and the server's own tokens) and at what has the shape of a control token; or at
the model's own tokens alone, where their list is whole.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import re2

from shieldkit.errors import BackendError
from shieldkit.markers.catalogue import catalogue

# The shapes of control tokens that nobody has listed: cheap to cut, and rare in ordinary text.
_SHAPES = (
    r"<[|｜][^<>\n]{1,64}[|｜]>", r"\[/?[A-Z_]{4,32}\]", r"<</?[A-Z]{2,16}>>", r"<(?:unused|extra_id_|reserved)_?\d+>",
    r"</?(?:start|end|begin)_of_\w{1,32}>",
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def known() -> frozenset[str]:
    """The control tokens of the catalogue, but for those that are mostly ordinary text."""
    return frozenset(t.text.strip() for t in catalogue() if not t.regex and t.inert and len(t.text.strip()) > 1)


class Inert:
    """Cuts text inside control tokens: the model's own, and, unless their list is `whole`, all that look like one."""

    def __init__(self, tokens: Iterable[str] = (), *, whole: bool = False) -> None:
        own = {t for t in tokens if t.strip()}
        lonely = [t for t in own if len(t) == 1]
        if lonely:
            raise BackendError("a control token of one character cannot be taken apart")
        words = sorted(own if whole else {*own, *known()}, key=len, reverse=True)
        options = re2.Options()
        options.max_mem = 64 << 20
        self._pattern: Any = re2.compile(
            "|".join([*(re2.escape(w) for w in words), *(() if whole and words else _SHAPES)]), options
        )

    def parts(self, text: str) -> list[str]:
        """`text` in parts that together are it, none of which holds a control token."""
        done: list[str] = []
        waiting = [text]
        while waiting:
            part = waiting.pop()
            cuts = [match.start() + 1 for match in self._pattern.finditer(part)]
            if not cuts:
                done.append(part)
                continue
            # What is left of a token may, with what follows it, be another one: each piece is looked at again.
            ends = [0, *cuts, len(part)]
            waiting += reversed([part[a:b] for a, b in pairwise(ends)])
        return done

    def neutralised(self, text: str) -> str:
        """`text` with a blank inside each control token."""
        parts = self.parts(text)
        return " ".join(parts) if len(parts) > 1 else text
