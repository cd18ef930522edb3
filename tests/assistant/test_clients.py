"""Clients that people have: curl, and LangChain's, against a gateway with a tool."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assistant.gateways import TOKEN, Gateway, gateway
from tests.assistant.test_tools import one_call, pictures_server, server


@pytest.fixture(scope="module", name="one")
def _one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("clients") / "data"
    with server(pictures_server) as (url, _):
        tools = {"draw": {"kind": "generate", "url": f"{url}/v1"}}
        with gateway(folder, one_call, parts={"tools": tools}) as one:
            yield one


def test_curl_asks_and_has_a_picture_made(one: Gateway, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    common = [
        "curl",
        "-sS",
        "--fail-with-body",
        "-H",
        f"authorization: Bearer {TOKEN}",
        "-H",
        "content-type: application/json",
    ]
    chat = {"model": "noria", "messages": [{"role": "user", "content": "draw a lamp"}]}
    done = subprocess.run(
        [*common, f"{one.url}/v1/chat/completions", "-d", json.dumps(chat)],
        capture_output=True,
        text=True,
        check=True,
    )
    message = json.loads(done.stdout)["choices"][0]["message"]
    assert message["shown"][0]["kind"] == "picture"
    made = subprocess.run(
        [*common, f"{one.url}/v1/images/generations", "-d", '{"prompt": "a lamp"}'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(made.stdout)["data"][0]["revised_prompt"] == "paint it red"


def test_langchains_client_asks_whole_and_streamed(one: Gateway) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(base_url=f"{one.url}/v1", api_key=TOKEN, model="noria")
    answer = model.invoke([("user", "draw a lamp")])
    assert "the picture is shown to the user" in answer.content
    assert answer.usage_metadata["total_tokens"] == 30, "both rounds count"
    assert one.trace(answer.response_metadata["id"])["trace"]["status"] == "ok"
    pieces = [piece.content for piece in model.stream([("user", "draw a lamp")])]
    assert "".join(pieces) == answer.content
