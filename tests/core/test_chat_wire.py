"""Conversations with tools and images, to and from the wire; replies of both ways; the cache keeps them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from noria.core.chat import (
    Answer,
    ChatCache,
    ChatRequest,
    Image,
    Prices,
    Text,
    ToolCall,
    assistant,
    system,
    tool,
    user,
)
from noria.core.chat.budget import estimated_cost
from noria.core.chat.faults import CutError, GarbageError
from noria.core.chat.json_replies import json_in, object_in
from noria.core.chat.replies import StreamedReply, read_reply
from noria.core.chat.wire import read_messages
from noria.core.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
CALL = ToolCall("call_1", "search", '{"text": "boats"}')
CONVERSATION = (
    system("Be brief."),
    user("What is on it?", Image(PNG, "low")),
    assistant("", CALL),
    tool(CALL, "three boats"),
    assistant("Three boats."),
)


def test_a_conversation_with_tools_comes_back_from_the_wire_as_it_was() -> None:
    wire = json.loads(ChatRequest(CONVERSATION).encoded("m"))["messages"]
    assert wire == ChatRequest(CONVERSATION).wire("m")["messages"]
    assert wire[2] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": CALL.arguments}}
        ],
    }
    assert wire[3] == {"role": "tool", "content": "three boats", "tool_call_id": "call_1"}
    assert read_messages(wire) == CONVERSATION


def test_a_tools_message_with_an_image_keeps_its_call() -> None:
    message = tool("call_9", "found it", Image(PNG))
    assert json.loads(message.encoded) == message.wire()
    assert message.wire()["tool_call_id"] == "call_9"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        [{"role": "robot", "content": "x"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": [{"type": "smell"}]}],
        [{"role": "user", "content": [{"type": ["text"]}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}}]}],
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}],
            }
        ],
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}],
            }
        ],
        [{"role": "tool", "content": "no call"}],
        [{"role": "user", "content": "x", "tool_call_id": "call_1"}],
        [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
        [{"role": "assistant", "content": None, "tool_calls": "search"}],
    ],
    ids=range(13),
)
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(DataError):
        read_messages(messages)


def reply(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    return {"model": "m", "choices": [{"message": message, "finish_reason": finish}]}


def test_whole_replies_with_calls_and_images() -> None:
    called = read_reply(reply({"content": None, "tool_calls": [CALL.wire()]}, "tool_calls"), Prices())
    assert called == Answer("", "tool_calls", model="m", tool_calls=(CALL,))
    picture = Image(PNG).wire()
    for message in (
        {"content": "Here.", "images": picture},
        {"content": [{"type": "text", "text": "Here."}, *picture]},
    ):
        assert read_reply(reply(message), Prices()) == Answer("Here.", "stop", model="m", parts=(Image(PNG),))
    for garbage in ({"content": None}, {"content": "x", "tool_calls": 3}, {"content": "x", "images": [1]}):
        with pytest.raises(GarbageError):
            read_reply(reply(garbage), Prices())


def pieces(*deltas: dict[str, Any], finish: str | None = "tool_calls") -> StreamedReply:
    stream = StreamedReply()
    for delta in deltas:
        stream.add({"choices": [{"delta": delta}]})
    stream.add({"choices": [{"delta": {}, "finish_reason": finish}]})
    return stream


def test_a_streamed_call_is_the_whole_of_its_pieces() -> None:
    head = {"index": 0, "id": "call_1", "function": {"name": "search", "arguments": ""}}
    other = {"index": 1, "id": "call_2", "function": {"name": "draw", "arguments": "{}"}}
    texts = [
        {"index": 0, "function": {"arguments": piece}} for piece in (CALL.arguments[:5], CALL.arguments[5:])
    ]
    stream = pieces(
        {"tool_calls": [head]}, *({"tool_calls": [one]} for one in texts), {"tool_calls": [other]}
    )
    assert stream.outcome(Prices()) == Answer(
        "", "tool_calls", tool_calls=(CALL, ToolCall("call_2", "draw", "{}"))
    )
    with pytest.raises(CutError):
        pieces({"tool_calls": [head]}, finish=None).outcome(Prices())
    with pytest.raises(GarbageError):
        pieces({"tool_calls": [{"index": -1, "id": "x"}]})


def test_the_cache_keeps_calls_and_images(tmp_path: Path) -> None:
    cache = ChatCache(tmp_path)
    answer = Answer("Here.", "stop", tool_calls=(CALL,), parts=(Image(PNG, "low"), Text("beside")))
    cache.put("00ff", answer)
    kept = cache.get("00ff")
    assert isinstance(kept, Answer)
    assert (kept.text, kept.tool_calls, kept.parts) == (answer.text, answer.tool_calls, answer.parts)
    entry = json.loads(cache.path("00ff").read_text())
    for name in ("tool_calls", "parts"):  # as entries were before there were tools
        del entry["outcome"][name]
    from noria.core.chat.cache import _digest

    cache.path("00ff").write_text(json.dumps(entry | {"sha256": _digest(entry["outcome"])}))
    old = cache.get("00ff")
    assert isinstance(old, Answer)
    assert (old.text, old.tool_calls) == ("Here.", ())


def test_tools_count_in_the_estimate_of_a_cost() -> None:
    spec = {"type": "function", "function": {"name": "search", "description": "x" * 3000}}
    prices = Prices(input=1.0, output=0.0)
    bare = ChatRequest.of("hello").wire("m")
    with_tools = ChatRequest.of("hello", tools=(spec,)).wire("m")
    assert estimated_cost(prices, with_tools) - estimated_cost(prices, bare) > 1000e-6


# -- JSON in a reply --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('<think>{"a": 2}</think> Here: ```json\n{"a": 1}\n```', {"a": 1}),
        ('```json\n{"a": 1}\n``` {"a": 3}', None),
        ('```json\n{"a": 1}\n```\nNo, corrected:\n```json\n{"a": 3}\n```', {"a": 3}),
        ('{"a": 1} {"a": 1}', {"a": 1}),
        ('{"a": 1}, or {"a": 2}', None),
        ('{"a": 1} {"a": 2} No, at last: {"a": 3}', {"a": 3}),
        ('{"a": 1, "a": 2}', None),
        ('{"a": 1} But then: {"a": [{"b": 1, "b": 2}]}', None),
        ('{"a": 1, "b": 2, "a": 1}', {"a": 1, "b": 2}),
        ('{"a": 1} Wait, rather {"a":', None),
        ('The form is {"a": n}, so {"a": 1}', {"a": 1}),
        ('[THINK]{"a": 2}[/THINK]{"a": 1}', {"a": 1}),
        ('<thought>{"a": 2}</thought>{"a": 1}', {"a": 1}),
        ('<think>{"a": 2}', None),
        ('{"a": "<think>b</think>"}', {"a": "<think>b</think>"}),
        ('In [0, 1) it holds: {"a": 1}', {"a": 1}),
        ('[{"a": 1}, {"b"', None),
        ('{"a": 1e999}', {"a": None}),
        ('x' * 200_000 + '{"a": 1}', None),
        ("<think>" + "x" * 200_000 + '</think>{"a": 1}', {"a": 1}),
        ("I say [1, 2] and more", [1, 2]),
        ("set {x} then [3]", [3]),
        ("{}", {}),
        ("", None),
        ("no", None),
        ("{" * 5000, None),
        ('{"a": ' * 5000, None),
        ('{"a": {"b": 1}, "c', None),
        ('{"a": {"b": 1} "c": 2}', None),
        ('{"a": NaN, "b": {"c": -Infinity}}', {"a": None, "b": {"c": None}}),
        ('{"a": "\\ud800"}', None),
        (f'{{"a": {"9" * 5000}}}', None),
    ],
    ids=["bare", "fenced", "beside a fence", "fence corrected", "same", "or", "torn and corrected", "doubled",
         "doubled within", "doubled the same", "cut correction", "form", "square thinking", "thought", "never done",
         "tags in a text", "interval", "cut list", "infinite", "long", "long thinking", "list", "prose", "empty",
         "nothing", "words", "braces", "deep", "cut", "broken", "nan", "surrogate", "digits"],
)  # fmt: skip
def test_json_is_found_in_a_reply_whole_or_not_at_all(reply: str, value: Any) -> None:
    assert json_in(reply) == value
    assert object_in(reply) == (value if isinstance(value, dict) else None)


@pytest.mark.parametrize(
    "piece", ["[", "[1", "[[", "[1,[", "{", '{"a":', '{"a": 1} ', '["', "[1} ", "```", "<think>"]
)
def test_a_reply_that_is_stuck_holds_nobody_up(piece: str) -> None:
    """200,000 characters of one thing over and over are read in a moment."""
    began = time.process_time()
    json_in(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 5
