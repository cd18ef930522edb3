"""A real OpenAI-compatible chat server on loopback that misbehaves when told to; for the tests of every system."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

Body = dict[str, Any]


@dataclass
class Reply:
    """How one request is answered.

    Attributes:
        text: of the message.
        delay: seconds before anything is sent.
        held: nothing is sent while this is true.
        status: 200, or an error.
        headers: more of them.
        body: sent instead of the protocol's reply.
        pieces: into how many a stream cuts the text.
        gap: seconds between two pieces.
        cut: break the connection half-way.
        hang: send nothing, ever.
        finish, refusal, usage, reasoning: of the reply; `usage=None` leaves it out. A stream has each word of
            the reasoning before the text.
    """

    text: str = "hello"
    delay: float = 0.0
    held: Callable[[], bool] | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    pieces: int = 3
    gap: float = 0.0
    cut: bool = False
    hang: bool = False
    finish: str | None = "stop"
    refusal: str | None = None
    usage: Mapping[str, int] | None = field(
        default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 5}
    )
    reasoning: str | None = None


class ChatServerDouble:
    """The server. `respond(body, number)` decides; `seen` holds the bodies in order of arrival, `left` counts who went
    away while nothing was sent.

    `on_request` is shown every request before it is read.
    """

    def __init__(
        self,
        respond: Callable[[Body, int], Reply] = lambda body, number: Reply(),
        *,
        key: str | None = None,
        models: tuple[str, ...] = ("m",),
    ) -> None:
        self.respond, self.key, self.models = respond, key, models
        self.seen: list[Body] = []
        self.headers: list[Mapping[str, str]] = []
        self.in_flight = self.most_in_flight = self.left = 0
        self.on_request: Callable[[Request], object] = lambda request: None
        self.url = ""

    async def chat(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        self.on_request(request)
        raw = await request.body()
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            sent = request.headers.get("authorization", "")
            return _error(401, f"Incorrect API key provided: {sent.removeprefix('Bearer ')}")
        body = json.loads(raw)
        self.seen.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(request, body, self.respond(body, len(self.seen) - 1))
        finally:
            self.in_flight -= 1

    async def _answer(self, request: Request, body: Body, reply: Reply) -> Response:
        if reply.hang:
            for _ in range(6000):
                if await request.is_disconnected():
                    self.left += 1
                    break
                await asyncio.sleep(0.01)
        while reply.held is not None and reply.held():
            await asyncio.sleep(0.01)
        await asyncio.sleep(reply.delay)
        if reply.body is not None:
            return Response(reply.body, reply.status, dict(reply.headers), "application/json")
        if reply.status != 200:
            return _error(reply.status, f"told to answer {reply.status}", reply.headers)
        if body.get("stream"):
            return StreamingResponse(_events(body, reply), 200, dict(reply.headers), "text/event-stream")
        whole = json.dumps(_completion(body, reply)).encode()
        if reply.cut:
            return StreamingResponse(_half(whole), 200, media_type="application/json")
        return Response(whole, 200, dict(reply.headers), "application/json")

    async def list_models(self, request: Request) -> Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in self.models]
        return Response(json.dumps({"object": "list", "data": data}), media_type="application/json")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps({"error": {"message": message, "type": "told", "code": None}})
    return Response(text, status, dict(headers or {}), "application/json")


def _completion(body: Body, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.refusal is not None:
        message |= {"content": None, "refusal": reply.refusal}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    whole = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
    }
    return whole | ({} if reply.usage is None else {"usage": dict(reply.usage)})


async def _half(whole: bytes) -> AsyncIterator[bytes]:
    yield whole[: len(whole) // 2]
    raise ConnectionResetError("told to cut")


async def _events(body: Body, reply: Reply) -> AsyncIterator[bytes]:
    def event(delta: Body, finish: str | None = None) -> bytes:
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    yield event({"role": "assistant", "content": ""})
    for thought in (reply.reasoning or "").split():
        await asyncio.sleep(reply.gap)
        yield event({"reasoning_content": thought})
    size = max(1, -(-len(reply.text) // reply.pieces))
    parts = [reply.text[start : start + size] for start in range(0, len(reply.text), size)]
    for number, part in enumerate(parts):
        if reply.cut and number >= len(parts) // 2:
            raise ConnectionResetError("told to cut")
        await asyncio.sleep(reply.gap if number else 0)
        yield event({"content": part})
    yield event({"refusal": reply.refusal} if reply.refusal else {}, reply.finish)
    if reply.usage is not None and body.get("stream_options", {}).get("include_usage"):
        last = {"id": "1", "object": "chat.completion.chunk", "choices": [], "usage": dict(reply.usage)}
        yield b"data: " + json.dumps(last).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


@contextlib.contextmanager
def chat_server(
    respond: Callable[[Body, int], Reply] = lambda body, number: Reply(),
    *,
    key: str | None = None,
    models: tuple[str, ...] = ("m",),
) -> Iterator[ChatServerDouble]:
    """A server on a free port of loopback, in a thread of this process; its `url` ends in /v1."""
    double = ChatServerDouble(respond, key=key, models=models)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", double.chat, methods=["POST"]),
            Route("/v1/models", double.list_models),
        ]
    )
    with serving(app) as url:
        double.url = f"{url}/v1"
        yield double


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """An ASGI application on a free port of loopback, in a thread; its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
