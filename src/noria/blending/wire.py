"""What goes over the wire: requests as rows of JSON, columns of JSON or Arrow, and the ranked list in the same form.

```text
rows     {"id", "user", "timestamp", "size", "fields": …, "items": [{"id", "score", "source", "version", "fields": …}]}
columns  {"id", "user", "timestamp", "size", "fields": …, "columns": {"item": […], "score": […], "source": …, …}}
Arrow    an IPC stream of the columns; the rest as JSON under `request` in the schema's metadata
```

Rows are those of Metarank: fields may be `{name: value}` or `[{"name", "value"}]`, and a request's own fields hold for
all of its items. Names in a column may be a list, or `{"names": […], "codes": […]}` where they repeat.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from noria.blending.arrow import arrow_array, arrow_column, is_text
from noria.blending.blender import MAX_SIZE, Blender, Ranked
from noria.blending.columns import MAX_CANDIDATES, Candidates, Coded, Column, Listed, as_column
from noria.blending.scoring import members
from noria.core.errors import DataError, MissingExtra, needing, require

with needing("serve"):
    import msgspec

__all__ = [
    "ARROW",
    "MAX_NAME",
    "Answered",
    "Asked",
    "answer",
    "candidates_to_arrow",
    "read_request",
    "seconds",
]

ARROW = "application/vnd.apache.arrow.stream"
MAX_NAME = 512
"""Characters of an id or a name."""
MAX_COLUMNS = 256

Form = Literal["rows", "columns", "arrow"]
_Id = str | int
_Fields = dict[str, Any] | list[dict[str, Any]]


class _Item(msgspec.Struct):
    id: _Id
    score: float | None = None
    source: str | None = None
    version: str | None = None
    fields: _Fields = {}


class _Request(msgspec.Struct):
    id: _Id | None = None
    user: _Id | None = None
    session: _Id | None = None
    timestamp: str | float | None = None
    size: int | None = None
    shown: int = 0
    fields: _Fields = {}
    items: list[_Item] | None = None
    columns: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Request).decode


@dataclass(frozen=True, eq=False)
class Asked:
    """A request.

    Attributes:
        form: it came in.
        id: its own; None if it has none.
        user: whose it is; None if nobody says.
        time: seconds since 1970 by the client's clock; None if it did not say.
        size: places asked for; None for as many as is usual.
        shown: how many of the list count as shown at once.
        candidates: checked.
    """

    form: Form
    id: str | None
    user: str | None
    time: float | None
    size: int | None
    shown: int
    candidates: Candidates


# -- reading ----------------------------------------------------------------------------------------------------------


def read_request(body: bytes, media_type: str, *, scene: str = "") -> Asked:
    """Read a request.

    Args:
        body: as it came.
        media_type: JSON unless it is Arrow's.
        scene: where the list is shown.

    Raises:
        DataError: it is malformed, too large, or lacks what every request has.
    """
    if media_type.partition(";")[0].strip().lower() == ARROW:
        head, columns = _read_arrow(body)
        form: Form = "arrow"
    else:
        try:
            head = _decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise DataError(f"not a request: {error}", mend="NaN is not JSON: send null") from None
        if (head.items is None) == (head.columns is None):
            raise DataError("give either `items` or `columns`", where="request")
        form = "rows" if head.columns is None else "columns"
        columns = _of_rows(head.items) if head.items is not None else _of_columns(head.columns or {})
    if len(columns) > MAX_COLUMNS:
        raise DataError(f"{len(columns)} columns; at most {MAX_COLUMNS} are let in", where="request")
    items = columns.get("item", ())
    if len(set(map(type, items))) > 1:  # the log knows them as text, in which 1 and "1" are one
        raise DataError(
            "ids of two kinds", where="column 'item'", mend="send all as text, or all as whole numbers"
        )
    count = len(items)
    for name, value in _mapping(head.fields, "fields").items():
        if name not in columns:
            columns[name] = _constant(name, value, count)
    if not 0 <= head.shown <= MAX_SIZE:
        raise DataError(f"{head.shown} shown", where="shown")
    return Asked(
        form,
        _name(head.id, "id"),
        _name(head.user, "user"),
        seconds(head.timestamp),
        head.size,
        head.shown,
        Candidates.of(columns, scene=scene),
    )


def seconds(timestamp: str | float | None) -> float | None:
    """Seconds since 1970 from a number of seconds or milliseconds, also as text.

    Raises:
        DataError: it is no such number.
    """
    if timestamp is None:
        return None
    try:
        value = float(timestamp)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e15:
        raise DataError(
            f"{str(timestamp)[:40]!r} is no time", where="timestamp", mend="give seconds since 1970"
        )
    return value / 1000 if value > 1e11 else value


def _name(value: _Id | None, where: str) -> str | None:
    if value is None:
        return None
    text = str(value)
    if not text or len(text) > MAX_NAME:
        raise DataError(f"an id has 1 to {MAX_NAME} characters, not {len(text)}", where=where)
    return text


def _mapping(fields: _Fields, where: str) -> Mapping[str, Any]:
    if isinstance(fields, dict):
        return fields
    try:
        return {str(field["name"]): field["value"] for field in fields}
    except KeyError:
        raise DataError("a field has a name and a value", where=where) from None


def _of_rows(items: Sequence[_Item]) -> dict[str, Any]:
    """Columns out of rows; a field that an item lacks is missing there."""
    count = len(items)
    if count > MAX_CANDIDATES:
        raise DataError(f"{count:,} candidates", where="request", mend=f"send at most {MAX_CANDIDATES:,}")
    columns: dict[str, Any] = {"item": [item.id for item in items]}
    columns["score"] = np.array(
        [math.nan if item.score is None else item.score for item in items], np.float64
    )
    columns["source"] = Coded.of([item.source for item in items])
    if any(item.version is not None for item in items):
        columns["version"] = Coded.of([item.version for item in items])
    extra: dict[str, list[Any]] = {}
    for row, item in enumerate(items):
        if item.fields:
            for name, value in _mapping(item.fields, f"items[{row}].fields").items():
                column = extra.get(name)
                if column is None:
                    if name in _RESERVED or len(extra) >= MAX_COLUMNS:
                        raise DataError(
                            f"a field may not be called {name[:60]!r}", where=f"items[{row}].fields"
                        )
                    column = extra[name] = [None] * count
                column[row] = value
    return columns | extra


_RESERVED = {"item", "score", "source", "version"}


def _of_columns(given: Mapping[str, Any]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, values in given.items():
        if isinstance(values, dict):
            columns[name] = _coded(name, values)
            continue
        if not isinstance(values, list):
            raise DataError("not a list", where=f"column {name!r}")
        kinds = set(map(type, values))
        if name == "item" and not kinds <= {str, int}:
            raise DataError("an id is text or a whole number", where="column 'item'")
        columns[name] = _numbers(values) if name != "item" and kinds and kinds <= _NUMBERS else values
    return columns


_NUMBERS = {float, int}


def _numbers(values: list[Any]) -> Any:
    """A list of nothing but numbers, in one step; what no float holds is left to the general way."""
    try:
        return np.array(values, np.float64)
    except OverflowError:
        return values


def _coded(name: str, given: Mapping[str, Any]) -> Coded:
    names, codes = given.get("names"), given.get("codes")
    if given.keys() != {"names", "codes"} or not isinstance(names, list) or not isinstance(codes, list):
        raise DataError("not {names, codes}", where=f"column {name!r}")
    if not set(map(type, names)) <= {str} or len(set(names)) != len(names):
        raise DataError("names are distinct texts", where=f"column {name!r}")
    found = np.array(codes) if codes else np.empty(0, np.int64)
    if found.dtype.kind != "i" or found.ndim != 1:
        raise DataError("codes are whole numbers", where=f"column {name!r}")
    if len(found) and not -1 <= found.min() <= found.max() < len(names):
        raise DataError(
            f"a code beyond the {len(names)} names", where=f"column {name!r}", mend="−1 is missing"
        )
    return Coded(tuple(names), found.astype(np.int32))


def _constant(name: str, value: Any, count: int) -> Column:
    """A request's own field, the same for every candidate."""
    if isinstance(value, bool):
        return np.full(count, value)
    if isinstance(value, int | float) or value is None:
        return np.full(count, math.nan if value is None else float(value))
    if isinstance(value, str):
        return Coded((value,), np.zeros(count, np.int32))
    one = as_column(name, [value])
    if isinstance(one, Listed):
        return one.take(np.zeros(count, np.int64))
    raise DataError("not a number, flag, name or list of names", where=f"field {name!r}")


# -- Arrow ------------------------------------------------------------------------------------------------------------


def _read_arrow(body: bytes) -> tuple[_Request, dict[str, Any]]:
    try:
        pa: Any = require("pyarrow", "blending")
    except MissingExtra as error:
        raise DataError(f"Arrow cannot be read here: {error}", mend="send JSON") from None
    try:
        _refuse_compressed(pa, body)
        table = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise DataError(f"not an Arrow IPC stream: {str(error)[:200]}") from None
    if len(table) > MAX_CANDIDATES or table.num_columns > MAX_COLUMNS:
        raise DataError(
            f"{len(table):,} rows of {table.num_columns:,} columns",
            where="request",
            mend=f"send at most {MAX_CANDIDATES:,} of {MAX_COLUMNS}",
        )
    text = (table.schema.metadata or {}).get(b"request", b"{}")
    try:
        head = _decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"not a request: {error}", where="metadata 'request'") from None
    if head.items is not None or head.columns is not None:
        raise DataError("the candidates are the table", where="metadata 'request'")
    if len(set(table.column_names)) != table.num_columns:
        raise DataError("a column comes twice", where="request")
    return head, {name: _column(pa, name, table[name]) for name in table.column_names}


def _column(pa: Any, name: str, column: Any) -> Any:
    """Ids as Python's own, anything else as a column."""
    if name != "item":
        return arrow_column(column, name)
    kind = column.type
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    if column.null_count or not (is_text(text) or pa.types.is_integer(kind)):
        raise DataError("an id is text or a whole number", where="column 'item'")
    return column.to_pylist()


def _refuse_compressed(pa: Any, body: bytes) -> None:
    """A few bytes can stand for gigabytes, and Arrow's reader has no bound: only plain buffers are let in.

    Raises:
        ValueError: a compressed record batch.
    """
    stream = pa.BufferReader(body)
    while True:
        try:
            message = pa.ipc.read_message(stream)
        except EOFError:
            return
        if message.type in ("record batch", "dictionary"):
            table = _Table.root(message.metadata.to_pybytes()).table(2)
            if message.type == "dictionary":
                table = table.table(1)
            if table.has(3):
                raise ValueError("its buffers are compressed; send them plain")


@dataclass(frozen=True)
class _Table:
    """As much of FlatBuffers as it takes to see whether a field is there."""

    data: bytes
    place: int

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, _unsigned(data, 0, 4))

    def _field(self, slot: int) -> int:
        """Where a field's value is; 0 if the field is absent."""
        vtable = self.place - int.from_bytes(self.data[self.place : self.place + 4], "little", signed=True)
        if 4 + 2 * slot >= _unsigned(self.data, vtable, 2):
            return 0
        offset = _unsigned(self.data, vtable + 4 + 2 * slot, 2)
        return self.place + offset if offset else 0

    def has(self, slot: int) -> bool:
        return self._field(slot) > 0

    def table(self, slot: int) -> _Table:
        at = self._field(slot)
        if not at:
            raise ValueError("a message without its header")
        return _Table(self.data, at + _unsigned(self.data, at, 4))


def _unsigned(data: bytes, place: int, size: int) -> int:
    if not 0 <= place <= len(data) - size:
        raise ValueError("a message that points beyond itself")
    return int.from_bytes(data[place : place + size], "little")


def candidates_of_arrow(body: bytes, *, scene: str = "") -> Candidates:
    """What `candidates_to_arrow` gave.

    Raises:
        DataError: something else.
    """
    return Candidates.of(_read_arrow(body)[1], scene=scene)


def candidates_to_arrow(candidates: Candidates) -> bytes:
    """A request's candidates as an IPC stream, with every column."""
    pa: Any = require("pyarrow", "blending")
    arrays = {"item": pa.array([str(item) for item in candidates.item], pa.string())}
    for name, column in candidates.columns.items():
        arrays[name] = arrow_array(column)
    sink = pa.BufferOutputStream()
    batch = pa.record_batch(list(arrays.values()), names=list(arrays))
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


# -- answering --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Answered:
    """A body and its media type."""

    body: bytes
    media_type: str


_encode = msgspec.json.Encoder().encode


def answer(
    asked: Asked, ranked: Ranked, head: Mapping[str, Any], blender: Blender, *, explain: bool = False
) -> Answered:
    """The ranked list in the form of its request.

    Args:
        asked: the request.
        ranked: its list.
        head: fields of the answer beside the list: id, snapshot, took.
        blender: that ranked it.
        explain: with the whole account of every item.
    """
    item = asked.candidates.item
    items = [item[row] for row in ranked.order.tolist()]
    boosts = _boosts(ranked)
    values: dict[str, Any] = dict(head)
    if ranked.dropped:
        values["dropped"] = dict(ranked.dropped)
    if asked.form == "rows":
        rows: list[dict[str, Any]] = [
            {"item": one, "score": score, "value": value}
            for one, score, value in zip(items, ranked.score.tolist(), ranked.value.tolist(), strict=True)
        ]
        for plan, (places, amounts) in boosts.items():
            for place, amount in zip(places, amounts, strict=True):
                rows[place].setdefault("boost", {})[plan] = amount
        for place in np.flatnonzero(ranked.guard).tolist():
            rows[place]["guard"] = float(ranked.guard[place])
        if explain:
            for place, row in enumerate(rows):
                row["explain"] = explanation(asked.candidates, ranked, blender, place)
        return Answered(_encode(values | {"items": rows}), "application/json")
    if asked.form == "arrow":
        return Answered(_arrow_answer(ranked, items, values), ARROW)
    values |= {"items": items, "score": ranked.score.tolist(), "value": ranked.value.tolist()}
    values["boost"] = {
        plan: {"places": places, "amounts": amounts} for plan, (places, amounts) in boosts.items()
    }
    if ranked.guard.any():
        values["guard"] = ranked.guard.tolist()
    if explain:
        values["explain"] = [
            explanation(asked.candidates, ranked, blender, place) for place in range(len(items))
        ]
    return Answered(_encode(values), "application/json")


def explanation(candidates: Candidates, ranked: Ranked, blender: Blender, place: int) -> dict[str, Any]:
    """Why a candidate stands at a place: from raw score to value to boosts, each with the numbers that made it."""
    told = ranked.explain(place)
    row = told.pop("row")
    source = candidates.source
    name = source.names[source.codes[row]]
    version = candidates.columns.get("version")
    model = ""
    if isinstance(version, Coded) and version.codes[row] >= 0:
        model = version.names[version.codes[row]]
    told |= {"raw": float(candidates.score[row]), "source": name, "version": model}
    found = blender.snapshot.alignment.find(candidates.scene, name, model)
    if found is not None:
        key, stands_in = found
        told["aligner"] = {"key": list(key), "stands_in": stands_in}
    told["plans"] = [
        {"plan": plan, "amount": amount, **dict(zip(("weight", "bias"), _terms(blender, plan), strict=True))}
        for plan, amount in told["plans"].items()
    ]
    return told


def _terms(blender: Blender, plan: str) -> tuple[float, float]:
    return blender.snapshot.weight_and_bias(plan)


def _boosts(ranked: Ranked) -> dict[str, tuple[list[int], list[float]]]:
    """By plan, the places that it hits and its contribution there."""
    bits, places = np.nonzero(members(ranked.mask, len(ranked.plans)).T)
    amounts = ranked.contributions[places, bits].tolist()
    ends = np.cumsum(np.bincount(bits, minlength=len(ranked.plans))).tolist()
    listed = places.tolist()
    found, begin = {}, 0
    for plan, end in zip(ranked.plans, ends, strict=True):
        if end > begin:
            found[plan] = listed[begin:end], amounts[begin:end]
        begin = end
    return found


def _arrow_answer(ranked: Ranked, items: list[Any], values: Mapping[str, Any]) -> bytes:
    pa: Any = require("pyarrow", "blending")
    arrays = {
        "item": pa.array(items),
        "row": pa.array(ranked.order),
        "score": pa.array(ranked.score),
        "value": pa.array(ranked.value),
        "mask": pa.array(ranked.mask),
        "guard": pa.array(ranked.guard),
    }
    hit = members(ranked.mask, len(ranked.plans))
    for bit in np.flatnonzero(hit.any(axis=0)).tolist():
        arrays[f"boost.{ranked.plans[bit]}"] = pa.array(ranked.contributions[:, bit])
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in arrays.items()], {"answer": json.dumps(dict(values))}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
    return bytes(sink.getvalue().to_pybytes())
