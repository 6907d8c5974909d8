"""Build `shieldkit/markers/data/catalogue.json`: the control tokens and template markers of model families.

    python training/build_markers.py SPECIAL_TOKENS_JSON

The input is a list of facts, one for each token of each family, with the file that each was read from. Tokens that
several families share become one entry. Some say nothing by themselves, whatever their family makes of them: a header that
letters and forms have too (`User:`) is judged by what stands around it, and anybody writes `<repo_name>` for a name to fill in.
To a model whose token it is it stays one: `inert` are all that the facts do not call ambiguous.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "shieldkit" / "markers" / "data" / "catalogue.json"
_ORDINARY = (
    r"\s*(?:### )?(?:System|User|Human|Assistant|Пользователь|Ассистент):\s*", r"<[se]op>", r">>[A-Z]+<<",
    r"\[(?:CALL_ID|TRANSCRIBE)\]", r"<invoke name=",
)  # fmt: skip
"""Tokens that ordinary text has as well."""


def main() -> None:
    """Group by token and write."""
    entries: dict[tuple[str, str], dict[str, object]] = {}
    for row in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        key = (row["token"], row["kind"])
        entry = entries.setdefault(
            key,
            {
                "token": row["token"],
                "kind": row["kind"],
                "role": row["role"],
                "ambiguous": False,
                "inert": True,
                "families": [],
            },
        )
        entry["inert"] = bool(entry["inert"] and not row.get("ambiguous"))
        entry["ambiguous"] = not entry["inert"] or _is_ordinary(row["token"], row["role"])
        entry["families"].append({"family": row["family"], "source": row["source"]})  # type: ignore[attr-defined]
    rows = sorted(entries.values(), key=lambda e: str(e["token"]))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(rows)} tokens, {OUT.stat().st_size} bytes")


def _is_ordinary(token: str, role: str) -> bool:
    if role == "code_meta" and re.fullmatch("<[a-z_]+>", token):
        return True
    return any(re.fullmatch(pattern, token) for pattern in _ORDINARY)


if __name__ == "__main__":
    main()
