"""`shieldkit eval`: how many attacks do the guards, or the model behind them, let through, and where?"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shieldkit.cli import models
from shieldkit.cli.arguments import jobs, positive
from shieldkit.cli.exits import EPILOG, Exit

if TYPE_CHECKING:
    from shieldkit.evaluation import Case, Gate, Outcome, Report
    from shieldkit.shield import Shield

_ROLES = ("user", "document", "tool", "assistant", "system")

_ABOUT = """\
Measure your defences: the guards of a policy, one guard, or the model behind them.

  rows     a corpus of labelled texts: how many attacks are caught, how often is ordinary text refused?
  matrix   attacks buried in your own long text: at which depth, length, place and disguise do they pass?

`shieldkit eval rows --help` and `shieldkit eval matrix --help` say how.
"""

_ROWS = """\
Judge every row of a corpus, and print rates with 95 % intervals (Wilson), by kind, source and role.

FILE is JSON Lines, plain or .gz, or a folder of such files. A line is
  {"id": "r1", "text": "...", "label": "attack" or "benign", "kind": "...", "source": "...", "role": "document"}
`role` (user, document, tool, assistant, system) may be left out. All lines are checked before any is judged; what can
be read only once, such as a pipe, is held in memory for that.
"""

_ROWS_EXAMPLES = """\
examples:
  shieldkit eval rows attacks.jsonl benign.jsonl.gz
  shieldkit eval rows corpora/ --policy policy.yaml --out results
  shieldkit eval rows corpora/ --guard injection --limit 1000
  make-rows | shieldkit eval rows /dev/stdin
  shieldkit eval rows corpora/ --fail-under caught=0.9 --fail-over false_alarms=0.01
  shieldkit eval rows canaries.jsonl --policy builtin:monitor --backend gguf:model.gguf

With --backend the model is asked too. A row with a `marker`, a word that only an answer which obeyed the attack holds,
then also says whether the model obeyed. In a policy of mode `monitor` the guards are measured and stop nothing, so the
model is asked about every row.

"""

_MATRIX = """\
Bury attacks in long text of your own, and print how many are caught at every length, depth, place and disguise.

HAYSTACK is ordinary text (UTF-8, plain or .gz), or a folder of such files: the kind that your application reads.
Each attack is also judged alone, and each haystack without an attack: what is found there is a false alarm. A finding
counts only where the attack stands.
"""

_MATRIX_EXAMPLES = """\
examples:
  shieldkit eval matrix handbook.txt
  shieldkit eval matrix docs/ --lengths 1k,100k,1M --depths 0,50,100 --out results
  shieldkit eval matrix docs/ --placements all --disguises all --lengths 10k
  shieldkit eval matrix docs/ --attacks mine.jsonl --guard injection --fail-under caught=0.95
  shieldkit eval matrix docs/ --policy builtin:monitor --backend gguf:model.gguf --lengths 1k

--attacks is a text file with an attack a line, or a corpus (its attack rows). Where {marker} stands in an attack, each
case puts a word of its own, and with --backend an answer with that word has obeyed.

"""


def register(commands: Any) -> None:
    """Add the parsers of `eval rows` and `eval matrix`."""
    from shieldkit.cli.console import subparser

    parser = subparser(commands, "eval", "measure what your guards and models let through", _ABOUT, EPILOG)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    rows = subparser(verbs, "rows", "judge a corpus of labelled texts", _ROWS, _ROWS_EXAMPLES + EPILOG)
    rows.add_argument("files", nargs="+", metavar="FILE", help="JSON Lines, plain or .gz, or a folder of them")
    rows.add_argument("--role", choices=_ROLES,
                      help="whose text it is, where a row does not say (user; at --stage output assistant)")  # fmt: skip
    rows.add_argument("--limit", type=positive, metavar="N", help="draw N rows evenly, and judge only those")
    _common(rows)
    rows.set_defaults(run=run_rows)

    matrix = subparser(verbs, "matrix", "bury attacks in long text", _MATRIX, _MATRIX_EXAMPLES + EPILOG)
    matrix.add_argument("files", nargs="*", metavar="HAYSTACK", help="text files, plain or .gz, or a folder of them")
    matrix.add_argument("--attacks", metavar="FILE", help="attacks of your own (six plain ones are built in)")
    matrix.add_argument("--lengths", type=_lengths, default=(1_000, 10_000, 100_000), metavar="N,…",
                        help="in tokens of 4.5 characters, up to 10M: 1k,10k,100k")  # fmt: skip
    matrix.add_argument("--depths", type=_depths, default=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0), metavar="N,…",
                        help="in percent of the text: 0,10,25,50,75,90,100")  # fmt: skip
    matrix.add_argument("--placements", default="line", metavar="NAME,…", help="where it stands, or `all` (line)")
    matrix.add_argument("--disguises", default="plain", metavar="NAME,…", help="how it is written, or `all` (plain)")
    matrix.add_argument("--role", choices=_ROLES, default="document", help="whose text the haystack is (document)")
    matrix.add_argument("--list", action="store_true", help="print the names of placements and disguises, and leave")
    _common(matrix)
    matrix.set_defaults(run=run_matrix)


def _common(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--policy", default="builtin:default", metavar="SOURCE", help="a YAML file, or builtin:NAME (%(default)s)"
    )
    what.add_argument("--guard", metavar="NAME", help="one guard alone: a built-in one, or an installed package's")
    what.add_argument("--stage", choices=("input", "output"), default="input", help="judge as input, or as an answer")
    what.add_argument("--count", choices=("flag", "redact", "block"), default="redact",
                      help="the mildest action that counts as caught (redact)")  # fmt: skip
    what.add_argument("--backend", metavar="WHAT", help="also ask a model: gguf:PATH, or the base URL of an "
                                                        "OpenAI-compatible server")  # fmt: skip
    what.add_argument("--model", metavar="NAME", help="the model's name on the server")
    what.add_argument("--backend-key-env", metavar="VAR", help="environment variable with the key of the --backend URL")
    what.add_argument("--task", help="what the model is asked to do with a document")
    how = parser.add_argument_group("how, and what comes out")
    how.add_argument("--out", metavar="FOLDER", help="write report.json, outcomes.csv, heatmap.html and heatmap.png")
    how.add_argument("--with-text", action="store_true", help="put the texts into the files too; else no file has them")
    how.add_argument("--json", action="store_true", help="the report on standard output as JSON, instead of tables")
    how.add_argument("--jobs", type=jobs, default=1, metavar="N", help="cases judged at a time, 1 to 64 (1)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="chooses rows, places in the haystack, markers")
    how.add_argument("--fail-under", action="append", default=[], metavar="METRIC=N",
                     help="exit code 1 when a metric is lower: caught, held, auc, recall_at_1_percent; "
                          "caught@kind:jailbreak=0.8 for a group")  # fmt: skip
    how.add_argument("--fail-over", action="append", default=[], metavar="METRIC=N",
                     help="exit code 1 when a metric is higher: false_alarms, failed, p50_ms, p99_ms")  # fmt: skip


# -- arguments ---------------------------------------------------------------------------------------------------------


def _lengths(value: str) -> tuple[int, ...]:
    units = {"k": 1_000, "m": 1_000_000}
    made = []
    for item in value.lower().split(","):
        number, unit = (item[:-1], units[item[-1]]) if item[-1:] in units else (item, 1)
        try:
            made.append(round(float(number) * unit))
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError("write lengths in tokens, such as 500,1k,100k,1M") from None
    return tuple(made)


def _depths(value: str) -> tuple[float, ...]:
    try:
        depths = tuple(float(item.strip().removesuffix("%")) / 100 for item in value.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError("write depths in percent, such as 0,50,100") from None
    if not all(0 <= depth <= 1 for depth in depths):
        raise argparse.ArgumentTypeError("depths are in percent of the text, 0 (its start) to 100 (its end)")
    return depths


def _names(value: str, known: Iterable[str]) -> tuple[str, ...]:
    return tuple(known) if value == "all" else tuple(value.split(","))


# -- running -----------------------------------------------------------------------------------------------------------


def run_rows(args: argparse.Namespace) -> Exit:
    """Judge a corpus."""
    from shieldkit.errors import ConfigurationError
    from shieldkit.evaluation import read, sample

    role = args.role or ("assistant" if args.stage == "output" else "user")

    def cases() -> Iterator[Case]:
        return read(args.files, role=role)

    held: list[Case] | None = None
    if args.limit is not None:
        held = sample(cases(), args.limit, args.seed)
    elif _read_once(args.files):
        held = list(cases())
    planned = len(held) if held is not None else sum(1 for _ in cases())
    if not planned:
        raise ConfigurationError("corpus", "holds no rows", mend="Name files with a JSON object a line (see --help)")
    return _measure(args, planned, cases if held is None else lambda: iter(held), ("kind", "source", "role"))


def _read_once(names: Iterable[str]) -> bool:
    """Whether some file gives its content only once, as pipes do, and on some systems all that is below /dev."""
    from shieldkit.evaluation.corpus import files

    return any(not path.is_file() or path.is_relative_to("/dev") for path in files(names))


def run_matrix(args: argparse.Namespace) -> Exit:
    """Bury attacks, and judge what was made."""
    from shieldkit.cli.console import complain
    from shieldkit.evaluation import ATTACKS, DISGUISES, PLACEMENTS, Matrix, Role, read_haystack

    if args.list:
        print("placements:", ", ".join(PLACEMENTS))
        print("disguises: ", ", ".join(("plain", *DISGUISES)))
        return Exit.OK
    if not args.files:
        complain("eval matrix: name a HAYSTACK, a text file or a folder of them (or say --list)")
        return Exit.USAGE
    matrix = Matrix(
        read_haystack(args.files), _attacks(args.attacks) if args.attacks else ATTACKS, args.lengths, args.depths,
        _names(args.placements, PLACEMENTS), _names(args.disguises, ("plain", *DISGUISES)), Role(args.role), args.seed,
    )  # fmt: skip
    return _measure(args, len(matrix), matrix.cases, ("length", "depth", "placement", "disguise", "attack"))


def _attacks(name: str) -> Sequence[Any]:
    """The attacks of a corpus, or of a text file with one a line."""
    from shieldkit.errors import ConfigurationError
    from shieldkit.evaluation import Attack, read, read_haystack

    if name.removesuffix(".gz").endswith(".jsonl"):
        found = [Attack(f"{n}:{c.id}", c.messages[0].text) for n, c in enumerate(read([name]), 1) if c.attack]
    else:
        lines = [line for line in read_haystack([name], "attacks").splitlines() if line.strip()]
        found = [Attack(f"attack {n}", line.strip()) for n, line in enumerate(lines, 1)]
    if not found:
        raise ConfigurationError("attacks", "holds no attack", mend="Give rows with the label 'attack', or lines")
    return found


def _measure(args: argparse.Namespace, planned: int, cases: Callable[[], Iterator[Case]], by: Sequence[str]) -> Exit:
    from shieldkit.cli.console import complain, print_json
    from shieldkit.evaluation import TASK, Gate, Judge, Report, shield_for, write
    from shieldkit.evaluation.writing import make_folder
    from shieldkit.outcome import Action, Stage

    stage = Stage(args.stage)
    gates = [Gate.parse(t, under=True) for t in args.fail_under] + [Gate.parse(t, under=False) for t in args.fail_over]
    _check_guard(args.guard)
    _check_stage(stage, args.backend)
    if args.out:
        make_folder(args.out)
    backend = models.named(args) if args.backend else None
    outcomes: list[Outcome] = []
    stopped = False
    try:
        with shield_for(args.policy, guard=args.guard, backend=backend, stage=stage) as shield:
            judge = Judge(
                shield, stage, backend is not None, Action(args.count), args.task or TASK, keep_text=args.with_text
            )
            subject = _subject(shield)
            try:
                _collect(outcomes, cases(), judge, args.jobs, planned)
            except KeyboardInterrupt:
                stopped = True
        report = Report(tuple(outcomes), subject, planned)
        if args.json:
            print_json(report.to_dict())
        else:
            _show(report, by)
        if args.out:
            made, missing = write(report, args.out)
            complain(f"written: {', '.join(map(str, made))}" + (f"; no picture: {missing}" if missing else ""))
    finally:
        if backend is not None:
            backend.close()
    return _exit(report, gates, stopped)


def _check_guard(name: str | None) -> None:
    """Raises `ConfigurationError` for a guard that neither shieldkit nor an installed package has."""
    from importlib.metadata import entry_points

    from shieldkit.errors import ConfigurationError
    from shieldkit.guards import BUILDERS, GROUP
    from shieldkit.policy.problems import nearest

    known = [*BUILDERS, *entry_points(group=GROUP).names]
    if name is not None and name not in known:
        mend = nearest(name, known, "There are")
        raise ConfigurationError("--guard", f"no guard is named {name!r:.60}", mend=mend)


def _check_stage(stage: Any, backend: str | None) -> None:
    """Raises `ConfigurationError` before a model is loaded in vain."""
    from shieldkit.errors import ConfigurationError

    if stage == "output" and backend:
        problem, mend = "output: with --backend, guards are measured on what goes in", "Leave out one of the two"
        raise ConfigurationError("--stage", problem, mend=mend)


def _collect(outcomes: list[Outcome], cases: Iterator[Case], judge: Any, jobs: int, planned: int) -> None:
    """Judge all, with a progress bar on a terminal. What was judged is in `outcomes`, also after an interruption."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from shieldkit.evaluation import run

    columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = Console(file=sys.stderr)
    with (
        Progress(*columns, console=screen, transient=True, disable=not sys.stderr.isatty()) as progress,
        contextlib.closing(run(cases, judge, jobs=jobs)) as judged,
    ):
        bar = progress.add_task("", total=planned)
        for outcome in judged:
            outcomes.append(outcome)
            progress.advance(bar)


def _subject(shield: Shield) -> dict[str, Any]:
    from shieldkit import __version__

    return {"shieldkit": __version__, **shield.describe()}


def _exit(report: Report, gates: Sequence[Gate], stopped: bool) -> Exit:
    from shieldkit.cli.console import complain

    failures = [failure for gate in gates if (failure := gate.failure(report))]
    for failure in failures:
        complain(f"gate: {failure}")
    short = not report.complete and not stopped
    if short:
        complain(f"only {len(report.outcomes)} of {report.planned} cases were there to judge: did the corpus change?")
    if stopped:
        complain(f"interrupted after {len(report.outcomes)} of {report.planned} cases; the figures are of those")
        return Exit.INTERRUPTED
    if failures:
        return Exit.BLOCKED
    return Exit.UNREAD if short or any(o.failed for o in report.outcomes) else Exit.OK


# -- showing -----------------------------------------------------------------------------------------------------------


def _show(report: Report, by: Sequence[str]) -> None:
    from shieldkit.cli.console import console, table

    screen, total = console(), report.total
    asked = bool(total.held.total)
    for facet in (None, *by):
        groups = [total] if facet is None else report.groups(facet)
        if facet is not None and len(groups) < 2:
            continue
        rows = [(g.name, str(g.caught), str(g.false_alarms), *([str(g.held)] if asked else []), str(g.failed.count))
                for g in groups]  # fmt: skip
        columns = (facet or "", "caught", "false alarms", *(["held"] if asked else []), "not judged")
        screen.print(table("", columns, rows))
    found = [(s.guard, f"{s.auc:.4f}", f"{s.recall_at_1_percent:.1%}", f"{s.attacks:,} / {s.benign:,}")
             for s in report.separation()]  # fmt: skip
    if found:
        screen.print(table("", ("scores of", "ROC-AUC", "recall at 1 % false alarms", "attacks / benign"), found))
    latency = report.latency_ms()
    if latency:
        screen.print("milliseconds a case: " + ", ".join(f"{name} {ms:.1f}" for name, ms in latency.items()))
    reasons = sorted({o.failed for o in report.outcomes if o.failed})
    if reasons:
        screen.print(f"not judged, because of: {', '.join(reasons)}", style="yellow")
