"""The console: pages without a script, forms that need the token, text that stays text, and a large index."""

from __future__ import annotations

import html
import json
import re
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.service.console.pages import descent
from noria.core.traces.ids import new_id
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.index.listing import feedback_counts, newest_traces, seen_lately
from noria.core.traces.index.scores import scores_by_label
from noria.core.versions.artefacts import Artefact, Lineage
from tests.assistant.gateways import TOKEN, Gateway, gateway
from tests.assistant.test_gateway import WISH, picture, stage, users

PAGES = ("/", "/traces", "/skills", "/parts", "/experiments", "/judges", "/lineage", "/data")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", name="one")
def _one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("console") / "data", companion=True) as one:
        trace = one.ask(EVIL, user="ann")["id"]
        one.call("/v1/feedback", {"target": trace, "kind": "comment", "name": EVIL[:30], "text": EVIL})
        one.call("/v1/chat/completions", {"messages": [{"role": "user", "content": picture("what is it?")}]})
        one.call("/v1/experiments", WISH | {"planned": 10_000})
        stage(one, "kindness", "ab")
        time.sleep(0.7)
        users(one, 60, rate=lambda route, name: float(name % 2))
        time.sleep(2.2)
        yield one


def page(one: Gateway, path: str) -> str:
    status, body, headers = one.raw(path, token=None)
    assert status == 200, path
    assert headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in headers["content-security-policy"]
    return body.decode()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_stands_without_a_script_and_escapes_what_people_say(one: Gateway, path: str) -> None:
    text = page(one, path)
    assert "<script>" not in text
    assert "<img src=x" not in text
    assert 'aria-current="page"' in text
    assert re.findall(r"(?:src|href)=\"(?:https?:)?//", text) == [], "nothing is fetched from elsewhere"


def test_now_says_what_serves_and_how_it_goes(one: Gateway) -> None:
    deadline = time.monotonic() + 60
    wanted = ("brief", "62</b> requests", "kindness", "A/B test", "nothing was judged")
    while (
        missing := [words for words in wanted if words not in page(one, "/")]
    ) and time.monotonic() < deadline:
        time.sleep(0.2)  # the companion reads what came last
    assert not missing


def test_a_trace_says_why_it_was_answered_so(one: Gateway) -> None:
    listed = page(one, "/traces")
    paths = re.findall(r'href="(/traces/[0-9a-f-]{36})"', listed)
    assert len(paths) == 50
    older = re.search(r'href="(/traces\?before=[^"]+)"', listed)
    assert older
    rest = re.findall(r'href="(/traces/[0-9a-f-]{36})"', page(one, html.unescape(older[1])))
    assert len(rest) == 12
    first = page(one, rest[-1])
    assert html.escape(EVIL, quote=False).replace("=", "=") in first.replace("&#34;", '"')
    assert "Why this answer" in first
    with_picture = page(one, rest[-2])
    digest = re.search(r'src="(/v1/blobs/[0-9a-f]{64})"', with_picture)
    assert digest
    assert one.raw(digest[1], token=None)[1].startswith(b"\x89PNG")
    assert one.raw("/traces/01900000-0000-7000-8000-000000000000")[0] == 404
    assert page(one, "/traces?status=failed").count("/traces/0") == 0


def submit(one: Gateway, **fields: str) -> tuple[int, str]:
    """What a browser sends for a form."""
    data = urllib.parse.urlencode(fields).encode()
    headers = {"content-type": "application/x-www-form-urlencoded", "origin": one.url}
    request = urllib.request.Request(one.url + "/console/act", data, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_form_needs_the_token_and_the_version_that_was_seen(one: Gateway) -> None:
    off = {"action": "switch", "name": "learning", "on": "false", "back": "/"}
    assert submit(one, **off)[0] == 401
    assert submit(one, **off, token="wrong")[0] == 401
    status, text = submit(one, **off, token=TOKEN)
    assert (status, "learning is off." in text) == (200, True)
    assert 'class="badge refuted">off' in page(one, "/")
    assert submit(one, **off | {"on": "true"}, token=TOKEN)[0] == 200
    assert submit(one, action="roll back", based_on="1", token=TOKEN)[0] == 400, "there is nothing before it"
    assert submit(one, action="roll back", based_on="", token=TOKEN)[0] == 400
    assert submit(one, action="explode", token=TOKEN)[0] == 400
    kind = next(b["bundle"] for b in one.call("/v1/bundles")[1]["data"] if b["name"] == "kind")
    assert submit(one, action="promote", bundle=kind, based_on="7", token=TOKEN)[0] == 409
    status, text = submit(
        one, action="stop", name="kindness", reason="enough", back="/experiments", token=TOKEN
    )
    assert (status, "kindness is stopped." in text) == (200, True)
    assert "enough" in page(one, "/experiments")


def test_what_has_won_is_promoted_from_its_page_on_the_version_that_was_seen(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", companion=True) as one:
        guarded = {"guardrails": [{"name": "speed", "tolerance": 2}]}
        one.call("/v1/experiments", WISH | guarded)
        stage(one, "kindness", "ab")
        time.sleep(0.7)
        users(one, 120, rate=lambda route, name: float(name % 10 < (9 if route == "kind" else 2)))
        assert stage(one, "kindness", "won")["stage"] == "ab", "it waits for an operator"
        text = page(one, "/experiments")
        assert "It has won and waits for an operator" in text
        assert "a probability of 97.5 %" in text, "the α is shared with the guardrail"
        assert "it rolls back below −2" in text
        form = text.partition("<summary>promote")[2].partition("</form>")[0]
        fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form)) | {"token": TOKEN}
        assert (fields["action"], fields.pop("based_on")) == ("promote", "1")
        assert submit(one, **fields, based_on="0")[0] == 409
        status, said = submit(one, **fields, based_on="1", reason="it was won")
        assert (status, "Promoted: move 2" in said) == (200, True)
        assert stage(one, "kindness", "promoted")["stage"] == "promoted"


def test_the_data_of_turns_stand_by_split(tmp_path: Path) -> None:
    with gateway(tmp_path / "data") as one:
        assert "No turn has been run yet" in page(one, "/data")
        counts = {"traces": 700, "rated": 146, "groups": {"train": 86, "gates": 42, "final": 15}}
        data = {"digest": "x", "counts": counts | {"chats in no split": 31, "feedback left out": 7}}
        receipts: list[Any] = [{"outcome": "handed over", "turn": {"learner": "routes"}, "data": data}]
        receipts += [{"outcome": "stopped", "turn": {"learner": "bodies"}, "data": None}, ["damaged"]]
        for number, receipt in enumerate(receipts, 1):
            folder = one.folder / "turns" / f"{number:06d}"
            folder.mkdir(parents=True)
            (folder / "receipt.json").write_text(json.dumps(receipt))
        table = page(one, "/data").partition("What turns learned from")[2].partition("</section>")[0]
        rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("<tr>")[2:]]
        assert rows == [
            ["3", "", "its receipt cannot be read", ""],
            ["2", "bodies", "stopped", ""],
            ["1", "routes", "handed over", "700", "146", "86", "42", "15", "31", "7"],
        ]


def test_descent_stands_below_what_it_came_from() -> None:
    def made(name: str, *parents: str) -> Artefact:
        return Artefact(name, "route", {}, lineage=Lineage(parents=parents))

    placed = descent(
        [made("a"), made("b"), made("c", "a"), made("d", "c"), made("e", "gone"), made("f", "a")]
    )
    assert [(one.digest, depth) for one, depth in placed] == [
        ("e", 0), ("b", 0), ("a", 0), ("f", 1), ("c", 1), ("d", 2)
    ]  # fmt: skip


def test_another_sites_page_cannot_send_a_form(one: Gateway) -> None:
    request = urllib.request.Request(
        one.url + "/console/act", b"action=switch", {"origin": "https://evil.example"}
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def test_a_user_is_erased_by_the_key_on_the_trace(one: Gateway) -> None:
    key = one.trace(one.ask("secret", user="carla")["id"])["trace"]["user"]
    assert submit(one, action="erase", key=key)[0] == 401
    assert "1 traces of this user were erased" in submit(one, action="erase", key=key, token=TOKEN)[1]


def test_a_trace_is_replayed_under_another_bundle_and_kept_nowhere(one: Gateway) -> None:
    trace = one.ask(EVIL)["id"]
    form = page(one, f"/traces/{trace}")
    serves = one.trace(trace)["trace"]["bundle"]
    other = next(b for b in re.findall(r'<option value="([0-9a-f]{64})">', form) if b != serves)
    wish = {"action": "replay", "trace": trace, "bundle": other}
    asked = len(one.backend.seen)
    assert submit(one, **wish)[0] == 401
    assert len(one.backend.seen) == asked, "no backend is asked without the token"
    status, text = submit(one, **wish, token=TOKEN)
    assert status == 200
    assert "brief|&lt;script" in text
    assert "kind|&lt;script" in text
    assert "<script>alert" not in text
    assert submit(one, **wish | {"bundle": "0" * 64}, token=TOKEN)[0] == 400
    assert submit(one, **wish | {"trace": "../x"}, token=TOKEN)[0] == 404


@pytest.mark.parametrize("wide", [400, 1200], ids=["telephone", "desk"])
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_no_page_is_wider_than_its_screen_and_none_asks_elsewhere(
    one: Gateway, browser: Any, scripts: bool, wide: int
) -> None:
    context = browser.new_context(
        viewport={"width": wide, "height": 800}, color_scheme="dark", java_script_enabled=scripts
    )
    page_, asked, complaints = context.new_page(), [], []
    page_.on("request", lambda request: asked.append(request.url))
    page_.on("console", lambda message: complaints.append(message.text))
    trace = re.findall(r'href="(/traces/[0-9a-f-]{36})"', page(one, "/traces"))[0]
    for path in (*PAGES, trace):
        page_.goto(one.url + path)
        width = page_.locator("html").evaluate("element => element.scrollWidth") if scripts else wide
        assert width <= wide, path
        assert page_.locator("h1").inner_text()
    assert {url.split("/", 3)[2] for url in asked} == {one.url.split("/")[2]}
    assert complaints == []
    context.close()


def test_a_switch_is_turned_with_the_keyboard_alone(one: Gateway, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page_ = context.new_page()
    page_.goto(one.url)
    page_.locator("summary", has_text="turn off").nth(1).focus()
    page_.keyboard.press("Enter")
    page_.keyboard.press("Tab")
    page_.keyboard.type(TOKEN)
    page_.keyboard.press("Enter")
    assert page_.locator("[role=status]").inner_text() == "judging is off."
    one.call("/v1/switches/judging", {"on": True}, method="PUT")
    context.close()


@pytest.mark.slow
def test_the_pages_queries_are_quick_at_many_traces(tmp_path: Path) -> None:
    index = TraceIndex(tmp_path / "index.sqlite")
    now = time.time_ns()
    database = sqlite3.connect(tmp_path / "index.sqlite")
    database.execute("PRAGMA synchronous = OFF")
    ids = [new_id(now - (200_000 - n) * 10**9) for n in range(200_000)]
    database.executemany(
        "INSERT INTO traces VALUES (?, ?, .5, 'ok', 'b', 'shop', ?, NULL, 30, .001, "
        "'{\"skill\": \"tea\"}', '{}', 1)",
        ((one, now - (200_000 - n) * 10**9, f"user {n % 5000}") for n, one in enumerate(ids)),
    )
    database.executemany(
        "INSERT INTO feedback VALUES (?, ?, 'rating', 'helpful', 0, 1.0, 'user', 'x', NULL, 0)",
        ((f"f{n}", one) for n, one in enumerate(ids)),
    )
    database.executemany(
        "INSERT INTO judgements VALUES (?, ?, 0, 'j', 'rule', .5, 0, 3, NULL, NULL)",
        ((f"j{n}", one) for n, one in enumerate(ids)),
    )
    database.commit()
    for read in (
        lambda: newest_traces(index, limit=50),
        lambda: newest_traces(index, limit=50, user="user 7"),
        lambda: newest_traces(index, limit=50, status="failed"),
        lambda: newest_traces(index, limit=50, bundle="b", status="failed"),
        lambda: newest_traces(index, limit=50, bundle="b", user="nobody"),
        lambda: seen_lately(index, now - 86400 * 10**9),
        lambda: scores_by_label(index, "skill", "b", 0, most=20_000),
        lambda: feedback_counts(index),
        index.count,
    ):
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            read()
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.2
