"""Data sets out of traces: for fine-tuning, preferences and prompts, split so that nothing leaks between the parts.

The groups are people: the user of a trace, where it names none its conversation, else its request. Contents are its
request (up to case, numbers and spacing), the requests in its history, its pictures, and its conversation. No person
and no content lies in two splits; an example that would bring a content of another split along lies in none
(:mod:`noria.core.experiments.splits`). A trace with no judgement or feedback is no negative example; it is left out
where a score is needed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from noria.core.errors import DataError, needing
from noria.core.experiments.splits import two_way_split
from noria.core.files import write_atomic
from noria.core.traces.blobs import blob_names
from noria.core.traces.chats import chat_answer, chat_messages, chat_span, mean_score, tool_request
from noria.core.traces.records import Feedback, Span
from noria.core.traces.store import TraceView

SPLITS = {"train": 0.6, "route gate": 0.1, "body gate": 0.1, "model gate": 0.1, "final": 0.1}
"""Share of the people, and of the contents that they share, in each split. `final` is opened by a proof only."""
Layout = Literal["sft", "preferences", "prompts"]


@dataclass(frozen=True)
class Example:
    """A trace as something to learn from.

    Attributes:
        trace: id of the trace.
        messages: messages of the request, as chat completions have them.
        answer: text of the answer.
        corrections: texts that people would rather have had.
        score: mean over raters of each one's last rating and over judges of their scores; None where nobody said
            anything valid.
        group: name of its leakage group: who asked.
        split: split of the group; `LEFT_OUT` where the example shares a content with another split.
        labels: labels of the trace, such as its skill.
        contents: names of what it may share with examples of other groups: its request and those in its history that
            come without pictures, its pictures, and its conversation.
        tool: name of the tool that was asked by itself for what the messages say, and whose answer is no text; empty
            for a chat.
    """

    trace: str
    messages: tuple[Mapping[str, Any], ...]
    answer: str
    corrections: tuple[str, ...]
    score: float | None
    group: str
    split: str
    labels: Mapping[str, str] = field(default_factory=dict)
    contents: tuple[str, ...] = ()
    tool: str = ""


def examples(
    views: Iterable[TraceView],
    *,
    salt: str,
    splits: Mapping[str, float] | None = None,
    tools: bool = False,
) -> list[Example]:
    """Traces as examples with their leakage groups and splits; traces without a chat are left out.

    Args:
        views: traces with what was said about them.
        salt: text that deals the groups; another salt deals them anew.
        splits: share of each split; they sum to 1.
        tools: whether requests of tools by themselves, such as for a picture, are examples, too.

    Raises:
        ValueError: the shares are negative or do not sum to 1.
    """
    asked_for = [one for view in views if (one := _request(view, tools=tools)) is not None]
    asked = [_requests(messages) for _, _, messages, _ in asked_for]
    known = {requests[-1].digest for requests in asked}
    groups = [
        _group(view, requests[-1].digest) for (view, *_), requests in zip(asked_for, asked, strict=True)
    ]
    contents = [
        _contents(view, span, requests, known)
        for (view, span, *_), requests in zip(asked_for, asked, strict=True)
    ]
    placed = two_way_split(groups, contents, salt=salt, shares=SPLITS if splits is None else splits)
    return [
        Example(
            view.trace.id,
            tuple(messages),
            "" if tool else chat_answer(span),
            tuple(one.text for one in view.feedback if _is_corrected_answer(one) and one.text),
            mean_score(view),
            group,
            split,
            view.trace.labels,
            shared,
            tool,
        )
        for (view, span, messages, tool), group, split, shared in zip(
            asked_for, groups, placed, contents, strict=True
        )
    ]


def _request(view: TraceView, *, tools: bool) -> tuple[TraceView, Span, list[dict[str, Any]], str] | None:
    """The call that answered, its request, and the tool's name where one was asked by itself."""
    span = chat_span(view)
    if span is not None:
        return view, span, chat_messages(span), ""
    called = tool_request(view) if tools else None
    return None if called is None else (view, *called, called[0].name)


def _is_corrected_answer(one: Feedback) -> bool:
    """Whether a feedback says what the answer should have been, and not what its skill or one of its items should."""
    return one.kind == "correction" and one.name != "skill" and one.item is None


def rows(chosen: Sequence[Example], layout: Layout, *, least_score: float = 0.5) -> Iterator[dict[str, Any]]:
    """Rows of a data set as TRL reads them.

    `sft` has `messages` with the answer, or with a correction where there is one; `preferences` has `prompt`, `chosen`
    and `rejected` (a correction over the answer, or the better of two scored answers to one request); `prompts` has
    `prompt`.

    Args:
        chosen: examples of one split.
        layout: what the rows are for.
        least_score: score below which an answer is not learnt from without a correction.
    """
    if layout == "prompts":
        seen: set[str] = set()
        for example in chosen:
            name = _request_key(example.messages)
            if name not in seen:
                seen.add(name)
                yield {"prompt": list(example.messages), "trace": example.trace}
    elif layout == "sft":
        for example in chosen:
            answers = example.corrections[-1:] or (
                (example.answer,) if example.score is not None and example.score >= least_score else ()
            )
            for answer in answers:
                yield {"messages": [*example.messages, _said(answer)], "trace": example.trace}
    else:
        yield from _preferences(chosen)


def write_dataset(path: Path, content: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as JSON lines or, by the ending `.parquet`, as Parquet; return the SHA-256 of the file.

    Raises:
        DataError: there are no rows, or the ending is another one.
        RunError: the disk refuses.
        MissingExtra: pyarrow is not installed.
    """
    table = [dict(row) for row in content]
    if not table:
        raise DataError("there is nothing to write", where=str(path), mend="choose other traces")
    if path.suffix == ".parquet":
        import io

        with needing("parquet"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(table), buffer)
        data = buffer.getvalue()
    elif path.suffix == ".jsonl":
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table).encode()
    else:
        raise DataError(f"no format {path.suffix!r}", where=str(path), mend="end it in .jsonl or .parquet")
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def _preferences(chosen: Sequence[Example]) -> Iterator[dict[str, Any]]:
    by_request: dict[str, list[Example]] = {}
    for example in chosen:
        by_request.setdefault(_request_key(example.messages), []).append(example)
        if example.corrections and example.corrections[-1] != example.answer:
            yield _pair(example, example.corrections[-1], example.answer)
    for same in by_request.values():
        scored = sorted(
            (one for one in same if one.score is not None), key=lambda one: (one.score, one.trace)
        )
        worst, best = (scored[0], scored[-1]) if scored else (None, None)
        if worst and best and worst.answer != best.answer and (best.score or 0) > (worst.score or 0):
            yield _pair(best, best.answer, worst.answer)


def _pair(example: Example, better: str, worse: str) -> dict[str, Any]:
    return {
        "prompt": list(example.messages),
        "chosen": [_said(better)],
        "rejected": [_said(worse)],
        "trace": example.trace,
    }


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# -- leakage groups ---------------------------------------------------------------------------------------------------


def _group(view: TraceView, request: str) -> str:
    """Who asked, by the trace alone, so that the group's split stays whatever other traces come and go."""
    if view.trace.user is not None:
        return f"user {view.trace.user}"
    if view.trace.conversation is not None:
        return f"conversation {view.trace.conversation}"
    return f"request {request}"


@dataclass(frozen=True)
class _Asked:
    """A request: digest of all that users had said up to it, and whether a picture was among it."""

    digest: str
    pictured: bool


def _contents(view: TraceView, span: Span, requests: Sequence[_Asked], known: set[str]) -> tuple[str, ...]:
    """What an example may share with others.

    A request in its history counts where another example asks it: the answer to that one stands in this history. A
    request with a picture lies where the picture lies, so it need not be dealt by itself. A conversation is a content,
    too: several users may write in one, and joining them would join whole companies.
    """
    asked = [requests[-1], *(one for one in requests[:-1] if one.digest in known)]
    names = [f"request {one.digest}" for one in asked if not one.pictured]
    names += [f"blob {blob}" for blob in dict.fromkeys((*span.blobs, *blob_names(span.input)))]
    if view.trace.conversation is not None:
        names.append(f"conversation {view.trace.conversation}")
    return tuple(names)


def _request_key(messages: Sequence[Mapping[str, Any]]) -> str:
    """Digest of all that users said up to here, up to case, spacing and numbers: texts of one template are one."""
    return _requests(messages)[-1].digest


def _requests(messages: Sequence[Mapping[str, Any]]) -> list[_Asked]:
    """The requests of a conversation, the last of which is the present one.

    Where no user said anything the messages of all roles are one request.
    """
    said = [one.get("content") for one in messages if one.get("role") == "user"]
    if not said:
        said = [[one.get("content") for one in messages]]
    found, before, pictured = [], b"", False
    for content in said:
        text = json.dumps(content, ensure_ascii=False)
        plain = re.sub(r"\d+", "0", " ".join(text.casefold().split()))
        before = hashlib.sha256(before + plain.encode("utf-8", "surrogatepass")).digest()
        pictured = pictured or any(blob_names(content))
        found.append(_Asked(before.hex(), pictured))
    return found
