"""The ground of services, over real sockets: what is let in, how refusals read, what is counted, how it stops."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import itertools
import json
import logging
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from noria.core.errors import ConfigError, ConflictError, DataError, RunError
from noria.core.proofs.bench import alternate
from noria.core.service import protocol
from noria.core.service.hosting import launched, read_token, running, serve
from noria.core.service.serving import (
    HttpError,
    Limits,
    Request,
    Response,
    Service,
    asset,
    html_response,
    json_response,
    route,
)

TOKEN = "a-token-of-the-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}


async def echo(request: Request) -> Response:
    return json_response({"bytes": len(await request.body()), "path": request.url.path})


async def fail(request: Request) -> Response:
    raise {
        "data": DataError("no such column", where="items", mend="name one that is there"),
        "http": HttpError(422, "odd", "it is\nodd", param="x"),
        "stale": ConflictError("it is at version 3", where="switch learning", mend="read it again"),
        "run": RunError("cannot write: a secret", where="/data"),
        "fault": ZeroDivisionError("a secret"),
    }[request.path_params["how"]]


async def page(request: Request) -> Response:
    return html_response("<!doctype html><title>hello</title>")


def service(*more: Any, **options: Any) -> Service:
    routes = [
        route("/echo", echo, methods=["POST"]),
        route("/change", echo, methods=["POST"], access="write"),
        route("/small", echo, methods=["POST"], body_bytes=10),
        route("/fail/{how}", fail),
        route("/page", page),
        asset("/app.js", "let a = 1;", "text/javascript"),
        *more,
    ]
    return Service("tests", routes, **{"token": TOKEN} | options)


Answer = tuple[int, dict[str, str], Any]


def ask(url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """Status, headers and body; JSON is read."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, Iterator))
        answer = connection.getresponse()
        data = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = found.get("content-type") == "application/json"
        return answer.status, found, json.loads(data) if is_json and data else data


def talk(url: str, sent: bytes, *, hang_up: bool = False) -> bytes:
    """All that comes back for raw bytes."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    assert host
    with socket.create_connection((host, port), timeout=20) as line:
        line.sendall(sent)
        if hang_up:
            return b""
        got = b""
        while chunk := line.recv(1 << 16):
            got += chunk
        return got


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(service()) as address:
        yield address


def code(answer: Answer) -> tuple[int, str]:
    return answer[0], answer[2]["error"]["code"]


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_request_is_answered(url: str) -> None:
    status, headers, body = ask(url, "POST", "/echo", b"x" * 1000)
    assert (status, body) == (200, {"bytes": 1000, "path": "/echo"})
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_every_refusal_has_the_same_body(url: str) -> None:
    for method, path, status, word, kind in (
        ("GET", "/nowhere", 404, "not_found", "invalid_request_error"),
        ("GET", "/echo", 405, "method_not_allowed", "invalid_request_error"),
        ("GET", "/echo/", 404, "not_found", "invalid_request_error"),
        ("GET", "/fail/data", 400, "bad_request", "invalid_request_error"),
        ("GET", "/fail/http", 422, "odd", "invalid_request_error"),
        ("GET", "/fail/stale", 409, "stale", "invalid_request_error"),
        ("GET", "/fail/run", 503, "unavailable", "server_error"),
        ("GET", "/fail/fault", 500, "internal", "server_error"),
        ("POST", "/change", 401, "wrong_token", "authentication_error"),
    ):
        got, headers, body = ask(url, method, path)
        assert (got, body["error"]["code"], body["error"]["type"]) == (status, word, kind)
        assert set(body["error"]) == {"message", "type", "code", "param"}
        assert "\n" not in body["error"]["message"]
        assert body["request_id"] == headers["x-request-id"]
    assert ask(url, "GET", "/echo")[1]["allow"] == "POST"


def test_bad_input_is_told_in_its_line_and_a_fault_keeps_its_secrets(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = ask(url, "GET", "/fail/data")[2]["error"]["message"]
    assert told == "items: no such column; name one that is there"
    with caplog.at_level(logging.ERROR, "noria.serving"):
        assert "a secret" not in str(ask(url, "GET", "/fail/fault"))
    assert "ZeroDivisionError" in caplog.text
    assert "a secret" not in str(ask(url, "GET", "/fail/run"))
    assert "/data: cannot write: a secret" in caplog.text
    assert "Traceback" in caplog.text


def test_the_openai_client_reads_our_errors(url: str) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{url}/fail", api_key="none", max_retries=0)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.get("/http", cast_to=object)
    assert (caught.value.code, caught.value.param) == ("odd", "x")
    assert caught.value.body["message"] == "it is odd"


def test_request_ids_are_kept_when_plain_and_given_when_not(url: str) -> None:
    assert ask(url, "GET", "/health", headers={"x-request-id": "abc-1.2"})[1]["x-request-id"] == "abc-1.2"
    given = [
        ask(url, "GET", "/health", headers={"x-request-id": bad})[1]["x-request-id"]
        for bad in ("", "a b", "x" * 129, 'a"}{"')
    ]
    assert len(set(given)) == 4
    assert all(re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", one) for one in given)


def test_a_number_that_is_none_is_null() -> None:
    assert json_response({"a": float("nan"), "b": float("inf")}).body == b'{"a":null,"b":null}'


def test_pages_and_assets(url: str) -> None:
    _, headers, body = ask(url, "GET", "/page")
    assert b"hello" in body
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-frame-options"] == "DENY"
    _, headers, body = ask(url, "GET", "/app.js")
    assert (body, headers["content-type"]) == (b"let a = 1;", "text/javascript")
    again, _, body = ask(url, "GET", "/app.js", headers={"if-none-match": headers["etag"]})
    assert (again, body) == (304, b"")


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        TOKEN,
        f"Token {TOKEN}",
        "Basic !!",
        "Bearer é",
    ],
)
def test_what_changes_state_wants_the_token(url: str, header: str | None) -> None:
    answer = ask(url, "POST", "/change", b"", {} if header is None else {"authorization": header})
    assert code(answer) == (401, "wrong_token")
    assert answer[1]["www-authenticate"].startswith("Bearer")


def test_the_right_token_changes_state(url: str) -> None:
    for header in (f"Bearer {TOKEN}", f"bearer  {TOKEN} "):
        assert ask(url, "POST", "/change", b"ab", {"authorization": header})[2]["bytes"] == 2


def test_a_route_may_do_more_for_who_has_the_token() -> None:
    async def asked(request: Request) -> Response:
        return json_response({"trusted": request.app.is_trusted(request)})

    basic = {"authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()}
    with running(service(route("/asked", asked, methods=["GET", "POST"]))) as address:
        told = [
            ask(address, method, "/asked", b"", headers)[2]["trusted"]
            for method in ("GET", "POST")
            for headers in ({}, BEARER, basic, {"authorization": "Bearer wrong"})
        ]
    assert told == [False, True, True, False, False, True, False, False]


def test_without_a_token_nothing_changes_state() -> None:
    with running(service(token=None)) as address:
        assert ask(address, "POST", "/echo", b"")[0] == 200
        assert code(ask(address, "POST", "/change", b"", BEARER)) == (403, "no_token_set")


def test_a_private_service_wants_the_token_for_reading_too() -> None:
    guarded = service()
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()}
    with running(guarded) as address:
        guarded.private = True
        assert ask(address, "GET", "/health")[0] == 200
        for path in ("/page", "/metrics"):
            answer = ask(address, "GET", path)
            assert code(answer) == (401, "wrong_token")
            assert answer[1]["www-authenticate"].startswith("Basic")
            assert ask(address, "GET", path, headers=BEARER)[0] == 200
            assert ask(address, "GET", path, headers=basic)[0] == 200
        # A page of another origin can have the browser send its Basic password; that must not be enough to write.
        assert code(ask(address, "POST", "/change", b"", basic)) == (401, "wrong_token")
        assert code(ask(address, "POST", "/echo", b"", basic)) == (401, "wrong_token")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "localhost.evil"]
)
def test_a_name_that_was_made_to_point_here_is_refused(url: str, host: str) -> None:
    assert code(ask(url, "GET", "/page", headers={"host": host})) == (421, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:8000", "192.168.1.7"])
def test_names_that_cannot_be_made_to_point_here(url: str, host: str) -> None:
    assert ask(url, "GET", "/page", headers={"host": host})[0] == 200


def test_a_name_can_be_allowed() -> None:
    with running(service(hosts=["Feed.example"])) as address:
        assert ask(address, "GET", "/page", headers={"host": "feed.example:1"})[0] == 200
        assert ask(address, "GET", "/page", headers={"host": "other.example"})[0] == 421


def test_a_page_of_another_origin_is_refused(url: str) -> None:
    own = {"origin": url, "host": urlsplit(url).netloc}
    assert ask(url, "POST", "/echo", b"", own)[0] == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = ask(url, "POST", "/echo", b"", {"origin": origin})
        assert code(answer) == (403, "foreign_origin")


# -- sizes, times, numbers --------------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_long_is_not_read(url: str) -> None:
    answer = ask(url, "POST", "/small", b"x" * 11)
    assert code(answer) == (413, "too_large")
    assert ask(url, "POST", "/small", b"x" * 10)[2]["bytes"] == 10


def test_a_client_in_the_middle_of_a_long_body_still_gets_its_answer(url: str) -> None:
    assert code(ask(url, "POST", "/small", b"x" * 5_000_000)) == (413, "too_large")


def test_a_chunked_body_is_counted_while_it_is_read(url: str) -> None:
    chunks = lambda sizes: iter([b"x" * size for size in sizes])  # noqa: E731
    assert ask(url, "POST", "/small", chunks([5, 5]))[2]["bytes"] == 10
    assert code(ask(url, "POST", "/small", chunks([5, 6]))) == (413, "too_large")


def test_an_endless_body_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noria.core.service.exchange._LINGER_SECONDS", 0.1)
    with running(service()) as address, pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(address, "POST", "/small", itertools.repeat(b"x" * 65536))


def test_a_client_that_asks_first_is_told_before_it_sends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noria.core.service.exchange._LINGER_SECONDS", 20.0)
    head = "POST /small HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 999\r\n\r\n"
    began = time.perf_counter()
    got = talk(url, head.encode())
    assert got.startswith(b"HTTP/1.1 413")
    assert time.perf_counter() - began < 10, "it did not wait for a body that will not come"


def test_time_is_capped_for_slow_bodies_and_for_slow_work() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(30)
        return json_response({})

    async def own_timeout(request: Request) -> Response:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1)
        return json_response({})

    limited = service(
        route("/slow", slow, seconds=0.2), route("/own", own_timeout), limits=Limits(seconds=0.3)
    )
    with running(limited) as address:
        assert code(ask(address, "GET", "/slow")) == (504, "timeout")
        half = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nhalf"
        assert b"HTTP/1.1 408" in talk(address, half)
        assert code(ask(address, "GET", "/own")) == (500, "internal"), "a time-out within is a fault of ours"


def test_one_request_too_many_is_told_to_come_again() -> None:
    held, released = threading.Event(), threading.Event()

    async def hold(request: Request) -> Response:
        held.set()
        await asyncio.to_thread(released.wait, 20)
        return json_response({})

    busy = service(route("/hold", hold), limits=Limits(in_flight=1))
    with running(busy) as address:
        first = threading.Thread(target=ask, args=(address, "GET", "/hold"))
        first.start()
        assert held.wait(20)
        answer = ask(address, "POST", "/echo", b"")
        assert code(answer) == (503, "busy")
        assert answer[1]["retry-after"] == "1"
        assert ask(address, "GET", "/health")[0] == 200, "who watches is not turned away"
        assert b"noria_http_in_flight 1.0" in ask(address, "GET", "/metrics")[2]
        released.set()
        first.join()
        assert ask(address, "POST", "/echo", b"")[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", 400),
        (
            b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"CONNECT evil:80 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * (70 << 10), 431),
        (b"GET /" + b"y" * (70 << 10), 431),
    ],
    ids=["nonsense", "negative length", "two lengths", "connect", "not ascii", "long header", "long path"],
)
def test_what_is_no_request_is_refused(url: str, sent: bytes, status: int) -> None:
    got = talk(url, sent)
    assert got.startswith(b"HTTP/1.1 %d" % status)
    assert b'"error"' in got


def test_a_connection_that_asks_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with running(service()) as address:
        for sent in (b"", b"GET / HTTP/1.1\r\nhost:"):
            assert b"HTTP/1.1 408" in talk(address, sent)
        slow_second = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /he"
        got = talk(address, slow_second)
        assert b"HTTP/1.1 200" in got
        assert b"HTTP/1.1 408" in got


def test_a_head_that_comes_in_two_pieces_leaves_no_clock_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.4)
    with running(service()) as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=20) as line:
            for _ in range(3):
                line.sendall(b"GET /health HTTP/1.1\r\n")
                time.sleep(0.25)
                line.sendall(b"host: localhost\r\n\r\n")
                assert line.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CONNECTIONS", 1)
    with running(service()) as address:
        first = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
        with contextlib.closing(first):
            first.request("GET", "/health")
            assert first.getresponse().read()
            assert b"HTTP/1.1 503" in talk(address, b"")


# -- what it says -----------------------------------------------------------------------------------------------------


def test_metrics_count_routes_not_paths() -> None:
    with running(service()) as address:
        for n in range(3):
            ask(address, "POST", "/echo", b"")
            ask(address, "GET", f"/made/up/{n}")
            ask(address, "GET", "/fail/http")
        ask(address, "POST", "/change", b"")
        text = ask(address, "GET", "/metrics")[2].decode()
        other = Service("other", [])
    assert 'noria_http_requests_total{route="/echo",status="200"} 3.0' in text
    assert 'noria_http_requests_total{route="unmatched",status="404"} 3.0' in text
    assert 'noria_http_requests_total{route="/fail/{how}",status="422"} 3.0' in text
    assert 'noria_http_refused_total{reason="wrong_token"} 1.0' in text
    assert 'noria_http_seconds_count{route="/echo"} 3.0' in text
    assert "process_resident_memory_bytes" in text
    assert other.registry.get_sample_value("noria_http_seconds_count", {"route": "/echo"}) is None


def test_the_access_log_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "noria.serving"), running(service()) as address:
        ask(address, "POST", "/echo?key=hunter2", b"hunter2", BEARER)
        ask(address, "GET", "/a%0Ab?key=hunter2", headers={"cookie": "hunter2"})
    assert "hunter2" not in caplog.text
    assert TOKEN not in caplog.text
    assert re.search(r"127\.0\.0\.1 POST /echo 200 \d+\.\d ms 7 B in \d+ B out", caplog.text)
    assert "GET /a%0Ab 404" in caplog.text, "a line stays one line"
    with caplog.at_level(logging.INFO, "noria.serving"), running(service(access_log=False)) as address:
        caplog.clear()
        ask(address, "POST", "/echo", b"")
    assert "/echo" not in caplog.text


def test_ready_says_why_not() -> None:
    why: list[str | None] = ["no snapshot yet"]
    with running(service(ready=lambda: why[0])) as address:
        answer = ask(address, "GET", "/ready")
        assert code(answer) == (503, "not_ready")
        assert answer[2]["error"]["message"] == "no snapshot yet"
        why[0] = None
        assert ask(address, "GET", "/ready")[0] == 200


def test_a_stream_that_fails_is_not_taken_for_a_whole_one(caplog: pytest.LogCaptureFixture) -> None:
    from starlette.responses import StreamingResponse

    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(0.1)
            raise ZeroDivisionError

        return StreamingResponse(parts())

    with running(service(route("/stream", stream))) as address, pytest.raises(http.client.IncompleteRead):
        ask(address, "GET", "/stream")
    assert "was cut off" in caplog.text


def test_its_overhead_is_far_below_fastapis() -> None:
    """Both read a small JSON body and answer, without a network between; theirs has a model and no guard."""
    fastapi = pytest.importorskip("fastapi")
    msgspec = pytest.importorskip("msgspec")
    from pydantic import create_model

    async def ours(request: Request) -> Response:
        return json_response({"x": msgspec.json.decode(await request.body())["x"]})

    app = fastapi.FastAPI()
    model = create_model("Model", x=(int, ...))

    async def theirs(body: Any) -> dict[str, int]:
        return {"x": body.x}

    theirs.__annotations__["body"] = model
    app.post("/x")(theirs)
    body = b'{"x": 1}'
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"8")]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    answers = []

    async def send(message: Any) -> None:
        answers.append(message.get("body"))

    def calls(application: Any) -> Callable[[], None]:
        scope = {"type": "http", "method": "POST", "path": "/x", "raw_path": b"/x", "root_path": ""}
        scope |= {"query_string": b"", "headers": headers, "http_version": "1.1", "asgi": {"version": "3.0"}}

        async def some() -> None:
            for _ in range(300):
                await application(dict(scope), receive, send)

        return lambda: asyncio.run(some())

    with_guard = Service("ours", [route("/x", ours, methods=["POST"])], access_log=False)
    timing = alternate(calls(with_guard), calls(app), rounds=7)
    assert answers.count(b'{"x":1}') == len(answers) // 2
    assert min(timing.ours) < 0.7 * min(timing.theirs)


# -- a process of its own ---------------------------------------------------------------------------------------------

SCRIPT = """
import asyncio, contextlib, sys
from pathlib import Path
from noria.core.errors import DataError
from noria.core.service.hosting import read_token, serve
from noria.core.service.serving import Service, json_response, route

async def slow(request):
    await asyncio.sleep(float(request.path_params["seconds"]))
    return json_response({"done": True})

@contextlib.asynccontextmanager
async def around(service):
    if "bad" in sys.argv:
        raise DataError("no snapshot", where="x.json")
    yield
    Path(sys.argv[1]).write_text("closed")

service = Service("slow", [route("/slow/{seconds}", slow)], token=read_token(), around=around)
serve(service, port=0)
"""


def test_sigterm_finishes_what_is_under_way(tmp_path: Path) -> None:
    marker = tmp_path / "closed"
    with launched([sys.executable, "-c", SCRIPT, str(marker)], tmp_path) as started:
        got: list[Answer] = []
        asking = threading.Thread(target=lambda: got.append(ask(started.url, "GET", "/slow/1")))
        asking.start()
        time.sleep(0.4)
        assert started.stop() == 0
        asking.join()
        assert got[0][2] == {"done": True}
        assert marker.read_text() == "closed"
        with pytest.raises(ConnectionError):
            ask(started.url, "GET", "/health")
        assert "Traceback" not in started.errors.read_text()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    def ask_in_vain(url: str) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(url, "GET", "/slow/15")

    with launched([sys.executable, "-c", SCRIPT, str(tmp_path / "closed")], tmp_path) as started:
        asking = threading.Thread(target=ask_in_vain, args=(started.url,))
        asking.start()
        time.sleep(0.3)
        began = time.perf_counter()
        for number in (signal.SIGTERM, signal.SIGINT):
            started.process.send_signal(number)
            time.sleep(0.15)
        assert started.process.wait(10) == 0
        assert time.perf_counter() - began < 10
        asking.join()


def test_what_keeps_a_service_from_starting_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"DataError: x\.json: no snapshot"),
        launched([sys.executable, "-c", SCRIPT, str(tmp_path / "closed"), "bad"], tmp_path),
    ):
        pass


def test_a_failing_context_fails_the_service() -> None:
    @contextlib.asynccontextmanager
    async def around(service: Service) -> AsyncIterator[None]:
        raise DataError("no snapshot")
        yield

    with pytest.raises(DataError, match="no snapshot"), running(service(around=around)):
        pass


def test_hosts_and_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    told: Callable[..., Any] = lambda match: pytest.raises(ConfigError, match=match)  # noqa: E731
    with told("there is no host"):
        serve(service(), host="no.such.host.invalid")
    with told("from other machines.*NORIA_TOKEN"):
        serve(service(token=None), host="0.0.0.0", port=0)
    with running(service()) as address, told("cannot listen on .*: Address already in use"):
        serve(service(), port=urlsplit(address).port or 0)
    beyond = service()
    with running(beyond, host="0.0.0.0") as address:
        port = urlsplit(address).port
        assert code(ask(f"http://127.0.0.1:{port}", "GET", "/page")) == (401, "wrong_token")


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NORIA_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("NORIA_TOKEN", f" {TOKEN}\n")
    assert read_token() == TOKEN
    file = tmp_path / "token"
    file.write_text("from-the-file-instead\n")
    assert read_token(file) == "from-the-file-instead"
    for bad in ("", "short", "two words of a token", "x" * 20 + "é", "x" * 20 + "\ny"):
        file.write_text(bad)
        with pytest.raises(ConfigError, match="one word of at least 16"):
            read_token(file)
    with pytest.raises(ConfigError, match="cannot read the token"):
        read_token(tmp_path / "absent")
    monkeypatch.setenv("NORIA_TOKEN", "short")
    with pytest.raises(ConfigError, match="environment variable NORIA_TOKEN"):
        read_token()


# -- attacks ----------------------------------------------------------------------------------------------------------

POST = b"POST /echo HTTP/1.1\r\nhost: localhost\r\n"


def dial(url: str, *, source: str = "127.0.0.1") -> socket.socket:
    place = urlsplit(url)
    assert place.hostname
    return socket.create_connection((place.hostname, place.port or 0), timeout=20, source_address=(source, 0))


def rest(line: socket.socket) -> bytes:
    """All that comes until the service closes; also what came before it reset the connection."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while chunk := line.recv(1 << 16):
            got += chunk
    return got


def pour(line: socket.socket, chunk: bytes, most: int) -> int:
    """Send a chunk again and again until the service closes the connection; how many bytes it took."""
    taken = 0
    with contextlib.suppress(ConnectionError):
        while taken < most:
            line.sendall(chunk)
            taken += len(chunk)
    return taken


@pytest.mark.parametrize("size", [65 << 10, 100 << 10, 200 << 10])
@pytest.mark.parametrize("shape", [b"x: %b\r\n", b"%b"], ids=["one", "many"])
def test_a_long_head_is_refused_however_it_is_cut(url: str, size: int, shape: bytes) -> None:
    fields = shape % (b"y" * size) if shape != b"%b" else b"a: 1\r\n" * (size // 6)
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + fields + b"\r\n"
    with dial(url) as line:
        pour(line, head, len(head))
        assert rest(line).startswith(b"HTTP/1.1 431")
    just = (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: "
        + b"y" * (63 << 10)
        + b"\r\n\r\n"
    )
    assert talk(url, just).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "endless",
    [b"x: " + b"y" * 4000 + b"\r\n", b"y" * 4096],
    ids=["trailers", "one trailer without an end"],
)
@pytest.mark.parametrize("path", [b"/health", b"/echo"])
def test_trailers_end(url: str, path: bytes, endless: bytes) -> None:
    with dial(url) as line:
        line.sendall(
            b"POST %b HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" % path
        )
        assert pour(line, endless, 64 << 20) < 8 << 20


def test_an_extension_of_a_chunk_ends(url: str) -> None:
    with dial(url) as line:
        line.sendall(POST + b"transfer-encoding: chunked\r\n\r\n1;")
        assert pour(line, b"e" * 4096, 64 << 20) < 8 << 20


def test_small_chunks_and_trailers_within_the_bounds_pass(url: str) -> None:
    body = b"1;a=b\r\nx\r\n" * 50_000 + b"0\r\nx-sum: 1\r\nhost: evil\r\nauthorization: Bearer no\r\n\r\n"
    got = talk(url, POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + body)
    assert got.startswith(b"HTTP/1.1 200")
    assert b'"bytes":50000' in got


def test_a_trailer_is_no_header(url: str) -> None:
    sent = (
        b"POST /change HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    got = talk(url, sent + b"1\r\na\r\n0\r\nauthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "drip",
    [b"x: y\r\n", b"\r\n", b"1\r\nx\r\n"],
    ids=["trailers", "line ends", "chunks"],
)
def test_a_connection_that_drips_behind_its_answer_is_closed(
    drip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte ends uvicorn's own wait of an idle connection; the time in all is what counts."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    before = {b"x: y\r\n": b"0\r\n", b"\r\n": b"0\r\n\r\n", b"1\r\nx\r\n": b""}[drip]
    with running(service()) as address, dial(address) as line:
        line.sendall(
            b"GET /health HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + before
        )
        assert line.recv(1 << 16).startswith(b"HTTP/1.1 200")
        began = time.perf_counter()
        with contextlib.suppress(ConnectionError):
            while time.perf_counter() - began < 10:
                line.sendall(drip)
                time.sleep(0.05)
        assert time.perf_counter() - began < 5
        assert b"HTTP/1.1 200" not in rest(line)


@pytest.mark.parametrize(
    "host",
    [
        "[::1].evil.com", "localhost:9911@evil.com", "localhost:80:80", "127.0.0.1 evil.com", "[::1", "::1]",
        "user@localhost", "localhost/evil", "127.0.0.1:80,evil.com", "localhost:x", "[127.0.0.1]evil", "127.0.0.1#",
    ],
)  # fmt: skip
def test_a_host_is_read_whole(url: str, host: str) -> None:
    assert code(ask(url, "GET", "/page", headers={"host": host})) == (421, "unknown_host")


@pytest.mark.parametrize("name", ["Host", "Authorization", "Origin", "Content-Type"])
def test_a_header_that_decides_stands_there_once(url: str, name: str) -> None:
    two = f"{name}: localhost\r\n{name.lower()}: localhost\r\n" + (
        "" if name == "Host" else "host: localhost\r\n"
    )
    got = talk(url, f"GET /page HTTP/1.1\r\n{two}connection: close\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.1 400")
    assert b"header_twice" in got


def test_other_headers_may_stand_there_twice(url: str) -> None:
    got = talk(
        url, b"GET /page HTTP/1.1\r\nhost: localhost\r\ncookie: a\r\ncookie: b\r\nconnection: close\r\n\r\n"
    )
    assert got.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_slow_bodies_of_one_address_leave_room(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may fill a quarter of the places for long; the oldest end for the newest, so that quick ones pass."""
    monkeypatch.setattr("noria.core.service.guard._SLOW_SECONDS", 0.5)
    with running(service(limits=Limits(in_flight=8, seconds=30))) as address, contextlib.ExitStack() as held:
        slow = [held.enter_context(dial(address)) for _ in range(40)]
        for line in slow:
            line.sendall(POST + b"content-length: 9\r\n\r\nx")
        time.sleep(0.2)
        if source != "127.0.0.1":
            with dial(address, source=source) as line:
                line.sendall(POST + b"content-length: 2\r\nconnection: close\r\n\r\nab")
                assert rest(line).startswith(b"HTTP/1.1 200"), "the quarter of the others is free at once"
        time.sleep(0.5)
        with dial(address) as line:  # ends what is above the share
            line.sendall(POST + b"content-length: 2\r\nconnection: close\r\n\r\nab")
            rest(line)
        for _ in range(20):
            with dial(address, source=source) as line:
                line.sendall(POST + b"content-length: 2\r\nconnection: close\r\n\r\n")
                line.sendall(b"ab")
                assert rest(line).startswith(b"HTTP/1.1 200")
        assert slow[0].recv(1 << 16).startswith(b"HTTP/1.1 408")


def test_connections_of_one_address_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CONNECTIONS", 8)
    quiet = service()
    with running(quiet) as address, contextlib.ExitStack() as held:
        lines = [held.enter_context(dial(address)) for _ in range(3)]
        assert rest(lines[2]).startswith(b"HTTP/1.1 503")
        with dial(address, source="127.0.0.2") as line:
            line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            assert rest(line).startswith(b"HTTP/1.1 200")
    assert not quiet.connections


def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
    large = service(asset("/large", b"x" * (32 << 20), "text/plain"))
    with running(large) as address, dial(address) as line:
        line.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        deadline = time.monotonic() + 60
        while large.connections and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not large.connections
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 5.0)
    with (
        running(large) as address,
        dial(address) as line,
    ):  # one that reads slowly, and without a pause, gets it all
        line.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        got = 0
        while chunk := line.recv(1 << 20):
            got += len(chunk)
            time.sleep(0.01)
        assert got > 32 << 20


def slow_then(address: str, behind: bytes) -> bytes:
    with dial(address) as line:
        line.sendall(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n" + behind)
        return rest(line)


@pytest.mark.parametrize(
    "behind",
    [b"nonsense\r\n\r\n", b"GET /he", b"GET /health HTTP/1.1\r\nx: " + b"y" * (70 << 10)],
    ids=["nonsense", "half a head", "a long head"],
)
def test_what_comes_behind_a_request_does_not_take_its_answer(
    behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)

    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.8)
        return json_response({"slow": True})

    with running(service(route("/slow", slow))) as address:
        got = slow_then(address, behind)
    assert got.startswith(b"HTTP/1.1 200")
    assert b'{"slow":true}' in got


def test_requests_sent_ahead_are_answered_in_order_and_bounded(url: str) -> None:
    def get(n: int) -> bytes:
        return b"GET /made/up/%d HTTP/1.1\r\nhost: localhost\r\nx-request-id: n%d\r\n\r\n" % (n, n)

    with dial(url) as line:
        line.sendall(b"".join(map(get, range(20))))
        got = b""
        while got.count(b"HTTP/1.1 404") < 20:
            got += line.recv(1 << 16)
    assert re.findall(rb"x-request-id: n(\d+)", got) == [b"%d" % n for n in range(20)]
    with dial(url) as line:
        pour(line, b"".join(map(get, range(500))), 1)
        assert rest(line).count(b"HTTP/1.1 404") <= protocol.SENT_AHEAD + 1


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        b"content-length: 4\r\ncontent-length: 5\r\n",
        b"content-length: 4, 4\r\n",
        b"content-length: +4\r\n",
        b"content-length: 0x4\r\n",
        b"content-length: 99999999999999999999999\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding:\x0bchunked\r\n",
        b"content-length: 4\r\n folded: 1\r\n",
        b"content-length: 4\rx: y\r\n",
        b"content-length: 4\n\r\n",
    ],
)
def test_no_second_request_is_smuggled(url: str, head: bytes) -> None:
    """What could be read as one body by a proxy and as two requests here is one refusal, or one answer, at most."""
    inner = b"GET /page HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with dial(url) as line:
        line.settimeout(1.0)
        line.sendall(POST + head + b"\r\n" + b"0\r\n\r\n" + inner)
        with contextlib.suppress(TimeoutError):
            got = rest(line)
            assert b"<title>" not in got


def test_work_ends_when_its_client_leaves() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.set()
            raise

    async def wait(request: Request) -> Response:
        await request.body()
        await request.unless_left(work())
        return json_response({})

    with running(service(route("/wait", wait, methods=["POST"]))) as address:
        with dial(address) as line:
            line.sendall(b"POST /wait HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nab")
            assert begun.wait(5)
            assert not ended.wait(0.2)
        assert ended.wait(5)
        assert ask(address, "GET", "/health")[0] == 200


def test_half_a_character_is_answered() -> None:
    assert (
        json_response({"a": "b\ud800", "c": [float("nan"), 1]}).body == b'{"a": "b\\ud800", "c": [null, 1]}'
    )
