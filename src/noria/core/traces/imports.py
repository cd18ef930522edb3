"""Traces from the logs that people have: OTLP in JSON, the console exporter, Langfuse and Phoenix exports.

Every format becomes the same flat span first, and spans of one trace become a :class:`Trace`. Ids follow from those of
the log, so that the same log imported again gives the same traces. Texts are redacted and pictures taken out on the
way, as for live traffic.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.records import lines
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
    for where, value in _values(path):
        try:
            for span in flat_spans(value):
                groups.setdefault(span.trace, []).append(span)
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


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """JSON values of a file with their places: one a line, or one after the other over several lines."""
    decoder = json.JSONDecoder()
    kept, began = "", ""
    for where, text in lines(path):
        if not kept and not text.strip():
            continue
        began = began if kept else where
        kept = f"{kept}{text}\n" if kept else text.lstrip()
        if text[:1].isspace():  # inside of a value that is laid out over lines: its end is not indented
            continue
        while kept:
            try:
                value, end = decoder.raw_decode(kept)
            except (ValueError, RecursionError):
                break
            yield began, value
            kept, began = kept[end:].lstrip(), where
    if kept:
        raise DataError("no JSON, or it is cut off", where=began, mend="export the file again")


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
    known = [float(cost) for cost in costs if isinstance(cost, (int, float)) and math.isfinite(cost)]
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


def _tokens(spans: Iterable[FlatSpan], side: str) -> int:
    names = {
        "in": (telemetry.TOKENS_IN, "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"),
        "out": (telemetry.TOKENS_OUT, "gen_ai.usage.completion_tokens", "llm.token_count.completion"),
    }[side]
    total = 0
    for span in spans:
        value = next((span.attributes[name] for name in names if span.attributes.get(name) is not None), 0)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53:
            total += int(value)
    return total


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _id(name: str, began: int) -> str:
    """An id that follows from a foreign one: its time, and bits of its digest in the place of random ones."""
    rest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{new_id(began)[:18]}-a{rest[:3]}-{rest[3:15]}"
