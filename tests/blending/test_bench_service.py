"""The benchmark of the service compares what it says: the same list from both sides, and what was lost is counted."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

pytest.importorskip("fastapi")

from noria.blending.proof import bench_service
from noria.blending.proof.bench_service import service_rows
from noria.core.service.hosting import running
from noria.core.service.serving import HttpError, Request, Response, Service, json_response, route


def test_both_services_rank_alike_and_every_row_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run: figures of a busy machine are not judged here."""
    monkeypatch.setattr(bench_service, "RATE", 60.0)
    monkeypatch.setattr(bench_service, "SECONDS", 0.3)
    rows = service_rows(1)
    units = ["requests/s", "ms/request", "requests/s", "ms/request", "ms", "%", "ms", "%"]
    assert [row.unit for row in rows] == units
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)
    assert rows[0].ratio > 1.5
    assert rows[5].ours == rows[7].ours == 100


def test_the_open_loop_counts_what_is_lost_and_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_service, "RATE", 100.0)
    monkeypatch.setattr(bench_service, "SECONDS", 0.5)
    monkeypatch.setattr(bench_service, "LATE", 0.3)
    seen = iter(range(10**6))

    async def rank(request: Request) -> Response:
        number = next(seen)
        if number % 10 == 0:
            raise HttpError(503, "busy", "busy")
        if number % 10 == 1:
            await asyncio.sleep(0.5)
        return json_response(b"{}")

    class Server:
        url = ""

    with running(Service("tests", [route("/rank", rank, methods=["POST"])], access_log=False)) as url:
        Server.url = url
        found = asyncio.run(bench_service._open_loop(Server(), b"{}"))  # type: ignore[arg-type]
    assert found.answered == pytest.approx(80)
    assert found.p99 == pytest.approx(300), "what is not answered in time counts as late"


def test_the_two_bodies_hold_the_same_candidates() -> None:
    given = bench_service._candidates(np.random.default_rng(1))
    rows = json.loads(bench_service._as_rows(given))
    columns = json.loads(bench_service._as_columns(given))["columns"]
    assert [item["id"] for item in rows["items"]] == columns["item"]
    names = columns["topic"]["names"]
    assert [item["fields"]["topic"] for item in rows["items"]] == [
        names[c] for c in columns["topic"]["codes"]
    ]
