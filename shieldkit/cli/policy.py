"""`shieldkit policy`: check a policy, list its rules, show it with its defaults, print the JSON Schema of the file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shieldkit.cli.exits import EPILOG, Exit

if TYPE_CHECKING:
    from shieldkit.policy import Policy
    from shieldkit.policy.problems import PolicyProblems

_EXAMPLES = """\
examples:
  shieldkit policy check policy.yaml               the file alone
  shieldkit policy check --load policy.yaml        ... and every guard built, its models loaded and self-tested
  shieldkit policy rules policy.yaml               each rule: what it means, its action and threshold
  shieldkit policy show builtin:strict
  shieldkit policy show policy.yaml --tenant acme
  shieldkit policy schema > shieldkit-policy.json  for your editor

"""


def register(commands: Any) -> None:
    """Add the parsers of `policy check`, `policy rules`, `policy show` and `policy schema`."""
    from shieldkit.cli.console import subparser

    about = "Policies: the one place where limits, thresholds and actions live."
    parser = subparser(commands, "policy", "check, show or describe policies", about, _EXAMPLES + EPILOG)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = subparser(verbs, "check", "say what is wrong with a policy", _CHECK, EPILOG)
    check.add_argument("sources", nargs="+", metavar="SOURCE", help="a YAML file, or builtin:NAME")
    check.add_argument("--load", action="store_true", help="also build the guards: load, verify and self-test models")
    check.add_argument("--json", action="store_true", help="one JSON array, instead of lines")
    check.set_defaults(run=run_check)

    rules = subparser(verbs, "rules", "list each guard's rules, what they mean and do", _RULES, EPILOG)
    rules.add_argument("source", nargs="?", default="builtin:default", metavar="SOURCE",
                       help="a YAML file, or builtin:NAME (builtin:default)")  # fmt: skip
    rules.add_argument("--tenant", help="the rules as they hold for this tenant")
    rules.add_argument("--json", action="store_true", help="one JSON array, instead of a table")
    rules.set_defaults(run=run_rules)

    show = subparser(verbs, "show", "write a policy out with every default", _SHOW, EPILOG)
    show.add_argument("source", metavar="SOURCE", help="a YAML file, or builtin:NAME")
    show.add_argument("--tenant", help="the policy as it holds for this tenant")
    show.add_argument("--json", action="store_true", help="JSON instead of YAML")
    show.set_defaults(run=run_show)

    schema = subparser(verbs, "schema", "print the JSON Schema of the file format", _SCHEMA)
    schema.set_defaults(run=run_schema)


_CHECK = """\
Check policies. Each error names the line, the field, the value and the mend, and all are told; the exit code is then 2.
A policy that is valid is shown with its chain, in the order in which the guards run.

Names of rules, rail packs and families of guard models are held against the guards' own tables. What only a built guard
can tell (model files and their digests, schemas of arguments, the rules of guards of your own) takes --load.
"""
_RULES = """\
Print the rules of every guard in a policy: what each means, what is done about it, and from which score on.

  action     block, redact, flag, allow, or approve: `action` of guards.GUARD.rules.RULE, else of guards.GUARD
  from       the score from which that is done; a second figure is for documents and tool results (`data_threshold`)
  flag from  findings from this score up to `from` are flagged (`flag_threshold`)

To make an exception for one rule, write it under the guard:

  guards:
    leak:
      rules:
        system_prompt: {action: flag, threshold: 0.7}
"""
_SHOW = "Write a policy out, defaults included, as YAML that can be read again."
_SCHEMA = "Print the JSON Schema (draft 2020-12) of policy files, for editors and CI."


def run_check(args: argparse.Namespace) -> Exit:
    """Check each source; 0 when all are valid, else 2."""
    from shieldkit.cli.console import print_json, safe

    results = [_checked(source, load=args.load) for source in args.sources]
    if args.json:
        print_json(results)
    else:
        unbuilt = "" if args.load else "; guards not built, --load does that too"
        for result in results:
            print("\n".join(map(safe, _told(result, unbuilt))))
    return Exit.OK if all(result["ok"] for result in results) else Exit.USAGE


def _told(result: Mapping[str, Any], unbuilt: str) -> list[str]:
    if not result["ok"]:
        return str(result["error"]).splitlines()
    guards = result["guards"] or ["no guard but those that a program gives its Shield"]
    return [f"{result['policy']}: ok: {result['name']}@{result['version']} ({', '.join(['budget', *guards])}){unbuilt}"]


def _checked(source: str, *, load: bool) -> dict[str, Any]:
    from shieldkit.cli.tables import chain, misnamed
    from shieldkit.errors import ConfigurationError
    from shieldkit.policy import Policy
    from shieldkit.policy.problems import PolicyProblems, Problem, placed
    from shieldkit.policy.reading import lines_of

    try:
        policy = Policy.load(source)
        if problems := list(misnamed(policy)):
            raise PolicyProblems(source, [placed(problem, lines_of(source)) for problem in problems])
        if load:
            from shieldkit.shield import Shield

            Shield(policy).close()
    except PolicyProblems as error:
        return _wrong(source, error)
    except ConfigurationError as error:
        problem = placed(Problem(error.field, error.problem, error.mend), lines_of(source))
        return _wrong(source, PolicyProblems(source, [problem]))
    return {"policy": source, "ok": True, "name": policy.name, "version": policy.version, "mode": policy.mode,
            "guards": list(chain(policy))}  # fmt: skip


def _wrong(source: str, error: PolicyProblems) -> dict[str, Any]:
    """The first problem, and all of them."""
    rows = [{"path": p.path, "line": p.line, "problem": p.problem, "mend": p.mend} for p in error.problems]
    return {"policy": source, "ok": False, "field": rows[0]["path"], **rows[0], "error": str(error), "problems": rows}


def run_rules(args: argparse.Namespace) -> Exit:
    """Print what each rule means, and what the policy makes of it."""
    from shieldkit.cli.console import console, print_json, table
    from shieldkit.cli.tables import misnamed
    from shieldkit.policy import Policy
    from shieldkit.policy.problems import PolicyProblems, placed
    from shieldkit.policy.reading import lines_of

    policy = Policy.load(args.source)
    if problems := list(misnamed(policy)):
        raise PolicyProblems(args.source, [placed(problem, lines_of(args.source)) for problem in problems])
    check_tenant(policy, args.tenant)
    policy = policy.for_tenant(args.tenant)
    rows = list(_rules(policy))
    if args.json:
        print_json(rows)
        return Exit.OK
    cells = [
        (f"{r['guard']}.{r['rule'] or '…'}", r["action"], _from(r),
         _flag_from(r), r["meaning"])
        for r in rows
    ]  # fmt: skip
    monitored = ", mode monitor: all is flagged at most" if policy.mode == "monitor" else ""
    title = f"{policy.name}@{policy.version}{monitored}"
    console().print(table(title, ("rule", "action", "from", "flag from", "meaning"), cells, action_column=1))
    return Exit.OK


def _rules(policy: Policy) -> Iterator[dict[str, Any]]:
    from shieldkit.cli.tables import chain, meanings
    from shieldkit.conversation import Role

    for name, section in chain(policy).items():
        known = meanings(name, section)
        if known is None:
            known = dict.fromkeys(section.rules, "a rule of a guard of your own") | {
                "": "what else a guard of your own reports"
            }
        for rule, meaning in known.items():
            yield {
                "guard": name, "rule": rule, "meaning": meaning, "action": section.action_for(rule).value,
                "threshold": section.threshold_for(rule, Role.USER),
                "data_threshold": section.threshold_for(rule, Role.DOCUMENT),
                "flag_threshold": section.flag_threshold,
            }  # fmt: skip


def _flag_from(row: Mapping[str, Any]) -> str:
    """Nothing, where a rule's own threshold is so low that there is nothing left to flag."""
    flag = row["flag_threshold"]
    return "–" if flag is None or flag >= max(row["threshold"], row["data_threshold"]) else f"{flag:.2f}"


def _from(row: Mapping[str, Any]) -> str:
    own, data = row["threshold"], row["data_threshold"]
    return f"{own:.2f}" if own == data else f"{own:.2f} / {data:.2f}"


def run_show(args: argparse.Namespace) -> Exit:
    """Print the policy."""
    from shieldkit.cli.console import print_json
    from shieldkit.policy import Policy

    policy = Policy.load(args.source)
    check_tenant(policy, args.tenant)
    policy = policy.for_tenant(args.tenant)
    if args.json:
        print_json(policy.model_dump(mode="json", by_alias=True))
    else:
        sys.stdout.write(policy.to_yaml())
    return Exit.OK


def check_tenant(policy: Policy, tenant: str | None) -> None:
    """Raises `PolicyError` for a tenant that is named and has no part of the policy: it may be a slip of the pen."""
    from shieldkit.errors import PolicyError

    if tenant is not None and tenant not in policy.tenants:
        known = ", ".join(policy.tenants) or "none"
        raise PolicyError("tenants", "the policy has nothing of its own for this tenant", mend=f"It has: {known}")


def run_schema(args: argparse.Namespace) -> Exit:
    """Print the JSON Schema."""
    from shieldkit.cli.console import print_json
    from shieldkit.policy import Policy

    print_json(Policy.json_schema())
    return Exit.OK
