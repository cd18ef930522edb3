"""Rates and money of callers at two gateways that share PostgreSQL: they hold for both together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.service.service import opened_gateway
from noria.core.service.hosting import running
from tests.assistant.gateways import TOKEN, Gateway, settings
from tests.chat_server import ChatServerDouble, Reply, chat_server
from tests.postgres import postgres_server
from tests.waiting import until

pytest.importorskip("pg8000")
COST = (10 * 1.0 + 500 * 2.0) / 1e6
BODY = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 500}


@pytest.fixture(scope="module")
def backend() -> Iterator[ChatServerDouble]:
    usage = {"prompt_tokens": 10, "completion_tokens": 500}
    with chat_server(lambda body, number: Reply("hello", usage=usage)) as double:
        yield double


@pytest.fixture(scope="module", autouse=True)
def _control() -> Iterator[None]:
    with postgres_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NORIA_CONTROL", url)
        for name in ("RICH", "BUSY", "LONE"):
            patch.setenv(f"{name}_TOKEN", token(name))
        yield


def token(name: str) -> str:
    return f"{name.lower()}-token-0123456789"


@contextlib.contextmanager
def two(home: Path, backend: ChatServerDouble, **limits: Any) -> Iterator[list[Gateway]]:
    callers = [
        {"name": name.lower(), "token_env": f"{name}_TOKEN", **limit} for name, limit in limits.items()
    ]
    shared = {"control_env": "NORIA_CONTROL", "versions": str(home / "versions"), "callers": callers}
    config = AssistantConfig.model_validate(settings(backend.url, **shared))
    gateways = []
    with contextlib.ExitStack() as stack:
        for name in "ab":
            (home / name).mkdir(exist_ok=True)
            (home / name / "secret").write_text("0" * 64)
            opened = opened_gateway(home / name, config, token=TOKEN, companion=False, access_log=False)
            url = stack.enter_context(running(stack.enter_context(opened)))
            gateways.append(Gateway(url, home / name, backend))
        yield gateways


def ask(one: Gateway, name: str) -> int:
    status, said = one.call("/v1/chat/completions", BODY, token=token(name))
    assert status in (200, 429), said
    return status


def test_money_of_a_day_is_spent_once_and_to_the_end(tmp_path: Path, backend: ChatServerDouble) -> None:
    limit = 0.04
    with two(tmp_path, backend, RICH={"budget_per_day": limit}) as gateways:
        before = len(backend.seen)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: ask(gateways[n % 2], "RICH"), range(80)))
        assert (len(backend.seen) - before) * COST <= limit + 1e-4
        # what a request had reserved is free again once its cost is known, at either gateway
        until(lambda: time.sleep(0.6) or all(ask(one, "RICH") == 429 for one in gateways), 30)
        spent = (len(backend.seen) - before) * COST
        assert limit - 3 * COST < spent <= limit + 1e-4, "answers may cost a little more than was estimated"
    with two(tmp_path, backend, RICH={"budget_per_day": limit}) as gateways:  # a start forgets nothing
        # what was left at each may now be enough for one request together
        until(lambda: all(ask(one, "RICH") == 429 for one in gateways), 30)
        assert (len(backend.seen) - before) * COST <= limit + 1e-4


def test_a_rate_holds_for_both_and_one_of_them_may_use_all_of_it(
    tmp_path: Path, backend: ChatServerDouble
) -> None:
    with two(
        tmp_path, backend, BUSY={"requests_per_minute": 30}, LONE={"requests_per_minute": 20}
    ) as gateways:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: ask(gateways[n % 2], "BUSY"), range(80)))
        assert answers.count(200) == 30
        assert [ask(gateways[0], "LONE") for _ in range(25)] == [200] * 20 + [429] * 5
        assert ask(gateways[1], "LONE") == 429


def test_without_the_control_a_gateway_keeps_to_its_part(tmp_path: Path, backend: ChatServerDouble) -> None:
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        with postgres_server() as url:
            patch.setenv("NORIA_CONTROL", url)
            limits = {"RICH": {"budget_per_day": 1.0}, "BUSY": {"requests_per_minute": 30}}
            one, _ = stack.enter_context(two(tmp_path, backend, **limits))
            assert [ask(one, name) for name in limits] == [200, 200]
        statuses = []
        for _ in range(40):  # of a budget of 1.0, .02 is held
            status, said = one.call("/v1/chat/completions", BODY, token=token("RICH"))
            statuses.append(status)
            if status != 200:
                assert (status, said["error"]["code"]) == (503, "control_down")
        assert 1 <= statuses.count(200) <= 0.02 / COST + 1
        assert [ask(one, "BUSY") for _ in range(5)].count(200) == 2, "of 30 a minute, 3 are held"
