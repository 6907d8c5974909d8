"""Guards of one's own: what cannot be a guard is said when it is made, and why one failed can be found out."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from shieldkit import Inspection, Policy, Report, Shield, Stage, Verdict, guard
from shieldkit.errors import ConfigurationError, GuardProtocolError
from shieldkit.guards.base import FunctionGuard

SECRET = "SECRET-TEXT"
POLICY = Policy.from_yaml("name: own\nguards: {markers: {}, custom: {own: {timeout: 5s}}}")


def raising(inspection: Inspection) -> Any:
    raise KeyError(f"{SECRET} {[s.text for _, s in inspection.texts()]}")


def posing(inspection: Inspection) -> Any:
    raise GuardProtocolError(f"{SECRET} {[s.text for _, s in inspection.texts()]}")


def judged(function: Callable[[Inspection], Any]) -> Verdict:
    with Shield(POLICY, guards=[FunctionGuard("own", frozenset({Stage.INPUT}), function)]) as shield:
        screening = shield.screen(f"a question with {SECRET}")
    assert screening.refused
    return next(v for v in screening.verdicts if v.guard == "own")


@pytest.mark.parametrize(("function", "why"), [
    (lambda i: True, "own answered with a bool, not a Report"),
    (lambda i: 7, "own answered with a int, not a Report"),
    (lambda i: ["fine"], "own reported a finding without a score in 0..1"),
    (lambda i: [i.finding("r", 1.0, 0, 0, 10_000, SECRET)], "own reported a finding outside the text"),
    (lambda i: Report(score=2.0), "own reported a score outside 0..1"),
])  # fmt: skip
def test_an_answer_that_is_no_report_is_refused_with_what_is_wrong_with_it(
    function: Callable[[Inspection], Any], why: str
) -> None:
    verdict = judged(function)
    assert verdict.reason == f"the guard failed ({why})"
    assert SECRET not in verdict.reason


@pytest.mark.parametrize("function", [raising, posing])
def test_what_a_guard_itself_raises_is_told_by_its_type_alone(
    function: Callable[[Inspection], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SHIELDKIT_DEBUG", raising=False)
    with caplog.at_level(logging.DEBUG, logger="shieldkit"):
        verdict = judged(function)
    assert verdict.reason in ("the guard failed (KeyError)", "the guard failed (GuardProtocolError)")
    assert verdict.error is None
    assert SECRET not in f"{verdict} {caplog.text} {[r.__dict__ for r in caplog.records]}"


def test_with_debugging_the_error_is_kept_and_logged_with_its_traceback_and_in_no_other_form(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHIELDKIT_DEBUG", "1")
    verdict = judged(raising)
    assert isinstance(verdict.error, KeyError)
    assert SECRET not in f"{verdict} {json.dumps(verdict.to_dict())}"
    (logged,) = (r for r in caplog.records if r.exc_info)
    assert logged.levelno == logging.WARNING
    assert "in raising" in caplog.text


def test_an_error_keeps_nothing_of_a_request_when_nobody_debugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHIELDKIT_DEBUG", raising=False)
    assert SECRET.encode() not in pickle.dumps(judged(raising))


async def awaited(inspection: Inspection) -> Any:
    await asyncio.sleep(0)


async def yielding(inspection: Inspection) -> Any:
    yield inspection


class Awaited:
    """A guard that would have to be awaited."""

    name, stages = "own", frozenset({Stage.INPUT})

    async def check(self, inspection: Inspection) -> Report:
        return Report()


@pytest.mark.parametrize("function", [awaited, yielding])
def test_an_async_function_is_no_guard(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"guard 'own': is an async function\. Write it with `def`"):
        guard("own")(function)


def test_a_guard_with_an_async_check_is_found_at_start_up() -> None:
    with pytest.raises(ConfigurationError, match="guard 'own': is an async function"):
        Shield(POLICY, guards=[Awaited()])  # type: ignore[list-item]


def test_a_decorator_without_a_name_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match=r'Write @guard\("no-names"\) above the function'):

        @guard  # type: ignore[arg-type]
        def no_names(inspection: Inspection) -> None: ...


@pytest.mark.parametrize(("stages", "mend"), [
    ("input", r"stages=\{'input'\}"), ({"outpt"}, "Did you mean 'output'"), ({7}, "Use 'input' or 'output'"),
])  # fmt: skip
def test_stages_that_are_none_are_named_with_the_mend(stages: Any, mend: str) -> None:
    with pytest.raises(ConfigurationError, match=mend):
        guard("own", stages=stages)
