"""Samples from what people have: the core's traces, transcripts of coding assistants, files of samples.

The formats of transcripts are written from public code that reads them (Claude Code's JSON lines of `user` and
`assistant` messages; Codex's `response_item` lines) and not from a specification; a line of another shape is counted
and left out, never guessed at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.records import json_records, json_value
from noria.core.traces.records import Span, Trace
from noria.core.traces.redaction import Redactor
from noria.core.traces.store import TraceView
from noria.skills.traffic.samples import NO_SKILL, Call, Response, Sample, Turn, group_of, read_samples


@dataclass
class SourceCounts:
    """Counts of the reading of one file.

    Attributes:
        samples: samples that came of it.
        taken: lines of a transcript that are messages, or traces with words of a user.
        skipped: lines or traces that were left out, by reason.
        beside: those of them that hold no message by their kind, such as summaries.
    """

    samples: int = 0
    taken: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    beside: int = 0

    def skip(self, why: str, number: int = 1) -> None:
        """Count what was left out."""
        self.skipped[why] = self.skipped.get(why, 0) + number

    @property
    def lost(self) -> int:
        """Number of lines or traces that were left out, and may have held a request."""
        return sum(self.skipped.values()) - self.beside

    def __str__(self) -> str:
        reasons = ", ".join(
            f"{n:,} {why}" for why, n in sorted(self.skipped.items(), key=lambda one: (-one[1], one[0]))
        )
        return f"{self.samples:,} requests read; left out: {reasons or 'nothing'}"


def load_samples(path: Path, *, counts: SourceCounts | None = None) -> list[Sample]:
    """Samples of a file, whatever its format: samples, OTLP, Langfuse or Phoenix, or a transcript.

    Args:
        path: path of the file.
        counts: counts of the reading, fresh ones.

    Raises:
        DataError: the file is none of these, or most of it is left out.
    """
    counts = SourceCounts() if counts is None else counts
    kind = sniff(path)
    if kind == "samples":
        found = read_samples(path)
    elif kind == "transcript":
        found = list(transcript_samples(path, counts=counts))
    else:
        found = list(_trace_samples(path, counts))
    counts.samples += len(found)
    if counts.lost > counts.taken:
        raise DataError(
            f"most of it is no traffic: {counts}",
            where=str(path),
            mend="give samples, traces with the words of users, or a transcript",
        )
    return found


def sniff(path: Path) -> str:
    """`samples`, `transcript` or `traces`, by the first object of a file."""
    if path.suffix.lower() == ".parquet":
        return "samples"
    try:
        _, first = next(json_records(path), ("", {}))
    except DataError:
        return "traces"
    if isinstance(first.get("query"), str):
        return "samples"
    if first.get("type") in (
        "user",
        "assistant",
        "summary",
        "system",
        "session_meta",
        "response_item",
        "file-history-snapshot",
    ):
        return "transcript"
    return "traces"


# -- traces -----------------------------------------------------------------------------------------------------------


def _trace_samples(path: Path, counts: SourceCounts) -> Iterator[Sample]:
    """Samples of the traces of a log.

    Raises:
        DataError: the file holds no span of a known format, or mostly others.
    """
    from noria.core.traces.imports import ImportCounts, import_traces

    spans = ImportCounts()
    for one in import_traces(path, counts=spans):
        sample = sample_of(TraceView(one.trace, (), ()))
        if sample is None:
            counts.skip("traces without words of a user")
        else:
            counts.taken += 1
            yield sample
    if spans.skipped_count > spans.spans:
        raise DataError(
            f"{spans.skipped_count:,} records are no span, and {spans.spans:,} are",
            where=spans.skipped[0],
            mend="export the log again",
        )
    if spans.skipped_count:
        counts.skip("records that are no span", spans.skipped_count)
        counts.beside += spans.skipped_count


def sample_of(view: TraceView) -> Sample | None:
    """A trace as a sample; None where it has no words of a user."""
    trace = view.trace
    messages = _messages(trace)
    turns = [
        (str(m.get("role")), _text(m.get("content")))
        for m in messages
        if m.get("role") in ("user", "assistant")
    ]
    last = max((n for n, (role, text) in enumerate(turns) if role == "user" and text), default=None)
    if last is None:
        return None
    earlier = tuple(Turn("user" if r == "user" else "assistant", t) for r, t in turns[:last] if t)
    query = turns[last][1]
    decision = next((span for span in trace.spans if span.kind == "skill"), None)
    images = tuple(dict.fromkeys(blob for span in trace.spans for blob in span.blobs))
    ratings = {one.name: one.value for one in view.feedback if one.value is not None}
    skill = None if decision is None else decision.chosen
    error = "" if trace.status == "ok" else trace.status
    usage = trace.usage
    response = Response(
        _answer(trace),
        tuple(_calls(trace)),
        (),
        error,
        skill,
        usage.tokens_in + usage.tokens_out or None,
        usage.cost,
    )
    route = "" if decision is None else NO_SKILL if skill is None else skill
    if decision is not None and decision.error is not None:
        route = "error"
    return Sample(
        trace.id,
        query,
        trace.labels.get("group") or group_of(query, images),
        tuple(filter(None, trace.labels.get("expected", "").split("|"))),
        images=images,
        turns=earlier,
        route=route,
        response=response,
        human={name: float(value) for name, value in ratings.items() if value is not None},
        user=trace.user or "",
    )


def _messages(trace: Trace) -> list[Mapping[str, Any]]:
    for span in trace.spans:
        given = span.input
        if isinstance(given, dict) and isinstance(given.get("messages"), list):
            given = given["messages"]
        if isinstance(given, list) and all(isinstance(m, dict) and "role" in m for m in given) and given:
            return given
    for span in trace.spans:
        if isinstance(span.input, str) and span.input.strip():
            return [{"role": "user", "content": span.input}]
    return []


def _answer(trace: Trace) -> str:
    spans = [s for s in trace.spans if s.kind in ("chat", "generate") and s.output is not None] or list(
        trace.spans
    )
    for span in reversed(spans):
        text = _text(span.output)
        if text:
            return text
    return ""


def _calls(trace: Trace) -> Iterator[Call]:
    for span in trace.spans:
        if span.kind == "tool":
            yield Call(
                span.name,
                _arguments(span),
                span.error is None,
                span.output,
                span.error.message if span.error else "",
            )


def _arguments(span: Span) -> Mapping[str, Any]:
    return span.input if isinstance(span.input, dict) else {}


def _text(value: Any) -> str:
    """Words of a message, in the shapes that chat completions have."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    if isinstance(value, dict) and (
        value.get("type") in (None, "text", "input_text", "output_text") or "content" in value
    ):
        return _text(value.get("text") or value.get("content") or value.get("parts") or "")
    return ""


# -- transcripts ------------------------------------------------------------------------------------------------------


_BESIDE = frozenset({
    "summary", "system", "developer", "file-history-snapshot", "session_meta", "turn_context", "event_msg",
    "compacted", "reasoning", "function_call_output", "custom_tool_call", "custom_tool_call_output", "web_search_call",
    "local_shell_call", "progress", "queue-operation",
})  # fmt: skip
"""Types and roles of lines beside the messages, which hold no request."""


def transcript_samples(
    path: Path, *, counts: SourceCounts, redactor: Redactor | None = None
) -> Iterator[Sample]:
    """Requests of a coding assistant's transcript, each with the skill that it loaded and the calls that it made."""
    redactor = redactor or Redactor()
    query, words_ = "", ""
    calls: list[Call] = []
    skill: str | None = None
    number = 0

    def made() -> Sample:
        text, _ = redactor.redact(query)
        answer, _ = redactor.redact(words_)
        response = Response(answer, tuple(calls), (), "", skill)
        key = hashlib.sha256(f"{path.name}/{number}".encode()).hexdigest()[:16]
        return Sample(key, text, group_of(text), route=skill or NO_SKILL, response=response)

    for _, entry in json_records(path):
        message = entry.get("message") or entry.get("payload") or entry
        role = message.get("role") if isinstance(message, dict) else None
        if isinstance(message, dict) and message.get("type") == "function_call":
            calls.append(_function_call(message))
            counts.taken += 1
            continue
        if role not in ("user", "assistant"):
            kinds = [str(one.get("type") or "") for one in (message, entry) if isinstance(one, dict)]
            counts.skip(f"lines of type {(kinds[0] or kinds[-1] or 'none')[:40]!r}")
            counts.beside += bool(_BESIDE & {*kinds, str(role)})
            continue
        counts.taken += 1
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        results = [p for p in parts if isinstance(p, dict) and p.get("type") == "tool_result"]
        if role == "user" and not results:
            if query:
                yield made()
            number += 1
            query, calls, skill, words_ = _text(parts), [], None, ""
            if not query:
                counts.skip("messages of a user without words")
            continue
        for part in parts:
            if not isinstance(part, dict):
                continue
            if part.get("type") == "tool_use":
                given: Any = part.get("input")
                given = given if isinstance(given, dict) else {}
                calls.append(Call(str(part.get("name")), given))
                if part.get("name") == "Skill":
                    skill = str(given.get("skill") or given.get("command") or "") or None
            elif part.get("type") == "tool_result" and calls and part.get("is_error"):
                calls[-1] = Call(
                    calls[-1].name, calls[-1].arguments, False, None, _text(part.get("content"))[:200]
                )
            elif role == "assistant":
                words_ = f"{words_}\n{_text(part)}".strip()
    if query:
        yield made()


def _function_call(message: Mapping[str, Any]) -> Call:
    arguments = message.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json_value(arguments, "arguments")
        except DataError:
            arguments = {}
    return Call(str(message.get("name")), arguments if isinstance(arguments, dict) else {})


# -- the funnel -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Funnel:
    """One skill's way through the traffic: how often it was offered, chosen, used, and helped; None is not known."""

    skill: str
    offered: int
    chosen: int
    used: int
    helped: int | None


def funnel(
    samples: Sequence[Sample], names: Sequence[str], offered: Sequence[str], helped: Mapping[str, bool]
) -> list[Funnel]:
    """Count each skill's way; the never-used are those with `chosen` 0.

    Args:
        samples: traffic with routes and answers.
        names: skills of the bank.
        offered: those that the client's catalogue shows.
        helped: whether an answer helped, by sample, where somebody said.
    """
    made = []
    for name in names:
        chosen = [s for s in samples if s.route == name]
        used = [
            s
            for s in chosen
            if s.response is not None and not s.response.error and s.response.skill in (name, None)
        ]
        known = [helped[s.id] for s in used if s.id in helped]
        made.append(
            Funnel(
                name,
                len(samples) if name in offered else 0,
                len(chosen),
                len(used),
                sum(known) if known else None,
            )
        )
    return made
