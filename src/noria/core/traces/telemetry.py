"""Traces as OpenTelemetry spans: the one mapping to its semantic conventions for generative AI, pinned to a version.

The conventions are in development, so names stand here and nowhere else. Contents of messages are written only where
asked for, as the conventions have it. The result is OTLP in JSON: ids in hex, times as texts of nanoseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from noria.core.traces.records import JudgementRecord, Span, Trace

CONVENTIONS = "1.41.0"
"""Version of the semantic conventions."""
OPERATIONS = {
    "chat": "chat",
    "agent": "invoke_agent",
    "tool": "execute_tool",
    "generate": "generate_content",
    "retrieve": "retrieval",
    "plan": "plan",
}
"""Value of `gen_ai.operation.name` by the kind of a span; other kinds are spans of our own."""
OPERATION = "gen_ai.operation.name"
MODEL = "gen_ai.request.model"
TOOL = "gen_ai.tool.name"
CONVERSATION = "gen_ai.conversation.id"
TOKENS_IN = "gen_ai.usage.input_tokens"
TOKENS_OUT = "gen_ai.usage.output_tokens"
INPUT = "gen_ai.input.messages"
OUTPUT = "gen_ai.output.messages"
ERROR = "error.type"
_STATUS = {"ok": 1, "refused": 1, "failed": 2, "cancelled": 2}


def otlp(
    traces: Iterable[Trace],
    *,
    judgements: Iterable[JudgementRecord] = (),
    contents: bool = False,
    service: str = "noria",
) -> dict[str, Any]:
    """An `ExportTraceServiceRequest` as JSON values: what a collector takes at `/v1/traces`.

    Args:
        traces: traces to export; each is a root span with its steps below.
        judgements: judgements of them, as events `gen_ai.evaluation.result` of the root.
        contents: whether inputs and outputs are written, too.
        service: value of `service.name`.
    """
    said: dict[str, list[JudgementRecord]] = {}
    for judgement in judgements:
        said.setdefault(judgement.trace, []).append(judgement)
    spans = [span for trace in traces for span in _spans(trace, said.get(trace.id, []), contents)]
    scope = {
        "scope": {"name": "noria"},
        "spans": spans,
        "schemaUrl": f"https://opentelemetry.io/schemas/{CONVENTIONS}",
    }
    return {
        "resourceSpans": [
            {"resource": {"attributes": _attributes({"service.name": service})}, "scopeSpans": [scope]}
        ]
    }


def trace_hex(name: str) -> str:
    """The 32 hex digits by which OpenTelemetry knows a trace: those of its UUID."""
    return name.replace("-", "")


def span_hex(name: str) -> str:
    """The 16 hex digits by which OpenTelemetry knows a span: the beginning of the SHA-256 of its id."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _spans(trace: Trace, judgements: list[JudgementRecord], contents: bool) -> list[dict[str, Any]]:
    attributes: dict[str, Any] = {
        OPERATION: "invoke_agent",
        CONVERSATION: trace.conversation,
        TOKENS_IN: trace.usage.tokens_in,
        TOKENS_OUT: trace.usage.tokens_out,
        "noria.bundle": trace.bundle or None,
        "noria.caller": trace.caller or None,
        "noria.status": trace.status,
        "user.id": trace.user,
    }
    attributes |= {f"noria.label.{name}": value for name, value in trace.labels.items()}
    attributes |= {f"noria.experiment.{one.experiment}": one.arm for one in trace.assignments}
    root = {
        "traceId": trace_hex(trace.id),
        "spanId": span_hex(trace.id),
        "name": "invoke_agent",
        "kind": 2,
        "startTimeUnixNano": str(trace.began),
        "endTimeUnixNano": str(trace.ended),
        "attributes": _attributes(attributes),
        "events": [_event(judgement) for judgement in judgements],
        "status": {"code": _STATUS[trace.status]},
    }
    return [root, *(_span(trace, span, contents) for span in trace.spans)]


def _span(trace: Trace, span: Span, contents: bool) -> dict[str, Any]:
    operation = OPERATIONS.get(span.kind)
    attributes: dict[str, Any] = {
        OPERATION: operation,
        MODEL: span.name if span.kind in ("chat", "generate") else None,
        TOOL: span.name if span.kind == "tool" else None,
        ERROR: span.error.kind if span.error else None,
        "noria.kind": None if operation else span.kind,
        "noria.artefact": span.artefact,
        "noria.chosen": span.chosen,
        TOKENS_IN: span.attributes.get("tokens_in"),
        TOKENS_OUT: span.attributes.get("tokens_out"),
    }
    if contents:
        attributes |= {
            name: None if value is None else json.dumps(value, ensure_ascii=False)
            for name, value in ((INPUT, span.input), (OUTPUT, span.output))
        }
    return {
        "traceId": trace_hex(trace.id),
        "spanId": span_hex(span.id),
        "parentSpanId": span_hex(span.parent or trace.id),
        "name": f"{operation or span.kind} {span.name}".strip(),
        "kind": 3 if span.kind in ("chat", "generate") else 1,
        "startTimeUnixNano": str(span.began),
        "endTimeUnixNano": str(span.ended),
        "attributes": _attributes(attributes),
        "status": {"code": 2, "message": span.error.message} if span.error else {"code": 1},
    }


def _event(judgement: JudgementRecord) -> dict[str, Any]:
    invalid = sum(verdict.value == "invalid" for verdict in judgement.verdicts)
    return {
        "timeUnixNano": str(judgement.at),
        "name": "gen_ai.evaluation.result",
        "attributes": _attributes(
            {
                "gen_ai.evaluation.name": f"{judgement.path}/{judgement.judge}",
                "gen_ai.evaluation.score.value": judgement.score,
                "noria.verdicts": len(judgement.verdicts),
                "noria.verdicts.invalid": invalid,
            }
        ),
    }


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}
