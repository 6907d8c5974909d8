"""Guards: each file one guard. `BUILDERS` makes the built-in ones from their sections of a policy, in chain order.

Guards of one's own come as objects (`Shield(guards=[…])`) or from packages that register an entry point in the group
`shieldkit.guards` and are named in the policy's `guards.custom` section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from shieldkit.backends.base import Backend, PromptBackend
from shieldkit.errors import PolicyError, ShieldError
from shieldkit.guards.base import Guard, Inspection, Report, guard

__all__ = ["BUILDERS", "Guard", "Inspection", "Report", "Resources", "from_entry_point", "guard"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What guards may be built on: the shield's backend and its guard model, where there are any."""

    backend: Backend | None = None
    guard_backend: PromptBackend | None = None

    @property
    def control_tokens(self) -> frozenset[str]:
        """The backend's own control tokens."""
        return self.backend.control_tokens if self.backend is not None else frozenset()


def _markers(settings: Any, resources: Resources) -> Guard:
    from shieldkit.guards.markers import MarkerGuard

    return MarkerGuard(settings, resources.control_tokens)


def _injection(settings: Any, resources: Resources) -> Guard:
    from shieldkit.guards.injection import InjectionGuard

    return InjectionGuard(settings)


def _topics(settings: Any, resources: Resources) -> Guard:
    from shieldkit.guards.topics import TopicGuard

    return TopicGuard(settings, backend=resources.backend if settings.use_llm else None)


def _safety(settings: Any, resources: Resources) -> Guard:
    from shieldkit.guards.safety import SafetyGuard, load_backend

    if resources.guard_backend is not None:
        return SafetyGuard(settings, resources.guard_backend)
    with ExitStack() as undo:
        own = load_backend(settings)
        undo.callback(own.close)
        made = SafetyGuard(settings, own, close=own.close)
        undo.pop_all()
    return made


def _leak(settings: Any, resources: Resources) -> Guard:
    from shieldkit.guards.leak import LeakGuard

    return LeakGuard(settings, resources.control_tokens)


def _tools(settings: Any, resources: Resources) -> Guard:
    from shieldkit.guards.tools import ToolGuard

    return ToolGuard(settings)


def _schema(settings: Any, resources: Resources) -> Guard:
    from shieldkit.guards.schema import SchemaGuard

    return SchemaGuard(settings)


GROUP = "shieldkit.guards"
"""The group of entry points under which packages register guards."""

BUILDERS: Mapping[str, Callable[[Any, Resources], Guard]] = {
    "markers": _markers,
    "tools": _tools,
    "leak": _leak,
    "injection": _injection,
    "topics": _topics,
    "safety": _safety,
    "schema": _schema,
}
"""In the order of the chain, cheapest first; the schema gate is last, and guards of one's own stand before it."""


def from_entry_point(name: str) -> Guard:
    """The guard that an installed package registers under `name`. Raises `PolicyError`."""
    for point in entry_points(group=GROUP, name=name):
        try:
            found = point.load()
            made = found() if isinstance(found, type) else found
        except ShieldError:
            raise
        except Exception as error:
            problem = f"its entry point '{point.value}' cannot be loaded ({type(error).__name__})"
            mend = "Mend the package that registers it, or remove the section"
            raise PolicyError(f"guards.custom.{name}", problem, mend=mend) from error
        if isinstance(made, Guard) and made.name != name:
            mend = f"Register it as {made.name:.60} = '{point.value}'"
            raise PolicyError(f"guards.custom.{name}", f"its entry point is a guard named '{made.name:.60}'", mend=mend)
        if isinstance(made, Guard):
            return made
        mend = "It must be a guard, or a class that makes one without arguments; see 'Writing a guard'"
        raise PolicyError(f"guards.custom.{name}", f"its entry point '{point.value}' is not a guard", mend=mend)
    mend = f"Pass it as Shield(guards=[…]), or install the package that registers it under '{GROUP}'"
    raise PolicyError(f"guards.custom.{name}", "no guard of this name is known", mend=mend)
