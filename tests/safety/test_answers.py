"""An answer is safe, or unsafe, or an error; never safe by accident."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldkit.errors import GuardError
from shieldkit.safety import FAMILIES, Judgement, judge

GUARD = FAMILIES["llama-guard-3-8b"]
FIRST = {"unsafe": "uns", "safe": "safe"}


def read(text: str, logprobs: dict[str, float] | None = None) -> Judgement:
    return judge(GUARD, text, logprobs or {}, FIRST, GUARD.categories)


@pytest.mark.parametrize(
    ("text", "unsafe", "categories"),
    [
        ("safe", False, ()),
        ("\n\nsafe", False, ()),
        (" safe \n", False, ()),
        ("unsafe\nS1", True, ("S1",)),
        ("\n\nunsafe\nS1,S10", True, ("S1", "S10")),
        ("unsafe\nS1, S1 ,S99", True, ("S1",)),
        ("unsafe", True, ()),
    ],
)
def test_what_the_card_says_is_understood(text: str, unsafe: bool, categories: tuple[str, ...]) -> None:
    judgement = read(text)
    assert (judgement.unsafe, judgement.categories) == (unsafe, categories)


@pytest.mark.parametrize(
    "text", ["", "Safe", "SAFE", "safe.", "it is safe", "safe and sound", "not safe", "un safe", "I", "s"]
)
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(GuardError):
        read(text)


@given(st.text())
def test_rubbish_is_never_safe_and_never_another_error(text: str) -> None:
    try:
        judgement = read(text)
    except GuardError as error:
        with pytest.raises(GuardError) as other:
            read("a cormorant")
        # Hypothesis also draws the words of the error itself.
        assert text.strip() == "" or len(text) < 4 or text not in str(error) or text in str(other.value)
        return
    first = text.strip().splitlines()[0].strip()
    assert first == ("unsafe" if judgement.unsafe else "safe")


@given(st.floats(-50, 0), st.floats(-50, 0))
def test_the_score_is_the_share_of_unsafe_between_the_two_words(a: float, b: float) -> None:
    judgement = read("safe", {"uns": a, "safe": b, "I": -1.0})
    assert math.isclose(judgement.probability, math.exp(a) / (math.exp(a) + math.exp(b)), rel_tol=1e-9)


def test_leading_line_ends_of_a_token_do_not_hide_it() -> None:
    assert read("unsafe\nS1", {"\nuns": -0.1, " safe": -3.0}).probability > 0.9


def test_without_log_probabilities_the_word_decides() -> None:
    assert read("safe").probability == 0.0
    assert read("unsafe\nS2").probability == 1.0


@given(st.dictionaries(st.text(max_size=5), st.floats(), max_size=6))
def test_hostile_log_probabilities_give_a_number_or_a_guard_error(logprobs: dict[str, float]) -> None:
    try:
        probability = read("safe", {**logprobs, "safe": -0.1}).probability
    except GuardError:
        return
    assert 0.0 <= probability <= 1.0


def test_yes_no_families_are_read_the_same_way() -> None:
    granite = FAMILIES["granite-guardian-3"]
    first = {"Yes": "Yes", "No": "No"}
    assert judge(granite, "Yes", {"Yes": -0.1, "No": -3.0}, first, granite.categories).probability > 0.9
    with pytest.raises(GuardError):
        judge(granite, "Maybe", {}, first, granite.categories)
