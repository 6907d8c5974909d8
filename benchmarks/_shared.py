"""What the benchmarks share: where the corpora are, fixed samples of them, clocks, and tables to paste."""

from __future__ import annotations

import gzip
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CHARS_A_TOKEN = 4.5
SEED = 7


def corpora() -> Path:
    """The development corpora: `SHIELDKIT_CORPORA`, or `shared/corpora` beside the project. Leaves when they are absent."""
    named = os.environ.get("SHIELDKIT_CORPORA")
    for folder in [Path(named)] if named else [p / "shared" / "corpora" for p in ROOT.parents]:
        if folder.is_dir():
            return folder
    print("skipped: the development corpora are not here (SHIELDKIT_CORPORA=FOLDER names them)")
    sys.exit(0)


def rows(*kinds: str) -> list[dict[str, Any]]:
    """All rows of these files of the corpora, in order."""
    found = []
    for kind in kinds:
        with gzip.open(corpora() / "dev" / f"{kind}.jsonl.gz", "rt", encoding="utf-8") as lines:
            found += [json.loads(line) for line in lines]
    return found


def drawn(items: Sequence[Any], size: int, seed: int = SEED) -> list[Any]:
    """`size` of the items, or all where there are fewer; the same ones every time."""
    return random.Random(seed).sample(list(items), min(size, len(items)))


def haystacks() -> dict[str, str]:
    """The long texts, by name."""
    found = {}
    for path in sorted((corpora() / "haystack").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found[path.name.split(".")[0]] = file.read()
    return found


@dataclass
class Clock:
    """Wall and CPU seconds (of all threads) of a `with` block."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def clock() -> Iterator[Clock]:
    """Time a block."""
    made = Clock()
    wall, cpu = time.perf_counter(), time.process_time()
    yield made
    made.wall_s, made.cpu_s = time.perf_counter() - wall, time.process_time() - cpu


def table(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Print markdown; the first column is text, the others are numbers."""
    print("\n| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for line in lines:
        print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |")
    print()


def machine() -> str:
    """What the figures are of."""
    load = f"; load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}{load}"


def percent(count: int, total: int) -> str:
    """A share with its 95 % interval."""
    from shieldkit.evaluation import Rate

    rate = Rate.of(count, total)
    return f"{rate.share:.1%} ({rate.low:.1%} to {rate.high:.1%})" if total else "-"


def save(result: Mapping[str, Any], path: Path | None) -> None:
    """Write the figures as JSON, where that was asked for."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
