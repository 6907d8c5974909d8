"""`shieldkit screen`: what would the guards say of this text? No model is called."""

from __future__ import annotations

import argparse
import bisect
import codecs
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from shieldkit.cli.arguments import jobs, positive
from shieldkit.cli.exits import EPILOG, Exit

if TYPE_CHECKING:
    from shieldkit.cli.rows import Row
    from shieldkit.conversation import Segment
    from shieldkit.outcome import Screening
    from shieldkit.policy import Policy
    from shieldkit.shield import Shield

_TEXT = "--text"
_ROLES = ("user", "document", "tool", "assistant", "system")

_DESCRIPTION = """\
Screen text by a policy, without a model.

FILE...   prints a table for people (--json: one JSON array); '-' is standard input.
          `action` is what the policy does about a finding by itself, and `from` the score from which it does.
--text    screens the text that follows, as if it were a file's.
--jsonl   reads {"id", "text", "role"?} a line on standard input, and writes a line for each, in order:
          {"id", "action": "allow|flag|redact|block", "score": 0..1,
           "findings": [{"guard", "rule", "score", "start", "end"}]}
          `score` is the injection detector's; `start` and `end` count characters of the text.
          A line that is no row, or cannot be judged, gives {"id", "line", "error"}, and has no verdict.
"""

_EXAMPLES = """\
examples:
  shieldkit screen --role document page.txt
  echo 'Hello!' | shieldkit screen -
  shieldkit screen --text 'Hello!'
  shieldkit screen --jsonl --policy policy.yaml < rows.jsonl > verdicts.jsonl

With --jsonl the verdicts are in the rows, so a blocked row does not change the exit code
unless you say --fail-on block.

"""


def register(commands: Any) -> None:
    """Add the parser of `screen`."""
    from shieldkit.cli.console import subparser

    parser = subparser(commands, "screen", "screen text without calling a model", _DESCRIPTION, _EXAMPLES + EPILOG)
    parser.add_argument("files", nargs="*", metavar="FILE", help="UTF-8 text; '-' is standard input")
    parser.add_argument("--text", metavar="TEXT", help="screen this text, beside the files")
    parser.add_argument("--jsonl", action="store_true", help="rows from standard input, verdicts to standard output")
    parser.add_argument("--json", action="store_true", help="one JSON array for the files, instead of a table")
    parser.add_argument(
        "--policy", default="builtin:default", metavar="SOURCE", help="a YAML file, or builtin:NAME (%(default)s)"
    )
    parser.add_argument("--tenant", help="judge by this tenant's part of the policy")
    parser.add_argument("--stage", choices=("input", "output"), default="input", help="judge as input, or as an answer")
    parser.add_argument(
        "--role", choices=_ROLES, help="whose text it is, where a row does not say (user; at --stage output: assistant)"
    )
    parser.add_argument(
        "--fail-on", choices=("block", "flag", "never"), help="what makes the exit code 1 (block; with --jsonl: never)"
    )
    parser.add_argument("--jobs", type=jobs, default=min(4, os.cpu_count() or 1), help="rows judged at a time (1-64)")
    parser.add_argument(
        "--max-bytes", type=positive, default=256 * 2**20, metavar="N", help="largest file that is read (256 MiB)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Screen rows or files; see `_DESCRIPTION`."""
    from shieldkit.cli.console import complain

    if problem := _misuse(args):
        complain(problem)
        return Exit.USAGE
    args.role = args.role or ("assistant" if args.stage == "output" else "user")
    args.fail_on = args.fail_on or ("never" if args.jsonl else "block")
    from shieldkit.cli.policy import check_tenant
    from shieldkit.policy import Policy
    from shieldkit.shield import Shield

    policy = Policy.load(args.policy)
    check_tenant(policy, args.tenant)
    with Shield(policy) as shield:
        return _rows(shield, args) if args.jsonl else _files(shield, args)


def _misuse(args: argparse.Namespace) -> str:
    """What is wrong with the arguments taken together; empty when nothing is."""
    if args.jsonl and (args.files or args.text is not None):
        return "--jsonl reads standard input; give either --jsonl or files and --text"
    if not args.jsonl and not args.files and args.text is None:
        return "nothing to screen: name files, or '-' for standard input, or say --text or --jsonl"
    if args.files.count("-") > 1:
        return "'-' is named twice, and standard input can be read once"
    return ""


class _Tally:
    """The exit code of a run, one verdict at a time. What could not be read outranks what was blocked."""

    def __init__(self, fail_on: str) -> None:
        self._failing = {"block": ("block",), "flag": ("flag", "redact", "block"), "never": ()}[fail_on]
        self.code = Exit.OK

    def add(self, action: str | None) -> None:
        if action is None:
            self.code = Exit.UNREAD
        elif action in self._failing and self.code is Exit.OK:
            self.code = Exit.BLOCKED


def _screen(shield: Shield, segment: Segment, args: argparse.Namespace) -> Screening:
    return shield.screen(segment, stage=args.stage, tenant=args.tenant)


# -- rows ------------------------------------------------------------------------------------------------------------


def _rows(shield: Shield, args: argparse.Namespace) -> Exit:
    from shieldkit.cli.rows import judged
    from shieldkit.conversation import Role, Segment

    def judge(row: Row) -> dict[str, Any]:
        screening = _screen(shield, Segment(row.text, row.role), args)
        return {"action": screening.action.value, "score": round(screening.score, 6), "findings": _findings(screening)}

    tally = _Tally(args.fail_on)
    write, flush = sys.stdout.write, sys.stdout.flush
    for verdict in judged(_standard_input(), judge, default_role=Role(args.role), jobs=args.jobs):
        tally.add(verdict.get("action"))
        write(json.dumps(verdict, ensure_ascii=True) + "\n")
        flush()
    return tally.code


def _findings(screening: Screening) -> list[dict[str, Any]]:
    return [
        {"guard": f.guard, "rule": f.rule, "score": round(f.score, 6), "start": f.start, "end": f.end}
        for f in screening.findings
    ]


def _standard_input() -> BinaryIO:
    """Standard input without a buffer, so that a line is seen when it comes, and a waiting read holds no lock."""
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    except (OSError, ValueError):  # not a file, as under a test
        return sys.stdin.buffer


# -- files -----------------------------------------------------------------------------------------------------------


class _UnreadError(Exception):
    """A file that cannot be read as text; the message does not quote it."""


def _read(name: str, limit_bytes: int) -> str:
    """The text of a file. Nothing is replaced or dropped: a file that is not UTF-8 has not been read."""
    try:
        if name == "-":
            content = sys.stdin.buffer.read(limit_bytes + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(limit_bytes + 1)
    except IsADirectoryError as error:
        raise _UnreadError(f"{error.strerror}; name the files in it, such as {Path(name) / '*'}") from None
    except OSError as error:
        raise _UnreadError(error.strerror or type(error).__name__) from None
    if len(content) > limit_bytes:
        raise _UnreadError(f"larger than {limit_bytes} bytes; see --max-bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        other = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        hint = ", but UTF-16 or UTF-32 by its first bytes: save it as UTF-8" if other else ""
        raise _UnreadError(f"not UTF-8 text{hint}") from None


def _files(shield: Shield, args: argparse.Namespace) -> Exit:
    from shieldkit.cli.console import complain, print_json

    tally, results = _Tally(args.fail_on), []
    for result in _screened(shield, args):
        tally.add(result.get("action"))
        if args.json:
            results.append(result)
        else:
            _show(result)
    if args.json:
        print_json(results)
    if any(" " in name and not os.path.lexists(name) for name in args.files):
        complain("to screen text itself: shieldkit screen --text '…', or echo '…' | shieldkit screen -")
    return tally.code


def _screened(shield: Shield, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from shieldkit.conversation import Role, Segment

    for name in [*args.files, *([_TEXT] if args.text is not None else [])]:
        try:
            text = args.text if name is _TEXT else _read(name, args.max_bytes)
        except _UnreadError as problem:
            yield {"file": name, "error": str(problem)}
            continue
        segment = Segment(text, Role(args.role), origin=name)
        screening = _screen(shield, segment, args)
        policy = shield.policy.for_tenant(args.tenant)
        yield {"file": name, **screening.to_dict(), "findings": _placed(screening, segment, policy)}


def _placed(screening: Screening, segment: Segment, policy: Policy) -> list[dict[str, Any]]:
    """The findings, each with the line and column (from 1) where it starts, and what the policy makes of it by itself."""
    from shieldkit.policy.decision import action_of
    from shieldkit.policy.model import GuardSettings

    starts = [0, *(i + 1 for i, c in enumerate(segment.text) if c == "\n")] if screening.findings else []
    sections, placed = policy.sections(), []
    for f in screening.findings:
        line = bisect.bisect_right(starts, f.start)
        settings = sections.get(f.guard) or GuardSettings()
        placed.append({
            **f.to_dict(), "line": line, "column": f.start - starts[line - 1] + 1,
            "action": action_of(f, settings, segment).value, "threshold": settings.threshold_for(f.rule, segment.role),
        })  # fmt: skip
    return placed


def _show(result: dict[str, Any]) -> None:
    from shieldkit.cli.console import STYLES, complain, console, safe, table

    screen = console()
    if "error" in result:
        complain(f"{result['file']}: not read: {result['error']}")
        return
    screen.print(f"{safe(result['file'])}: {result['action']}", style=STYLES[result["action"]])
    for v in result["verdicts"]:
        if v["status"] != "ran" or v["coverage"] < 1:
            screen.print(
                f"  {v['guard']}: {v['status']}, read {v['coverage']:.0%}: {safe(v['reason'])}", style="yellow"
            )
    rows = [
        (f"{f['line']}:{f['column']}", f"{f['start']}-{f['end']}", f"{f['guard']}.{f['rule']}", f"{f['score']:.2f}",
         f"{f['threshold']:.2f}", "–" if f["action"] == "allow" else f["action"], f["message"])
        for f in result["findings"]
    ]  # fmt: skip
    if rows:
        screen.print(
            table("", ("line", "characters", "rule", "score", "from", "action", "what"), rows, action_column=5)
        )
