"""What people see: rich tables, made so that the text in them cannot drive the terminal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {"allow": "green", "flag": "yellow", "redact": "yellow", "block": "bold red"}


def console() -> Console:
    """A console on standard output. Without a terminal it is 110 columns wide and plain."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 110
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def safe(text: str) -> str:
    """`text` with all that is not printable written as an escape: names of files and rules may be hostile."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, action_column: int = -1) -> Table:
    """A table; the cells of `action_column` are coloured by the action they begin with."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False)
    for column in columns:
        made.add_column(
            column, justify="right" if column in ("score", "from", "flag from", "read") else "left", overflow="fold"
        )
    for row in rows:
        styles = [STYLES.get(cell.split(" ")[0], "") if i == action_column else "" for i, cell in enumerate(row)]
        made.add_row(*(Text(safe(cell), style=style) for cell, style in zip(row, styles, strict=True)))
    return made


def print_json(value: Any) -> None:
    """One JSON document, indented, ASCII only, so that no terminal and no encoding can be harmed."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=True)
    sys.stdout.write("\n")


def complain(message: str) -> None:
    """A line to standard error."""
    print(f"shieldkit: {safe(message)}", file=sys.stderr)


def subparser(commands: Any, name: str, summary: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A command's parser; its description and epilog keep their line breaks."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return made
