"""Spans of other tools' formats as one flat span: OTLP in JSON, the console exporter, Langfuse and Phoenix."""

from __future__ import annotations

import base64
import binascii
import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from noria.core.errors import DataError
from noria.core.records import json_value
from noria.core.traces import telemetry


@dataclass(frozen=True)
class FlatSpan:
    """A span of any format, before it is one of ours."""

    trace: str
    id: str
    parent: str | None
    name: str
    began: int
    ended: int
    attributes: Mapping[str, Any]
    failed: bool = False
    message: str = ""


# -- formats ----------------------------------------------------------------------------------------------------------


def flat_spans(value: Any) -> Iterator[FlatSpan]:
    """Spans of one JSON value: a request of OTLP, a span of a console, an observation, or a list of such.

    Raises:
        ValueError: it is of no known format.
    """
    if isinstance(value, list):
        for item in value:
            yield from flat_spans(item)
    elif not isinstance(value, dict):
        raise ValueError("no JSON object")
    elif "resourceSpans" in value:
        for resource in value["resourceSpans"]:
            for scope in resource.get("scopeSpans") or resource.get("instrumentationLibrarySpans") or []:
                for span in scope.get("spans") or []:
                    yield _otlp(span)
    elif isinstance(value.get("context"), dict):
        yield _console(value)
    elif "context.span_id" in value:  # a row of Phoenix' table
        yield _console({**value, "context": {k: value[f"context.{k}"] for k in ("span_id", "trace_id")},
                        "attributes": _under(value, "attributes.")})  # fmt: skip
    elif isinstance(value.get("observations"), list):  # a trace of Langfuse with its observations
        for observation in value["observations"]:
            merged = {
                "traceId": value.get("id"),
                "sessionId": value.get("sessionId"),
                "userId": value.get("userId"),
            }
            yield _langfuse(merged | observation)
    elif isinstance(value.get("data"), list):  # a page of an API
        yield from flat_spans(value["data"])
    elif "startTimeUnixNano" in value:
        yield _otlp(value)
    elif {"traceId", "trace_id"} & value.keys() and {"startTime", "start_time"} & value.keys():
        yield _langfuse(value)
    else:
        raise ValueError(
            f"no format that is known: {', '.join(map(str, list(value)[:5])) or 'an empty object'}"
        )


def _otlp(span: Mapping[str, Any]) -> FlatSpan:
    status = span.get("status") or {}
    return FlatSpan(
        _hex(span["traceId"], 16),
        _hex(span["spanId"], 8),
        _hex(span["parentSpanId"], 8) if span.get("parentSpanId") else None,
        str(span.get("name", "")),
        _nanoseconds(span["startTimeUnixNano"]),
        _nanoseconds(span.get("endTimeUnixNano") or span["startTimeUnixNano"]),
        {item["key"]: _any_value(item.get("value")) for item in span.get("attributes") or []},
        status.get("code") in (2, "STATUS_CODE_ERROR"),
        str(status.get("message", "")),
    )


def _console(span: Mapping[str, Any]) -> FlatSpan:
    """A span as OpenTelemetry's console exporter prints it, or as Phoenix gives it."""
    status = span.get("status") or {}
    code = str(status.get("status_code") or span.get("status_code") or "")
    attributes = dict(span.get("attributes") or {})
    if span.get("span_kind") and "openinference.span.kind" not in attributes:
        attributes["openinference.span.kind"] = span["span_kind"]
    return FlatSpan(
        _hex(span["context"]["trace_id"], 16),
        _hex(span["context"]["span_id"], 8),
        _hex(span["parent_id"], 8) if span.get("parent_id") else None,
        str(span.get("name", "")),
        _nanoseconds(span["start_time"]),
        _nanoseconds(span.get("end_time") or span["start_time"]),
        _flattened(attributes),
        code.endswith("ERROR"),
        str(status.get("description") or span.get("status_message") or ""),
    )


def _langfuse(row: Mapping[str, Any]) -> FlatSpan:
    """An observation of Langfuse: from its API (`traceId`) or from its export (`trace_id`)."""

    def get(camel: str, *others: str) -> Any:
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in camel)
        return next((row[name] for name in (camel, snake, *others) if row.get(name) is not None), None)

    trace = get("traceId")
    if not trace or not row.get("id"):
        raise ValueError("an observation without id or trace")
    usage = get("usageDetails", "usage") or {}
    usage = loaded_json(usage) if isinstance(usage, str) else usage
    began = _nanoseconds(get("startTime"))
    end = get("endTime")
    return FlatSpan(
        str(trace),
        str(row["id"]),
        get("parentObservationId"),
        str(row.get("name") or ""),
        began,
        began if end is None else _nanoseconds(end),
        {
            "langfuse.type": row.get("type"),
            telemetry.MODEL: get("model", "providedModelName", "provided_model_name"),
            telemetry.INPUT: loaded_json(row.get("input")),
            telemetry.OUTPUT: loaded_json(row.get("output")),
            telemetry.TOKENS_IN: usage.get("input") or usage.get("promptTokens"),
            telemetry.TOKENS_OUT: usage.get("output") or usage.get("completionTokens"),
            telemetry.CONVERSATION: get("sessionId"),
            "user.id": get("userId"),
            "cost": get("totalCost", "calculatedTotalCost", "total_price"),
        },
        row.get("level") == "ERROR",
        str(get("statusMessage") or ""),
    )


def _hex(text: Any, size: int) -> str:
    """An id in hex: from hex with or without 0x, or from base64 as protobuf's JSON has it."""
    plain = str(text).removeprefix("0x").lower()
    if len(plain) == 2 * size and set(plain) <= set("0123456789abcdef"):
        return plain
    try:
        raw = base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        raise ValueError(f"no id: {str(text)[:60]!r}")
    return raw.hex()


def _nanoseconds(value: Any) -> int:
    """Nanoseconds since 1970 from a number of them, its text, or a date in ISO 8601 (UTC where no zone is given)."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"no time: {value!r}")
    if isinstance(value, (int, float)) or str(value).isdecimal():
        number = float(value)
        if not math.isfinite(number) or not 1e17 < number < 1e19:
            raise ValueError(f"no time in nanoseconds: {str(value)[:40]}")
        return int(value)
    moment = datetime.datetime.fromisoformat(str(value).replace(" UTC", "").strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _any_value(value: Any) -> Any:
    """The value of an `AnyValue` of OTLP."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    kind, inner = next(iter(value.items()))
    if kind == "intValue":
        return int(inner)
    if kind == "arrayValue":
        return [_any_value(item) for item in inner.get("values") or []]
    if kind == "kvlistValue":
        return {item["key"]: _any_value(item.get("value")) for item in inner.get("values") or []}
    return inner


def _under(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


def _flattened(attributes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Attributes by dotted names, also from nested objects."""
    flat: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, dict):
            flat |= _flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def loaded_json(value: Any) -> Any:
    """The JSON that a text holds within the bounds of `json_value`; any other text, or value, as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json_value(value, "text")
        except DataError:
            return value
    return value
