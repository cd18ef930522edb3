"""The service between backends that speak raw bytes and callers who leave at any moment."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from noria.core.chat import ChatServer
from noria.core.service.hosting import running
from noria.routing.pool.config import Member, PoolConfig
from noria.routing.pool.pool import open_pool
from noria.routing.routers.baselines import BestSingle
from noria.routing.service.config import ServeLimits
from noria.routing.service.service import routing_service
from noria.routing.tables.table import Route
from tests.chat_server import Body, Reply
from tests.routing.test_serve import pooled

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


@contextlib.contextmanager
def raw_backend(reply: bytes, *, gap: float = 0.0) -> Iterator[str]:
    """A backend that answers every request with these bytes, all at once or one by one, and closes."""

    def answer(line: socket.socket) -> None:
        with contextlib.suppress(OSError), line:
            sent = b""
            while b"\r\n\r\n" not in sent:
                sent += line.recv(1 << 16)
            head, _, body = sent.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            while length and len(body) < int(length[1]):
                body += line.recv(1 << 16)
            for at in range(len(reply)) if gap else ():
                line.sendall(reply[at : at + 1])
                time.sleep(gap)
            line.sendall(b"" if gap else reply)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def in_front_of(url: str) -> Iterator[str]:
    member = Member(name="a", server=ChatServer(url=url, model="a"))
    pool = open_pool(PoolConfig(models=(member,)))
    router = BestSingle((Route("a"),), np.ones(1), mean=np.ones(1))
    limits = ServeLimits(patience=1.0, seconds=10)
    with running(routing_service(router, pool, limits=limits, access_log=False)) as front:
        yield front


def ask(url: str, **more: Any) -> tuple[int, bytes]:
    line = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    with contextlib.closing(line):
        line.request("POST", "/v1/chat/completions", json.dumps(BODY | more))
        answer = line.getresponse()
        return answer.status, answer.read()


def reply(
    body: bytes, status: bytes = b"200 OK", media_type: bytes = b"application/json", more: bytes = b""
) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
    return head % (status, media_type, len(body), more) + body


def events(*lines: bytes) -> bytes:
    return reply(b"".join(b"data: %b\n\n" % line for line in lines), media_type=b"text/event-stream")


WHOLE = b'{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}]}'
PIECE = b'{"choices":[{"delta":{"content":"ok"},"finish_reason":null}]}'


@pytest.mark.parametrize(
    ("sent", "stream", "status", "word"),
    [
        (b"", False, 502, b"backend_connection"),
        (b"\0\xff" * 500, False, 502, b"backend_connection"),
        (b"HTTP/1.1 abc\r\n\r\n", False, 502, b"backend_connection"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000, False, 502, b"backend_connection"),
        (b"HTTP/1.1 101 Other\r\nupgrade: x\r\n\r\n", False, 502, b"backend_connection"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", False, 502, b"backend_connection"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", False, 502, b"request"),
        (reply(b"9" * 5000), False, 502, b"backend_garbage"),
        (reply(b'{"choices":[{"message":{"content":"\xff"}}]}'), False, 502, b"backend_garbage"),
        (reply(b'{"choices":[{"message":{"content":"\\ud83d"}}]}'), False, 200, b"\\ud83d"),
        (reply(b"{}", b"429 X", more=b"retry-after: Wed, 21 Oct 99999999999 07:28:00 GMT\r\n"), False, 429, b""),
        (reply(b'{"error":{"message":{"a":1},"code":{"b":[]}}}', b"400 X"), False, 400, b"bad_request"),
        (reply(b"[" * 100_000, b"500 X"), True, 502, b"backend_server"),
        (events(b"[" * 100_000), True, 502, b"backend_garbage"),
        (events(b"5"), True, 502, b"backend_garbage"),
        (events(b'{"error":"boom"}'), True, 502, b"backend_server"),
        (events(PIECE, b"nonsense"), True, 200, b"backend_garbage"),
        (events(PIECE, b'{"error":{"message":"boom"}}'), True, 200, b"backend_server"),
        (events(PIECE), True, 200, b"backend_cut"),
        (reply(PIECE)[:-9], True, 502, b"backend"),
    ],
)  # fmt: skip
def test_a_backend_that_says_anything_is_a_failure_of_its_own(
    sent: bytes, stream: bool, status: int, word: bytes
) -> None:
    with raw_backend(sent) as url, in_front_of(url) as front:
        got, body = ask(front, stream=stream)
    assert got == status
    assert word in body
    assert b"boom" not in body


@pytest.mark.parametrize("stream", [False, True])
def test_a_backend_that_drips_is_given_up_in_time(stream: bool) -> None:
    sent = events(PIECE) if stream else reply(WHOLE)
    with raw_backend(sent, gap=0.1) as url, in_front_of(url) as front:
        began = time.monotonic()
        assert ask(front, stream=stream)[0] == 504
        assert time.monotonic() - began < 8


def test_callers_who_leave_at_any_moment_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    text = json.dumps(BODY | {"stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(text)
    stages = [b"", head[:30], head, head + text[:20], head + text, (head + text) * 3, head + text + head[:20]]

    def respond(body: Body, number: int) -> Reply:
        return Reply("abcdef" * 5, pieces=30, gap=0.1, delay=0.1)

    with pooled(respond, a={"in_flight": 4}) as (url, double):
        place = urlsplit(url)
        for wait in (0.0, 0.2):
            for sent in stages:
                for _ in range(3):
                    with socket.create_connection((place.hostname, place.port)) as line:
                        line.sendall(sent)
                        time.sleep(wait)

        def under_way() -> tuple[int, bool]:
            line = http.client.HTTPConnection(place.netloc, timeout=20)
            with contextlib.closing(line):
                line.request("GET", "/metrics")
                return double.in_flight, b"noria_http_in_flight 0.0" not in line.getresponse().read()

        deadline = time.monotonic() + 60
        while under_way() != (0, False) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert under_way() == (0, False)
        double.respond = lambda body, number: Reply("ok")
        assert ask(url)[0] == 200
    assert "Traceback" not in caplog.text
    assert "asynchronous generator" not in caplog.text
