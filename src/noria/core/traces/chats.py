"""Chats inside of traces: the request, the answer that counts, its score, and the request as it can be sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noria.core.chat import Message
from noria.core.chat.wire import read_messages
from noria.core.errors import DataError
from noria.core.traces.blobs import blob_names, put_back_blobs
from noria.core.traces.records import Span
from noria.core.traces.store import TraceView

Blobs = Callable[[str], bytes | None]
"""Content of a blob by its digest; None where it is gone."""


def chat_span(view: TraceView) -> Span | None:
    """The last chat of a trace that has messages and an answer: the one whose answer was given."""
    chats = [span for span in view.trace.spans if span.kind == "chat" and span.error is None]
    return next((span for span in reversed(chats) if chat_messages(span) and chat_answer(span)), None)


def tool_request(view: TraceView) -> tuple[Span, list[dict[str, Any]]] | None:
    """The call of a tool that was asked by itself for a prompt, and its request as messages; None where there is none.

    Such a call is the whole trace, and its input is the request: a prompt with pictures.
    """
    span = view.trace.spans[0] if len(view.trace.spans) == 1 else None
    if span is None or span.kind != "tool" or span.error is not None or not isinstance(span.input, dict):
        return None
    prompt = span.input.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip() or "arguments" in span.input:
        return None
    pictures = [one for one in span.input.get("images") or () if isinstance(one, str)]
    parts = [{"type": "image_url", "image_url": {"url": one}} for one in pictures]
    content = [{"type": "text", "text": prompt}, *parts] if parts else prompt
    return span, [{"role": "user", "content": content}]


def chat_messages(span: Span) -> list[dict[str, Any]]:
    """Messages of a chat's request, as chat completions have them."""
    value = span.input.get("messages") if isinstance(span.input, dict) else span.input
    return (
        [one for one in value if isinstance(one, dict) and "role" in one] if isinstance(value, list) else []
    )


def chat_answer(span: Span) -> str:
    """Text of an answer: plain, a message, a list of them, or a whole completion."""
    value = span.output
    if isinstance(value, dict) and isinstance(value.get("choices"), list) and value["choices"]:
        value = value["choices"][0].get("message")
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = value.get("content")
    if isinstance(value, list):
        value = "".join(str(part.get("text", "")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def mean_score(view: TraceView) -> float | None:
    """Mean over raters of each one's last rating and over judges of their scores; None where nobody said anything.

    Whether an answer rests on its picture is a figure of its own, and not part of it.
    """
    people, judges = people_and_judges(view)
    scores = [*people, *judges]
    return sum(scores) / len(scores) if scores else None


def people_and_judges(view: TraceView) -> tuple[list[float], list[float]]:
    """The last rating of each rater and name, and the scores of judges; items of lists and groundings left out."""
    ratings = {
        (one.name, one.by or one.id): one.value
        for one in view.feedback
        if one.kind == "rating" and one.value is not None and one.item is None
    }
    judged = [one.score for one in view.judgements if one.score is not None and one.path != "grounding"]
    return [*ratings.values()], judged


def tool_rounds(view: TraceView) -> list[dict[str, Any]] | None:
    """The rounds of tool calls before an answer, as messages: what the model called, and what the tools gave it.

    Empty where no tool was called; None where a round cannot be told from the spans.
    """
    results = [span for span in view.trace.spans if span.kind == "tool"]
    messages: list[dict[str, Any]] = []
    for plan in (span for span in view.trace.spans if span.kind == "plan"):
        said = plan.output if isinstance(plan.output, dict) else {}
        calls = said.get("tool_calls") or []
        if not all(isinstance(call, dict) and isinstance(call.get("id"), str) for call in calls):
            return None
        given, results = results[: len(calls)], results[len(calls) :]
        if not calls or len(given) < len(calls) or any(not isinstance(one.output, dict) for one in given):
            return None
        messages.append({"role": "assistant", "content": said.get("content") or None, "tool_calls": calls})
        for call, result in zip(calls, given, strict=True):
            text = str(result.output.get("text", ""))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
    return None if results else messages


def conversation(span: Span, blob: Blobs | None = None) -> tuple[Message, ...] | None:
    """Messages of a chat's request as they can be sent again; None where a part is gone or of an unknown kind.

    A request that offered tools cannot be: traces hold the tools' names only, and a model could call others, whose
    results nobody has.

    Args:
        span: chat of a trace.
        blob: contents of the pictures that the messages name.
    """
    messages = chat_messages(span)
    if isinstance(span.input, dict) and span.input.get("tools"):
        return None
    contents = {name: None if blob is None else blob(name) for name in blob_names(messages)}
    present = {name: content for name, content in contents.items() if content is not None}
    try:
        return None if len(present) < len(contents) else read_messages(put_back_blobs(messages, present))
    except DataError:
        return None
