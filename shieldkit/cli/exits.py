"""Exit codes of the command line. They are part of the public surface: documented, tested, and kept."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """What a command says to the program that called it."""

    OK = 0
    """Done; nothing was blocked."""
    BLOCKED = 1
    """Done, and the answer is no: something was blocked, or a check failed."""
    USAGE = 2
    """Wrong arguments, or a policy, model or file of the configuration that cannot work."""
    UNREAD = 3
    """A row or a file could not be read or judged; it has no verdict."""
    FAILED = 4
    """The model or a guard failed while the command ran."""
    INTERRUPTED = 130
    """Ctrl-C."""
    PIPE = 141
    """Whoever read the output has gone away."""


EPILOG = """\
exit codes:
  0    done; nothing was blocked
  1    done; something was blocked, or a check failed
  2    wrong arguments, or a configuration that cannot work
  3    a row or a file could not be read or judged; it has no verdict
  4    the model or a guard failed while the command ran
  130  interrupted
  141  the reader of the output has gone away
"""
