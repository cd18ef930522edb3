"""Traces from the logs that people have: OTLP in JSON, the console exporter, Langfuse and Phoenix exports.

Every format becomes the same flat span first, and spans of one trace become a :class:`Trace`. Ids follow from those of
the log, so that the same log imported again gives the same traces. Texts are redacted and pictures taken out on the
way, as for live traffic.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from noria.core.errors import DataError
from noria.core.records import json_value, lines
from noria.core.traces import telemetry
from noria.core.traces.blobs import blob_names, take_out_blobs
from noria.core.traces.formats import FlatSpan, flat_spans, loaded_json
from noria.core.traces.ids import new_id
from noria.core.traces.records import Span, SpanError, SpanKind, Trace, Usage
from noria.core.traces.redaction import Redactor

_OPENINFERENCE: dict[str, SpanKind] = {
    "LLM": "chat",
    "TOOL": "tool",
    "AGENT": "agent",
    "CHAIN": "agent",
    "RETRIEVER": "retrieve",
    "EMBEDDING": "retrieve",
    "RERANKER": "retrieve",
    "GUARDRAIL": "judge",
    "EVALUATOR": "judge",
}
_LANGFUSE: dict[str, SpanKind] = {
    "GENERATION": "chat",
    "TOOL": "tool",
    "AGENT": "agent",
    "CHAIN": "agent",
    "RETRIEVER": "retrieve",
    "EMBEDDING": "retrieve",
    "EVALUATOR": "judge",
    "GUARDRAIL": "judge",
}
_OPERATIONS: dict[str, SpanKind] = {
    "chat": "chat",
    "text_completion": "chat",
    "generate_content": "generate",
    "execute_tool": "tool",
    "invoke_agent": "agent",
    "invoke_workflow": "agent",
    "retrieval": "retrieve",
    "embeddings": "retrieve",
    "plan": "plan",
}


@dataclass(frozen=True)
class Imported:
    """A trace that was read, and the files that it names."""

    trace: Trace
    blobs: Mapping[str, bytes]


@dataclass
class ImportCounts:
    """Counts of an import.

    Attributes:
        traces: number of traces.
        spans: number of their spans.
        skipped: what was no span, as `file:line: why`; the first hundred.
        skipped_count: number of all of them.
    """

    traces: int = 0
    spans: int = 0
    skipped: list[str] = field(default_factory=list)
    skipped_count: int = 0

    def skip(self, where: str, why: object) -> None:
        """Count something that was no span."""
        self.skipped_count += 1
        if len(self.skipped) < 100:
            self.skipped.append(f"{where}: {why}")


def import_traces(
    path: Path,
    *,
    redactor: Redactor | None = None,
    counts: ImportCounts | None = None,
    user: Callable[[str], str] | None = None,
    caller: str = "",
) -> Iterator[Imported]:
    """Read the traces of a log; spans are held in memory until the file is read.

    Args:
        path: file of JSON, JSON lines, or what the console exporter printed.
        redactor: takes out what is personal; the usual one by default.
        counts: counts to add to.
        user: gives the key of a user's name; a plain hash by default, which whoever knows the names can try out.
        caller: name of the caller that the traces bear.

    Raises:
        DataError: the file holds no span of a known format.
    """
    counts = ImportCounts() if counts is None else counts
    redactor = redactor or Redactor()
    groups: dict[str, list[FlatSpan]] = {}
    for where, text in _texts(path):
        try:
            for span in flat_spans(json_value(text, where)):
                _check_numbers(span)
                groups.setdefault(span.trace, []).append(span)
        except DataError as error:
            counts.skip(where, error.what)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            counts.skip(where, error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
    if not groups:
        raise DataError(
            f"no span that is known ({counts.skipped[0]})" if counts.skipped else "no span",
            where=str(path),
            mend="give OTLP JSON, the console exporter's output, or an export of Langfuse or Phoenix",
        )
    for name, spans in groups.items():
        imported = _assemble(name, spans, redactor, user or _plain_key, caller)
        counts.traces += 1
        counts.spans += len(imported.trace.spans)
        yield imported


# -- values -----------------------------------------------------------------------------------------------------------


_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]')
"""A text, or a bracket outside of texts; no text of JSON goes over the end of a line."""
_BETWEEN = re.compile(r"[\s,]*")
_SCALAR = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[^\s,\[\]{}"]+')


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """JSON texts of a file with their places: one a line, or laid out over several; of a list, its elements.

    Every character is looked at once, whatever the layout. What is no JSON inside of its brackets is found by who
    parses it.

    Raises:
        DataError: the file cannot be read, or a bracket in it is never closed, or never opened.
    """
    pieces: list[str] = []
    began, depth, listed = "", 0, False
    for where, text in lines(path):
        place = 0
        while True:
            if not depth:
                place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
                if text[place : place + 1] == ("]" if listed else "["):
                    listed, began, place = not listed, where, place + 1
                    continue
            if place == len(text):
                break
            began = began if depth else where
            end, depth = _ended(text, place, depth)
            if end == place:
                raise DataError("no JSON: a bracket that closes nothing", where=where)
            pieces.append(text[place:end])
            place = end
            if not depth:
                yield began, "\n".join(pieces)
                pieces.clear()
    if depth or listed:
        raise DataError("no JSON, or it is cut off", where=began, mend="export the file again")


def _ended(text: str, place: int, depth: int) -> tuple[int, int]:
    """Where a value ends in a line, and how many brackets are open there."""
    if not depth and text[place] not in "[{":
        scalar = _SCALAR.match(text, place)
        return (place if scalar is None else scalar.end()), 0
    for token in _TOKEN.finditer(text, place):
        mark = text[token.start()]
        depth += (mark in "[{") - (mark in "]}")
        if not depth:
            return token.end(), 0
    return len(text), depth


# -- ours -------------------------------------------------------------------------------------------------------------


def _plain_key(user: str) -> str:
    return hashlib.sha256(f"imported/{user}".encode()).hexdigest()[:32]


def _assemble(
    name: str, spans: Iterable[FlatSpan], redactor: Redactor, key: Callable[[str], str], caller: str
) -> Imported:
    ordered = sorted(spans, key=lambda span: (span.began, span.id))
    ids = {span.id: _id(f"{name}/{span.id}", span.began) for span in ordered}
    blobs: dict[str, bytes] = {}
    redactions: dict[str, int] = {}

    def clean(value: Any) -> Any:
        value, found = take_out_blobs(value)
        blobs.update(found)
        value, counts = redactor.redact_json(value)
        for kind, count in counts.items():
            redactions[kind] = redactions.get(kind, 0) + count
        return value

    ours = tuple(_ours(span, ids, clean) for span in ordered)
    leaves = [span for span in ordered if _kind(span) in ("chat", "generate")] or ordered[:1]
    costs = [span.attributes.get("cost") for span in ordered]
    known = [float(cost) for cost in costs if _is_number(cost) and math.isfinite(cost)]
    first = {
        key: value
        for span in reversed(ordered)
        for key, value in span.attributes.items()
        if value is not None
    }
    user = first.get("user.id")
    trace = Trace(
        _id(name, ordered[0].began),
        ordered[0].began,
        max(span.ended for span in ours),
        "failed" if any(span.failed and span.parent not in ids for span in ordered) else "ok",
        caller=caller,
        user=None if user is None else key(str(user)),
        conversation=_text(first.get(telemetry.CONVERSATION) or first.get("session.id")),
        spans=ours,
        usage=Usage(_tokens(leaves, "in"), _tokens(leaves, "out"), sum(known) if known else None),
        redactions=redactions,
        labels={"imported": "yes"},
    )
    return Imported(trace, blobs)


def _ours(span: FlatSpan, ids: Mapping[str, str], clean: Any) -> Span:
    get = span.attributes.get
    given = get(telemetry.INPUT) if get(telemetry.INPUT) is not None else get("input.value")
    made = get(telemetry.OUTPUT) if get(telemetry.OUTPUT) is not None else get("output.value")
    given, made = clean(loaded_json(given)), clean(loaded_json(made))
    name = (
        get(telemetry.MODEL) or get("llm.model_name") or get(telemetry.TOOL) or get("tool.name") or span.name
    )
    numbers = {f"tokens_{side}": _tokens([span], side) for side in ("in", "out")}
    return Span(
        ids[span.id],
        _kind(span),
        str(clean(str(name))),
        span.began,
        max(span.began, span.ended),
        parent=ids.get(span.parent) if span.parent else None,
        input=given,
        output=made,
        blobs=tuple(dict.fromkeys([*blob_names(given), *blob_names(made)])),
        attributes={key: value for key, value in numbers.items() if value},
        error=SpanError(str(get(telemetry.ERROR) or "error"), str(clean(span.message)))
        if span.failed
        else None,
    )


def _kind(span: FlatSpan) -> SpanKind:
    get = span.attributes.get
    return (
        _OPERATIONS.get(str(get(telemetry.OPERATION)))
        or _OPENINFERENCE.get(str(get("openinference.span.kind")).upper())
        or _LANGFUSE.get(str(get("langfuse.type")).upper())
        or "other"
    )


_TOKENS = {
    "in": (telemetry.TOKENS_IN, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
    "out": (telemetry.TOKENS_OUT, "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
}
_LARGEST = 2**53
"""Largest count or cost; no float holds all whole numbers beyond."""


def _check_numbers(span: FlatSpan) -> None:
    """Raise DataError for a cost or a count that is too large to be one."""
    for name in ("cost", *_TOKENS["in"], *_TOKENS["out"]):
        value = span.attributes.get(name)
        if _is_number(value) and abs(value) >= _LARGEST:
            raise DataError(f"{name}: a number of 2^53 or more")


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tokens(spans: Iterable[FlatSpan], side: str) -> int:
    total = 0
    for span in spans:
        given = (span.attributes.get(name) for name in _TOKENS[side])
        value = next((one for one in given if one is not None), 0)
        if _is_number(value) and value >= 0:
            total += int(value)
    return total


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _id(name: str, began: int) -> str:
    """An id that follows from a foreign one: its time, and bits of its digest in the place of random ones."""
    rest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{new_id(began)[:18]}-a{rest[:3]}-{rest[3:15]}"
