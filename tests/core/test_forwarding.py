"""The byte path to a backend: bytes pass as they are, under the rules of the typed client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from noria.core.chat import Budget, ChatServer, Failure, Prices, Refusal
from noria.core.chat.forwarding import Forwarded, Forwarder
from noria.core.chat.replies import StreamedReply
from tests.chat_server import Reply, chat_server

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "odd": [1, None]}).encode()
STREAM = json.dumps({"model": "m", "messages": [], "stream": True}).encode()


def at(url: str, **settings: Any) -> ChatServer:
    return ChatServer(url=url, model="m", **({"backoff": 0.01, "timeout": 5.0} | settings))


def forward(server: ChatServer, body: bytes = BODY) -> Any:
    async def run() -> Any:
        async with Forwarder(server) as forwarder:
            return await forwarder.forward(body)

    return asyncio.run(run())


def stream(server: ChatServer) -> tuple[list[Any], Failure | Refusal | None]:
    async def run() -> Any:
        async with Forwarder(server) as forwarder, forwarder.stream(STREAM) as events:
            return [json.loads(event) async for event in events], events.failure

    return asyncio.run(run())  # type: ignore[no-any-return]


def test_bytes_pass_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_KEY", "sk-backend-0123456789")
    with chat_server(lambda body, n: Reply("über 👋"), key="sk-backend-0123456789") as server:
        reply = forward(at(server.url, key_env="BACKEND_KEY"))
        assert isinstance(reply, Forwarded)
        assert json.loads(reply.body)["choices"][0]["message"]["content"] == "über 👋"
        assert server.seen == [json.loads(BODY)]
        assert "accept-encoding" in server.headers[0]


@pytest.mark.parametrize(
    ("reply", "kind", "attempts"),
    [
        (Reply(status=500), "server", 3),
        (Reply(status=429), "rate_limit", 3),
        (Reply(status=429, headers={"retry-after": "999"}), "rate_limit", 1),
        (Reply(status=401), "auth", 1),
        (Reply(status=404), "not_found", 1),
        (Reply(status=400), "request", 1),
        (Reply(status=302, headers={"location": "http://127.0.0.1:9/"}), "request", 1),
        (Reply(cut=True), "cut", 3),
        (Reply(hang=True), "timeout", 3),
        (Reply("x" * 5000), "too_large", 1),
    ],
    ids=["500", "429", "wait", "401", "404", "400", "redirect", "cut", "hang", "large"],
)
def test_faults_are_sorted_and_tried_again(reply: Reply, kind: str, attempts: int) -> None:
    with chat_server(lambda body, n: reply) as server:
        outcome = forward(at(server.url, attempts=3, timeout=0.5, largest_reply=4096))
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.attempts, len(server.seen)) == (kind, attempts, attempts)


def test_a_filter_is_a_refusal_and_no_server_a_failure() -> None:
    filtered = json.dumps({"error": {"message": "declined", "code": "content_filter"}}).encode()
    with chat_server(lambda body, n: Reply(status=400, body=filtered)) as server:
        assert isinstance(forward(at(server.url)), Refusal)
    outcome = forward(at("http://127.0.0.1:9/v1", attempts=2))
    assert (outcome.kind, outcome.attempts) == ("connection", 2)


def test_a_fault_that_passes_is_an_answer() -> None:
    with chat_server(lambda body, n: Reply(status=503) if n < 2 else Reply("at last")) as server:
        reply = forward(at(server.url))
        assert isinstance(reply, Forwarded)
        assert reply.attempts == 3


def test_a_stream_passes_event_by_event() -> None:
    with chat_server(lambda body, n: Reply("one two three", reasoning="hm")) as server:
        events, failure = stream(at(server.url))
        assert failure is None
        reply = StreamedReply()
        for event in events:
            reply.add(event)
        assert "".join(reply.text) == "one two three"
        assert reply.finish == "stop"


def test_a_stream_is_tried_again_before_its_first_event_only() -> None:
    with chat_server(lambda body, n: Reply(status=503) if n == 0 else Reply("fine")) as server:
        events, failure = stream(at(server.url))
        assert (failure, len(server.seen)) == (None, 2)
        assert events
    with chat_server(lambda body, n: Reply("one two three four", cut=True)) as server:
        events, failure = stream(at(server.url))
        assert isinstance(failure, Failure)
        assert (failure.kind, len(server.seen)) == ("cut", 1)
        assert events
    with chat_server(lambda body, n: Reply("a b c", gap=2.0)) as server:
        _, failure = stream(at(server.url, timeout=0.3))
        assert isinstance(failure, Failure)
        assert failure.kind == "timeout"


def test_places_and_the_budget_hold() -> None:
    async def run(url: str) -> Any:
        server = at(url, in_flight=4, prices=Prices(input=1.0, output=1.0))
        async with Forwarder(server, budget=Budget(0.004)) as forwarder:
            content = json.loads(BODY) | {"max_tokens": 1000}

            async def one() -> Any:
                reserved = forwarder.reserve(content)
                if isinstance(reserved, Failure):
                    return reserved
                return await forwarder.forward(BODY)

            return await asyncio.gather(*(one() for _ in range(16)))

    with chat_server(lambda body, n: Reply(delay=0.05)) as server:
        outcomes = asyncio.run(run(server.url))
        sent = [one for one in outcomes if isinstance(one, Forwarded)]
        assert len(sent) == len(server.seen) == 3, "three reservations of .001 and a bit fit into .004"
        assert {one.kind for one in outcomes if isinstance(one, Failure)} == {"budget"}
        assert server.most_in_flight <= 4

    async def crowd(url: str) -> Any:
        async with Forwarder(at(url, in_flight=2)) as forwarder:
            return await asyncio.gather(*(forwarder.forward(BODY, within=0.05) for _ in range(5)))

    with chat_server(lambda body, n: Reply(delay=0.5)) as server:
        outcomes = asyncio.run(crowd(server.url))
        assert [type(one).__name__ for one in outcomes].count("Forwarded") == 2
        assert {one.kind for one in outcomes if isinstance(one, Failure)} == {"busy"}
