"""While a tool works, a stream and the page say which one it is and how far."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.assistant.gateways import TOKEN, gateway
from tests.assistant.pages import page_gateway
from tests.assistant.test_page import Person
from tests.assistant.test_tools import one_call
from tests.chat_server import Body, Reply, serving
from tests.waiting import until

REPORT = "<!doctype html><title>Lamps</title><p>All about lamps.</p>"


class Reports:
    """A server of reports whose one job is as far as the test says, and ends when it says so."""

    def __init__(self, state: str = "done") -> None:
        self.share, self.end, self.state = 0.25, threading.Event(), state

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        if request.method == "POST":
            return JSONResponse({"id": "job-1", "state": "queued"}, status_code=202)
        if path.endswith("report.html"):
            return Response(REPORT, media_type="text/html")
        if path.endswith("report.md"):
            return PlainTextResponse("All about lamps.", media_type="text/markdown")
        if path.endswith("result"):
            return JSONResponse({"title": "Lamps", "figures": 1, "sources": 2})
        running = not self.end.is_set()
        return JSONResponse({"state": "running" if running else self.state, "progress": self.share})

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST", "DELETE"])])


def model(body: Body, number: int) -> Reply:
    reply = one_call(body, number)
    if reply.body is not None:
        reply.body = reply.body.replace(b'{\\"prompt\\": \\"make it red\\"}', b'{\\"request\\": \\"lamps\\"}')
    return reply


@pytest.fixture(name="reports")
def _reports() -> Reports:
    return Reports()


def tools(url: str) -> dict[str, Any]:
    return {"tools": {"write": {"kind": "report", "url": f"{url}/v1"}}}


def test_the_openai_sdk_reads_a_stream_that_tells_how_far_a_tool_is(tmp_path: Path, reports: Reports) -> None:
    with serving(reports.app) as url, gateway(tmp_path / "data", model, parts=tools(url)) as one:
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key=TOKEN)
        stream = client.chat.completions.create(
            model="noria", messages=[{"role": "user", "content": "a report on lamps"}], stream=True
        )
        told, words, finish = [], "", None
        for chunk in stream:
            (choice,) = chunk.choices
            words += choice.delta.content or ""
            finish = choice.finish_reason or finish
            if extra := (chunk.model_extra or {}).get("noria"):
                told.append(extra["tool"])
                assert not words, "nothing is said before the tools have ended"
                if extra["tool"].get("share") == 0.25:
                    reports.share = 0.5
                elif extra["tool"].get("share") == 0.5:
                    reports.end.set()
        assert told == [
            {"name": "write", "state": "called"},
            {"name": "write", "state": "working", "share": 0.25},
            {"name": "write", "state": "working", "share": 0.5},
            {"name": "write", "state": "done"},
        ]
        assert "All about lamps." in words
        assert finish == "stop"


def test_an_answer_that_fails_after_its_tools_ends_its_stream_with_an_error(
    tmp_path: Path, reports: Reports
) -> None:
    def broken(body: Body, number: int) -> Reply:
        return Reply(status=400) if body["messages"][-1]["role"] == "tool" else model(body, number)

    reports.end.set()
    with serving(reports.app) as url, gateway(tmp_path / "data", broken, parts=tools(url)) as one:
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key=TOKEN, max_retries=0)
        ask: dict[str, Any] = {
            "model": "noria",
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
        }
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(**ask))


def test_who_leaves_a_stream_ends_the_work_of_its_tool(tmp_path: Path, reports: Reports) -> None:
    cancelled = threading.Event()

    async def app(request: Request) -> Response:
        if request.method == "DELETE":
            cancelled.set()
        return await reports.answer(request)

    routes = [Route("/{path:path}", app, methods=["GET", "POST", "DELETE"])]
    with serving(Starlette(routes=routes)) as url, gateway(tmp_path / "data", model, parts=tools(url)) as one:
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key=TOKEN)
        stream = client.chat.completions.create(
            model="noria", messages=[{"role": "user", "content": "a report"}], stream=True
        )
        for chunk in stream:
            if "share" in (chunk.model_extra or {}).get("noria", {}).get("tool", {}):
                break
        stream.close()
        until(cancelled.is_set)


def test_a_page_without_a_script_says_which_tool_works_and_how_far(tmp_path: Path, reports: Reports) -> None:
    with (
        serving(reports.app) as url,
        page_gateway(tmp_path / "data", model, parts=tools(url), page={"on": True}) as (one, _),
    ):
        ann = Person(one.url)
        ann.visit()
        fields = ann.fields(f"{ann.base}/send") | {"message": "a report on lamps"}
        status, _, headers = ann.post("/send", fields)
        assert status == 303
        where = headers["location"].partition("#")[0]
        page = until(lambda: "<progress" in ann.visit(where) and ann.page)
        assert "Writing your report" in page
        assert re.search(r'<progress value="25" max="100" aria-label="How far it is">25 %</progress>', page)
        assert '<noscript><meta http-equiv="refresh"' in page, "it looks again by itself"
        reports.end.set()
        until(lambda: "Wrote a report" in ann.visit(where))
        assert "<progress" not in ann.page
