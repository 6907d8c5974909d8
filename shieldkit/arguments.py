"""What callers give to a `Shield`, held against what it takes: what is of the wrong kind is an error that says what to write.

Values are not quoted but where they are names of the application's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from shieldkit.backends.base import CallOptions
from shieldkit.budget import Principal
from shieldkit.errors import ConfigurationError, PolicyError
from shieldkit.guards.base import Guard
from shieldkit.policy import BUILTINS, Policy


def policy_of(given: Any) -> Policy:
    """The policy that is meant. Raises `PolicyError`."""
    if isinstance(given, Policy):
        return given
    if isinstance(given, Mapping):
        raise PolicyError("policy", "is a dict", mend="Give Policy.from_dict(…)")
    if not isinstance(given, (str, Path)):
        mend = "Give a Policy, the path of a YAML file, or 'builtin:default'"
        raise PolicyError("policy", f"a {type(given).__name__} is not a policy", mend=mend)
    if "\n" in str(given):
        raise PolicyError("policy", "is the text of a policy", mend="Give Policy.from_yaml(…), or the path of a file")
    if str(given) in BUILTINS and not Path(given).exists():
        raise PolicyError("policy", f"there is no file '{given}'", mend=f"Did you mean 'builtin:{given}'?")
    return Policy.load(given)


def check_backend(given: Any) -> None:
    """Refuse what is no model. Raises `ConfigurationError`."""
    lacks = [name for name in ("complete", "count_tokens") if not callable(getattr(given, name, None))]
    # Not by asking for them: what a server has may have to be asked of it.
    facts = ("name", "model", "context_tokens", "control_tokens")
    lacks += [name for name in facts if name not in dir(given) and not hasattr(type(given), "__getattr__")]
    if not lacks and not isinstance(given, type):
        return
    if isinstance(given, (str, Path)):
        mend = f"Give the model itself, as in LlamaCpp('{Path(given).name:.60}') or OpenAICompatible(…)"
    elif isinstance(given, type):
        mend = f"Make one: {given.__name__}(…)"
    elif _is_of("langchain_core", given):
        mend = "Wrap it: LangChainModel(…), of shieldkit.backends"
    elif _is_of("openai", given):
        mend = "Give OpenAICompatible(…), of shieldkit.backends; or guard the client: `guarded_client` of the OpenAI adapter"
    else:
        mend = f"It has no `{lacks[0]}`; see shieldkit.backends for models, and its `Backend` for what one has"
    what = "is a class" if isinstance(given, type) else f"a {type(given).__name__} is not a backend"
    raise ConfigurationError("backend", what, mend=mend)


def guards_of(given: Any) -> tuple[Guard, ...]:
    """Guards of the caller's own, as many times as they are asked for. Raises `ConfigurationError`."""
    if (
        callable(given)
        or hasattr(given, "check")
        or not isinstance(given, Iterable)
        or isinstance(given, (str, Mapping))
    ):
        raise ConfigurationError("guards", f"a {type(given).__name__} is not a list of guards", mend="Give guards=[…]")
    guards = tuple(given)
    for i, each in enumerate(guards):
        lacks = [name for name in ("name", "stages", "check") if not hasattr(each, name)]
        if isinstance(each, type):
            problem, mend = "is a class", f"Make one: {each.__name__}(…)"
        elif lacks and callable(each):
            problem, mend = "is a function", 'Write @guard("its-name") above it'
        elif lacks:
            problem, mend = f"a {type(each).__name__} is not a guard", f"It has no `{lacks[0]}`"
        else:
            continue
        raise ConfigurationError(f"guards[{i}]", problem, mend=mend)
    return guards


def check_parts(guard_backend: Any, ledger: Any, approver: Any) -> None:
    """Refuse what can be no guard model, no ledger, or nobody to ask. Raises `ConfigurationError`."""
    lacks = _lacks(guard_backend, "count_pieces", "first_tokens", "complete_pieces")
    if guard_backend is not None and lacks:
        mend = (
            f"It has no `{lacks}`: give a model that continues raw prompts, as LlamaCpp(…) and OpenAICompatible(…) do"
        )
        raise ConfigurationError("guard_backend", _called(guard_backend, "no model for the safety guard"), mend=mend)
    lacks = _lacks(ledger, "reserve", "settle", "release", "close")
    if ledger is not None and lacks:
        mend = f"It has no `{lacks}`: give MemoryLedger(…), or what has the methods of shieldkit.budget.Ledger"
        raise ConfigurationError("ledger", _called(ledger, "no ledger"), mend=mend)
    if approver is not None and (not callable(approver) or inspect.iscoroutinefunction(approver)):
        mend = "Give a function that takes an ApprovalRequest and returns True or not; it may block, in a thread of its own"
        raise ConfigurationError("approver", _called(approver, "nobody to ask"), mend=mend)


def check_call(principal: Any, options: Any) -> None:
    """Refuse what says neither who asks nor how. Raises `ConfigurationError`."""
    if principal is not None and not isinstance(principal, Principal):
        mend = "Give Principal(**…)" if isinstance(principal, Mapping) else "Give Principal(user=…)"
        raise ConfigurationError("principal", f"a {type(principal).__name__} is not a Principal", mend=mend)
    if options is not None and not isinstance(options, CallOptions):
        mend = f"Give CallOptions(…); it has {', '.join(f.name for f in fields(CallOptions))}"
        raise ConfigurationError("options", f"a {type(options).__name__} is not CallOptions", mend=mend)


def _lacks(given: Any, *names: str) -> str:
    """The first of these methods that something has not; a class has none, since it is not yet made."""
    return next((n for n in names if isinstance(given, type) or not callable(getattr(given, n, None))), "")


def _called(given: Any, what: str) -> str:
    if isinstance(given, type):
        return f"is a class; make one: {given.__name__}(…)"
    if inspect.iscoroutinefunction(given):
        return "is an async function"
    return f"a {type(given).__name__} is {what}"


def _is_of(package: str, given: Any) -> bool:
    """Whether an object is a package's, told without importing it."""
    return any(base.__module__.partition(".")[0] == package for base in type(given).__mro__)
