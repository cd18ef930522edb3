"""The page without a browser: messages, pictures, feedback, accounts, the queue, what belongs to whom, and erasing."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from noria.assistant.config import AssistantConfig
from noria.assistant.web.colours import LEAST, PAGES, contrast, shades
from noria.assistant.web.markup import answer_html
from noria.assistant.web.page import Page, open_page
from noria.assistant.web.texts import ENGLISH, direction
from noria.core.errors import ConfigError
from noria.core.storage.control import SQLiteControl
from noria.core.storage.journal_file import JournalReader
from noria.core.traces.datasets import examples
from noria.core.traces.store import read_views
from tests.assistant.gateways import TOKEN, Gateway, settings
from tests.assistant.pages import HOSTILE, DoubleTools, model, page_gateway, scene
from tests.chat_server import Body, Reply

PHRASE = "four words are easy"


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class Person:
    """Somebody with a browser of the plainest kind: cookies, forms, no script."""

    url: str
    base: str = "/chat"
    jar: CookieJar = field(default_factory=CookieJar)
    page: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar), _Stay)

    def open(self, request: urllib.request.Request) -> tuple[int, bytes, Any]:
        try:
            with self._opener.open(request, timeout=60) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def get(self, path: str = "", **headers: str) -> tuple[int, bytes, Any]:
        path = path if path.startswith("/chat") else self.base + path
        return self.open(urllib.request.Request(self.url + path, headers={**self.headers, **headers}))

    def visit(self, path: str = "") -> str:
        """A page that is there, which is the present one from now on."""
        status, body, _ = self.get(path)
        assert status == 200, (path, status)
        self.page = body.decode()
        return self.page

    def fields(self, action: str) -> dict[str, str]:
        """Hidden fields of the first form of the present page that goes somewhere."""
        part = self.page.partition(f'action="{action}"')[2].partition("</form>")[0]
        assert part, action
        return dict(re.findall(r'name="(\w+)" value="([^"]*)"', part))

    def post(
        self, path: str, fields: Mapping[str, str], picture: bytes = b"", **headers: str
    ) -> tuple[int, str, Any]:
        """What a browser sends for a form."""
        mark = uuid.uuid4().hex
        parts = [
            f'--{mark}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = f'--{mark}\r\ncontent-disposition: form-data; name="picture"; filename="x"\r\n\r\n'.encode()
        body = b"".join([*parts, head, picture, b"\r\n", f"--{mark}--\r\n".encode()])
        sent = {
            "content-type": f"multipart/form-data; boundary={mark}",
            "origin": self.url,
            **self.headers,
            **headers,
        }
        status, content, given = self.open(urllib.request.Request(self.url + self.base + path, body, sent))
        return status, content.decode(), given

    def ask(self, text: str, picture: bytes = b"", **more: str | None) -> str:
        """Send a message from the present page, and read the page of its answer."""
        if not self.page:
            self.visit()
        given = self.fields(f"{self.base}/send") | {"message": text} | more
        fields = {name: value for name, value in given.items() if value is not None}
        status, said, headers = self.post("/send", fields, picture)
        assert status == 303, said
        self.visit(headers["location"].partition("#")[0])
        deadline = time.monotonic() + 60
        while 'id="progress"' in self.page and time.monotonic() < deadline:
            time.sleep(0.02)
            self.visit(headers["location"].partition("#")[0])
        return self.page

    def conversation(self) -> str:
        return self.fields(f"{self.base}/send")["conversation"]

    def traces(self) -> list[str]:
        """Ids of the traces on the present page, in order."""
        return list(dict.fromkeys(re.findall(r'name="trace" value="([0-9a-f-]{36})"', self.page)))

    def say(self, trace: str, **fields: str) -> tuple[int, str, Any]:
        """Send feedback by the first form of a trace."""
        shown = self.page[self.page.index(f'value="{trace}"') - 200 :]
        token = re.search(r'name="token" value="(\w+)"', shown)
        keys = re.findall(
            rf'name="trace" value="{trace}".*?name="item" value="([^"]*)".*?name="key" value="([^"]*)"',
            self.page,
        )
        key = next((key for item, key in keys if item == fields.get("item", "")), "k")
        assert token
        given = {"token": token[1], "trace": trace, "conversation": self.conversation(), "key": key}
        return self.post("/feedback", given | fields)


@pytest.fixture(scope="module", name="house")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Page]]:
    tools = DoubleTools()
    with page_gateway(
        tmp_path_factory.mktemp("page") / "data", tools=tools, page={"picture_bytes": 1 << 20}
    ) as one:
        yield one


@pytest.fixture(name="ann")
def _ann(house: tuple[Gateway, Page]) -> Person:
    return Person(house[0].url)


# -- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_without_a_script_is_answered_and_is_a_trace(
    house: tuple[Gateway, Page], ann: Person
) -> None:
    page = ann.ask("prose please, ann@example.org")
    assert "<strong>three steps</strong>" in page
    assert "[mail]" in page
    assert "ann@example.org" not in page
    assert '<td class="right">806</td>' in page
    (trace,) = ann.traces()
    kept = house[0].trace(trace)["trace"]
    assert (kept["caller"], kept["status"]) == ("page", "ok")
    assert kept["user"] == house[1].room.key(next(iter(ann.jar)).value and _guest(ann))
    again = ann.ask("say so")
    assert len(ann.traces()) == 2
    assert house[0].trace(ann.traces()[1])["trace"]["conversation"] == kept["conversation"]
    assert again.index("three steps") < again.index(">so<")
    sent = house[0].backend.seen[-1]["messages"]
    assert [one["role"] for one in sent] == ["system", "user", "assistant", "user"]
    assert "name" not in json.dumps(sent), "nobody is named to the model"


def _guest(person: Person) -> str:
    (value,) = [one.value for one in person.jar if one.name == "noria-chat-guest" and one.value]
    return value.split(".")[0].replace("_", " ")


def test_the_same_form_twice_is_one_message(house: tuple[Gateway, Page], ann: Person) -> None:
    ann.visit()
    fields = ann.fields("/chat/send") | {"message": "say once"}
    places = [ann.post("/send", fields)[2]["location"] for _ in range(3)]
    assert len(set(places)) == 1
    assert ann.visit(places[0].partition("#")[0]).count('class="bubble"') == 1


def test_a_picture_is_asked_about_and_an_edit_takes_the_last_one(
    house: tuple[Gateway, Page], ann: Person
) -> None:
    gateway = house[0]
    ann.ask("what is it?", scene())
    (part,) = [p for p in gateway.backend.seen[-1]["messages"][-1]["content"] if p["type"] == "image_url"]
    assert part["image_url"]["url"].startswith("data:image/png;base64,")
    page = ann.ask("edit: a green wall", about=_about(ann))
    files = re.findall(r'<img src="(/chat/files/[^"]+)"', page)
    assert {ann.get(one)[2]["content-type"] for one in files} == {"image/png"}
    edited = re.search(r'name="about" value="([^"]+)" checked', page)
    assert edited
    ann.ask("and now?", about=edited[1])
    assert [p["type"] for p in gateway.backend.seen[-1]["messages"][-1]["content"]] == ["text", "image_url"]
    assert ann.page.count('class="about"') == 0, "that it is about the last picture goes without saying"
    ann.ask("say something else", about=None)  # the box was unticked
    assert "image_url" not in json.dumps(gateway.backend.seen[-1]["messages"])
    first = re.search(r"/chat/files/([^\"]+)", ann.page)
    assert first
    ann.ask("and this one?", about=first[1])
    assert ann.page.count('class="about"') == 1, "an earlier one is shown"


def _about(person: Person) -> str:
    found = re.search(r'name="about" value="([^"]+)" checked', person.page)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("picture", "status", "said"),
    [
        (b"<svg onload=alert(1)>", 400, "could not be taken"),
        (b"\x89PNG\r\n\x1a\n broken", 400, "could not be taken"),
        (b"\xff\xd8\xff" + b"\0" * (1 << 20), 413, "larger than 1 MB"),
    ],
    ids=["svg", "broken", "large"],
)
def test_what_is_no_picture_is_refused_in_a_line(ann: Person, picture: bytes, status: int, said: str) -> None:
    ann.visit()
    got, text, headers = ann.post("/send", ann.fields("/chat/send") | {"message": "x"}, picture)
    assert (got, said in text, headers["content-type"]) == (status, True, "text/html; charset=utf-8")
    got, text, _ = ann.post("/send", ann.fields("/chat/send") | {"message": "x"}, picture, **{"x-part": "1"})
    assert (got, said in json.loads(text)["said"]) == (status, True)


def test_a_bomb_of_pixels_is_refused_and_a_large_picture_scaled_down(
    house: tuple[Gateway, Page], ann: Person
) -> None:
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    ann.visit()
    status, text, _ = ann.post("/send", ann.fields("/chat/send") | {"message": "x"}, bomb.getvalue())
    assert (status, "pixels" in text) == (400, True)
    large = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # lying on its side
    Image.new("RGB", (3000, 1000), "#336").save(large, "JPEG", exif=exif.tobytes(), quality=50)
    ann.visit()
    ann.ask("what?", large.getvalue())
    address = re.search(r"/chat/files/[^\"]+", ann.page)
    assert address
    content = ann.get(address[0])[1]
    with Image.open(io.BytesIO(content)) as kept:
        assert kept.size == (683, 2048)
        assert not kept.getexif()


def test_an_answer_that_fails_is_refused_or_stopped_says_so(ann: Person) -> None:
    assert "No answer came. Something went wrong on our side" in ann.ask("fail now")
    assert "I cannot help with that." in ann.ask("refuse")
    assert "No words came back." in ann.ask("quiet")
    fields = ann.fields("/chat/send") | {"message": "hang"}
    location = ann.post("/send", fields)[2]["location"].partition("#")[0]
    page = ann.visit(location)
    assert '<meta http-equiv="refresh"' in page
    stop = re.search(r'action="/chat(/turns/\w+/stop)"', page)
    assert stop
    assert ann.post(stop[1], ann.fields(f"/chat{stop[1]}"))[0] == 303
    assert "You stopped this answer." in ann.visit(location)


@pytest.mark.parametrize("how", ["refuses to stream", "answers whole all the same"])
def test_a_server_that_does_not_stream_answers_on_the_page(tmp_path: Path, how: str) -> None:
    def whole(body: Body, number: int) -> Reply:
        if not body.get("stream"):
            return Reply("the whole answer")
        if how == "refuses to stream":
            return Reply(status=400)
        message = {"role": "assistant", "content": "the whole answer"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return Reply(body=json.dumps({"id": "1", "choices": [choice]}).encode())

    with page_gateway(tmp_path / "data", whole, tools=DoubleTools()) as (gateway, _):
        ann = Person(gateway.url)
        for asked in (2, 3) if how == "refuses to stream" else (1, 2):
            assert "<p>the whole answer</p>" in ann.ask("hello")
            assert len(gateway.backend.seen) == asked, "it is asked to stream once, and not again"


def test_too_many_messages_wait_and_each_sees_its_place(tmp_path: Path) -> None:
    go = threading.Event()

    def patient(body: Body, number: int) -> Reply:
        go.wait(20)
        return Reply("done")

    with page_gateway(tmp_path / "data", patient, page={"at_once": 1, "queue": 2}) as (gateway, _):
        people = [Person(gateway.url) for _ in range(4)]
        pages = []
        for one in people[:3]:
            one.visit()
            status, _, headers = one.post("/send", one.fields("/chat/send") | {"message": "hello"})
            assert status == 303
            pages.append(headers["location"].partition("#")[0])
        people[3].visit()
        status, text, _ = people[3].post("/send", people[3].fields("/chat/send") | {"message": "hello"})
        assert (status, "the queue is full" in text) == (503, True)
        assert "Thinking" in people[0].visit(pages[0])
        assert "You are next." in people[1].visit(pages[1])
        assert "You are number 2 in the queue" in people[2].visit(pages[2])
        status, text, _ = people[2].post("/send", people[2].fields("/chat/send") | {"message": "more"})
        assert (status, "still being answered" in text) == (409, True)
        go.set()
        deadline = time.monotonic() + 60
        while "<p>done</p>" not in people[2].visit(pages[2]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "<p>done</p>" in people[2].page


def test_nobody_sends_more_than_the_rate(tmp_path: Path) -> None:
    with page_gateway(tmp_path / "data", page={"messages_per_minute": 2}) as (gateway, _):
        ann = Person(gateway.url)
        ann.ask("say 1")
        ann.ask("say 2")
        status, text, _ = ann.post("/send", ann.fields("/chat/send") | {"message": "say 3"})
        assert (status, "Too often" in text) == (429, True)
        Person(gateway.url).ask("say another's")


def test_a_budget_of_the_page_is_kept_and_the_message_can_be_tried_again(tmp_path: Path) -> None:
    with page_gateway(tmp_path / "data", page={"budget_per_day": 0.0}) as (gateway, _):
        ann = Person(gateway.url)
        page = ann.ask("say it")
        assert "The budget of today is spent" in page
        assert gateway.backend.seen == []
        assert 'name="again"' in page


# -- what tools show --------------------------------------------------------------------------------------------------


def test_everything_that_tools_show_is_shown_and_what_is_hostile_has_no_power(
    house: tuple[Gateway, Page], ann: Person
) -> None:
    page = ann.ask("edit: green")
    assert "Keep the light of the lamp." in page
    assert page.count('class="shot"') == 2
    page = ann.ask("search lamps")
    titles = [page.index(name) for name in ("Ada table lamp", "Bo reading lamp", ">Cy<")]
    assert titles == sorted(titles), "cards stand in their order"
    assert "€39.90" in page
    assert "looks alike" in page
    assert "Sold out" in page
    assert HOSTILE not in page
    assert "http://127.0.0.1:9/pixel.png" not in page, "no picture of an origin that nobody allowed"
    page = ann.ask("report on lamps")
    frame = re.search(r'<iframe sandbox src="([^"]+)"', page)
    assert frame
    status, body, headers = ann.get(frame[1])
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert HOSTILE.encode() in body
    policy = headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script" not in policy
    assert "allow" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert ann.ask("odd things").count("this page cannot show") == 3


def test_a_video_can_be_sought(ann: Person) -> None:
    page = ann.ask("wear it")
    address = re.search(r'<source src="([^"]+)"', page)
    assert address
    status, whole, headers = ann.get(address[1])
    assert (status, headers["content-type"], headers["accept-ranges"]) == (200, "video/mp4", "bytes")
    status, piece, headers = ann.get(address[1], range="bytes=4-11")
    assert (status, piece) == (206, whole[4:12])
    assert headers["content-range"] == f"bytes 4-11/{len(whole)}"
    assert ann.get(address[1], range="bytes=9-3")[0] == 200


def test_markdown_runs_nothing_and_fetches_nothing() -> None:
    html = answer_html(
        "<img src=x onerror=alert(1)> [a](javascript:alert(1)) [b](https://x.example) "
        "![p](https://evil.example/p.png) [c](data:text/html,x)\n\n# big\n\n<script>1</script>"
    )
    assert "<img" not in html
    assert "<script" not in html
    assert 'href="javascript' not in html
    assert 'href="data' not in html
    assert "evil.example" not in html
    assert 'href="https://x.example" rel="noopener noreferrer nofollow ugc" target="_blank"' in html
    assert "<h3>big</h3>" in html
    assert answer_html("x" * 300_000 + "<b>").endswith("&lt;b&gt;</p>")


# -- what people say --------------------------------------------------------------------------------------------------


def test_thumbs_count_once_can_change_and_be_taken_back(house: tuple[Gateway, Page], ann: Person) -> None:
    ann.ask("say so")
    (trace,) = ann.traces()

    def kept() -> list[tuple[Any, ...]]:
        found = house[0].call(f"/v1/feedback/{trace}")[1]["data"]
        return [(one["name"], one.get("value"), one.get("item")) for one in found]

    assert ann.say(trace, rate="up")[0] == 303
    assert ann.say(trace, rate="up")[0] == 303, "the same form again"
    assert kept() == [("helpful", 1.0, None)]
    ann.visit(f"/c/{ann.conversation()}")
    assert 'value="up" aria-pressed="true"' in ann.page
    status, part, _ = _part(ann, trace, rate="down")
    assert (status, 'value="down" aria-pressed="true"' in part) == (200, True)
    assert kept() == [("helpful", 0.0, None)]
    ann.visit(f"/c/{ann.conversation()}")
    ann.say(trace, rate="down")
    assert kept() == []


def _part(person: Person, trace: str, **fields: str) -> tuple[int, str, Any]:
    person.headers = {"x-part": "1"}
    try:
        return person.say(trace, **fields)
    finally:
        person.headers = {}


def test_items_are_rated_by_themselves_and_do_not_count_as_the_answer(
    house: tuple[Gateway, Page], ann: Person
) -> None:
    ann.ask("search lamps")
    (trace,) = ann.traces()
    ann.say(trace, item="shown 0 lamp-1", rate="down")
    ann.say(trace, item="shown 0 lamp-1", better="a cheaper one")
    view = house[0].trace(trace)
    said = [(one["kind"], one["name"], one["item"], one.get("value")) for one in view["feedback"]]
    assert said == [
        ("rating", "item", "shown 0 lamp-1", 0.0), ("correction", "item", "shown 0 lamp-1", None)
    ]  # fmt: skip
    (example,) = [one for one in examples(read_views(house[0].folder), salt="s") if one.trace == trace]
    assert (example.score, example.corrections) == (None, ())
    ann.visit(f"/c/{ann.conversation()}")
    assert "a cheaper one" in ann.page


def test_what_it_should_have_been_reaches_the_data_and_can_be_taken_back(
    house: tuple[Gateway, Page], ann: Person
) -> None:
    ann.ask("say so")
    (trace,) = ann.traces()
    assert ann.say(trace, better="Write it shorter, <b>please</b>", skill="encyclopedia")[0] == 303
    said = {one["name"]: one for one in house[0].trace(trace)["feedback"]}
    assert said["helpful"]["text"] == "Write it shorter, <b>please</b>"
    assert said["skill"]["text"] == "encyclopedia"
    (example,) = [one for one in examples(read_views(house[0].folder), salt="s") if one.trace == trace]
    assert example.corrections == ("Write it shorter, <b>please</b>",), "the name of a skill is no answer"
    ann.visit(f"/c/{ann.conversation()}")
    assert "&lt;b&gt;please&lt;/b&gt;" in ann.page
    ann.say(trace, withdraw=said["helpful"]["id"])
    assert [one["name"] for one in house[0].trace(trace)["feedback"]] == ["skill"]


def test_of_two_answers_the_user_chooses_one(tmp_path: Path) -> None:
    def two(body: Body, number: int) -> Reply:
        return Reply(body["messages"][0]["content"])

    compare = {"compare": {"route": "kind", "share": 1.0}}
    with page_gateway(tmp_path / "data", two, page=compare) as (gateway, _):
        ann = Person(gateway.url)
        page = ann.ask("hello")
        assert "Two answers: which one is better?" in page
        buttons = re.findall(r'name="choose" value="([^"]+)"', page)
        first, second = sorted(buttons)
        assert gateway.trace(second)["trace"]["labels"]["beside"] == first
        kind = second
        assert ann.say(first, choose=kind)[0] == 303
        assert ann.say(first, choose=first)[0] == 303, "the first choice stands"
        choices = {
            t: [(f["kind"], f["name"], f["value"], f["item"]) for f in gateway.trace(t)["feedback"]]
            for t in buttons
        }
        assert choices == {
            kind: [("choice", "preferred", 1.0, first)], first: [("choice", "preferred", 0.0, kind)]
        }  # fmt: skip
        ann.visit(f"/c/{ann.conversation()}")
        assert "You chose this one" in ann.page
        ann.ask("and?")
        assert gateway.backend.seen[-1]["messages"][2] == {"role": "assistant", "content": "kind"}


# -- whose it is ------------------------------------------------------------------------------------------------------


def test_nobody_reads_or_changes_what_is_anothers(house: tuple[Gateway, Page], ann: Person) -> None:
    ann.ask("what is it?", scene())
    (trace,) = ann.traces()
    mine = [f"/c/{ann.conversation()}", *re.findall(r"/chat(/files/[^\"]+)", ann.page)]
    bob = Person(house[0].url)
    bob.ask("say so")
    for path in mine:
        assert ann.get(path)[0] == 200
        assert bob.get(path)[0] == 404, path
    (own,) = bob.traces()
    digest = mine[1].rpartition("/")[2]
    assert bob.get(f"/files/{own}/{digest}")[0] == 404, "one's own trace does not name it"
    fields = bob.fields("/chat/send")
    assert bob.post("/send", fields | {"message": "x", "about": f"{trace}/{digest}"})[0] == 404
    feedback = {"token": fields["token"], "trace": trace, "rate": "up", "key": "k"}
    assert bob.post("/feedback", feedback)[0] == 404
    assert bob.post(f"/c/{ann.conversation()}/delete", {"token": fields["token"]})[0] == 404
    assert house[0].trace(trace)["feedback"] == []


def test_a_form_needs_its_token_and_a_cookie_its_signature(house: tuple[Gateway, Page], ann: Person) -> None:
    ann.visit()
    fields = ann.fields("/chat/send") | {"message": "x"}
    assert ann.post("/send", fields | {"token": ""})[0] == 403
    assert Person(house[0].url).post("/send", fields)[0] == 403
    assert ann.post("/send", fields, origin="https://evil.example")[0] == 403
    for one in ann.jar:
        assert one.has_nonstandard_attr("HttpOnly")
        if one.value:
            one.value = one.value.replace("guest_", "guest_0")
    assert ann.post("/send", fields)[0] == 403
    bob, eve = Person(house[0].url), Person(house[0].url)
    bob.ask("say mine")
    eve.visit()
    for one in eve.jar:  # bob's name, with a signature of another's cookie
        one.value = (one.value or "").replace(_guest(eve).replace(" ", "_"), _guest(bob).replace(" ", "_"))
    assert eve.get(f"/c/{bob.conversation()}")[0] == 404
    got = Person(house[0].url).get()[2]
    assert "script-src 'self'" in got["content-security-policy"]
    assert "frame-ancestors 'none'" in got["content-security-policy"]
    assert "unsafe" not in got["content-security-policy"]


def test_an_account_keeps_its_history_from_browser_to_browser(
    house: tuple[Gateway, Page], ann: Person
) -> None:
    ann.ask("say my secret")
    place = f"/c/{ann.conversation()}"
    name = f"Ann.{uuid.uuid4().hex[:6]}"
    account = {"name": name, "passphrase": PHRASE}

    def form(person: Person, **fields: str) -> tuple[int, str, Any]:
        person.visit("/account")
        return person.post("/account", {"token": person.fields("/chat/account")["token"], **fields})

    assert form(ann, **account | {"passphrase": "short"}, action="sign-up")[0] == 400
    status, text, _ = form(ann, **account, action="sign-up")
    assert (status, f"Signed in as {name}." in text) == (200, True)
    assert ann.get(place)[0] == 200, "what the guest asked goes along"
    bob = Person(house[0].url)
    assert form(bob, **account, action="sign-up")[0] == 409
    assert form(bob, **account | {"passphrase": "wrong words here"}, action="sign-in")[0] == 403
    bob.visit()
    bob.ask("say of bob")
    bobs = f"/c/{bob.conversation()}"
    assert form(bob, **account | {"name": name.upper()}, action="sign-in")[0] == 200
    assert (bob.get(place)[0], bob.get(bobs)[0]) == (200, 404)
    form(ann, action="change", passphrase=PHRASE, new="other words than those")
    assert (ann.get(place)[0], bob.get(place)[0]) == (200, 404), "every other browser is signed out"
    assert bob.get(bobs)[0] == 200, "and the guest is there again"
    form(ann, action="sign-out")
    assert ann.get(place)[0] == 404
    control = (house[0].folder / "control.sqlite").read_bytes()
    assert PHRASE.encode() not in control


def test_a_name_is_not_tried_without_end(house: tuple[Gateway, Page]) -> None:
    eve = Person(house[0].url)
    eve.visit("/account")
    fields = eve.fields("/chat/account") | {
        "name": "eve",
        "passphrase": "guess guess guess",
        "action": "sign-in",
    }
    seen = [eve.post("/account", fields)[0] for _ in range(7)]
    assert seen == [403] * 6 + [429]


def test_conversations_are_listed_renamed_and_deleted_for_good(
    house: tuple[Gateway, Page], ann: Person
) -> None:
    secret = f"marmalade{uuid.uuid4().hex}"
    ann.ask(f"say {secret}", scene("#123456"))
    (trace,) = ann.traces()
    name = ann.conversation()
    digest = re.search(rf"/chat/files/{trace}/(\w+)", ann.page)
    assert digest
    ann.say(trace, better=f"more {secret}")
    ann.page = ""
    ann.ask("say keep", scene())
    kept = ann.conversation()
    ann.visit("/conversations")
    token = {"token": ann.fields(f"/chat/c/{name}/delete")["token"]}
    assert ann.post(f"/c/{name}/rename", token | {"title": f"Jam {secret}"})[0] == 303
    assert f"Jam {secret}"[:20] in ann.visit("/conversations")
    status, text, _ = ann.post(f"/c/{name}/delete", token)
    assert (status, "The conversation is deleted: 2 records" in text) == (200, True)
    assert ann.get(f"/c/{name}")[0] == 404
    assert ann.get(f"/c/{kept}")[0] == 200
    assert house[0].call(f"/v1/traces/{trace}")[0] == 404
    assert house[1].room.state.store.blob(digest[1]) is None
    _nowhere(house[0].folder, secret)


def _nowhere(folder: Path, secret: str) -> None:
    """A text is in no file of a gateway's folder."""
    found = [
        path.name for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert found == []


def test_everything_is_taken_out_and_deleted_in_full(house: tuple[Gateway, Page], ann: Person) -> None:
    secret = f"apricot{uuid.uuid4().hex}"
    ann.ask(f"say {secret}", scene("#654321"))
    (trace,) = ann.traces()
    ann.say(trace, rate="up")
    ann.visit("/account")
    name = f"ann-{uuid.uuid4().hex[:8]}"
    token = ann.fields("/chat/account")["token"]
    ann.post("/account", {"token": token, "name": name, "passphrase": PHRASE, "action": "sign-up"})
    status, body, headers = ann.get("/data/export")
    taken = json.loads(body)
    assert (status, "attachment" in headers["content-disposition"], taken["account"]) == (200, True, name)
    (turn,) = taken["conversations"][0]["turns"]
    assert turn["feedback"][0]["name"] == "helpful"
    assert any(
        span["blobs"][0] in key
        for span in turn["trace"]["spans"]
        if span.get("blobs")
        for key in taken["files_base64"]
    )
    ann.visit("/data")
    assert "Conversations: 1. Messages: 1." in ann.page
    fields = ann.fields("/chat/data/delete")
    fields.pop("sure", None)
    assert ann.post("/data/delete", fields)[0] == 400, "the box was not ticked"
    assert ann.get(f"/c/{taken and _place(house[1], ann, name)}")[0] == 200
    status, text, _ = ann.post("/data/delete", fields | {"sure": "yes"})
    assert (status, "Everything is deleted: 1 messages with 2 records" in text) == (200, True)
    assert house[0].call(f"/v1/traces/{trace}")[0] == 404
    ann.visit("/account")
    again = {
        "token": ann.fields("/chat/account")["token"],
        "name": name,
        "passphrase": PHRASE,
        "action": "sign-in",
    }
    assert ann.post("/account", again)[0] == 403, "the account is gone"
    for text in (secret, name):
        _nowhere(house[0].folder, text)


def _place(page: Page, person: Person, name: str) -> str:
    from noria.assistant.web.visitors.accounts import key_of

    account = page.room.sessions.accounts.of_key(key_of(name))
    assert account is not None
    return page.room.history.list(page.room.key(account.user))[0].id


# -- who may ask at all -----------------------------------------------------------------------------------------------


def test_the_page_is_off_where_asking_needs_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "a-token-of-the-shop-0123")
    callers = [{"name": "shop", "token_env": "SHOP_TOKEN"}]
    with page_gateway(tmp_path / "data", callers=callers) as (gateway, _):
        status, text, _ = Person(gateway.url).get()
        assert (status, b"turns it on by page.on" in text) == (404, True)
    with page_gateway(tmp_path / "on", callers=callers, page={"on": True}) as (gateway, _):
        assert Person(gateway.url).get()[0] == 200


def test_by_a_public_name_there_is_the_page_and_nothing_of_operators(tmp_path: Path) -> None:
    with page_gateway(tmp_path / "data", page={"hosts": ["chat.shop.example"]}) as (gateway, _):

        def get(path: str, host: str) -> tuple[int, str | None]:
            request = urllib.request.Request(gateway.url + path, headers={"host": host})
            opener = urllib.request.build_opener(_Stay)
            try:
                with opener.open(request) as answer:
                    return answer.status, None
            except urllib.error.HTTPError as error:
                return error.code, error.headers.get("location")

        assert get("/", "chat.shop.example") == (303, "/chat")
        assert get("/chat", "chat.shop.example:443")[0] == 200
        assert get("/traces", "chat.shop.example")[0] == 401
        assert get("/v1/traces", "127.0.0.1")[0] == 401, "a proxy on this machine is nobody to trust"
        assert get("/chat", "other.example")[0] == 421
        assert gateway.call("/v1/traces")[0] == 200


def test_only_the_named_origins_embed_it_and_only_as_a_guest(tmp_path: Path) -> None:
    page = {"embed": ["https://shop.example"], "secure": True}
    with page_gateway(tmp_path / "data", page=page) as (gateway, _):
        shopper = Person(gateway.url, "/chat/embed")
        status, _, headers = shopper.get()
        assert status == 200
        assert "frame-ancestors https://shop.example" in headers["content-security-policy"]
        assert headers["x-frame-options"] is None
        cookies = headers.get_all("set-cookie")
        assert any(
            "SameSite=None; Partitioned; Secure" in one and "Path=/chat/embed" in one for one in cookies
        )
        assert shopper.get("/account")[0] == 404, "nobody is lured to sign in"
        assert "frame-ancestors 'none'" in shopper.get("/chat")[2]["content-security-policy"]
        script = shopper.get("/chat/embed.js")
        assert script[2]["cross-origin-resource-policy"] == "cross-origin"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"page": {"compare": {"route": "nothing"}}}, "there is no route"),
        ({"page": {"on": True}, "keep_texts": False}, "keep_texts"),
        ({"page": {"on": True}, "peers": ["http://10.0.0.2:8000"]}, "erasing must reach all of a user"),
        ({"page": {"accent": "red"}}, "accent"),
        ({"page": {"embed": ["https://shop.example/page"]}}, "embed"),
        ({"callers": [{"name": "page", "token_env": "X"}]}, "none of local, operator and page"),
    ],
    ids=["route", "texts", "peers", "accent", "origin", "caller"],
)
def test_settings_that_cannot_be_honoured_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AssistantConfig.model_validate(settings("http://127.0.0.1:9/v1", **changes))


def test_texts_are_replaced_by_key_and_checked() -> None:
    def config(**texts: str) -> AssistantConfig:
        page = {"language": "de", "texts": texts}
        return AssistantConfig.model_validate(settings("http://127.0.0.1:9/v1", page=page))

    open_page(config(send="Senden", waiting="Nummer {place}"))
    with pytest.raises(ConfigError, match=r"page\.texts\.sned"):
        open_page(config(sned="Senden"))
    with pytest.raises(ConfigError, match="number"):
        open_page(config(waiting="Nummer {number}"))
    assert (direction("ar-EG"), direction("de")) == ("rtl", "ltr")
    assert all(text.strip() for text in ENGLISH.values())


@pytest.mark.parametrize("accent", ["#0f766e", "#ffe600", "#000000", "#ffffff", "#e11d48", "#7a7a7a"])
def test_any_accent_keeps_its_contrast(accent: str) -> None:
    for mode, colours in shades(accent).items():
        assert contrast(colours["accent"], colours["on-accent"]) >= LEAST
        assert contrast(colours["link"], PAGES[mode]) >= LEAST
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_a_purged_document_is_gone_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    control = SQLiteControl(path)
    for version, text in enumerate(("first-title", "second-title")):
        control.write("k", "a", {"title": text}, based_on=version, by="x")
    control.write("k", "b", {"title": "other"}, based_on=0, by="x")
    assert control.purge("k", "a") == 2
    assert control.read("k", "a") is None
    assert control.read("k", "b") is not None
    with contextlib.closing(control):
        raw = b"".join(one.read_bytes() for one in tmp_path.iterdir())
        assert b"-title" not in raw
        assert control.purge("k") == 1


def test_removed_traces_leave_their_pictures_to_others(tmp_path: Path) -> None:
    with page_gateway(tmp_path / "data") as (gateway, page):
        ann = Person(gateway.url)
        ann.ask("what?", scene())
        digest = re.search(r"/chat/files/[^/]+/(\w+)", ann.page)
        assert digest
        first = ann.conversation()
        bob = Person(gateway.url)
        bob.ask("what?", scene())
        ann.visit("/conversations")
        ann.post(f"/c/{first}/delete", ann.fields(f"/chat/c/{first}/delete"))
        assert page.room.state.store.blob(digest[1]) is not None, "it is another's, too"
        second = bob.conversation()
        bob.visit("/conversations")
        bob.post(f"/c/{second}/delete", bob.fields(f"/chat/c/{second}/delete"))
        assert page.room.state.store.blob(digest[1]) is None
        with JournalReader(gateway.folder) as reader:
            assert all(b"what?" not in frame.body for frame in reader.frames())


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x", "text/plain", ""])
@pytest.mark.parametrize("body", [b"", b"\0" * 64, b"token=x&turn=y", b"--x\r\n\r\n", b"--x--", b"[" * 5000])
def test_a_body_that_is_no_form_is_refused_in_a_line(
    house: tuple[Gateway, Page], kind: str, body: bytes
) -> None:
    eve = Person(house[0].url)
    for path in (
        "/send",
        "/feedback",
        "/account",
        "/data/delete",
        "/turns/x/stop",
        "/c/x/rename",
        "/c/x/delete",
    ):
        request = urllib.request.Request(f"{eve.url}/chat{path}", body, {"content-type": kind}, method="POST")
        status, text, headers = eve.open(request)
        assert status in (400, 403, 404), (path, status)
        assert headers["content-type"].startswith("text/html")
        assert b"<h1>Something is wrong</h1>" in text


@pytest.mark.parametrize("path", ["/files/x/y", "/turns/nothing", "/c/" + "0" * 20, "/c/%00"])
def test_what_is_not_there_is_said_to_be(house: tuple[Gateway, Page], path: str) -> None:
    status, text, _ = Person(house[0].url).get(path)
    assert (status, b"There is nothing here" in text) == (404, True)


def test_the_operators_token_is_no_part_of_it(house: tuple[Gateway, Page]) -> None:
    assert TOKEN not in Person(house[0].url).visit()
    assert model({"messages": [{"role": "user", "content": "x"}]}, 0).text == "You said: x"
