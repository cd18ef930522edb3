"""Logs of other tools become the same traces; files leave the text; what goes out can be read in again."""

from __future__ import annotations

import base64
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from noria.core.errors import DataError
from noria.core.storage.journal_file import blob_digest
from noria.core.traces.blobs import blob_names, put_back_blobs, take_out_blobs, without_notes
from noria.core.traces.ids import is_id
from noria.core.traces.imports import ImportCounts, Imported, import_traces
from noria.core.traces.records import JudgementRecord, Span, SpanError, Trace, Usage, VerdictRecord
from noria.core.traces.telemetry import otlp, trace_hex

BEGAN, ENDED = 1_764_331_200_000_000_000, 1_764_331_201_500_000_000
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
TRACE, ROOT, CALL = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b173", "eee19b7ec3c1b174"


def in_base64(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()


def otlp_request(code=lambda text: text) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    def attribute(key: str, value: Any, kind: str = "stringValue") -> dict[str, Any]:
        return {"key": key, "value": {kind: value}}

    root = {"traceId": code(TRACE), "spanId": code(ROOT), "name": "answer", "startTimeUnixNano": str(BEGAN),
            "endTimeUnixNano": str(ENDED), "attributes": [attribute("gen_ai.operation.name", "invoke_agent"),
                                                          attribute("gen_ai.conversation.id", "c-1")]}  # fmt: skip
    call = {
        "traceId": code(TRACE), "spanId": code(CALL), "parentSpanId": code(ROOT), "name": "chat small",
        "startTimeUnixNano": str(BEGAN + 1000), "endTimeUnixNano": str(ENDED - 1000),
        "attributes": [
            attribute("gen_ai.operation.name", "chat"), attribute("gen_ai.request.model", "small"),
            attribute("gen_ai.usage.input_tokens", "12", "intValue"),
            attribute("gen_ai.usage.output_tokens", "3", "intValue"),
            attribute("gen_ai.input.messages", json.dumps(MESSAGES)), attribute("gen_ai.output.messages", "Paris"),
        ],
        "status": {"code": 1},
    }  # fmt: skip
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": [call, root]}]}]}


def console_spans() -> list[dict[str, Any]]:
    def span(id: str, parent: str | None, attributes: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": "chat", "context": {"trace_id": "0x" + TRACE, "span_id": "0x" + id, "trace_state": "[]"},
            "kind": "SpanKind.CLIENT", "parent_id": parent and "0x" + parent,
            "start_time": "2025-11-28T12:00:00.000000Z", "end_time": "2025-11-28T12:00:01.500000Z",
            "status": {"status_code": "UNSET"}, "attributes": attributes, "events": [], "links": [],
        }  # fmt: skip

    return [
        span(ROOT, None, {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": "c-1"}),
        span(CALL, ROOT, {"gen_ai.operation.name": "chat", "gen_ai.request.model": "small",
                          "gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 3,
                          "gen_ai.input.messages": json.dumps(MESSAGES), "gen_ai.output.messages": "Paris"}),
    ]  # fmt: skip


def phoenix_spans() -> list[dict[str, Any]]:
    def span(id: str, parent: str | None, kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "U3Bhbjox", "name": "chat", "context": {"trace_id": TRACE, "span_id": id}, "span_kind": kind,
            "parent_id": parent, "start_time": "2025-11-28T12:00:00+00:00", "end_time": "2025-11-28T12:00:01.5+00:00",
            "status_code": "OK", "status_message": "", "attributes": attributes, "events": [],
        }  # fmt: skip

    return [
        span(ROOT, None, "AGENT", {"session": {"id": "c-1"}}),
        span(CALL, ROOT, "LLM", {"llm": {"model_name": "small", "token_count": {"prompt": 12, "completion": 3}},
                                 "input": {"value": json.dumps(MESSAGES)}, "output": {"value": "Paris"}}),
    ]  # fmt: skip


def langfuse_trace() -> dict[str, Any]:
    times = {"startTime": "2025-11-28T12:00:00.000Z", "endTime": "2025-11-28T12:00:01.500Z"}
    return {
        "id": TRACE, "sessionId": "c-1", "userId": None, "scores": [],
        "observations": [
            {"id": ROOT, "type": "AGENT", "name": "answer", **times},
            {"id": CALL, "type": "GENERATION", "name": "chat", "parentObservationId": ROOT, "model": "small",
             "input": MESSAGES, "output": "Paris", "usageDetails": {"input": 12, "output": 3}, "level": "DEFAULT",
             **times},
        ],
    }  # fmt: skip


def langfuse_rows() -> list[dict[str, Any]]:
    times = {"start_time": "2025-11-28 12:00:00.000000", "end_time": "2025-11-28 12:00:01.500000"}
    return [
        {"id": ROOT, "trace_id": TRACE, "type": "AGENT", "name": "answer", "session_id": "c-1", **times},
        {"id": CALL, "trace_id": TRACE, "type": "GENERATION", "name": "chat", "parent_observation_id": ROOT,
         "provided_model_name": "small", "input": json.dumps(MESSAGES), "output": "Paris",
         "usage_details": {"input": 12, "output": 3}, **times},
    ]  # fmt: skip


def as_lines(values: list[Any], indent: int | None = None) -> str:
    return "".join(json.dumps(value, indent=indent) + "\n" for value in values)


LOGS = {
    "OTLP, ids in hex": as_lines([otlp_request()]),
    "OTLP, ids in base64": as_lines([otlp_request(in_base64)]),
    "OTLP, laid out": as_lines([otlp_request()], indent=2),
    "console exporter": as_lines(console_spans(), indent=4),
    "console exporter, on lines": as_lines(console_spans()),
    "Phoenix' list": json.dumps(phoenix_spans()),
    "Phoenix' page": json.dumps({"data": phoenix_spans(), "next_cursor": None}),
    "Langfuse, a trace": json.dumps(langfuse_trace()),
    "Langfuse, rows": as_lines(langfuse_rows()),
    "a list, a span a line": "[\n" + ",\n".join(map(json.dumps, langfuse_rows())) + "\n]\n",
    "a list, a comma a line": "[" + "\n,".join(map(json.dumps, langfuse_rows())) + "]",
    "a list, laid out": json.dumps(phoenix_spans(), indent=2),
    "a list, laid out without indents": json.dumps(phoenix_spans(), indent=0),
    "lists on lines": as_lines([[row] for row in langfuse_rows()]),
    "all on one line": "".join(map(json.dumps, langfuse_rows())),
}


def read(tmp_path: Path, text: str, counts: ImportCounts | None = None) -> list[Imported]:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    return list(import_traces(path, counts=counts))


@pytest.mark.parametrize("name", LOGS)
def test_every_format_gives_the_same_trace(tmp_path: Path, name: str) -> None:
    counts = ImportCounts()
    (imported,) = read(tmp_path, LOGS[name], counts)
    trace = imported.trace
    assert (counts.traces, counts.spans, counts.skipped) == (1, 2, [])
    assert is_id(trace.id)
    assert (trace.began, trace.ended, trace.status, trace.conversation) == (BEGAN, ENDED, "ok", "c-1")
    assert (trace.usage.tokens_in, trace.usage.tokens_out) == (12, 3)
    call = next(span for span in trace.spans if span.kind == "chat")
    root = next(span for span in trace.spans if span.kind == "agent")
    assert (call.name, call.input, call.output, call.parent) == ("small", MESSAGES, "Paris", root.id)
    assert root.parent is None
    assert [one.trace for one in read(tmp_path, LOGS[name])] == [trace]  # again: the same ids


def test_a_broken_line_is_counted_and_a_file_without_spans_refused(tmp_path: Path) -> None:
    counts = ImportCounts()
    bad = {"context": {"trace_id": "xyz", "span_id": "1"}, "start_time": "2025-11-28T12:00:00Z"}
    late = {**console_spans()[0], "start_time": "soon"}
    (imported,) = read(tmp_path, as_lines([bad, *console_spans(), late, {"x": 1}, 7]), counts)
    assert len(imported.trace.spans) == 2
    assert counts.skipped_count == 4
    assert counts.skipped[0].endswith("log.jsonl:1: no id: 'xyz'")
    for text in ("", "{}\n", "[1, 2]\n", '{"resourceSpans": []}\n'):
        with pytest.raises(DataError, match="no span"):
            read(tmp_path, text)
    with pytest.raises(DataError, match="cut off"):
        read(tmp_path, LOGS["OTLP, laid out"][:-300])


def test_long_logs_that_are_laid_out_take_linear_time(tmp_path: Path) -> None:
    spans = [{**span, "attributes": {f"a{n}": n for n in range(300)}} for span in console_spans() * 100]
    began = time.process_time()
    read(tmp_path, as_lines(spans, indent=4))
    assert time.process_time() - began < 10


def test_a_list_of_a_row_a_line_takes_linear_time(tmp_path: Path) -> None:
    row = {**langfuse_rows()[1], "metadata": {f"a{n}": "[x]" for n in range(50)}}
    began = time.process_time()
    (imported,) = read(
        tmp_path, "[\n" + ",\n".join([json.dumps({**row, "id": f"{n}"}) for n in range(8000)]) + "\n]"
    )
    assert len(imported.trace.spans) == 8000
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("totalCost", 10**400, "a number of more than 300 digits"),
        ("totalCost", 10**200, "cost: a number of 2^53 or more"),
        ("totalCost", math.inf, "cost: a number of 2^53 or more"),
        ("usageDetails", {"input": 2**53}, "gen_ai.usage.input_tokens: a number of 2^53 or more"),
        ("usageDetails", {"output": -(10**40)}, "gen_ai.usage.output_tokens: a number of 2^53 or more"),
        ("startTime", 10**299, "no time in nanoseconds: 1000"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_number_that_is_none_is_refused_with_its_span_alone(
    tmp_path: Path, field: str, value: object, why: str, listed: bool
) -> None:
    counts = ImportCounts()
    bad = {**langfuse_rows()[1], field: value}
    bad.pop("start_time" if field == "startTime" else "usage_details")
    rows = [langfuse_rows()[0], bad]
    (imported,) = read(tmp_path, json.dumps(rows) if listed else as_lines(rows), counts)
    assert [span.kind for span in imported.trace.spans] == ["agent"]
    assert counts.skipped_count == 1
    assert why in counts.skipped[0]


@pytest.mark.parametrize("depth", [200, 500, 900, 990])
def test_what_is_nested_too_deep_is_refused_or_stays_a_text(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    counts = ImportCounts()
    row = json.dumps({**langfuse_rows()[1], "input": 7})
    rows = [json.dumps(langfuse_rows()[0]), row.replace('"input": 7', f'"input": {deep}')]
    (imported,) = read(tmp_path, "\n".join(rows), counts)
    assert len(imported.trace.spans) == 1
    assert "nested more than 100 deep" in counts.skipped[0]
    (imported,) = read(tmp_path, as_lines([{**langfuse_rows()[1], "input": deep}]))
    assert imported.trace.spans[0].input == deep


@pytest.mark.parametrize("text", ['{"a": 1}}', "]", '[{"a": 1}', '{"a": [1}\n{"b": 2}', '{"a": "'])
def test_brackets_that_do_not_match_are_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="no JSON"):
        read(tmp_path, as_lines(langfuse_rows()) + text)


def test_what_is_personal_does_not_come_in(tmp_path: Path) -> None:
    span = console_spans()[1]
    span["attributes"]["gen_ai.input.messages"] = json.dumps(
        [{"role": "user", "content": "I am ann@example.org, 4111 1111 1111 1111"}]
    )
    (imported,) = read(tmp_path, as_lines([span]))
    assert imported.trace.spans[0].input == [{"role": "user", "content": "I am [mail], [card]"}]
    assert imported.trace.redactions == {"mail": 1, "card": 1}


def test_what_goes_out_as_otlp_comes_in_again(tmp_path: Path) -> None:
    spans = (
        Span(
            "a", "chat", "small", BEGAN, ENDED, input=MESSAGES, output="Paris", attributes={"tokens_in": 12}
        ),
        Span("b", "tool", "search", BEGAN, ENDED, parent="a", error=SpanError("timeout", "no answer in 3 s")),
        Span("c", "skill", "router", BEGAN, ENDED, artefact="f" * 64),
    )
    trace = Trace("0199d3b5-1c00-7abc-8def-0123456789ab", BEGAN, ENDED, "ok", conversation="c-1", spans=spans,
                  usage=Usage(12, 3))  # fmt: skip
    judgement = JudgementRecord("j", trace.id, ENDED, "rules", "1", "c", "rule",
                                (VerdictRecord("i", "yes"), VerdictRecord("k", "invalid")), 1.0)  # fmt: skip
    request = otlp([trace], judgements=[judgement], contents=True)
    written = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {span["traceId"] for span in written} == {trace_hex(trace.id)}
    assert all(len(span["spanId"]) == 16 for span in written)
    assert written[0]["events"][0]["name"] == "gen_ai.evaluation.result"
    (imported,) = read(tmp_path, json.dumps(request))
    by_kind = {span.kind: span for span in imported.trace.spans}
    assert by_kind["chat"].input == MESSAGES
    assert by_kind["tool"].error is not None
    assert by_kind["tool"].error.kind == "timeout"
    assert by_kind["tool"].parent == by_kind["chat"].id
    assert "messages" not in json.dumps(otlp([trace]))  # contents are written where asked for only


# -- files in messages ------------------------------------------------------------------------------------------------


def picture(kind: str, **more: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((37, 23), 90).convert("RGB").save(file, kind, **more)
    return file.getvalue()


def with_notes(kind: str, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "A CAMERA OF ANN'S"
    exif[0x0112] = orientation
    return picture(kind, exif=exif, **({"comment": b"at home"} if kind == "JPEG" else {}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_cameras_notes_go_and_the_pixels_stay(kind: str, orientation: int) -> None:
    content = with_notes(kind, orientation)
    clean = without_notes(content)
    assert b"CAMERA" in content
    assert b"CAMERA" not in clean
    assert b"at home" not in clean
    before, after = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(clean))
    assert before.tobytes() == after.tobytes()
    if kind == "JPEG":
        assert after.getexif().get(0x0112, 1) == orientation
    assert without_notes(clean) == clean


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_picture_stays_as_it_is(kind: str) -> None:
    content = with_notes(kind)
    for end in range(0, len(content), 7):
        without_notes(content[:end])
    assert without_notes(b"text") == b"text"


def test_files_leave_messages_and_come_back() -> None:
    content = picture("PNG")
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    sound = base64.b64encode(b"RIFFsound").decode()
    value = {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "data: what is this?"}, {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,no base64!"}},
    ]}]}  # fmt: skip
    without, blobs = take_out_blobs(value)
    assert blobs == {blob_digest(content): content, blob_digest(b"RIFFsound"): b"RIFFsound"}
    assert len(json.dumps(without)) < 1000
    assert sorted(blob_names(without)) == sorted(blobs)
    parts = put_back_blobs(without, blobs)["messages"][0]["content"]
    assert parts[1] == {"type": "image_url", "image_url": {"url": url}}
    assert put_back_blobs(without, {}) == without
