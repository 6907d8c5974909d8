"""Build `shieldkit/text/data/folds.npz`: what each code point folds to.

    python training/build_folds.py CONFUSABLES_JSON

Sources: Unicode's compatibility decompositions and case folding (from Python's `unicodedata`), and the Unicode
confusables data (UTS #39) as the package `confusable-homoglyphs` carries it. Of the confusables only those that stand
for a Latin letter, a digit-free ASCII sign or a bracket are taken, and never one ASCII character for another.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parents[1] / "shieldkit" / "text" / "data" / "folds.npz"
SPACES = {0x00A0, 0x1680, 0x180E, 0x2028, 0x2029, 0x202F, 0x205F, 0x2800, 0x3000, 0x0085, *range(0x2000, 0x200B)}
BREAKS = {0x0B, 0x0C, *range(0x1C, 0x20)}
"""Controls that part words: tabs and page breaks, as in text out of PDF files, and separators."""
FILLERS = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, 0x180B, 0x180C, 0x180D, 0x180F}
# Signs that stand for the parts of control tokens and are no confusables of them in UTS #39.
EXTRA = {
    "｜": "|", "│": "|", "┃": "|", "∣": "|", "❘": "|", "❙": "|", "❚": "|", "￨": "|", "⎮": "|", "ǀ": "|", "▁": "_",
    "＿": "_", "⟨": "<", "〈": "<", "❮": "<", "❰": "<", "«": "<", "⟩": ">", "〉": ">", "❯": ">", "❱": ">",
    "»": ">", "⁄": "/", "∕": "/", "⟦": "[", "⟧": "]", "【": "[", "】": "]", "〔": "[", "〕": "]", "＃": "#", "﹟": "#",
    "❲": "[", "❳": "]", **dict.fromkeys("¦‖ǁ∥║⏐⎸⎹▏▕︱", "|"), **dict.fromkeys("《⟪≺⧼❬⦑≪⋖", "<"), **dict.fromkeys("》⟫≻⧽❭⦒≫⋗", ">"),
    # Not the dots of Indic and other scripts that UTS #39 has too: they are letters of words there.
    **dict.fromkeys("∶꞉˸ː⁚︰։׃", ":"),
    "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...",
}  # fmt: skip
# Letters that are styled and have no compatibility decomposition: negative circled, negative squared, regional indicators,
# and small capitals.
LETTERS = {chr(first + k): chr(97 + k) for first in (0x1F150, 0x1F170, 0x1F1E6) for k in range(26)} | dict(
    zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnopqrstuvwyz", strict=True)
)


def confusables(path: Path) -> dict[str, str]:
    """Look-alikes of one ASCII letter or sign, by character."""
    table: dict[str, str] = {}
    for char, alike in json.loads(path.read_text(encoding="utf-8")).items():
        if len(char) != 1 or ord(char) < 128:
            continue
        for other in alike:
            target = other["c"]
            if len(target) == 1 and (target.isascii() and (target.isalpha() or target in "<>|[]/_#!-")):
                # UTS #39 takes the capital I for an l.
                table.setdefault(char, "i" if target == "l" and char.isupper() else target)
    return table


def fold(char: str, alike: dict[str, str]) -> str:
    """One step."""
    point = ord(char)
    category = unicodedata.category(char)
    if point in BREAKS:
        return " "
    if point < 128:
        return "" if category == "Cc" and char not in "\t\n\r" else char.lower()
    if point in SPACES:
        return "\n" if point in (0x2028, 0x2029, 0x85) else " "
    if 0xE0020 <= point <= 0xE007E:  # tag characters are ASCII in disguise
        return chr(point - 0xE0000).lower()
    if point in FILLERS or category in ("Cf", "Cc") or 0xFE00 <= point <= 0xFE0F or 0xE0100 <= point <= 0xE01EF:
        return ""
    if 0x0300 <= point <= 0x036F or 0x1AB0 <= point <= 0x1AFF or 0x1DC0 <= point <= 0x1DFF or 0x20D0 <= point <= 0x20FF:
        return ""
    if 0xE0000 <= point <= 0xE0FFF:
        return ""
    if 0xAC00 <= point <= 0xD7A3:  # Hangul syllables stay whole
        return char
    if char in EXTRA:
        return EXTRA[char]
    if char in LETTERS:
        return LETTERS[char]
    decomposed = unicodedata.normalize("NFKD", char)
    if decomposed != char:
        return decomposed
    if char in alike:
        return alike[char].lower()
    return char.casefold() if char.casefold() != char else char


def main() -> None:
    """Fold every code point to its fixed point and write those that change."""
    alike = confusables(Path(sys.argv[1]))
    step = {chr(p): fold(chr(p), alike) for p in range(0x110000)}
    points, lengths, expansions = [], [], []
    for char in step:
        text, seen = char, 0
        while (after := "".join(step[c] for c in text)) != text and seen < 12:
            text, seen = after, seen + 1
        if text != char:
            points.append(ord(char))
            lengths.append(len(text))
            expansions += [ord(c) for c in text]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        OUT,
        points=np.array(points, np.uint32),
        lengths=np.array(lengths, np.uint8),
        expansions=np.array(expansions, np.uint32),
    )
    print(f"{len(points)} code points fold, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
