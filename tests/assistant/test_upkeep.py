"""Beside the gateway its traces are sealed and shipped: a store that is down is told of once, and loses nothing."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from noria.assistant.companion import upkeep
from noria.assistant.companion.upkeep import Upkeep
from noria.assistant.config.clickhouse import ClickHouseConfig
from noria.core.errors import ConfigError
from noria.core.traces.index.listing import newest_traces
from noria.core.traces.segments import read_manifest
from noria.core.traces.store import TraceStore
from tests.core.test_segments import WIDTH, fill

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class ClickHouse:
    """A scripted server: it keeps which segments arrived, and can be down."""

    def __init__(self) -> None:
        self.arrived: dict[int, str] = {}
        self.down = False

    def __call__(self, sql: str) -> bytes:
        if sql.startswith("SELECT first, digest"):
            return json.dumps({"data": [[first, one] for first, one in self.arrived.items()]}).encode()
        if sql.startswith("SELECT count()"):
            return b'{"data": [[0]]}'
        if match := re.match(r"DELETE FROM segments WHERE service = 'shop' AND first = (\d+)", sql):
            self.arrived.pop(int(match[1]), None)
        if match := re.match(r"INSERT INTO segments VALUES \('shop', (\d+), \d+, '(\w+)'\)", sql):
            self.arrived[int(match[1])] = match[2]
        return b""


@pytest.fixture
def clickhouse() -> Iterator[tuple[ClickHouse, str]]:
    script = ClickHouse()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = script(parse_qs(urlsplit(self.path).query)["query"][0])
            self.send_response(503 if script.down else 200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield script, f"http://127.0.0.1:{server.server_port}/noria"
        server.shutdown()
        thread.join()


async def test_sealed_traces_arrive_once_also_after_an_outage_and_an_erasure(
    tmp_path: Path, clickhouse: tuple[ClickHouse, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, url = clickhouse
    monkeypatch.setattr(upkeep, "EVERY", 0.0)
    told: list[tuple[str, dict[str, Any]]] = []
    store = TraceStore(tmp_path)
    await fill(store, 2 * WIDTH + 3)
    one = Upkeep(
        tmp_path, ClickHouseConfig(url=url, service="shop"),
        lambda what, **fields: told.append((what, fields)), frames=WIDTH, age=-60.0,
    )  # fmt: skip
    assert one.delivery is not None
    script.down = True
    one.step()
    one.delivery.next = 0.0  # the pause after a failure is over
    one.step()
    assert [what for what, _ in told] == ["store down"]
    assert "refuses (503)" in told[0][1]["error"]
    assert len(read_manifest(tmp_path).segments) == 2
    script.down = False
    one.delivery.next = 0.0
    one.step()
    assert told[1:] == [("store back", {"shipped": 2})]
    assert script.arrived == {s.first: s.digest for s in read_manifest(tmp_path).segments}
    before = dict(script.arrived)
    store.index.follow(tmp_path)
    user = next(row.user for row in newest_traces(store.index, limit=100) if row.user)
    await store.erase(user)
    one.step()
    after = {s.first: s.digest for s in read_manifest(tmp_path).segments}
    assert script.arrived == after != before
    store.close()


async def test_what_is_not_due_does_nothing_and_a_missing_password_is_said(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    one = Upkeep(tmp_path, None, lambda what, **fields: None, frames=WIDTH, age=-60.0)
    one.step()
    await fill(store, WIDTH)
    one.step()
    assert read_manifest(tmp_path).segments == (), "the next sealing comes later"
    store.close()
    config = ClickHouseConfig(url="http://127.0.0.1:9", password_env="NO_SUCH_PASSWORD")
    with pytest.raises(ConfigError, match="NO_SUCH_PASSWORD"):
        Upkeep(tmp_path, config, lambda what, **fields: None)
