"""Data sets out of traces: for fine-tuning, preferences and prompts, split so that nothing leaks between the parts.

Examples that share a user, a picture or (up to numbers and spacing) a request are one leakage group, and a group lies
in one split as a whole. A trace with no judgement or feedback is no negative example; it is left out where a score is
needed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from noria.core.errors import DataError, needing
from noria.core.experiments.assignment import position
from noria.core.files import write_atomic
from noria.core.traces.chats import chat_answer, chat_messages, chat_span, mean_score
from noria.core.traces.records import Span
from noria.core.traces.store import TraceView

SPLITS = {"train": 0.6, "route gate": 0.1, "body gate": 0.1, "model gate": 0.1, "final": 0.1}
"""Share of the leakage groups in each split. `final` is opened by a proof only."""
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
        group: name of its leakage group.
        split: split that the group lies in.
        labels: labels of the trace, such as its skill.
    """

    trace: str
    messages: tuple[Mapping[str, Any], ...]
    answer: str
    corrections: tuple[str, ...]
    score: float | None
    group: str
    split: str
    labels: Mapping[str, str] = field(default_factory=dict)


def examples(
    views: Iterable[TraceView], *, salt: str, splits: Mapping[str, float] | None = None
) -> list[Example]:
    """Traces as examples with their leakage groups and splits; traces without a chat are left out.

    Args:
        views: traces with what was said about them, oldest first: a group is named by its oldest trace, so that its
            split stays while it grows.
        salt: text that deals the groups; another salt deals them anew.
        splits: share of each split; they sum to 1.
    """
    splits = SPLITS if splits is None else splits
    if abs(sum(splits.values()) - 1) > 1e-9 or min(splits.values()) < 0:
        raise ValueError("shares of splits are not negative and sum to 1")
    chats = [(view, span) for view in views if (span := chat_span(view)) is not None]
    groups = _groups([(view.trace.id, list(_keys(view, span))) for view, span in chats])
    return [
        Example(
            view.trace.id,
            tuple(chat_messages(span)),
            chat_answer(span),
            tuple(one.text for one in view.feedback if one.kind == "correction" and one.text),
            mean_score(view),
            groups[view.trace.id],
            _split(groups[view.trace.id], salt, splits),
            view.trace.labels,
        )
        for view, span in chats
    ]


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


def _keys(view: TraceView, span: Span) -> Iterator[str]:
    """What makes two examples one leakage group."""
    if view.trace.user is not None:
        yield f"user {view.trace.user}"
    if view.trace.conversation is not None:
        yield f"conversation {view.trace.conversation}"
    for blob in span.blobs:
        yield f"blob {blob}"
    yield f"request {_request_key(chat_messages(span))}"


def _request_key(messages: Sequence[Mapping[str, Any]]) -> str:
    """Digest of what users said, up to case, spacing and numbers: texts of one template are one."""
    said = json.dumps([m.get("content") for m in messages if m.get("role") == "user"], ensure_ascii=False)
    plain = re.sub(r"\d+", "0", " ".join(said.casefold().split()))
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def _groups(named: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """The group of each trace: traces that share a key, directly or over others, by the name of the first of them."""
    leader = {trace: trace for trace, _ in named}

    def find(trace: str) -> str:
        while leader[trace] != trace:
            leader[trace] = leader[leader[trace]]
            trace = leader[trace]
        return trace

    first: dict[str, str] = {}
    for trace, keys in named:
        for key in keys:
            one, other = find(trace), find(first.setdefault(key, trace))
            if one != other:
                leader[max(one, other)] = min(one, other)
    return {trace: find(trace) for trace in leader}


def _split(group: str, salt: str, splits: Mapping[str, float]) -> str:
    edges = itertools.accumulate(splits.values())
    place = position(salt, group)
    return next((name for name, edge in zip(splits, edges, strict=True) if place < edge), list(splits)[-1])
