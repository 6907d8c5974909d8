"""False alarms on everyday text in many languages, and what is caught of attacks in the same.

    python benchmarks/languages.py [--json FILE]

The lines of `training/everyday.txt`, on which nothing was trained: 366 of the writers of training lines of these languages, and
598 of later ones, of whose lines what ships has seen none. Each goes through the default policy in its role. *Pages* are all
ordinary lines of a language that are not a user's, as one document: the longer a text, the more of it could raise an alarm.
Takes a minute.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from _shared import clock, machine, percent, save, table

from shieldkit import Segment, Shield

LINES = Path(__file__).parents[1] / "training" / "everyday.txt"
LEAST_PAGE = 500
"""Characters: of fewer, nothing is said."""
ROLES = {"u": "user", "d": "document", "t": "tool"}


def by_language(path: Path = LINES) -> dict[str, list[tuple[bool, str, str]]]:
    """By language: whether it is an attack, the role, the text."""
    found: dict[str, list[tuple[bool, str, str]]] = defaultdict(list)
    language = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# lang "):
            language = line.split()[2]
        elif line[:1] in ("A", "B"):
            found[language].append((line[0] == "A", ROLES[line[2]], line[4:].replace("\\n", "\n")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    with Shield("builtin:default") as shield:
        for language, rows in by_language().items():
            refused = {attack: [not shield.screen(Segment(text, role)).allowed for a, role, text in rows if a is attack]
                       for attack in (False, True)}  # fmt: skip
            page = "\n".join(text for attack, role, text in rows if not attack and role != "user")
            with clock() as took:
                screening = shield.screen(Segment(page or ".", "document"))
            result[language] = {
                "ordinary": len(refused[False]), "refused": sum(refused[False]), "attacks": len(refused[True]),
                "caught": sum(refused[True]), "page_chars": len(page), "page_refused": not screening.allowed,
                "page_ms_per_1000": 1e6 * took.cpu_s / max(len(page), 1),
            }  # fmt: skip
    total = {key: sum(row[key] for row in result.values()) for key in ("ordinary", "refused", "attacks", "caught")}
    print(machine())
    table(
        ("language", "ordinary refused", "attacks caught", "page", "CPU, a thousand characters"),
        [(language, f"{r['refused']} of {r['ordinary']}", f"{r['caught']} of {r['attacks']}",
          *((f"{r['page_chars']:,}: {'refused' if r['page_refused'] else 'passed'}", f"{r['page_ms_per_1000']:.0f} ms")
            if r["page_chars"] >= LEAST_PAGE else ("–", "–")))
         for language, r in result.items()],
    )  # fmt: skip
    print(f"all: ordinary {percent(total['refused'], total['ordinary'])}, "
          f"attacks {percent(total['caught'], total['attacks'])}")  # fmt: skip
    save({"languages": result, "all": total}, options.json)


if __name__ == "__main__":
    main()
