"""DuckDB as the reader of logs: a database in memory whose views are files, within bounds of its own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from noria.blending.logs.conversion import Renamed
from noria.blending.logs.reading import check_renamed, check_times, log_files, log_query
from noria.blending.logs.schema import CANDIDATES, NEEDED
from noria.core.errors import DataError, require

MEMORY = "256MB"
"""Memory that DuckDB may take before it spills to disk."""


class ReadOptions(TypedDict, total=False):
    """Bounds and names with which logs are read.

    Attributes:
        memory: most memory of DuckDB, such as `4GB`; `MEMORY` by default.
        spill: folder for what does not fit; a temporary one by default.
        columns: names of the logs' columns by ours.
    """

    memory: str | None
    spill: Path | None
    columns: Renamed | None


@contextlib.contextmanager
def candidate_database(path: str, *, columns: Renamed | None = None) -> Iterator[Any]:
    """A database with a view `candidates` of a log of whole requests.

    Raises:
        DataError: files that cannot be read, or without the columns of `noria.blending.logs.schema`.
        MissingExtra: there is no duckdb or pyarrow.
    """
    with connected(None, None) as (connection, scratch):
        files, needed = log_files(path), NEEDED["candidates"]
        query, used = log_query(files, CANDIDATES, scratch=scratch, renamed=columns, needed=needed, more=True)
        check_renamed(columns or {}, used)
        connection.sql(query).create_view("candidates")
        if "time" in connection.sql("SELECT * FROM candidates LIMIT 0").columns:
            check_times(connection, "candidates", path)
        yield connection


@contextlib.contextmanager
def connected(memory: str | None, spill: Path | None) -> Iterator[tuple[Any, Path]]:
    """A database in memory, and a folder for what does not fit; errors of the database in one line."""
    engine = require("duckdb", "blending")
    require("pyarrow", "blending")
    with tempfile.TemporaryDirectory(prefix="noria-", dir=spill) as scratch:
        settings = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": memory or MEMORY,
            "temp_directory": scratch,
        }
        try:
            with engine.connect(":memory:", config=settings) as connection:
                yield connection, Path(scratch)
        except engine.Error as error:
            first = str(error).strip().splitlines()[0]
            raise DataError(f"DuckDB cannot read it ({first})", where="logs") from error
