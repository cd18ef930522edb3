"""The page in a browser: as a shopper sees it, with a script and without, by keyboard, on a phone, in a shop's page."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from noria.assistant.web.page import Page
from tests.assistant.gateways import Gateway
from tests.assistant.pages import DoubleTools, page_gateway, scene

PAGE = {
    "title": "Lampenhaus",
    "welcome": "What would you like to light?",
    "suggestions": ["search a lamp", "say hello"],
}
AXE = "axe-core-4.14.1.tgz"
AXE_SHA512 = (
    "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b73"
    "4f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5"
)


@pytest.fixture(scope="module", name="house")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Page]]:
    folder = tmp_path_factory.mktemp("page") / "data"
    shop = [f"http://127.0.0.1:{SHOP}"]
    with page_gateway(folder, tools=DoubleTools(0.3), page=PAGE | {"embed": shop}) as one:
        yield one


class Tab:
    """A tab of somebody new; what its page complains of is an error, but for what is blocked on purpose."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.url, self.asked, self.complaints = url, [], []  # type: ignore[var-annotated]
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, message: Any) -> None:
        hostile = (
            "sandbox" in message.text or "img-src data:" in message.text or "status of 4" in message.text
        )
        if message.type == "error" and not hostile:
            self.complaints.append(message.text)

    def open(self, path: str = "/chat") -> Any:
        self.page.goto(self.url + path)
        return self.page

    def ask(self, text: str, picture: bytes = b"") -> None:
        if picture:
            one = {"name": "room.png", "mimeType": "image/png", "buffer": picture}
            self.page.set_input_files("input[name=picture] >> nth=0", one)
        self.page.fill("#message", text)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#pending", state="detached")


@contextlib.contextmanager
def tab(browser: Any, house: tuple[Gateway, Page], **options: Any) -> Iterator[Tab]:
    one = Tab(browser, house[0].url, **options)
    yield one
    own = house[0].url.split("/")[2]
    foreign = [url for url in one.asked if url.startswith("http") and url.split("/")[2] != own]
    one.context.close()
    assert one.complaints == []
    assert foreign == []


# -- a conversation ---------------------------------------------------------------------------------------------------


def test_a_picture_is_edited_and_compared_with_the_keyboard_alone(
    browser: Any, house: tuple[Gateway, Page]
) -> None:
    with tab(browser, house) as one:
        page = one.open()
        assert page.evaluate("document.activeElement.id") == "message"
        one.page.set_input_files(
            "input[name=picture] >> nth=0", {"name": "room.png", "mimeType": "image/png", "buffer": scene()}
        )
        assert page.locator("#chosen span").inner_text() == "room.png"
        page.keyboard.type("edit: a green wall")
        page.keyboard.press("Enter")
        page.wait_for_selector(".steps .now")
        assert "Editing your picture … edit: a green wall" in page.locator("#progress").inner_text()
        page.wait_for_selector("#pending", state="detached")
        assert re.fullmatch(r".*/chat/c/[0-9a-f]{20}", page.url)
        slider = page.locator(".pair input[type=range]")
        slider.focus()
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        assert slider.input_value() == "60"
        assert page.locator(".pair").evaluate("one => one.style.getPropertyValue('--at')") == "60%"
        name = slider.evaluate("one => one.getAttribute('aria-label')")
        assert name == "How much of the picture before is shown, in percent"
        chip = page.locator("#subject input")
        assert chip.is_checked()
        after = page.locator(".pair a").nth(1).get_attribute("href")
        assert after.endswith(chip.get_attribute("value")), "the next message is about what the edit made"
        spoken = page.locator("#live").inner_text()
        assert "Lampenhaus is answering." in spoken
        assert "The answer is complete." in spoken


def test_an_answer_is_drawn_as_it_comes_and_spoken_in_sentences(
    browser: Any, house: tuple[Gateway, Page]
) -> None:
    with tab(browser, house) as one:
        page = one.open()
        page.fill("#message", "slow, please")
        page.keyboard.press("Enter")
        page.wait_for_selector("#progress strong")
        assert page.locator(".send").is_disabled()
        page.fill("#message", "and the next one")
        page.reload()  # an answer belongs to no connection
        page.wait_for_selector("#progress strong")
        page.wait_for_selector("#pending", state="detached")
        assert page.locator(".prose table").count() == 1
        assert page.locator(".prose a").get_attribute("rel") == "noopener noreferrer nofollow ugc"
        assert "Dim it in the evening." in page.locator("#live").inner_text()


def test_an_answer_is_stopped(browser: Any, house: tuple[Gateway, Page]) -> None:
    with tab(browser, house) as one:
        page = one.open()
        page.fill("#message", "hang on")
        page.keyboard.press("Enter")
        page.locator(".halt button").click()
        page.wait_for_selector("text=You stopped this answer.")


def test_pictures_are_pasted_dropped_shrunk_and_taken_away(browser: Any, house: tuple[Gateway, Page]) -> None:
    with tab(browser, house) as one:
        page = one.open()
        carry = """([kind, type, data]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], "photo", { type }));
            const event = kind === "paste"
                ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true })
                : new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }"""
        data = base64.b64encode(scene()).decode()
        page.evaluate(carry, ["paste", "image/png", data])
        page.wait_for_selector("#chosen:not([hidden])")
        page.locator("#chosen button").click()
        assert page.locator("#chosen").is_hidden()
        page.evaluate(carry, ["dragenter", "image/png", data])
        assert page.locator(".droptext").is_visible()
        page.evaluate(carry, ["drop", "image/png", data])
        page.wait_for_selector("#chosen:not([hidden])")
        assert page.locator(".droptext").is_hidden()
        page.evaluate(carry, ["drop", "application/pdf", data])
        assert "This is no picture that can be taken" in page.locator("#note").inner_text()
        noise = """async () => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 2600, height: 1300 });
            const context = canvas.getContext("2d");
            const pixels = context.createImageData(2600, 1300);
            for (let place = 0; place < pixels.data.length; place += 65536)
                crypto.getRandomValues(pixels.data.subarray(place, place + 65536));
            context.putImageData(pixels, 0, 0);
            const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
            const carried = new DataTransfer();
            carried.items.add(new File([blob], "photo.png", { type: "image/png" }));
            const options = { dataTransfer: carried, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", options));
            return blob.size;
        }"""
        assert page.evaluate(noise) > 10_000_000
        page.wait_for_selector("#chosen:has-text('photo.png')")
        assert (
            page.locator("#chosen img").evaluate("one => one.decode().then(() => one.naturalWidth)") == 2048
        )
        page.fill("#message", "say thanks")
        page.keyboard.press("Enter")
        page.wait_for_selector("#pending", state="detached")
        assert page.locator(".mine img").evaluate("one => one.decode().then(() => one.naturalWidth)") == 2048


def test_a_message_that_is_refused_stays_in_the_box(browser: Any, house: tuple[Gateway, Page]) -> None:
    with tab(browser, house) as one:
        page = one.open()
        page.locator("[name=token]").first.evaluate("one => one.value = 'old'")
        page.fill("#message", "say this")
        page.keyboard.press("Enter")
        page.wait_for_selector("#note:not([hidden])")
        assert "Nothing was done" in page.locator("#note").inner_text()
        assert page.input_value("#message") == "say this"
        assert page.locator(".turn").count() == 0


def test_thumbs_and_corrections_are_given_in_place(browser: Any, house: tuple[Gateway, Page]) -> None:
    with tab(browser, house) as one:
        page = one.open()
        one.ask("search lamps")
        bar = page.locator(".ask-row")
        bar.get_by_role("button", name="Good: this answer").press("Enter")
        page.wait_for_selector('.ask-row button[aria-pressed="true"]')
        assert page.evaluate("document.activeElement.value") == "up", "the focus stays where it was"
        card = page.locator(".card").nth(1)
        card.locator("summary.thumb").click()
        card.get_by_label("In your words").fill("A cheaper one")
        card.get_by_role("button", name="Send").click()
        page.wait_for_selector(".card q")
        trace = page.locator("[name=trace]").first.get_attribute("value")
        said = [(f["kind"], f.get("item")) for f in house[0].trace(trace)["feedback"]]
        assert said == [("rating", None), ("correction", "shown 0 lamp-1")]
        page.locator(".card").nth(1).get_by_role("button", name="Take back").click()
        page.wait_for_selector(".card q", state="detached")
        card.locator(".why summary").click()
        assert "+0.72" in card.locator(".why").inner_text()


def test_everything_works_without_a_script(browser: Any, house: tuple[Gateway, Page]) -> None:
    with tab(browser, house, java_script_enabled=False) as one:
        page = one.open()
        page.set_input_files(
            "input[name=picture] >> nth=0", {"name": "r.png", "mimeType": "image/png", "buffer": scene()}
        )
        page.fill("#message", "edit: a green wall")
        page.click(".send")
        page.wait_for_selector(".pair img")  # the page looks again by itself where it was not there yet
        assert page.locator(".pair img").count() == 2
        page.locator(".ask-row button[value=up]").click()
        assert page.locator('.ask-row button[aria-pressed="true"]').get_attribute("value") == "up"
        page.fill("#message", "hang on")
        page.click(".send")
        page.locator(".halt button").click()
        page.wait_for_selector("text=You stopped this answer.")
        page.goto(one.url + "/chat/data")
        page.check("[name=sure]")
        page.get_by_role("button", name="Delete everything").click()
        assert "Everything is deleted: 2 messages" in page.locator("[role=status]").inner_text()


def test_a_report_has_no_power_over_the_page(browser: Any, house: tuple[Gateway, Page]) -> None:
    with tab(browser, house) as one:
        page = one.open()
        one.ask("report on lamps")
        page.locator("iframe").scroll_into_view_if_needed()
        frame = page.frame_locator("iframe")
        frame.locator("text=Three lamps, compared").first.wait_for()
        frame.get_by_role("button", name="Win a prize").click()
        page.wait_for_timeout(200)
        assert one.context.request.get(page.url).status == 200, "the form of the report was not sent"
        with one.context.expect_page() as opened:
            page.get_by_role("link", name="Open the report").click()
        opened.value.wait_for_load_state()
        assert opened.value.title() == "Lamps", "its script did not run"


# -- how it looks -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="full")
def _full(browser: Any, house: tuple[Gateway, Page]) -> tuple[str, Any]:
    """A conversation with everything in it: its address, and the cookies of whose it is."""
    one = Tab(browser, house[0].url)
    one.open()
    for text in (
        "edit: green",
        "search lamps",
        "prose",
        "wear it",
        "report",
        "refuse",
        "fail",
        "say مرحبا 你好",
    ):
        one.ask(text, scene() if text == "edit: green" else b"")
    address, state = one.page.url, one.context.storage_state()
    one.context.close()
    return address.removeprefix(house[0].url), state


PATHS = ("/chat", "/chat/conversations", "/chat/account", "/chat/data", "/chat/c/nothing", "/chat/embed")


@pytest.mark.parametrize("wide", [320, 360, 768, 1600], ids=["small", "phone", "tablet", "desktop"])
def test_no_page_is_wider_than_its_screen(
    browser: Any, house: tuple[Gateway, Page], full: tuple[str, Any], wide: int
) -> None:
    options: dict[str, Any] = {"viewport": {"width": wide, "height": 800}, "storage_state": full[1]}
    with tab(browser, house, **options, color_scheme="dark" if wide == 360 else "light") as one:
        for path in (*PATHS, full[0]):
            page = one.open(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= wide, path
            assert page.locator("h1").count() == 1


@pytest.fixture(scope="session", name="axe")
def _axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("there is no npm, from which axe-core is")
    packed = subprocess.run(
        [npm, "pack", "--silent", "axe-core@4.14.1"], cwd=folder, capture_output=True, timeout=90
    )
    if packed.returncode:
        pytest.skip("axe-core cannot be fetched")
    content = (folder / AXE).read_bytes()
    assert hashlib.sha512(content).hexdigest() == AXE_SHA512
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_nothing_to_mend(
    browser: Any, house: tuple[Gateway, Page], full: tuple[str, Any], axe: str, mode: str
) -> None:
    with tab(browser, house, color_scheme=mode, storage_state=full[1]) as one:
        for path in (*PATHS, full[0]):
            page = one.open(path)
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            page.evaluate(axe)
            found = page.evaluate(
                "axe.run(document, {iframes: false}).then((result) => result.violations.map("
                "(one) => [one.id, one.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + n.failureSummary)]))"
            )
            assert found == [], path


# -- in a shop's page -------------------------------------------------------------------------------------------------


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


SHOP = _free_port()


@contextlib.contextmanager
def shop(url: str, tag: str, port: int) -> Iterator[str]:
    """A shop's page with the chat in it."""
    script = f"<script {tag} src='{url}/chat/embed.js' async></script>"
    html = f"<!doctype html><title>Shop</title><h1>Shop</h1>{script}".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def test_a_shop_embeds_it_by_one_line(browser: Any, house: tuple[Gateway, Page]) -> None:
    with shop(house[0].url, "data-label='Ask us'", SHOP) as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_role("button", name="Ask us").click()
        chat = page.frame_locator("iframe")
        chat.locator("#message").fill("say hello from the shop")
        chat.locator("#message").press("Enter")
        chat.locator(".prose", has_text="hello from the shop").wait_for()
        page.get_by_role("button", name="Ask us").press("Escape")
        assert page.locator("iframe").is_hidden()
        page.close()
    with shop(house[0].url, "data-inline", SHOP) as url:
        page = browser.new_page()
        page.goto(url)
        page.frame_locator("iframe").locator("#message").wait_for()
        page.wait_for_function("parseFloat(document.querySelector('iframe').style.height) > 300")
        page.close()


def test_another_site_cannot_embed_it(browser: Any, house: tuple[Gateway, Page]) -> None:
    with shop(house[0].url, "data-inline", 0) as url:
        page = browser.new_page()
        with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
            page.goto(url)
        assert page.frame_locator("iframe").locator("#message").count() == 0
        page.close()
