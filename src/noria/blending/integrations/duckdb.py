"""Logs larger than memory on one machine: DuckDB reads and joins Parquet, spilling to disk, and hands over batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from noria.blending.accounting.cells import Books
from noria.blending.alignment.tallies import Tallies
from noria.blending.logs.arrow import arrow_column
from noria.blending.logs.gathering import GatherConfig, GatherResult, joined, partial
from noria.core.errors import DataError, require
from noria.core.progress import Progress

__all__ = ["gather", "rows", "sample"]

BATCH = 1 << 19
"""Number of rows of a batch."""
TOGETHER = 16
"""Batches that are added up at once."""


def gather(
    exposures: Sequence[str],
    outcomes: Sequence[str] | None,
    config: GatherConfig,
    *,
    now: float | None = None,
    memory: str | None = None,
    spill: Path | None = None,
    progress: Progress | None = None,
) -> GatherResult:
    """Tallies and books of logs.

    Args:
        exposures, outcomes: paths of the Parquet files.
        config: rules by which rows become outcomes.
        now: seconds since 1970 UTC; the time of the last exposure by default.
        memory: most memory of DuckDB, such as `4GB`.
        spill: folder for what does not fit.
        progress: shows each batch.

    Raises:
        DataError: files that cannot be read, or without the columns of `noria.blending.logs.schema`.
        MissingExtra: there is no duckdb or pyarrow.
    """
    with _joined(exposures, outcomes, config, memory=memory, spill=spill) as (connection, query):
        if now is None:
            ((last,),) = connection.sql("SELECT max(time) FROM exposures").fetchall()
            now = 0.0 if last is None else float(last)
        total = GatherResult(Tallies(), Books(), 0, {}, now)
        task = progress.task("exposures") if progress else None
        parts: list[GatherResult] = []
        for result in _batches(connection, query):
            parts.append(partial(result, config, now))
            if len(parts) == TOGETHER:
                total, parts = total.merge(*parts), []
            if task:
                task.advance(len(result["time"]))
        total = total.merge(*parts)
        if outcomes is not None:
            ((extra,),) = connection.sql(
                "SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT request, item FROM outcomes)) FROM outcomes"
            ).fetchall()
            if extra:
                total = total.merge(GatherResult(Tallies(), Books(), 0, {"outcome twice": int(extra)}, now))
        if task:
            task.done()
    return total


def rows(exposures: Sequence[str], outcomes: Sequence[str], config: GatherConfig) -> Iterator[dict[str, Any]]:
    """Batches of exposures joined with their outcomes, as columns of `gathering.JOINED` and `item`.

    Raises:
        DataError: the cases of `gather`.
    """
    with _joined(exposures, outcomes, config, more=("item",)) as (connection, query):
        yield from _batches(connection, query)


def sample(
    exposures: Sequence[str], outcomes: Sequence[str], config: GatherConfig, most: int
) -> dict[str, Any]:
    """About `most` joined rows, whole requests of them, the same ones every time.

    Raises:
        DataError: the cases of `gather`.
    """
    with _joined(exposures, outcomes, config) as (connection, query):
        ((count,),) = connection.sql("SELECT count(*) FROM exposures").fetchall()
        part = max(1, -(-int(count) // most))
        chosen = connection.sql(f"SELECT * FROM ({query}) WHERE hash(request) % {part} = 0").to_arrow_table()
        return {name: arrow_column(chosen.column(name), name) for name in chosen.column_names}


@contextlib.contextmanager
def _joined(
    exposures: Sequence[str],
    outcomes: Sequence[str] | None,
    config: GatherConfig,
    *,
    more: Sequence[str] = (),
    memory: str | None = None,
    spill: Path | None = None,
) -> Iterator[tuple[Any, str]]:
    """A database with views of the files, and the query that joins them."""
    engine = require("duckdb", "blending")
    require("pyarrow", "blending")
    with _connected(engine, memory, spill) as connection:
        views = {"exposures": list(exposures)} | ({} if outcomes is None else {"outcomes": list(outcomes)})
        columns = {}
        for name, files in views.items():
            relation = connection.read_parquet(files, union_by_name=True)
            relation.create_view(name)
            columns[name] = list(relation.columns)
        yield connection, joined(columns["exposures"], columns.get("outcomes"), config, more=more)


def _batches(connection: Any, query: str) -> Iterator[dict[str, Any]]:
    for batch in connection.sql(query).to_arrow_reader(BATCH):
        yield {name: arrow_column(batch.column(name), name) for name in batch.schema.names}


@contextlib.contextmanager
def _connected(engine: Any, memory: str | None, spill: Path | None) -> Iterator[Any]:
    """A database in memory that reads no file but those it is given; its errors in one line."""
    settings: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    if memory is not None:
        settings["memory_limit"] = memory
    if spill is not None:
        settings["temp_directory"] = str(spill)
    try:
        with engine.connect(":memory:", config=settings) as connection:
            yield connection
    except engine.Error as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"DuckDB cannot read it ({first})", where="logs") from error
