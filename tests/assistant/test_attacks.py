"""Attacks on the page and the gateway that succeeded once: sessions, limits, money, and what an erasure left behind."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from noria.assistant.config import AssistantConfig
from noria.assistant.service.started import KEEPER, started_by
from noria.assistant.web.page import Page
from noria.assistant.web.reading import _ranged
from noria.core.traces.index.listing import newest_traces
from tests.assistant.gateways import Gateway, gateway, settings
from tests.assistant.pages import page_gateway, scene
from tests.assistant.test_page import PHRASE, Person
from tests.assistant.test_tools import calls, pictures_server, server
from tests.chat_server import Body, Reply
from tests.waiting import until


def sign(person: Person, action: str, name: str, phrase: str = PHRASE, **more: str) -> tuple[int, str]:
    """Sign up or in, or change, from the page of the account."""
    person.visit("/account")
    token = person.fields("/chat/account")["token"]
    given = {"token": token, "action": action, "name": name, "passphrase": phrase, **more}
    status, text, _ = person.post("/account", given)
    return status, text


def copy(person: Person) -> Person:
    """Another browser with the same cookies: what a thief, or who planted them, has."""
    thief = Person(person.url)
    for cookie in person.jar:
        thief.jar.set_cookie(cookie)
    return thief


@pytest.fixture(scope="module", name="house")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with page_gateway(tmp_path_factory.mktemp("page") / "data") as one:
        yield one


def test_the_cookie_of_a_guest_does_not_open_the_account_that_the_guest_became(
    house: tuple[Gateway, Page],
) -> None:
    ann = Person(house[0].url)
    ann.ask("say before")
    planted = copy(ann)
    assert sign(ann, "sign-up", "ann.fixed")[0] == 200
    ann.page = ""
    ann.ask("say a secret of the account")
    assert "a secret of the account" not in planted.visit("/conversations")
    assert "a secret of the account" not in planted.visit("/data/export")


def test_who_is_signed_in_makes_no_second_account_of_the_same_data(house: tuple[Gateway, Page]) -> None:
    ann = Person(house[0].url)
    assert sign(ann, "sign-up", "ann.one")[0] == 200
    assert sign(ann, "sign-up", "ann.backdoor", "another phrase of mine")[0] != 200
    thief = Person(house[0].url)
    assert sign(thief, "sign-in", "ann.backdoor", "another phrase of mine")[0] == 403


def test_the_cookie_of_a_deleted_account_does_not_open_the_next_one_of_its_name(
    house: tuple[Gateway, Page],
) -> None:
    first = Person(house[0].url)
    assert sign(first, "sign-up", "popular")[0] == 200
    kept = copy(first)
    first.visit("/data")
    token = first.fields("/chat/data/delete")["token"]
    assert first.post("/data/delete", {"token": token, "sure": "yes"})[0] == 200
    second = Person(house[0].url)
    assert sign(second, "sign-up", "popular", "quite another phrase")[0] == 200
    assert "Signed in as" not in kept.visit("/account")


def test_a_name_is_tried_as_often_however_it_is_written(house: tuple[Gateway, Page]) -> None:
    ann = Person(house[0].url)
    assert sign(ann, "sign-up", "guessed")[0] == 200
    thief = Person(house[0].url)
    ways = ["guessed", "GUESSED", " guessed", "guessed ", "ｇuessed", "gｕessed", "guｅssed", "gues\u017fed"]
    statuses = [sign(thief, "sign-in", way, "not the phrase")[0] for way in ways]
    assert statuses.count(403) <= 6, statuses


def test_one_user_has_one_message_at_a_time_also_with_pictures(tmp_path: Path) -> None:
    go = threading.Event()

    def patient(body: Body, number: int) -> Reply:
        go.wait(20)
        return Reply("done")

    with page_gateway(tmp_path / "data", patient) as (one, _):
        ann = Person(one.url)
        ann.visit()
        forms = []
        for _ in range(6):
            ann.visit()
            forms.append(ann.fields("/chat/send") | {"message": "hello"})
        with ThreadPoolExecutor(6) as pool:
            sent = [
                pool.submit(copy(ann).post, "/send", form, scene(size=(900, 900)), **{"x-part": "1"})
                for form in forms
            ]
            statuses = [one.result()[0] for one in sent]
        go.set()
        assert sorted(statuses) == [202] + 5 * [409]


def test_a_user_does_not_hold_the_gateway_with_streams(tmp_path: Path) -> None:
    go = threading.Event()

    def patient(body: Body, number: int) -> Reply:
        go.wait(20)
        return Reply("done")

    with page_gateway(tmp_path / "data", patient) as (one, _):
        ann = Person(one.url)
        ann.visit()
        said = json.loads(
            ann.post("/send", ann.fields("/chat/send") | {"message": "hi"}, **{"x-part": "1"})[1]
        )
        cookie = "; ".join(f"{c.name}={c.value}" for c in ann.jar)
        host = urllib.parse.urlsplit(one.url).netloc
        streams, statuses = [], []
        for _ in range(20):
            stream = http.client.HTTPConnection(host, timeout=10)
            stream.request("GET", said["events"], headers={"cookie": cookie})
            answer = stream.getresponse()
            statuses.append(answer.status)
            streams.append((stream, answer))
        go.set()
        for stream, _ in streams:
            stream.close()
        assert 1 <= statuses.count(200) <= 8, statuses
        assert statuses[-1] == 429


def test_new_guests_from_one_address_have_a_rate_together(tmp_path: Path) -> None:
    with page_gateway(tmp_path / "data", page={"messages_per_minute": 1}) as (one, _):
        statuses = []
        for _ in range(24):
            ann = Person(one.url)
            ann.visit()
            statuses.append(
                ann.post("/send", ann.fields("/chat/send") | {"message": "say x"}, **{"x-part": "1"})[0]
            )
        assert statuses[:20] == 20 * [202]
        assert 429 in statuses[20:]


def test_feedback_has_a_rate(house: tuple[Gateway, Page]) -> None:
    ann = Person(house[0].url)
    ann.ask("say rate me")
    (trace,) = ann.traces()
    statuses = [ann.say(trace, rate="up", item=f"made up {n}", key=f"k{n}")[0] for n in range(80)]
    assert (statuses[0], statuses[-1]) == (303, 429)


def test_an_operators_erasure_reaches_titles_and_accounts(tmp_path: Path) -> None:
    with page_gateway(tmp_path / "data") as (one, page):
        ann = Person(one.url)
        ann.ask("say my diagnosis is secret")
        (trace,) = ann.traces()
        assert sign(ann, "sign-up", "ann.erased")[0] == 200
        key = one.trace(trace)["trace"]["user"]
        assert one.call("/v1/users/erase", {"key": key})[1]["traces"] == 1
        rows = page.room.state.control.execute("SELECT * FROM documents WHERE kind LIKE ?", ("page%",))
        assert rows == []
        assert "ann.erased" not in ann.visit("/account")


@pytest.mark.parametrize("way", ["conversation", "everything"])
@pytest.mark.parametrize("late", [False, True])
def test_what_challengers_answered_in_the_shadow_is_deleted_too(tmp_path: Path, way: str, late: bool) -> None:
    go = threading.Event()

    def respond(body: Body, number: int) -> Reply:
        if body["messages"][0]["content"] == "kind" and late:
            go.wait(20)
        return Reply("fine")

    wish = {"name": "kindness", "challenger": "kind", "primary": "helpful", "shadow_requests": 50}
    with page_gateway(tmp_path / "data", respond, shadow_share=1.0) as (one, page):
        assert one.call("/v1/experiments", wish)[0] == 201
        store = page.room.state.store

        def left() -> list[str]:
            store.index.follow(store.folder)
            return [line.id for line in newest_traces(store.index)]

        ann = Person(one.url)
        ann.ask("my diagnosis is secret")
        assert until(lambda: len(one.backend.seen) == 2)
        assert late or until(lambda: len(left()) == 2)
        where = f"/c/{ann.conversation()}/delete" if way == "conversation" else "/data/delete"
        ann.visit("/conversations" if way == "conversation" else "/data")
        token = ann.fields(f"/chat{where}")["token"]
        assert ann.post(where, {"token": token, "sure": "yes"})[0] == 200
        go.set()
        assert until(lambda: not page.room.state.gateway.shadow._tasks and not store.journal.waiting)
        assert left() == []


def test_a_failure_after_tools_costs_what_the_tools_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "a-token-of-the-shop-0123")

    def fails_last(body: Body, number: int) -> Reply:
        if body["messages"][-1]["role"] == "tool":
            return Reply(status=400)
        return calls("edit", prompt="x")

    with server(pictures_server) as (url, asked):
        parts = {"tools": {"edit": {"kind": "generate", "url": f"{url}/v1", "cost": 0.02}}, "tool_rounds": 1}
        callers = [{"name": "shop", "token_env": "SHOP_TOKEN", "budget_per_day": 0.05}]
        with gateway(tmp_path / "data", fails_last, parts=parts, callers=callers) as one:
            body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 10}
            for _ in range(6):
                one.call("/v1/chat/completions", body, token="a-token-of-the-shop-0123")
            assert len(asked) == 2
        with gateway(tmp_path / "data", fails_last, parts=parts, callers=callers) as one:
            body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 10}
            assert one.call("/v1/chat/completions", body, token="a-token-of-the-shop-0123")[0] == 429


def test_a_started_server_gets_no_keys_of_others() -> None:
    backends = {"m": {"url": "https://provider.example/v1", "model": "m", "key_env": "PROVIDER_KEY"}}
    tools = {
        "mine": {"kind": "mcp", "start": ["npx", "some-server"], "key_env": "MINE_KEY"},
        "other": {"kind": "edit", "url": "https://pictures.example/v1", "key_env": "OTHER_KEY"},
    }
    raw = settings("http://127.0.0.1:9") | {
        "backends": backends,
        "parts": {"tools": tools},
        "begin": "brief",
        "routes": {"brief": {"backend": "m"}},
    }
    hidden = started_by(AssistantConfig.model_validate(raw))[1]["mine"]
    assert hidden == {"PROVIDER_KEY", "OTHER_KEY"}


@pytest.mark.parametrize(
    "listed",
    [
        {"name": "edit", "inputSchema": {"type": "object"}},
        {"name": "odd", "inputSchema": {"type": "nonsense"}},
        {"name": "odd", "annotations": "none"},
        {"name": "bad name", "inputSchema": {"type": "object"}},
        {"name": "odd", "inputSchema": "nonsense"},
    ],
)
def test_a_tool_that_an_mcp_server_lists_wrongly_does_not_stop_the_answers(
    tmp_path: Path, listed: Any
) -> None:
    def mcp(path: str, body: Any) -> Any:
        if path != "/mcp":
            return pictures_server(path, body)
        return {"jsonrpc": "2.0", "id": 1, "result": {"tools": [listed]}}

    with server(mcp) as (url, _):
        tools = {
            "edit": {"kind": "generate", "url": f"{url}/v1"},
            "shop": {"kind": "mcp", "url": f"{url}/mcp"},
        }
        with gateway(tmp_path / "data", parts={"tools": tools}) as one:
            assert one.ask("hello")["choices"][0]["message"]["content"] == "brief|hello"
            off = {tool["name"]: tool["off"] for tool in one.call("/v1/tools")[1]["data"]}
            assert off["edit"] is None
            assert "another tool" in off["shop"] or "what is no tool" in off["shop"]


@pytest.mark.parametrize("wish", ["bytes=" + "1" * 5000 + "-", "bytes=0-" + "9" * 5000])
def test_a_range_of_thousands_of_digits_is_no_fault_of_the_page(wish: str) -> None:
    request = Request({"type": "http", "headers": [(b"range", wish.encode())]})
    assert _ranged(request, b"abc", "video/mp4").status_code == 200  # type: ignore[arg-type]


def test_half_a_character_of_an_odd_charset_breaks_no_page(house: tuple[Gateway, Page]) -> None:
    ann = Person(house[0].url)
    ann.visit()
    fields = ann.fields("/chat/send") | {"message": "say half +2AA-"}
    body = "".join(
        f'--m\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    sent = {"content-type": "multipart/form-data; boundary=m; charset=utf-7", "origin": ann.url}
    request = urllib.request.Request(ann.url + "/chat/send", f"{body}--m--\r\n".encode(), sent)
    status, _, headers = ann.open(request)
    assert status == 303
    assert "half ?" in ann.visit(headers["location"].partition("#")[0])


def test_a_form_of_the_console_with_too_many_fields_is_refused(house: tuple[Gateway, Page]) -> None:
    ann = Person(house[0].url)
    sent = {"content-type": "application/x-www-form-urlencoded", "origin": ann.url}
    status, *_ = ann.open(urllib.request.Request(ann.url + "/console/act", b"&".join([b"a=1"] * 50), sent))
    assert status == 400


def test_half_a_character_of_a_tool_loses_no_trace(tmp_path: Path) -> None:
    def mcp(path: str, body: Any) -> Any:
        if body["method"] == "tools/list":
            return {"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "look"}]}}
        words = {"content": [{"type": "text", "text": "half \ud800"}]}
        cards = {"items": [{"id": "\ud800", "title": "half \ud800"}]}
        return {"jsonrpc": "2.0", "id": 1, "result": words | {"structuredContent": cards}}

    def respond(body: Body, number: int) -> Reply:
        return Reply("done") if body["messages"][-1]["role"] == "tool" else calls("look")

    with server(mcp) as (url, _):
        tools = {"shop": {"kind": "mcp", "url": f"{url}/mcp", "cost": 0.01}}
        with gateway(tmp_path / "data", respond, parts={"tools": tools}) as one:
            answer = one.ask("hello")
            assert answer["choices"][0]["message"]["content"] == "done"
            (span,) = [span for span in one.trace(answer["id"])["trace"]["spans"] if span["kind"] == "tool"]
            assert span["error"]["kind"] == "failed"


def test_an_address_leaves_places_in_the_queue_and_turns_to_others(tmp_path: Path) -> None:
    go, asked = threading.Event(), []

    def patient(body: Body, number: int) -> Reply:
        asked.append(body["messages"][-1]["content"])
        go.wait(20)
        return Reply("done")

    def send(person: Person, text: str) -> int:
        person.visit()
        return person.post("/send", person.fields("/chat/send") | {"message": text}, **{"x-part": "1"})[0]

    with page_gateway(tmp_path / "data", patient, page={"at_once": 1, "queue": 4}) as (one, page):
        page.room.address = lambda request: request.headers.get("user-agent", "")  # type: ignore[method-assign]
        statuses = [send(Person(one.url, headers={"user-agent": "crowd"}), f"crowd {n}") for n in range(5)]
        assert statuses == [202, 202, 202, 202, 503]
        assert send(Person(one.url, headers={"user-agent": "ann"}), "ann") == 202
        desk = page.room.desk
        desk.at_once = 2
        assert until(lambda: len(asked) == 1)
        go.set()
        assert until(lambda: len(asked) == 5)
        assert asked.index("ann") <= 2


def test_everything_is_not_taken_out_without_end(house: tuple[Gateway, Page]) -> None:
    ann = Person(house[0].url)
    assert [ann.get("/data/export")[0] for _ in range(6)] == [200] * 6
    ann.visit()
    assert [ann.get("/data/export")[0] for _ in range(6)] == [200] * 4 + [429] * 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's own signal at a parent's end")
def test_a_command_does_not_outlive_a_keeper_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(30)"]
    keeper = subprocess.Popen(
        [sys.executable, "-I", str(KEEPER), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdout is not None
    child = Path(f"/proc/{int(keeper.stdout.readline())}")
    assert child.exists()
    keeper.kill()
    keeper.wait()
    assert until(lambda: not child.exists() or ") Z " in (child / "stat").read_text(), 10)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_who_comes_by_a_proxy_is_not_on_this_machine(house: tuple[Gateway, Page], header: str) -> None:
    """A proxy that writes its own Host would else show every trace to everybody."""
    through = Person(house[0].url, base="", headers={header: "203.0.113.9"})
    for path in ("/v1/traces", "/traces", "/v1/models", "/metrics"):
        request = urllib.request.Request(house[0].url + path)
        assert Person(house[0].url).open(request)[0] == 200
        assert (
            through.open(urllib.request.Request(house[0].url + path, headers=dict(through.headers)))[0] == 401
        )
    assert through.get("/chat")[0] == 404
    ask = {"name": "ask", "arguments": {"question": "who pays?"}}
    for method, params in (("tools/list", {}), ("tools/call", ask)):
        data = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        for by, status in ((Person(house[0].url), 200), (through, 401)):
            request = urllib.request.Request(house[0].url + "/mcp", data.encode(), dict(by.headers))
            assert by.open(request)[0] == status


def test_a_size_of_thousands_of_digits_is_refused_in_a_line(tmp_path: Path) -> None:
    with server(pictures_server) as (url, _):
        tools = {"make": {"kind": "generate", "url": f"{url}/v1"}}
        with gateway(tmp_path / "data", parts={"tools": tools}) as one:
            asked = {"prompt": "x", "size": "9" * 5000 + "x1"}
            status, answer = one.call("/v1/images/generations", asked)
            assert (status, answer["error"]["code"]) == (400, "bad_size")
