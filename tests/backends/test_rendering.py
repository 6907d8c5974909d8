"""Chat templates are input: they run in a sandbox, around placeholders, and cannot lose what was judged."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shieldkit import BackendError, ModelFileError, Segment
from shieldkit.backends.base import Piece
from shieldkit.backends.rendering import ChatTemplate
from shieldkit.conversation import Conversation, Role

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
STRIPPING = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
TOOLS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}{% endfor %}"
)


def rendered(source: str, messages: object) -> str:
    return "".join(piece.text for piece in ChatTemplate(source, "<s>", "</s>").render(Conversation.of(messages)))


def texts(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if not piece.control]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_segments_stand_alone_and_whole(contents: list[str]) -> None:
    conversation = Conversation.of([{"role": "user", "content": c} for c in contents])
    assert texts(ChatTemplate(CHATML).render(conversation)) == contents


@given(st.text())
def test_the_templates_own_pieces_do_not_depend_on_the_text(text: str) -> None:
    def own(content: str) -> str:
        pieces = ChatTemplate(CHATML).render(Conversation.of(content))
        return "\0".join(piece.text for piece in pieces if piece.control)

    assert own(text) == own("x") or text == ""


def test_documents_and_tool_results_become_turns_that_any_template_knows() -> None:
    out = rendered(ALTERNATING, [Segment("d", role=Role.DOCUMENT), Segment("t", role=Role.TOOL), "u"])
    assert out == "[user]Document:\nd\nEnd of document.\n\nTool result:\nt\n\nu"


def test_a_system_prompt_is_not_lost_by_templates_without_one() -> None:
    assert rendered(NO_SYSTEM, [{"role": "system", "content": "s"}, "u"]) == "[user]s\n\nu"


@given(st.text(min_size=1), st.text(min_size=1))
def test_text_inside_json_is_escaped_and_reads_back(key: str, value: str) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {key: value}}}
    out = rendered(TOOLS, [{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert json.loads(out.removeprefix("[assistant]"))["arguments"] == {key: value}
    plain = rendered(CHATML, [{"role": "tool", "content": {key: [value]}}])
    start, end = plain.index("result:\n") + 8, plain.rindex("<|im_end|>")
    assert json.loads(plain[start:end]) == {key: [value]}


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.role }}{% endfor %}",
        "{{ messages[-1].content[-40:] }}",
        "{{ messages[0].content[:9] }}",
        "{{ messages[0].content | upper }}",
    ],
)
def test_a_template_that_loses_or_cuts_a_text_is_an_error(source: str) -> None:
    with pytest.raises(BackendError):
        rendered(source, ["one", "two"])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_hostile_template_is_contained(source: str) -> None:
    with pytest.raises(BackendError):
        rendered(source, "hello")


@pytest.mark.parametrize("source", ["{% if %}", "{{", "x" * 200_001])
def test_what_is_no_template_is_a_model_file_error(source: str) -> None:
    with pytest.raises(ModelFileError):
        rendered(source, "hello")
