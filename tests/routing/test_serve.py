"""The service over real HTTP: live traffic, streams, backends that fail in every way, and what a caller gets wrong."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from noria.core.chat import Answer, ChatRequest, ChatServer, Prices
from noria.core.errors import DataError
from noria.core.service.hosting import running
from noria.routing.pool.config import Member, PoolConfig
from noria.routing.pool.pool import open_pool
from noria.routing.routers.baselines import BestSingle
from noria.routing.service.config import ServeLimits
from noria.routing.service.health import Health
from noria.routing.service.service import routing_service
from noria.routing.tables.table import Route
from tests.chat_server import Body, ChatServerDouble, Reply, chat_server

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx2")

ROUTES = (Route("a"), Route("b"), Route("c", "tool"))


@contextmanager
def serving(
    respond: Callable[[Body, int], Reply],
    *,
    mean: Sequence[float] = (0.9, 0.6, 0.3),
    **settings: Any,
) -> Iterator[tuple[str, ChatServerDouble]]:
    """A router that likes a, then b, then c, in front of one server that plays all of them."""
    in_flight = settings.pop("in_flight", 256)
    limits = settings.pop("limits", ServeLimits(patience=2.0, seconds=20.0))
    timeout = settings.pop("timeout", 5.0)
    router = BestSingle(ROUTES, np.array([3.0, 2.0, 1.0]), mean=np.array(mean))
    with chat_server(respond) as double:
        members = tuple(
            Member(
                name=r.model,
                server=ChatServer(
                    url=double.url,
                    model=r.model,
                    attempts=1,
                    timeout=timeout,
                    in_flight=in_flight,
                    prices=Prices(input=1, output=1),
                ),
                strategies=(r.strategy,),
            )
            for r in ROUTES
        )
        pool = open_pool(PoolConfig(models=members))
        with running(routing_service(router, pool, limits=limits, access_log=False, **settings)) as url:
            yield url, double


def ask(url: str, **body: Any) -> Any:
    content = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]} | body
    return httpx.post(f"{url}/v1/chat/completions", json=content, timeout=30)


def events(url: str, **body: Any) -> tuple[int, list[Any]]:
    answer = ask(url, stream=True, **body)
    parts = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: ")]
    return answer.status_code, [part if part == "[DONE]" else json.loads(part) for part in parts]


def says_its_name(body: Body, number: int) -> Reply:
    return Reply(f"{body['model']} says: {body['messages'][-1]['content']}")


def failing(*models: str, reply: Reply) -> Callable[[Body, int], Reply]:
    return lambda body, number: reply if body["model"] in models else says_its_name(body, number)


# -- what works -----------------------------------------------------------------------------------------------------


def test_the_openai_client_is_served_by_whom_the_router_chose() -> None:
    with serving(says_its_name) as (url, double):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        done = client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": "hi"}],
            temperature=0.3,
            max_tokens=7,
            stop=["x"],
        )
        assert done.choices[0].message.content == "a says: hi"
        assert (done.model, done.choices[0].finish_reason, done.usage.total_tokens) == ("a", "stop", 15)
        sent = double.seen[0]
        assert {k: sent[k] for k in ("temperature", "max_tokens", "stop", "model")} == {
            "temperature": 0.3,
            "max_tokens": 7,
            "stop": ["x"],
            "model": "a",
        }
        assert [m.id for m in client.models.list().data] == ["auto", "a", "b", "c | tool"]
        named = client.chat.completions.create(model="b", messages=[{"role": "user", "content": "hi"}])
        assert named.choices[0].message.content == "b says: hi"
        with client.chat.completions.stream(
            model="auto", messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            for _ in stream:
                pass
            assert stream.get_final_completion().choices[0].message.content == "a says: hi"


def test_nobody_waits_for_what_the_first_decision_loads() -> None:
    seen: list[str] = []

    class Loading(BestSingle):
        def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Any:
            seen.extend(texts)
            return super().quality(texts, datasets)

    router = Loading((Route("a"),), np.array([1.0]), mean=np.array([1.0]))
    with chat_server(says_its_name) as double:
        members = (Member(name="a", server=ChatServer(url=double.url, model="a", attempts=1)),)
        pool = open_pool(PoolConfig(models=members))
        with running(routing_service(router, pool, access_log=False)) as url:
            assert len(seen) == 1
            assert ask(url).status_code == 200
        assert len(double.seen) == 1


def test_a_stream_has_pieces_usage_and_an_end() -> None:
    with serving(says_its_name) as (url, _):
        status, found = events(url, stream_options={"include_usage": True})
    assert status == 200
    assert found[-1] == "[DONE]"
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in found[:-2])
    assert text == "a says: hi"
    assert sum("content" in e["choices"][0]["delta"] for e in found[:-2]) > 2
    assert found[-3]["choices"][0]["finish_reason"] == "stop"
    assert found[-2]["usage"]["total_tokens"] == 15


def test_images_and_strategies_pass_through() -> None:
    parts = [
        {"type": "text", "text": "2+2?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]
    with serving(lambda b, n: Reply("<calc>2+2</calc>"), mean=(0.1, 0.2, 0.9)) as (url, double):
        answer = ask(url, messages=[{"role": "system", "content": "s"}, {"role": "user", "content": parts}])
        assert answer.json()["choices"][0]["message"]["content"] == "4"
        assert answer.headers["x-noria-route"] == "c | tool"
        sent = double.seen[0]["messages"]
        assert sent[1]["content"][:2] == parts
        assert "<calc>" in sent[1]["content"][2]["text"]
        _, found = events(url)
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in found[:-1]) == "4"


def test_the_length_is_asked_for_as_each_server_calls_it_and_models_here_keep_to_it() -> None:
    asked: list[ChatRequest] = []

    class Here:
        async def ask(self, request: ChatRequest) -> Answer:
            asked.append(request)
            return Answer("here")

    with chat_server() as double:
        other = ChatServer(url=double.url, model="m", length_field="max_completion_tokens", attempts=1)
        pool = open_pool(PoolConfig(models=(Member(name="a", server=other),)))
        pool.models["b"] = Here()
        pool.add(Route("b"))
        router = BestSingle(pool.routes, np.array([1.0, 1.0]), mean=np.array([0.9, 0.5]))
        with running(routing_service(router, pool, access_log=False)) as url:
            assert ask(url, max_tokens=7).status_code == 200
            assert ask(url, model="b", max_completion_tokens=7, temperature=0.5, seed=3).status_code == 200
    assert double.seen[0]["max_completion_tokens"] == 7
    assert "max_tokens" not in double.seen[0]
    (own,) = asked
    assert (own.max_tokens, own.temperature, own.seed) == (7, 0.5, 3)


def test_a_budget_knows_messages_of_every_shape() -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "and?"}, {"type": "input_audio", "input_audio": {}}],
        },
    ]
    with chat_server() as double:
        server = ChatServer(url=double.url, model="m", attempts=1, prices=Prices(input=1, output=1))
        pool = open_pool(PoolConfig(models=(Member(name="a", server=server),)), budget=1.0)
        router = BestSingle((Route("a"),), np.array([1.0]), mean=np.array([1.0]))
        with running(routing_service(router, pool, access_log=False)) as url:
            assert ask(url, messages=turns).status_code == 200


def test_a_refusal_is_passed_on() -> None:
    with serving(lambda b, n: Reply(refusal="no")) as (url, _):
        message = ask(url).json()["choices"][0]["message"]
        assert (message["content"], message["refusal"]) == (None, "no")
        _, found = events(url)
        assert found[-2]["choices"][0]["delta"] == {"refusal": "no"}


def test_the_decision_alone() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with serving(says_its_name) as (url, double):
        told = httpx.post(f"{url}/v1/route", json=body).json()
        assert told["route"] == "a"
        assert [r["route"] for r in told["ranking"]] == ["a", "b", "c | tool"]
        assert "0.900" in told["reason"]
        assert not double.seen
    with serving(says_its_name, route_only=True) as (url, double):
        assert ask(url).json()["route"] == "a"
        assert not double.seen


# -- backends that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [Reply(status=500), Reply(status=429), Reply(status=401), Reply(status=400), Reply(cut=True, pieces=1),
     Reply(body=b"<html>"), Reply(hang=True)],
    ids=["500", "429", "401", "400", "cut", "garbage", "hang"],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_the_next_one_answers(bad: Reply, stream: bool) -> None:
    with serving(failing("a", reply=bad), limits=ServeLimits(patience=0.6, seconds=20)) as (url, _):
        if stream:
            status, found = events(url)
            assert status == 200
            text = "".join(e["choices"][0]["delta"].get("content", "") for e in found[:-1])
        else:
            answer = ask(url)
            assert answer.status_code == 200
            assert answer.headers["x-noria-tried"] == "a"
            text = answer.json()["choices"][0]["message"]["content"]
        assert text == "b says: hi"


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        (Reply(status=500), 502, "backend_server"),
        (Reply(status=429), 429, "rate_limited"),
        (Reply(status=401), 502, "backend_auth"),
        (Reply(status=404), 502, "backend_not_found"),
        (Reply(status=400), 400, "bad_request"),
        (Reply(body=b"<html>"), 502, "backend_garbage"),
        (Reply(cut=True, pieces=1), 502, "backend_cut"),
        (Reply(hang=True), 504, "backend_timeout"),
    ],
    ids=lambda v: str(v) if isinstance(v, int) else "",
)
def test_when_nobody_answers_the_status_says_why(bad: Reply, status: int, code: str) -> None:
    with serving(lambda b, n: bad, limits=ServeLimits(patience=0.3, seconds=20)) as (url, double):
        answer = ask(url)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert len(double.seen) == 3
        streamed = ask(url, stream=True)
        assert streamed.status_code == status


def test_a_stream_that_breaks_in_the_middle_is_told_and_has_no_end() -> None:
    with serving(lambda b, n: Reply("abcdef", pieces=6, cut=True)) as (url, _):
        status, found = events(url)
    assert status == 200
    assert found[-1]["error"]["code"] == "backend_cut"
    assert "[DONE]" not in found
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in found[:-1]) == "abc"


def test_who_fails_again_and_again_is_left_out_for_a_while() -> None:
    limits = ServeLimits(patience=2, seconds=20, failures=2, rest=30)
    with serving(failing("a", reply=Reply(status=500)), limits=limits) as (url, double):
        for _ in range(5):
            assert ask(url).status_code == 200
        assert [b["model"] for b in double.seen].count("a") == 2
        assert 'noria_routing_resting{model="a"} 1.0' in httpx.get(f"{url}/metrics").text


def test_a_caller_who_leaves_a_stream_gives_the_backends_only_place_back() -> None:
    slow = Reply("abcdefghij" * 4, pieces=40, gap=0.2)
    with serving(lambda b, n: slow if n < 2 else Reply("ok"), in_flight=1) as (url, _):
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        for _ in range(2):
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
                next(answer.iter_lines())
                assert answer.headers["x-noria-route"] == "a"
        assert ask(url).headers["x-noria-route"] == "a"


def test_rest_grows_and_ends() -> None:
    now = [0.0]
    health = Health(failures=2, rest=1.0, clock=lambda: now[0])
    health.bad("m")
    assert not health.resting("m")
    for wait in (1.0, 2.0, 4.0):
        health.bad("m")
        now[0] += wait * 0.99
        assert health.resting("m")
        now[0] += wait * 0.02
        assert not health.resting("m")
    health.good("m")
    health.bad("m")
    assert not health.resting("m")


def test_keys_and_words_are_in_no_answer_metric_or_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POOL_KEY", "the-pools-own-key")
    caplog.set_level("DEBUG")
    with chat_server(key="other") as double:
        server = ChatServer(url=double.url, model="m", key_env="POOL_KEY", attempts=1)
        pool = open_pool(PoolConfig(models=(Member(name="a", server=server),)))
        router = BestSingle((Route("a"),), np.array([1.0]), mean=np.array([1.0]))
        with running(routing_service(router, pool, access_log=True)) as url:
            answer = ask(url, messages=[{"role": "user", "content": "my own secret words"}])
            metrics = httpx.get(f"{url}/metrics").text
    assert answer.status_code == 502
    everything = answer.text + str(answer.headers) + metrics + caplog.text
    assert "the-pools-own-key" not in everything
    assert "secret words" not in everything


# -- callers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"[]", 400, "bad_json"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400, "bad_json"),
        (b"[" * 100_000, 400, "bad_json"),
        (b'{"messages": []}', 400, "no_messages"),
        (b'{"messages": "hi"}', 400, "no_messages"),
        (b'{"messages": [{"role": "user"}], "model": "gpt-9"}', 404, "model_not_found"),
        (b'{"messages": [{"role": "wizard", "content": "x"}]}', 400, "bad_message"),
        (b'{"messages": [{"role": "user", "content": 3}]}', 400, "bad_message"),
        (b'{"messages": [{"role": "user", "content": [3]}]}', 400, "bad_message"),
        (b'{"messages": ["x"]}', 400, "bad_message"),
        (b'{"messages": [{"role": "system", "content": "x"}]}', 400, "no_question"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 2}', 400, "one_choice"),
        (b'{"messages": [{"role": "user", "content": "x"}], "tools": [{}]}', 400, "no_tools"),
        (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', 400, "bad_message"),
        *(
            (b'{"messages": [{"role": "user", "content": "x"}], %b}' % field, 400, "bad_sampling")
            for field in (
                b'"temperature": "hot"',
                b'"temperature": -1',
                b'"top_p": 2',
                b'"seed": 1.5',
                b'"max_tokens": -1000000',
                b'"max_tokens": true',
                b'"max_completion_tokens": 0',
                b'"stop": {"a": 1}',
                b'"stop": [1]',
                b'"response_format": "json"',
            )
        ),
    ],
)
def test_what_is_wrong_with_a_request(body: bytes, status: int, code: str) -> None:
    with serving(says_its_name) as (url, double):
        answer = httpx.post(f"{url}/v1/chat/completions", content=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert not double.seen


def test_sizes_are_capped() -> None:
    with serving(says_its_name, limits=ServeLimits(body_bytes=1000)) as (url, _):
        assert ask(url, messages=[{"role": "user", "content": "x" * 2000}]).status_code == 413


def test_a_pool_without_the_routers_routes_is_refused() -> None:
    router = BestSingle((Route("z"),), np.array([1.0]), mean=np.array([1.0]))
    pool = open_pool(PoolConfig(models=(Member(name="a", server=ChatServer(url="http://h/v1", model="m")),)))
    with pytest.raises(DataError, match="none of the router's routes"):
        routing_service(router, pool)


def test_two_hundred_in_flight_are_all_answered() -> None:
    """Backends of which one in ten requests fails: nothing is lost, each has a right status.

    No backend answers before more than a hundred requests are in flight.
    """

    def few() -> bool:
        return double.most_in_flight <= 100

    def respond(body: Body, number: int) -> Reply:
        wait = 0.1 + 0.1 * (number * 37 % 11) / 10
        return Reply("ok", status=503 if number % 10 == 3 else 200, delay=wait, held=few)

    async def load(url: str) -> list[int]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}

            async def one() -> int:
                answer = await client.post(f"{url}/v1/chat/completions", json=body)
                if answer.status_code == 200:
                    assert answer.json()["choices"][0]["message"]["content"] == "ok"
                return int(answer.status_code)

            return list(await asyncio.gather(*(one() for _ in range(200))))

    limits = ServeLimits(patience=30, seconds=60, failures=10**6)
    with serving(respond, limits=limits, timeout=30.0) as (url, double):
        statuses = asyncio.run(load(url))
        text = httpx.get(f"{url}/metrics").text
    assert len(statuses) == 200
    assert set(statuses) <= {200, 502}
    assert statuses.count(200) >= 190  # three in a row would have to fail
    count = sum(
        float(v) for v in re.findall(r'noria_routing_answers_total\{outcome="ok",route="[^"]+"\} (\S+)', text)
    )
    assert count == statuses.count(200)


def test_an_answer_that_costs_is_counted() -> None:
    with serving(says_its_name) as (url, _):
        ask(url)
        text = httpx.get(f"{url}/metrics").text
    found = re.search(r'noria_routing_cost_total\{route="a"\} (\S+)', text)
    assert found is not None
    assert float(found[1]) == pytest.approx(15e-6)
    assert math.isfinite(float(found[1]))
    assert isinstance(Answer("x").cost, type(None))


# -- live traffic ---------------------------------------------------------------------------------------------------


@contextmanager
def pooled(
    respond: Callable[[Body, int], Reply], limits: ServeLimits | None = None, **servers: Any
) -> Iterator[Any]:
    """A pool of members as its file has them: `a={…}` are settings of a's server over those of batch work."""
    strategies = servers.pop("strategies", {})
    with chat_server(respond) as double:
        members = [
            {
                "name": name,
                "server": {"url": double.url, "model": name}
                | {k: v for k, v in settings.items() if k != "in"},
                "strategies": settings.get("in", ("direct",)),
            }
            for name, settings in servers.items()
        ]
        pool = open_pool(PoolConfig(models=members, strategies=strategies))  # type: ignore[arg-type]
        means = np.linspace(0.9, 0.1, len(pool.routes))
        router = BestSingle(pool.routes, np.ones(len(pool.routes)), mean=means)
        with running(routing_service(router, pool, limits=limits, access_log=False)) as url:
            yield url, double


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "bad",
    [
        Reply(status=429, headers={"retry-after": "30"}),
        Reply(status=429),
        Reply(status=503),
        Reply(cut=True, pieces=1),
    ],
    ids=["429 with 30 s", "429", "503", "cut"],
)
def test_live_traffic_spills_over_at_once(bad: Reply, stream: bool) -> None:
    """Five attempts with waits, as the pool's file has them by default, are for batches."""
    with pooled(failing("a", reply=bad), a={}, b={}) as (url, double):
        began = time.monotonic()
        if stream:
            _, found = events(url)
            assert found[-1] == "[DONE]"
        else:
            assert ask(url).headers["x-noria-route"] == "b"
        assert time.monotonic() - began < 10
        assert [body["model"] for body in double.seen] == ["a", "b"]


def test_a_refused_connection_and_a_rate_of_our_own_spill_over_at_once() -> None:
    with pooled(says_its_name, a={"url": "http://127.0.0.1:9/v1"}, b={"requests_per_minute": 1}, c={}) as (
        url,
        _,
    ):
        began = time.monotonic()
        assert [ask(url).headers["x-noria-route"] for _ in range(3)] == ["b", "c", "c"]
        assert time.monotonic() - began < 10


def test_who_asks_not_to_be_asked_is_left_out_as_long() -> None:
    with pooled(failing("a", reply=Reply(status=429, headers={"retry-after": "30"})), a={}, b={}) as (
        url,
        double,
    ):
        for _ in range(4):
            assert ask(url).headers["x-noria-route"] == "b"
        assert [body["model"] for body in double.seen].count("a") == 1
        named = ask(url, model="a")
        assert (named.status_code, named.headers["retry-after"]) == (429, "30")


def test_a_batch_may_wait() -> None:
    with chat_server(
        lambda b, n: Reply(status=429, headers={"retry-after": "0.3"}) if n == 0 else Reply("x")
    ) as double:
        pool = open_pool(PoolConfig(models=(Member(name="a", server=ChatServer(url=double.url, model="a")),)))
        assert asyncio.run(pool.ask(Route("a"), "hi")).text == "x"


def test_attempts_can_be_more() -> None:
    reply = lambda b, n: Reply(status=500) if n < 2 else Reply("x")  # noqa: E731
    with pooled(reply, ServeLimits(attempts=3), a={}, b={}) as (url, _):
        assert ask(url).headers["x-noria-route"] == "a"


@pytest.mark.parametrize("stream", [False, True])
def test_a_queue_of_our_own_does_not_count_against_a_backend(stream: bool) -> None:
    def respond(body: Body, number: int) -> Reply:
        return Reply("ok", delay=1.0 if body["model"] == "a" else 0.0)

    limits = ServeLimits(patience=5.0, queue=0.05, failures=1, rest=60, seconds=20)
    with pooled(respond, limits, a={"in_flight": 1}, b={}) as (url, _):

        async def load() -> list[Any]:
            async with httpx.AsyncClient(timeout=30) as client:
                body = {"messages": [{"role": "user", "content": "hi"}], "stream": stream}
                sent = [client.post(f"{url}/v1/chat/completions", json=body) for _ in range(6)]
                return list(await asyncio.gather(*sent))

        answers = asyncio.run(load())
        assert {answer.status_code for answer in answers} == {200}
        assert sorted(answer.headers["x-noria-route"] for answer in answers) == ["a", *"bbbbb"]
        assert ask(url).headers["x-noria-route"] == "a"
        assert 'noria_routing_resting{model="a"} 0.0' in httpx.get(f"{url}/metrics").text


def test_a_backend_without_another_is_waited_for_and_then_busy() -> None:
    limits = ServeLimits(patience=2.5, queue=0.0, seconds=20)
    with pooled(lambda b, n: Reply("ok", delay=1.8), limits, a={"in_flight": 1}) as (url, _):

        async def load() -> list[Any]:
            async with httpx.AsyncClient(timeout=30) as client:
                body = {"messages": [{"role": "user", "content": "hi"}]}
                sent = [client.post(f"{url}/v1/chat/completions", json=body) for _ in range(3)]
                return list(await asyncio.gather(*sent))

        answers = asyncio.run(load())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503]
    (busy,) = [answer for answer in answers if answer.status_code == 503]
    assert (busy.json()["error"]["code"], busy.headers["retry-after"]) == ("busy", "1")


BRIEF = {"brief": {"instruction": "{question} Briefly.", "max_tokens": 8, "stop": ["\n"], "temperature": 0.5}}


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_recorded_is_what_is_served(stream: bool) -> None:
    with pooled(says_its_name, a={"in": ("brief",)}, strategies=BRIEF) as (url, double):
        ask(url, stream=stream)
        ask(url, stream=stream, temperature=1, max_completion_tokens=9, stop="x")
    served, chosen = double.seen
    assert (served["temperature"], served["max_tokens"], served["stop"]) == (0.5, 8, ["\n"])
    assert (chosen["temperature"], chosen["max_tokens"], chosen["stop"]) == (1, 9, ["x", "\n"])
    with chat_server() as double:
        member = Member(name="a", server=ChatServer(url=double.url, model="a"), strategies=("brief",))
        asyncio.run(open_pool(PoolConfig(models=(member,), strategies=BRIEF)).ask(Route("a", "brief"), "hi"))  # type: ignore[arg-type]
    (recorded,) = double.seen
    assert recorded == {name: value for name, value in served.items() if not name.startswith("stream")}


def test_the_defaults_are_served_as_they_are_recorded() -> None:
    with pooled(says_its_name, a={}) as (url, double):
        ask(url)
    assert {k: double.seen[0][k] for k in ("temperature", "max_tokens")} == {
        "temperature": 0.0,
        "max_tokens": 512,
    }


def test_a_backend_that_refuses_a_setting_is_told_so_in_the_pool() -> None:
    def respond(body: Body, number: int) -> Reply:
        later = failing("b", reply=Reply(status=429, headers={"retry-after": "30"}))
        return (later if number > 1 else says_its_name)(body, number)

    with pooled(respond, a={"refuses": ["temperature"]}, b={}) as (url, double):
        assert ask(url).headers["x-noria-route"] == "a"
        assert "temperature" not in double.seen[0]
        assert ask(url, temperature=0.7).headers["x-noria-route"] == "b"
        # Also when the only one that takes it is left out: "nobody takes it" would not be true.
        assert [ask(url, temperature=0.7).status_code for _ in range(2)] == [429, 429]
        named = ask(url, model="a", temperature=0.7)
    assert named.status_code == 400
    assert (named.json()["error"]["code"], named.json()["error"]["param"]) == (
        "unsupported_parameter",
        "temperature",
    )


PASSED = {
    "frequency_penalty": 0.5, "presence_penalty": -1, "logit_bias": {"50256": -100}, "reasoning_effort": "low",
    "top_k": 3, "user": "me", "metadata": {"a": "b"}, "chat_template_kwargs": {"enable_thinking": False},
    "never_heard_of": [1, {"x": None}],
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_other_parameters_are_passed_on(stream: bool) -> None:
    with pooled(says_its_name, a={"in": ("step_by_step",)}) as (url, double):
        assert ask(url, stream=stream, logprobs=False, tools=[], seed=None, **PASSED).status_code == 200
    assert {name: double.seen[0].get(name) for name in PASSED} == PASSED
    assert not {"logprobs", "tools", "seed"} & double.seen[0].keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True), ("top_logprobs", 3), ("functions", [{"name": "f"}]), ("function_call", {"name": "f"}),
        ("tool_choice", "auto"), ("stream_options", {"include_obfuscation": True}),
        ("modalities", ["text", "audio"]), ("audio", {"voice": "x"}), ("best_of", 3),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused_by_name(name: str, value: Any) -> None:
    with pooled(says_its_name, a={}) as (url, double):
        answer = ask(url, **{name: value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith(name)
        assert not double.seen


def test_a_model_here_gets_nothing_that_it_would_not_follow() -> None:
    class Here:
        async def ask(self, request: ChatRequest) -> Answer:
            return Answer("here")

    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    with chat_server(says_its_name) as double:
        pool = open_pool(PoolConfig(models=(Member(name="b", server=ChatServer(url=double.url, model="b")),)))
        pool.models["a"] = Here()
        pool.add(Route("a"))
        router = BestSingle((Route("a"), Route("b")), np.ones(2), mean=np.array([0.9, 0.5]))
        with running(routing_service(router, pool, access_log=False)) as url:
            plain = {"type": "text"}
            assert (
                ask(url, temperature=0.1, stop=["x"], response_format=plain).headers["x-noria-route"] == "a"
            )
            for more in (
                {"reasoning_effort": "low"},
                {"response_format": {"type": "json_object"}},
                {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]},
            ):
                assert ask(url, **more).headers["x-noria-route"] == "b"
                assert ask(url, model="a", **more).status_code == 400


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_ends_the_work_of_the_backend(stream: bool) -> None:
    with pooled(lambda b, n: Reply(hang=True), a={}) as (url, double):
        body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json=body, timeout=0.5)
        deadline = time.monotonic() + 60
        while double.in_flight and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (double.in_flight, double.left, len(double.seen)) == (0, 1, 1)
        text = httpx.get(f"{url}/metrics").text
        assert 'noria_http_requests_total{route="/v1/chat/completions",status="499"} 1.0' in text
        assert "noria_routing_answers_total{" not in text


def test_a_backend_that_thinks_aloud_is_alive() -> None:
    slow = Reply("done", reasoning="let me think about it", gap=0.5, pieces=1)
    limits = ServeLimits(patience=2.0, seconds=20)
    with pooled(lambda b, n: slow, limits, a={}, b={}) as (url, double):
        _, found = events(url)
        assert "".join(e["choices"][0]["delta"].get("content", "") for e in found[:-1]) == "done"
        assert [body["model"] for body in double.seen] == ["a"]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("stream", [False, True])
def test_a_backends_words_go_into_the_log_and_not_to_callers(
    status: int, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    words = "org-12345 at /srv/models: \\u001b[31mTraceback"
    bad = Reply(status=status, body=b'{"error": {"message": "%b"}}' % words.encode())
    with pooled(lambda b, n: bad, a={}) as (url, _):
        answer = ask(url, stream=stream)
    assert answer.status_code >= 400
    assert "org-12345" not in answer.text + str(answer.headers)
    assert "org-12345" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_filters_words_do_not_go_to_callers() -> None:
    bad = Reply(status=400, body=b'{"error": {"message": "policy of org-12345", "code": "content_filter"}}')
    with pooled(lambda b, n: bad, a={}) as (url, _):
        answer = ask(url)
    assert answer.json()["choices"][0]["message"]["refusal"] == "a content filter declined the request"


@pytest.mark.parametrize("path", ["chat/completions", "route"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": [1], "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": {}, "messages": [{"role": "user", "content": "x"}], "n": [1]}',
        b'{"model": 3, "messages": [{"role": "user", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": ["user"], "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}',
        b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": 1}]}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "stream": "false"}',
        b'{"messages": [{"role": "user", "content": "x"}], "stream_options": [1]}',
        b'{"messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": "no"}}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "max_completion_tokens": 2}',
        *(
            b'{"messages": [{"role": "user", "content": "x"}], "%b": %b}' % (name, b"9" * digits)
            for name in (b"temperature", b"seed", b"max_tokens", b"top_p", b"n")
            for digits in (400, 5000)
        ),
        b'{"messages": [{"role": "user", "content": "x"}], "x": '
        + b'{"a":' * 5000
        + b"1"
        + b"}" * 5000
        + b"}",
        b'"\xef\xbb\xbf"',
        b"",
        b"null",
    ],
    ids=lambda body: ascii(body[:70]),
)
def test_what_is_wrong_is_400_and_never_500(path: str, body: bytes) -> None:
    with serving(says_its_name) as (url, double):
        answer = httpx.post(f"{url}/v1/{path}", content=body)
        assert answer.status_code == 400, answer.text
        assert not double.seen
