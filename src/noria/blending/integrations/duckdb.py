"""Logs larger than memory on one machine: DuckDB reads and joins Parquet, spilling to disk, and hands over batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from noria.blending.cells import Books
from noria.blending.gathering import GatherConfig, Gathered, joined, partial
from noria.blending.replay import arrow_column
from noria.blending.tallies import Tallies
from noria.core.errors import DataError, require
from noria.core.progress import Progress

__all__ = ["gather"]

BATCH = 1 << 19
"""Rows of a batch."""
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
) -> Gathered:
    """Tallies and books of logs.

    Args:
        exposures, outcomes: Parquet files.
        config: how rows become outcomes.
        now: seconds since 1970 UTC; the time of the last exposure by default.
        memory: that DuckDB may take, such as `4GB`.
        spill: folder for what does not fit.
        progress: told of each batch.

    Raises:
        DataError: files that cannot be read, or without the columns of `noria.blending.logs`.
        MissingExtra: there is no duckdb or pyarrow.
    """
    engine = require("duckdb", "blending")
    require("pyarrow", "blending")
    with _connected(engine, memory, spill) as connection:
        views = {"exposures": list(exposures)} | ({} if outcomes is None else {"outcomes": list(outcomes)})
        columns = {}
        for name, files in views.items():
            relation = connection.read_parquet(files, union_by_name=True)
            relation.create_view(name)
            columns[name] = list(relation.columns)
        query = joined(columns["exposures"], columns.get("outcomes"), config)
        if now is None:
            ((last,),) = connection.sql("SELECT max(time) FROM exposures").fetchall()
            now = 0.0 if last is None else float(last)
        total = Gathered(Tallies(), Books(), 0, {}, now)
        task = progress.task("exposures") if progress else None
        parts: list[Gathered] = []
        for batch in connection.sql(query).to_arrow_reader(BATCH):
            found = {name: arrow_column(batch.column(name), name) for name in batch.schema.names}
            parts.append(partial(found, config, now))
            if len(parts) == TOGETHER:
                total, parts = total.merge(*parts), []
            if task:
                task.advance(len(batch))
        total = total.merge(*parts)
        if outcomes is not None:
            ((extra,),) = connection.sql(
                "SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT request, item FROM outcomes)) FROM outcomes"
            ).fetchall()
            if extra:
                total = total.merge(Gathered(Tallies(), Books(), 0, {"outcome twice": int(extra)}, now))
        if task:
            task.done()
    return total


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
