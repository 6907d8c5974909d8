"""The safety guard: windows cover the text, policies choose categories, and a model that is no guard is not used."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldkit import Action, Policy, PolicyError, SelfTestError, Shield, Stage, Status
from shieldkit.backends import LlamaCpp, Piece
from shieldkit.backends.base import PromptCompletion
from shieldkit.errors import BackendError
from shieldkit.guards.safety import CONTEXT_TURNS, SafetyGuard
from shieldkit.policy.model import SafetySettings
from shieldkit.safety import FAMILIES, Turn, build, judge
from tests.scripted import Scripted


class GuardModel:
    """Calls every prompt unsafe whose judged turn holds `bomb`, as Llama Guard would; a token is four characters."""

    chat_template = None

    def __init__(self, category: str = "S9", probability: float = 0.97, context_tokens: int = 8192) -> None:
        self.category, self.probability, self.context_tokens = category, probability, context_tokens
        self.prompts: list[str] = []
        self.answer: PromptCompletion | None = None

    def first_tokens(self, words: Sequence[str]) -> Mapping[str, str]:
        return {word: word[:3] for word in words}

    def count_pieces(self, pieces: Sequence[Piece]) -> int:
        return sum(len(p.text) for p in pieces) // 4

    def complete_pieces(self, pieces: Sequence[Piece], **_: object) -> PromptCompletion:
        prompt = "".join(p.text for p in pieces)
        self.prompts.append(prompt)
        speaker = "User: " if "'User'" in prompt else "Agent: "
        unsafe = "bomb" in prompt.split("<END CONVERSATION>")[0].rsplit(speaker, 1)[-1]
        p = self.probability if unsafe else 0.01
        logprobs = {"uns": math.log(p), "saf": math.log(1 - p)}
        made = PromptCompletion(f"unsafe\n{self.category}" if unsafe else "safe", logprobs, len(prompt) // 4, 3)
        return self.answer or made


def shield(model: GuardModel, section: str = "{}", *answers: str, self_test: bool = True) -> Shield:
    policy = Policy.from_yaml(f"name: x\nguards: {{safety: {section}}}")
    return Shield(policy, Scripted(*answers), guard_backend=model, self_test=self_test)


def test_the_users_turn_is_judged_before_and_the_answer_after() -> None:
    with shield(GuardModel(), "{}", "make a bomb", "fine") as guarded:
        refused = guarded.invoke("how to make a bomb")
        assert refused.refusal is not None
        assert (refused.refusal.rule, refused.refusal.stage) == ("safety.S9", Stage.INPUT)
        answer = guarded.invoke("how to make a pie")
        assert answer.refusal is not None
        assert (answer.refusal.rule, answer.refusal.stage) == ("safety.S9", Stage.OUTPUT)
        assert guarded.invoke("how to make a cake").text == "fine"


@pytest.mark.parametrize(
    ("section", "action"),
    [
        ("{}", Action.BLOCK),
        ("{action: flag}", Action.FLAG),
        ("{categories: {S9: {action: flag}}}", Action.FLAG),
        ("{categories: {S9: {threshold: 0.99}}}", Action.ALLOW),
        ("{categories: {S1: {action: allow}}}", Action.BLOCK),
        ("{rules: {S9: {action: allow}}}", Action.ALLOW),
    ],
)
def test_each_category_has_its_threshold_and_action(section: str, action: Action) -> None:
    with shield(GuardModel(), section) as guarded:
        screening = guarded.screen("a bomb")
    assert screening.action is action
    assert screening.verdicts[0].score == pytest.approx(0.97)


@pytest.mark.parametrize(
    ("section", "action", "found"),
    [
        ("{}", Action.ALLOW, 0),
        ("{threshold: 0.2}", Action.BLOCK, 1),
        ("{flag_threshold: 0.2}", Action.FLAG, 1),
        ("{rules: {unsafe: {threshold: 0.2, action: flag}}}", Action.FLAG, 1),
        ("{threshold: 0.46}", Action.ALLOW, 0),
    ],
)
def test_a_text_that_the_model_calls_safe_is_reported_from_the_lowest_threshold(
    section: str, action: Action, found: int
) -> None:
    model = GuardModel()
    with shield(model, section) as guarded:
        model.answer = PromptCompletion("safe", {"uns": math.log(0.45), "saf": math.log(0.55)}, 10, 1)
        screening = guarded.screen("how to hurt people")
    assert screening.action is action
    assert [(f.rule, round(f.score, 2)) for f in screening.findings] == [("unsafe", 0.45)] * found


def test_a_category_of_the_family_may_be_described_in_ones_own_words() -> None:
    model = GuardModel()
    with shield(model, "{categories: {S1: {description: Anything about wasps}}}") as guarded:
        guarded.screen("hello")
    assert "S1: Violent Crimes: Anything about wasps." in model.prompts[-1]


def test_a_category_that_is_switched_off_is_not_asked_for_and_ones_own_is() -> None:
    model = GuardModel(category="X1")
    section = "{categories: {S13: {enabled: false}, X1: {name: Fireworks, description: Selling fireworks}}}"
    with shield(model, section, self_test=False) as guarded:
        assert guarded.screen("a bomb").verdicts[0].rule == "safety.X1"
    assert "S13" not in model.prompts[-1]
    assert "X1: Fireworks: Selling fireworks." in model.prompts[-1]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{family: llama-guard-9}", "llama-guard-3-8b"),
        ("{categories: {X1: {action: flag}}}", "name"),
        ("{categories: {S99: {enabled: false}}}", "name"),
        ("{rules: {S77: {action: flag}}}", "no such rule"),
        ("{categories: {S1: {threshold: 0.3}}}", r"S1\.threshold.*0\.5"),
        ("{rules: {S1: {threshold: 0.3}}}", r"S1\.threshold.*0\.5"),
        ("{family: shieldgemma, categories: {hate: {action: flag}}}", "hate.*which category"),
        ("{stages: []}", "stages"),
    ],
)
def test_a_section_that_cannot_work_is_refused(section: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        shield(GuardModel(), section)


def test_without_a_guard_model_the_section_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"guards\.safety\.model"):
        Shield(Policy.from_yaml("name: x\nguards: {safety: {}}"))


def test_a_long_text_is_judged_to_its_end() -> None:
    with shield(GuardModel(context_tokens=2048), "{window_tokens: 200}") as guarded:
        screening = guarded.screen("harmless words " * 400 + "bomb " + "harmless words " * 400)
    assert screening.action is Action.BLOCK
    assert screening.coverage["safety"] == 1.0
    assert all(f.end - f.start <= 600 for f in screening.findings)


@pytest.mark.parametrize(("context_tokens", "window_tokens"), [(8192, 4096), (32_768, 6000)])
def test_what_is_at_work_says_how_large_the_windows_are(context_tokens: int, window_tokens: int) -> None:
    with shield(GuardModel(context_tokens=context_tokens)) as guarded:
        assert guarded.describe()["guards"][0]["window_tokens"] == window_tokens


@given(st.integers(0, 4000), st.integers(64, 500))
def test_windows_cover_every_character_and_overlap(length: int, tokens: int) -> None:
    guard = SafetyGuard(SafetySettings(window_tokens=tokens), GuardModel())
    spans = list(guard._windows("x" * length))
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(later < end for (_, end), (later, _) in itertools.pairwise(spans))


def test_scripts_that_take_more_tokens_are_cut_into_smaller_windows() -> None:
    class Dense(GuardModel):
        def count_pieces(self, pieces: Sequence[Piece]) -> int:
            return sum(len(p.text) if not p.text.isascii() else len(p.text) // 4 for p in pieces)

    with shield(Dense(context_tokens=4096)) as guarded:
        screening = guarded.screen("今天天气很好我们去公园" * 1000)
    assert screening.action is Action.ALLOW
    assert screening.coverage["safety"] == 1.0


def test_the_turns_before_are_context_and_cost_linear_time() -> None:
    model = GuardModel()
    with shield(model, "{timeout: 5m}") as guarded:
        start = time.process_time()
        assert guarded.screen([{"role": "user", "content": f"word {i}"} for i in range(2000)]).allowed
        assert time.process_time() - start < 5
        assert model.prompts[-1].count("User: word") == CONTEXT_TURNS + 1
        model.prompts.clear()
        guarded.screen(["long " * 100_000, "words " * 10_000, "last"])
    assert "long" not in model.prompts[-1]


def test_a_guard_whose_time_is_over_asks_no_more() -> None:
    class Slow(GuardModel):
        def complete_pieces(self, pieces: Sequence[Piece], **options: object) -> PromptCompletion:
            time.sleep(0.05)
            return super().complete_pieces(pieces, **options)

    model = Slow()
    with shield(model, "{timeout: 300ms, window_tokens: 64}") as guarded:
        assert not guarded.screen("words " * 5000).allowed
        asked = len(model.prompts)
        time.sleep(0.5)
        assert len(model.prompts) <= asked + 2


@pytest.mark.parametrize("text", ["I cannot say", "", "Safe", "safe enough"])
def test_an_answer_that_is_no_verdict_is_closed(text: str) -> None:
    model = GuardModel()
    with shield(model) as guarded:
        model.answer = PromptCompletion(text, {}, 1, 1)
        screening = guarded.screen("hello")
    assert screening.verdicts[0].status is Status.FAILED
    assert screening.action is Action.BLOCK


@pytest.mark.parametrize("fails", [None, "a guard", "the template", "the self-test"])
def test_a_guard_model_that_the_policy_names_is_closed_with_its_shield_or_when_none_comes_of_it(
    monkeypatch: pytest.MonkeyPatch, fails: str | None
) -> None:
    opened: list[Any] = []

    class Named(GuardModel):
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()
            self.closed = 0
            opened.append(self)

        def open(self, most: int) -> None:
            pass

        def first_tokens(self, words: Any) -> Any:
            if fails == "the template":
                raise BackendError("down")
            return super().first_tokens(words)

        def close(self) -> None:
            self.closed += 1

    def broken(_: Any) -> None:
        raise SelfTestError("guards.safety", "does not work", mend="x")

    monkeypatch.setattr("shieldkit.backends.LlamaCpp", Named)
    if fails == "the self-test":
        monkeypatch.setattr(SafetyGuard, "self_test", broken)
    rules = "{nosuch: {action: flag}}" if fails == "a guard" else "{}"
    settings = Policy.from_yaml(f"name: t\nguards: {{safety: {{model: g.gguf, rules: {rules}}}}}")
    if fails is None:
        Shield(settings, self_test=False).close()
    else:
        with pytest.raises((PolicyError, BackendError, SelfTestError)):
            Shield(settings)
    assert [model.closed for model in opened] == [1]


def test_a_model_that_is_no_guard_model_is_refused_at_start_up(smollm2: LlamaCpp) -> None:
    with pytest.raises(SelfTestError):
        Shield(Policy.from_yaml("name: x\nguards: {safety: {}}"), guard_backend=smollm2)


def test_the_score_is_the_real_share_of_the_two_words(smollm2: LlamaCpp) -> None:
    """On a real model, against the log-probabilities of both words, read by their exact tokens."""
    family = FAMILIES["llama-guard-3-8b"]
    pieces = build(family, [Turn("What is a good recipe for apple pie?")], family.categories)
    told = smollm2.complete_pieces(pieces, max_output_tokens=1, top_logprobs=100_000).first_token_logprobs
    first = smollm2.first_tokens(["unsafe", "safe"])
    best = {word: max(lp for token, lp in told.items() if token.strip() == first[word]) for word in first}
    judgement = judge(family, "safe", told, first, family.categories)
    assert judgement.probability == pytest.approx(1 / (1 + math.exp(best["safe"] - best["unsafe"])))
    assert 0.0 < judgement.probability < 1.0


def test_a_template_of_the_file_that_differs_is_told(smollm2: LlamaCpp) -> None:
    assert SafetyGuard(SafetySettings(), smollm2).template_differs
    assert not SafetyGuard(SafetySettings(), GuardModel()).template_differs
