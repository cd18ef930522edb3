"""Logged requests: the candidates of many requests as one set of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.columns import LARGEST_WHOLE, Candidates, Column, NameColumn, as_column, is_empty, rows_of
from noria.blending.logs.arrow import arrow_column
from noria.blending.logs.database import candidate_database
from noria.blending.logs.schema import CANDIDATES, NEEDED, need
from noria.core.errors import DataError, require

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


LARGEST_NUMBER = 1e150
"""Largest number of a column: squares and sums of larger ones leave the finite numbers."""


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
        whole: requests and rows of the log that this is a sample of; None if it is all of it.
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
    whole: tuple[int, int] | None = None

    @property
    def sampled(self) -> str:
        """What is to be said of a sample; empty for a whole log."""
        if self.whole is None:
            return ""
        return f"a sample of {len(self):,} of {self.whole[0]:,} requests; --most takes more"

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
        need(NEEDED["candidates"], columns, "candidates")
        given = {name: as_column(name, column) for name, column in columns.items()}
        result = {name: one for name, one in given.items() if name in CANDIDATES or not is_empty(one)}
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
        rows = np.arange(*self.start[number : number + 2].tolist())
        scene = int(self.scene.codes[number])
        return Candidates(
            self.item.take(rows).decode(),
            self.score[rows],
            self.source.take(rows),
            {name: rows_of(column, rows) for name, column in self.columns.items()},
            self.scene.names[scene] if scene >= 0 else "",
        )


def read_candidates(
    path: Path | str, *, most: int | None = None, columns: Mapping[str, str] | None = None
) -> CandidateLog:
    """A log of whole requests: a file, or a folder of them, in Parquet, CSV or JSON lines.

    Args:
        path: file or folder.
        most: most rows to keep; of a longer log a sample of whole requests is read, the same ones every time.
        columns: names of the log's columns by ours.

    Raises:
        DataError: no such file, no candidate log, or an empty one.
        MissingExtra: there is no duckdb or pyarrow.
    """
    with candidate_database(str(path), columns=columns) as connection:
        ((rows,),) = connection.sql("SELECT count(*) FROM candidates").fetchall()
        if not rows:
            raise DataError("it has no rows", where=str(path))
        chosen, requests = "", 0
        if most is not None and rows > most:
            ((last, requests),) = connection.sql(_SAMPLE.format(most=most)).fetchall()
            if last is None:
                raise DataError(f"a request has more rows than {most:,}", where=str(path))
            chosen = f" WHERE hash(request) <= {last}"  # a filter keeps the order of rows
        table = connection.sql(f"SELECT * FROM candidates{chosen}").to_arrow_table()
    try:
        log = CandidateLog.of({name: _column(table.column(name), name) for name in table.column_names})
    except DataError as error:
        raise DataError(error.what, where=f"{path}, {error.where}", mend=error.mend) from None
    return replace(log, whole=(int(requests), int(rows))) if chosen else log


def _column(column: Any, name: str) -> Column:
    """A column of a log; whole numbers that a float would not tell apart, such as ids, become names."""
    pa: Any = require("pyarrow", "blending")
    if pa.types.is_integer(column.type) and len(column):
        ends = require("pyarrow.compute", "blending").min_max(column).as_py()
        if ends["min"] is not None and max(ends["max"], -ends["min"]) > LARGEST_WHOLE:
            column = column.cast(pa.string())
    return arrow_column(column, name)


_SAMPLE = """
SELECT max(place) FILTER (upto <= {most}), max(total) FROM (
    SELECT place, sum(rows) OVER (ORDER BY place) AS upto, sum(requests) OVER () AS total FROM (
        SELECT hash(request) AS place, count(*) AS rows, count(DISTINCT request) AS requests
        FROM candidates GROUP BY ALL))
"""


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
    if not isinstance(column, np.ndarray) or column.dtype != np.float64:
        raise DataError("not numbers", where=f"column {name!r}")
    if (np.isfinite(column) & (np.abs(column) > LARGEST_NUMBER)).any():
        raise DataError(f"a number beyond {LARGEST_NUMBER:g}", where=f"column {name!r}")
    return column.astype(np.float64, copy=False)
