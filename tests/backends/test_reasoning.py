"""What a model thinks is told apart from what it answers, and judged all the same. The text is a script, the rest is real."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from shieldkit import Policy, Shield
from shieldkit.backends import LlamaCpp, OpenAICompatible
from shieldkit.backends.base import Completion, CompletionRequest
from shieldkit.backends.llama_cpp import _CHATML
from shieldkit.backends.reasoning import Thoughts
from shieldkit.conversation import Conversation
from tests.scripted import cut
from tests.upstream import Exchange, Handler, upstream
from tests.upstream import says as answers

POLICY = Policy.from_yaml("name: x\nstreaming: {mode: windowed}\nguards: {markers: {}, leak: {}, schema: {}}")
# The template of Qwen3 takes old thoughts out of the history; that of DeepSeek R1 begins the new ones.
QWEN = _CHATML + "{% if false %}{{ message.content.split('</think>')[-1] }}{% endif %}"
DEEPSEEK = QWEN + "{{ '<think>\\n' }}"
Say = Callable[[str, str], LlamaCpp]


@pytest.fixture(scope="module")
def models(smollm2_path: Path) -> Iterator[dict[str, LlamaCpp]]:
    templates = {"qwen": QWEN, "deepseek": DEEPSEEK, "plain": _CHATML}
    opened = {
        name: LlamaCpp(smollm2_path, threads=1, context_tokens=2048, chat_template=template)
        for name, template in templates.items()
    }
    for backend in opened.values():
        backend.open(2048)
    yield opened
    for backend in opened.values():
        backend.close()


@pytest.fixture
def says(models: dict[str, LlamaCpp], monkeypatch: pytest.MonkeyPatch) -> Say:
    """A model by its name that generates the tokens of a text, and then its end."""

    def made(name: str, text: str) -> LlamaCpp:
        llama = models[name]._llama
        tokens = [*llama.tokenize(text.encode(), add_bos=False, special=True), llama.token_eos()]
        monkeypatch.setattr(llama, "generate", lambda ids, **_: iter(tokens))
        return models[name]

    return made


def whole(backend: LlamaCpp, tokens: int = 200) -> tuple[list[str], Completion]:
    *bits, last = backend.stream(CompletionRequest(Conversation.of("hello"), tokens))
    assert isinstance(last, Completion)
    assert "".join(map(str, bits)) == last.message["content"]
    return [str(bit) for bit in bits], last


@pytest.mark.parametrize(
    ("name", "text", "thought", "answer"),
    [
        ("qwen", "<think>\nOh, a < b.\n</think>\n\nThe answer.", "Oh, a < b.", "The answer."),
        ("qwen", "\n<think>\n\n</think>\n\nThe answer.", None, "The answer."),
        ("qwen", "The answer.", None, "The answer."),
        ("qwen", "The <think>answer</think>.", None, "The <think>answer</think>."),
        ("qwen", "<think>Oh.</think>The answer</think>.", "Oh.", "The answer</think>."),
        ("qwen", "<think>Oh, that", "Oh, that", ""),
        ("qwen", "<thi", None, "<thi"),
        ("deepseek", "Oh.\n</think>\n\nThe answer.", "Oh.", "The answer."),
        ("deepseek", "<think>\nOh.\n</think>\n\nThe answer.", "Oh.", "The answer."),
        ("deepseek", "Oh, that </thi", "Oh, that </thi", ""),
        ("plain", "<think>Oh.</think>The answer.", None, "<think>Oh.</think>The answer."),
    ],
)
def test_what_was_thought_is_reasoning_and_no_text(
    says: Say, name: str, text: str, thought: str | None, answer: str
) -> None:
    backend = says(name, text)
    _, last = whole(backend)
    assert (last.message["content"], last.message.get("reasoning_content")) == (answer, thought)
    assert backend.complete(CompletionRequest(Conversation.of("hello"), 200)) == last
    assert last.finish_reason == "stop"


def test_thoughts_that_reach_the_limit_are_thoughts_and_are_paid_for(says: Say) -> None:
    bits, last = whole(says("qwen", "<think>\nOh, " + "and so on, " * 40), tokens=20)
    assert (bits, last.finish_reason, last.output_tokens) == ([], "length", 20)
    assert str(last.message["reasoning_content"]).startswith("Oh, and so on")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("<think>\nOh.\n</think>\n\nThe answer.", ""),
        ("<think>It is AKIA" + "FAKEFAKEFAKEFAKE</think>The answer.", "leak.aws_key"),
        ("<think>Oh. <|im_start|>system</think>The answer.", "markers.control_token"),
        ("<think>Oh. <think>Well.</think>The answer.", "markers.control_token"),
        ("<think>Oh.</think>The answer.</think>Or not.", "markers.control_token"),
        ("The answer.<think>Oh.</think>", "markers.control_token"),
    ],
)
def test_reasoning_is_judged_and_ordinary_reasoning_passes(says: Say, text: str, rule: str) -> None:
    with Shield(POLICY, says("qwen", text)) as shield:
        reply = shield.invoke("hello")
        *_, last = shield.stream("hello")
    assert last.reply is not None
    for found in (reply, last.reply):
        assert (found.refusal.rule if found.refusal else "") == rule
    if not rule:
        assert (reply.text, (reply.message or {})["reasoning_content"]) == ("The answer.", "Oh.")


def test_a_schema_is_held_against_the_answer_alone(says: Say) -> None:
    # The second one is generated under a grammar, which has no marks: what comes is the answer, also after an open mark.
    for name, text in (("qwen", '{"n": 1}'), ("deepseek", '{"n": 1}')):
        with Shield(POLICY, says(name, text)) as shield:
            assert shield.invoke("hello", schema={"type": "object"}).data == {"n": 1}
    unknown = {"$ref": "https://example.org/none.json"}  # llama.cpp makes no grammar of it
    backend = says("qwen", '<think>Oh, {"n": 2}.</think>\n{"n": 1}')
    answer = backend.complete(CompletionRequest(Conversation.of("hello"), 200, schema=unknown)).message
    assert answer["content"] == '{"n": 1}'


# -- servers: an answer to ids is read by none of their parsers ---------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte for each token, beside the control tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: i + 4 for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=letters, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


def served(text: str) -> Handler:
    """The text, whole or in bits of five characters, as the one who asks wants it."""

    def handler(exchange: Exchange) -> None:
        usage = {"prompt_tokens": len(exchange.body["prompt"]), "completion_tokens": 9}
        if not exchange.body["stream"]:
            exchange.json({"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage})
            return
        events: list[Any] = [{"choices": [{"text": text[i : i + 5]}]} for i in range(0, len(text), 5)]
        events += [{"choices": [{"text": "", "finish_reason": "stop"}], "usage": usage}]
        exchange.head(content_type="text/event-stream")
        for event in [*map(json.dumps, events), "[DONE]"]:
            exchange.connection.sendall(f"data: {event}\n\n".encode())

    return handler


@pytest.mark.parametrize(
    ("template", "text", "thought", "answer"),
    [
        (QWEN, "<think>\nOh, a < b.\n</think>\n\nThe answer.", "Oh, a < b.", "The answer."),
        (QWEN, "The answer.<", None, "The answer.<"),
        (QWEN, "<think", None, "<think"),
        (DEEPSEEK, "Oh.\n</think>\n\nThe answer.", "Oh.", "The answer."),
        (DEEPSEEK, "Oh, that", "Oh, that", ""),
        (_CHATML, "<think>Oh.</think>The answer.", None, "<think>Oh.</think>The answer."),
    ],
)
def test_what_a_server_writes_after_ids_is_parted_as_well(
    tokenizer: Path, template: str, text: str, thought: str | None, answer: str
) -> None:
    listed = answers({"data": [{"id": "m", "owned_by": "sglang", "max_model_len": 2048}]})
    request = CompletionRequest(Conversation.of("hello"), 200)
    with upstream(v1__models=listed, v1__completions=served(text)) as server:
        backend = OpenAICompatible(f"{server.url}/v1", tokenizer=tokenizer, chat_template=template)
        message = backend.complete(request).message
        *bits, last = backend.stream(request)
        bound = backend.complete(replace(request, schema={"type": "string"})).message
        backend.close()
    assert (message["content"], message.get("reasoning_content")) == (answer, thought)
    assert isinstance(last, Completion)
    assert ("".join(map(str, bits)), last.message) == (answer, message)
    # Under a schema the engine has left the model no marks to write: nothing is taken for the rest of its thoughts.
    assert (bound == message) == (template != DEEPSEEK)


BLANKS = st.sampled_from(["", "\n", "\n\n", " "])
PIECES = st.lists(st.sampled_from(["a", "<", "</", "think", ">", "<think>", "\n", " b"]), max_size=8).map("".join)


@given(PIECES, BLANKS, PIECES, st.lists(st.integers(0, 60), max_size=8), st.booleans())
@example("", "", "", [], False)
def test_however_the_text_is_cut_the_same_is_thought(
    thought: str, blank: str, answer: str, places: Sequence[int], opened: bool
) -> None:
    assume("</think>" not in thought)
    text = ("" if opened else f"{blank}<think>") + f"{thought}</think>{blank}{answer}"
    one, many = Thoughts(opened), Thoughts(opened)
    said = one.after(text) + one.rest()
    bits = [many.after(bit) for bit in cut(text, places)]
    assert ("".join(bits) + many.rest(), many.text) == (said, one.text)
    assert said == answer.lstrip()
    begun = thought.lstrip()
    assert one.text == (begun.removeprefix("<think>") if opened else thought).strip()
