"""Tools for assistants, tried with the protocol's own client: what a caller may use is what it sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.assistant.gateways import TOKEN, Gateway, gateway

mcp = pytest.importorskip("mcp")
pytestmark = pytest.mark.anyio
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", name="one")
def _one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("mcp") / "data") as one:
        yield one


async def test_the_protocols_own_client_asks_rates_and_explains(one: Gateway) -> None:
    import httpx2
    from mcp.client import Client
    from mcp.client.streamable_http import streamable_http_client

    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(one.url + "/mcp", http_client=http)) as client,
    ):
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"ask", "give_feedback", "search_traces", "explain_answer", "compare_bundles"}
        asked = await client.call_tool("ask", {"question": "what is a noria?", "user": "ann"})
        assert asked.structured_content["answer"] == "brief|what is a noria?"
        trace = asked.structured_content["trace"]
        given = await client.call_tool("give_feedback", {"trace": trace, "value": 1})
        assert not given.is_error
        explained = await client.call_tool("explain_answer", {"trace": trace})
        assert explained.structured_content["feedback"][0]["value"] == 1
        refused = await client.call_tool("explain_answer", {"trace": "none"})
        assert refused.is_error
        compared = await client.call_tool("compare_bundles", {})
        assert compared.structured_content["champion"]["version"] == 1


def call(
    one: Gateway, method: str, params: Any = None, *, token: str | None = TOKEN, **more: Any
) -> tuple[int, Any]:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": META} | (params or {})} | more
    status, content, _ = one.raw("/mcp", body, token=token)
    return status, json.loads(content) if content else None


def test_a_caller_sees_and_calls_what_it_may(one: Gateway) -> None:
    listed = call(one, "tools/list", token=None)[1]["result"]
    assert [tool["name"] for tool in listed["tools"]] == ["ask", "give_feedback"], (
        "on this machine, without a token"
    )
    assert (listed["resultType"], listed["cacheScope"]) == ("complete", "private")
    _, answer = call(one, "tools/call", {"name": "search_traces", "arguments": {}}, token=None)
    assert "may not use it" in answer["error"]["message"]
    assert call(one, "tools/call", {"name": "promote"})[1]["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/explode", {}, -32601),
        ("tools/call", {"name": "ask", "arguments": []}, -32602),
        ("tools/list", {"_meta": META | {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}}, -32022),
    ],
    ids=["method", "arguments", "version"],
)
def test_faults_of_the_protocol(one: Gateway, method: str, params: Any, code: int) -> None:
    assert call(one, method, params)[1]["error"]["code"] == code


@pytest.mark.parametrize(
    "arguments",
    [{}, {"question": 3}, {"question": "x", "budget": 9}, {"question": "x", "model": "none"}],
    ids=range(4),
)
def test_faults_of_a_call_are_its_result(one: Gateway, arguments: Any) -> None:
    result = call(one, "tools/call", {"name": "ask", "arguments": arguments})[1]["result"]
    assert result["isError"]


def test_the_wire(one: Gateway, tmp_path: Path) -> None:
    assert call(one, "server/discover")[1]["result"]["supportedVersions"] == ["2026-07-28"]
    assert (
        call(one, "initialize", {"protocolVersion": "2025-06-18"})[1]["result"]["protocolVersion"]
        == "2025-06-18"
    )
    assert one.raw("/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"})[0] == 202
    for odd in ([], "x", {"jsonrpc": "1.0", "id": 1}, {"jsonrpc": "2.0", "id": None, "method": "ping"}):
        status, content, _ = one.raw("/mcp", odd)
        assert status == 400
        assert json.loads(content)["error"]["code"] == -32600
    assert one.raw("/mcp")[0] == 405
