"""The console as a person's browser shows it: all drawn, nothing fetched from elsewhere, no text taken for code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from noria.blending.service.companion import Companion
from noria.blending.service.config import ServeConfig
from noria.blending.service.console import _clock, console
from noria.blending.service.process import open_feed
from noria.blending.service.service import Feed
from noria.core.service.hosting import running
from tests.blending.feeds import BEARER, TOKEN, as_columns, ask, columns, saved
from tests.blending.test_nearline import CONFIG, World

NASTY = "</script><img src=x onerror='window.hacked=1'>"
PLANS: dict[str, Any] = {
    "plans": [
        {"id": "live", "when": 'source == "live"', "target": {"exposure_share": 0.5}, "owner": NASTY},
        {"id": "cold", "when": "age < 10", "weight": 0.5, "note": NASTY},
        {"id": "old", "when": "age >= 50", "bias": 0.05, "budget": {"spend_per_day": 50.0}},
    ]
}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service's folder after some ticks of the loop."""
    folder = tmp_path_factory.mktemp("console")
    world = World(folder, plans=PLANS, config=CONFIG.model_copy(update={"returns": 1}))
    for _ in range(5):
        world.serve(15)
        world.tick()
    world.tick(100.0)
    world.close()
    return folder


@pytest.fixture
def feed(history: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Feed]]:
    async def idle(self: Companion) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(Companion, "run", idle)
    config = ServeConfig(control=0.0, sample=1.0, poll=0.05)
    with open_feed(history / "snapshot.json", history / "state", config) as opened:
        opened.look()
        assert opened.companion is not None
        service = opened.service(token=TOKEN, more=console(opened))
        with running(service) as url:
            for n in range(12):
                body = as_columns(columns(40, n), id=f"r{n}", size=10)
                assert ask(url, "POST", "/rank/home", body)[0] == 200
            yield url, opened


Open = Callable[..., tuple[Any, list[str], list[str]]]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Open an address: the page, what the console complained of, and what it asked of other places."""
    contexts = []

    def go(url: str, path: str = "/", **options: Any) -> tuple[Any, list[str], list[str]]:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        complaints: list[str] = []
        foreign: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: foreign.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None,
        )
        page.goto(url + path)
        if path == "/" and options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-drawn]", timeout=20_000)
        return page, complaints, foreign

    yield go
    for context in contexts:
        context.close()


def test_the_page_is_drawn_without_a_complaint_or_another_place(feed: tuple[str, Feed], visit: Open) -> None:
    page, complaints, foreign = visit(feed[0])
    assert (complaints, foreign) == ([], [])
    assert page.locator(".drawing svg.marks").count() == 4
    assert page.locator(".drawing.error").count() == 0
    first = page.locator(".drawing").first
    assert first.locator("g.mark-line path").count() == 3, "a line a plan"
    calibration = page.locator(".drawing").nth(3)
    assert calibration.locator("g.mark-symbol path").count() == 30, "ten tenths of three sources"


def test_plans_have_their_price_share_spend_and_returns(feed: tuple[str, Feed], visit: Open) -> None:
    url, opened = feed
    page, _, _ = visit(url)
    assert opened.companion is not None
    assert opened.companion.status is not None
    for plan, told in opened.companion.status["plans"].items():
        row = page.locator(f".cards tr:has(b:text-is('{plan}'))")
        cell = lambda label, row=row: row.locator(f"td[data-label='{label}']").inner_text()  # noqa: E731
        assert cell("price").split()[0] == f"{told['price']:.3g}"
        assert cell("share").split()[0] == f"{100 * told['share']:.3g}"
        assert cell("spend").split()[0] == f"{told['spend']:.3g}"
        roi = told["returns"]["roi_spend"]
        assert cell("return per spend").split()[0] == f"{roi['effect']:.3g}".replace("-", "−")
        assert f"[{roi['low']:.3g}, {roi['high']:.3g}]".replace("-", "−") in cell("return per spend")
    assert "of 50 % of exposures" in page.inner_text(".cards")
    assert "of 50" in page.locator(".cards tr:has(b:text-is('old'))").inner_text()


def test_text_is_never_taken_for_code(feed: tuple[str, Feed], visit: Open) -> None:
    url, _ = feed
    given = columns(5)
    given["item"][0] = NASTY
    scene = quote(NASTY.replace("/", ""), safe="")
    assert ask(url, "POST", f"/rank/{scene}", as_columns(given, id=NASTY))[0] == 200
    page, complaints, _ = visit(url)
    assert NASTY in page.inner_text(".cards")
    assert NASTY in page.inner_text("#requests")
    page.locator("#requests a").first.click()
    page.wait_for_selector(".accounts")
    assert NASTY in page.inner_text("h1")
    assert NASTY in page.inner_text(".accounts")
    assert page.evaluate("window.hacked") is None
    assert complaints == []


def test_sliders_rank_recent_requests_again(feed: tuple[str, Feed], visit: Open) -> None:
    from playwright.sync_api import expect

    url, _ = feed
    page, complaints, _ = visit(url)
    page.select_option("select[name=plan]", "cold")
    page.wait_for_selector("#supposed table")
    assert "another item in 0 % of places" in page.inner_text("#supposed")
    page.locator("input[data-of=weight]").evaluate(
        "e => { e.value = 0; e.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    expect(page.locator("#supposed")).not_to_contain_text("in 0 % of places")
    assert page.locator("input[name=weight]").input_value() == "0"
    wanted = ask(url, "GET", "/what-if?plan=cold&weight=0")[1]
    text = page.inner_text("#supposed")
    assert f"{wanted['value']['after']:.3g}" in text
    share = wanted["plans"]["cold"]["share"]
    assert f"{100 * share['after']:.3g}" in text
    assert f"{100 * share['change'][0]:+.3g}".replace("-", "−") in text
    page.uncheck("input[name=on]")
    page.fill("input[name=bias]", "2000000")
    page.wait_for_selector("#supposed.failed")
    assert "no weight or bias" in page.inner_text("#supposed")
    assert len([line for line in complaints if "400" not in line]) == 0


def test_a_switch_wants_the_token(feed: tuple[str, Feed], visit: Open) -> None:
    url, opened = feed
    page, _, _ = visit(url)
    button = lambda plan: page.locator(f"[data-switch='{plan}']")  # noqa: E731
    button("cold").click()
    page.click("dialog button[value='']")
    assert "cold" not in opened.publisher.switches.off, "cancelled"
    for token, done in (("wrong", False), (TOKEN, True)):
        button("cold").click()
        page.fill("dialog input", token)
        page.click("dialog button[value=send]")
        if not done:
            page.wait_for_selector(".failed")
            assert "needs the service's token" in page.inner_text(".cards")
    page.wait_for_selector(".cards tr:has(b:text-is('cold')) .badge:text-is('switched off')")
    assert opened.publisher.switches.off == {"cold"}
    button("").click()
    page.wait_for_selector("[role=alert]:has-text('All plans are switched off')")
    assert opened.publisher.switches.everything, "the token is kept for as long as the page is open"
    button("").click()
    page.wait_for_selector("[role=alert]", state="detached")
    button("cold").click()
    page.wait_for_selector(".cards tr:has(b:text-is('cold')) .badge:text-is('on')")
    assert opened.publisher.audit()[0]["who"] == "console"
    assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'


def test_the_table_keeps_itself_fresh(feed: tuple[str, Feed], browser: Any) -> None:
    url, opened = feed
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    page.goto(url)
    opened.publisher.switch("old", False)
    page.clock.fast_forward(11_000)
    page.wait_for_selector(".cards tr:has(b:text-is('old')) .badge:text-is('switched off')")
    opened.publisher.switch("old", True)
    context.close()


def test_trouble_is_told(feed: tuple[str, Feed], visit: Open) -> None:
    url, opened = feed
    opened.publisher.trouble = f"x.json: not JSON {NASTY}"
    assert opened.companion is not None
    failing = opened.companion.state / "nearline" / "failing.json"
    failing.write_text(json.dumps({"why": "ZeroDivisionError: a fault"}))
    opened.look()
    page, _, _ = visit(url)
    failing.unlink()
    alerts = page.locator("[role=alert]").all_inner_texts()
    assert any("the last good one serves" in text and NASTY in text for text in alerts)
    assert any("stand still: ZeroDivisionError" in text for text in alerts)


def test_nothing_sticks_out_of_a_narrow_dark_screen(feed: tuple[str, Feed], visit: Open) -> None:
    page, complaints, _ = visit(feed[0], color_scheme="dark", viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("html").get_attribute("data-drawn") == "dark"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 28)"
    page.goto(feed[0] + "/console/requests/r1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert complaints == []


def test_it_works_without_a_script(feed: tuple[str, Feed], visit: Open) -> None:
    page, _, _ = visit(feed[0], java_script_enabled=False)
    assert page.locator(".cards tbody tr").count() == 3
    page.click("#suppose button[type=submit]")
    assert "value of 1,000 exposures" in page.inner_text("body")


def test_an_account_is_told_to_the_number(feed: tuple[str, Feed], visit: Open) -> None:
    url, _ = feed
    page, _, _ = visit(url, "/console/requests/r3")
    _, why = ask(url, "GET", "/requests/r3")
    rows = page.locator(".accounts tbody tr").all_inner_texts()
    assert len(rows) == 10
    for row, item in zip(rows, why["items"], strict=True):
        assert item["item"] in row
        assert f"{item['score']:.4f}" in row
        for plan in item["plans"]:
            assert f"{plan['amount']:+.4f}".replace("-", "−") in row
    assert ask(url, "GET", "/console/requests/none")[0] == 404


def test_beyond_this_machine_the_browsers_password_opens_it(
    history: Path, browser: Any, tmp_path: Path
) -> None:
    config = ServeConfig(control=0.0, sample=1.0)
    with open_feed(history / "snapshot.json", None, config) as opened:
        service = opened.service(token=TOKEN, more=console(opened))
        with running(service) as url:
            service.private = True
            context = browser.new_context(http_credentials={"username": "me", "password": TOKEN})
            page = context.new_page()
            page.goto(url)
            assert page.locator(".cards tbody tr").count() == 3
            assert "was started without" in page.inner_text("#log")
            context.close()
            assert ask(url, "GET", "/")[0] == 401


def test_a_feed_without_plans_or_requests_has_its_page(tmp_path: Path, visit: Open) -> None:
    path = saved(tmp_path, plans={"plans": []})
    with (
        open_feed(path, None, ServeConfig()) as opened,
        running(opened.service(token=None, more=console(opened))) as url,
    ):
        page, complaints, _ = visit(url, "/?")
        assert "There are no plans." in page.inner_text("main")
        assert complaints == []
        status, answer = ask(url, "GET", "/", headers=BEARER)
        assert status == 200
        assert b"{{" not in answer
        assert json.loads(json.dumps(ask(url, "GET", "/status")[1]))["plans"] == []


def test_a_what_if_on_few_requests_says_so(feed: tuple[str, Feed], visit: Open) -> None:
    url, _ = feed
    page, _, _ = visit(url)
    page.select_option("select[name=plan]", "cold")
    page.wait_for_selector("#supposed table")
    assert "rests on 12 requests" in page.inner_text("#supposed")


def test_ticks_of_a_chart_are_told_apart(feed: tuple[str, Feed], visit: Open) -> None:
    url, _ = feed
    page, _, _ = visit(url)
    axes = page.eval_on_selector_all(
        "#charts .role-axis-label",
        "all => all.map(g => [...g.querySelectorAll('text')].map(t => t.textContent))",
    )
    assert len(axes) >= 6
    for labels in axes:
        shown = [label for label in labels if label]
        assert len(shown) == len(set(shown)), shown
        assert not any(label.endswith("m") for label in shown)  # no thousandths under a letter


@pytest.mark.parametrize(
    ("span", "form"),
    [(60, "%H:%M:%S"), (3600, "%H:%M"), (86_400, "%d %b %H:%M"), (30 * 86_400, "%d %b %H:%M")],
)
def test_times_on_an_axis_are_as_fine_as_their_span(span: float, form: str) -> None:
    assert _clock(span) == form
