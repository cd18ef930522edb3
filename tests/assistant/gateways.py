"""A gateway over a double of a backend, in this process or in one of its own; for the tests of the assistant."""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.service.service import opened_gateway
from noria.core.service.hosting import Launched, launched, running
from tests.chat_server import Body, ChatServerDouble, Reply, chat_server

TOKEN = "operators-own-token-0123"
PRICES = {"input": 1.0, "output": 2.0}


def echo(body: Body, number: int) -> Reply:
    """Answer with the last message, and the system message before it."""
    system = next((m["content"] for m in body["messages"] if m["role"] == "system"), "")
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    return Reply(f"{system}|{text}")


def settings(url: str, **changes: Any) -> dict[str, Any]:
    """Settings of a gateway with two routes over one backend."""
    return {
        "backends": {"m": {"url": url, "model": "m", "backoff": 0.01, "timeout": 5, "prices": PRICES}},
        "routes": {"brief": {"backend": "m", "system": "brief"}, "kind": {"backend": "m", "system": "kind"}},
        "begin": "brief",
        "seconds": 20,
    } | changes


@dataclass
class Gateway:
    """A gateway that runs."""

    url: str
    folder: Path
    backend: ChatServerDouble

    def call(
        self, path: str, content: Any = None, *, method: str | None = None, token: str | None = TOKEN
    ) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        status, body, _ = self.raw(path, content, method=method, token=token)
        return status, json.loads(body)

    def raw(
        self, path: str, content: Any = None, *, method: str | None = None, token: str | None = TOKEN
    ) -> tuple[int, bytes, Any]:
        """Status, bytes and headers of an answer."""
        headers = {"content-type": "application/json"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def ask(self, text: str = "hi", **more: Any) -> Any:
        """The completion that answers a text."""
        status, answer = self.call(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": text}]} | more
        )
        assert status == 200, answer
        return answer

    def trace(self, number: str) -> Any:
        """A trace with what was said of it."""
        status, answer = self.call(f"/v1/traces/{number}")
        assert status == 200, answer
        return answer


@contextlib.contextmanager
def gateway(
    folder: Path, respond: Callable[[Body, int], Reply] = echo, *, companion: bool = False, **changes: Any
) -> Iterator[Gateway]:
    """A gateway on a thread of this process."""
    with chat_server(respond) as backend:
        config = AssistantConfig.model_validate(settings(backend.url, **changes))
        opened = opened_gateway(folder, config, token=TOKEN, companion=companion, access_log=False)
        with opened as service, running(service) as url:
            yield Gateway(url, folder, backend)


@contextlib.contextmanager
def gateway_process(folder: Path, url: str, *, companion: bool = False, **changes: Any) -> Iterator[Launched]:
    """A gateway in a process of its own, by the command that a user types."""
    file = folder.parent / "noria.yaml"
    file.write_text(json.dumps(settings(url, **changes)))
    flag = "--companion" if companion else "--no-companion"
    command = [sys.executable, "-m", "noria.cli", "serve", "--config", str(file), "--folder", str(folder)]
    with launched([*command, "--port", "0", flag], folder.parent, env={"NORIA_TOKEN": TOKEN}) as process:
        yield process
