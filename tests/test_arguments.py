"""What is given in the wrong shape is an error in the tree, and says what to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel

from shieldkit import Inspection, Policy, Shield, ShieldError, guard
from shieldkit.backends import LlamaCpp
from tests.scripted import Scripted

SECRET = "SECRET-TEXT"


def plain(inspection: Inspection) -> None: ...


async def asked_later(request: Any) -> bool:
    return True


class HalfAModel:
    def complete(self, request: Any) -> Any: ...

    def count_tokens(self, conversation: Any, limit: int | None = None) -> int:
        return 1


class Unlike:
    """A guard without stages."""

    name = "unlike"

    def check(self, inspection: Inspection) -> None: ...


own = guard("own")(plain)

AT_START: dict[str, tuple[Callable[[], Any], str]] = {
    "a path": (lambda: Shield(backend="model.gguf"), r"LlamaCpp\('model.gguf'\)"),  # type: ignore[arg-type]
    "a Path": (lambda: Shield(backend=Path("/m/model.gguf")), r"LlamaCpp\('model.gguf'\)"),  # type: ignore[arg-type]
    "a class": (lambda: Shield(backend=LlamaCpp), r"Make one: LlamaCpp\("),  # type: ignore[arg-type]
    "LangChain's": (lambda: Shield(backend=FakeListChatModel(responses=["a"])), r"LangChainModel\("),  # type: ignore[arg-type]
    "no model": (lambda: Shield(backend=object()), "It has no `complete`"),  # type: ignore[arg-type]
    "a dict": (lambda: Shield({"name": "x"}), r"Policy\.from_dict\("),  # type: ignore[arg-type]
    "a text": (lambda: Shield("name: x\nguards: {}"), r"Policy\.from_yaml\("),
    "a bare name": (lambda: Shield("strict"), "Did you mean 'builtin:strict'"),
    "a number": (lambda: Shield(7), "a int is not a policy"),  # type: ignore[arg-type]
    "a function": (lambda: Shield(guards=plain), r"Give guards=\[…\]"),  # type: ignore[arg-type]
    "a guard": (lambda: Shield(guards=own), r"Give guards=\[…\]"),  # type: ignore[arg-type]
    "a list of functions": (lambda: Shield(guards=[plain]), r"guards\[0\]: is a function"),  # type: ignore[list-item]
    "a list of classes": (lambda: Shield(guards=[own, Unlike]), r"guards\[1\]: is a class"),  # type: ignore[list-item]
    "a path of a guard model": (lambda: Shield(guard_backend="guard.gguf"), "It has no `count_pieces`.*LlamaCpp"),  # type: ignore[arg-type]
    "a guard model's class": (lambda: Shield(guard_backend=LlamaCpp), r"make one: LlamaCpp\("),  # type: ignore[arg-type]
    "an address of a ledger": (lambda: Shield(ledger="redis://localhost"), "It has no `reserve`.*MemoryLedger"),  # type: ignore[arg-type]
    "a yes": (lambda: Shield(approver=True), "nobody to ask.*ApprovalRequest"),  # type: ignore[arg-type]
    "a coroutine": (lambda: Shield(approver=asked_later), "is an async function.*ApprovalRequest"),  # type: ignore[arg-type]
    "half a model": (lambda: Shield(backend=HalfAModel()), "It has no `name`"),  # type: ignore[arg-type]
    "half a guard": (lambda: Shield(guards=[Unlike()]), "It has no `stages`"),  # type: ignore[list-item]
}

IN_CALLS: dict[str, tuple[Callable[[Shield], Any], str]] = {
    "a user's id": (lambda s: s.invoke("hi", principal=SECRET), r"Principal\(user="),  # type: ignore[arg-type]
    "a dict of ids": (lambda s: s.invoke("hi", principal={"user": SECRET}), r"Principal\(\*\*"),  # type: ignore[arg-type]
    "a dict of options": (lambda s: s.invoke("hi", options={"max_tokens": 4}), "max_output_tokens"),  # type: ignore[arg-type]
    "bytes": (lambda s: s.screen(SECRET.encode()), r"messages\[0\]: is bytes.*decode\(\)"),
    "bytes in a list": (lambda s: s.screen(["hi", SECRET.encode()]), r"messages\[1\]: is bytes"),
    "a stage": (lambda s: s.screen("hi", stage="outpt"), "Did you mean 'output'"),
    "a stage of guards": (lambda s: s.guards(stage="before"), "Use 'input' or 'output'"),
    "one name": (lambda s: s.screen("hi", only="markers"), r"only=\['markers'\]"),
    "another model": (lambda s: s.with_backend("model.gguf"), "LlamaCpp"),  # type: ignore[arg-type]
}


@pytest.fixture(scope="module")
def shield() -> Any:
    with Shield(Policy.from_yaml("name: x\nguards: {markers: {}}"), Scripted()) as made:
        yield made


@pytest.mark.parametrize("which", AT_START)
def test_what_a_shield_cannot_be_made_of_is_said_with_the_mend(which: str) -> None:
    make, mend = AT_START[which]
    with pytest.raises(ShieldError, match=mend):
        make()


@pytest.mark.parametrize("which", IN_CALLS)
def test_what_a_call_cannot_take_is_said_with_the_mend_and_without_quoting(shield: Shield, which: str) -> None:
    call, mend = IN_CALLS[which]
    with pytest.raises(ShieldError, match=mend) as caught:
        call(shield)
    assert SECRET not in str(caught.value)


def test_guards_that_come_once_are_in_every_tenants_chain() -> None:
    policy = Policy.from_yaml("name: x\nguards: {markers: {}}\ntenants: {a: {mode: monitor}}")
    with Shield(policy, guards=(each for each in [own])) as made:  # type: ignore[arg-type]
        assert "own" in made.guards() and "own" in made.guards("a")
