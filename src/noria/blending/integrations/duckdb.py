"""Logs larger than memory on one machine: DuckDB reads and joins them, spilling to disk, and hands over batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from noria.blending.accounting.cells import Books
from noria.blending.alignment.tallies import Tallies
from noria.blending.logs.conversion import Renamed
from noria.blending.logs.database import ReadOptions, connected
from noria.blending.logs.gathering import GatherConfig, GatherResult, joined, joined_columns, partial
from noria.blending.logs.reading import check_renamed, check_times, log_query
from noria.blending.logs.schema import ACCOUNTED, EXPOSURES, NEEDED, OUTCOMES, Kind
from noria.core.progress import Progress

BATCH = 1 << 16
"""Number of rows of a batch."""
PART, MOST_PARTS = 1 << 17, 64
"""Exposures that are joined at a time, whole requests of them, and most times that files are read for it."""
TOGETHER = 4
"""Batches that are added up at once."""


def gather(
    exposures: Sequence[str],
    outcomes: Sequence[str] | None,
    config: GatherConfig,
    *,
    now: float | None = None,
    accounts: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[ReadOptions],
) -> GatherResult:
    """Tallies and books of logs.

    Args:
        exposures, outcomes: paths of the files.
        config: rules by which rows become outcomes.
        now: seconds since 1970 UTC; the time of the last exposure by default.
        accounts: whether exposures without the columns of an account are refused.
        progress: shows each batch.
        reading: how the files are read.

    Raises:
        DataError: files that cannot be read, or without the columns of `noria.blending.logs.schema`.
        MissingExtra: there is no duckdb or pyarrow.
    """
    with _joined(exposures, outcomes, config, accounts=accounts, **reading) as (connection, query):
        if now is None:
            ((last,),) = connection.sql(
                "SELECT max(time) FROM all_exposures WHERE NOT isnan(time)"
            ).fetchall()
            now = 0.0 if last is None else float(last)
        total = GatherResult(Tallies(), Books(), 0, {}, now)
        task = progress.task("exposures") if progress else None
        parts: list[GatherResult] = []
        for result in _batches(connection, query, config):
            parts.append(partial(result, config, now))
            if len(parts) == TOGETHER:
                total, parts = total.merge(*parts), []
            if task:
                task.advance(len(result["time"]))
        total = total.merge(*parts)
        for _ in _parts(connection, config) if outcomes is not None else ():
            total = total.merge(GatherResult(Tallies(), Books(), 0, _unjoined(connection), now))
        if task:
            task.done()
    return total


def _unjoined(connection: Any) -> dict[str, int]:
    """Outcomes that no exposure takes, by reason: further copies, those of no exposure, those without a time."""
    names = connection.sql("SELECT * FROM outcomes LIMIT 0").columns
    timeless = "count_if(time IS NULL OR isnan(time))" if "time" in names else "0"
    ((twice, orphans, lost),) = connection.sql(
        "SELECT sum(copies - 1), count_if(NOT shown), sum(timeless) FROM (SELECT count(*) AS copies, "
        f"{timeless} AS timeless, bool_or(e.request IS NOT NULL) AS shown FROM outcomes o "
        "LEFT JOIN (SELECT DISTINCT request, item FROM exposures) e USING (request, item) GROUP BY request, item)"
    ).fetchall()
    reasons = {"outcome twice": twice, "outcome of no exposure": orphans, "outcome without a time": lost}
    return {reason: int(count) for reason, count in reasons.items() if count}


def rows(
    exposures: Sequence[str], outcomes: Sequence[str], config: GatherConfig, **reading: Unpack[ReadOptions]
) -> Iterator[dict[str, Any]]:
    """Batches of exposures joined with their outcomes, as columns of `gathering.JOINED` and `item`.

    Raises:
        DataError: the cases of `gather`.
    """
    with _joined(exposures, outcomes, config, more=("item",), **reading) as (connection, query):
        yield from _batches(connection, query, config)


def sample(
    exposures: Sequence[str],
    outcomes: Sequence[str],
    config: GatherConfig,
    most: int,
    **reading: Unpack[ReadOptions],
) -> dict[str, Any]:
    """About `most` joined rows, whole requests of them, the same ones every time.

    Raises:
        DataError: the cases of `gather`.
    """
    with _joined(exposures, outcomes, config, **reading) as (connection, query):
        ((count,),) = connection.sql("SELECT count(*) FROM all_exposures").fetchall()
        _narrow(connection, 0, max(1, -(-int(count) // most)))
        return joined_columns(connection.sql(query).to_arrow_table())


@contextlib.contextmanager
def _joined(
    exposures: Sequence[str],
    outcomes: Sequence[str] | None,
    config: GatherConfig,
    *,
    more: Sequence[str] = (),
    accounts: bool = False,
    memory: str | None = None,
    spill: Path | None = None,
    columns: Renamed | None = None,
) -> Iterator[tuple[Any, str]]:
    """A database with views of the files, and the query that joins them."""
    shown: dict[str, Kind] = EXPOSURES | {"user": "string"}
    logs = [("exposures", exposures, shown), ("outcomes", outcomes, OUTCOMES)]
    with connected(memory, spill) as (connection, scratch):
        used, there = set[str](), {}
        for name, files, kinds in logs:
            if files is None:
                continue
            needed = (*NEEDED[name], *(ACCOUNTED if accounts and name == "exposures" else ()))
            query, known = log_query(files, kinds, scratch=scratch / name, renamed=columns, needed=needed)
            used |= known
            connection.sql(query).create_view(f"all_{name}")
            there[name] = connection.sql(f"SELECT * FROM all_{name} LIMIT 0").columns
            if "time" in there[name]:
                check_times(connection, f"all_{name}", name)
        _narrow(connection, 0, 1)
        check_renamed(columns or {}, used)
        yield connection, joined(there["exposures"], there.get("outcomes"), config, more=more)


def _narrow(connection: Any, part: int, parts: int) -> None:
    """Let the views `exposures` and `outcomes` be one part of the requests."""
    known = {name for (name,) in connection.sql("SELECT view_name FROM duckdb_views()").fetchall()}
    for name in ("exposures", "outcomes"):
        if f"all_{name}" in known:
            connection.execute(
                f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM all_{name} "
                + (f"WHERE coalesce(hash(request) % {parts}, 0) = {part}" if parts > 1 else "")
            )


def _parts(connection: Any, config: GatherConfig) -> Iterator[None]:
    """Go through the requests part by part, so that what is joined at a time does not grow with the log.

    Rows of one user are counted over all requests, which are then one part.
    """
    ((count,),) = connection.sql("SELECT count(*) FROM all_exposures").fetchall()
    parts = 1 if config.per_user is not None else min(MOST_PARTS, max(1, -(-int(count) // PART)))
    for part in range(parts):
        _narrow(connection, part, parts)
        yield


def _batches(connection: Any, query: str, config: GatherConfig) -> Iterator[dict[str, Any]]:
    for _ in _parts(connection, config):
        for batch in connection.sql(query).to_arrow_reader(BATCH):
            yield joined_columns(batch)
