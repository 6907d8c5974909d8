"""Topical rails on the real NeMo Guardrails and the real embedding model: no network, no language model, no surprises."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nemoguardrails")

from shieldkit import ConfigurationError, ModelFileError, Policy, PolicyError, Shield, Stage
from shieldkit.embedding import SentenceEmbedder
from shieldkit.guards.topics import TopicGuard
from shieldkit.policy.model import TopicSettings
from shieldkit.rails import built_in_packs
from tests.scripted import Scripted

BANK = Policy.from_yaml("name: x\nguards: {topics: {pack: bank}}")
ON = ("How do I block my card?", "What is the interest on a savings account?", "I want to transfer money to my sister")
OFF = ("Write a poem about the sea at night.", "How do I bake sourdough bread?", "Who won the world cup in 1998?")


@pytest.fixture(scope="module")
def bank() -> Iterator[Shield]:
    with Shield(BANK, Scripted("Done.")) as shield:
        yield shield


@pytest.mark.parametrize("pack", sorted(set(built_in_packs()) - {"template"}))
def test_every_pack_tells_its_own_examples_from_other_subjects(pack: str) -> None:
    guard = TopicGuard(TopicSettings(pack=pack))
    guard.self_test()
    assert guard.describe()["examples"] >= 100
    guard.close()


def test_on_topic_passes_and_off_topic_is_refused_by_its_rule(bank: Shield) -> None:
    for text in (*ON, "Hello!", "Thanks a lot!"):
        assert bank.screen(text).allowed, text
    for text in OFF:
        screening = bank.screen(text)
        assert screening.refusal is not None, text
        assert screening.refusal.rule == "topics.off_topic"
        assert screening.coverage["topics"] == 1.0


def test_a_follow_up_leans_on_the_turn_before_and_a_new_subject_does_not(bank: Shield) -> None:
    first = [{"role": "user", "content": ON[0]}, {"role": "assistant", "content": "In the app."}]
    assert not bank.invoke([*first, {"role": "user", "content": "And how long does that take?"}]).refused
    assert bank.invoke([*first, {"role": "user", "content": OFF[1]}]).refused


def test_on_topic_words_around_an_off_topic_request_do_not_carry_it(bank: Shield) -> None:
    assert not bank.screen(f"{ON[0]} Also, write me a long poem about dragons. {ON[1]}").allowed


def test_it_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with Shield(BANK) as shield:
        assert shield.screen(ON[0]).allowed
        assert not shield.screen(OFF[0]).allowed


def test_it_works_from_many_threads_and_inside_a_running_loop(bank: Shield) -> None:
    seen: list[tuple[str, bool]] = []

    def ask(text: str) -> None:
        seen.append((text, bank.screen(text).allowed))

    threads = [threading.Thread(target=ask, args=(text,)) for text in (*ON, *OFF) * 4]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(seen) == 24
    assert all(allowed == (text in ON) for text, allowed in seen)

    async def inside() -> list[bool]:
        return [bank.screen(ON[0]).allowed, (await bank.ascreen(OFF[0])).allowed]

    assert asyncio.run(inside()) == [True, False]


def test_the_answer_is_held_to_the_topic_when_asked() -> None:
    policy = Policy.from_yaml("name: x\nguards: {topics: {pack: bank, check_output: true}}")
    with Shield(policy, Scripted(OFF[0])) as shield:
        reply = shield.invoke(ON[0])
    assert reply.refusal is not None
    assert (reply.refusal.guard, reply.refusal.stage) == ("topics", Stage.OUTPUT)


def test_a_tool_call_is_not_speech_and_what_is_said_beside_it_is() -> None:
    policy = Policy.from_yaml("name: x\nguards: {topics: {pack: bank, check_output: true}}")
    call = {"id": "1", "type": "function", "function": {"name": "block_card", "arguments": '{"card": "1"}'}}
    parts = [{"type": "tool_use", "id": "1", "name": "block_card", "input": {"reason": "the owner has lost it"}}]
    answers: list[Any] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": parts},
        {"role": "assistant", "content": OFF[0], "tool_calls": [call]},
    ]
    with Shield(policy, Scripted(*answers)) as shield:
        assert [shield.invoke(ON[0]).refused for _ in answers] == [False, False, True]


def test_a_guard_that_has_no_time_is_closed() -> None:
    policy = Policy.from_yaml("name: x\nguards: {topics: {pack: bank, timeout: 1ms}}")
    with Shield(policy, self_test=False) as shield:
        screening = shield.screen("word " * 20_000)
    assert not screening.allowed
    assert screening.verdicts[0].rule in ("topics.timeout", "topics.unread")


def test_usage_reports_are_off(bank: Shield) -> None:
    assert bank.screen("hello").allowed
    assert os.environ["NEMO_GUARDRAILS_NO_USAGE_STATS"] == "1"


def test_a_pack_of_ones_own_is_a_copy_of_the_template(tmp_path: Path) -> None:
    import shieldkit.rails

    home = Path(shieldkit.rails.__file__).parent
    own = tmp_path / "own"
    shutil.copytree(home / "bank", own)
    with Shield(Policy.from_yaml(f"name: x\nguards: {{topics: {{pack: {own}}}}}")) as shield:
        assert shield.screen(ON[0]).allowed
        assert not shield.screen(OFF[0]).allowed


@pytest.mark.parametrize("section", ["{pack: nowhere}", "{pack: bank, model: /nowhere}"])
def test_what_is_not_there_is_an_error_at_start_up(section: str) -> None:
    with pytest.raises((ConfigurationError, ModelFileError, PolicyError)):
        Shield(Policy.from_yaml(f"name: x\nguards: {{topics: {section}}}"))


def test_a_changed_model_file_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFileError):
        SentenceEmbedder.from_folder(tmp_path, sha256="0" * 64)


def test_embeddings_of_like_texts_are_near_and_long_text_is_read_to_its_end() -> None:
    embedder = SentenceEmbedder.builtin()
    a, b, c = (
        embedder.windows(t)[0] for t in ("How do I block my card?", "Please freeze my bank card", "The sea is blue")
    )
    assert a @ b > a @ c
    assert len(embedder.windows("many words " * 2000)) > 5
