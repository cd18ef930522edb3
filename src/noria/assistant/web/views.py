"""A trace as its user reads it: the message, the answer, what tools showed, and what the user said of all that.

A trace holds texts of users, models and tools, and files of tools: all of it is data. A text is escaped or read as
Markdown without HTML, a file is named by its address, and what does not have the expected shape is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from noria.assistant.service.answering.tools import OUTSIDE
from noria.assistant.web.markup import answer_html
from noria.assistant.web.shown import Shown, read_shown, strings, words_of
from noria.core.traces.blobs import PREFIX, blob_names
from noria.core.traces.records import Feedback, Span, Trace
from noria.core.traces.store import TraceView

ANSWER, ITEM = "helpful", "item"
"""Names of the ratings of an answer and of one of its items."""
Address = Callable[[str, str], str]
"""Address of a file, by the id of its trace and its digest."""


@dataclass(frozen=True)
class Opinion:
    """A user's feedback on an answer or on one of its items.

    Attributes:
        item: key of the item; empty for the answer.
        rating: 1 for good, 0 for bad; None where nothing was said.
        correction: the answer that the user would have wanted.
        skill: skill that it should have been.
        count: number of all that was ever said of the trace: the next form's name depends on it.
    """

    item: str
    rating: float | None = None
    correction: Feedback | None = None
    skill: Feedback | None = None
    count: int = 0


@dataclass(frozen=True)
class AnswerView:
    """An answer as the page shows it.

    Attributes:
        trace: id of its trace.
        status: `ok`, `refused`, `failed` or `cancelled`.
        html: text of the answer as HTML.
        text: text of the answer.
        pictures: digests of pictures that nothing else of the answer shows.
        shown: what tools showed.
        steps: tools that were called: name, the model's arguments, whether it failed, seconds.
        skill: skill that answered, if any.
        skills: skills that could have.
        opinions: what the user said, by item; the answer's is that of the empty key.
        fault: kind of the failure.
        outside: whether text from outside had entered the conversation with it.
    """

    trace: str
    status: str
    html: Markup
    text: str
    pictures: tuple[str, ...] = ()
    shown: tuple[Shown, ...] = ()
    steps: tuple[tuple[str, str, bool, float], ...] = ()
    skill: str = ""
    skills: tuple[str, ...] = ()
    opinions: Mapping[str, Opinion] = field(default_factory=dict)
    fault: str = ""
    outside: bool = False

    def opinion(self, item: str = "") -> Opinion:
        """The user's feedback on an item."""
        return self.opinions.get(item) or Opinion(item, count=self.opinions[""].count)


@dataclass(frozen=True)
class TurnView:
    """A message and its answer, or two answers of which one is to be chosen.

    Attributes:
        id: id of the first trace.
        at: nanoseconds since 1970 of the message.
        text: what the user said.
        pictures: digests of the pictures that came with the message.
        about: digest of an earlier picture that the message is about.
        answers: the answers, in the order in which they are shown.
        chosen: id of the trace that was chosen.
        usual: whether the earlier picture is the last one before, which goes without saying.
    """

    id: str
    at: int
    text: str
    pictures: tuple[str, ...]
    about: str | None
    answers: tuple[AnswerView, ...]
    chosen: str | None = None
    usual: bool = False


def question_of(trace: Trace) -> tuple[str, tuple[str, ...]]:
    """Text of the last message of the user, and the digests of its pictures."""
    span = chat_of(trace)
    messages = span.input.get("messages") if span is not None and isinstance(span.input, Mapping) else None
    for message in reversed(messages or []):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content, ()
            parts = [one for one in content or [] if isinstance(one, Mapping)]
            texts = [str(one.get("text", "")) for one in parts if one.get("type") == "text"]
            return "\n".join(texts), tuple(dict.fromkeys(blob_names(parts)))
    return "", ()


def chat_of(trace: Trace) -> Span | None:
    """The span of the answer that was given."""
    return next((span for span in reversed(trace.spans) if span.kind == "chat"), None)


def answer_of(view: TraceView, user: str, address: Address) -> AnswerView:
    """An answer as the user reads it.

    Args:
        view: the trace with what was said of it.
        user: key of the user.
        address: makes the address of a file.
    """
    trace = view.trace
    span = chat_of(trace)
    said: Mapping[str, Any] = span.output if span is not None and isinstance(span.output, Mapping) else {}
    text = str(said.get("refusal") or said.get("content") or "")
    shown = tuple(read_shown(said.get("shown"), lambda digest: address(trace.id, digest)))
    used = set(strings([one.fields for one in shown]))
    pictures = tuple(
        d for d in dict.fromkeys(blob_names(said.get("images") or [])) if address(trace.id, d) not in used
    )
    candidates = [one for one in trace.spans if one.kind == "skill"]
    return AnswerView(
        trace.id,
        trace.status,
        answer_html(text),
        text,
        pictures,
        shown,
        tuple(
            (one.name, words_of(one.input), one.error is not None, (one.ended - one.began) / 1e9)
            for one in trace.spans
            if one.kind == "tool"
        ),
        trace.labels.get("skill", ""),
        tuple(sorted({c.name for one in candidates for c in one.candidates if c.name != "none"})),
        _opinions(view, user),
        span.error.kind if span is not None and span.error is not None else "",
        rests_on_outside(trace),
    )


def rests_on_outside(trace: Trace) -> bool:
    """Whether text from outside had entered a conversation with a trace: a picture, a tool's result, or one before.

    A result that does not say where its text comes from counts as one from outside.
    """
    tools = [span for span in trace.spans if span.kind == "tool"]
    said = any(span.attributes.get("outside") is not False for span in tools)
    return said or OUTSIDE in trace.labels or bool(question_of(trace)[1])


def last_picture(turns: Sequence[TurnView]) -> tuple[str, str] | None:
    """Trace and digest of the last picture of a conversation: what a message is about by default."""
    for turn in reversed(turns):
        answer = next((one for one in turn.answers if one.trace == turn.chosen), None) or turn.answers[0]
        made = [
            one.fields["digests"][-1]
            for one in answer.shown
            if one.kind in ("edit", "picture") and one.fields["digests"]
        ]
        for digests in (made, answer.pictures, turn.pictures, [turn.about] if turn.about else []):
            if digests:
                return answer.trace if digests in (made, answer.pictures) else turn.id, digests[-1]
    return None


# -- what the user said -----------------------------------------------------------------------------------------------


def _opinions(view: TraceView, user: str) -> Mapping[str, Opinion]:
    count = len(view.feedback) + view.withdrawn
    found: dict[str, dict[str, Any]] = {"": {}}
    for one in view.feedback:
        if one.by != user:
            continue
        mine = found.setdefault(one.item or "", {})
        if one.kind == "rating":
            mine["rating"] = one.value
        elif one.kind == "correction":
            mine["skill" if one.name == "skill" else "correction"] = one
    return {item: Opinion(item, count=count, **fields) for item, fields in found.items()}


def file_names(trace: Trace) -> frozenset[str]:
    """Digests of all files that a trace names."""
    return frozenset(blob for span in trace.spans for blob in span.blobs)


def media_of(trace: Trace, digest: str) -> str:
    """Media type that a trace gives a file; empty where it gives none."""
    start = f"{PREFIX}{digest};"
    for span in trace.spans:
        for text in strings([span.input, span.output]):
            if text.startswith(start):
                return text.removeprefix(start)
    return ""
