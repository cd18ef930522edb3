"""The engine that reads logs of exposures and outcomes: DuckDB on one machine, or Spark on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from noria.blending.logs.conversion import Renamed
from noria.blending.logs.gathering import GatherConfig, GatherResult
from noria.core.errors import ConfigError
from noria.core.progress import Progress

Engine = Literal["duckdb", "spark"]


def gather(
    exposures: Sequence[str],
    outcomes: Sequence[str] | None,
    config: GatherConfig,
    *,
    engine: Engine = "duckdb",
    now: float | None = None,
    memory: str | None = None,
    columns: Renamed | None = None,
    accounts: bool = False,
    progress: Progress | None = None,
) -> GatherResult:
    """Tallies and books of logs, by the chosen engine.

    Args:
        exposures, outcomes: paths of the Parquet files.
        config: rules by which rows become outcomes.
        engine: what reads the logs.
        now: seconds since 1970 UTC; the time of the last exposure by default.
        memory: what DuckDB may take, such as `4GB`.
        columns: names of the logs' columns by ours.
        accounts: whether exposures without the columns of an account are refused.
        progress: shows each batch.

    Raises:
        ConfigError: the anchor's thresholds are still to be fitted.
        NoriaError: the logs cannot be read, or the engine is not installed.
    """
    if not config.anchor.fitted:
        raise ConfigError(
            "the anchor's thresholds are not fitted",
            where="gather.anchor",
            mend="give --config settings.yaml of the fit that serves",
        )
    if engine == "spark":
        from noria.blending.integrations import spark

        if memory is not None:
            raise ConfigError(
                "it is for DuckDB", where="--memory", mend="set Spark's own memory in its configuration"
            )
        return spark.gather(exposures, outcomes, config, now=now, columns=columns, accounts=accounts)
    from noria.blending.integrations import duckdb

    return duckdb.gather(
        exposures,
        outcomes,
        config,
        now=now,
        memory=memory,
        columns=columns,
        accounts=accounts,
        progress=progress,
    )
