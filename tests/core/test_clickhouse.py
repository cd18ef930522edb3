"""Traces in ClickHouse: the SQL on chDB where it is installed; an outage of a scripted server delays and never drops.

chDB is ClickHouse in a process (Apache-2.0). It takes 560 MB, and no extra installs it; `pip install chdb` does.
"""

from __future__ import annotations

import base64
import importlib.util
import itertools
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from noria.core.errors import ConfigError, RunError
from noria.core.traces.clickhouse import QUERIES, Delivery, Execute, create_tables, over_http, ship
from noria.core.traces.ids import new_id
from noria.core.traces.queries import query
from noria.core.traces.records import JudgementRecord, VerdictRecord
from noria.core.traces.segments import read_manifest, seal
from noria.core.traces.store import TraceStore
from tests.core.test_segments import WIDTH, fill, rating, trace

pytestmark = pytest.mark.anyio
needs_chdb = pytest.mark.skipif(importlib.util.find_spec("chdb") is None, reason="chdb is not installed")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TraceStore]:
    store = TraceStore(tmp_path / "service")
    yield store
    store.close()


class Down(RunError):
    """The store of a test is not there."""


# -- the SQL, on chDB -------------------------------------------------------------------------------------------------


@pytest.fixture
def chdb(tmp_path: Path) -> Iterator[Execute]:
    """Statements in chDB. It has no body of a request: the data of `input()` come from a file instead."""
    from chdb.session import Session

    session = Session(str(tmp_path / "clickhouse"))

    def execute(sql: str, data: bytes) -> bytes:
        if data:
            (tmp_path / "body.parquet").write_bytes(data)
            sql = sql.removesuffix(" FORMAT Parquet")
            sql = sql.replace("input(", f"file('{tmp_path}/body.parquet', 'Parquet', ")
        try:
            return bytes(session.query(sql).bytes())
        except RuntimeError as error:
            raise RunError(str(error)[:1000], where="chdb") from error

    yield execute
    session.close()


def rows(execute: Execute, sql: str) -> list[list[object]]:
    answer = execute(f"{sql} FORMAT JSONCompact SETTINGS output_format_json_quote_64bit_integers = 0", b"")
    return json.loads(answer)["data"]


async def prepare(store: TraceStore) -> None:
    traces = await fill(store, WIDTH)
    for n in range(4):
        kept = await store.give_feedback(rating(store, traces[n], n / 4))
    await store.withdraw(traces[3].id, kept.id)
    verdicts = (VerdictRecord("polite", "invalid", "it's \\ no reply"),)
    await store.judge(
        JudgementRecord(
            new_id(store.clock()), traces[0].id, store.clock(), "rules", "1", "c", "rule", verdicts
        )
    )
    await fill(store, 2 * WIDTH - 6)
    seal(store.folder, age=-60, frames=WIDTH)


@needs_chdb
async def test_the_consoles_queries_say_what_duckdb_says_of_the_same_segments(
    store: TraceStore, chdb: Execute
) -> None:
    await prepare(store)
    create_tables(chdb)
    create_tables(chdb)
    assert ship(store.folder, chdb, service="one") == 3
    ours = {
        "bundles": "SELECT bundle, count(*), count(*) FILTER (status NOT IN ('ok', 'refused')),"
        " quantile_disc(seconds, .5), quantile_disc(seconds, .95), sum(cost) FROM traces GROUP BY 1 ORDER BY 1",
        "steps": "SELECT kind, name, count(*), count(error_kind), avg(seconds) FROM spans GROUP BY 1, 2 ORDER BY 1, 2",
        "ratings": "SELECT bundle, f.name, count(*), avg(value) FROM feedback f JOIN traces t ON t.id = f.trace"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        "judgements": "SELECT judge, version, count(*), sum(invalid), avg(score) FROM judgements GROUP BY 1, 2",
        "newest": "SELECT id, strftime(began::timestamp, '%Y-%m-%d %H:%M:%S.')"
        " || lpad((epoch_ns(began) % 1000000000)::text, 9, '0'),"
        " seconds, status, bundle, caller, user, tokens_in + tokens_out, cost FROM traces"
        " ORDER BY id DESC LIMIT 50",
    }
    assert set(ours) == set(QUERIES)
    for name, sql in QUERIES.items():
        expected = [list(row) for row in query(store.folder, ours[name]).rows]
        assert expected, name
        for row, other in zip(rows(chdb, sql), expected, strict=True):
            assert row == [pytest.approx(value) if isinstance(value, float) else value for value in other]
    decision = rows(
        chdb,
        "SELECT candidates[1].propensity, candidates[2].score, propensity FROM spans WHERE kind = 'model'",
    )
    assert decision[0] == [0.75, None, 0.75]
    assert rows(chdb, "SELECT verdicts[1].reason FROM judgements") == [["it's \\ no reply"]]
    assert rows(chdb, "SELECT assignments[1].arm, labels['skill'] FROM traces LIMIT 1") == [
        ["short", "recipes"]
    ]


@needs_chdb
@pytest.mark.slow
async def test_a_shipping_killed_at_any_statement_counts_nothing_twice(
    store: TraceStore, chdb: Execute
) -> None:
    await prepare(store)
    create_tables(chdb)
    wanted = {
        table: sum(one.rows[table] for one in read_manifest(store.folder).segments)
        for table in ("traces", "spans", "feedback", "withdrawals", "judgements")
    }
    for failing in (2, 3, 4, 5, 9, 12, 99):
        service, left = f"service-{failing}", failing

        def flaky(sql: str, data: bytes, lost: int = failing % 2) -> bytes:
            nonlocal left
            if left == 0:
                if lost:  # it arrives, and its answer does not
                    chdb(sql, data)
                left = -1
                raise Down("killed here", where="test")
            left -= 1
            return chdb(sql, data)

        try:
            ship(store.folder, flaky, service=service)
        except Down:
            ship(store.folder, chdb, service=service)
        assert (left >= 0) == (failing == 99)
        for table, count in wanted.items():
            counted = rows(
                chdb, f"SELECT count(), uniqExact(sequence, id) FROM {table} WHERE service = '{service}'"
            )
            assert counted == [[count, count]], (failing, table)
    assert ship(store.folder, chdb, service="service-99") == 0
    assert ship(store.folder, chdb, service="another") == 3  # a second service, with the same numbers
    assert rows(chdb, "SELECT count() FROM traces") == [[wanted["traces"] * 8]]


@needs_chdb
async def test_an_erased_user_is_erased_there_with_the_next_shipping(
    store: TraceStore, chdb: Execute
) -> None:
    await prepare(store)
    create_tables(chdb)
    ship(store.folder, chdb, service="one")
    await store.erase("user 2")
    seal(store.folder, age=-60, frames=WIDTH)
    assert ship(store.folder, chdb, service="one") == 3
    assert rows(chdb, "SELECT count() FROM traces WHERE user = 'user 2'") == [[0]]
    left = query(store.folder, "SELECT count(*) FROM spans WHERE sequence <= 48").rows[0][0]
    assert rows(chdb, "SELECT count() FROM spans") == [[left]]


# -- a store that is down ---------------------------------------------------------------------------------------------


class Scripted:
    """A store that keeps the numbers of the segments it was sent, and that can be down."""

    def __init__(self) -> None:
        self.down = False
        self.arrived: dict[int, str] = {}
        self.rows: list[tuple[str, int]] = []
        self.calls = 0

    def __call__(self, sql: str, data: bytes) -> bytes:
        self.calls += 1
        if self.down:
            raise Down("not there", where="test")
        if sql.startswith("SELECT first, digest"):
            return json.dumps({"data": [[str(first), one] for first, one in self.arrived.items()]}).encode()
        if sql.startswith("SELECT count()"):
            return b'{"data": [["0"]]}'
        if match := re.match(r"INSERT INTO segments VALUES \('one', (\d+), \d+, '(\w+)'\)", sql):
            assert int(match[1]) not in self.arrived
            self.arrived[int(match[1])] = match[2]
        elif match := re.match(r"INSERT INTO (\w+) SELECT", sql):
            assert data[:4] == data[-4:] == b"PAR1"
            self.rows.append((match[1], len(data)))
        return b""


async def test_an_outage_delays_with_growing_pauses_and_drops_nothing(store: TraceStore) -> None:
    now, server = 0.0, Scripted()
    delivery = Delivery(store.folder, server, "one", clock=lambda: now)
    tries = []
    for _ in range(7200):  # two hours, the first one down
        server.down = now < 3600
        if now % 600 == 0:
            await fill(store, WIDTH)
            seal(store.folder, age=-60, frames=WIDTH)
        calls = server.calls
        delivery.step()
        if server.calls > calls and server.down:
            tries.append(now)
        now += 1
    assert tries[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert max(b - a for a, b in itertools.pairwise(tries)) == 60
    assert list(server.arrived) == [1 + WIDTH * n for n in range(12)]
    assert list(server.arrived.values()) == [one.digest for one in read_manifest(store.folder).segments]
    assert (delivery.shipped, delivery.failures, delivery.error) == (12, 0, None)
    assert len(server.rows) == 24  # traces and spans, each once


@pytest.mark.slow
async def test_seven_seconds_without_a_server(store: TraceStore) -> None:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            parts = parse_qs(urlsplit(self.path).query)
            assert self.headers["Authorization"] == "Basic " + base64.b64encode(b"ann:secret").decode()
            assert parts["database"] == ["noria"]
            answer = script(parts["query"][0], self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False) as server:
        server.server_bind()
        port = server.server_port
        delivery = Delivery(
            store.folder, over_http(f"http://ann@127.0.0.1:{port}/noria", password="secret"), "one", longest=2
        )
        began = time.monotonic()
        sealed = 0
        while time.monotonic() - began < 7:  # acknowledged all the while
            await fill(store, WIDTH)
            sealed += seal(store.folder, age=-60, frames=WIDTH).sealed
            assert delivery.step() == 0
            time.sleep(0.5)
        assert delivery.failures > 2
        assert "cannot be reached" in str(delivery.error)
        server.server_activate()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            while delivery.failures:
                delivery.step()
                time.sleep(0.1)
        finally:
            server.shutdown()
            thread.join()
    assert (delivery.shipped, len(script.arrived)) == (sealed, sealed)
    assert list(script.arrived.values()) == [one.digest for one in read_manifest(store.folder).segments]


def test_addresses_and_names_that_are_none_are_refused(tmp_path: Path) -> None:
    for url in ("tcp://host:9000", "localhost:8123", "http://", "http://host:port"):
        with pytest.raises(ConfigError, match="no address"):
            over_http(url)
    with pytest.raises(ConfigError, match="no name"):
        ship(tmp_path, Scripted(), service="x' OR 1")
    with pytest.raises(RunError, match="cannot be reached"):
        over_http("http://127.0.0.1:1", seconds=2)("SELECT 1", b"")


async def test_an_answer_that_is_none_delays(store: TraceStore) -> None:
    await store.write(trace(store, 1))
    delivery = Delivery(store.folder, lambda sql, data: b"<html>", "one", clock=lambda: 0.0)
    assert delivery.step() == 0
    assert "cannot be read" in str(delivery.error)
