"""Logs in CSV or JSON lines as Parquet: every value read as its column's kind, or refused with its file and line."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from noria.blending.columns import LARGEST_WHOLE
from noria.blending.logs.schema import Kind
from noria.core.errors import DataError, require
from noria.core.records import Record, json_records, lines

BLOCK = 1 << 16
"""Number of rows converted at a time."""
LATEST = 1e11
"""Times from this on, the year 5138, are no seconds: milliseconds of 1973 begin there."""

Renamed: TypeAlias = Mapping[str, str]
"""Names of a log's columns by ours."""


NO_SECONDS = f"{LATEST:g} or more: milliseconds or finer, and no seconds"


def our_names(renamed: Renamed, names: Sequence[str]) -> dict[str, str]:
    """Our name by the file's; a column of ours whose name is given to another is left out."""
    given = {theirs: ours for ours, theirs in renamed.items() if theirs in names}
    taken = set(given.values())
    return {name: given.get(name, name) for name in names if name in given or name not in taken}


KIND_WORDS: dict[str, str] = {
    "string": "names, as text or whole numbers",
    "float64": "numbers, not text",
    "time": "seconds since 1970, timestamps, or ISO text",
    "int64": "whole numbers",
    "uint64": "whole numbers from 0, whose bits are plans",
    "bool": "flags, true or false",
}


# -- CSV, JSON lines, and Parquet with times as text ------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)
_LEADING_ZERO = re.compile(r"[-+]?0\d")
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def write_parquet(
    file: str, target: Path, kinds: Mapping[str, Kind], renamed: Renamed, more: bool
) -> set[str]:
    """Write a log as Parquet, every value checked; which of the renamed columns it has."""
    arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
    as_text = Path(file).suffix.lower() == ".csv"
    types = {
        "string": arrow.string(),
        "bool": arrow.bool_(),
        "uint64": arrow.uint64(),
        "lists": arrow.list_(arrow.string()),
    }
    found, mixed = _kinds(file, as_text, more)
    given, present = our_names(renamed, list(found)), dict[str, str]()
    for theirs, ours in given.items():
        if ours not in kinds and more and theirs in mixed:
            raise mixed[theirs]
        if kind := kinds.get(ours) or (found[theirs] if more else None):
            present[ours] = kind
    schema = arrow.schema([(name, types.get(kind, arrow.float64())) for name, kind in present.items()])
    with parquet.ParquetWriter(target, schema) as writer:
        block: list[dict[str, Any]] = []
        for where, record in _records(file):
            values = {given[name]: value for name, value in record.items() if given.get(name) in present}
            block.append(
                {
                    name: _value(value, present[name], as_text, f"{where}, column {name!r}")
                    for name, value in values.items()
                }
            )
            if len(block) == BLOCK:
                writer.write_table(arrow.Table.from_pylist(block, schema))
                block.clear()
        writer.write_table(arrow.Table.from_pylist(block, schema))
    return {ours for ours, theirs in renamed.items() if theirs in found}


def _records(file: str) -> Iterator[Record]:
    suffix = Path(file).suffix.lower()
    if suffix == ".csv":
        return _csv_records(file)
    if suffix == ".jsonl":
        return json_records(Path(file))
    from noria.core.records import parquet_records

    return parquet_records(Path(file))


def _csv_rows(file: str) -> Iterator[tuple[str, list[str]]]:
    number = 0

    def numbered() -> Iterator[str]:
        nonlocal number
        for count, (_, line) in enumerate(lines(Path(file)), start=1):
            number = count
            yield line + "\n"

    try:
        for row in csv.reader(numbered(), strict=True):
            if row:
                yield f"{file}:{number}", row
    except csv.Error as error:
        raise DataError(f"not CSV ({error})", where=f"{file}:{number}") from None


def _csv_records(file: str) -> Iterator[Record]:
    """Records of a CSV file with a header; an empty cell is missing."""
    rows = _csv_rows(file)
    where, header = next(rows, (f"{file}:1", []))
    if not header:
        raise DataError("there is no header", where=where)
    if len(set(header)) != len(header):
        raise DataError("a column is there twice", where=where)
    if len(header) == 1 and re.search(r"[;\t|]", header[0]):
        raise DataError("its columns are not apart by commas", where=where, mend="write it with commas")
    for where, row in rows:
        if len(row) != len(header):
            raise DataError(f"{len(row)} cells under {len(header)} columns", where=where)
        yield where, {name: cell for name, cell in zip(header, row, strict=True) if cell != ""}


def _kinds(file: str, as_text: bool, more: bool) -> tuple[dict[str, str | None], dict[str, DataError]]:
    """Kinds of the columns by all of their values, None without one; and the refusals of those of several kinds."""
    head = next((row for _, row in _csv_rows(file)), []) if as_text else []
    kinds: dict[str, str | None] = dict.fromkeys(head)
    mixed: dict[str, DataError] = {}
    for where, record in _records(file) if more or not as_text else ():
        for name, value in record.items():
            known = kinds.setdefault(name, None)
            if value is None:
                continue
            kind = _text_kind(value) if as_text else _json_kind(value)
            if known is None or known == kind:
                kinds[name] = kind
            elif as_text:
                kinds[name] = "string"
            elif name not in mixed:
                mixed[name] = DataError(
                    f"{_short(value)} where others are another kind",
                    where=f"{where}, column {name!r}",
                    mend="give numbers, flags, names or lists of names",
                )
    return kinds, mixed


def _text_kind(cell: str) -> str:
    if cell.lower() in ("true", "false"):
        return "bool"
    if not _NUMBER.fullmatch(cell) or _LEADING_ZERO.match(cell):
        return "string"
    return "string" if cell.isdecimal() and int(cell) > LARGEST_WHOLE else "float64"


def _json_kind(value: Any) -> str:
    """Kind of a JSON value; empty for one that no plan can be targeted on."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "float64"
    if isinstance(value, str):
        return "string"
    return "lists" if isinstance(value, list) and all(isinstance(one, str) for one in value) else ""


def _value(value: Any, kind: str, as_text: bool, where: str) -> Any:
    """A value of the kind; None is missing.

    Raises:
        DataError: it is of another kind.
    """
    if value is None:
        return None
    try:
        result = _CONVERTERS[kind](value, as_text)
        if kind == "time" and abs(result) >= LATEST:
            raise DataError(
                f"{_short(value)} is {NO_SECONDS}", where=where, mend="give seconds since 1970, or ISO text"
            )
        return result
    except (TypeError, ValueError, OverflowError):
        mend = f"give {KIND_WORDS.get(kind, 'numbers, flags, names or lists of names')}"
        raise DataError(f"{_short(value)} is of another kind", where=where, mend=mend) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _name(value: Any, as_text: bool) -> str:
    if isinstance(value, float) and value == math.trunc(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    str(value).encode()  # a lone surrogate is no text
    return str(value)


def _number(value: Any, as_text: bool) -> float:
    if as_text and _NUMBER.fullmatch(value) is None:
        raise ValueError
    if isinstance(value, bool) or not (as_text or isinstance(value, int | float)):
        raise TypeError
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise ValueError
    return float(value)


def _time(value: Any, as_text: bool) -> float:
    if isinstance(value, str) and not (as_text and _NUMBER.fullmatch(value)):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return _number(value, as_text)


def _mask(value: Any, as_text: bool) -> int:
    whole = int(value) if as_text else value
    if isinstance(whole, bool) or not isinstance(whole, int) or not -(2**63) <= whole < 2**64:
        raise ValueError
    return whole % 2**64


def _flag(value: Any, as_text: bool) -> bool:
    if isinstance(value, bool):
        return value
    if (isinstance(value, str) and not as_text) or str(value).lower() not in _FLAGS:
        raise ValueError
    return _FLAGS[str(value).lower()]


def _names(value: Any, as_text: bool) -> list[str]:
    return [_name(one, as_text) for one in value]


_CONVERTERS: dict[str, Callable[[Any, bool], Any]] = {
    "string": _name,
    "float64": _number,
    "int64": _number,
    "time": _time,
    "uint64": _mask,
    "bool": _flag,
    "lists": _names,
}
