"""Logged requests: the candidates of many requests as one set of columns, read from Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.columns import Candidates, Column, NameColumn, as_column, rows_of
from noria.blending.logs.arrow import arrow_column
from noria.blending.logs.schema import CANDIDATES
from noria.core.errors import DataError, require
from noria.core.files import check_input, decoding

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CandidateLog:
    """Candidates of many requests, one request after the other.

    Attributes:
        request: [requests] ids of the requests.
        start: [requests + 1] first row of each request, and the end.
        time: [requests] seconds since 1970 UTC.
        scene: scene of each request.
        item: ids of the candidates by row.
        score: [rows] raw scores x.
        source: source by row.
        columns: [rows] each: what plans are targeted on, `source` among them, `version` where there is one.
        dropped: rows left out, by reason.
    """

    request: Sequence[str]
    start: Ints
    time: Floats
    scene: NameColumn
    item: NameColumn
    score: Floats
    source: NameColumn
    columns: Mapping[str, Column]
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.request)

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> CandidateLog:
        """Sort rows by request, in the order requests first appear, and leave out second copies of a candidate.

        Args:
            columns: those of `schema.CANDIDATES`, and what plans are targeted on.

        Raises:
            DataError: a column is absent, of another kind or another length.
        """
        absent = [
            name for name in CANDIDATES if name not in columns and name not in ("version", "scene", "time")
        ]
        if absent:
            raise DataError(f"there is no column {absent[0]!r}", where="candidates")
        result = {name: as_column(name, column) for name, column in columns.items()}
        rows = len(result["request"])
        for name, column in result.items():
            if len(column) != rows:
                raise DataError(f"{len(column):,} values in {rows:,} rows", where=f"column {name!r}")
        request, item = (_names(result, name) for name in ("request", "item"))
        source, scene = _names(result, "source"), _names(result, "scene", rows)
        if (request.codes < 0).any() or (item.codes < 0).any():
            raise DataError("a row without a request or an item", where="candidates")
        order = np.argsort(request.codes, kind="stable")
        pair = request.codes[order].astype(np.int64) * max(1, len(item.names)) + item.codes[order]
        first = np.zeros(rows, np.bool_)
        first[np.unique(pair, return_index=True)[1]] = True
        order = order[first]
        codes = request.codes[order]
        begins = np.flatnonzero(np.diff(codes, prepend=-1))
        start = np.append(begins, len(codes)).astype(np.int64)
        time = _numbers(result, "time", rows)[order]
        kept = {
            name: rows_of(column, order)
            for name, column in result.items()
            if name not in ("request", "item", "scene", "time", "score")
        }
        second = rows - len(order)
        return cls(
            [request.names[code] for code in codes[begins].tolist()],
            start,
            time[begins],
            scene.take(order).take(begins),
            item.take(order),
            _numbers(result, "score", rows)[order],
            source.take(order),
            kept,
            {"candidate twice in a request": second} if second else {},
        )

    def candidates(self, number: int) -> Candidates:
        """The candidates of one request, as they came."""
        rows = slice(*self.start[number : number + 2].tolist())
        names = self.item.names
        return Candidates(
            [names[code] for code in self.item.codes[rows].tolist()],
            self.score[rows],
            self.source.take(np.arange(rows.start, rows.stop)),
            {
                name: rows_of(column, np.arange(rows.start, rows.stop))
                for name, column in self.columns.items()
            },
            self.scene.names[int(self.scene.codes[number])] if self.scene.codes[number] >= 0 else "",
        )


def read_candidates(path: Path, *, most: int | None = None) -> CandidateLog:
    """A candidate log in Parquet: a file, or a folder of them, in the order of their names.

    Args:
        path: file or folder.
        most: most rows to read; the log ends with the last whole request before that.

    Raises:
        DataError: no such file, no Parquet, no candidate log, or an empty one.
        MissingExtra: there is no pyarrow.
    """
    table, cut = _read_table(path, most)
    columns = {name: arrow_column(table.column(name), name) for name in table.column_names}
    if cut and "request" in columns:
        request = _names(columns, "request")
        whole = request.codes != request.codes[-1]  # the last request may lack rows
        columns = {name: rows_of(column, whole) for name, column in columns.items()}
    try:
        log = CandidateLog.of(columns)
    except DataError as error:
        raise DataError(error.what, where=f"{path}, {error.where}", mend=error.mend) from None
    if not len(log):
        why = f"its first request has more rows than {most:,}" if cut else "it has no rows"
        raise DataError(why, where=str(path))
    return log


def _read_table(path: Path, most: int | None) -> tuple[Any, bool]:
    """An Arrow table of at most so many rows, and whether there were more."""
    arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError("no .parquet file in this folder", where=str(path))
    tables, rows = [], 0
    for file in files:
        check_input(file)
        with decoding(file, "a Parquet file"), parquet.ParquetFile(file) as opened:
            tables.append(opened.schema_arrow.empty_table())
            for batch in opened.iter_batches(1 << 16):
                tables.append(arrow.Table.from_batches([batch]))
                rows += len(batch)
                if most is not None and rows > most:
                    break
        if most is not None and rows > most:
            break
    try:
        table = arrow.concat_tables(tables, promote_options="default")
    except arrow.ArrowException as error:
        raise DataError(f"files of different columns ({error})", where=str(path)) from None
    cut = most is not None and rows > most
    return (table.slice(0, most) if cut else table), cut


def _names(columns: Mapping[str, Column], name: str, rows: int = 0) -> NameColumn:
    column = columns.get(name)
    if column is None:
        return NameColumn(("",), np.zeros(rows, np.int32))
    if isinstance(column, NameColumn):
        return column
    if isinstance(column, np.ndarray) and column.dtype == np.float64 and name in ("request", "item"):
        if not np.isfinite(column).all():
            raise DataError("a row without a request or an item", where="candidates")
        return NameColumn.of([str(int(one)) if one == int(one) else str(one) for one in column.tolist()])
    raise DataError("not names", where=f"column {name!r}")


def _numbers(columns: Mapping[str, Column], name: str, rows: int) -> Floats:
    column = columns.get(name)
    if column is None:
        return np.zeros(rows)
    if not isinstance(column, np.ndarray):
        raise DataError("not numbers", where=f"column {name!r}")
    return column.astype(np.float64)
