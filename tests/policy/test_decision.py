"""The policy decides: by threshold, rule, role and trust; what was not read or not judged is closed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldkit.conversation import Role, Segment
from shieldkit.outcome import Action, Coverage, Finding, Span, Stage, Status, Verdict
from shieldkit.policy.decision import REDACTED, decide, failed, not_run, redacted
from shieldkit.policy.model import GuardSettings, InjectionSettings, Rule

USER = Segment("some text of a user")
SYSTEM = Segment("some text of the app", role=Role.SYSTEM)
TOOL = Segment("some text of a tool", role=Role.TOOL)

WHOLE = Coverage(19, 19)


def found(score: float, segment: int = 0, rule: str = "r", coverage: Coverage = WHOLE) -> Verdict:
    finding = Finding("g", rule, score, segment, 0, 4, "m")
    return Verdict("g", Stage.INPUT, Status.RAN, Action.BLOCK, Action.BLOCK, coverage, findings=(finding,))


@pytest.mark.parametrize(
    ("score", "expected"), [(0.1, Action.ALLOW), (0.3, Action.FLAG), (0.49, Action.FLAG), (0.5, Action.BLOCK)]
)
def test_a_finding_counts_from_its_threshold_on(score: float, expected: Action) -> None:
    settings = GuardSettings(threshold=0.5, flag_threshold=0.3)
    assert decide(found(score), settings, [USER], (), "enforce").verdict.action is expected


def test_a_rule_of_its_own_comes_before_the_head() -> None:
    settings = GuardSettings(rules={"r": Rule(action=Action.FLAG, threshold=0.9)})
    assert decide(found(0.8), settings, [USER], (), "enforce").verdict.action is Action.ALLOW
    assert decide(found(0.9), settings, [USER], (), "enforce").verdict.action is Action.FLAG


def test_text_of_the_application_itself_is_flagged_at_most() -> None:
    assert decide(found(1.0), GuardSettings(), [SYSTEM], (), "enforce").verdict.action is Action.FLAG


def test_data_has_a_threshold_of_its_own() -> None:
    settings = InjectionSettings(threshold=0.9, data_threshold=0.2)
    assert decide(found(0.5), settings, [USER], (), "enforce").verdict.action is Action.ALLOW
    assert decide(found(0.5), settings, [TOOL], (), "enforce").verdict.action is Action.BLOCK


def test_unread_text_is_not_passed() -> None:
    verdict = decide(found(0.0, coverage=Coverage(18, 19)), GuardSettings(), [USER], ("p",), "enforce").verdict
    assert (verdict.action, verdict.rule, verdict.unread) == (Action.BLOCK, "g.unread", ("p",))
    skipped = decide(found(0.0, coverage=Coverage(18, 19)), GuardSettings(on_error="allow"), [USER], (), "enforce")
    assert skipped.verdict.action is Action.FLAG


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMED_OUT, Status.NOT_RUN])
def test_a_guard_that_did_not_judge_never_says_allow(status: Status) -> None:
    blank = found(0.0)
    assert failed(blank, GuardSettings(), status, "error", "x", "enforce").action is Action.BLOCK
    assert failed(blank, GuardSettings(on_error="allow"), status, "error", "x", "enforce").action is Action.FLAG
    assert failed(blank, GuardSettings(), status, "error", "x", "monitor").action is Action.FLAG
    assert not_run("g", Stage.INPUT, 5, "x").action is not Action.ALLOW


@given(st.floats(0, 1), st.sampled_from(list(Action)))
def test_monitor_mode_blocks_nothing_and_says_what_it_would_have_done(score: float, action: Action) -> None:
    settings = GuardSettings(action=action)
    watched = decide(found(score), settings, [USER], (), "monitor")
    enforced = decide(found(score), settings, [USER], (), "enforce")
    assert watched.verdict.action.severity <= Action.FLAG.severity
    assert watched.verdict.would is enforced.verdict.action
    assert not watched.redact


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda p: Span(min(p), max(p))), max_size=5)


@given(st.text(min_size=31, max_size=40), spans)
def test_redaction_removes_exactly_what_was_marked(text: str, marked: list[Span]) -> None:
    out = redacted(text, marked)
    kept = "".join(c for i, c in enumerate(text) if not any(s.start <= i < s.end for s in marked))
    assert out.replace(REDACTED, "") == kept.replace(REDACTED, "") or REDACTED in text
    assert redacted(text, marked) == out


@given(st.text(min_size=31, max_size=40), spans, st.text())
def test_redaction_is_append_stable(text: str, marked: list[Span], more: str) -> None:
    assert redacted(text + more, marked) == redacted(text, marked) + more
