"""A conversation holds every string that is sent, as a segment, and can be put back together exactly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
)

from shieldkit.conversation import MAX_DEPTH, Conversation, Kind, Role, Segment, Trust
from shieldkit.errors import InvalidConversation

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
parts = st.fixed_dictionaries({"type": st.sampled_from(["text", "tool_result", "reasoning"]), "text": st.text()})
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from([r.value for r in Role]),
            "content": st.text() | st.lists(parts, max_size=3) | json_values.filter(lambda v: v is not None),
        },
        optional={"tool_calls": st.lists(json_values, max_size=2), "name": st.text(), "extra": json_values},
    ),
    min_size=1,
    max_size=4,
)


def strings_in(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    if isinstance(node, dict):
        return [s for key, value in node.items() for s in (key, *strings_in(value))]
    if isinstance(node, list):
        return [s for item in node for s in strings_in(item)]
    return []


def without_none(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


@given(messages)
def test_the_wire_form_comes_back_exactly_as_it_was(given_messages: list[dict[str, Any]]) -> None:
    assert Conversation.of(given_messages).wire() == [without_none(m) for m in given_messages]


@given(messages)
def test_every_string_that_is_sent_is_a_segment_or_a_known_word_of_the_wire_form(
    given_messages: list[dict[str, Any]],
) -> None:
    conversation = Conversation.of(given_messages)
    hidden = [s for m in conversation.wire(lambda i: "") for s in strings_in(m)]
    structure = {
        "", "role", "content", "type", "text", "tool_calls", "name", "tool_result", "reasoning", "id", "index", "url",
        "input", "output", "function", "arguments", "refusal", "audio", "detail", "thinking", "call_id", "image_url",
        "is_error", "annotations", "tool_use_id", "cache_control", "function_call", "tool_call_id",
        "reasoning_content", "additional_kwargs", "tool_call_chunks", "invalid_tool_calls", "input_text", "output_text",
        "tool_use", "tool_call", "function_call_output", "custom_tool_call", "server_tool_use", "json", "search_result",
        "citation", *(r.value for r in Role),
    }  # fmt: skip
    assert set(hidden) <= structure


@given(messages, st.data())
def test_a_rewritten_segment_stands_where_the_original_stood(
    given_messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    conversation = Conversation.of(given_messages)
    if not conversation.segments:
        return
    index = data.draw(st.integers(0, len(conversation.segments) - 1))
    changed = conversation.with_texts({index: "X"})
    assert changed.segments[index].text == "X"
    assert changed.wire() == conversation.wire(lambda i: "X" if i == index else conversation.segments[i].text)
    assert [s.path for s in changed.segments] == [s.path for s in conversation.segments]


@given(messages, messages)
def test_extending_keeps_the_segments_that_were_there(first: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    base = Conversation.of(first)
    grown = base
    for message in more:
        grown = grown.extend(message)
    assert grown.segments[: len(base.segments)] == base.segments
    assert grown == Conversation.of([*first, *more])


def test_only_the_system_role_is_trusted_and_a_dict_cannot_claim_trust() -> None:
    conversation = Conversation.of([
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u", "trust": "trusted"},
        Segment("d", role=Role.DOCUMENT, origin="https://example.org", trust=Trust.TRUSTED),
    ])  # fmt: skip
    by_text = {s.text: s for s in conversation.segments}
    assert by_text["s"].trusted
    assert not by_text["u"].trusted
    assert by_text["d"].trusted
    assert by_text["d"].origin == "https://example.org"


def test_tool_calls_results_reasoning_and_nested_keys_are_all_segments() -> None:
    conversation = Conversation.of([
        {"role": "assistant", "reasoning_content": "hm", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"q": "x"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": {"deep": [{"evil key": "evil value"}]}},
    ])  # fmt: skip
    kinds = {s.text: s.kind for s in conversation.segments}
    assert kinds["hm"] is Kind.REASONING
    assert kinds['{"q": "x"}'] is Kind.TOOL_CALL
    assert kinds["evil key"] is Kind.KEY
    assert kinds["evil value"] is Kind.TOOL_RESULT
    assert kinds["f"] is Kind.NAME


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


@pytest.mark.parametrize("content", [
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
    [{"type": "tool_result", "content": [{"type": "image", "source": {}}]}],
    [{"no": "type"}],
    [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}],
    {"type": "image_url", "image_url": {"url": "http://x.example"}},
    [{"type": "tool_result", "output": [{"type": "image_url", "image_url": {}}]}],
    [{"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}, IMAGE]}}],
    [{"type": "document", "source": {"media_type": "application/pdf", "data": "JVBERi0="}}],
    [{"type": "text", "text": "x", "video_url": {"url": "http://x.example/v"}}],
    [{"type": "text", "text": "x", "audio_url": "http://x.example/a"}],
    [{"type": "text", "text": "x", "file_id": "abc"}],
    [{"type": "function_call_output", "output": {"content": [IMAGE]}}],
    [{"type": "text", "text": [IMAGE]}],
    [[IMAGE]],
    [["x", [{"type": "text", "text": "x", "video_url": "u"}]]],
    {"content": [IMAGE]},
    {"a": {"b": [{"image_url": {"url": "u"}}]}},
])  # fmt: skip
def test_parts_that_no_guard_can_read_are_listed(content: list[dict[str, Any]]) -> None:
    assert Conversation.of({"role": "user", "content": content}).unreadable


@pytest.mark.parametrize("key", ["images", "audio", "image_url", "video_url", "image_data"])
def test_media_beside_the_content_are_listed(key: str) -> None:
    assert Conversation.of({"role": "user", "content": "look", key: ["iVBORw0KGgo"]}).unreadable


def test_data_that_merely_has_a_type_key_is_readable() -> None:
    assert not Conversation.of({"role": "tool", "content": {"pets": [{"type": "dog"}]}}).unreadable
    assert not Conversation.of({"role": "tool", "content": {"found": [{"file": "main.py", "type": "text"}]}}).unreadable


def test_what_a_tool_is_called_with_is_text() -> None:
    function = {"name": "draw", "arguments": {"image": {"width": 3}, "type": "image"}}
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    assert not Conversation.of(called).unreadable
    part = {"type": "document", "source": {"content": [{"type": "text", "text": "x"}]}}
    assert not Conversation.of({"role": "user", "content": [part]}).unreadable


@pytest.mark.parametrize(("message", "hint"), [
    ({"role": "user", "text": "SECRET"}, "it has 'text'"),
    ({"role": "user", "parts": [{"text": "SECRET"}]}, "it has 'parts'"),
    ({"role": "user"}, "give ''"),
    ({"role": "user", "content": None}, "give ''"),
    ({"role": "system", "name": "SECRET"}, "give ''"),
    ({"role": "tool", "tool_call_id": "c1"}, "give ''"),
    ({"role": "assistant"}, "give ''"),
    ({"role": "assistant", "tool_calls": []}, "give ''"),
    ({"role": "user", "tool_calls": [{"id": "c1"}]}, "give ''"),
])  # fmt: skip
def test_a_message_without_content_is_refused_with_its_place_and_a_hint(message: dict[str, Any], hint: str) -> None:
    for given_messages in (message, [{"role": "system", "content": "s"}, message]):
        with pytest.raises(InvalidConversation) as caught:
            Conversation.of(given_messages)
        assert caught.value.path == f"messages[{1 if isinstance(given_messages, list) else 0}].content"
        assert hint in str(caught.value)
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("message", [
    {"role": "user", "content": ""},
    {"role": "user", "images": ["iVBORw0KGgo"]},
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f"}}]},
    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "assistant", "content": None, "refusal": "no"},
    {"role": "assistant", "reasoning_content": "hm"},
    {"role": "assistant", "audio": {"id": "a1"}},
    {"role": "function", "name": "f", "content": None},
    AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "c1"}]),
])  # fmt: skip
def test_what_the_wire_form_says_without_text_is_a_message(message: Any) -> None:
    assert len(Conversation.of(message).messages) == 1


def test_a_single_langchain_message_is_one_message() -> None:
    assert Conversation.of(HumanMessage("hi")) == Conversation.of([HumanMessage("hi")])


def test_langchain_messages_become_the_same_conversation_as_dicts() -> None:
    call = {"name": "f", "args": {"x": "y"}, "id": "c1", "type": "tool_call"}
    conversation = Conversation.of([
        SystemMessage("s"), HumanMessage("u"), AIMessage("a", tool_calls=[call]), ToolMessage("r", tool_call_id="c1"),
    ])  # fmt: skip
    assert [m.role for m in conversation.messages] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL]
    assert conversation.wire()[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": "y"}}
    assert conversation.wire()[3] == {"role": "tool", "content": "r", "tool_call_id": "c1"}


class Told:
    def __str__(self) -> str:
        return "told"


def test_what_a_langchain_message_carries_beside_its_content_is_read() -> None:
    """Hosts and providers' packages read it, so whoever passes the message on passes this on with it."""
    broken = {"name": "f", "args": '{"a', "id": "c1", "error": "not JSON", "type": "invalid_tool_call"}
    raw = {"id": "c2", "type": "function", "function": {"name": "g", "arguments": '{"b": 1}'}}
    extra = {"function_call": {"name": "h", "arguments": "{}"}, "lc_source": "summary", "n": {"x": [Told()]}}
    message = AIMessage("a", invalid_tool_calls=[broken], additional_kwargs={**extra, "tool_calls": [raw]})
    conversation = Conversation.of(message)
    assert {'{"a', "not JSON", '{"b": 1}', "g", "h", "summary", "told"} <= {s.text for s in conversation.segments}
    (wire,) = conversation.wire()
    assert (wire["tool_calls"], wire["function_call"]) == ([raw], extra["function_call"]), "where the tools guard looks"
    kinds = {s.text: s.kind for s in conversation.segments}
    assert {kinds[text] for text in ("lc_source", "summary", "n", "told")} == {Kind.EXTRA}
    parsed = {"name": "g", "args": {"b": 2}, "id": "c2", "type": "tool_call"}
    both = Conversation.of(AIMessage("a", tool_calls=[parsed], additional_kwargs={"tool_calls": [raw]}))
    assert len(both.wire()[0]["tool_calls"]) == 1
    assert '{"b": 1}' in {s.text for s in both.segments}


def test_data_cannot_claim_to_be_an_extra() -> None:
    conversation = Conversation.of({"role": "tool", "content": {"additional_kwargs": {"deep": "x"}}})
    assert Kind.EXTRA not in {s.kind for s in conversation.segments}


def test_media_beside_the_content_of_a_langchain_message_are_listed() -> None:
    assert Conversation.of(AIMessage("a", additional_kwargs={"audio": {"id": "1", "data": "AAAA"}})).unreadable


def test_extras_of_a_message_that_go_round_are_an_error_and_not_a_crash() -> None:
    extra: dict[str, Any] = {}
    extra["a"] = extra
    with pytest.raises(InvalidConversation) as caught:
        Conversation.of(HumanMessage("a", additional_kwargs=extra))
    assert caught.value.path == "messages[0].additional_kwargs"


def test_langchain_chunks_are_messages() -> None:
    call = {"name": "f", "args": '{"x": "y"', "id": "c1", "index": 0, "type": "tool_call_chunk"}
    chunks = [
        HumanMessageChunk("u"),
        AIMessageChunk("a", tool_call_chunks=[call]),
        ChatMessageChunk("s", role="system"),
    ]
    conversation = Conversation.of(chunks)
    assert [m.role for m in conversation.messages] == [Role.USER, Role.ASSISTANT, Role.SYSTEM]
    assert call["args"] in {s.text for s in conversation.segments}, "as it came, not only as far as it was understood"


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ([], "messages"),
        ([{"content": "x"}], "messages[0]"),
        ([{"role": "root", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": object()}], "messages[0].content"),
        ([{"role": "user", "content": {1: "x"}}], "messages[0].content"),
        ([42], "messages[0]"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_place(bad: Any, path: str) -> None:
    with pytest.raises(InvalidConversation) as caught:
        Conversation.of(bad)
    assert caught.value.path == path


def test_nesting_beyond_the_limit_is_an_error_and_not_a_crash() -> None:
    deep: Any = "secret-text"
    for _ in range(MAX_DEPTH + 10):
        deep = [deep]
    with pytest.raises(InvalidConversation) as caught:
        Conversation.of({"role": "tool", "content": deep})
    assert "secret-text" not in str(caught.value)
