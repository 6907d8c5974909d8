"""What the guards say of themselves without being built: their rules, what each means, and the names they know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shieldkit.policy import Policy
    from shieldkit.policy.model import GuardSettings, SafetySettings
    from shieldkit.policy.problems import Problem


def chain(policy: Policy) -> Mapping[str, GuardSettings]:
    """The sections in the order in which the guards run. The budget, before them all, is always there."""
    from shieldkit.guards import BUILDERS

    sections = dict(policy.sections())
    ordered = {name: sections.pop(name) for name in BUILDERS if name in sections}
    last = {"schema": ordered.pop("schema")} if "schema" in ordered else {}
    return {**ordered, **sections, **last}


def meanings(name: str, settings: GuardSettings) -> Mapping[str, str] | None:
    """What each rule of a guard means; None for a guard of one's own, and for a family that is not known."""
    from shieldkit.guards import injection, leak, markers, schema, tools, topics
    from shieldkit.policy.model import SafetySettings

    if isinstance(settings, SafetySettings):
        return _categories(settings)
    tables = {
        "markers": markers.MEANINGS, "tools": tools.MEANINGS, "leak": leak.MEANINGS, "injection": injection.MEANINGS,
        "topics": topics.MEANINGS, "schema": schema.MEANINGS,
    }  # fmt: skip
    return tables.get(name)


def _categories(settings: SafetySettings) -> Mapping[str, str] | None:
    from shieldkit.safety import FAMILIES

    family = FAMILIES.get(settings.family)
    if family is None:
        return None
    unsafe = {"unsafe": "judged unsafe, and no category is named"}
    if not family.lists_categories:
        return unsafe
    own = {key: category.name for key, category in settings.categories.items() if category.name}
    off = {key for key, category in settings.categories.items() if not category.enabled}
    return {key: title for key, title in {**family.categories, **own}.items() if key not in off} | unsafe


def misnamed(policy: Policy) -> Iterator[Problem]:
    """Rules, rail packs and families that no guard knows: the policy's, then what each tenant has beside them."""
    from dataclasses import replace

    own = list(_misnamed(policy))
    yield from own
    for tenant in policy.tenants:
        for problem in _misnamed(policy.for_tenant(tenant)):
            if problem not in own:
                yield replace(problem, path=f"tenants.{tenant}.{problem.path}")


def _misnamed(policy: Policy) -> Iterator[Problem]:
    from shieldkit.policy.model import SafetySettings, TopicSettings
    from shieldkit.policy.problems import Problem, nearest
    from shieldkit.safety import FAMILIES

    for name, section in chain(policy).items():
        place, known = policy.place(name), meanings(name, section)
        for rule in section.rules:
            if known is not None and rule not in known:
                yield Problem(f"{place}.rules.{rule}", "the guard has no such rule", nearest(rule, known, "Its rules"))
        if isinstance(section, SafetySettings) and section.family not in FAMILIES:
            mend = f"{nearest(section.family, FAMILIES)} There are: {', '.join(FAMILIES)}"
            yield Problem(f"{place}.family", f"'{section.family}' is not known", mend)
        if isinstance(section, TopicSettings) and not _may_be_pack(section.pack):
            yield _no_pack(f"{place}.pack", section.pack)


def _may_be_pack(name: str) -> bool:
    """A path may be there where the policy is used; a bare name is a built-in pack's, or that of a folder here."""
    from shieldkit.rails.pack import built_in_packs

    return name in built_in_packs() or Path(name).name != name or Path(name).is_dir()


def _no_pack(place: str, name: str) -> Problem:
    from shieldkit.policy.problems import Problem, nearest
    from shieldkit.rails.pack import built_in_packs

    mend = f"{nearest(name, built_in_packs(), 'Built-in packs')} A folder of your own is written ./{name}"
    return Problem(place, f"'{name}' is no rail pack", mend)
