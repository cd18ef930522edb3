"""Traces as typed columns: the tables that analysis reads, one row a trace, span, feedback, withdrawal or judgement.

Every table has `sequence`, the number of the frame in the journal. Times are UTC down to the nanosecond. Inputs,
outputs and attributes are JSON text; candidates keep their scores and propensities.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from noria.core.errors import DataError, needing
from noria.core.traces.records import Feedback, JudgementRecord, Record, Span, Trace, Withdrawal

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = ("traces", "spans", "feedback", "withdrawals", "judgements")
"""Names of the tables."""
Rows = dict[str, list[dict[str, Any]]]

_COLUMNS = {
    "traces": (
        "sequence int, id text, began time, ended time, seconds float, status text, bundle text, caller text,"
        " user text?, conversation text?, tokens_in int, tokens_out int, cost float?, assignments assignments,"
        " redactions counts, labels labels"
    ),
    "spans": (
        "sequence int, trace text, id text, parent text?, kind text, name text, began time, ended time, seconds float,"
        " artefact text?, input text?, output text?, blobs texts, candidates candidates, chosen text?,"
        " propensity float?, attributes text, error_kind text?, error_message text?"
    ),
    "feedback": (
        "sequence int, id text, trace text, kind text, name text, at time, value float?, text text?, span text?,"
        " item text?, source text, by text, client_key text?"
    ),
    "withdrawals": "sequence int, id text, trace text, feedback text, at time, by text",
    "judgements": (
        "sequence int, id text, trace text, at time, judge text, version text, checklist text, path text,"
        " verdicts verdicts, invalid int, score float?, seconds float, cost float?, span text?"
    ),
}


def columns(table: str) -> list[tuple[str, str, bool]]:
    """Name, type and whether it may be missing, of each column of a table.

    A type is `int`, `float`, `text`, `time` (nanoseconds), `texts`, `labels` (text by name), `counts` (int by name), or
    `assignments`, `candidates`, `verdicts` (lists of structures).
    """
    pairs = (column.split() for column in _COLUMNS[table].split(","))
    return [(name, kind.rstrip("?"), kind.endswith("?")) for name, kind in pairs]


@functools.cache
def schema(table: str) -> pa.Schema:
    """Arrow's schema of a table.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    with needing("traces"):
        import pyarrow as pa
    text, number = pa.string(), pa.float64()
    types = {
        "int": pa.int64(),
        "float": number,
        "text": text,
        "time": pa.timestamp("ns"),
        "texts": pa.list_(text),
        "labels": pa.map_(text, text),
        "counts": pa.map_(text, pa.int64()),
        "assignments": pa.list_(pa.struct([("experiment", text), ("arm", text), ("propensity", number)])),
        "candidates": pa.list_(pa.struct([("name", text), ("score", number), ("propensity", number)])),
        "verdicts": pa.list_(pa.struct([("item", text), ("value", text), ("reason", text)])),
    }
    return pa.schema([pa.field(name, types[kind], nullable) for name, kind, nullable in columns(table)])


def arrow_table(table: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of a table as Arrow's columns."""
    with needing("traces"):
        import pyarrow as pa
    return pa.Table.from_pylist(list(rows), schema(table))


def rows_of(records: Iterable[tuple[int, Record]]) -> Rows:
    """Rows of each table, from records with the numbers of their frames; an erasure has none."""
    result: Rows = {table: [] for table in TABLES}
    for sequence, record in records:
        if isinstance(record, Trace):
            result["traces"].append(_trace(sequence, record))
            result["spans"] += [_span(sequence, record.id, span) for span in record.spans]
        elif isinstance(record, Feedback):
            result["feedback"].append(_plain(sequence, record))
        elif isinstance(record, Withdrawal):
            result["withdrawals"].append(_plain(sequence, record))
        elif isinstance(record, JudgementRecord):
            invalid = sum(verdict.value == "invalid" for verdict in record.verdicts)
            result["judgements"].append({**_plain(sequence, record), "invalid": invalid})
    return result


def check_numbers(record: Record) -> None:
    """Check that a record's numbers fit into columns of 64 bits.

    Raises:
        DataError: one does not.
    """
    numbers: list[int] = []
    if isinstance(record, Trace):
        numbers += [record.began, record.ended, record.usage.tokens_in, record.usage.tokens_out]
        numbers += record.redactions.values()
        numbers += [time for span in record.spans for time in (span.began, span.ended)]
    else:
        numbers.append(record.at)
    if any(not -(1 << 63) <= number < 1 << 63 for number in numbers):
        raise DataError("a number has more than 64 bits", where=record.id)


def _trace(sequence: int, trace: Trace) -> dict[str, Any]:
    row = _plain(sequence, trace)
    row |= {"tokens_in": trace.usage.tokens_in, "tokens_out": trace.usage.tokens_out}
    row |= {"cost": trace.usage.cost, "seconds": (trace.ended - trace.began) / 1e9}
    return row | {"labels": list(trace.labels.items()), "redactions": list(trace.redactions.items())}


def _span(sequence: int, trace: str, span: Span) -> dict[str, Any]:
    chosen = next((one for one in span.candidates if one.name == span.chosen), None)
    return _plain(sequence, span) | {
        "trace": trace,
        "seconds": (span.ended - span.began) / 1e9,
        "input": _json(span.input),
        "output": _json(span.output),
        "propensity": None if chosen is None else chosen.propensity,
        "attributes": _json(span.attributes),
        "error_kind": None if span.error is None else span.error.kind,
        "error_message": None if span.error is None else span.error.message,
    }


def _plain(sequence: int, record: msgspec.Struct) -> dict[str, Any]:
    """The fields of a record, structures within lists as dicts; columns pick what they have."""
    row: dict[str, Any] = {"sequence": sequence}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if isinstance(value, tuple):
            value = [msgspec.structs.asdict(one) if isinstance(one, msgspec.Struct) else one for one in value]
        row[name] = value
    return row


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
