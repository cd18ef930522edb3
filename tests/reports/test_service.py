"""Reports over real HTTP: accepted, written, served, cancelled, and refused without the token."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from noria.core.service.hosting import running
from noria.core.service.serving import Service
from noria.reports.service.service import ReportService
from tests.reports.conftest import REQUEST, Corpus

TOKEN = "a-token-of-sixteen-letters"


def _call(url: str, body: Any = None, *, token: str = TOKEN, method: str | None = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"authorization": f"Bearer {token}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_request_over_http_becomes_a_report(corpus: Corpus, tmp_path: Path) -> None:
    reports = ReportService(corpus.index, tmp_path)
    with running(Service("reports", reports.routes(), token=TOKEN, around=reports.around)) as url:
        assert _call(f"{url}/v1/reports", {"request": REQUEST}, token="x" * 20)[0] in (401, 403)
        for wrong in ({}, {"request": ""}, {"request": "a", "seconds": 0}, {"request": "a", "more": 1}, []):
            assert _call(f"{url}/v1/reports", wrong)[0] == 400
        status, raw = _call(f"{url}/v1/reports", {"request": REQUEST})
        assert status == 202
        job = json.loads(raw)["id"]
        for _ in range(600):
            state = json.loads(_call(f"{url}/v1/jobs/{job}")[1])["state"]
            if state not in ("queued", "running"):
                break
            time.sleep(0.05)
        assert state == "done"
        result = json.loads(_call(f"{url}/v1/jobs/{job}/result")[1])
        assert (result["figures"], result["findings"], result["stopped"]) == (3, 0, "")
        assert b"Unemployment rate" in _call(f"{url}/v1/reports/{job}/report.html")[1]
        assert _call(f"{url}/v1/reports/{job}/..%2f..%2fetc")[0] == 404
        assert _call(f"{url}/v1/jobs/{job}", method="DELETE")[0] == 200
        assert _call(f"{url}/v1/jobs/{job}")[0] == 404
