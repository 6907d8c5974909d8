"""Numbers on a command line. What is none, or out of range, is a usage error."""

from __future__ import annotations

import argparse


def positive(value: str) -> int:
    """A number above 0."""
    if not value.isdecimal() or not 1 <= int(value) <= 10**12:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return int(value)


def jobs(value: str) -> int:
    """How many things are done at a time."""
    if not value.isdecimal() or not 1 <= int(value) <= 64:
        raise argparse.ArgumentTypeError("must be 1 to 64")
    return int(value)
