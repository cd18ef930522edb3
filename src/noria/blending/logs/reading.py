"""Logs as people have them: Parquet, CSV or JSON lines, columns under names of their own, times in several forms.

Every log becomes a query in DuckDB's SQL whose columns have the names and kinds of `logs.schema`. Parquet is read where
it lies; CSV and JSON lines are read line by line into Parquet in a scratch folder first. Times are seconds since 1970,
timestamps, or ISO text; without a zone they are UTC. A value of another kind is refused with its file and line.
"""

from __future__ import annotations

import glob
import itertools
import time as clock
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.blending.columns import LARGEST_WHOLE
from noria.blending.logs.arrow import is_text
from noria.blending.logs.conversion import KIND_WORDS, LATEST, NO_SECONDS, Renamed, our_names, write_parquet
from noria.blending.logs.schema import Kind
from noria.core.errors import ConfigError, DataError, require

SUFFIXES = (".parquet", ".csv", ".jsonl")
_AHEAD = 86_400.0  # seconds that a log may be ahead of this machine's clock


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
    renamed, used = renamed or {}, set[str]()
    groups: dict[tuple[str, ...], list[str]] = {}
    scratch.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        read, columns = file, None
        if Path(file).suffix.lower() not in (".csv", ".jsonl"):
            columns, known = _parquet_columns(file, kinds, renamed, more)
        if columns is None:
            read = str(scratch / f"{number:06d}.parquet")
            known = write_parquet(file, Path(read), kinds, renamed, more)
            columns, _ = _parquet_columns(read, kinds, {}, more)
        assert columns is not None
        used |= known
        for name in needed:
            if name not in columns:
                raise DataError(
                    f"there is no column {name!r}",
                    where=file,
                    mend=f"if it has another name: columns.{name}=NAME",
                )
        selected = sorted(f"{sql} AS {_quoted(name)}" for name, sql in columns.items())
        groups.setdefault(tuple(selected), []).append(read)
    parts = [
        f"SELECT {', '.join(columns)} FROM read_parquet([{', '.join(map(_text, group))}])"
        for columns, group in groups.items()
    ]
    return " UNION ALL BY NAME ".join(parts), used


def check_times(connection: Any, view: str, where: str) -> None:
    """Refuse a log whose times are no seconds, are of the future, or lie far from all others.

    One row a year ahead would make all others a year old, and decay leave nothing of them.

    Raises:
        DataError: it is such a log.
    """
    ((count, late, ahead),) = connection.sql(
        f"SELECT count(time), count_if(abs(time) >= {LATEST}), "
        f"count_if(time > {clock.time() + _AHEAD}) FROM {view} WHERE NOT isnan(time)"
    ).fetchall()
    if late:
        raise DataError(
            f"{late:,} of {count:,} times are {NO_SECONDS}",
            where=f"{where}, column 'time'",
            mend="give seconds since 1970, or timestamps",
        )
    if ahead:
        raise DataError(f"{ahead:,} of {count:,} times are of the future", where=f"{where}, column 'time'")
    days = connection.sql(
        f"SELECT floor(time / 86400) AS day, count(*) FROM {view} WHERE NOT isnan(time) "
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
                where=f"{where}, column 'time'",
                mend="correct those rows or leave them out",
            )


_GAP, _STRAYS = 30, 0.05  # days between a small share of a log and the rest that are no pause of a service


# -- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet_columns(
    file: str, kinds: Mapping[str, Kind], renamed: Renamed, more: bool
) -> tuple[dict[str, str] | None, set[str]]:
    """SQL of each of our columns, None where a time is text and is read by rows; and the renamed ones it has."""
    arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
    try:
        schema = parquet.read_schema(file)
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise DataError("cannot be read as Parquet", where=file) from error
    if len({name.casefold() for name in schema.names}) < len(schema.names):
        raise DataError("two columns whose names differ in upper case alone, or not at all", where=file)
    ours, columns = our_names(renamed, schema.names), dict[str, str]()
    used = {name for name, theirs in renamed.items() if theirs in schema.names}
    for theirs, kind in zip(schema.names, map(_plain, schema.types), strict=True):
        name = ours.get(theirs, "")
        if name == "time" and name in kinds and is_text(kind):
            return None, used
        if name in columns:
            raise DataError("it is there twice", where=f"{file}, column {name!r}")
        if name in kinds:
            columns[name] = _sql(theirs, kind, kinds[name], f"{file}, row 1, column {theirs!r}")
        elif name and more and _is_targetable(kind):
            columns[name] = _quoted(theirs)
    return columns, used


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


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
