"""Products: feeds in merchants' formats, a catalogue that feeds keep up to date, the search tool and its cards."""

from __future__ import annotations

import base64
import contextlib
import datetime
import gc
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from noria.assistant.config import AssistantConfig
from noria.assistant.config.products import FeedConfig
from noria.assistant.products.catalogue import NAME, Catalogue, Changes, Filters
from noria.assistant.products.config import UpdateConfig
from noria.assistant.products.features import LayoutEncoder
from noria.assistant.products.feeds import FeedReading, read_feed
from noria.assistant.products.keeping import RETRY_PICTURES, FeedKeeper
from noria.assistant.products.product import Product, read_price
from noria.assistant.products.updating import checked_feed, update_feed
from noria.core.errors import ConfigError, DataError, RunError
from tests.assistant.gateways import PRICES, gateway
from tests.assistant.test_tools import calls
from tests.chat_server import Body, Reply

NOW = datetime.datetime(2026, 11, 15, tzinfo=datetime.UTC)
HEADER = "id,title,description,image link,price,availability,product type,color\n"


def drawing(colour: str, shape: str = "ellipse") -> Image.Image:
    picture = Image.new("RGB", (90, 70), "white")
    getattr(ImageDraw.Draw(picture), shape)((20, 10, 60, 60), fill=colour)
    return picture


def shop(folder: Path) -> Path:
    """A feed of four products; three of them have pictures beside it."""
    folder.mkdir(exist_ok=True)
    for name in ("red", "blue", "green"):
        drawing(name).save(folder / f"{name}.png")
    (folder / "feed.csv").write_text(
        HEADER
        + "m1,Red mug,A mug for tea,red.png,12.90 EUR,in stock,Home > Kitchen,red\n"
        + "m2,Blue mug,A mug for coffee,blue.png,9 EUR,in stock,Home > Kitchen,blue\n"
        + "b1,Green bowl,Holds soup,green.png,20 EUR,in stock,Home > Kitchen,green\n"
        + "s1,Running shoes,Light; red laces,,80 USD,out of stock,Shoes,\n"
    )
    return folder / "feed.csv"


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("12.90 EUR", (12.9, "EUR")),
        ("EUR 12,90", (12.9, "EUR")),
        ("€ 1.299,00", (1299.0, "EUR")),
        ("1,299.00 usd", (1299.0, "USD")),
        ("1,299", (1299.0, "")),
        ("12,9 EUR", (12.9, "EUR")),
        ("1.299.000 JPY", (1299000.0, "JPY")),
        ("1'299.50 CHF", (1299.5, "CHF")),
        ("7", (7.0, "")),
    ],
)
def test_a_price_is_read_as_merchants_write_it(text: str, price: tuple[float, str]) -> None:
    assert read_price(text, "x") == price


@pytest.mark.parametrize("text", ["free", "-3 EUR", "12.90 EURO", "12 EUR 13", "nan", "1e9 EUR"])
def test_what_is_no_price_is_said(text: str) -> None:
    with pytest.raises(DataError, match="no price"):
        read_price(text, "row 3")


def test_a_sale_holds_within_its_span_only(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    span = "2026-11-01T00:00+00:00/2026-12-01T00:00+00:00"
    path.write_text(
        f"id,title,price,sale_price,sale_price_effective_date\n1,A,10 EUR,8 EUR,{span}\n2,B,10 EUR,8 EUR,\n"
    )
    assert [one.price for one in read_feed(path, now=NOW)] == [8.0, 8.0]
    later = NOW + datetime.timedelta(days=30)
    assert [one.price for one in read_feed(path, now=later)] == [10.0, 8.0]


def test_all_formats_give_the_same_products(tmp_path: Path) -> None:
    rows = [
        {
            "id": "1",
            "title": "Café “Röst”",
            "price": "4.50 EUR",
            "availability": "in_stock",
            "g:color": "brown",
        },
        {"id": "2", "title": "Tea; green", "price": "3 EUR", "availability": "out of stock", "g:color": ""},
    ]
    names = list(rows[0])
    tsv = "\n".join("\t".join(values) for values in [names, *[list(row.values()) for row in rows]])
    (tmp_path / "a.tsv").write_text(tsv)
    (tmp_path / "a.csv").write_text("\ufeff" + tsv.replace("\t", "|"))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    named = [{name.removeprefix("g:"): value for name, value in row.items()} for row in rows]
    items = ["".join(f"<g:{name}>{value}</g:{name}>" for name, value in row.items()) for row in named]
    fields = "".join(f"<item>{item}</item>" for item in items)
    space = 'xmlns:g="http://base.google.com/ns/1.0"'
    (tmp_path / "a.xml").write_text(
        f'<rss version="2.0" {space}><channel><title>Shop</title>{fields}</channel></rss>'
    )
    read = {suffix: list(read_feed(tmp_path / f"a.{suffix}")) for suffix in ("tsv", "csv", "jsonl", "xml")}
    first = Product(
        "1", "Café “Röst”", price=4.5, currency="EUR", availability="in_stock", attributes={"color": "brown"}
    )
    assert read["tsv"][0] == first
    assert read["tsv"] == read["csv"] == read["jsonl"] == read["xml"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.pdf", "x", "not known"),
        ("a.csv", "sku2,label\n1,2\n", "no columns id and title"),
        ("a.xml", "<rss><channel/></rss>", "no item"),
        ("a.xml", "<rss><item>", "no XML"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY x "y">]><rss><item><id>&x;</id></item></rss>', "document type"),
        ("a.jsonl", "[1]\n", "object"),
    ],
)
def test_a_file_that_is_no_feed_is_refused(tmp_path: Path, name: str, content: str, error: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=error):
        list(read_feed(tmp_path / name))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "xml"])
def test_no_feed_is_larger_than_the_limit_and_no_row_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def feed(rows: int, title: str) -> Path:
        made = {
            "csv": "id,title\n" + "".join(f"{n},{title}\n" for n in range(rows)),
            "jsonl": "".join(json.dumps({"id": f"{n}", "title": title}) + "\n" for n in range(rows)),
            "xml": "<rss>"
            + "".join(f"<item><id>{n}</id><title>{title}</title></item>" for n in range(rows))
            + "</rss>",
        }
        path = tmp_path / f"a.{suffix}"
        path.write_text(made[suffix])
        return path

    assert len(list(read_feed(feed(20, "Mug")))) == 20
    monkeypatch.setattr("noria.assistant.products.feeds.LARGEST", 100_000)
    monkeypatch.setattr("noria.assistant.products.feeds.LARGEST_ITEM", 40_000)
    monkeypatch.setattr("noria.core.records.LONGEST_LINE", 40_000)
    reading = FeedReading()
    list(read_feed(feed(20, "M" * 1500), reading))
    assert reading.rows == 20
    with pytest.raises(DataError, match="larger than 100,000 bytes"):
        list(read_feed(feed(60, "M" * 2000)))
    with pytest.raises(DataError, match="more than 40,000 bytes"):
        list(read_feed(feed(1, "M" * 60_000)))


def test_items_of_xml_that_were_read_are_kept_no_longer(tmp_path: Path) -> None:
    from xml.etree.ElementTree import Element

    path = tmp_path / "a.xml"
    items = "".join(f"<note/><item><id>{n}</id><title>Mug</title></item>\n" for n in range(3000))
    path.write_text(f"<rss><channel>{items}</channel></rss>")
    products = read_feed(path)
    for _ in range(2900):
        last = next(products)
    assert last.id == "2899"
    # The parser reads some hundred items ahead of the one that is given.
    assert sum(type(one) is Element for one in gc.get_objects()) < 2000


def test_a_table_whose_lines_end_with_carriage_returns_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,title\r1,"A\r\nmug"\r2,Bowl\r')
    assert [(one.id, one.title) for one in read_feed(tmp_path / "a.csv")] == [
        ("1", "A\r\nmug"),
        ("2", "Bowl"),
    ]


def test_rows_that_are_no_product_are_counted_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(
        "id,title,price,link\n1,A,1 EUR,\n,B,1 EUR,\n3,C,cheap,\n4,D,5,\n5,E,,javascript:x\n1,F,,\n6,G,,\n"
    )
    reading = FeedReading()
    assert [one.id for one in read_feed(path, reading)] == ["1", "6"]
    assert (reading.rows, reading.bad) == (7, 5)
    for problem, words in zip(
        reading.problems, ["without id", "no price", "no currency", "no web address", "twice"], strict=True
    ):
        assert words in problem
    assert "f.csv:3" in reading.problems[0]


def test_a_feed_updates_the_catalogue_and_unlists_what_it_holds_no_more(tmp_path: Path) -> None:
    feed, catalogue = shop(tmp_path / "shop"), Catalogue(tmp_path / NAME)
    update = update_feed(catalogue, "main", checked_feed(feed))
    assert (update.changes, update.pictures, update.missing_count) == (Changes(4, 0, 0, 0), 3, 0)
    assert update_feed(catalogue, "main", checked_feed(feed)).changes == Changes(0, 0, 4, 0)
    text = feed.read_text().replace("Red mug", "Scarlet mug")
    feed.write_text("\n".join(line for line in text.splitlines() if not line.startswith("b1")) + "\n")
    update = update_feed(catalogue, "main", checked_feed(feed))
    assert (update.changes, update.pictures) == (Changes(0, 1, 2, 1), 0)
    assert [hit.product.id for hit in catalogue.search("scarlet")] == ["m1"]
    assert catalogue.search("bowl") == []
    assert catalogue.product("b1") is not None, "traces still name it"
    assert len(catalogue) == 3

    feed.write_text(HEADER + "m1,Scarlet mug,,,,,,\n")
    with pytest.raises(DataError, match="1 products, and the catalogue 3") as error:
        update_feed(catalogue, "main", checked_feed(feed))
    assert "--shrink" in str(error.value)
    assert len(catalogue) == 3
    assert update_feed(catalogue, "main", checked_feed(feed), UpdateConfig(partial=True)).changes.removed == 0
    assert update_feed(catalogue, "main", checked_feed(feed), UpdateConfig(shrink=True)).changes.removed == 2

    other = tmp_path / "other.csv"
    other.write_text(HEADER + "m1,Somebody else's mug,,,,,,\n")
    with pytest.raises(DataError, match="belongs to the feed 'main'"):
        update_feed(catalogue, "other", checked_feed(other))


def test_words_and_pictures_find_products_together(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / NAME)
    update_feed(catalogue, "main", checked_feed(shop(tmp_path / "shop")))
    encoder = LayoutEncoder()
    blue = encoder.encode([drawing("blue").resize((200, 160))])[0]

    def found(words: str = "", picture: np.ndarray | None = None, **more: Any) -> list[str]:
        hits = catalogue.search(words, picture, encoder=encoder.name, **more)
        return [hit.product.id for hit in hits]

    assert found("mugs for drinking coffee")[0] == "m2", "words are stemmed, and any of them counts"
    assert found("laces") == [], "shoes are out of stock"
    assert found("laces", filters=Filters(in_stock=False)) == ["s1"]
    assert found(picture=blue)[0] == "m2"
    assert found("tea", blue)[0] in ("m1", "m2")
    assert set(found("mug", filters=Filters(most_price=10))) == {"m2"}
    assert found("mug", filters=Filters(most_price=100, currency="usd")) == []
    assert found("mug", filters=Filters(category="shoes")) == []
    assert found('"; DROP TABLE products; --') == []
    best = catalogue.search("", blue, encoder=encoder.name)[0]
    assert best.picture is not None
    assert best.picture > 0.95
    assert catalogue.search("", blue, encoder="another-1") == [], (
        "vectors of another encoder are not compared"
    )


def test_features_have_length_one_and_know_shape_and_colour() -> None:
    encoder = LayoutEncoder()
    pictures = [
        drawing("red"),
        drawing("red").resize((300, 233)),
        drawing("blue"),
        drawing("red", "rectangle"),
    ]
    features = encoder.encode(pictures)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-5)
    likeness = features @ features[0]
    assert likeness[1] > max(likeness[2], likeness[3]), "size does not matter as colour and shape do"
    assert encoder.encode([]).shape == (0, features.shape[1])
    flat = encoder.encode([Image.new("RGB", (5, 5), "grey")])
    assert np.isfinite(flat).all()


def test_pictures_that_cannot_be_read_are_counted_and_tried_again(tmp_path: Path) -> None:
    feed, catalogue = shop(tmp_path / "shop"), Catalogue(tmp_path / NAME)
    (tmp_path / "shop" / "red.png").write_bytes(b"no picture")
    (tmp_path / "shop" / "blue.png").unlink()
    feed.write_text(feed.read_text().replace("green.png", "../secret.png"))
    update = update_feed(catalogue, "main", checked_feed(feed))
    assert (update.pictures, update.missing_count) == (0, 3)
    assert "../secret.png" in "".join(update.missing)
    drawing("red").save(tmp_path / "shop" / "red.png")
    assert update_feed(catalogue, "main", checked_feed(feed)).pictures == 1
    thumbnail = catalogue.thumbnail("m1")
    assert thumbnail is not None
    assert Image.open(io.BytesIO(thumbnail)).format == "WEBP"


def test_a_picture_at_a_private_address_is_not_fetched(tmp_path: Path) -> None:
    feed = tmp_path / "f.csv"
    feed.write_text(
        "id,title,image_link\n1,A,http://127.0.0.1:8080/a.png\n2,B,http://169.254.169.254/latest\n"
    )
    catalogue = Catalogue(tmp_path / NAME)
    assert update_feed(catalogue, "main", checked_feed(feed)).missing_count == 0, "nobody asked for a fetch"
    update = update_feed(catalogue, "main", checked_feed(feed), UpdateConfig(fetch_pictures=True))
    assert update.missing_count == 2
    assert all("not public" in one for one in update.missing)


@pytest.mark.parametrize("address", ["http://[bad/x.jpg", "https://a:b/x.jpg", "http://a\u2100b.com/x.jpg"])
def test_a_malformed_address_is_one_missing_picture(tmp_path: Path, address: str) -> None:
    feed, catalogue = shop(tmp_path / "shop"), Catalogue(tmp_path / NAME)
    feed.write_text(feed.read_text().replace("blue.png", address))
    assert update_feed(catalogue, "main", checked_feed(feed)).pictures == 2
    update = update_feed(catalogue, "main", checked_feed(feed), UpdateConfig(fetch_pictures=True))
    assert (update.pictures, update.missing_count) == (0, 1)
    assert update.missing[0].startswith("m2: ")
    assert "malformed" in update.missing[0]


def test_pictures_that_a_killed_companion_did_not_read_are_read_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = {"main": FeedConfig(path=shop(tmp_path / "shop"))}
    killed = FeedKeeper(tmp_path, feeds, lambda *_, **__: None)
    with monkeypatch.context() as killing:
        killing.setattr(LayoutEncoder, "encode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            killed.look("main")
    with contextlib.closing(Catalogue(tmp_path / NAME)) as catalogue:
        assert catalogue.listed("main") == 4
        assert catalogue.thumbnail("m1") is None
    update = FeedKeeper(tmp_path, feeds, lambda *_, **__: None).look("main")
    assert update is not None
    assert (update.pictures, update.changes) == (3, Changes())


def test_pictures_that_could_not_be_read_are_tried_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = {"main": FeedConfig(path=shop(tmp_path / "shop"))}
    (tmp_path / "shop" / "red.png").rename(tmp_path / "red.png")
    keeper = FeedKeeper(tmp_path, feeds, lambda *_, **__: None)
    first = keeper.look("main")
    assert first is not None
    assert (first.pictures, first.missing_count) == (2, 1)
    (tmp_path / "red.png").rename(tmp_path / "shop" / "red.png")
    assert keeper.look("main") is None, "its time has not come"
    later = time.monotonic() + RETRY_PICTURES
    monkeypatch.setattr(time, "monotonic", lambda: later)
    again = keeper.look("main")
    assert again is not None
    assert again.pictures == 1
    assert keeper.look("main") is None


def test_a_feed_looks_for_its_own_pictures_only(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / NAME)
    one, two = shop(tmp_path / "one"), tmp_path / "two" / "feed.csv"
    (tmp_path / "one" / "red.png").unlink()
    assert update_feed(catalogue, "one", checked_feed(one)).missing_count == 1
    two.parent.mkdir()
    two.write_text("id,title,image_link\nx1,A cap,cap.png\n")
    drawing("black").save(two.parent / "cap.png")
    update = update_feed(catalogue, "two", checked_feed(two))
    assert (update.pictures, update.missing_count) == (1, 0)


def test_a_catalogue_of_another_format_is_refused(tmp_path: Path) -> None:
    import sqlite3

    catalogue = Catalogue(tmp_path / NAME)
    catalogue.close()
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(RunError, match="format 99"):
        Catalogue(tmp_path / NAME)
    (tmp_path / "other").write_bytes(b"no database" * 500)
    with pytest.raises(RunError, match="cannot be used"):
        Catalogue(tmp_path / "other")


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_feed_that_drips_is_given_up(tmp_path: Path, part: str) -> None:
    """Every byte comes within the limit of a step; a body without a length looks whole when it is cut."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\n" + (b"\r\nid,title\n1,A\n" if part == "body" else b"x-a: ")
            )
            while not over.wait(0.05):
                with contextlib.suppress(OSError):
                    self.wfile.write(b"2")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listening.server_port}/feed.csv"
        keeper = FeedKeeper(tmp_path, {"web": FeedConfig(url=url, seconds=0.5)}, lambda *_, **__: None)
        began = time.monotonic()
        with pytest.raises(RunError, match=r"feed web: not whole after 0\.5 s"):
            keeper.look("web")
        assert time.monotonic() - began < 10
        over.set()
        listening.shutdown()
    assert not (tmp_path / "feeds").exists()


def test_feeds_are_taken_in_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {"body": b"id,title\n1,A\n", "etag": '"1"', "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served["asked"].append(dict(self.headers))
            known = self.headers.get("if-none-match") == served["etag"]
            self.send_response(304 if known else 200)
            self.send_header("etag", served["etag"])
            self.send_header("content-length", "0" if known else str(len(served["body"])))
            self.end_headers()
            self.wfile.write(b"" if known else served["body"])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("FEED_KEY", "k")
        feeds = {
            "file": FeedConfig(path=shop(tmp_path / "shop")),
            "web": FeedConfig(url=f"http://127.0.0.1:{server.server_port}/feed.csv", key_env="FEED_KEY"),
            "gone": FeedConfig(path=tmp_path / "nothing.csv"),
        }
        told: list[tuple[str, dict[str, Any]]] = []
        keeper = FeedKeeper(tmp_path, feeds, lambda what, **fields: told.append((what, fields)))
        keeper.step()
        assert [(what, fields["feed"]) for what, fields in told] == [
            ("feed", "file"), ("feed", "web"), ("feed failed", "gone")]  # fmt: skip
        keeper.step()
        assert len(told) == 3, "nothing is due"
        assert keeper.look("file") is None
        assert keeper.look("web") is None
        assert served["asked"][-1]["authorization"] == "Bearer k"
        served |= {"body": b"id,title\n1,A\n2,B\n", "etag": '"2"'}
        update = keeper.look("web")
        assert update is not None
        assert update.changes == Changes(1, 0, 1, 0)
        server.shutdown()
    with pytest.raises(RunError, match="no answer"):
        keeper.look("web")


def searching(body: Body, number: int) -> Reply:
    """A model that searches once, by what the user said or showed."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return Reply("Found: " + str(last["content"]))
    shown = isinstance(last["content"], list)
    words = "mug" if not shown else ""
    return calls(
        "search_products", **({"like_picture": True} if shown else {"query": words, "most_price": 10})
    )


def test_an_answer_shows_products_as_cards(tmp_path: Path) -> None:
    feed = shop(tmp_path / "shop")
    data = tmp_path / "data"
    data.mkdir()
    catalogue = Catalogue(data / NAME)
    update_feed(catalogue, "main", checked_feed(feed))
    catalogue.close()
    products = {"feeds": {"main": {"path": str(feed)}}, "most": 2}
    with gateway(data, searching, products=products) as one:
        status, answer = one.call(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": "a mug"}]}
        )
        assert status == 200
        message = answer["choices"][0]["message"]
        ((cards,)) = message["shown"]
        (item,) = cards["items"]
        assert (cards["kind"], item["id"], item["price"], item["currency"]) == ("cards", "m2", 9.0, "EUR")
        assert item["available"] is True
        assert item["why"] == [{"name": "fits your words", "value": "number 2"}]
        assert "images" not in message, "a card is not an image of the answer"
        assert "[m2] Blue mug, 9.00 EUR" in message["content"]
        thumbnail = base64.b64decode(item["image"].partition(",")[2])
        tool = next(span for span in one.trace(answer["id"])["trace"]["spans"] if span["kind"] == "tool")
        assert one.raw(f"/v1/blobs/{tool['blobs'][0]}")[1] == thumbnail

        file = io.BytesIO()
        drawing("green").save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}]
        _, answer = one.call("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]})
        items = answer["choices"][0]["message"]["shown"][0]["items"]
        assert items[0]["id"] == "b1"
        assert len(items) == 2


@pytest.mark.parametrize(
    ("products", "error"),
    [
        ({"feeds": {}}, "at least 1"),
        ({"feeds": {"a": {}}}, "either a path or a url"),
        ({"feeds": {"a": {"path": "x", "url": "http://x"}}}, "either a path or a url"),
        ({"feeds": {"a": {"path": "x"}}, "tool": "edit"}, "already"),
    ],
)
def test_settings_that_cannot_be_are_said(products: dict[str, Any], error: str) -> None:
    from noria.core.config import parse_config

    content = {
        "backends": {"a": {"url": "http://127.0.0.1:1/v1", "model": "m", "prices": PRICES}},
        "routes": {"r": {"backend": "a"}},
        "begin": "r",
        "parts": {"tools": {"edit": {"kind": "edit", "url": "http://127.0.0.1:1/v1"}}},
        "products": products,
    }
    with pytest.raises(ConfigError, match=error):
        parse_config(AssistantConfig, json.dumps(content).encode(), where="x.yaml")
