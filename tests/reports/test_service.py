"""Reports over real HTTP: planned, written within the operator's settings, asked, refreshed, served, cancelled."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from noria.core.errors import ConfigError, DataError
from noria.core.service.hosting import running
from noria.core.service.serving import Service
from noria.reports.agents.pipeline import Job
from noria.reports.search.index import Index, build_index
from noria.reports.service.config import ServeConfig
from noria.reports.service.narrowing import narrowed
from noria.reports.service.service import ReportService
from tests.chat_server import Reply, chat_server
from tests.reports.conftest import REQUEST, Corpus, lands

TOKEN = "a-token-of-sixteen-letters"


def _call(url: str, body: Any = None, *, token: str = TOKEN, method: str | None = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@contextlib.contextmanager
def _serving(folder: Path, **settings: Any) -> Iterator[str]:
    reports = ReportService(ServeConfig(**settings), folder)
    with running(Service("reports", reports.routes(), token=TOKEN, around=reports.running)) as url:
        yield url


def _done(url: str, status: int, raw: bytes) -> tuple[str, dict[str, Any]]:
    """Id and result of a job that was accepted, once it is done."""
    assert status == 202, raw
    job = json.loads(raw)["id"]
    for _ in range(600):
        state = json.loads(_call(f"{url}/v1/jobs/{job}")[1])
        if state["state"] not in ("queued", "running"):
            break
        time.sleep(0.05)
    assert state["state"] == "done", state["message"]
    return job, json.loads(_call(f"{url}/v1/jobs/{job}/result")[1])


def test_a_request_over_http_becomes_a_report(corpus: Corpus, tmp_path: Path) -> None:
    with _serving(tmp_path, index=corpus.index) as url:
        assert _call(f"{url}/v1/reports", {"request": REQUEST}, token="x" * 20)[0] in (401, 403)
        for wrong in ({}, {"request": ""}, {"request": "a", "seconds": 0}, {"request": "a", "more": 1}, []):
            assert _call(f"{url}/v1/reports", wrong)[0] == 400
        job, result = _done(url, *_call(f"{url}/v1/reports", {"request": REQUEST}))
        assert (result["figures"], result["findings"], result["stopped"]) == (3, 0, "")
        assert b"Unemployment rate" in _call(f"{url}/v1/reports/{job}/report.html")[1]
        assert _call(f"{url}/v1/reports/{job}/report.pdf")[1].startswith(b"%PDF")
        assert _call(f"{url}/v1/reports/{job}/report.docx")[1].startswith(b"PK")
        assert _call(f"{url}/v1/reports/{job}/..%2f..%2fetc")[0] == 404
        assert _call(f"{url}/v1/reports/{job}/changes.json")[0] == 404

        asked = f"{url}/v1/reports/{job}/questions"
        status, raw = _call(asked, {"question": "What was the unemployment rate of Japan in 2024?"})
        answer = json.loads(raw)
        assert status == 200
        assert "2.6" in answer["sentences"][0]["text"]
        cited = {one["number"] for one in answer["references"]}
        assert cited == {n for one in answer["sentences"] for n in one["references"]}
        assert json.loads(_call(asked, {"question": "Who won the chess Olympiad?"})[1])["sentences"] == []
        for wrong in ({"question": ""}, {"question": "a", "number": 0}, {"question": "a", "index": "/etc"}):
            assert _call(asked, wrong)[0] == 400

        assert _call(f"{url}/v1/jobs/{job}", method="DELETE")[0] == 200
        assert _call(f"{url}/v1/jobs/{job}")[0] == 404
        assert _call(asked, {"question": "a"})[0] == 404


def test_files_of_a_job_are_given_to_its_caller_and_to_an_operator_alone(
    corpus: Corpus, tmp_path: Path
) -> None:
    with _serving(tmp_path, index=corpus.index, charts=False, images=False) as url:
        job, _ = _done(url, *_call(f"{url}/v1/reports", {"request": REQUEST}))
        for file in ("report.md", "report.bib"):
            assert _call(f"{url}/v1/reports/{job}/{file}")[0] == 200
            assert _call(f"{url}/v1/reports/{job}/{file}", token="")[0] == 404
    state = tmp_path / "jobs" / f"{job}.json"
    for caller, status in (("another", 404), ("local", 200)):  # on this machine, who has no token is "local"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"caller": caller}))
        with _serving(tmp_path, index=corpus.index) as url:
            assert _call(f"{url}/v1/reports/{job}/report.md", token="")[0] == status
            assert _call(f"{url}/v1/reports/{job}/report.md")[0] == 200


def test_a_plan_costs_nothing_and_is_kept_as_it_was_edited(corpus: Corpus, tmp_path: Path) -> None:
    with _serving(tmp_path, index=corpus.index, images=False) as url:
        status, raw = _call(f"{url}/v1/reports/plan", {"request": REQUEST, "language": "en"})
        plan, cost = (json.loads(raw)[name] for name in ("plan", "estimate"))
        assert status == 200
        assert (cost["requests"], cost["cost"]) == (0, 0)
        assert not list((tmp_path / "reports").glob("*"))
        plan["title"] = "Work and pay"
        for section in plan["sections"]:
            section["visuals"] = [one for one in section["visuals"] if one["chart"] == "bar"]
        assert _call(f"{url}/v1/reports", {"request": REQUEST, "plan": {"title": 1}})[0] == 400
        _, result = _done(url, *_call(f"{url}/v1/reports", {"request": REQUEST, "plan": plan}))
        assert (result["title"], result["figures"], result["findings"]) == ("Work and pay", 1, 0)


def test_a_refresh_over_a_newer_corpus_lists_the_numbers_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "lands.index"
    build_index(path, lands(), retrieved="2026-01-02")
    with _serving(tmp_path / "runs", index=path) as url:
        wanted = {"request": "Compare the unemployment rate of France and Japan.", "charts": False}
        job, before = _done(url, *_call(f"{url}/v1/reports", wanted))
        newer = lands()
        newer[0].pieces[0] = replace(newer[0].pieces[0], text="9.9% (2024 est.)")
        newer[0].origin = b"newer"
        path.unlink()
        build_index(path, newer, retrieved="2026-02-02")
        again, after = _done(url, *_call(f"{url}/v1/reports/{job}/refresh", {"seconds": 60}))
        changes = json.loads(_call(f"{url}/v1/reports/{again}/changes.json")[1])
        assert after["changes"] == len(changes) > 0
        assert ("7.4", "9.9") in {(row["before"].rstrip("%"), row["after"].rstrip("%")) for row in changes}
        assert after["report"] != before["report"]
        assert after["figures"] == 0  # the settings of the first request hold for the second
        assert _call(f"{url}/v1/reports/{job}/refresh", {"request": "another"})[0] == 400


def test_the_budget_of_a_report_holds_for_questions_too(corpus: Corpus, tmp_path: Path) -> None:
    with (
        chat_server(lambda body, number: Reply("{}")) as double,
        _serving(tmp_path, index=corpus.index, url=double.url, model="m", prices="1,1", budget=1e-6) as url,
    ):
        body = {"request": "The unemployment rate of France.", "charts": False, "images": False}
        cost = json.loads(_call(f"{url}/v1/reports/plan", body)[1])["estimate"]
        assert cost["requests"] >= 1
        assert cost["most"] >= cost["cost"] > 1e-6
        assert _call(f"{url}/v1/reports", body | {"budget": 1})[0] == 400
        job, result = _done(url, *_call(f"{url}/v1/reports", body))
        assert "budget" in result["stopped"]
        status, raw = _call(f"{url}/v1/reports/{job}/questions", {"question": "Unemployment rate of France?"})
        # A report without a finished section has no evidence to ask a model about.
        assert (status, json.loads(raw).get("sentences")) in ((429, None), (200, []))
        assert double.seen == []


@pytest.mark.parametrize(
    ("settings", "asked", "names"),
    [
        ({}, {"secnods": 5}, "seconds"),
        ({"seconds": 60}, {"seconds": 61}, "at most 60"),
        ({}, {"seconds": True}, "seconds"),
        ({}, {"pages": "many"}, "pages"),
        ({"pages": 5}, {"pages": 6}, "at most 5"),
        ({"charts": False}, {"charts": True}, "charts"),
        ({"language": "en"}, {"language": "zh"}, "language"),
        ({}, {"language": "fr"}, "language"),
        ({"only": ("example.org",)}, {"only": ["example.org", "example.com"]}, "example.com"),
        ({"until": "2024-05"}, {"until": "2024"}, "up to 2024-05"),
        ({"since": "2020"}, {"since": "2019-12-31"}, "from 2020 on"),
        ({}, {"budget": 1.0}, "budget"),
        ({}, {"never": ["a"] * 101}, "never"),
        ({}, {"only": None}, "only"),
    ],
)
def test_a_request_does_not_widen_what_the_operator_allows(
    settings: dict[str, Any], asked: dict[str, Any], names: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=names):
        narrowed(ServeConfig(**settings), asked)


def test_a_request_narrows_what_the_operator_allows() -> None:
    ours = ServeConfig(
        seconds=60,
        only=("example.org",),
        never=("old.example.org",),
        until="2024",
        address=("https://example.org/a", "https://example.com/b"),
    )
    asked = {
        "seconds": 5,
        "only": ["news.example.org"],
        "never": ["x.org"],
        "until": "2023-05",
        "images": False,
    }
    config = narrowed(ours, asked)
    assert (config.seconds, config.images, config.until) == (5, False, "2023-05")
    assert config.only == ("news.example.org",)
    assert config.never == ("old.example.org", "x.org")
    assert config.address == ()
    assert narrowed(ours, {"never": ["example.com"]}).address == ("https://example.org/a",)
    assert narrowed(ours, {}) == ours


def test_what_is_wrong_for_every_report_is_said_before_the_service_listens(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.index"
    damaged.write_bytes(b"nothing")
    for settings in ({}, {"index": damaged}, {"model": "m"}, {"css": tmp_path / "none.css"}):
        with pytest.raises((ConfigError, DataError)):
            ReportService(ServeConfig(**settings), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_progress_names_the_sections(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[tuple[float, str]] = []
    with Index(corpus.index) as index:
        job = Job(tmp_path, index, watch=lambda share, what: seen.append((share, what)))
        report = job.write(REQUEST).report
    shares = [share for share, _ in seen]
    assert shares == sorted(set(shares))
    assert shares[-1] < 1
    assert [what for _, what in seen][2:-1] == [f"writing {s.title!r}" for s in report.sections[1:-1]]
