"""Budgets that cover what is spent: the whole request, the rounds of tools, the shadow, and the day of each request."""

from __future__ import annotations

import asyncio
import datetime
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.service.answering.money import Allowance, Reservation
from noria.core.service.responses import HttpError
from tests.assistant.gateways import PRICES, Gateway, gateway
from tests.assistant.test_tools import calls, pictures_server, server
from tests.chat_server import Body, Reply
from tests.waiting import until

SHOP = "a-token-of-the-shop-0123"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", SHOP)


def caller(budget: float) -> list[dict[str, Any]]:
    return [{"name": "shop", "token_env": "SHOP_TOKEN", "budget_per_day": budget}]


def billed(body: Body, number: int) -> Reply:
    """A backend that reads all that it is sent, and answers as long as it may."""
    usage = {
        "prompt_tokens": len(str(body["messages"])) // 3,
        "completion_tokens": body.get("max_tokens", 1000),
    }
    return Reply("well", usage=usage)


def ask(one: Gateway, **more: Any) -> int:
    content = {"messages": [{"role": "user", "content": "hi"}], **more}
    return one.call("/v1/chat/completions", content, token=SHOP)[0]


def long_result(path: str, body: dict[str, Any]) -> Any:
    """An MCP server whose tool gives 39,000 letters."""
    listed = {"tools": [{"name": "search", "annotations": {"readOnlyHint": True}}]}
    found = {"content": [{"type": "text", "text": "x" * 39_000}]}
    return {"jsonrpc": "2.0", "id": 1, "result": listed if body["method"] == "tools/list" else found}


def costs(one: Gateway, *, shadow: bool = False) -> list[float]:
    """Costs of the answers so far."""
    traces = [one.trace(row["id"])["trace"] for row in one.call("/v1/traces")[1]["data"]]
    chosen = [trace for trace in traces if ("shadow" in trace.get("labels", {})) == shadow]
    return [trace["usage"].get("cost") or 0.0 for trace in chosen]


@pytest.mark.parametrize("stream", [False, True])
def test_thirty_two_requests_at_once_spend_no_more_than_the_limit(tmp_path: Path, stream: bool) -> None:
    words = "You help in a shop. " * 1500
    routes = {"brief": {"backend": "m", "system": words, "sampling": {"max_tokens": 8000}}}
    answer = (PRICES["input"] * len(words) / 3 + PRICES["output"] * 8000) / 1e6
    limit = 1.3 * answer
    with gateway(tmp_path / "data", billed, routes=routes, callers=caller(limit)) as one:
        with ThreadPoolExecutor(32) as pool:
            sent = [
                pool.submit(
                    one.raw,
                    "/v1/chat/completions",
                    {"messages": [{"role": "user", "content": "hi"}], "stream": stream},
                    token=SHOP,
                )
                for _ in range(32)
            ]
            statuses = [each.result()[0] for each in sent]
        assert sorted(statuses) == [200] + 31 * [429]
        assert len(one.backend.seen) == 1


def test_a_long_result_of_a_tool_does_not_take_the_answer_beyond_the_limit(tmp_path: Path) -> None:
    def searching(body: Body, number: int) -> Reply:
        return billed(body, number) if body["messages"][-1]["role"] == "tool" else calls("search")

    with server(long_result) as (url, _):
        parts = {"tools": {"shop": {"kind": "mcp", "url": url}}, "tool_rounds": 2}
        for limit, status, rounds in ((0.01, 429, 1), (0.03, 200, 2)):
            with gateway(tmp_path / str(limit), searching, parts=parts, callers=caller(limit)) as one:
                assert ask(one, max_tokens=10) == status
                assert len(one.backend.seen) == rounds, "what cannot be paid is not asked"
                assert until(lambda: len(costs(one)) == 1)
                (cost,) = costs(one)
                assert 0 < cost <= limit
                (row,) = one.call("/v1/traces")[1]["data"]
                kinds = [span["kind"] for span in one.trace(row["id"])["trace"]["spans"]]
                assert kinds == ["plan", "tool", "chat"]


@pytest.mark.parametrize("stream", [False, True])
def test_money_that_ends_between_rounds_is_said_as_at_the_start_and_what_was_said_is_kept(
    tmp_path: Path, stream: bool
) -> None:
    def speaking(body: Body, number: int) -> Reply:
        assert body["messages"][-1]["role"] != "tool", "the second round cannot be paid"
        reply = json.loads(calls("search").body or b"")
        reply["choices"][0]["message"]["content"] = "I look it up."
        return Reply(body=json.dumps(reply).encode())

    with server(long_result) as (url, _):
        parts = {"tools": {"shop": {"kind": "mcp", "url": url}}, "tool_rounds": 2}
        with gateway(tmp_path / "data", speaking, parts=parts, callers=caller(0.01)) as one:
            content = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10, "stream": stream}
            status, body, _ = one.raw("/v1/chat/completions", content, token=SHOP)
            lines = [line for line in body.decode().split("\n") if line]
            error = json.loads(lines[-1].removeprefix("data: "))["error"]
            assert status == (200 if stream else 429), "a stream has begun: its last event is the error"
            assert (error["code"], error["message"]) == (
                "budget_spent",
                "the budget of this caller for today is spent",
            )
            assert until(lambda: one.call("/v1/traces")[1]["data"])
            (row,) = one.call("/v1/traces")[1]["data"]
            trace = one.trace(row["id"])["trace"]
            assert trace["status"] == "failed"
            chat = trace["spans"][-1]
            assert chat["error"]["kind"] == "budget"
            assert chat["output"]["content"] == "I look it up."
            assert (trace["usage"]["tokens_in"], trace["usage"]["tokens_out"]) == (10, 5)
            assert trace["usage"]["cost"] == pytest.approx(
                (10 * PRICES["input"] + 5 * PRICES["output"]) / 1e6
            )


def test_tools_of_one_request_cost_no_more_than_is_reserved_for_them(tmp_path: Path) -> None:
    """A model that calls ten tools in one round, where one a round is reserved."""

    def many(body: Body, number: int) -> Reply:
        return Reply("well") if body["messages"][-1]["role"] == "tool" else calls(*10 * ["make"], prompt="x")

    with server(pictures_server) as (url, asked):
        tools = {"make": {"kind": "generate", "url": f"{url}/v1", "cost": 0.02}}
        parts = {"tools": tools, "tool_rounds": 2}
        with gateway(tmp_path / "data", many, parts=parts, callers=caller(0.05)) as one:
            assert ask(one, max_tokens=10) == 200
            assert len(asked) == 2
            assert until(lambda: costs(one))
            assert sum(costs(one)) <= 0.05


def test_the_shadow_has_money_of_its_own_and_takes_none_of_the_callers(tmp_path: Path) -> None:
    routes = {
        "brief": {"backend": "m", "sampling": {"max_tokens": 1000}},
        "kind": {"backend": "m", "sampling": {"max_tokens": 3000}},
    }
    answer = PRICES["output"] * 1000 / 1e6
    wish = {"name": "dearer", "challenger": "kind", "shadow_requests": 100}
    settings: dict[str, Any] = {"routes": routes, "callers": caller(4.5 * answer), "shadow_share": 1.0}
    with gateway(tmp_path / "data", billed, **settings) as one:
        assert one.call("/v1/experiments", wish)[0] == 201
        assert [ask(one), ask(one)] == [200, 200]
        assert until(lambda: len(costs(one, shadow=True)) == 1 and len(costs(one)) == 2)
        assert sum(costs(one, shadow=True)) <= 4.5 * answer
    with gateway(tmp_path / "data", billed, **settings) as one:
        assert [ask(one) for _ in range(4)] == [200, 200, 429, 429], "as if it had not been started again"
        assert len(costs(one, shadow=True)) == 1, "the money of the shadow is remembered, too"


def test_what_was_reserved_yesterday_is_settled_in_yesterdays_budget() -> None:
    days = [datetime.date(2026, 1, 1)]
    allowance = Allowance(1.0, today=lambda: days[0])

    async def over_midnight() -> None:
        late, cheap = Reservation(allowance), Reservation(allowance)
        await late.add(0.3)
        await cheap.add(0.3)
        days[0] = datetime.date(2026, 1, 2)
        early = Reservation(allowance)
        await early.add(0.8)
        late.settle(0.9)
        cheap.settle(None)
        today = allowance.present()
        assert (today.spent, today.aside) == (0.0, 0.8)
        with pytest.raises(HttpError, match="spent"):
            await Reservation(allowance).add(0.3)
        early.settle(0.5)
        assert (today.spent, today.aside) == (0.5, 0.0)

    asyncio.run(over_midnight())


def test_a_round_within_its_reservation_is_sent_also_when_others_spent_the_rest() -> None:
    allowance = Allowance(1.0)

    async def both() -> None:
        one, other = Reservation(allowance), Reservation(allowance)
        await one.add(0.5)
        await other.add(0.4)
        other.settle(0.8)
        await one.add(0.0)
        with pytest.raises(HttpError, match="spent"):
            await one.add(0.1)

    asyncio.run(both())


def test_a_longest_answer_that_is_no_number_is_said_in_a_line(tmp_path: Path) -> None:
    routes = {"brief": {"backend": "m", "sampling": {"max_tokens": "many"}}}
    with gateway(tmp_path / "data", billed, routes=routes, callers=caller(1.0)) as one:
        content = {"messages": [{"role": "user", "content": "hi"}]}
        status, said = one.call("/v1/chat/completions", content, token=SHOP)
        assert (status, said["error"]["code"]) == (503, "no_estimate")
        assert one.backend.seen == []
