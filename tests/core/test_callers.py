"""Callers of a service: tokens, rights, and a rate that holds in every minute."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from noria.core.errors import ConfigError
from noria.core.service.callers import Caller, CallerConfig, Callers
from noria.core.service.hosting import running
from noria.core.service.serving import Request, Response, Service, json_response, route

SHOP, VIEWER, CHIEF = "shop-token-0123456789", "viewer-token-0123456789", "chief-token-0123456789"
TOKEN = "operators-own-token-0123"


async def who(request: Request) -> Response:
    return json_response({"caller": request.caller.name})


ROUTES = [
    route("/ask", who, methods=("POST",), access="chat"),
    route("/rate", who, methods=("POST",), access="feedback"),
    route("/change", who, methods=("POST",), access="write"),
    route("/look", who),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    callers = Callers(
        [
            (SHOP, Caller("shop", ("chat", "feedback"), 3)),
            (VIEWER, Caller("viewer", ("feedback",))),
            (CHIEF, Caller("chief", ("operate",))),
        ]
    )
    with running(Service("s", ROUTES, token=TOKEN, callers=callers, access_log=False)) as url:
        yield url


def call(url: str, path: str, token: str | None = None, *, method: str = "POST") -> tuple[int, Any, Any]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    request = urllib.request.Request(url + path, b"" if method == "POST" else None, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def test_rights(url: str) -> None:
    assert call(url, "/rate", SHOP)[:2] == (200, {"caller": "shop"})
    assert call(url, "/rate", VIEWER)[:2] == (200, {"caller": "viewer"})
    assert call(url, "/change", CHIEF)[:2] == (200, {"caller": "chief"})
    assert call(url, "/change", TOKEN)[:2] == (200, {"caller": "operator"})
    assert call(url, "/ask", TOKEN)[:2] == (200, {"caller": "operator"})
    for path, token in (("/ask", VIEWER), ("/ask", CHIEF), ("/change", SHOP), ("/change", VIEWER)):
        status, body, _ = call(url, path, token)
        assert (status, body["error"]["code"]) == (403, "no_right"), (path, token)
    for path in ("/ask", "/rate", "/change"):
        assert call(url, path)[0] == 401
        assert call(url, path, "wrong-token-0123456789")[0] == 401
    # who has no token reads nothing, on this machine either: each caller has one
    assert call(url, "/look", method="GET")[0] == 401
    assert call(url, "/metrics", method="GET")[0] == 401
    assert call(url, "/look", SHOP, method="GET")[0] == 403
    assert call(url, "/look", CHIEF, method="GET")[:2] == (200, {"caller": "chief"})
    assert call(url, "/health", method="GET")[0] == 200


def test_a_rate_is_refused_with_the_time_to_wait(url: str) -> None:
    answers = [call(url, "/ask", SHOP) for _ in range(5)]
    refused = [answer for answer in answers if answer[0] == 429]
    assert len(refused) >= 2
    assert 1 <= int(refused[0][2]["retry-after"]) <= 60
    assert call(url, "/ask", TOKEN)[0] == 200, "another caller's rate is its own"


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 9))
def test_no_minute_has_more_than_the_rate(gaps: list[float], rate: int) -> None:
    now = 0.0
    caller = Caller("c", (), rate, clock=lambda: now)
    passed = []
    for gap in gaps:
        now += gap
        wait = caller.wait()
        if not wait:
            passed.append(now)
        else:
            held = [one for one in passed if one > now - 60]
            assert len(held) == rate, "it was refused though the minute had room"
            assert held[0] + 60 <= now + wait
    for start in passed:
        assert sum(start <= one < start + 60 for one in passed) <= rate


def test_without_callers_this_machine_may_ask() -> None:
    with running(Service("s", ROUTES, access_log=False)) as url:
        assert call(url, "/ask")[:2] == (200, {"caller": "local"})
        assert call(url, "/change")[0] == 403
        assert call(url, "/look", method="GET")[:2] == (200, {"caller": "local"})


def test_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = CallerConfig(name="shop", token_env="SHOP_TOKEN", requests_per_minute=10)
    monkeypatch.delenv("SHOP_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"callers\.shop.*SHOP_TOKEN"):
        Callers.read([shop])
    monkeypatch.setenv("SHOP_TOKEN", "short")
    with pytest.raises(ConfigError, match="16 ASCII characters"):
        Callers.read([shop])
    monkeypatch.setenv("SHOP_TOKEN", SHOP)
    found = Callers.read([shop]).of(SHOP.encode())
    assert found is not None
    assert (found.name, found.rights, found.requests_per_minute) == ("shop", {"chat", "feedback"}, 10)
    with pytest.raises(ConfigError, match="another caller"):
        Callers.read([shop, CallerConfig(name="other", token_env="SHOP_TOKEN")])
