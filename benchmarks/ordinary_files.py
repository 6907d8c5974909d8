"""Real files of many kinds, whole: how many the default policy refuses, which guard, and what it takes.

    python benchmarks/ordinary_files.py [FOLDER …] [--each N] [--json FILE]

Without a folder the files are those of the packages that are installed beside shieldkit: pages, style sheets, scripts, data,
documentation and code. Of each kind (by the end of the name) up to N files of 1 to 300 kB, chosen by chance, each as a document.
No file is the detector's training data by its name, but some of these packages' text may be. Takes some three minutes.
"""

from __future__ import annotations

import argparse
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _shared import SEED, clock, machine, percent, save, table
from million_tokens import timeless

from shieldkit import Segment, Shield
from shieldkit.injection import load

KINDS = tuple(
    "html css js map json xml svg yaml yml toml md rst txt csv py pyi h c pem ipynb po jinja ini cfg sh".split()
)
LEAST, MOST = 1_000, 300_000


def found(folders: list[Path], each: int) -> Iterator[tuple[str, Path]]:
    """Kind and path, up to `each` of a kind."""
    by_kind: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            kind = path.suffix.removeprefix(".").lower()
            if (
                kind in KINDS
                and "shieldkit" not in path.parts
                and path.is_file()
                and LEAST <= path.stat().st_size <= MOST
            ):
                by_kind.setdefault(kind, []).append(path)
    rng = random.Random(SEED)
    for kind in KINDS:
        paths = by_kind.get(kind, [])
        yield from ((kind, path) for path in rng.sample(paths, min(each, len(paths))))


def measure(shield: Shield, files: list[tuple[str, Path]]) -> dict[str, dict[str, Any]]:
    """By kind: files, characters, CPU, and how many were refused, by rule."""
    result: dict[str, dict[str, Any]] = {}
    for kind, path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        load()._views.forget()
        with clock() as took:
            screening = shield.screen(Segment(text, "document"))
        row = result.setdefault(kind, {"files": 0, "characters": 0, "cpu_s": 0.0, "refused": {}})
        row["files"] += 1
        row["characters"] += len(text)
        row["cpu_s"] += took.cpu_s
        if screening.refusal is not None:
            rule = screening.refusal.rule
            row["refused"][rule] = row["refused"].get(rule, 0) + 1
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--each", type=int, default=40, metavar="N", help="files of a kind (%(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folders = options.folders or [Path(sysconfig.get_paths()["purelib"])]
    with timeless() as shield:
        result = measure(shield, list(found(folders, options.each)))
    print(f"{machine()}; up to {options.each} files of a kind, seed {SEED}\n")
    lines = []
    for kind, row in (*result.items(), ("all", _sum(result))):
        refused = sum(row["refused"].values())
        rules = ", ".join(f"{rule} {count}" for rule, count in sorted(row["refused"].items())) or "–"
        lines.append((kind, row["files"], f"{row['characters'] / 1e6:.2f} M", percent(refused, row["files"]), rules,
                      f"{1e6 * row['cpu_s'] / row['characters']:.1f} s"))  # fmt: skip
    table(("kind", "files", "characters", "refused", "by", "CPU, a million characters"), lines)
    save({"machine": machine(), "kinds": result}, options.json)


def _sum(result: dict[str, dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {"files": 0, "characters": 0, "cpu_s": 0.0, "refused": {}}
    for row in result.values():
        for key in ("files", "characters", "cpu_s"):
            total[key] += row[key]
        for rule, count in row["refused"].items():
            total["refused"][rule] = total["refused"].get(rule, 0) + count
    return total


if __name__ == "__main__":
    main()
