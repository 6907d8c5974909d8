"""`shieldkit doctor`: what is installed, which models are loaded and verified, what works offline.

A guard is "ok" when it was built (its data and model files read, and held against their digests) and its self-test on
known texts has passed. Nothing is downloaded, and no server is asked.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import platform
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from shieldkit.cli import smollm2
from shieldkit.cli.exits import EPILOG, Exit

if TYPE_CHECKING:
    from shieldkit.policy import Policy
    from shieldkit.policy.model import GuardSettings

_PURPOSES: Mapping[str, str] = {
    "llama": "models and guard models in this process, by llama.cpp",
    "nemo": "topical rails",
    "otel": "spans and metrics that go somewhere; the trace tree",
    "langchain": "LangChain messages and models",
    "langchain-agents": "middleware for LangChain's agents",
    "openai": "vLLM, llama-server, TGI, SGLang, Ollama and APIs like OpenAI's; the guarded client",
    "serve": "the gateway, `shieldkit serve`",
    "eval": "heat maps of `shieldkit eval`, as a picture",
    "audit": "chat templates, read by `shieldkit audit`",
    "pydantic-ai": "a guarded model for agents of Pydantic AI",
    "llama-index": "a guarded LLM and a filter of retrieved nodes for LlamaIndex",
    "testkit": "Hypothesis, for property tests of guards of your own",
}
"""What each extra is for. Which there are, and what they bring, the package's metadata say."""

_GUARDS: Mapping[str, Mapping[str, Any]] = {
    "markers": {},
    "leak": {},
    "injection": {},
    "topics": {"pack": "bank"},
    "schema": {},
}
"""The built-in guards that need no weights of one's own, with the least that a policy must say of each."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OF_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")

_DESCRIPTION = """\
Say what is installed, which models are loaded and verified, and what works offline.

Builds every guard of the policy and of its tenants, and beside them the built-in guards that need no weights of your
own: reads their data and model files, checks the digests, and runs their self-tests. Downloads nothing, asks no server.
A missing extra is no fault. What is installed and does not work is: the exit code is then 2.
"""


def register(commands: Any) -> None:
    """Add the parser of `doctor`."""
    from shieldkit.cli.console import subparser

    parser = subparser(commands, "doctor", "what is installed, verified, and works offline", _DESCRIPTION, EPILOG)
    parser.add_argument(
        "--policy", default="builtin:default", metavar="SOURCE", help="a YAML file, or builtin:NAME (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="JSON, for a bug report or a start-up check")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Examine, print, and return 2 when something that is installed does not work."""
    from shieldkit.cli.console import print_json

    report = examine(args.policy)
    if args.json:
        print_json(report)
    else:
        _show(report)
    return Exit.OK if report["ok"] else Exit.USAGE


def examine(source: str) -> dict[str, Any]:
    """The whole report, as plain JSON. Raises `PolicyError` when the policy itself cannot be read."""
    from shieldkit import __version__
    from shieldkit.policy import Policy

    policy = Policy.load(source)
    extras = [_extra(name, distributions) for name, distributions in extras_of("shieldkit").items()]
    installed = {row["extra"] for row in extras if row["installed"]}
    guards = [*_policy_guards(policy, installed), *_other_guards(policy, installed)]
    model, engine = _demo_model(), _llama_cpp() if "llama" in installed else None
    return {
        "ok": not any(row["state"] == "broken" for row in (*guards, model, engine) if row is not None),
        "shieldkit": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "policy": f"{policy.name}@{policy.version}", "extras": extras, "guards": guards,
        "llama_cpp": engine, "demo_model": model,
    }  # fmt: skip


# -- what is installed -----------------------------------------------------------------------------------------------


def extras_of(package: str) -> dict[str, tuple[str, ...]]:
    """By extra, the distributions that it brings, as the installed package's metadata have them; without `all`."""
    try:
        about = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:  # run from a folder that is not installed
        return {}
    found: dict[str, list[str]] = {name: [] for name in about.get_all("Provides-Extra") or () if name != "all"}
    for requirement in about.get_all("Requires-Dist") or ():
        name, marker = _NAME.match(requirement), _OF_EXTRA.search(requirement)
        if name is not None and marker is not None and marker[1] in found:
            found[marker[1]].append(name[0])
    return {extra: tuple(names) for extra, names in found.items()}


def _extra(name: str, distributions: tuple[str, ...]) -> dict[str, Any]:
    versions = {distribution: _version(distribution) for distribution in distributions}
    purpose = _PURPOSES.get(name, "")
    return {"extra": name, "installed": all(versions.values()), "versions": versions, "for": purpose}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _llama_cpp() -> dict[str, Any]:
    try:
        import llama_cpp

        return {
            "state": "ok", "gpu_offload": bool(llama_cpp.llama_supports_gpu_offload()),
            "mmap": bool(llama_cpp.llama_supports_mmap()),
        }  # fmt: skip
    except Exception as error:  # a library built for another machine fails in its own ways
        return {"state": "broken", "problem": f"cannot be loaded ({type(error).__name__})"}


def _demo_model() -> dict[str, Any]:
    path = smollm2.find()
    if path is None:
        return {"name": smollm2.NAME, "state": "missing", "problem": f"to have it: {smollm2.INSTALL}"}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    state = "ok" if digest == smollm2.SHA256 else "broken"
    problem = "" if state == "ok" else f"the SHA-256 is not {smollm2.SHA256}"
    return {"name": smollm2.NAME, "state": state, "sha256": digest, "problem": problem}


# -- what works ------------------------------------------------------------------------------------------------------


def _policy_guards(policy: Policy, installed: set[str]) -> list[dict[str, Any]]:
    """The guards of the policy, and those of each tenant whose section is another."""
    own = policy.sections()
    sections: list[tuple[str | None, str, GuardSettings]] = [(None, name, section) for name, section in own.items()]
    for tenant in policy.tenants:
        theirs = policy.for_tenant(tenant).sections()
        sections += [(tenant, name, settings) for name, settings in theirs.items() if settings != own.get(name)]
    return [
        {**_guard(name, settings, installed), "tenant": tenant, "in_policy": True}
        for tenant, name, settings in sections
    ]


def _guard(name: str, settings: GuardSettings, installed: set[str]) -> dict[str, Any]:
    """What a policy's section makes. What a program gives its `Shield` is not here to be examined, and so is missing."""
    from shieldkit.guards import BUILDERS, GROUP, Resources, from_entry_point
    from shieldkit.policy.model import SafetySettings

    make = BUILDERS.get(name)
    if isinstance(settings, SafetySettings) and settings.model is None:
        problem = "the policy names no model; Shield(guard_backend=…) must"
        return {"guard": name, "state": "missing", "problem": problem}
    if make is not None:
        return _built(name, partial(make, settings, Resources()), installed)
    if not importlib.metadata.entry_points(group=GROUP, name=name):
        return {"guard": name, "state": "missing", "problem": "no installed package has it; Shield(guards=…) must"}
    return _built(name, partial(from_entry_point, name), installed)


def _other_guards(policy: Policy, installed: set[str]) -> list[dict[str, Any]]:
    """The built-in guards that the policy leaves out: would they work here?"""
    from shieldkit.policy import Policy

    absent = {name: dict(settings) for name, settings in _GUARDS.items() if name not in policy.sections()}
    if not absent:
        return []
    made = Policy.from_dict({"name": "doctor", "guards": absent}, source="doctor")
    return [{**row, "in_policy": False} for row in _policy_guards(made, installed)]


def _built(name: str, build: Callable[[], Any], installed: set[str]) -> dict[str, Any]:
    """Build a guard, run its self-test, close it."""
    from shieldkit.errors import ConfigurationError

    if name == "topics" and "nemo" not in installed:
        return {"guard": name, "state": "missing", "problem": "to have it: pip install 'shieldkit[nemo]'"}
    start = time.perf_counter()
    try:
        made = build()
        try:
            getattr(made, "self_test", lambda: None)()
            about = dict(getattr(made, "describe", dict)())
        finally:
            getattr(made, "close", lambda: None)()
    except ConfigurationError as error:
        return {"guard": name, "state": "broken", "problem": str(error)}
    except Exception as error:
        return {"guard": name, "state": "broken", "problem": f"fails at start-up ({type(error).__name__})"}
    return {"guard": name, "state": "ok", "problem": "", "load_s": round(time.perf_counter() - start, 3),
            "about": about}  # fmt: skip


# -- for people ------------------------------------------------------------------------------------------------------


def _show(report: Mapping[str, Any]) -> None:
    from shieldkit.cli.console import console, table

    screen = console()
    screen.print(f"shieldkit {report['shieldkit']}, Python {report['python']}, {report['platform']}")
    screen.print()
    extras = [
        (row["extra"], "yes" if row["installed"] else "no", row["for"],
         ", ".join(f"{name} {version or '(missing)'}" for name, version in row["versions"].items()))
        for row in report["extras"]
    ]  # fmt: skip
    screen.print(table("Extras", ("extra", "installed", "for", "versions"), extras))
    guards = [
        (_named(row), "yes" if row["in_policy"] else "no", row["state"],
         f"{row['load_s']:.2f} s" if "load_s" in row else "", _about(row))
        for row in report["guards"]
    ]  # fmt: skip
    title = f"Guards (policy {report['policy']}): built, digests checked, self-tested, all offline"
    screen.print(table(title, ("guard", "in policy", "state", "start", "about"), guards))
    screen.print(table("Models in this process", ("what", "state", "about"), _models(report)))
    screen.print("All that is installed works." if report["ok"] else "Something that is installed does not work.")


def _named(row: Mapping[str, Any]) -> str:
    return str(row["guard"]) if row["tenant"] is None else f"{row['guard']} ({row['tenant']})"


def _about(row: Mapping[str, Any]) -> str:
    if row["problem"]:
        return str(row["problem"])
    return ", ".join(f"{key} {_short(value)}" for key, value in row.get("about", {}).items())


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 and text.isalnum() else text


def _models(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    engine, model = report["llama_cpp"], report["demo_model"]
    if engine is None:
        first = ("llama.cpp", "missing", "to have it: pip install 'shieldkit[llama]'")
    elif engine["state"] == "ok":
        first = ("llama.cpp", "ok", "GPU offload: " + ("yes" if engine["gpu_offload"] else "no, built for CPU"))
    else:
        first = ("llama.cpp", "broken", engine["problem"])
    about = model["problem"] or f"sha256 {_short(model['sha256'])}, verified"
    return [first, (model["name"], model["state"], about)]
