"""`shieldkit policy`: check a policy, show it with its defaults, print the JSON Schema of the file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from shieldkit.cli.exits import EPILOG, Exit

if TYPE_CHECKING:
    from shieldkit.policy import Policy

_EXAMPLES = """\
examples:
  shieldkit policy check policy.yaml               the file alone
  shieldkit policy check --load policy.yaml        ... and every guard built, its models loaded and self-tested
  shieldkit policy show builtin:strict
  shieldkit policy show policy.yaml --tenant acme
  shieldkit policy schema > shieldkit-policy.json  for your editor

"""


def register(commands: Any) -> None:
    """Add the parsers of `policy check`, `policy show` and `policy schema`."""
    from shieldkit.cli.console import subparser

    about = "Policies: the one place where limits, thresholds and actions live."
    parser = subparser(commands, "policy", "check, show or describe policies", about, _EXAMPLES + EPILOG)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = subparser(verbs, "check", "say what is wrong with a policy", _CHECK, EPILOG)
    check.add_argument("sources", nargs="+", metavar="SOURCE", help="a YAML file, or builtin:NAME")
    check.add_argument("--load", action="store_true", help="also build the guards: load, verify and self-test models")
    check.add_argument("--json", action="store_true", help="one JSON array, instead of lines")
    check.set_defaults(run=run_check)

    show = subparser(verbs, "show", "write a policy out with every default", _SHOW, EPILOG)
    show.add_argument("source", metavar="SOURCE", help="a YAML file, or builtin:NAME")
    show.add_argument("--tenant", help="the policy as it holds for this tenant")
    show.add_argument("--json", action="store_true", help="JSON instead of YAML")
    show.set_defaults(run=run_show)

    schema = subparser(verbs, "schema", "print the JSON Schema of the file format", _SCHEMA)
    schema.set_defaults(run=run_schema)


_CHECK = "Check policies. Each error names the field, the value, the line and the mend; the exit code is then 2."
_SHOW = "Write a policy out, defaults included, as YAML that can be read again."
_SCHEMA = "Print the JSON Schema (draft 2020-12) of policy files, for editors and CI."


def run_check(args: argparse.Namespace) -> Exit:
    """Check each source; 0 when all are valid, else 2."""
    from shieldkit.cli.console import print_json, safe

    results = [_checked(source, load=args.load) for source in args.sources]
    if args.json:
        print_json(results)
    else:
        for result in results:
            print(safe(f"{result['policy']}: ok: {result['name']}@{result['version']}" if result["ok"]
                       else f"{result['policy']}: {result['error']}"))  # fmt: skip
    return Exit.OK if all(result["ok"] for result in results) else Exit.USAGE


def _checked(source: str, *, load: bool) -> dict[str, Any]:
    from shieldkit.errors import ConfigurationError
    from shieldkit.policy import Policy

    try:
        policy = Policy.load(source)
        if load:
            from shieldkit.shield import Shield

            Shield(policy).close()
    except ConfigurationError as error:
        return {"policy": source, "ok": False, "field": error.field, "problem": error.problem, "error": str(error)}
    return {"policy": source, "ok": True, "name": policy.name, "version": policy.version, "mode": policy.mode,
            "guards": list(policy.sections())}  # fmt: skip


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
