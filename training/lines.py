"""Lines written for this project, with language models: attacks and ordinary texts of every kind, in forty languages.

`training/lines/*.txt` holds one example a line: `A` attack or `B` ordinary; `u` said by a user, `d` in a document, `t` in a
tool's result; the text, with newlines as `\\n`. `# lang xx` names the language of what follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.sources import Example

FOLDER = Path(__file__).parent / "lines"
_ROLES = {"u": "user", "d": "document", "t": "tool"}


def lines() -> Iterator[Example]:
    """All of them."""
    for path in sorted(FOLDER.glob("*.txt")):
        language = "en"
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.startswith("# lang "):
                language = line.split()[2]
            if line[:1] not in ("A", "B") or line[2:3] not in _ROLES or line[1] != " " or line[3:4] != " ":
                continue
            text, attack, role = line[4:].replace("\\n", "\n").strip(), line[0] == "A", _ROLES[line[2]]
            direct: int | None = int(attack)
            data: int | None = int(attack)
            if role != "user" and attack:
                direct = None
            if role == "user" and not attack:
                data = None
            kind = ("" if attack else "benign_") + ("multilingual" if language != "en" else
                    "direct_injection" if attack and role == "user" else "indirect_injection" if attack else
                    "chat" if role == "user" else "document")  # fmt: skip
            if text:
                yield Example(text, direct, data, f"lines-{path.stem}", kind, 3.0, role)
