"""Logs as people have them: Parquet, CSV or JSON lines, columns under names of their own, times in several forms.

Every log becomes a query in DuckDB's SQL whose columns have the names and kinds of `logs.schema`. Parquet is read where
it lies; CSV and JSON lines are read line by line into Parquet in a scratch folder first. Times are seconds since 1970,
timestamps, or ISO text; without a zone they are UTC. A value of another kind is refused with its file and line.
"""

from __future__ import annotations

import csv
import glob
import itertools
import math
import re
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from noria.blending.columns import LARGEST_WHOLE
from noria.blending.logs.arrow import is_text
from noria.blending.logs.schema import Kind
from noria.core.errors import ConfigError, DataError, require
from noria.core.records import Record, json_records, lines

SUFFIXES = (".parquet", ".csv", ".jsonl")
BLOCK = 1 << 16
"""Number of rows converted at a time."""
LATEST = 1e11
"""Times from this on, the year 5138, are no seconds: milliseconds of 1973 begin there."""
_AHEAD = 86_400.0  # seconds that a log may be ahead of this machine's clock

Renamed: TypeAlias = Mapping[str, str]
"""Names of a log's columns by ours."""


def log_files(path: str) -> list[str]:
    """The files that a path names: a file, a folder of files of one kind at any depth, or a pattern with `*`.

    Raises:
        DataError: there are none, or files of several kinds.
    """
    place = Path(path)
    if place.is_dir():
        result: Iterable[Path | str] = (one for one in place.rglob("*") if one.suffix.lower() in SUFFIXES)
    elif place.is_file():
        result = [place]
    else:
        result = glob.glob(path, recursive=True)
    files = sorted(str(one) for one in result if Path(one).is_file())
    if not files:
        raise DataError(f"no {', '.join(SUFFIXES)} file is there", where=path)
    if len({Path(one).suffix.lower() for one in files}) > 1:
        raise DataError("files of several kinds", where=path, mend="keep a log in files of one kind")
    return files


def log_query(
    files: Sequence[str],
    kinds: Mapping[str, Kind],
    *,
    scratch: Path,
    renamed: Renamed | None = None,
    needed: Sequence[str] = (),
    more: bool = False,
) -> tuple[str, set[str]]:
    """The query that reads a log, and which of the renamed columns it has.

    Args:
        files: paths of the files, as `log_files` gives them.
        kinds: columns that are read and their kinds; those that the log lacks are not in the query.
        scratch: folder for what is converted; it has to last as long as the query is used.
        renamed: names of the log's columns by ours.
        needed: columns that the log may not lack.
        more: whether further columns are kept as they are, where plans can be targeted on their type.

    Raises:
        DataError: a file cannot be read, lacks a column, or has a value of another kind.
        MissingExtra: there is no pyarrow.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    used: set[str] = set()
    scratch.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        read = _Parquet(file, kinds, renamed or {}, more)
        if read.textual:
            converted = scratch / f"{number:06d}.parquet"
            used |= write_parquet(file, converted, kinds, renamed or {}, more)
            read = _Parquet(str(converted), kinds, {}, more)
        used |= read.used
        read.need(needed, file)
        groups.setdefault(tuple(read.columns), []).append(read.file)
    parts = [
        f"SELECT {', '.join(columns)} FROM read_parquet([{', '.join(map(_text, group))}])"
        for columns, group in groups.items()
    ]
    return " UNION ALL BY NAME ".join(parts), used


def check_times(connection: Any, view: str, where: str, column: str = "time") -> None:
    """Refuse a log whose times are no seconds, are of the future, or lie far from all others.

    One row a year ahead would make all others a year old, and decay leave nothing of them.

    Raises:
        DataError: it is such a log.
    """
    ((count, late, ahead),) = connection.sql(
        f"SELECT count({column}), count_if(abs({column}) >= {LATEST}), "
        f"count_if({column} > {clock.time() + _AHEAD}) FROM {view} WHERE NOT isnan({column})"
    ).fetchall()
    if late:
        raise DataError(
            f"{late:,} of {count:,} times are {NO_SECONDS}",
            where=f"{where}, column {column!r}",
            mend="give seconds since 1970, or timestamps",
        )
    if ahead:
        raise DataError(
            f"{ahead:,} of {count:,} times are of the future", where=f"{where}, column {column!r}"
        )
    days = connection.sql(
        f"SELECT floor({column} / 86400) AS day, count(*) FROM {view} WHERE NOT isnan({column}) "
        "GROUP BY day ORDER BY day"
    ).fetchall()
    before = 0
    for (day, rows), (after, _) in itertools.pairwise(days):
        before += rows
        strays = min(before, count - before)
        if after - day > _GAP and strays <= max(1, _STRAYS * count):
            word = "earlier" if strays == before else "later"
            raise DataError(
                f"{strays:,} of {count:,} times are {after - day:,.0f} days {word} than all others",
                where=f"{where}, column {column!r}",
                mend="correct those rows or leave them out",
            )


NO_SECONDS = f"{LATEST:g} or more: milliseconds or finer, and no seconds"
_GAP, _STRAYS = 30, 0.05  # days between a small share of a log and the rest that are no pause of a service


# -- Parquet ----------------------------------------------------------------------------------------------------------


class _Parquet:
    """One Parquet file: its columns as SQL, or that it has to be read by rows (`textual`)."""

    def __init__(self, file: str, kinds: Mapping[str, Kind], renamed: Renamed, more: bool) -> None:
        self.file, self.names, self.columns, self.used = file, set[str](), list[str](), set[str]()
        self.textual = Path(file).suffix.lower() in (".csv", ".jsonl")
        if self.textual:
            return
        arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
        try:
            schema = parquet.read_schema(file)
        except (OSError, ValueError, arrow.ArrowException) as error:
            raise DataError("cannot be read as Parquet", where=file) from error
        if len({name.casefold() for name in schema.names}) < len(schema.names):
            raise DataError("two columns whose names differ in upper case alone, or not at all", where=file)
        ours = our_names(renamed, schema.names)
        self.used = {name for name, theirs in renamed.items() if theirs in schema.names}
        for theirs, kind in zip(schema.names, schema.types, strict=True):
            name = ours.get(theirs, "")
            if name in kinds:
                if name == "time" and is_text(_plain(kind)):
                    self.textual = True
                    return
                sql = _sql(theirs, _plain(kind), kinds[name], f"{file}, row 1, column {theirs!r}")
            elif name and more and _is_targetable(_plain(kind)):
                sql = _quoted(theirs)
            else:
                continue
            if name in self.names:
                raise DataError("it is there twice", where=f"{file}, column {name!r}")
            self.names.add(name)
            self.columns.append(f"{sql} AS {_quoted(name)}")
        self.columns.sort()

    def need(self, names: Sequence[str], file: str) -> None:
        """Refuse a file that lacks a column."""
        for name in names:
            if name not in self.names:
                raise DataError(
                    f"there is no column {name!r}",
                    where=file,
                    mend=f"if it has another name: columns.{name}=NAME",
                )


def our_names(renamed: Renamed, names: Sequence[str]) -> dict[str, str]:
    """Our name by the file's; a column of ours whose name is given to another is left out."""
    given = {theirs: ours for ours, theirs in renamed.items() if theirs in names}
    taken = set(given.values())
    return {name: given.get(name, name) for name in names if name in given or name not in taken}


def check_renamed(renamed: Renamed, used: set[str]) -> None:
    """Refuse a name of a column that no log has.

    Raises:
        ConfigError: there is one.
    """
    for ours, theirs in renamed.items():
        if ours not in used:
            raise ConfigError(f"no log has a column {theirs!r}", where=f"columns.{ours}")


def _plain(kind: Any) -> Any:
    """The type of a dictionary's values; any other type as it is."""
    return kind.value_type if require("pyarrow", "blending").types.is_dictionary(kind) else kind


def _is_targetable(kind: Any) -> bool:
    types: Any = require("pyarrow", "blending").types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return is_text(kind.value_type) or bool(types.is_null(kind.value_type))
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return bool(numbers or is_text(kind) or types.is_boolean(kind) or types.is_null(kind))


def _sql(name: str, kind: Any, wanted: Kind, where: str) -> str:
    """A column as SQL of the wanted kind."""
    types: Any = require("pyarrow", "blending").types
    column = _quoted(name)
    sql_type = {"string": "VARCHAR", "bool": "BOOLEAN", "uint64": "HUGEINT"}.get(wanted, "DOUBLE")
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if types.is_null(kind):
        return f"CAST(NULL AS {sql_type})"
    if wanted == "string":
        if is_text(kind) or types.is_integer(kind):
            return f"CAST({column} AS VARCHAR)"
        if types.is_floating(kind):  # what pandas makes of whole numbers of which one is missing
            whole = f"abs({column}) < {LARGEST_WHOLE} AND {column} = trunc({column})"
            return (
                f"CASE WHEN isnan({column}) THEN NULL WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) "
                f"ELSE CAST({column} AS VARCHAR) END"
            )
    elif wanted == "bool":
        if types.is_boolean(kind):
            return column
        if number:
            return f"({column} <> 0)"
    elif wanted == "uint64":
        if types.is_integer(kind):
            return f"CAST({column} AS HUGEINT)"
        if number:
            return f"CASE WHEN isfinite(CAST({column} AS DOUBLE)) THEN CAST({column} AS HUGEINT) END"
    elif number:
        return f"CAST({column} AS DOUBLE)"
    elif wanted == "time" and (types.is_timestamp(kind) or types.is_date(kind)):
        return f"epoch({column})" if getattr(kind, "tz", None) else f"epoch(CAST({column} AS TIMESTAMP))"
    raise DataError(f"a column of {kind}", where=where, mend=f"give {KIND_WORDS[wanted]}")


KIND_WORDS: dict[str, str] = {
    "string": "names, as text or whole numbers",
    "float64": "numbers, not text",
    "time": "seconds since 1970, timestamps, or ISO text",
    "int64": "whole numbers",
    "uint64": "whole numbers from 0, whose bits are plans",
    "bool": "flags, true or false",
}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


# -- CSV, JSON lines, and Parquet with times as text ------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)
_LEADING_ZERO = re.compile(r"[-+]?0\d")
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def write_parquet(file: str, target: Path, kinds: Mapping[str, Kind], renamed: Renamed, more: bool) -> set[str]:
    """Write a log as Parquet, every value checked; which of the renamed columns it has."""
    arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
    as_text = Path(file).suffix.lower() == ".csv"
    extras = _extras(file, kinds, renamed, as_text) if more else {}
    types = {
        "string": arrow.string(),
        "bool": arrow.bool_(),
        "uint64": arrow.uint64(),
        "lists": arrow.list_(arrow.string()),
    }
    names = _header(file, as_text)
    given, present = our_names(renamed, names), dict[str, str]()
    for ours in given.values():
        if ours in kinds or ours in extras:
            present[ours] = kinds.get(ours) or extras[ours]
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
    return {ours for ours, theirs in renamed.items() if theirs in names}


def _records(file: str) -> Iterator[Record]:
    suffix = Path(file).suffix.lower()
    if suffix == ".csv":
        return _csv_records(file)
    if suffix == ".jsonl":
        return json_records(Path(file))
    from noria.core.records import parquet_records

    return parquet_records(Path(file))


def _header(file: str, as_text: bool) -> list[str]:
    """Names of columns: of the header, or of every record, since JSON lines may differ."""
    if as_text:
        return next((row for _, row in _csv_rows(file)), [])
    seen: dict[str, None] = {}
    for _, record in _records(file):
        seen.update(dict.fromkeys(record))
    return list(seen)


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


def _extras(file: str, kinds: Mapping[str, Kind], renamed: Renamed, as_text: bool) -> dict[str, str]:
    """Kinds of the further columns, by all of their values."""
    result: dict[str, str] = {}
    for where, record in _records(file):
        ours = our_names(renamed, list(record))
        for theirs, value in record.items():
            name = ours.get(theirs)
            if name is None or name in kinds or value is None:
                continue
            kind = _text_kind(value) if as_text else _json_kind(value)
            known = result.setdefault(name, kind)
            if known == kind:
                continue
            if not as_text or "" in (known, kind):
                raise DataError(
                    f"{_short(value)} where others are another kind",
                    where=f"{where}, column {theirs!r}",
                    mend="give numbers, flags, names or lists of names",
                )
            result[name] = "string"
    return {name: kind for name, kind in result.items() if kind}


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
