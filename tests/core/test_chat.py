"""The chat client against a real server on loopback that fails in every way a server can."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from noria.core.chat import (
    Answer,
    Audio,
    Budget,
    ChatCache,
    ChatClient,
    ChatRequest,
    ChatServer,
    Clip,
    Failure,
    Frame,
    Image,
    Outcome,
    Prices,
    Refusal,
    Text,
    Usage,
    Video,
    ask_all,
    assistant,
    system,
    user,
)
from noria.core.chat.faults import retry_after
from noria.core.chat.settings import redacted
from noria.core.config import load_config
from noria.core.errors import ConfigError, DataError, ModelError
from tests.chat_server import Body, Reply, chat_server

pytest.importorskip("openai")

HELLO = ChatRequest.of("hello")


def at(url: str, **settings: Any) -> ChatServer:
    return ChatServer(url=url, model="m", **{"backoff": 0.01, "timeout": 5.0, "attempts": 3} | settings)


def ask(server: ChatServer, request: ChatRequest = HELLO, **more: Any) -> Outcome:
    return ask_all(server, [request], **more)[0]


def streamed(server: ChatServer, request: ChatRequest = HELLO, **more: Any) -> tuple[list[str], Outcome]:
    async def run() -> tuple[list[str], Outcome]:
        async with ChatClient(server, **more) as client, client.stream(request) as stream:
            pieces = [piece async for piece in stream]
            return pieces, stream.outcome

    return asyncio.run(run())


def png(value: int = 7) -> bytes:
    import io

    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


# -- what is sent ----------------------------------------------------------------------------------------------


def test_every_kind_of_part_arrives_as_the_protocol_has_it() -> None:
    image = Image(png(), detail="low")
    request = ChatRequest.of(
        system("be brief"),
        user(
            "what is this?",
            image,
            Video((Frame(image, 0.5), Frame(image, 3.249))),
            Clip(b"mp4"),
            Audio(b"RIFF"),
        ),
        assistant("a square"),
        "sure?",
        temperature=0.0,
        max_tokens=9,
        stop=("\n",),
        extra={"top_k": 3},
    )
    with chat_server() as double:
        outcome = ask(at(double.url), request)
    assert isinstance(outcome, Answer)
    (body,) = double.seen
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][0]["content"] == "be brief"
    parts = body["messages"][1]["content"]
    assert [p["type"] for p in parts] == [
        "text", "image_url", "text", "image_url", "text", "image_url", "video_url", "input_audio",
    ]  # fmt: skip
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert parts[1]["image_url"]["detail"] == "low"
    assert [parts[2]["text"], parts[4]["text"]] == ["[t=0.50s]", "[t=3.25s]"]
    assert {k: body[k] for k in ("temperature", "max_tokens", "stop", "top_k")} == {
        "temperature": 0.0,
        "max_tokens": 9,
        "stop": ["\n"],
        "top_k": 3,
    }
    assert "seed" not in body


@given(
    st.text(max_size=20),
    st.dictionaries(st.sampled_from(["top_k", "min_p", "model", "messages"]), st.integers(0, 9)),
)
def test_what_is_encoded_is_what_is_wired(words: str, extra: dict[str, int]) -> None:
    """The body on the wire is put together of pieces made once; it says the same, and is the same every time."""
    image = Image(png(), detail="low")
    request = ChatRequest.of(
        system(words),
        user(words, image, Video((Frame(image, 0.5), Frame(image, 3.249))), Clip(b"mp4"), Audio(b"RIFF")),
        assistant(words),
        seed=0,
        extra=extra,
    )
    for field in ("max_tokens", "max_completion_tokens"):
        body = request.encoded("m", length_field=field, stream=True)
        assert json.loads(body) == request.wire("m", length_field=field) | {"stream": True}
        assert body == request.encoded("m", length_field=field, stream=True)
    assert image.encoded is image.encoded


def test_half_a_character_is_sent_and_kept(tmp_path: Path) -> None:
    """Words of models may hold what UTF-8 has no bytes for."""
    with chat_server(lambda b, n: Reply(b["messages"][0]["content"])) as double:
        outcome = ask(at(double.url), ChatRequest.of("a\ud800b"), cache=ChatCache(tmp_path))
    assert isinstance(outcome, Answer)
    assert outcome.text == "a\ud800b"


def test_bytes_that_are_no_image_are_refused() -> None:
    with pytest.raises(DataError, match="PNG, JPEG, GIF or WebP"):
        Image(b"<svg/>")


def test_no_key_is_sent_to_a_server_that_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    with chat_server() as double:
        ask(at(double.url))
    assert "sk-of-another-server" not in json.dumps(double.headers)


# -- what comes back -------------------------------------------------------------------------------------------


def test_an_answer_has_text_tokens_cost_and_time() -> None:
    with chat_server(lambda b, n: Reply("yes", reasoning="hm", delay=0.05)) as double:
        outcome = ask(at(double.url, prices=Prices(input=1.0, output=4.0)))
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.finish, outcome.reasoning) == ("yes", "stop", "hm")
    assert outcome.usage == Usage(10, 5)
    assert outcome.cost == pytest.approx((10 * 1.0 + 5 * 4.0) / 1e6)
    assert outcome.seconds >= 0.05
    assert outcome.attempts == 1


@pytest.mark.parametrize(
    ("prices", "usage"),
    [
        (Prices(output=1.0), {"prompt_tokens": 1, "completion_tokens": 1}),
        (Prices(input=1.0), {"prompt_tokens": 1, "completion_tokens": 1}),
        (Prices(input=1.0, output=1.0), None),
        (Prices(input=1.0, output=1.0), {"prompt_tokens": 1}),
    ],
)
def test_a_cost_is_missing_where_a_price_or_a_count_is(prices: Prices, usage: Any) -> None:
    with chat_server(lambda b, n: Reply(usage=usage)) as double:
        outcome = ask(at(double.url, prices=prices))
    assert isinstance(outcome, Answer)
    assert outcome.cost is None


@pytest.mark.parametrize("reply", [Reply(refusal="I cannot"), Reply("half", finish="content_filter")])
def test_a_refusal_is_no_answer_and_no_failure(reply: Reply) -> None:
    with chat_server(lambda b, n: reply) as double:
        whole, (_, piecewise) = ask(at(double.url)), streamed(at(double.url))
    assert isinstance(whole, Refusal)
    assert isinstance(piecewise, Refusal)
    assert whole.text == piecewise.text == (reply.refusal or reply.text)
    assert len(double.seen) == 2  # and it is not asked again


def test_a_filter_that_answers_400_refuses() -> None:
    body = json.dumps({"error": {"message": "filtered", "code": "content_filter"}}).encode()
    with chat_server(lambda b, n: Reply(status=400, body=body)) as double:
        assert isinstance(ask(at(double.url)), Refusal)


# -- faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        Reply(status=429),
        Reply(status=500),
        Reply(status=503),
        Reply(status=408),
        Reply(cut=True),
        Reply(body=b"<html>busy</html>"),
        Reply(body=b"{}"),
        Reply(body=b'{"choices": [{"message": {"content": 3}}]}'),
        Reply(body=b"[" * 100_000),
        Reply(hang=True),
    ],
    ids=["429", "500", "503", "408", "cut", "html", "empty", "no text", "deep", "hang"],
)
def test_a_fault_that_passes_costs_an_attempt_and_nothing_else(bad: Reply) -> None:
    with chat_server(lambda b, n: bad if n == 0 else Reply("fine")) as double:
        outcome = ask(at(double.url, timeout=0.5))
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.attempts) == ("fine", 2)


@pytest.mark.parametrize(
    ("bad", "kind", "attempts"),
    [
        (Reply(status=429), "rate_limit", 3),
        (Reply(status=502), "server", 3),
        (Reply(cut=True), "cut", 3),
        (Reply(body=b"nonsense"), "garbage", 3),
        (Reply(hang=True), "timeout", 3),
        (Reply(status=400), "request", 1),
        (Reply(status=401), "auth", 1),
        (Reply(status=404), "not_found", 1),
        (Reply(status=402), "quota", 1),
        (Reply(status=429, body=b'{"error": {"message": "x", "code": "insufficient_quota"}}'), "quota", 1),
        (Reply(status=307, headers={"location": "http://127.0.0.1:1/"}), "request", 1),
        (Reply("x" * 5000), "too_large", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_that_stays_is_a_failure_of_its_kind(bad: Reply, kind: str, attempts: int) -> None:
    with chat_server(lambda b, n: bad) as double:
        outcome = ask(at(double.url, timeout=0.3, largest_reply=4096))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.attempts, len(double.seen)) == (kind, attempts, attempts)


def test_a_reply_that_unpacks_to_more_than_is_let_in_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    reply = Reply(body=bomb, headers={"content-encoding": "gzip"})
    with chat_server(lambda b, n: reply) as double:
        outcome = ask(at(double.url, largest_reply=1 << 20))
        assert double.headers[0]["accept-encoding"] == "identity"
    assert len(bomb) < 1 << 20
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.attempts) == ("too_large", 1)


def test_connections_are_used_again() -> None:
    """As many as requests were under way at once, however many requests there are."""
    ports = set()
    with chat_server(lambda b, n: Reply(delay=0.02)) as double:
        double.on_request = lambda request: ports.add(request.client.port)
        ask_all(at(double.url, in_flight=3), [HELLO] * 30)
    assert len(ports) == 3


def test_a_log_tells_of_the_first_failure_of_a_kind_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "noria.chat")
    with chat_server(lambda b, n: Reply(status=401 if n % 2 else 404)) as double:
        ask_all(at(double.url, in_flight=1), [HELLO] * 20)
    assert sorted(r.getMessage().split()[1] for r in caplog.records) == ["auth", "not_found"]


def test_the_way_through_a_proxy_is_taken_and_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server() as proxy, chat_server() as server:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        far = at("http://models.invalid/v1", attempts=1)
        assert isinstance(ask(far), Answer)
        assert isinstance(ask(at(server.url)), Answer)
        assert (proxy.headers[0]["host"], len(proxy.seen), len(server.seen)) == ("models.invalid", 1, 1)
        monkeypatch.setenv("no_proxy", "models.invalid")
        outcome = ask(far)
        assert isinstance(outcome, Failure)
        assert outcome.kind == "connection"


def test_nobody_there() -> None:
    outcome = ask(at("http://127.0.0.1:9/v1"))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.attempts) == ("connection", 3)


def test_the_server_says_when_to_come_back() -> None:
    with chat_server(
        lambda b, n: Reply(status=429, headers={"retry-after": "0.4"}) if n == 0 else Reply()
    ) as double:
        began = time.monotonic()
        assert isinstance(ask(at(double.url)), Answer)
        assert time.monotonic() - began >= 0.4


def test_a_server_that_asks_for_too_much_time_is_given_up_at_once() -> None:
    with chat_server(lambda b, n: Reply(status=503, headers={"retry-after": "3600"})) as double:
        outcome = ask(at(double.url))
    assert isinstance(outcome, Failure)
    assert outcome.attempts == 1


def test_retry_after_is_seconds_or_milliseconds_or_a_date() -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    assert retry_after({"retry-after": "2"}) == 2
    assert retry_after({"retry-after-ms": "150"}) == pytest.approx(0.15)
    assert retry_after({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": date}) == 30
    assert retry_after({"retry-after": date, "date": "Wed, 21 Oct 2026 07:29:00 GMT"}) == 0
    for nonsense in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": date}):
        assert retry_after(nonsense) is None


def test_waits_grow_and_are_spread() -> None:
    """Full jitter: uniform below backoff · 2ⁿ⁻¹, so clients that failed together do not come back together."""
    from noria.core.chat.faults import Fault

    async def waits() -> list[list[float]]:
        async with ChatClient(
            at("http://127.0.0.1:9/v1", attempts=9, backoff=1.0, longest_wait=8.0)
        ) as client:
            return [[client.wait(Fault("server", ""), n) or 0.0 for _ in range(2000)] for n in range(1, 7)]

    for n, drawn in enumerate(asyncio.run(waits())):
        top = min(8.0, 2.0**n)
        assert max(drawn) <= top
        assert np.mean(drawn) == pytest.approx(top / 2, rel=0.1)


def test_keys_never_reach_a_message_a_log_or_the_cache(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    secret = "my-very-own-secret"
    monkeypatch.setenv("MY_KEY", secret)
    caplog.set_level(logging.DEBUG)
    with chat_server(key="another") as double:
        outcome = ask(at(double.url, key_env="MY_KEY"))
    assert isinstance(outcome, Failure)
    assert outcome.kind == "auth"
    assert "***" in outcome.message
    with chat_server(key=secret) as double:
        server = at(double.url, key_env="MY_KEY")
        assert isinstance(ask(server, cache=ChatCache(tmp_path)), Answer)
    everything = caplog.text + repr(outcome) + repr(server) + server.model_dump_json()
    everything += "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert secret not in everything
    assert redacted("Bearer abc.def and sk-proj-1234567 and hf_abcdefgh") == "*** and *** and ***"


def test_settings_that_would_show_or_miss_a_key_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(ConfigError, match="ABSENT is not set"):
        at("http://127.0.0.1:9/v1", key_env="ABSENT").key()
    for bad in (
        {"url": "http://me:secret@host/v1"},
        {"url": "http://host/v1?api_key=secret"},
        {"url": "file:///etc/passwd"},
        {"url": "127.0.0.1:8000"},
        {"url": "http://host/v1", "key_env": "sk-1234567890"},
    ):
        with pytest.raises(ConfigError) as error:
            load_config(ChatServer, base={"model": "m"} | bad)
        assert "sk-1234567890" not in str(error.value) or "key_env" in str(error.value)


# -- streams ---------------------------------------------------------------------------------------------------


def test_a_stream_gives_pieces_and_then_the_same_outcome() -> None:
    with chat_server(lambda b, n: Reply("one two three", reasoning=None)) as double:
        server = at(double.url, prices=Prices(input=1.0, output=1.0))
        pieces, outcome = streamed(server)
        whole = ask(server)
    assert len(pieces) == 3
    assert isinstance(outcome, Answer)
    assert isinstance(whole, Answer)
    assert "".join(pieces) == outcome.text == whole.text
    assert (outcome.usage, outcome.cost, outcome.finish) == (whole.usage, whole.cost, whole.finish)


def test_a_stream_cut_in_the_middle_keeps_what_came_and_is_not_begun_again() -> None:
    with chat_server(lambda b, n: Reply("abcdef", pieces=6, cut=True)) as double:
        pieces, outcome = streamed(at(double.url))
    assert isinstance(outcome, Failure)
    assert outcome.kind == "cut"
    assert outcome.partial == "".join(pieces) == "abc"
    assert len(double.seen) == 1


@pytest.mark.parametrize(
    "bad",
    [Reply(status=500), Reply(hang=True), Reply(cut=True, pieces=1), Reply(body=b"data: [1, 2]\n\n")],
    ids=["500", "hang", "no piece", "garbage"],
)
def test_a_stream_that_breaks_before_its_first_piece_is_begun_again(bad: Reply) -> None:
    with chat_server(lambda b, n: bad if n == 0 else Reply("fine")) as double:
        pieces, outcome = streamed(at(double.url, timeout=0.5))
    assert "".join(pieces) == "fine"
    assert isinstance(outcome, Answer)
    assert outcome.attempts == 2


def test_a_stream_that_stalls_ends_and_a_slow_reader_does_not_end_it() -> None:
    with chat_server(lambda b, n: Reply("abc", gap=0.15 if n else 3.0)) as double:
        server = at(double.url, timeout=0.5)
        pieces, outcome = streamed(server)
        assert isinstance(outcome, Failure)
        assert (pieces, outcome.kind, outcome.partial) == (["a"], "timeout", "a")

        async def slowly() -> Outcome:
            async with ChatClient(server) as client, client.stream(HELLO) as stream:
                async for _ in stream:
                    await asyncio.sleep(0.6)
                return stream.outcome

        assert isinstance(asyncio.run(slowly()), Answer)


def test_a_stream_that_is_left_gives_its_place_back() -> None:
    async def run(server: ChatServer) -> Outcome:
        async with ChatClient(server) as client:
            for _ in range(3):
                async with client.stream(HELLO) as stream:
                    async for _ in stream:
                        break
                with pytest.raises(ValueError, match="not ended"):
                    _ = stream.outcome
            return await client.ask(HELLO)

    with chat_server(lambda b, n: Reply("abc", gap=0.01)) as double:
        assert isinstance(asyncio.run(run(at(double.url, in_flight=1))), Answer)


# -- many at once ----------------------------------------------------------------------------------------------


def test_outcomes_are_in_order_and_no_more_are_in_flight_than_allowed() -> None:
    def respond(body: Body, number: int) -> Reply:
        words = body["messages"][0]["content"]
        return Reply(words, delay=0.05 + 0.001 * (int(words) % 7))

    with chat_server(respond) as double:
        outcomes = ask_all(at(double.url, in_flight=5), [ChatRequest.of(str(n)) for n in range(40)])
    assert [o.text for o in outcomes if isinstance(o, Answer)] == [str(n) for n in range(40)]
    assert double.most_in_flight == 5


def test_a_rate_is_kept() -> None:
    with chat_server() as double:
        began = time.monotonic()
        ask_all(at(double.url, requests_per_minute=1200), [HELLO] * 30)
        seconds = time.monotonic() - began
    assert len(double.seen) == 30
    assert 10 / 20 * 0.95 <= seconds < 5  # the first second's twenty at once, the others one by one


# -- costs -----------------------------------------------------------------------------------------------------


def test_a_budget_is_never_passed_though_many_are_in_flight() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 100}
    with chat_server(lambda b, n: Reply(usage=usage, delay=0.01)) as double:
        budget = Budget(0.0010)
        server = at(double.url, prices=Prices(input=1.0, output=1.0), in_flight=16)
        request = ChatRequest.of("hi", max_tokens=100)
        outcomes = ask_all(server, [request] * 60, budget=budget)
    answers = [o for o in outcomes if isinstance(o, Answer)]
    refused = [o for o in outcomes if isinstance(o, Failure)]
    assert {o.kind for o in refused} == {"budget"}
    assert all(o.attempts == 0 for o in refused)
    assert len(answers) == len(double.seen)
    assert budget.spent == pytest.approx(len(answers) * 103e-6)
    assert 7 <= len(answers) <= 9
    assert budget.spent <= budget.limit
    assert budget.aside == pytest.approx(0.0)


def test_what_may_have_been_charged_counts_and_what_was_not_does_not() -> None:
    prices = Prices(input=1.0, output=1.0)
    for reply, counted in ((Reply(status=429), False), (Reply(hang=True), True), (Reply(usage=None), True)):
        budget = Budget(1.0)
        with chat_server(lambda b, n, reply=reply: reply) as double:  # type: ignore[misc]
            ask(at(double.url, prices=prices, attempts=1, timeout=0.3), budget=budget)
        assert (budget.spent > 0) == counted
        assert budget.aside == 0


def test_a_budget_needs_prices_and_a_price_of_nothing_spends_nothing() -> None:
    with pytest.raises(ConfigError, match="needs the prices"):
        ask(at("http://127.0.0.1:9/v1", prices=Prices(input=1.0)), budget=Budget(1.0))
    with pytest.raises(ConfigError, match="budget"):
        Budget(math.nan)
    with chat_server() as double:
        free = at(double.url, prices=Prices(input=0.0, output=0.0))
        assert isinstance(ask(free, budget=Budget(0.0)), Answer)


# -- the cache -------------------------------------------------------------------------------------------------


def test_an_answer_is_kept_and_costs_nothing_again(tmp_path: Path) -> None:
    with chat_server(lambda b, n: Reply(f"answer {n}\ud800")) as double:
        server = at(double.url, prices=Prices(input=1.0, output=1.0))
        first = ask(server, cache=ChatCache(tmp_path))
        again = ask(server, cache=ChatCache(tmp_path))
        pieces, piecewise = streamed(server, cache=ChatCache(tmp_path))
    assert len(double.seen) == 1
    assert isinstance(first, Answer)
    assert isinstance(again, Answer)
    assert again == piecewise
    assert again.text == first.text == pieces[0]
    assert (again.cached, again.cost, again.attempts, again.usage) == (True, 0.0, 0, first.usage)


def test_all_that_decides_an_answer_is_in_its_key(tmp_path: Path) -> None:
    requests = [
        HELLO,
        ChatRequest.of("hello!"),
        ChatRequest.of(system("hello")),
        ChatRequest.of("hello", temperature=0.0),
        ChatRequest.of("hello", temperature=0.5),
        ChatRequest.of("hello", seed=1),
        ChatRequest.of("hello", max_tokens=3),
        ChatRequest.of("hello", extra={"top_k": 1}),
        ChatRequest.of("hello", sample=1),
        ChatRequest.of(user("hello", Image(png(1)))),
        ChatRequest.of(user("hello", Image(png(2)))),
    ]
    with chat_server(lambda b, n: Reply(str(n))) as double:
        cache = ChatCache(tmp_path)
        first = ask_all(at(double.url), requests, cache=cache)
        assert len({o.text for o in first if isinstance(o, Answer)}) == len(requests)
        ask_all(at(double.url), requests, cache=cache)
        assert len(double.seen) == len(requests)
        other = ChatServer(url=double.url, model="another")
        ask(other, cache=cache)
        assert len(double.seen) == len(requests) + 1


def test_failures_are_not_kept(tmp_path: Path) -> None:
    with chat_server(lambda b, n: Reply(status=400) if n == 0 else Reply()) as double:
        assert isinstance(ask(at(double.url), cache=ChatCache(tmp_path)), Failure)
        assert isinstance(ask(at(double.url), cache=ChatCache(tmp_path)), Answer)


def test_a_refusal_is_kept_as_one(tmp_path: Path) -> None:
    with chat_server(lambda b, n: Reply(refusal="no")) as double:
        ask(at(double.url), cache=ChatCache(tmp_path))
        again = ask(at(double.url), cache=ChatCache(tmp_path))
    assert isinstance(again, Refusal)
    assert again.cached
    assert len(double.seen) == 1


def test_an_entry_cut_anywhere_or_changed_is_as_good_as_absent(tmp_path: Path) -> None:
    cache = ChatCache(tmp_path)
    key = "ab" + "0" * 62
    cache.put(key, Answer("four", "stop", Usage(1, 2)))
    path = cache.path(key)
    whole = path.read_bytes()
    assert isinstance(cache.get(key), Answer)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert cache.get(key) is None
    path.write_bytes(whole.replace(b"four", b"five"))
    assert cache.get(key) is None
    path.write_bytes(whole)
    cache.path("ab" + "1" * 62).write_bytes(whole)  # under another's name
    assert cache.get("ab" + "1" * 62) is None


def test_processes_share_a_cache(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from noria.core.chat import *\n"
        "cache = ChatCache(Path(sys.argv[1]))\n"
        "for n in range(200):\n"
        "    key = f'{n % 20:064x}'; cache.put(key, Answer(key * 50, 'stop')); kept = cache.get(key)\n"
        "    assert kept is not None and kept.text == key * 50\n"
    )
    crew = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in crew] == [0, 0, 0]
    assert len(list(tmp_path.rglob("*.json"))) == 20
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_disk_that_refuses_costs_the_entry_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with chat_server() as double:
        outcomes = ask_all(at(double.url), [HELLO, HELLO], cache=ChatCache(tmp_path / "file" / "cache"))
    assert all(isinstance(o, Answer) for o in outcomes)
    assert caplog.text.count("answers are not kept") == 1


# -- the rest --------------------------------------------------------------------------------------------------


def test_what_a_server_serves() -> None:
    async def models(url: str) -> list[str]:
        async with ChatClient(at(url)) as client:
            return await client.models()

    with chat_server(models=("a", "b")) as double:
        assert asyncio.run(models(double.url)) == ["a", "b"]
    with pytest.raises(ModelError, match="connection"):
        asyncio.run(models("http://127.0.0.1:9/v1"))


@given(st.lists(st.sampled_from(["ask", "fail", "unknown"]), max_size=30), st.floats(0, 0.01))
def test_a_budget_is_what_was_spent_and_what_is_aside(steps: list[str], limit: float) -> None:
    budget, prices = Budget(limit), Prices(input=1.0, output=2.0)
    body = {"messages": [{"content": "x" * 300}], "max_tokens": 200}
    for step in steps:
        estimate = budget.reserve(prices, body)
        if estimate is None:
            assert budget.left < 1e-3
            continue
        budget.settle(estimate, {"ask": estimate / 2, "fail": 0.0, "unknown": None}[step])
    assert budget.spent <= limit + 1e-9
    assert budget.aside == pytest.approx(0.0)


def test_text_of_a_message_is_its_words() -> None:
    assert user("a", Image(png()), "b").text == "a\nb"
    assert user(Text("a")).wire() == {"role": "user", "content": "a"}


# -- live traffic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_who_may_not_wait_gives_up_what_asks_to_wait(stream: bool) -> None:
    """With longest_wait=0: a rate limit and a refused connection have one attempt, other faults have theirs."""
    live = {"attempts": 3, "longest_wait": 0.0, "backoff": 5.0}
    ask_it = (lambda server: streamed(server)[1]) if stream else ask
    with chat_server(lambda b, n: Reply(status=429, headers={"retry-after": "30"})) as double:
        began = time.monotonic()
        outcome = ask_it(at(double.url, **live))
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.attempts, outcome.wait) == ("rate_limit", 1, 30.0)
    outcome = ask_it(at("http://127.0.0.1:9/v1", **live))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.attempts) == ("connection", 1)
    with chat_server(lambda b, n: Reply(status=500)) as double:
        outcome = ask_it(at(double.url, **live))
        assert isinstance(outcome, Failure)
        assert (outcome.kind, outcome.attempts) == ("server", 3)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("limits", [{"in_flight": 1}, {"requests_per_minute": 60}], ids=["places", "rate"])
def test_our_own_queue_is_no_fault_of_the_server(stream: bool, limits: dict[str, Any]) -> None:
    async def run(url: str) -> list[Outcome]:
        async with ChatClient(at(url, **limits)) as client:

            async def one() -> Outcome:
                if not stream:
                    return await client.ask(HELLO, within=0.05)
                async with client.stream(HELLO, within=0.05) as coming:
                    async for _ in coming:
                        pass
                    return coming.outcome

            first = asyncio.create_task(one())
            await asyncio.sleep(0.02)
            busy = await one()
            return [busy, await first, await client.ask(HELLO)]

    with chat_server(lambda b, n: Reply(delay=1.0)) as double:
        busy, *rest = asyncio.run(run(double.url))
        assert len(double.seen) == 2
    assert isinstance(busy, Failure)
    assert (busy.kind, busy.attempts) == ("busy", 0)
    assert all(isinstance(outcome, Answer) for outcome in rest)


def test_what_a_server_refuses_is_not_sent() -> None:
    request = ChatRequest.of("hi", temperature=0.0, max_tokens=5, extra={"top_k": 3, "min_p": 0.1})
    with chat_server() as double:
        server = at(double.url, refuses=("temperature", "min_p", "stream_options"))
        ask(server, request)
        streamed(server, request)
    for body in double.seen:
        assert not {"temperature", "min_p", "stream_options"} & body.keys()
        assert (body["max_tokens"], body["top_k"]) == (5, 3)


def test_reasoning_is_a_sign_of_life() -> None:
    slow = Reply("done", reasoning="it takes a while", gap=0.5, pieces=1)
    with chat_server(lambda b, n: slow) as double:
        pieces, outcome = streamed(at(double.url, timeout=1.5, attempts=1))
    assert isinstance(outcome, Answer)
    assert (pieces, outcome.reasoning) == (["done"], "ittakesawhile")


@pytest.mark.parametrize(
    "message",
    [
        {"content": "x", "refusal": ["no"]},
        {"content": ["x"]},
        {"content": {"a": 1}},
        [],
        "x",
        3,
    ],
)
def test_a_stream_of_other_types_is_garbage(message: Any) -> None:
    event = json.dumps({"choices": [{"delta": message, "finish_reason": None}]})
    body = f"data: {event}\n\ndata: [DONE]\n\n".encode()
    with chat_server(lambda b, n: Reply(body=body, headers={"content-type": "text/event-stream"})) as double:
        _, outcome = streamed(at(double.url, attempts=1))
    assert isinstance(outcome, Failure)
    assert outcome.kind == "garbage"


@pytest.mark.parametrize("count", [10**400, 2**60, -1, 1.5, True, "3"])
def test_impossible_counts_are_missing(count: Any) -> None:
    reply = {
        "choices": [{"message": {"content": "x"}}],
        "usage": {"prompt_tokens": count, "completion_tokens": 1},
    }
    with chat_server(lambda b, n: Reply(body=json.dumps(reply).encode())) as double:
        outcome = ask(at(double.url, prices=Prices(input=1, output=1)))
    assert isinstance(outcome, Answer)
    assert (outcome.usage.prompt_tokens, outcome.cost) == (None, None)


def test_retry_after_of_any_form_is_read_or_left() -> None:
    for odd in (
        "Wed, 21 Oct 99999999999999999999 07:28:00 GMT",
        "Wed, 21 Oct 2026 07:28:00 -0000",
        "9" * 400,
        "-3",
        "1e400",
    ):
        date = "Wed, 21 Oct 2026 07:28:00 GMT"
        wait = retry_after({"retry-after": odd, "date": date})
        assert wait is None or math.isfinite(wait)


def test_a_servers_words_are_one_printable_line() -> None:
    body = json.dumps({"error": {"message": "no\x1b[31m\nway\x00", "code": None}}).encode()
    with chat_server(lambda b, n: Reply(status=400, body=body)) as double:
        outcome = ask(at(double.url))
    assert isinstance(outcome, Failure)
    assert outcome.message.isprintable()
