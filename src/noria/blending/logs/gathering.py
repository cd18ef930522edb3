"""From logs of any size to tallies and books: partial → merge → finish, the same on every engine.

An engine joins exposures with their outcomes and hands the rows over in batches. `partial` turns a batch into integers,
integers add up in any order, and what is read from the sum is the same number wherever it was added.

What a log may hold and what becomes of it: a second copy of an exposure, and an outcome before its exposure by more
than the clocks may differ, are left out and counted; of several outcomes the first counts; one that comes after the
horizon is none; an exposure that is too young has no outcome yet.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from noria.blending.accounting.cells import DAY, SUMS, BookKey, Books
from noria.blending.alignment.anchors import EffectiveCompletion
from noria.blending.alignment.tallies import FOLDS, Cell, Histogram, Tallies, folds
from noria.blending.columns import NameColumn, grouped
from noria.blending.logs.arrow import arrow_column
from noria.blending.logs.schema import ACCOUNTED, NEEDED, need
from noria.core.config import Config
from noria.core.errors import DataError


class GatherConfig(Config):
    """Rules by which rows become outcomes."""

    anchor: EffectiveCompletion = Field(EffectiveCompletion(), description="Rule of an effective completion.")
    tick: float = Field(900.0, gt=0, description="Seconds of the clock that tallies are filed by.")
    maturity: float = Field(1800.0, ge=0, description="Age in seconds of exposures in the tallies.")
    horizon: float = Field(86_400.0, gt=0, description="Seconds after which an outcome comes too late.")
    skew: float = Field(60.0, ge=0, description="Seconds by which an outcome may precede its exposure.")
    absent: Literal["missing", "zero"] = Field(
        "missing",
        description="Meaning of a missing outcome: unknown, or zero where clients report only what was watched.",
    )
    # Nobody, and no bot, moves the alignment alone.
    per_user: float | None = Field(None, gt=0, description="Exposures of one user that count in full.")


@dataclass(frozen=True)
class GatherResult:
    """Sums of a log: outcomes against scores, books of exposures, rows read, and rows left out by reason."""

    tallies: Tallies
    books: Books
    rows: int
    dropped: Mapping[str, int]
    now: float

    def merge(self, *others: GatherResult) -> GatherResult:
        """Several logs as one."""
        dropped: Counter[str] = Counter()
        for part in (self, *others):
            dropped.update(part.dropped)
        return GatherResult(
            self.tallies.merge(*(one.tallies for one in others)),
            self.books.merge(*(one.books for one in others)),
            self.rows + sum(one.rows for one in others),
            dropped,
            max(one.now for one in (self, *others)),
        )


# -- what engines run -------------------------------------------------------------------------------------------------

JOINED = (
    *("request", "time", "scene", "source", "version", "score", "value", "mask", "guard", "total"),
    *("snapshot", "control", "account", "copy", "user_rows", "outcome_time", "watch", "duration", "gain"),
)
"""Columns of the join, in this order.

`mask` is a signed integer of the same bits; `account` is 1 where a row has one, 2 where its mask is missing, and 0 in
logs without accounts.
"""
NAMES = ("request", "scene", "source", "version", "snapshot")
NUMERIC = [name for name in JOINED if name not in (*NAMES, "mask", "control")]


def joined(
    exposures: Sequence[str],
    outcomes: Sequence[str] | None,
    config: GatherConfig,
    *,
    more: Sequence[str] = (),
) -> str:
    """The query that joins a view `exposures` with a view `outcomes`, in SQL that DuckDB and Spark both read.

    Args:
        exposures, outcomes: columns that the views have; None for no outcomes.
        config: rules by which rows become outcomes.
        more: further columns of the exposures to keep beside `JOINED`.

    Raises:
        DataError: a column is absent.
    """
    for name, known in (("exposures", exposures), ("outcomes", outcomes)):
        if known is not None:
            need(NEEDED[name], known, name)
    if config.per_user is not None and "user" not in exposures:
        raise DataError("there is no column 'user'", where="exposures", mend="leave per_user out")

    def read(name: str, kind: str, otherwise: str = "NULL") -> str:
        return name if name in exposures else f"CAST({otherwise} AS {kind}) AS {name}"

    user = "count(*) OVER (PARTITION BY user)" if config.per_user is not None else "1"
    bits, account = "CAST(0 AS BIGINT)", "0"
    if all(name in exposures for name in ACCOUNTED):
        signed = "CASE WHEN mask >= 9223372036854775808 THEN mask - 18446744073709551616 ELSE mask END"
        bits = f"CAST(COALESCE({signed}, 0) AS BIGINT)"
        account = "CASE WHEN mask IS NULL THEN 2 ELSE 1 END"
    numbers = ", ".join(read(name, "DOUBLE") for name in ("value", "guard", "total"))
    names = ", ".join(read(name, "STRING") for name in ("scene", "version", "snapshot"))
    order = "time, rank" if "rank" in exposures else "time"
    control = "COALESCE(control, false)" if "control" in exposures else "false"
    shown = (
        f"SELECT request, item, time, source, score, {numbers}, {names}, {control} AS control, {bits} AS mask, "
        f"{account} AS account, {user} AS user_rows, "
        f"row_number() OVER (PARTITION BY request, item ORDER BY {order}) AS copy FROM exposures"
    )
    plain = [*more, *JOINED[: JOINED.index("outcome_time")]]
    tail = ("outcome_time", "watch", "duration", "gain")
    if outcomes is None:
        nothing = ", ".join(f"CAST(NULL AS DOUBLE) AS {name}" for name in tail)
        return f"SELECT {', '.join(plain)}, {nothing} FROM ({shown}) e"
    numbers = ", ".join(
        name if name in outcomes else f"CAST(NULL AS DOUBLE) AS {name}"
        for name in ("time", "duration", "gain")
    )
    order = "time, watch DESC NULLS LAST" if "time" in outcomes else "watch DESC NULLS LAST"
    came = (
        f"SELECT request, item, watch, {numbers}, row_number() OVER "
        f"(PARTITION BY request, item ORDER BY {order}) AS nth FROM outcomes"
    )
    moment = "o.time" if "time" in outcomes else "CASE WHEN o.request IS NULL THEN NULL ELSE e.time END"
    columns = ", ".join(f"e.{name}" for name in plain)
    return (
        f"SELECT {columns}, {moment} AS outcome_time, o.watch AS watch, o.duration AS duration, o.gain AS gain "
        f"FROM ({shown}) e LEFT JOIN (SELECT * FROM ({came}) WHERE nth = 1) o "
        "ON e.request = o.request AND e.item = o.item"
    )


def joined_columns(batch: Any) -> dict[str, Any]:
    """Columns of `JOINED` from a table or batch of Arrow's. Masks stay integers: a float has no room for 64 plans."""
    result: dict[str, Any] = {}
    for name in batch.schema.names:
        column = batch.column(name)
        result[name] = np.asarray(column, np.int64) if name == "mask" else arrow_column(column, name)
    return result


def partial(columns: Mapping[str, Any], config: GatherConfig, now: float) -> GatherResult:
    """Tallies and books of a batch of joined rows.

    Args:
        columns: those of `JOINED`: numbers as arrays, names as `NameColumn` or lists.
        config: rules by which rows become outcomes.
        now: seconds since 1970 UTC; exposures younger than the maturity have no outcome yet.
    """
    count = len(columns["time"])
    numbers = {name: np.asarray(columns[name], np.float64) for name in NUMERIC}
    dropped: Counter[str] = Counter()

    def lost(reason: str, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        dropped[reason] += int(rows.sum())
        return rows

    twice = lost("exposure twice", numbers["copy"] > 1)
    timeless = lost("exposure without a time", ~np.isfinite(numbers["time"]) & ~twice)
    kept = np.flatnonzero(~(twice | timeless))
    numbers = {name: column[kept] for name, column in numbers.items()}
    names = {name: _taken(columns[name], kept) for name in NAMES}
    control = np.asarray(columns["control"], np.bool_)[kept]
    mask = np.asarray(columns["mask"], np.int64)[kept].view(np.uint64)

    delay = numbers["outcome_time"] - numbers["time"]
    came = np.isfinite(numbers["outcome_time"])
    early = lost("outcome before its exposure", came & (delay < -config.skew))
    late = lost("outcome too late", came & (delay > config.horizon))
    unusable = early | late | ~came
    young = lost("exposure too young", numbers["time"] > now - config.maturity)
    outcome, reasons = config.anchor.outcome(
        np.where(unusable, np.nan, numbers["watch"]), np.where(unusable, np.nan, numbers["duration"])
    )
    never = ~came & ~young
    if config.absent == "zero":
        outcome[never] = 0.0
    dropped.update(reasons)
    if "watch missing" in reasons:
        dropped["watch missing"] -= int(unusable.sum())  # those were counted by their own reason
    if config.absent == "missing":
        lost("no outcome", never)

    lost("exposure without a mask", numbers["account"] == 2)
    rows = np.flatnonzero(numbers["account"] == 1)
    booked: dict[str, Any] = {name: names[name].take(rows) for name in NAMES if name != "request"}
    booked |= {name: numbers[name][rows] for name in ("value", "total", "guard")}
    books = Books()
    books.add(
        day=np.floor(numbers["time"][rows] / DAY).astype(np.int64),
        **booked,
        control=control[rows],
        mask=mask[rows],
        outcome=outcome[rows],
        gain=np.where(early | late, np.nan, numbers["gain"])[rows],
    )
    tallies = Tallies()
    weight: NDArray[np.float64] | None = None
    if config.per_user is not None:
        weight = np.minimum(1.0, config.per_user / np.maximum(numbers["user_rows"], 1.0))
    _tally(tallies, names, numbers, control, np.where(young, np.nan, outcome), weight, config)
    dropped.update(books.dropped)
    # Why there is no outcome was counted above.
    dropped.update({reason: n for reason, n in tallies.dropped.items() if reason != "no outcome"})
    return GatherResult(Tallies(tallies.cells), Books(books.cells), count, +dropped, now)


def _tally(
    tallies: Tallies,
    names: Mapping[str, NameColumn],
    numbers: Mapping[str, NDArray[np.float64]],
    control: NDArray[np.bool_],
    outcome: NDArray[np.float64],
    weight: NDArray[np.float64] | None,
    config: GatherConfig,
) -> None:
    """Add rows by key, control, fold and tick."""
    if not len(outcome):
        return
    tick = np.floor(numbers["time"] / config.tick).astype(np.int64)
    first = int(tick.min())
    request = names["request"]
    fold = folds(list(request.names)) if request.names else np.empty(0, np.int64)
    keys = [names[name] for name in ("scene", "source", "version")]
    parts: list[tuple[Sequence[Any], NDArray[Any]]] = [key.parted() for key in keys]
    parts += [
        ((False, True), control.view(np.int8)),
        (range(FOLDS), np.append(fold, 0)[request.codes]),
        (range(first, int(tick.max()) + 1), tick - first),
    ]
    group, _, values = grouped(parts)
    tallies.add_rows(
        numbers["score"],
        outcome,
        group,
        lambda number: Cell(*values(number)),
        1.0 if weight is None else weight,
    )


def _taken(column: Any, rows: NDArray[np.int64]) -> NameColumn:
    coded = (
        column
        if isinstance(column, NameColumn)
        else NameColumn.of([None if one is None else str(one) for one in column])
    )
    return coded.take(rows)


# -- as rows, which engines add up and files hold ---------------------------------------------------------------------

KEYS = ("kind", "when", "scene", "source", "version", "snapshot", "control", "fold", "bits")
"""`when` is a tick or a day, `bits` a bin's code or a mask, signed."""
NUMBERS = tuple(f"s{number}" for number in range(len(SUMS)))


BLOCK = 1 << 15
"""Rows that are made at a time: as Python's own numbers, all of them take far more than the sums."""


def row_blocks(gathered: GatherResult, size: int | None = BLOCK) -> Iterator[dict[str, list[Any]]]:
    """One row a cell and bin, some at a time: `KEYS` and `NUMBERS`, which add up over equal keys.

    Args:
        gathered: sums of a log.
        size: rows of a block; None makes one block of all.
    """
    rows = _rows(gathered)
    while block := list(itertools.islice(rows, size)):
        columns = zip(*block, strict=True)
        yield {name: list(column) for name, column in zip((*KEYS, *NUMBERS), columns, strict=True)}


def to_rows(gathered: GatherResult) -> dict[str, list[Any]]:
    """All rows of `row_blocks` at once."""
    return next(row_blocks(gathered, None))


def _rows(gathered: GatherResult) -> Iterator[tuple[Any, ...]]:
    empty = [0] * len(NUMBERS)
    for cell, result in gathered.tallies.cells.items():
        head = ("tally", cell.tick, cell.scene, cell.source, cell.version, "", cell.control, cell.fold)
        for code, *sums in np.stack([result.code, result.n, result.a, result.m], axis=1).tolist():
            yield *head, code, *sums, *empty[3:]
    for key, numbers in gathered.books.cells.items():
        signed = key.mask - 2**64 if key.mask >= 2**63 else key.mask
        names = (key.scene, key.source, key.version, key.snapshot)
        yield "book", key.day, *names, key.control, 0, signed, *numbers
    for reason, number in [*gathered.dropped.items(), ("", gathered.rows)]:
        yield "dropped" if reason else "rows", 0, reason, "", "", "", False, 0, 0, number, *empty[1:]


def from_rows(columns: Mapping[str, Sequence[Any]], now: float) -> GatherResult:
    """Read what `to_rows` gave, whether equal keys were added up since or not.

    Raises:
        DataError: something else.
    """
    need((*KEYS, *NUMBERS), columns, "state")
    tallies: dict[Cell, list[tuple[int, ...]]] = {}
    books, dropped, count = Books(), Counter[str](), 0
    for kind, when, scene, source, version, snapshot, control, fold, bits, *sums in zip(
        *(columns[name] for name in (*KEYS, *NUMBERS)), strict=True
    ):
        whole = [int(one) for one in sums]
        if not all(isinstance(name, str) for name in (scene, source, version, snapshot)):
            raise DataError("a name that is no text", where="state")
        if kind == "tally":
            cell = Cell(scene, source, version, bool(control), int(fold), int(when))
            tallies.setdefault(cell, []).append((int(bits), *whole[:3]))
        elif kind == "book":
            mask = int(bits) % 2**64
            books.put(BookKey(int(when), scene, source, version, snapshot, bool(control), mask), whole)
        elif kind == "dropped":
            dropped[scene] += whole[0]
        elif kind == "rows":
            count += whole[0]
        else:
            raise DataError(f"rows of kind {kind!r}", where="state")
    cells = {cell: Histogram.of_rows(*np.array(parts, np.int64).T) for cell, parts in tallies.items()}
    return GatherResult(Tallies(cells), books, count, dropped, now)
