"""The service's format: requests as rows of JSON, columns of JSON or Arrow, and the ranked list in the same form.

```text
rows     {"id", "user", "timestamp", "size", "fields": …, "items": [{"id", "score", "source", "version", "fields": …}]}
columns  {"id", "user", "timestamp", "size", "fields": …, "columns": {"item": […], "score": […], "source": …, …}}
Arrow    an IPC stream of the columns; the rest as JSON under `request` in the schema's metadata
```

Rows are those of Metarank: fields may be `{name: value}` or `[{"name", "value"}]`, and a request's own fields hold for
all of its items. Names in a column may be a list, or `{"names": […], "codes": […]}` where they repeat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from noria.blending.blender import MAX_SIZE
from noria.blending.columns import (
    LARGEST_WHOLE,
    MAX_CANDIDATES,
    Candidates,
    Column,
    NameColumn,
    NameLists,
    as_column,
)
from noria.blending.service.wire.streams import MAX_COLUMNS, read_stream
from noria.core.errors import DataError, needing

with needing("serve"):
    import msgspec

ARROW = "application/vnd.apache.arrow.stream"
MAX_NAME = 512
"""Characters of an id or a name."""

Form = Literal["rows", "columns", "arrow"]
_Id = str | int
_Fields = dict[str, Any] | list[dict[str, Any]]


class RankItem(msgspec.Struct):
    """A candidate; one without a score or source is left out of the list."""

    id: _Id
    score: float | None = None
    source: str | None = None
    version: str | None = None
    fields: _Fields = {}


class RankBody(msgspec.Struct):
    """A request in JSON: candidates are either `items` or `columns`."""

    id: _Id | None = None
    user: _Id | None = None
    session: _Id | None = None
    timestamp: str | float | None = None
    size: int | None = None
    shown: int = 0
    fields: _Fields = {}
    items: list[RankItem] | None = None
    columns: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(RankBody).decode


@dataclass(frozen=True, eq=False)
class RankRequest:
    """A request to rank, checked.

    Attributes:
        form: form that it came in.
        id: id of the request; None if it has none.
        user: id of the user; None if nobody says.
        time: seconds since 1970 by the client's clock; None if it did not say.
        size: number of places; None for the service's default.
        shown: number of places that count as shown at once.
        candidates: checked candidates.
    """

    form: Form
    id: str | None
    user: str | None
    time: float | None
    size: int | None
    shown: int
    candidates: Candidates


# -- reading ----------------------------------------------------------------------------------------------------------


def read_request(body: bytes, media_type: str, *, scene: str = "") -> RankRequest:
    """Read a request.

    Args:
        body: bytes of the request.
        media_type: JSON unless it is Arrow's.
        scene: place of the list.

    Raises:
        DataError: it is malformed, too large, or lacks what every request has.
    """
    if media_type.partition(";")[0].strip().lower() == ARROW:
        text, columns = read_stream(body)
        head: RankBody = decoded(_decode, text, "not a request", where="metadata 'request'")
        if head.items is not None or head.columns is not None:
            raise DataError("the candidates are the table", where="metadata 'request'")
        form: Form = "arrow"
    else:
        head = decoded(_decode, body, "not a request", mend="NaN is not JSON: send null")
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
    return RankRequest(
        form,
        None if head.id is None else text_id(head.id, "id"),
        None if head.user is None else text_id(head.user, "user"),
        seconds(head.timestamp),
        head.size,
        head.shown,
        Candidates.of(columns, scene=scene),
    )


def decoded(
    decode: Callable[[bytes], Any],
    body: bytes,
    what: str,
    *,
    where: str | None = None,
    mend: str | None = None,
) -> Any:
    """Read a body by a decoder of msgspec's.

    Raises:
        DataError: it is something else; `what` begins the message.
    """
    try:
        return decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DataError(f"{what}: {error}", where=where, mend=mend) from None


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


def text_id(value: str | int, where: str) -> str:
    """An id as text.

    Raises:
        DataError: it is empty or too long.
    """
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


def _of_rows(items: Sequence[RankItem]) -> dict[str, Any]:
    """Columns out of rows; a field that an item lacks is missing there."""
    count = len(items)
    if count > MAX_CANDIDATES:
        raise DataError(f"{count:,} candidates", where="request", mend=f"send at most {MAX_CANDIDATES:,}")
    columns: dict[str, Any] = {"item": [item.id for item in items]}
    columns["score"] = np.array(
        [math.nan if item.score is None else item.score for item in items], np.float64
    )
    columns["source"] = NameColumn.of([item.source for item in items])
    if any(item.version is not None for item in items):
        columns["version"] = NameColumn.of([item.version for item in items])
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


def _of_columns(columns_given: Mapping[str, Any]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, values in columns_given.items():
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
    """A list of nothing but numbers, in one step; numbers so large that floats may not tell them apart are left to the
    general way.
    """
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        return values
    return values if (np.abs(numbers) >= LARGEST_WHOLE).any() else numbers


def _coded(name: str, values: Mapping[str, Any]) -> NameColumn:
    names, codes = values.get("names"), values.get("codes")
    if values.keys() != {"names", "codes"} or not isinstance(names, list) or not isinstance(codes, list):
        raise DataError("not {names, codes}", where=f"column {name!r}")
    if not set(map(type, names)) <= {str} or len(set(names)) != len(names):
        raise DataError("names are distinct texts", where=f"column {name!r}")
    result = np.array(codes) if codes else np.empty(0, np.int64)
    if result.dtype.kind != "i" or result.ndim != 1:
        raise DataError("codes are whole numbers", where=f"column {name!r}")
    if len(result) and not -1 <= result.min() <= result.max() < len(names):
        raise DataError(
            f"a code beyond the {len(names)} names", where=f"column {name!r}", mend="−1 is missing"
        )
    return NameColumn(tuple(names), result.astype(np.int32))


def _constant(name: str, value: Any, count: int) -> Column:
    """A request's own field, the same for every candidate."""
    if isinstance(value, bool):
        return np.full(count, value)
    if isinstance(value, str):
        return NameColumn((value,), np.zeros(count, np.int32))
    one = as_column(name, [value])
    if isinstance(one, np.ndarray):
        return np.full(count, one[0])
    if isinstance(one, NameLists):
        return one.take(np.zeros(count, np.int64))
    raise DataError("not a number, flag, name or list of names", where=f"field {name!r}")
