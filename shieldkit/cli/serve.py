"""`shieldkit serve`: an OpenAI-compatible endpoint in front of any model, with a shield in it."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from typing import Any

from shieldkit.cli import models
from shieldkit.cli.arguments import positive
from shieldkit.cli.exits import EPILOG, Exit

_ABOUT = """\
Serve a model over OpenAI's HTTP API, guarded by a policy: /v1/chat/completions, /v1/completions, /v1/responses and
/v1/models. /shield shows what was refused and why, /metrics is for Prometheus, /healthz and /readyz for who runs it.

A refusal is an answer with `finish_reason: content_filter`. A used-up budget is a 429.
Without --keys only this machine is served. SIGTERM and Ctrl-C let calls under way finish.
"""
_EXAMPLES = """\
examples:
  shieldkit serve --backend gguf:model.gguf --model small
  shieldkit serve --new-key shop --tenant acme --may-instruct >> keys.yaml
  shieldkit serve --policy policy.yaml --backend http://127.0.0.1:8000/v1 --model qwen3 --host 0.0.0.0 --keys keys.yaml

"""


def register(commands: Any) -> None:
    """Add the parser of `serve`."""
    from shieldkit.cli.console import subparser

    parser = subparser(commands, "serve", "a guarded OpenAI-compatible endpoint", _ABOUT, _EXAMPLES + EPILOG)
    parser.add_argument(
        "--policy", default="builtin:default", metavar="SOURCE", help="a YAML file, or builtin:NAME (%(default)s)"
    )
    parser.add_argument("--backend", metavar="WHAT", help="gguf:PATH, or the base URL of an OpenAI-compatible server")
    parser.add_argument(
        "--model", metavar="NAME", help="the name that clients ask for, and that the server of a URL has"
    )
    parser.add_argument(
        "--backend-key-env", metavar="VAR", help="environment variable with the key of the --backend URL"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8080, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--keys", metavar="FILE", help="the API keys, as YAML or JSON; needed beyond this machine")
    parser.add_argument("--trust-system", action="store_true",
                        help="without --keys: trust the system messages of clients, as a key's may_instruct does")  # fmt: skip
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-body", type=positive, default=8, metavar="MIB", help="larger bodies are a 413 (default: %(default)s)"
    )
    limits.add_argument("--max-in-flight", type=positive, default=512, metavar="N",
                        help="more requests at a time are a 503 (default: %(default)s)")  # fmt: skip
    limits.add_argument("--drain", type=float, default=30.0, metavar="S",
                        help="seconds that calls have to finish in at the end (default: %(default)s)")  # fmt: skip
    keys = parser.add_argument_group("a new key")
    keys.add_argument("--new-key", metavar="NAME", help="print a new key, and its record for the keys file; then end")
    keys.add_argument("--tenant", metavar="ID", help="the tenant of the new key")
    keys.add_argument("--may-instruct", action="store_true", help="the new key's system messages are trusted")
    keys.add_argument("--role", action="append", choices=("admin", "metrics"), default=[], help="a role of the new key")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Serve until a signal, or print a key."""
    from shieldkit.errors import ConfigurationError

    try:
        from shieldkit.adapters.gateway import serving  # noqa: F401 - is everything there that it needs?
    except ImportError as error:
        mend = "pip install 'shieldkit[serve]'"
        raise ConfigurationError("serve", f"{error.name} is not installed", mend=mend) from None
    return _new_key(args) if args.new_key else _serve(args)


def _new_key(args: argparse.Namespace) -> Exit:
    """The record to standard output, so that it can be appended to the file; the key itself to standard error."""
    import yaml
    from pydantic import ValidationError

    from shieldkit.adapters.gateway.keys import Key, digest_of, new_key
    from shieldkit.errors import ConfigurationError

    key = new_key()
    record = {"id": args.new_key, "sha256": digest_of(key)}
    record |= {"tenant": args.tenant} if args.tenant else {}
    record |= {"roles": args.role} if args.role else {}
    record |= {"may_instruct": True} if args.may_instruct else {}
    try:
        Key.model_validate(record)
    except ValidationError:
        mend = "Give a name of letters, digits, '.', '_' and '-', and a tenant of at most 256 characters"
        raise ConfigurationError("--new-key", "is not a record that a keys file can have", mend=mend) from None
    sys.stdout.write(yaml.safe_dump([record], sort_keys=False))
    print(f"# The key, which is shown once and stored nowhere:\n{key}", file=sys.stderr)
    return Exit.OK


def _serve(args: argparse.Namespace) -> Exit:
    from shieldkit.adapters.gateway import Keys, Settings, gateway
    from shieldkit.adapters.gateway.serving import listen, serve
    from shieldkit.budget import MemoryLedger
    from shieldkit.errors import ConfigurationError
    from shieldkit.policy import Policy
    from shieldkit.shield import Shield

    policy = Policy.load(args.policy)
    keys = Keys.load(args.keys) if args.keys else None
    if keys is None and not _is_loopback(args.host):
        mend = "Give --keys FILE, or listen on 127.0.0.1"
        raise ConfigurationError("--keys", f"{args.host} can be reached by others, and nobody would be asked who he is",
                                 mend=mend)  # fmt: skip
    for option, value in (("--max-body", args.max_body), ("--max-in-flight", args.max_in_flight)):
        if not 1 <= value <= 100_000:
            raise ConfigurationError(option, f"{value} is not within 1..100000", mend="Give a number from 1")
    listening = listen(args.host, args.port)
    backend = models.named(args)
    ledger = MemoryLedger(max_accounts=policy.budget.max_accounts)
    try:
        with Shield(policy, backend, ledger=ledger, max_calls=args.max_in_flight) as shield:
            model = args.model or backend.model
            settings = Settings(model, args.max_body * 2**20, args.max_in_flight, args.trust_system)
            host, port = listening.getsockname()[:2]
            where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

            def ready() -> None:
                print(f"shieldkit: serving {model} by {policy.name}@{policy.version} on {where}/v1; dashboard: {where}/shield",
                      file=sys.stderr, flush=True)  # fmt: skip

            serve(gateway(shield, settings, keys, ledger=ledger), listening, drain_s=args.drain, ready=ready)
    finally:
        backend.close()
        ledger.close()
        listening.close()
    return Exit.OK


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
