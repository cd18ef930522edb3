"""Logs on a cluster: Spark reads, joins and adds up; every executor runs `partial` on its rows.

Executors need Noria with the extra `spark`, and Java 17. Without a session of yours one is made on this machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noria.blending.logs.arrow import arrow_column
from noria.blending.logs.gathering import (
    KEYS,
    NUMBERS,
    GatherConfig,
    GatherResult,
    from_rows,
    joined,
    partial,
    to_rows,
)
from noria.core.errors import RunError, require

_TYPES = {"when": "long", "control": "boolean", "fold": "long", "bits": "long"}
SCHEMA = ", ".join(
    [*(f"`{name}` {_TYPES.get(name, 'string')}" for name in KEYS), *(f"`{name}` long" for name in NUMBERS)]
)


def local_session(cores: int = 2, settings: Mapping[str, str] | None = None) -> Any:
    """A session on this machine, on the loopback interface only and without its web page.

    Args:
        cores: threads of work.
        settings: further settings of Spark.

    Raises:
        MissingExtra: there is no pyspark.
        RunError: it does not start, as without Java.
    """
    sql = require("pyspark.sql", "spark")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = (
        sql.SparkSession.builder.master(f"local[{cores}]")
        .appName("noria-blending")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", str(cores))
        .config("spark.sql.session.timeZone", "UTC")
    )
    for name, value in (settings or {}).items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except Exception as error:  # Py4J's own kinds, and what the launcher raises without Java
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"Spark does not start ({first})", mend="install Java 17") from error


def gather(
    exposures: Sequence[str],
    outcomes: Sequence[str] | None,
    config: GatherConfig,
    *,
    now: float | None = None,
    session: Any = None,
) -> GatherResult:
    """Tallies and books of logs, equal to DuckDB's in every integer.

    Args:
        exposures, outcomes: Parquet files, or whatever paths the cluster reads.
        config: rules by which rows become outcomes.
        now: seconds since 1970 UTC; the time of the last exposure by default.
        session: session of Spark; a local one by default, which is stopped again.

    Raises:
        DataError: a column of `noria.blending.logs.schema` is absent.
        MissingExtra: there is no pyspark.
        RunError: Spark does not start.
    """
    functions = require("pyspark.sql.functions", "spark")
    own = session is None
    spark = local_session() if own else session
    try:
        shown = spark.read.option("mergeSchema", "true").parquet(*exposures)
        shown.createOrReplaceTempView("exposures")
        came = None
        if outcomes is not None:
            came = spark.read.option("mergeSchema", "true").parquet(*outcomes)
            came.createOrReplaceTempView("outcomes")
        query = joined(shown.columns, None if came is None else came.columns, config)
        if now is None:
            last = shown.agg(functions.max("time")).first()[0]
            now = 0.0 if last is None else float(last)
        moment = now

        def run(batches: Iterator[Any]) -> Iterator[Any]:
            """On an executor: a batch of rows in, a batch of integers out."""
            import pyarrow

            for batch in batches:
                result = {name: arrow_column(batch.column(name), name) for name in batch.schema.names}
                rows = to_rows(partial(result, config, moment))
                yield pyarrow.RecordBatch.from_pydict(rows)

        parts = spark.sql(query).mapInArrow(run, SCHEMA)
        sums = [functions.sum(functions.col(name).cast("decimal(38,0)")).alias(name) for name in NUMBERS]
        table = parts.groupBy(*(functions.col(f"`{name}`") for name in KEYS)).agg(*sums).toArrow()
        total = from_rows({name: table.column(name).to_pylist() for name in (*KEYS, *NUMBERS)}, now)
        if came is not None:
            extra = came.count() - came.select("request", "item").distinct().count()
            if extra:
                total.dropped["outcome twice"] = extra  # type: ignore[index]
        return total
    finally:
        if own:
            spark.stop()
