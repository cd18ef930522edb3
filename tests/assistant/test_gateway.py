"""The gateway end to end: what is answered is traced first, what is traced is redacted, what fails is seen."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from noria.core.errors import ConfigError, RunError
from noria.core.experiments.assignment import Arms, assign
from noria.core.storage.journal_file import NAME as JOURNAL, JournalReader
from noria.core.traces.records import Trace, decode
from tests.assistant.gateways import TOKEN, Gateway, echo, gateway, gateway_process
from tests.chat_server import Body, Reply, chat_server
from tests.waiting import until

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def running_gateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path / "data") as one:
        yield one


def picture(text: str) -> list[dict[str, Any]]:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]


# -- answers and traces -----------------------------------------------------------------------------------------------


def test_an_answer_is_the_backends_with_the_id_of_its_trace(running_gateway: Gateway) -> None:
    answer = running_gateway.ask("hello", user="ann", temperature=0.5, metadata={"conversation": "c1"})
    assert answer["choices"][0]["message"]["content"] == "brief|hello"
    sent = running_gateway.backend.seen[0]
    assert sent["model"] == "m"
    assert sent["temperature"] == 0.5
    assert "user" not in sent
    assert "metadata" not in sent
    trace = running_gateway.trace(answer["id"])["trace"]
    assert (trace["status"], trace["caller"], trace["usage"]) == (
        "ok",
        "operator",
        {"tokens_in": 10, "tokens_out": 5, "cost": 20e-6},
    )
    assert trace["user"] not in (None, "ann")
    assert trace["spans"][0]["input"]["temperature"] == 0.5
    assert trace["spans"][0]["output"]["content"] == "brief|hello"
    again = running_gateway.trace(running_gateway.ask("x", user="ann")["id"])["trace"]
    assert again["user"] == trace["user"]
    other = running_gateway.trace(running_gateway.ask("x", user="bob")["id"])["trace"]
    assert other["user"] != trace["user"]


def test_the_openai_client_talks_to_it_whole_and_streamed(running_gateway: Gateway) -> None:
    client = openai.OpenAI(base_url=running_gateway.url + "/v1", api_key=TOKEN, max_retries=0)
    assert [model.id for model in client.models.list()] == ["noria", "brief", "kind"]
    message: Any = {"role": "user", "content": "one two three"}
    whole = client.chat.completions.create(model="noria", messages=[message])
    assert whole.choices[0].message.content == "brief|one two three"
    named = client.chat.completions.create(model="kind", messages=[message])
    assert named.choices[0].message.content == "kind|one two three"
    stream = client.chat.completions.create(
        model="noria", messages=[message], stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "brief|one two three"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    trace = running_gateway.trace(chunks[0].id)["trace"]
    assert trace["spans"][0]["output"]["content"] == "brief|one two three"
    assert 0 < trace["spans"][0]["attributes"]["first_word_seconds"] < 5
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nothing", messages=[message])


def test_tools_pass_both_ways(tmp_path: Path) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {
        "id": "1",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "model": "m",
    }
    with gateway(tmp_path / "data", lambda b, n: Reply(body=json.dumps(body).encode())) as one:
        spec = {"type": "function", "function": {"name": "search", "parameters": {}}}
        answer = one.ask("find boats", tools=[spec], tool_choice="required")
        assert answer["choices"][0]["message"]["tool_calls"] == [call]
        assert one.backend.seen[0]["tools"] == [spec]
        span = one.trace(answer["id"])["trace"]["spans"][0]
        assert span["output"]["tool_calls"] == [call]
        assert span["input"]["tools"] == ["search"]
        assert span["attributes"]["tokens_unknown"], "no count of tokens is not a count of 0"
        result = {"role": "tool", "tool_call_id": "call_1", "content": "three"}
        one.call("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}, message, result]})
        assert one.backend.seen[1]["messages"][-1] == result


def test_secrets_and_pictures_are_not_in_the_journal(running_gateway: Gateway) -> None:
    url = running_gateway.url
    text = "I am ann@example.com, my card is 4111 1111 1111 1111, my key sk-proj-abcdefghijklmnop1234"
    whole = running_gateway.call(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": picture(text)}]}
    )[1]
    # the answer repeats the text, and cuts every secret over several pieces
    stream = openai.OpenAI(base_url=url + "/v1", api_key=TOKEN).chat.completions.create(
        model="noria", messages=[{"role": "user", "content": text}], stream=True
    )
    streamed = [chunk.id for chunk in stream].pop()
    trace = running_gateway.trace(whole["id"])["trace"]
    assert trace["redactions"]["mail"] == 2
    digest = trace["spans"][0]["blobs"][0]
    status, content, headers = running_gateway.raw(f"/v1/blobs/{digest}")
    assert (status, content, headers["content-type"]) == (200, PNG, "image/png")
    assert running_gateway.trace(streamed)["trace"]["redactions"]["mail"] == 2
    with JournalReader(running_gateway.folder) as reader:
        frames = b"".join(frame.body for frame in reader.frames())
    for secret in (b"ann@example.com", b"4111", b"sk-proj", base64.b64encode(PNG)[:40]):
        assert secret not in frames
    assert whole["choices"][0]["message"]["content"].endswith("1234"), (
        "the caller's own answer is not changed"
    )


def test_a_backend_that_fails_is_a_trace_that_failed(tmp_path: Path) -> None:
    def respond(body: Body, number: int) -> Reply:
        text = body["messages"][-1]["content"]
        return {"500": Reply(status=500), "cut": Reply("one two three four", cut=True), "garbage": Reply(body=b"[]"),
                "no": Reply(refusal="I will not.")}.get(text, Reply())  # fmt: skip

    with gateway(tmp_path / "data", respond) as one:
        for text, status in (("500", 502), ("cut", 502), ("garbage", 502)):
            answer = one.call("/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})
            assert answer[0] == status, answer
            assert "log says why" in answer[1]["error"]["message"]
        status, body, _ = one.raw(
            "/v1/chat/completions", {"stream": True, "messages": [{"role": "user", "content": "cut"}]}
        )
        assert status == 200
        assert b"backend_cut" in body
        assert not body.endswith(b"[DONE]\n\n"), "a stream that broke off does not look whole"
        assert (
            one.raw(
                "/v1/chat/completions", {"stream": True, "messages": [{"role": "user", "content": "500"}]}
            )[0]
            == 502
        )
        refused = one.ask("no")
        traces = {row["status"] for row in one.call("/v1/traces")[1]["data"]}
        assert traces == set(), "the index is not asked to be made by reading"
        time.sleep(1.5)
        rows = one.call("/v1/traces")[1]["data"]
        assert [row["status"] for row in rows].count("failed") == 5
        assert one.trace(refused["id"])["trace"]["status"] == "refused"
        cut = one.trace(next(row["id"] for row in rows if row["tokens"] == 0 and row["status"] == "failed"))
        assert cut["trace"]["spans"][0]["error"]["kind"] in ("server", "cut", "garbage")


def test_a_recogniser_of_the_operators_own_takes_names_out_and_what_it_fails_on_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "names_of_a_gateway.py").write_text(
        "def find(text):\n"
        "    if 'Eve' in text:\n        raise ValueError(text)\n"
        "    return [('name', n, n + 3) for n in range(len(text)) if text.startswith('Ann', n)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with gateway(tmp_path / "data", find_personal=["names_of_a_gateway:find"]) as one:
        trace = one.trace(one.ask("I am Ann")["id"])["trace"]
        assert trace["spans"][-1]["output"]["content"] == "brief|I am [name]"
        assert trace["redactions"] == {"name": 2}
        status, answer = one.call(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": "I am Eve"}]}
        )
        assert (status, "Eve" in str(answer)) == (503, False)
    with JournalReader(tmp_path / "data") as reader:
        frames = b"".join(frame.body for frame in reader.frames())
    assert b"Ann" not in frames
    assert b"Eve" not in frames
    with (
        pytest.raises(ConfigError, match="find_personal: names_of_a_gateway:lose"),
        gateway(tmp_path / "other", find_personal=["names_of_a_gateway:lose"]),
    ):
        pass
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("keep_texts", [True, False])
def test_the_words_of_a_failed_backend_are_redacted_and_not_kept_without_texts(
    tmp_path: Path, keep_texts: bool
) -> None:
    fault = json.dumps({"error": {"message": "bad: bob@example.org, and so on"}}).encode()
    refuses = Reply(body=fault, status=400)
    with gateway(tmp_path / "data", lambda body, number: refuses, keep_texts=keep_texts) as one:
        asked = {"messages": [{"role": "user", "content": "x"}]}
        assert one.call("/v1/chat/completions", asked)[0] == 400
        assert one.call("/v1/chat/completions", asked | {"stream": True})[0] == 400
        rows = until(lambda: len(found := one.call("/v1/traces")[1]["data"]) == 2 and found)
        for row in rows:
            trace = one.trace(row["id"])["trace"]
            said = trace["spans"][-1]["error"]
            assert said == {"kind": "request", "message": "bad: [mail], and so on" if keep_texts else ""}
            assert trace.get("redactions", {}) == ({"mail": 1} if keep_texts else {})
    with JournalReader(tmp_path / "data") as reader:
        frames = b"".join(frame.body for frame in reader.frames())
    assert (b"and so on" in frames) is keep_texts
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not [path for path in files if b"bob@example.org" in path.read_bytes()]


@pytest.mark.parametrize(
    "data", [b'{"choices":[{"delta":{"content":"\xff"}}]}', b"[" * 100_000], ids=["no UTF-8", "deep"]
)
def test_a_stream_of_garbage_is_an_error_and_a_trace_that_failed(tmp_path: Path, data: bytes) -> None:
    word = b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n'

    def respond(body: Body, number: int) -> Reply:
        begun = word if body["messages"][-1]["content"] == "begun" else b""
        return Reply(body=begun + b"data: " + data + b"\n\n", headers={"content-type": "text/event-stream"})

    with gateway(tmp_path / "data", respond) as one:
        asked = [
            {"stream": True, "messages": [{"role": "user", "content": text}]} for text in ("at once", "begun")
        ]
        status, answer = one.call("/v1/chat/completions", asked[0])
        assert (status, answer["error"]["code"]) == (502, "backend_garbage")
        status, body, _ = one.raw("/v1/chat/completions", asked[1])
        assert (status, b'"code":"backend_garbage"' in body) == (200, True)
        rows = until(lambda: len(found := one.call("/v1/traces")[1]["data"]) == 2 and found)
        assert [row["status"] for row in rows] == ["failed", "failed"]


def test_a_caller_who_leaves_is_a_trace_that_was_cancelled(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", lambda b, n: Reply("a b c d e f", pieces=6, gap=0.3)) as one:
        client = openai.OpenAI(base_url=one.url + "/v1", api_key=TOKEN, max_retries=0, timeout=0.5)
        stream = client.chat.completions.create(
            model="noria", messages=[{"role": "user", "content": "x"}], stream=True
        )
        first = next(iter(stream))
        stream.close()
        for _ in range(100):
            status, answer = one.call(f"/v1/traces/{first.id}")
            if status == 200:
                break
            time.sleep(0.05)
        assert answer["trace"]["status"] == "cancelled"


# -- callers ----------------------------------------------------------------------------------------------------------


def test_a_callers_money_holds_under_64_requests_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "shop-token-0123456789")
    shop = {"name": "shop", "token_env": "SHOP_TOKEN", "budget_per_day": 0.01}
    with gateway(tmp_path / "data", lambda b, n: Reply(delay=0.05), callers=[shop]) as one:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1000}

        def ask(_: int) -> tuple[int, Any]:
            return one.call("/v1/chat/completions", body, token="shop-token-0123456789")

        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(ask, range(64)))
        passed = [answer for answer in answers if answer[0] == 200]
        assert {answer[1]["error"]["code"] for answer in answers if answer[0] != 200} == {"budget_spent"}
        assert one.backend.most_in_flight <= 4, (
            "an estimate of .002 each is set aside before anything is sent"
        )
        assert len(one.backend.seen) == len(passed)
        assert one.call("/v1/chat/completions", body, token=None)[0] == 401
        assert one.call("/v1/chat/completions", body)[0] == 200, "the operator has a budget of its own"


def test_a_budget_needs_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "shop-token-0123456789")
    shop = {"name": "shop", "token_env": "SHOP_TOKEN", "budget_per_day": 0.01}
    backends = {"m": {"url": "http://127.0.0.1:9/v1", "model": "m"}}
    with (
        pytest.raises(ConfigError, match=r"shop\.budget_per_day.*prices"),
        gateway(tmp_path / "data", callers=[shop], backends=backends),
    ):
        pass


# -- feedback ---------------------------------------------------------------------------------------------------------


def test_who_asked_is_who_rates_where_nothing_else_is_said(running_gateway: Gateway) -> None:
    traces = [str(running_gateway.ask("hi", user=name)["id"]) for name in ("ann", "bob")]
    for trace, more in ((traces[0], {}), (traces[1], {}), (traces[1], {"user": "ann", "name": "other"})):
        assert running_gateway.call("/v1/feedback", {"target": trace, "value": 1} | more)[0] == 202
    views = [running_gateway.trace(trace) for trace in traces]
    (ann,), (bob, ann_of_bob) = [[one["by"] for one in view["feedback"]] for view in views]
    assert ann == views[0]["trace"]["user"] == ann_of_bob
    assert bob == views[1]["trace"]["user"] != ann


def test_feedback_counts_once_also_a_hundred_times_at_once(running_gateway: Gateway) -> None:
    trace = running_gateway.ask()["id"]
    wish = {"target": trace, "value": True, "client_key": "k1", "user": "ann"}
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: running_gateway.call("/v1/feedback", wish), range(100)))
    assert {status for status, _ in answers} == {202}
    assert len({answer["id"] for _, answer in answers}) == 1
    assert len(running_gateway.call(f"/v1/feedback/{trace}")[1]["data"]) == 1
    comment = {"target": {"trace": trace, "item": "3"}, "kind": "correction", "text": "Say ann@example.com."}
    number = running_gateway.call("/v1/feedback", comment)[1]["id"]
    kept = running_gateway.trace(trace)["feedback"][1]
    assert (kept["item"], kept["text"]) == ("3", "Say [mail].")
    for _ in range(2):
        assert running_gateway.call(f"/v1/feedback/{trace}/{number}", method="DELETE")[0] == 200
    view = running_gateway.trace(trace)
    assert (len(view["feedback"]), view["withdrawn"]) == (1, 1)


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"value": 1}, 400),
        ({"target": "01900000-0000-7000-8000-000000000000", "value": 1}, 404),
        ({"target": "../../etc/passwd", "value": 1}, 404),
        ({"target": "{trace}"}, 400),
        ({"target": "{trace}", "value": "good"}, 400),
        ({"target": "{trace}", "value": 9e124}, 400),
        ({"target": "{trace}", "value": 1.5}, 400),
        ({"target": "{trace}", "kind": "implicit", "value": -1}, 400),
        ({"target": "{trace}", "kind": "shout", "value": 1}, 400),
        ({"target": "{trace}", "kind": "correction", "value": 1}, 400),
        ({"target": "{trace}", "kind": "rating", "text": "x"}, 400),
        ({"target": "{trace}", "text": "x" * 20_001}, 400),
        ({"target": {"trace": "{trace}", "span": "none"}, "value": 1}, 400),
        ({"target": "{trace}", "value": 1, "client_key": ""}, 400),
        ([], 400),
    ],
    ids=range(15),
)
def test_feedback_that_is_none(running_gateway: Gateway, wish: Any, status: int) -> None:
    trace = running_gateway.ask()["id"]
    wish = json.loads(json.dumps(wish).replace("{trace}", trace))
    assert running_gateway.call("/v1/feedback", wish)[0] == status
    assert running_gateway.trace(trace)["feedback"] == []


def test_a_callers_traces_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callers = []
    for name in ("shop", "other"):
        monkeypatch.setenv(f"{name.upper()}_TOKEN", f"{name}-token-0123456789")
        callers.append({"name": name, "token_env": f"{name.upper()}_TOKEN"})
    with gateway(tmp_path / "data", callers=callers) as one:
        body = {"messages": [{"role": "user", "content": "x"}]}
        trace = one.call("/v1/chat/completions", body, token="shop-token-0123456789")[1]["id"]
        wish = {"target": trace, "value": 1}
        assert one.call("/v1/feedback", wish, token="other-token-0123456789")[0] == 404
        assert one.call("/v1/feedback", wish, token="shop-token-0123456789")[0] == 202


def test_a_user_is_erased_with_pictures_and_nothing_comes_in_late(running_gateway: Gateway) -> None:
    body = {"user": "ann", "messages": [{"role": "user", "content": picture("mine")}]}
    trace = running_gateway.call("/v1/chat/completions", body)[1]["id"]
    kept = running_gateway.ask("bob's", user="bob")["id"]
    digest = running_gateway.trace(trace)["trace"]["spans"][0]["blobs"][0]
    erased = running_gateway.call("/v1/users/erase", {"caller": "operator", "user": "ann"})[1]
    assert (erased["traces"], erased["records"]) == (1, 1)
    assert running_gateway.call(f"/v1/traces/{trace}")[0] == 404
    assert running_gateway.call(f"/v1/blobs/{digest}")[0] == 404
    assert running_gateway.call("/v1/feedback", {"target": trace, "value": 1})[0] == 404
    running_gateway.trace(kept)
    with JournalReader(running_gateway.folder) as reader:
        assert not any(b"mine" in frame.body for frame in reader.frames())


# -- bundles ----------------------------------------------------------------------------------------------------------


def test_promote_and_roll_back_need_the_version_that_was_seen(running_gateway: Gateway) -> None:
    assert running_gateway.ask("x")["choices"][0]["message"]["content"] == "brief|x"
    assert running_gateway.call("/v1/promote", {"bundle": "kind"})[0] == 400
    assert running_gateway.call("/v1/promote", {"bundle": "kind", "based_on": 0})[0] == 409
    assert (
        running_gateway.call("/v1/promote", {"bundle": "kind", "based_on": 1, "reason": "better"})[0] == 200
    )
    assert running_gateway.ask("x")["choices"][0]["message"]["content"] == "kind|x"
    assert running_gateway.call("/v1/promote", {"bundle": "0" * 64, "based_on": 2})[0] == 400
    assert running_gateway.call("/v1/rollback", {"based_on": 2})[0] == 200
    assert running_gateway.ask("x")["choices"][0]["message"]["content"] == "brief|x"
    history = running_gateway.call("/v1/champion")[1]["history"]
    assert [(move["action"], move["by"]) for move in history] == [
        ("promote", "configuration"),
        ("promote", "operator"),
        ("roll back", "operator"),
    ]
    assert running_gateway.call("/v1/switches/promotion", {"on": False}, method="PUT")[0] == 200
    assert (
        "switched off"
        in running_gateway.call("/v1/promote", {"bundle": "kind", "based_on": 3})[1]["error"]["message"]
    )
    new = running_gateway.call("/v1/bundles", {"backend": "m", "system": "wise"})[1]["bundle"]
    listed = running_gateway.call("/v1/bundles")[1]["data"]
    assert listed[-1]["bundle"] == new, "the newest is the last"
    assert [one["fault"] for one in listed] == [None] * len(listed)
    trace = running_gateway.ask("x")["id"]
    replayed = running_gateway.call(f"/v1/traces/{trace}/replay?bundle={new}", {}, method="POST")[1]
    assert replayed["outcome"]["text"] == "wise|x"
    for path in (
        "/v1/promote",
        "/v1/rollback",
        "/v1/bundles",
        "/v1/experiments",
        "/v1/users/erase",
        "/v1/judgements",
    ):
        assert running_gateway.call(path, {}, token=None)[0] == 401, path


def test_a_switch_of_bundles_under_load_mixes_none(running_gateway: Gateway) -> None:
    """Sixteen callers while the champion moves to and fro: every answer is of the bundle that its trace names."""
    names = {one["bundle"]: one["name"] for one in running_gateway.call("/v1/bundles")[1]["data"]}
    stop, answers, faults = threading.Event(), [], []

    def caller() -> None:
        while not stop.is_set():
            status, answer = running_gateway.call(
                "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}
            )
            (answers if status == 200 else faults).append(answer)

    threads = [threading.Thread(target=caller) for _ in range(16)]
    for thread in threads:
        thread.start()
    for version in range(1, 21):
        wish = {"bundle": "kind" if version % 2 else "brief", "based_on": version}
        assert running_gateway.call("/v1/promote", wish)[0] == 200
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    with JournalReader(running_gateway.folder) as reader:
        traces = {t.id: t for f in reader.frames() if isinstance(t := decode(f.body), Trace)}
    said = {a["id"]: a["choices"][0]["message"]["content"].partition("|")[0] for a in answers}
    assert {names[traces[number].bundle] == word for number, word in said.items()} == {True}
    assert set(said.values()) == {"brief", "kind"}
    assert len(said) > 100


def test_data_sets_leave_as_trl_reads_them(running_gateway: Gateway) -> None:
    for number, about in enumerate(
        ("boats", "cats", "rain", "gold", "tea", "snow", "iron", "figs", "owls", "wool")
    ):
        trace = running_gateway.ask(f"tell me of {about}, and of nothing but {about} {number}")["id"]
        wish = {"target": trace, "kind": "correction", "text": f"better {number}"}
        assert running_gateway.call("/v1/feedback", wish)[0] == 202
    splits = ("train", "route gate", "body gate", "model gate")
    found = [
        running_gateway.raw("/v1/datasets/preferences.jsonl?split=" + s.replace(" ", "%20")) for s in splits
    ]
    rows = [
        json.loads(line) for status, content, _ in found if status == 200 for line in content.splitlines()
    ]
    assert {status for status, _, _ in found} <= {200, 409}
    assert 1 <= len(rows) <= 10
    assert rows[0]["chosen"][0]["content"].startswith("better")
    assert rows[0]["rejected"][0]["content"].startswith("brief|")
    whole = running_gateway.raw("/v1/datasets/sft.parquet")
    assert whole[0] == 409 or whole[1].startswith(b"PAR1")
    assert running_gateway.call("/v1/datasets/sft.jsonl?split=final")[0] == 400
    assert running_gateway.call("/v1/datasets/secrets.jsonl")[0] == 404
    assert running_gateway.call("/v1/datasets/sft.jsonl", token=None)[0] == 401


# -- experiments ------------------------------------------------------------------------------------------------------


def users(one: Gateway, number: int, *, rate: Any) -> None:
    """Users who ask once, and rate by the route that answered them."""

    def user(name: int) -> None:
        answer = one.ask("x", user=f"user {name}")
        route = answer["choices"][0]["message"]["content"].partition("|")[0]
        one.call("/v1/feedback", {"target": answer["id"], "value": rate(route, name), "client_key": "1"})

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(user, range(number)))


def stage(one: Gateway, name: str, *wanted: str, seconds: float = 60.0) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        found = {e["name"]: e for e in one.call("/v1/experiments")[1]["data"]}[name]
        if found["stage"] in wanted or (found.get("won") and "won" in wanted):
            return dict(found)
        assert time.monotonic() < deadline, str(found)
        time.sleep(0.2)


WISH = {
    "name": "kindness",
    "challenger": "kind",
    "shadow_requests": 0,
    "canary_units": 0,
    "planned": 400,
    "least": 30,
}


@pytest.mark.parametrize(("promote", "end"), [("auto", "promoted"), ("ask", "won")])
def test_a_better_challenger_wins_and_a_person_is_asked_where_that_is_set(
    tmp_path: Path, promote: str, end: str
) -> None:
    with gateway(tmp_path / "data", companion=True, promote=promote) as one:
        status, started = one.call("/v1/experiments", WISH)
        assert status == 201
        assert [round(row["power"], 2) for row in started["power"]] == sorted(
            round(r["power"], 2) for r in started["power"]
        )
        assert one.call("/v1/experiments", WISH | {"name": "second"})[0] == 400, "one is open"
        stage(one, "kindness", "ab")
        time.sleep(0.7)  # the gateway takes the stage over at its next look
        users(one, 200, rate=lambda route, name: float(name % 10 < (9 if route == "kind" else 2)))
        found = stage(one, "kindness", end)
        assert found["reading"]["interval"]["low"] > 0
        served = one.call("/v1/champion")[1]["present"]
        if promote == "auto":
            assert served["by"] == "experiment kindness"
            assert served["receipt"]["interval"]["low"] > 0
            time.sleep(0.7)
            assert one.ask("x")["choices"][0]["message"]["content"] == "kind|x"
        else:
            assert served["version"] == 1
            one.call("/v1/promote", {"bundle": "kind", "based_on": 1, "reason": "it won"})
            stage(one, "kindness", "promoted")


def test_a_harmful_challenger_is_rolled_back_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", companion=True) as one:
        one.call("/v1/experiments", WISH)
        stage(one, "kindness", "ab")
        time.sleep(0.7)
        users(one, 200, rate=lambda route, name: float(name % 10 < (2 if route == "kind" else 9)))
        found = stage(one, "kindness", "rolled back")
        assert "worse" in found["reason"]
        assert one.call("/v1/champion")[1]["present"]["version"] == 1
        time.sleep(0.7)
        assert {one.ask("x", user=f"u{n}")["choices"][0]["message"]["content"] for n in range(20)} == {
            "brief|x"
        }


def test_the_readings_over_time_are_those_of_one_stage(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", companion=True) as one:
        one.call("/v1/experiments", WISH | {"canary_units": 20, "canary_share": 0.4, "least": 5})
        stage(one, "kindness", "canary")
        time.sleep(0.7)
        users(one, 100, rate=lambda route, name: float(name % 2))
        found = stage(one, "kindness", "ab")
        assert found["history"][-1]["stage"] == "canary"
        assert not [point for point in found["points"] if point[0] > 60], (
            "users of the canary are of another reading"
        )


def test_a_user_stays_in_an_arm_and_the_arm_is_in_the_trace(running_gateway: Gateway) -> None:
    config = running_gateway.call("/v1/experiments", WISH | {"share": 0.5})[1]["experiment"]
    document_arms = Arms("kindness", config["salt"], {"challenger": 0.05, "champion": 0.95})
    seen: dict[str, set[str]] = {}
    for number in range(40):
        name = f"user {number % 20}"
        trace = running_gateway.trace(running_gateway.ask("x", user=name)["id"])["trace"]
        (given,) = trace["assignments"]
        seen.setdefault(trace["user"], set()).add(given["arm"])
        expected = assign(document_arms, trace["user"])
        assert expected is not None
        assert (given["arm"], given["propensity"]) == (expected.arm, expected.propensity)
    assert all(len(arms) == 1 for arms in seen.values())


def test_the_shadow_is_answered_and_shown_to_nobody(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", companion=True, shadow_share=1.0) as one:
        one.call("/v1/experiments", WISH | {"shadow_requests": 5, "guardrails": [{"name": "success"}]})
        answers = [one.ask(f"q{n}", user="ann") for n in range(8)]
        assert {a["choices"][0]["message"]["content"].partition("|")[0] for a in answers} == {"brief"}
        found = stage(one, "kindness", "canary", "ab")
        assert found["history"][0]["stage"] == "shadow"
        assert len(one.backend.seen) >= 13
        with JournalReader(one.folder) as reader:
            traces = [t for f in reader.frames() if isinstance(t := decode(f.body), Trace)]
        hidden = [t for t in traces if t.labels.get("shadow") == "kindness"]
        assert {t.labels["of"] for t in hidden} <= {a["id"] for a in answers}
        assert {t.spans[0].output["content"].partition("|")[0] for t in hidden} == {"kind"}


def test_pictures_of_the_shadow_and_of_callers_who_leave_have_their_time(tmp_path: Path) -> None:
    def respond(body: Body, number: int) -> Reply:
        text = body["messages"][-1]["content"][0]["text"]
        return Reply("a b c d e f", pieces=6, gap=0.3) if text == "slow" else Reply()

    def times() -> list[tuple[int, int | None]]:
        with contextlib.closing(sqlite3.connect(one.folder / JOURNAL)) as database:
            return database.execute("SELECT (SELECT count(*) FROM frames), expires FROM blobs").fetchall()

    with gateway(tmp_path / "data", respond, shadow_share=1.0, keep_pictures_days=2.0) as one:
        one.call("/v1/experiments", WISH | {"shadow_requests": 500})
        one.call("/v1/chat/completions", {"messages": [{"role": "user", "content": picture("x")}]})
        until(lambda: times()[0][0] == 2)  # the answer, and what the challenger said
        body = {"messages": [{"role": "user", "content": picture("slow")}], "stream": True}
        client = openai.OpenAI(base_url=one.url + "/v1", api_key=TOKEN, max_retries=0)
        stream = client.chat.completions.create(model="noria", **body)  # type: ignore[call-overload]
        next(iter(stream))
        stream.close()
        until(lambda: times()[0][0] == 3)
        ((_, expires),) = times()
    assert expires is not None
    assert expires == pytest.approx(time.time() + 2 * 86400, abs=300)


def test_an_answer_under_way_is_neither_kept_nor_given_once_its_user_is_erased(tmp_path: Path) -> None:
    held = threading.Event()
    held.set()
    with gateway(tmp_path / "data", lambda b, n: Reply("late words", held=held.is_set)) as one:
        body = {"user": "ann", "messages": [{"role": "user", "content": "early words"}]}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asked = [
                pool.submit(one.raw, "/v1/chat/completions", body | {"stream": stream})
                for stream in (False, True)
            ]
            until(lambda: one.backend.in_flight == 2)
            erased = one.call("/v1/users/erase", {"caller": "operator", "user": "ann"})
            held.clear()
            whole, streamed = [request.result() for request in asked]
        assert (erased[0], erased[1]["traces"]) == (200, 0)
        assert (whole[0], json.loads(whole[1])["error"]["code"]) == (410, "user_erased")
        assert b"user_erased" in streamed[1]
        assert not streamed[1].endswith(b"[DONE]\n\n")
        one.ask("anew", user="ann")
        listed = [row["user"] for row in until(lambda: one.call("/v1/traces")[1]["data"])]
        assert listed == [erased[1]["key"]], "who asks anew is there again, with that alone"
        assert b"early words" not in b"".join(path.read_bytes() for path in one.folder.glob("*sqlite*"))


# -- faults -----------------------------------------------------------------------------------------------------------


def test_two_gateways_do_not_share_a_folder(running_gateway: Gateway) -> None:
    with pytest.raises(RunError), gateway(running_gateway.folder):
        pass


def test_a_journal_that_fails_refuses_and_acknowledges_nothing(running_gateway: Gateway) -> None:
    kept = running_gateway.ask()["id"]
    asked = len(running_gateway.backend.seen)
    os.chmod(running_gateway.folder, 0o700)
    broken = RunError("cannot write: a sync failed")
    import gc

    from noria.core.storage.journal import Journal

    (journal,) = [
        one for one in gc.get_objects() if isinstance(one, Journal) and one.folder == running_gateway.folder
    ]
    journal._queue.broken = broken
    try:
        status, answer = running_gateway.call(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}
        )
        assert (status, answer["error"]["code"]) == (503, "store_failed")
        assert len(running_gateway.backend.seen) == asked, "nothing is paid for that cannot be kept"
        assert running_gateway.call("/v1/feedback", {"target": kept, "value": 1})[0] == 503
        assert running_gateway.call("/ready")[0] == 503
    finally:
        journal._queue.broken = None


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_on_kill_9(tmp_path: Path) -> None:
    """Eight callers, killed at a random moment, again and again: every answer and feedback that arrived is there."""
    moments = random.Random(7)
    folder, acknowledged, told = tmp_path / "data", [], []
    with chat_server(echo) as backend:
        for _ in range(4):
            with gateway_process(folder, backend.url) as process:
                one = Gateway(process.url, folder, backend)
                stop = threading.Event()

                def caller(one: Gateway = one, stop: threading.Event = stop) -> None:
                    while not stop.is_set():
                        try:
                            body = {"messages": [{"role": "user", "content": picture("x")}]}
                            status, answer = one.call("/v1/chat/completions", body)
                            if status == 200:
                                acknowledged.append(answer["id"])
                                status, given = one.call("/v1/feedback", {"target": answer["id"], "value": 1})
                                if status == 202:
                                    told.append(given["id"])
                        except (OSError, ValueError, http.client.HTTPException):
                            return

                threads = [threading.Thread(target=caller) for _ in range(8)]
                for thread in threads:
                    thread.start()
                time.sleep(moments.uniform(0.3, 1.0))
                process.process.send_signal(signal.SIGKILL)
                stop.set()
                for thread in threads:
                    thread.join()
        with gateway_process(folder, backend.url) as process:
            one = Gateway(process.url, folder, backend)
            views = [one.trace(number) for number in acknowledged]
            digests = {view["trace"]["spans"][0]["blobs"][0] for view in views}
            assert all(one.raw(f"/v1/blobs/{digest}")[0] == 200 for digest in digests)
            kept = [feedback["id"] for view in views for feedback in view["feedback"]]
            assert set(told) <= set(kept)
            assert len(kept) == len(set(kept))
            assert process.stop() == 0
    assert len(acknowledged) > 40


def test_old_versions_are_removed_and_what_serves_or_is_configured_stays(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with gateway(folder) as one:
        made = [one.call("/v1/bundles", {"backend": "m", "system": f"s{n}"})[1]["bundle"] for n in range(4)]
        for number, bundle in enumerate(made[:3], 1):
            assert one.call("/v1/promote", {"bundle": bundle, "based_on": number})[0] == 200
        one.call("/v1/experiments", WISH | {"challenger": made[3]})
    for path in (folder / "versions").glob("*/*"):
        os.utime(path, (1e9, 1e9))  # long ago
    with gateway(folder, keep_versions=2) as one:
        until(lambda: len(list((folder / "versions" / "bundles").iterdir())) == 5)
        kept = {bundle["bundle"] for bundle in one.call("/v1/bundles")[1]["data"]}
        assert made[0] not in kept, "neither served lately, nor tested, nor configured"
        assert {*made[1:]} <= kept
        assert one.call("/v1/rollback", {"based_on": 4})[0] == 200
        assert one.ask("x")["choices"][0]["message"]["content"] == "s1|x"
