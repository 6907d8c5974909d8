"""The command line, `shieldkit`: one module a command.

A command's module has `register(commands)`, which adds its parser, and a function that runs it and returns an exit
code. The parsers are built on every call, so these modules import nothing heavy at the top. Only `screen --jsonl`,
`--json` and what was asked for goes to standard output; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from shieldkit.cli import audit, demo, doctor, policy, screen, serve
from shieldkit.cli import eval as evaluation
from shieldkit.cli.exits import EPILOG, Exit

COMMANDS = (demo, screen, evaluation, policy, audit, serve, doctor)

_EXAMPLES = """\
examples:
  shieldkit demo                                   guard a real model on this machine
  shieldkit screen letter.txt page.html            what would the guards say?
  shieldkit screen --jsonl < rows.jsonl            a verdict a row, in order
  shieldkit eval rows corpus.jsonl                 how many attacks pass? (also: eval matrix)
  shieldkit policy check policy.yaml               is this policy valid?
  shieldkit audit deploy/                          what in a deployment undermines the shield?
  shieldkit serve --backend gguf:model.gguf        a guarded OpenAI-compatible endpoint
  shieldkit doctor                                 what is installed, and verified?

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. `argv` is without the program's name, and `sys.argv` by default."""
    parser = _parser()
    try:
        args = parser.parse_args(argv)
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else Exit.USAGE
    except KeyboardInterrupt:
        print("shieldkit: interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _hush()
        return Exit.PIPE
    except Exception as error:
        return _failed(error)


def script() -> NoReturn:
    """What the installed command runs.

    After an interruption guards may still be at work in their threads. To tear the interpreter down under the native
    code in them would abort the process, so it is left at once.
    """
    code = main()
    if code in (Exit.INTERRUPTED, Exit.PIPE):
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shieldkit",
        description="Policy-driven protection around calls to a language model, in your own process.",
        epilog=_EXAMPLES + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shieldkit {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    return parser


def _version() -> str:
    from shieldkit import __version__

    return __version__


def _failed(error: Exception) -> Exit:
    """Say what went wrong in one line. The text of an unexpected error may quote content, so only its type is told."""
    from shieldkit.errors import ConfigurationError, InvalidConversation, ShieldError

    if os.environ.get("SHIELDKIT_DEBUG"):
        traceback.print_exc()
    if isinstance(error, ConfigurationError | InvalidConversation):
        print(f"shieldkit: {error}", file=sys.stderr)
        return Exit.USAGE
    if isinstance(error, ShieldError):
        print(f"shieldkit: {type(error).__name__}: {error}", file=sys.stderr)
        return Exit.FAILED
    hint = "set SHIELDKIT_DEBUG=1 for the traceback"
    print(f"shieldkit: internal error ({type(error).__name__}); {hint}", file=sys.stderr)
    return Exit.FAILED


def _hush() -> None:
    """Let the interpreter flush standard output at its exit without a complaint: there is nobody to read it."""
    with contextlib.suppress(OSError, ValueError):  # standard output may not be a file, as under a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
