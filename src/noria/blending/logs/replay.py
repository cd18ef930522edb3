"""Logged requests, ranked again exactly: the candidates of many requests as one set of columns.

Alignment, targeting and scores are the same functions of each candidate that the service computes, so that a replayed
list equals the served one to the bit, given the snapshot it was served with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import Requests
from noria.blending.blender import Blender
from noria.blending.boosting.scoring import ALL, PlanTables, lists, score
from noria.blending.boosting.slots import Rule, place
from noria.blending.columns import Candidates, Coded, Column, Listed, as_column
from noria.blending.logs.arrow import arrow_column
from noria.blending.logs.schema import CANDIDATES
from noria.blending.plans.matching import evaluate
from noria.blending.snapshot import Snapshot
from noria.core.errors import DataError, require

__all__ = ["CandidateLog", "Replayed", "absent_columns", "arrow_column", "read_candidates", "replay"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CandidateLog:
    """Candidates of many requests, one request after the other.

    Attributes:
        request: [requests] ids.
        start: [requests + 1] the first row of each, and the end.
        time: [requests] seconds since 1970 UTC.
        scene: of each request.
        item: ids by row.
        score: [rows] x.
        source: by row.
        columns: [rows] each: what plans are targeted on, `source` among them, `version` where there is one.
        dropped: rows left out, by reason.
    """

    request: Sequence[str]
    start: Ints
    time: Floats
    scene: Coded
    item: Coded
    score: Floats
    source: Coded
    columns: Mapping[str, Column]
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.request)

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> CandidateLog:
        """Sort rows by request, in the order requests first appear, and leave out second copies of a candidate.

        Args:
            columns: as `logs.CANDIDATES` has them, and what plans are targeted on; numbers, flags, names, lists of
                names.

        Raises:
            DataError: a column is absent, of another kind or another length.
        """
        absent = [
            name for name in CANDIDATES if name not in columns and name not in ("version", "scene", "time")
        ]
        if absent:
            raise DataError(f"there is no column {absent[0]!r}", where="candidates")
        found = {name: as_column(name, column) for name, column in columns.items()}
        rows = len(found["request"])
        for name, column in found.items():
            if len(column) != rows:
                raise DataError(f"{len(column):,} values in {rows:,} rows", where=f"column {name!r}")
        request, item = (_names(found, name) for name in ("request", "item"))
        source, scene = _names(found, "source"), _names(found, "scene", rows)
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
        time = _numbers(found, "time", rows)[order]
        kept = {
            name: column.take(order) if isinstance(column, Coded | Listed) else column[order]
            for name, column in found.items()
            if name not in ("request", "item", "scene", "time", "score")
        }
        second = rows - len(order)
        return cls(
            [request.names[code] for code in codes[begins].tolist()],
            start,
            time[begins],
            scene.take(order).take(begins),
            item.take(order),
            _numbers(found, "score", rows)[order],
            source.take(order),
            kept,
            {"candidate twice in a request": second} if second else {},
        )

    def candidates(self, number: int) -> Candidates:
        """One request as the service was asked it."""
        rows = slice(*self.start[number : number + 2].tolist())
        names = self.item.names
        return Candidates(
            [names[code] for code in self.item.codes[rows].tolist()],
            self.score[rows],
            self.source.take(np.arange(rows.start, rows.stop)),
            {
                name: column.take(np.arange(rows.start, rows.stop))
                if isinstance(column, Coded | Listed)
                else column[rows]
                for name, column in self.columns.items()
            },
            self.scene.names[int(self.scene.codes[number])] if self.scene.codes[number] >= 0 else "",
        )


@dataclass(frozen=True, eq=False)
class Replayed:
    """A log under one snapshot.

    Attributes:
        requests: candidates that can be ranked; those without a value are left out.
        rows: [rows of requests] their rows in the log.
        tables: of the snapshot's plans.
        plans: ids in the order of the bits.
        size: K.
        lists: [requests, K] rows of `requests`, after slot rules; −1 where a list is shorter.
        score, guard: [rows] r and g.
        dropped: candidates left out, by reason.
    """

    requests: Requests
    rows: Ints
    tables: PlanTables
    plans: tuple[str, ...]
    size: int
    lists: Ints
    score: Floats
    guard: Floats
    dropped: Mapping[str, int]


def replay(log: CandidateLog, snapshot: Snapshot, size: int) -> Replayed:
    """Rank every request of a log.

    Args:
        log: candidates.
        snapshot: what ranks them.
        size: K.

    Raises:
        DataError: a plan is targeted on a column of another kind.
    """
    if size < 1:
        raise DataError(f"a list of {size}", where="size", mend="ask for at least one place")
    blender = Blender(snapshot)
    value = _values(log, snapshot)
    good = np.isfinite(value)
    rows = np.flatnonzero(good)
    mask = _masks(log, blender)[rows]
    before = np.concatenate([[0], np.cumsum(good)])
    requests = Requests(value[rows], mask, before[log.start])
    r, taken = score(requests.value, requests.mask, blender.tables)
    found = lists(requests.value, requests.mask, requests.start, ALL, blender.tables, size)[:, 0]
    if snapshot.plans.slots:
        found = _placed(log, snapshot, requests, rows, blender.tables, size)
    lost = int((~good).sum())
    dropped = dict(log.dropped) | ({"no value": lost} if lost else {})
    return Replayed(requests, rows, blender.tables, blender.plans, size, found, r, taken, dropped)


def absent_columns(log: CandidateLog, snapshot: Snapshot) -> list[str]:
    """Columns that plans or slot rules are targeted on and the log does not have: they hit nobody in it."""
    return [name for name in Blender(snapshot).asked if name not in log.columns]


def _values(log: CandidateLog, snapshot: Snapshot) -> Floats:
    """[rows] y, scene by scene."""
    value = np.full(len(log.score), np.nan)
    row_scene = np.repeat(log.scene.codes, np.diff(log.start))
    for code in np.unique(row_scene).tolist():
        rows = np.flatnonzero(row_scene == code)
        version = log.columns.get("version")
        part = Candidates(
            range(len(rows)),
            log.score[rows],
            log.source.take(rows),
            {"version": version.take(rows)} if isinstance(version, Coded) else {},
            log.scene.names[code] if code >= 0 else "",
        )
        value[rows] = snapshot.alignment.align(part).value
    return value


def _masks(log: CandidateLog, blender: Blender) -> NDArray[np.uint64]:
    """[rows] plans that hit; schedules are kept by each request's time."""
    plans = blender.snapshot.plans
    if not any(plan.schedule for plan in plans.plans):
        return blender.masks(log.columns, len(log.score))
    unscheduled = plans.model_copy(
        update={"plans": tuple(plan.model_copy(update={"schedule": None}) for plan in plans.plans)}
    )
    free = Blender(Snapshot(blender.snapshot.alignment, unscheduled, blender.snapshot.settings))
    mask = free.masks(log.columns, len(log.score))
    on = np.zeros(len(log), np.uint64)
    for number, at in enumerate(log.time.tolist()):
        active = plans.active(at)
        on[number] = sum(1 << bit for bit, one in enumerate(active) if one)
    found: NDArray[np.uint64] = mask & np.repeat(on, np.diff(log.start))
    return found


def _placed(
    log: CandidateLog, snapshot: Snapshot, requests: Requests, rows: Ints, tables: PlanTables, size: int
) -> Ints:
    """[requests, K] lists with their slot rules kept."""
    about = [evaluate(rule.targeting, log.columns, len(log.score))[rows] for rule in snapshot.plans.slots]
    found = np.full((len(requests), size), -1, np.int64)
    for number in range(len(requests)):
        first, end = requests.start[number : number + 2].tolist()
        if first == end:
            continue
        one = slice(first, end)
        order = lists(
            requests.value[one],
            requests.mask[one],
            np.array([0, end - first]),
            ALL,
            tables,
            end - first,
        )[0, 0]
        rules = [
            Rule(flags[one], rule.gap, rule.at_most, rule.first, rule.run)
            for flags, rule in zip(about, snapshot.plans.slots, strict=True)
        ]
        kept = order[place(order, rules, size)] + first
        found[number, : len(kept)] = kept
    return found


# -- files ------------------------------------------------------------------------------------------------------------


def read_candidates(path: Path, *, most: int | None = None) -> CandidateLog:
    """A candidate log in Parquet: a file, or a folder of them, in the order of their names.

    Args:
        path: of it.
        most: rows at most; the log ends with the last whole request before that.

    Raises:
        DataError: no such file, no Parquet, no candidate log, or an empty one.
        MissingExtra: there is no pyarrow.
    """
    require("pyarrow", "blending")
    arrow, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError("no .parquet file in this folder", where=str(path))
    tables = []
    rows = 0
    try:
        for file in files:
            with parquet.ParquetFile(file) as opened:
                tables.append(opened.schema_arrow.empty_table())
                for batch in opened.iter_batches(1 << 16):
                    tables.append(arrow.Table.from_batches([batch]))
                    rows += len(batch)
                    if most is not None and rows > most:
                        break
            if most is not None and rows > most:
                break
    except (OSError, arrow.ArrowException) as error:
        raise DataError("cannot be read as Parquet", where=str(file)) from error
    try:
        table = arrow.concat_tables(tables, promote_options="default")
    except arrow.ArrowException as error:
        raise DataError(f"files of different columns ({error})", where=str(path)) from None
    cut = most is not None and rows > most
    if cut:
        table = table.slice(0, most)
    columns = {name: arrow_column(table.column(name), name) for name in table.column_names}
    if cut and "request" in columns:
        request = _names(columns, "request")
        whole = request.codes != request.codes[-1]  # the last request may lack rows
        columns = {
            name: column.take(whole) if isinstance(column, Coded | Listed) else column[whole]
            for name, column in columns.items()
        }
    try:
        found = CandidateLog.of(columns)
    except DataError as error:
        raise DataError(error.what, where=f"{path}, {error.where}", mend=error.mend) from None
    if not len(found):
        why = f"its first request has more rows than {most:,}" if cut else "it has no rows"
        raise DataError(why, where=str(path))
    return found


def _names(columns: Mapping[str, Column], name: str, rows: int = 0) -> Coded:
    column = columns.get(name)
    if column is None:
        return Coded(("",), np.zeros(rows, np.int32))
    if isinstance(column, Coded):
        return column
    if isinstance(column, np.ndarray) and column.dtype == np.float64 and name in ("request", "item"):
        if not np.isfinite(column).all():
            raise DataError("a row without a request or an item", where="candidates")
        return Coded.of([str(int(one)) if one == int(one) else str(one) for one in column.tolist()])
    raise DataError("not names", where=f"column {name!r}")


def _numbers(columns: Mapping[str, Column], name: str, rows: int) -> Floats:
    column = columns.get(name)
    if column is None:
        return np.zeros(rows)
    if not isinstance(column, np.ndarray):
        raise DataError("not numbers", where=f"column {name!r}")
    return column.astype(np.float64)
