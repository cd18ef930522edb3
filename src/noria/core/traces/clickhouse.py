"""Traces in ClickHouse, for what is above one machine: the same tables, and segments that arrive in order and once.

Each service ships its own segments under its name (`service`). The tables, the inserts and the queries are checked on
chDB, which is ClickHouse in a process; its wire (HTTP on port 8123) is written by the manual and checked against no
server.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from noria.core.errors import ConfigError, RunError
from noria.core.traces.columns import TABLES, columns
from noria.core.traces.segments import Segment, read_manifest

Execute = Callable[[str, bytes], bytes]
"""Runs a statement with the data that follows it, and returns its answer; raises `RunError` where the store refuses."""
_SERVICE = re.compile(r"[\w.-]{1,64}", re.ASCII)
_TYPES = {
    "int": "Int64",
    "float": "Float64",
    "text": "String",
    "time": "DateTime64(9, 'UTC')",
    "texts": "Array(String)",
    "labels": "Map(String, String)",
    "counts": "Map(String, Int64)",
    "assignments": "Array(Tuple(experiment String, arm String, propensity Float64))",
    "candidates": ("Array(Tuple(name String, score Nullable(Float64), propensity Nullable(Float64)))"),
    "verdicts": "Array(Tuple(item String, value String, reason String))",
}
_KEYS = {
    "traces": "id",
    "spans": "trace",
    "feedback": "trace",
    "withdrawals": "feedback",
    "judgements": "trace",
}
STANDING = "feedback AS f LEFT ANTI JOIN withdrawals AS w ON w.service = f.service AND w.feedback = f.id"
"""Feedback that was not withdrawn, as a FROM clause."""
QUERIES = {
    "newest": (
        "SELECT id, began, seconds, status, bundle, caller, user, tokens_in + tokens_out AS tokens, cost FROM traces"
        " ORDER BY id DESC LIMIT 50"
    ),
    "bundles": (
        "SELECT bundle, count() AS requests, countIf(status NOT IN ('ok', 'refused')) AS failed,"
        " quantileExact(0.5)(seconds) AS p50, quantileExact(0.95)(seconds) AS p95, sum(cost) AS cost FROM traces"
        " GROUP BY bundle ORDER BY bundle"
    ),
    "steps": (
        "SELECT kind, name, count() AS spans, countIf(error_kind IS NOT NULL) AS failed, avg(seconds) AS mean"
        " FROM spans GROUP BY kind, name ORDER BY kind, name"
    ),
    "ratings": (
        "SELECT t.bundle AS bundle, f.name AS name, count() AS ratings, avg(f.value) AS mean FROM (SELECT f.* FROM "
        f"{STANDING}) AS f JOIN traces AS t ON t.id = f.trace AND t.service = f.service WHERE f.value IS NOT NULL"
        " GROUP BY bundle, name ORDER BY bundle, name"
    ),
    "judgements": (
        "SELECT judge, version, count() AS judgements, sum(invalid) AS invalid, avg(score) AS score FROM judgements"
        " GROUP BY judge, version ORDER BY judge, version"
    ),
}
"""What a console shows, over all services."""


def structure(table: str) -> str:
    """Columns of a table with ClickHouse's types, as a CREATE TABLE and `input()` have them."""
    return ", ".join(
        f"{name} {f'Nullable({_TYPES[kind]})' if nullable else _TYPES[kind]}"
        for name, kind, nullable in columns(table)
    )


def create_tables(execute: Execute) -> None:
    """Make the tables where they are not there.

    Raises:
        RunError: the store refuses.
    """
    for table in TABLES:
        key = _KEYS[table]
        execute(
            f"CREATE TABLE IF NOT EXISTS {table} (service LowCardinality(String), {structure(table)},"
            f" INDEX by_{key} {key} TYPE bloom_filter GRANULARITY 4)"
            " ENGINE = MergeTree ORDER BY (service, sequence)",
            b"",
        )
    execute(
        "CREATE TABLE IF NOT EXISTS segments (service LowCardinality(String), first Int64, last Int64, digest String)"
        " ENGINE = MergeTree ORDER BY (service, first)",
        b"",
    )


def ship(folder: Path, execute: Execute, *, service: str) -> int:
    """Bring the store to what the sealed segments of a service are, and return the number of segments shipped.

    A segment counts once its digest is written, after its rows. What a killed shipping left of it is removed before
    it is sent again, and so are the rows of a segment that was made anew. One process ships a service's segments at a
    time.

    Args:
        folder: folder of the journal.
        execute: runs a statement.
        service: name of the service, of letters, digits, `_`, `.` and `-`.

    Raises:
        RunError: the store refuses or is not there; the segments before it have arrived.
        ConfigError: the name is no such name.
    """
    if not _SERVICE.fullmatch(service):
        raise ConfigError(
            f"{service[:70]!r} is no name of a service",
            where="service",
            mend="use letters, digits, _ . and -",
        )
    there = _json(
        execute(f"SELECT first, digest FROM segments WHERE service = '{service}' FORMAT JSONCompact", b"")
    )
    arrived = {int(first): digest for first, digest in there}
    manifest = read_manifest(folder)
    shipped = 0
    for segment in manifest.segments:
        if arrived.get(segment.first) != segment.digest:
            _ship(Path(folder), segment, execute, service)
            shipped += 1
    return shipped


def _ship(folder: Path, segment: Segment, execute: Execute, service: str) -> None:
    execute(f"DELETE FROM segments WHERE service = '{service}' AND first = {segment.first}", b"")
    rows = f"service = '{service}' AND sequence BETWEEN {segment.first} AND {segment.last}"
    for table in TABLES:
        if _json(execute(f"SELECT count() FROM {table} WHERE {rows} FORMAT JSONCompact", b"")) not in (
            [[0]],
            [["0"]],
        ):
            execute(f"DELETE FROM {table} WHERE {rows}", b"")
        if segment.rows[table]:
            try:
                data = (folder / "segments" / segment.name / f"{table}.parquet").read_bytes()
            except OSError as error:  # it was made anew meanwhile; the next attempt ships its successor
                raise RunError("a segment is not there any more", where=segment.name) from error
            execute(
                f"INSERT INTO {table} SELECT '{service}' AS service, * FROM input({_quoted(structure(table))})"
                " FORMAT Parquet",
                data,
            )
    execute(
        f"INSERT INTO segments VALUES ('{service}', {segment.first}, {segment.last}, '{segment.digest}')", b""
    )


@dataclass
class Delivery:
    """Ships again and again; a store that is down delays the segments, and none is dropped: they wait on the disk.

    Args:
        folder: folder of the journal.
        execute: runs a statement.
        service: name of the service.
        clock: function that returns seconds that only grow.
        longest: largest number of seconds between two attempts while the store is down.

    Attributes:
        shipped: number of segments shipped.
        failures: number of attempts in a row that failed.
        error: why the last attempt failed; None where it did not.
        next: second of the clock before which nothing is tried.
    """

    folder: Path
    execute: Execute
    service: str
    clock: Callable[[], float] = time.monotonic
    longest: float = 60.0
    shipped: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    error: RunError | None = field(default=None, init=False)
    next: float = field(default=float("-inf"), init=False)

    def step(self) -> int:
        """Ship what is sealed, unless it is too early after a failure; return the number of segments shipped."""
        if self.clock() < self.next:
            return 0
        try:
            create_tables(self.execute)
            count = ship(self.folder, self.execute, service=self.service)
        except RunError as error:
            self.failures += 1
            self.error = error
            self.next = self.clock() + min(2.0 ** min(self.failures - 1, 30), self.longest)
            return 0
        self.failures, self.error = 0, None
        self.shipped += count
        return count


def over_http(url: str, *, password: str = "", seconds: float = 60.0) -> Execute:
    """Statements over ClickHouse's HTTP interface.

    Args:
        url: address as in `https://user@host:8443/database`.
        password: password of the user.
        seconds: time after which an answer is not waited for any more.

    Raises:
        ConfigError: the address cannot be read.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "it is no address of ClickHouse", where="url", mend="write https://user@host:8443/database"
        )
    secure = parts.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    host, port = parts.hostname, port or (8443 if secure else 8123)
    secret = base64.b64encode(f"{parts.username or 'default'}:{password}".encode()).decode()
    database = quote(parts.path.strip("/") or "default", safe="")

    def execute(sql: str, data: bytes) -> bytes:
        connection = connect(host, port, timeout=seconds)
        target = f"/?database={database}&query={quote(sql, safe='')}"
        try:
            connection.request("POST", target, data, {"Authorization": f"Basic {secret}"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise RunError(f"ClickHouse cannot be reached: {error}", where=f"{host}:{port}") from error
        finally:
            connection.close()
        if answer.status != 200 or answer.getheader("X-ClickHouse-Exception-Code"):
            line = body[:500].decode(errors="replace").partition("\n")[0]
            raise RunError(f"ClickHouse refuses ({answer.status}): {line}", where=f"{host}:{port}")
        return body

    return execute


def _json(answer: bytes) -> list[list[Any]]:
    """Rows of an answer in the format JSONCompact.

    Raises:
        RunError: it is none.
    """
    try:
        return list(json.loads(answer)["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError("ClickHouse gave an answer that cannot be read", where="clickhouse") from error


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
