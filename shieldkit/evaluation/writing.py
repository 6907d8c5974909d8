"""A report as files: `report.json`, `outcomes.csv`, `heatmap.html`, and `heatmap.png` where matplotlib is installed."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

from shieldkit.errors import ConfigurationError
from shieldkit.evaluation.heatmap import html, png
from shieldkit.evaluation.report import Report

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(report: Report, folder: str | Path) -> tuple[list[Path], str]:
    """Write the files into `folder`, which is made, over those of an earlier run.

    Returns the files, and why there is no PNG (empty when there is one; an earlier run's does not stay). No text of a case
    is written unless the outcomes hold it. Raises `ConfigurationError` where the folder cannot be written.
    """
    folder = make_folder(folder)
    picture = folder / "heatmap.png"
    try:
        made = [folder / "report.json", folder / "outcomes.csv", folder / "heatmap.html"]
        made[0].write_text(json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n", encoding="ascii")
        _csv(report, made[1])
        made[2].write_text(html(report), encoding="utf-8")
        picture.unlink(missing_ok=True)
        try:
            png(report, picture)
        except ConfigurationError as error:
            picture.unlink(missing_ok=True)  # as far as it got
            return made, str(error)
        return [*made, picture], ""
    except OSError as error:
        raise _unwritable(error) from None


def make_folder(folder: str | Path) -> Path:
    """Make the folder, and try it: what a long run has measured should not be lost in the end.

    Raises `ConfigurationError` where it cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> ConfigurationError:
    mend = "Name a folder that can be written"
    return ConfigurationError("out", f"cannot be written ({error.strerror})", mend=mend)


def _csv(report: Report, path: Path) -> None:
    rows = [o.to_dict() for o in report.outcomes]
    guards = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    with path.open("w", encoding="utf-8", newline="") as file:
        columns = list(dict.fromkeys(name for row in rows for name in row if name != "scores"))
        writer = csv.DictWriter(file, [*columns, *(f"score_{g}" for g in guards)])
        writer.writeheader()
        for row in rows:
            scores = {f"score_{guard}": score for guard, score in row.pop("scores").items()}
            writer.writerow({key: _cell(value) for key, value in (row | scores).items()})


def _cell(value: Any) -> Any:
    """Names come from corpora, and a spreadsheet would run what looks like a formula: it is quoted, as OWASP advises."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and value != "-" else value
