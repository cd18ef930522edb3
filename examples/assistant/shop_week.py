"""A week of a shop in half a minute: a gateway, two prompts, customers who rate, and the better prompt wins by itself.

Everything runs on loopback. The model is a stand-in that repeats its system prompt, and the customers are simulated:
they like a thorough answer in eight of ten cases, and a brief one in four.
"""

from __future__ import annotations

import concurrent.futures
import json
import random
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.service.service import opened_gateway
from noria.core.service.hosting import running

TOKEN = "a-token-of-this-example"


class StandIn(BaseHTTPRequestHandler):
    """A chat model that says which system prompt it was given."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a request with its system prompt."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": body["messages"][0]["content"]}
        usage = {"prompt_tokens": 20, "completion_tokens": 10}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""


def main() -> None:
    """Run the week, and say who won."""
    backend = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    config = AssistantConfig.model_validate(
        {
            "backends": {"m": {"url": f"http://127.0.0.1:{backend.server_port}/v1", "model": "m"}},
            "routes": {
                "brief": {"backend": "m", "system": "brief"},
                "thorough": {"backend": "m", "system": "thorough"},
            },
            "begin": "brief",
            "promote": "auto",
        }
    )
    with (
        tempfile.TemporaryDirectory() as home,
        opened_gateway(Path(home) / "data", config, token=TOKEN, access_log=False) as service,
        running(service) as url,
    ):
        wish = {
            "name": "week",
            "challenger": "thorough",
            "shadow_requests": 0,
            "canary_units": 0,
            "planned": 600,
            "least": 50,
        }
        started = call(url, "/v1/experiments", wish)
        for row in started["power"]:
            print(f"power to find {row['effect']:+.0%}: {row['power']:.0%}")
        customers(url, 0, 20)
        week(url)
        time.sleep(1.0)
        print("the shop now answers by:", ask(url, "one more customer"))
    backend.shutdown()


def week(url: str) -> None:
    """Let customers come until the experiment has ended."""
    for day in range(1, 30):
        customers(url, 20 + 60 * (day - 1), 60)
        time.sleep(1.2)
        (found,) = call(url, "/v1/experiments")["data"]
        print(f"day {day}: {found['stage']}: {found['reason']}")
        if found["stage"] not in ("shadow", "canary", "ab"):
            return


def customers(url: str, first: int, number: int) -> None:
    """Customers who ask once, and rate what they got."""
    luck = random.Random(first)

    def one(n: int, draw: float) -> None:
        messages = [{"role": "user", "content": "Do you have boats?"}]
        answer = call(url, "/v1/chat/completions", {"user": f"customer {n}", "messages": messages})
        liked = draw < (0.8 if answer["choices"][0]["message"]["content"] == "thorough" else 0.4)
        call(url, "/v1/feedback", {"target": answer["id"], "value": liked, "client_key": "1"})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(first, first + number), [luck.random() for _ in range(number)]))


def ask(url: str, user: str) -> str:
    """What a user is answered."""
    answer = call(
        url, "/v1/chat/completions", {"user": user, "messages": [{"role": "user", "content": "Hello?"}]}
    )
    return str(answer["choices"][0]["message"]["content"])


def call(url: str, path: str, content: Any = None) -> Any:
    """The JSON that a call of the gateway is answered with."""
    data = None if content is None else json.dumps(content).encode()
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=30) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
