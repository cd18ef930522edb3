"""An OpenAI-compatible server with two stand-ins for models, for trying the gateway where there is no model.

`talker` rambles, and forgets what it was asked in two of five questions; told to be brief, it answers. Asked to judge,
both `talker` and `judge` look for the words "The answer is". They are no language models: they stand where yours will.
"""

from __future__ import annotations

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILLER = "That is an interesting question. Many people ask it. There is a lot that one could say. "


def answer(body: dict[str, Any]) -> str:
    """What the stand-in of this name says."""
    last = str(body["messages"][-1]["content"])
    if "Questions:" in last:
        good = "The answer is" in last
        answers = [
            {"number": 1, "answer": _yes(good)},
            {"number": 2, "answer": _yes(good)},
            {"number": 3, "answer": "no"},
        ]
        return json.dumps({"answers": answers})
    fact = f"The answer is {int(hashlib.sha256(last.encode()).hexdigest(), 16) % 100}."
    brief = any(
        "three sentences" in str(one["content"]) for one in body["messages"] if one["role"] == "system"
    )
    forgets = int(hashlib.sha256(b"forgets" + last.encode()).hexdigest(), 16) % 5 < 2
    return fact if brief else FILLER + ("But back to you!" if forgets else fact)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


class Handler(BaseHTTPRequestHandler):
    """Answers chat completions, and lists the two models."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """List the models."""
        self._send(
            {"object": "list", "data": [{"id": one, "object": "model"} for one in ("talker", "judge")]}
        )

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = answer(body)
        usage = {"prompt_tokens": len(json.dumps(body["messages"])) // 4, "completion_tokens": len(text) // 4}
        if body.get("stream"):
            self._stream(body["model"], text, usage)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send(
            {
                "id": "1",
                "object": "chat.completion",
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
        )

    def _stream(self, model: str, text: str, usage: dict[str, int]) -> None:
        """Send an answer word by word."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        deltas = [{"content": word + " "} for word in text.split()]
        choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
        choices.append([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        for n, choice in enumerate([*choices, []]):
            more = {"usage": usage} if n == len(choices) else {}
            chunk = {"id": "1", "object": "chat.completion.chunk", "model": model, "choices": choice} | more
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _send(self, content: dict[str, Any]) -> None:
        reply = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8001
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(f"serving on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
