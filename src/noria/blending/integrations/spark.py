"""Logs on a cluster: Spark reads, joins and adds up; every executor runs `partial` on its rows.

Executors need Noria with the extra `spark`, and Java 17. Without a session of yours one is made on this machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from noria.blending.logs.conversion import LATEST, Renamed
from noria.blending.logs.gathering import (
    KEYS,
    NUMBERS,
    GatherConfig,
    GatherResult,
    from_rows,
    joined,
    joined_columns,
    partial,
    to_rows,
)
from noria.blending.logs.schema import ACCOUNTED, EXPOSURES, OUTCOMES, Kind, need
from noria.core.errors import ConfigError, DataError, RunError, require

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
    columns: Renamed | None = None,
    accounts: bool = False,
) -> GatherResult:
    """Tallies and books of logs, equal to DuckDB's in every integer.

    Args:
        exposures, outcomes: Parquet files, or whatever paths the cluster reads.
        config: rules by which rows become outcomes.
        now: seconds since 1970 UTC; the time of the last exposure by default.
        session: session of Spark; a local one by default, which is stopped again.
        columns: names of the logs' columns by ours.
        accounts: whether exposures without the columns of an account are refused.

    Raises:
        DataError: a column of `noria.blending.logs.schema` is absent.
        MissingExtra: there is no pyspark.
        RunError: Spark does not start.
    """
    functions = require("pyspark.sql.functions", "spark")
    own = session is None
    spark = local_session() if own else session
    try:
        shown = _read(spark, "exposures", exposures, EXPOSURES | {"user": "string"}, columns or {})
        came = None if outcomes is None else _read(spark, "outcomes", outcomes, OUTCOMES, columns or {})
        need(ACCOUNTED if accounts else (), shown.columns, "exposures")
        query = joined(shown.columns, None if came is None else came.columns, config)
        if now is None:
            last = shown.agg(functions.max("time")).first()[0]
            now = 0.0 if last is None else float(last)
        moment = now

        def run(batches: Iterator[Any]) -> Iterator[Any]:
            """On an executor: a batch of rows in, a batch of integers out."""
            import pyarrow

            for batch in batches:
                rows = to_rows(partial(joined_columns(batch), config, moment))
                yield pyarrow.RecordBatch.from_pydict(rows)

        parts = spark.sql(query).mapInArrow(run, SCHEMA)
        sums = [functions.sum(functions.col(name).cast("decimal(38,0)")).alias(name) for name in NUMBERS]
        table = parts.groupBy(*(functions.col(f"`{name}`") for name in KEYS)).agg(*sums).toArrow()
        total = from_rows({name: table.column(name).to_pylist() for name in (*KEYS, *NUMBERS)}, now)
        if came is not None:
            distinct = came.select("request", "item").distinct()
            extra = came.count() - distinct.count()
            lost = distinct.join(shown, ["request", "item"], "left_anti").count()
            reasons = {"outcome twice": extra, "outcome of no exposure": lost}
            total = replace(total, dropped=dict(total.dropped) | {why: n for why, n in reasons.items() if n})
        return total
    finally:
        if own:
            spark.stop()


_SQL = {"string": "STRING", "bool": "BOOLEAN", "uint64": "DECIMAL(20, 0)"}
_KINDS = {
    "string": ("string", "int", "bigint", "smallint", "tinyint"),
    "bool": ("boolean",),
    "time": ("double", "float", "int", "bigint", "timestamp", "date"),
}
_WHOLE = ("tinyint", "smallint", "int", "bigint")


def _read(spark: Any, name: str, files: Sequence[str], kinds: Mapping[str, Kind], renamed: Renamed) -> Any:
    """A log as a view, each column of its kind.

    Raises:
        ConfigError: a file that is not Parquet.
        DataError: a column of another kind, or times that are no seconds.
    """
    odd = [file for file in files if file.lower().endswith((".csv", ".jsonl"))]
    if odd:
        raise ConfigError("Spark reads Parquet alone", where=odd[0], mend="leave --engine out")
    raw = spark.read.option("mergeSchema", "true").parquet(*files)
    types, columns = dict(raw.dtypes), []
    for ours, kind in kinds.items():
        theirs = renamed.get(ours, ours)
        theirs = theirs if theirs in types else ours
        if theirs not in types or (theirs == ours and ours in renamed.values()):
            continue
        is_number = types[theirs] in (*_WHOLE, "double", "float") or types[theirs].startswith("decimal")
        fits = types[theirs] in _KINDS[kind] if kind in _KINDS else is_number
        if types[theirs] != "void" and not fits:
            raise DataError(f"a column of {types[theirs]}", where=f"{name}, column {theirs!r}")
        source = f"`{theirs.replace('`', '``')}`"
        whole = f"CAST({source} AS TIMESTAMP)" if types[theirs] == "date" else source
        columns.append(f"CAST({whole} AS {_SQL.get(kind, 'DOUBLE')}) AS `{ours}`")
    log = raw.selectExpr(*columns)
    if "time" in log.columns and log.where(f"abs(time) >= {LATEST}").limit(1).count():
        raise DataError("times in milliseconds or finer", where=f"{name}, column 'time'", mend="give seconds")
    log.createOrReplaceTempView(name)
    return log
