"""What no honest client sends, to every endpoint of the service: refused with a line, and nothing is left behind."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pytest

from noria.blending import Snapshot
from noria.blending.service.config import NearlineConfig, ServeConfig
from noria.blending.service.console import console
from noria.blending.service.process import open_feed
from noria.blending.service.wire.requests import ARROW
from noria.blending.snapshot import _canonical
from noria.core.errors import DataError
from noria.core.service.hosting import running
from tests.blending.feeds import BEARER, PLANS, TOKEN, arrow, as_columns, columns, rows, saved, snapshot
from tests.hostile_bodies import LITERALS, hostile_bodies

GIVEN = columns(3)
ROWS: dict[str, Any] = json.loads(rows(GIVEN, id="r1", user="u", timestamp="1700000000000", size=2, shown=1))
COLUMNS: dict[str, Any] = json.loads(as_columns(GIVEN, size=2, user=3, fields=[{"name": "q", "value": 1}]))
BODIES: dict[str, list[Any]] = {
    "/rank": [ROWS | {"fields": {"age": 3}}, COLUMNS],
    "/impressions": [{"request": "r", "items": ["a", 1], "timestamp": 3}, [{"request": "r", "items": ["a"]}]],
    "/outcomes": [
        {"request": "r", "item": "a", "watch": 1.5, "duration": 3, "gain": 1, "timestamp": "17"},
        [{"request": 1, "item": 2}],
    ],
    "/switches": [{"on": True, "plan": "live"}],
    "/rollback": [{"version": 1}],
    "/snapshots": [snapshot().to_json()],
    "/plans?dry=true": [{"plans": PLANS["plans"][:1], "guards": PLANS["guards"]}],
    "/plans": [{"plans": [{"id": "live", "when": "age < 10", "bias": 0.1}]}],
}


@pytest.fixture
def line(tmp_path: Path) -> Iterator[http.client.HTTPConnection]:
    config = ServeConfig(control=0.0, sample=1.0, nearline=NearlineConfig(on=False))
    with (
        open_feed(saved(tmp_path), tmp_path / "state", config) as feed,
        running(feed.service(token=TOKEN, access_log=False, more=console(feed))) as url,
    ):
        yield http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)


def status(
    line: http.client.HTTPConnection, path: str, body: bytes | None, media_type: str = "application/json"
) -> int:
    method = "GET" if body is None else "POST"
    line.request(method, path, body, BEARER | {"content-type": media_type})
    answer = line.getresponse()
    answer.read()
    return answer.status


@pytest.mark.parametrize("path", list(BODIES))
def test_json(line: http.client.HTTPConnection, path: str) -> None:
    for body in BODIES[path]:
        for sent in hostile_bodies(body):
            got = status(line, path, sent)
            assert got in (200, 400, 401, 404, 413), (got, sent[:500])
    assert status(line, "/rank", json.dumps(ROWS).encode()) == 200


def test_snapshots_that_are_whole_and_hostile(line: http.client.HTTPConnection) -> None:
    """With a digest that is right, only what the values are can refuse them; what is taken must rank."""
    for sent in hostile_bodies(snapshot().to_json()):
        got = status(line, "/snapshots", signed(sent))
        assert got in (200, 400), (got, sent[:500])
        if got == 200:
            for path in ("/rank", "/snapshot", "/status", "/"):
                body = json.dumps(ROWS).encode() if path == "/rank" else None
                assert status(line, path, body) == 200, (path, sent[:500])


def signed(body: bytes) -> bytes:
    """A snapshot with the digest of its content, where it is one."""
    try:
        values = json.loads(body)
        values.pop("digest", None)
        values["digest"] = hashlib.sha256(_canonical(values).encode()).hexdigest()
        return json.dumps(values).encode()
    except (DataError, ValueError, TypeError, AttributeError, RecursionError, KeyError):
        return body


@pytest.mark.parametrize("field", ["version", "created", "mean_value"])
@pytest.mark.parametrize("number", ["9" * 400, "1e999", "NaN"])
def test_a_snapshots_file_with_such_a_number_is_a_line(tmp_path: Path, field: str, number: str) -> None:
    path = saved(tmp_path)
    values = json.loads(path.read_text())
    (values["alignment"] if field == "mean_value" else values)[field] = "here"
    path.write_text(json.dumps(values).replace('"here"', number))
    with pytest.raises(DataError, match=r"snapshot|alignment"):
        Snapshot.load(path)


def test_arrow(line: http.client.HTTPConnection) -> None:
    whole, chance = arrow(columns(5), size=2, id="a", shown=1), random.Random(0)
    for _ in range(400):
        body = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            body[chance.randrange(len(body))] = chance.choice((0, 255, 1, 127, chance.randrange(256)))
        sent = bytes(body[: chance.randrange(len(body))] if chance.random() < 0.2 else body)
        assert status(line, "/rank", sent, ARROW) in (200, 400)
    table = pa.ipc.open_stream(whole).read_all()
    for literal in LITERALS:
        sink = pa.BufferOutputStream()
        odd = table.replace_schema_metadata({"request": literal})
        with pa.ipc.new_stream(sink, odd.schema) as writer:
            writer.write_table(odd)
        assert status(line, "/rank", sink.getvalue().to_pybytes(), ARROW) in (200, 400)


def test_paths_and_queries(line: http.client.HTTPConnection) -> None:
    odd = ["", "1e999", "nan", "9" * 400, "\0", "%", "\xff", "[]", "1_0", "٣", "x" * 3000, "../..", "a b"]
    texts = [quote(text, safe="") for text in odd] + ["%ed%a0%80", "%ff", "%"]
    for text in texts:
        for path in (
            f"/what-if?plan={text}&weight={text}",
            f"/what-if?plan=live&weight={text}&on={text}",
            f"/console/what-if?plan=live&bias={text}",
            f"/requests/{text}",
            f"/console/requests/{text}",
            f"/{text}",
        ):
            assert status(line, path, None) in (200, 400, 404), path
        assert status(line, f"/rank/{text}", json.dumps(ROWS).encode()) in (200, 400, 404), text
