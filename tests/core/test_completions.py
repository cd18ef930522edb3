"""The server's side of the protocol: completions, images and jobs, over real sockets where there is a wire."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image as Picture

from noria.core.chat import Answer, Failure, Image, Refusal, Text, ToolCall, Usage
from noria.core.chat.replies import StreamedReply, read_reply
from noria.core.chat.settings import Prices
from noria.core.completions.answers import ChunkWriter, completion, failure_error
from noria.core.completions.images import ImageRequest, images_answer, read_edit, read_generation
from noria.core.completions.jobs import Jobs, Progress, accepted, in_thread
from noria.core.completions.requests import read_completion
from noria.core.errors import DataError, RunError
from noria.core.service.hosting import running
from noria.core.service.mcp import McpTool, mcp_route
from noria.core.service.responses import HttpError
from noria.core.service.serving import Request, Response, Service, json_response, route


def png(size: tuple[int, int] = (4, 3)) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


CALL = ToolCall("call_1", "search", '{"text": "boats"}')
ANSWERS = [
    Answer("hello", "stop", Usage(3, 2), model="m"),
    Answer("", "tool_calls", Usage(3, 2), model="m", tool_calls=(CALL,)),
    Answer("Here.", "stop", model="m", parts=(Image(png()),), reasoning="They want a picture."),
    Refusal("I will not.", model="m"),
]


# -- completions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ANSWERS, ids=["text", "call", "image", "refusal"])
def test_what_is_written_is_what_a_client_reads(answer: Answer | Refusal) -> None:
    whole = json.loads(json.dumps(completion("m", answer, number="7")))
    assert whole["id"] == "7"
    assert read_reply(whole, Prices()) == answer
    openai.types.chat.ChatCompletion.model_validate(whole)


def test_events_add_up_to_the_answer() -> None:
    for answer in ANSWERS:
        writer, reader = ChunkWriter("m", "7"), StreamedReply()
        events = [writer.chunk({"role": "assistant", "content": ""})]
        if isinstance(answer, Answer):
            events += [writer.chunk({"content": piece}) for piece in answer.text]
        events += [writer.last(answer), writer.usage(answer.usage)]
        for event in events:
            assert event.startswith(b"data: ")
            content = json.loads(event[6:])
            openai.types.chat.ChatCompletionChunk.model_validate(content)
            reader.add(content)
        read = reader.outcome(Prices())
        if isinstance(answer, Answer):
            assert isinstance(read, Answer)
            assert (read.text, read.tool_calls, read.parts, read.usage) == (
                answer.text,
                answer.tool_calls,
                answer.parts,
                answer.usage,
            )
        else:
            assert read == answer


def body(**changes: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | changes).encode()


def test_a_request_is_read_once_and_typed_on_demand() -> None:
    picture = Image(png(), "low").wire()
    spec = {"type": "function", "function": {"name": "search", "parameters": {}}}
    query = read_completion(
        body(
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "what is it?"}, *picture]},
                {"role": "assistant", "content": None, "tool_calls": [CALL.wire()]},
                {"role": "tool", "tool_call_id": "call_1", "content": "a boat"},
            ],
            tools=[spec],
            tool_choice="auto",
            temperature=0.5,
            stop="END",
            stream=True,
            stream_options={"include_usage": True},
            top_k=5,
        )
    )
    assert (query.stream, query.include_usage, query.question, query.is_text) == (
        True,
        True,
        "what is it?",
        False,
    )
    assert query.chosen == {"tools", "tool_choice", "temperature", "stop", "top_k"}
    request = query.chat_request()
    assert request.messages[0].role == "system"
    assert request.messages[1].parts == (Text("what is it?"), Image(png(), "low"))
    assert request.messages[2].tool_calls == (CALL,)
    assert (request.tools, request.stop, request.extra) == ((spec,), ("END",), {"top_k": 5})


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"n": 2}, "n"),
        ({"model": 3}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 1e999}, None),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"tools": "search"}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": [""]}, "stop"),
    ],
    ids=range(14),
)
def test_what_is_no_request_is_refused_by_name(changes: dict[str, Any], param: str | None) -> None:
    with pytest.raises(HttpError) as caught:
        read_completion(body(**changes), features=("tools", "tool_choice"))
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_backends_words_stay_in_the_log() -> None:
    for failure in (
        Failure("auth", "key sk-123456789", 401),
        Failure("server", "db1 is down", 500),
        Failure("cut", "10.0.0.7 left"),
    ):
        error = failure_error(failure)
        assert error.status == 502
        assert failure.message not in error.message
    assert failure_error(Failure("rate_limit", "z", 429, wait=7.2)).headers == {"retry-after": "8"}
    assert failure_error(None).status == 503


# -- images and jobs over a socket ------------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    seen: list[ImageRequest] = []

    async def edit(request: Request) -> Response:
        seen.append(await read_edit(request))
        one = seen[-1]
        return json_response(images_answer([png()] * one.n, each=[{"revised_prompt": one.prompt}] * one.n))

    async def generate(request: Request) -> Response:
        one = await read_generation(request)
        return json_response(images_answer([png(one.size or (4, 3))] * one.n))

    async def start(request: Request) -> Response:
        wish = json.loads(await request.body())

        async def work(progress: Progress) -> Any:
            for step in range(wish["steps"]):
                progress(step / wish["steps"], f"step {step}")
                await asyncio.sleep(wish.get("seconds", 0.0))
            if "fault" in wish:
                raise DataError(wish["fault"], where="/srv/noria/data.jsonl")
            if "secret" in wish:
                raise RunError(wish["secret"], where="http://10.0.0.7:8001/v1")
            return {"steps": wish["steps"]}

        return accepted(jobs.submit("count", request.caller.name, work))

    jobs = Jobs(tmp_path / "jobs")

    @asynccontextmanager
    async def around(service: Service) -> AsyncIterator[None]:
        jobs.open()
        try:
            yield
        finally:
            await jobs.close()

    routes = [
        route("/v1/images/edits", edit, methods=("POST",), access="chat"),
        route("/v1/images/generations", generate, methods=("POST",), access="chat"),
        route("/start", start, methods=("POST",), access="chat"),
        *jobs.routes(),
    ]
    with running(Service("s", routes, around=around, access_log=False)) as url:
        yield url


def test_the_openai_client_edits_and_makes_images(url: str) -> None:
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    edited = client.images.edit(
        image=[("a.png", png(), "image/png"), ("b.png", png(), "image/png")],
        mask=("m.png", png(), "image/png"),
        prompt="make it blue",
        n=2,
        size="1024x1024",
    )
    assert edited.data is not None
    assert [base64.b64decode(one.b64_json or "") for one in edited.data] == [png(), png()]
    assert edited.data[0].revised_prompt == "make it blue"
    made = client.images.generate(prompt="a boat", size="256x256", extra_body={"seed": 7})
    assert made.data is not None
    assert Picture.open(io.BytesIO(base64.b64decode(made.data[0].b64_json or ""))).size == (256, 256)
    for bad in ({"n": 99}, {"size": "axb"}, {"prompt": ""}, {"response_format": "url"}):
        with pytest.raises(openai.BadRequestError):
            client.images.generate(**({"prompt": "x"} | bad))  # type: ignore[call-overload]
    with pytest.raises(openai.BadRequestError, match="PNG"):
        client.images.edit(image=("a.png", b"no picture", "image/png"), prompt="x")


def post(url: str, content: Any, *, method: str = "POST") -> tuple[int, Any]:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_an_edit_as_json_takes_files_and_no_addresses(url: str) -> None:
    data = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert post(url + "/v1/images/edits", {"prompt": "x", "image": data})[0] == 200
    assert post(url + "/v1/images/edits", {"prompt": "x", "images": [{"image_url": data}]})[0] == 200
    for image in ("http://169.254.169.254/x.png", "file:///etc/passwd", 7, {"url": None}):
        status, answer = post(url + "/v1/images/edits", {"prompt": "x", "image": image})
        assert (status, answer["error"]["code"]) == (400, "bad_image")
    assert post(url + "/v1/images/edits", {"prompt": "x"})[1]["error"]["code"] == "no_image"


def wait_for(url: str, number: str, *states: str) -> dict[str, Any]:
    for _ in range(500):
        job = post(f"{url}/v1/jobs/{number}", None, method="GET")[1]
        if job["state"] in states:
            return dict(job)
        time.sleep(0.01)
    raise AssertionError(job)


def test_a_job_is_accepted_tells_its_progress_and_has_a_result(url: str) -> None:
    status, job = post(url + "/start", {"steps": 3, "seconds": 0.05})
    assert status == 202
    first = post(f"{url}/v1/jobs/{job['id']}/result", None, method="GET")
    assert first[0] == 409
    assert wait_for(url, job["id"], "done")["progress"] == 1.0
    assert post(f"{url}/v1/jobs/{job['id']}/result", None, method="GET") == (200, {"steps": 3})
    assert post(url + "/v1/jobs", None, method="GET")[1]["data"][0]["id"] == job["id"]
    assert post(f"{url}/v1/jobs/{job['id']}", None, method="DELETE")[0] == 200
    assert post(f"{url}/v1/jobs/{job['id']}", None, method="GET")[0] == 404


def test_a_job_that_fails_says_why_and_one_that_is_cancelled_stops(url: str) -> None:
    number = post(url + "/start", {"steps": 1, "fault": "no such boat"})[1]["id"]
    assert wait_for(url, number, "failed")["message"] == "data.jsonl: no such boat"
    assert post(f"{url}/v1/jobs/{number}/result", None, method="GET")[0] == 410
    number = post(url + "/start", {"steps": 1, "secret": "postgres://admin:hunter2@db"})[1]["id"]
    message = "what it needs does not serve now; the service's log says why"
    assert wait_for(url, number, "failed")["message"] == message
    status, answer = post(f"{url}/v1/jobs/{number}/result", None, method="GET")
    assert (status, answer["error"]["message"]) == (410, message)
    long = post(url + "/start", {"steps": 1000, "seconds": 0.05})[1]["id"]
    behind = post(url + "/start", {"steps": 1})[1]["id"]
    wait_for(url, long, "running")
    assert post(f"{url}/v1/jobs/{behind}", None, method="GET")[1]["state"] == "queued"
    assert post(f"{url}/v1/jobs/{long}", None, method="DELETE")[1]["state"] == "cancelled"
    wait_for(url, behind, "done")


@pytest.mark.anyio
async def test_a_cancelled_job_keeps_its_place_until_its_thread_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs never compute at once with what there is one of, such as a model."""
    monkeypatch.setattr("noria.core.completions.jobs.PATIENCE", 0.05)
    began, release, seen = threading.Event(), threading.Event(), []

    def compute(unwanted: threading.Event) -> str:
        began.set()
        release.wait(20)
        seen.append(f"first, {'unwanted' if unwanted.is_set() else 'wanted'}")
        return "first"

    async def first(progress: Progress) -> Any:
        return await in_thread(compute)

    async def second(progress: Progress) -> Any:
        return await in_thread(lambda _: seen.append("second"))

    jobs = Jobs(tmp_path)
    jobs.open()
    one, two = jobs.submit("try-on", "shop", first), jobs.submit("try-on", "shop", second)
    while not began.is_set():
        await asyncio.sleep(0.01)
    assert (await jobs.cancel(one.id)).state == "running", "it has not ended yet"
    assert (await jobs.cancel(one.id)).state == "running", "also where it is cancelled twice"
    assert jobs.get(two.id).state == "queued"
    release.set()
    while jobs.get(two.id).state != "done":
        await asyncio.sleep(0.01)
    assert seen == ["first, unwanted", "second"]
    assert jobs.get(one.id).state == "cancelled"


@pytest.mark.anyio
async def test_jobs_outlive_the_process_or_say_that_they_did_not(tmp_path: Path) -> None:
    async def quick(progress: Progress) -> Any:
        return [1, 2]

    async def forever(progress: Progress) -> Any:
        await asyncio.sleep(3600)

    first = Jobs(tmp_path, at_once=2, waiting=2)
    first.open()
    done = first.submit("quick", "shop", quick)
    while first.get(done.id).state != "done":
        await asyncio.sleep(0.01)
    running_ = [first.submit("forever", "shop", forever) for _ in range(2)]
    with pytest.raises(HttpError, match="waiting"):
        first.submit("quick", "shop", quick)
    await asyncio.sleep(0.05)
    killed = Jobs(tmp_path)  # as a process would that was killed: nothing was closed
    killed.open()
    assert killed.result(done.id, "shop") == [1, 2]
    assert {killed.get(one.id).state for one in running_} == {"failed"}
    assert "ended before" in killed.get(running_[0].id).message
    with pytest.raises(HttpError, match="no such job"):
        killed.get(done.id, "another shop")
    await first.close()
    assert {first.get(one.id).state for one in running_} == {"failed"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (DataError("no such boat", where="/srv/noria/boats.jsonl"), "boats.jsonl: no such boat"),
        (
            RunError("postgres://admin:hunter2@db", where="http://10.0.0.7:8001/v1"),
            "what it needs does not serve now; the service's log says why",
        ),
    ],
    ids=["the caller's", "ours"],
)
def test_a_tool_that_fails_tells_its_caller_no_address(
    fault: Exception, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def sail(arguments: Any, caller: Any) -> Any:
        raise fault

    tool = McpTool("sail", "Sail.", {"properties": {}}, "chat", sail)
    with running(Service("s", [mcp_route([tool], name="s")], access_log=False)) as url:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "sail"}}
        result = post(url + "/mcp", message)[1]["result"]
    assert (result["isError"], result["content"]) == (True, [{"type": "text", "text": text}])
    assert str(fault) in caplog.text
