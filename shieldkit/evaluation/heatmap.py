"""Heat maps of a report: where a defence degrades, at a glance.

One grid of the shares by length and depth for each placement and disguise of a matrix; for a corpus, by kind and length.
Cases of one's own need not have these facets: what is missing is `-`. The HTML stands by itself: inline SVG, no script,
nothing from elsewhere, and a content policy that says so. The PNG needs matplotlib (the extra `eval`), and leaves out what
no picture has room for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from shieldkit.errors import ConfigurationError
from shieldkit.evaluation.cases import Outcome
from shieldkit.evaluation.matrix import ALONE, CLEAN
from shieldkit.evaluation.report import Group, Report
from shieldkit.evaluation.statistics import Rate
from shieldkit.text.folding import encodable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAD, _MIDDLE, _GOOD = (178, 24, 43), (247, 247, 247), (33, 102, 172)  # told apart with any kind of colour sight
_OF_A_MATRIX = {"length", "depth", "placement", "disguise"}
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_MOST_GRIDS, _MOST_ROWS, _MOST_COLUMNS = 160, 40, 30  # of the PNG; 160: all placements and disguises
_MOST_PIXELS, _MOST_SIDE_PIXELS = 60_000_000, 60_000  # a quarter of a gigabyte; matplotlib's own limit is 2**16 a side
_CELL_W, _CELL_H, _LEFT, _TOP = 78, 34, 190, 64
_STYLE = """body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}
svg{display:block;margin:1em 0;max-width:100%}svg text{font:13px system-ui,sans-serif}"""


@dataclass(frozen=True, slots=True)
class Grid:
    """Shares by row and column; None where nothing was measured. `good`: whether a high share is what one wants."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Rate | None, ...], ...]
    good: bool = True


def grids(report: Report) -> list[Grid]:
    """The heat maps of a report, the model's (`held`) beside the guards' (`caught`) where it was asked."""
    asked = any(o.obeyed is not None for o in report.outcomes)
    matrix = all(o.facets.keys() >= _OF_A_MATRIX for o in report.outcomes)
    found: list[Grid] = []
    for metric, good in (("caught", True), *((("held", True),) if asked else ()), ("false_alarms", False)):
        outcomes = [o for o in report.outcomes if o.attack == good]
        if not matrix:
            found.append(_grid(f"{_WORDS[metric]}: kind by characters", outcomes, "kind", "length", metric, good))
        elif good:
            found += _of_matrix(outcomes, metric)
        else:
            clean = [o for o in outcomes if o.facets["placement"] == CLEAN]
            found.append(_grid(_WORDS[metric], clean, "length", "placement", metric, good))
    return [g for g in found if g.rows]


_WORDS = {
    "caught": "Attacks caught by the guards",
    "held": "Attacks not obeyed by the model",
    "false_alarms": "False alarms",
}


def _of_matrix(outcomes: Sequence[Outcome], metric: str) -> list[Grid]:
    buried = [o for o in outcomes if o.facets["placement"] != ALONE]
    panels = dict.fromkeys((o.facets["placement"], o.facets["disguise"]) for o in buried)
    alone = [o for o in outcomes if o.facets["placement"] == ALONE]
    found = [_grid(f"{_WORDS[metric]}: alone, by disguise", alone, "disguise", "length", metric, True)]
    for placement, disguise in panels:
        chosen = [o for o in buried if (o.facets["placement"], o.facets["disguise"]) == (placement, disguise)]
        title = f"{_WORDS[metric]}: {placement}, {disguise}; tokens by depth"
        found.append(_grid(title, chosen, "length", "depth", metric, True))
    return found


def _grid(title: str, outcomes: Sequence[Outcome], row: str, column: str, metric: str, good: bool) -> Grid:
    members: dict[tuple[str, str], list[Outcome]] = {}
    for o in outcomes:
        members.setdefault((_label(o, row), _label(o, column)), []).append(o)
    rows, columns = (tuple(dict.fromkeys(key[i] for key in members)) for i in (0, 1))
    columns = tuple(sorted(columns, key=_numeric))
    rates = {key: getattr(Group.of("", found), metric) for key, found in members.items()}
    return Grid(title, rows, columns, tuple(tuple(rates.get((r, c)) for c in columns) for r in rows), good)


def _label(outcome: Outcome, facet: str) -> str:
    return encodable(outcome.facets.get(facet, "-"))


def _numeric(label: str) -> tuple[int, float, str]:
    """Depths and lengths in the order of their numbers, other labels before them."""
    found = _NUMBER.search(label)
    return (label.startswith("over"), float(found[0].replace(",", "")) if found is not None else -1.0, label)


# -- HTML --------------------------------------------------------------------------------------------------------------


def html(report: Report, title: str = "shieldkit eval") -> str:
    """The report as one self-contained page: a summary and the heat maps. Names from corpora are escaped."""
    total = report.total
    rows = [("cases", f"{len(report.outcomes):,}" + ("" if report.complete else f" of {report.planned:,} (stopped)")),
            ("caught", str(total.caught)), ("false alarms", str(total.false_alarms))]  # fmt: skip
    if total.held.total:
        rows.append(("held by guards and model", str(total.held)))
    if total.failed.count:
        rows.append(("not judged", str(total.failed)))
    rows += [(str(key), str(value)) for key, value in report.subject.items() if isinstance(value, str)]
    table = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    pictures = "".join(map(_svg, grids(report)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1><table>{table}</table>"
        f"<p>In each cell: the share, and the 95 % interval (Wilson) on hovering over it.</p>{pictures}</body></html>\n"
    )


def _svg(grid: Grid) -> str:
    width, height = _LEFT + _CELL_W * len(grid.columns) + 10, _TOP + _CELL_H * len(grid.rows) + 10
    parts = [f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
             f"<title>{escape(grid.title)}</title>"
             f'<text x="0" y="20" style="font-weight:bold">{escape(grid.title)}</text>']  # fmt: skip
    for c, label in enumerate(grid.columns):
        x = _LEFT + _CELL_W * (c + 0.5)
        parts.append(f'<text x="{x}" y="{_TOP - 8}" text-anchor="middle">{escape(_short(label, 11))}</text>')
    for r, label in enumerate(grid.rows):
        y = _TOP + _CELL_H * r
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 22}" text-anchor="end">{escape(_short(label, 26))}</text>')
        for c, rate in enumerate(grid.cells[r]):
            parts.append(_svg_cell(rate, _LEFT + _CELL_W * c, y, grid.good, f"{label}, {grid.columns[c]}"))
    return "".join([*parts, "</svg>"])


def _svg_cell(rate: Rate | None, x: int, y: int, good: bool, name: str) -> str:
    if rate is None or not rate.total:
        return ""
    red, green, blue = _colour(rate.share if good else 1 - rate.share)
    ink = "#222" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "#fff"
    return (
        f"<g><title>{escape(f'{name}: {rate}')}</title>"
        f'<rect x="{x}" y="{y}" width="{_CELL_W - 2}" height="{_CELL_H - 2}" fill="#{red:02x}{green:02x}{blue:02x}"/>'
        f'<text x="{x + _CELL_W / 2 - 1}" y="{y + 21}" text-anchor="middle" fill="{ink}">{rate.share:.0%}</text></g>'
    )


def _short(label: str, most: int) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def _colour(share: float) -> tuple[int, int, int]:
    low, high, t = (_BAD, _MIDDLE, share * 2) if share < 0.5 else (_MIDDLE, _GOOD, share * 2 - 1)
    red, green, blue = (round(a + (b - a) * t) for a, b in zip(low, high, strict=True))
    return red, green, blue


# -- PNG ---------------------------------------------------------------------------------------------------------------


def png(report: Report, path: Path) -> None:
    """The heat maps as one picture. Raises `ConfigurationError` without matplotlib, and where they are too large for one."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        mend = "pip install 'shieldkit[eval]'"
        raise ConfigurationError("heatmap.png", "matplotlib is not installed", mend=mend) from None
    every = grids(report)
    found = every[:_MOST_GRIDS]
    across = max(1, math.ceil(math.sqrt(len(found) / 4)))
    down = max(1, math.ceil(len(found) / across))
    width = across * (3.0 + 0.7 * min(_MOST_COLUMNS, max((len(g.columns) for g in found), default=1)))
    height = down * (1.2 + 0.35 * min(_MOST_ROWS, max((len(g.rows) for g in found), default=1)))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flat
    for grid, axis in zip_longest(found, axes):
        _draw(grid, axis) if grid is not None else axis.axis("off")
    if len(every) > len(found):
        figure.supxlabel(_beyond(f"{len(every) - len(found):,} heat maps"), fontsize=8)
    dpi = min(150.0, math.sqrt(_MOST_PIXELS / (width * height)), _MOST_SIDE_PIXELS / max(width, height))
    try:
        figure.savefig(path, dpi=dpi, metadata={"Software": "shieldkit"})
    except (ValueError, MemoryError):
        raise ConfigurationError("heatmap.png", "is too large for a picture", mend="See heatmap.html") from None


def _beyond(what: str) -> str:
    return f"… and {what} more: see the HTML"


def _draw(whole: Grid, axis: Axes) -> None:
    """One grid, as far as there is room. No label is read as a formula: `parse_math` is off."""
    grid = replace(
        whole, rows=whole.rows[:_MOST_ROWS], columns=whole.columns[:_MOST_COLUMNS],
        cells=tuple(row[:_MOST_COLUMNS] for row in whole.cells[:_MOST_ROWS]),
    )  # fmt: skip
    beyond = [f"{n:,} {name}" for n, name in ((len(whole.rows) - _MOST_ROWS, "rows"),
                                              (len(whole.columns) - _MOST_COLUMNS, "columns")) if n > 0]  # fmt: skip
    if beyond:
        axis.set_xlabel(_beyond(" and ".join(beyond)), fontsize=7)
    axis.imshow([[_cell_colour(rate, grid.good) for rate in row] for row in grid.cells], aspect="auto")
    axis.set_title(grid.title, fontsize=8, loc="left", parse_math=False)
    axis.set_xticks(range(len(grid.columns)), [_short(c, 11) for c in grid.columns], fontsize=7, parse_math=False)
    axis.set_yticks(range(len(grid.rows)), [_short(r, 26) for r in grid.rows], fontsize=7, parse_math=False)
    for r, row in enumerate(grid.cells):
        for c, rate in enumerate(row):
            if rate is not None and rate.total:
                ink = "white" if sum(_cell_colour(rate, grid.good)) < 380 else "black"
                axis.text(c, r, f"{rate.share:.0%}", ha="center", va="center", fontsize=7, color=ink)


def _cell_colour(rate: Rate | None, good: bool) -> tuple[int, int, int]:
    if rate is None or not rate.total:
        return (255, 255, 255)
    return _colour(rate.share if good else 1 - rate.share)
