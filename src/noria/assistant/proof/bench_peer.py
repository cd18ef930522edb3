"""Processes of the gateway's bench: the backend that all sides ask, and a pass-through as FastAPI's users write it.

python -m noria.assistant.proof.bench_peer backend
python -m noria.assistant.proof.bench_peer fastapi http://127.0.0.1:PORT/v1
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

from pydantic import BaseModel

from noria.core.errors import needing

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "A short answer of the kind that a model gives. " * 8,
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 120, "completion_tokens": 80, "total_tokens": 200},
    }
).encode()


class Chat(BaseModel):
    """A request, typed as FastAPI's users type it."""

    model: str
    messages: list[dict[str, Any]]
    temperature: float | None = None
    stream: bool = False


async def backend(*, echo: bool = False) -> None:
    """Answer every request as fast as a socket can: with the same completion, or with its system message."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
                body = await reader.readexactly(lengths[0]) if lengths else b""
                answer = _echo(body) if echo else ANSWER
                writer.write(head % len(answer) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    print(f"serving on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def _echo(body: bytes) -> bytes:
    """The system message, or for a judge's questions a yes where the material holds the word `thorough`."""
    completion, messages = json.loads(ANSWER), json.loads(body)["messages"]
    content, last = messages[0]["content"], str(messages[-1]["content"])
    if "Questions:" in last:
        content = json.dumps({"answers": [{"number": 1, "answer": "yes" if "thorough" in last else "no"}]})
    completion["choices"][0]["message"]["content"] = content
    return json.dumps(completion).encode()


def fastapi(url: str) -> None:
    """Pass requests to the backend through httpx, typed by pydantic at the door."""
    with needing("proof"):
        import httpx
        import uvicorn
        from fastapi import FastAPI, Response

    app = FastAPI()
    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=256, max_keepalive_connections=256))

    async def chat(request: Chat) -> Response:
        body = request.model_dump(exclude_none=True)
        answer = await client.post(f"{url}/chat/completions", json=body, timeout=60)
        return Response(answer.content, answer.status_code, media_type="application/json")

    chat.__annotations__ = {
        "request": Chat
    }  # a name as text would be looked up where FastAPI knows no `Response`
    app.post("/v1/chat/completions")(chat)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    print(f"serving on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, loop="uvloop"))
    server.run(sockets=[listening])


if __name__ == "__main__":
    if sys.argv[1] in ("backend", "echo"):
        asyncio.run(backend(echo=sys.argv[1] == "echo"))
    else:
        fastapi(sys.argv[2])
