"""Candidates as an Arrow IPC stream: written plainly, and read with bounds that Arrow's own reader lacks."""

from __future__ import annotations

from typing import Any

from noria.blending.columns import MAX_CANDIDATES, Candidates
from noria.blending.logs.arrow import arrow_array, arrow_column, is_text
from noria.core.errors import DataError, MissingExtra, require

MAX_COLUMNS = 256


def read_stream(body: bytes) -> tuple[bytes, dict[str, Any]]:
    """The JSON under `request` in the schema's metadata, and the columns.

    Raises:
        DataError: it is no stream of plain buffers, or too large; or there is no pyarrow.
    """
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
    if len(set(table.column_names)) != table.num_columns:
        raise DataError("a column comes twice", where="request")
    text: bytes = (table.schema.metadata or {}).get(b"request", b"{}")
    return text, {name: _column(pa, name, table[name]) for name in table.column_names}


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
            data = message.metadata.to_pybytes()
            table = _inner(data, _unsigned(data, 0, 4), 2)
            if message.type == "dictionary":
                table = _inner(data, table, 1)
            if _field(data, table, 3):
                raise ValueError("its buffers are compressed; send them plain")


def _field(data: bytes, table: int, slot: int) -> int:
    """Where the value of a field of a FlatBuffers table is; 0 if the field is absent."""
    vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    if 4 + 2 * slot >= _unsigned(data, vtable, 2):
        return 0
    offset = _unsigned(data, vtable + 4 + 2 * slot, 2)
    return table + offset if offset else 0


def _inner(data: bytes, table: int, slot: int) -> int:
    """Where the table is that a field of another points to."""
    at = _field(data, table, slot)
    if not at:
        raise ValueError("a message without its header")
    return at + _unsigned(data, at, 4)


def _unsigned(data: bytes, place: int, size: int) -> int:
    if not 0 <= place <= len(data) - size:
        raise ValueError("a message that points beyond itself")
    return int.from_bytes(data[place : place + size], "little")


def candidates_of_arrow(body: bytes, *, scene: str = "") -> Candidates:
    """Read what `candidates_to_arrow` gave.

    Raises:
        DataError: something else.
    """
    return Candidates.of(read_stream(body)[1], scene=scene)


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
