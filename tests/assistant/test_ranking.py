"""The order of products: by the snapshot's plans, with an account of each item, and as the tool gave them otherwise."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.parts.cards import cards_of
from noria.assistant.parts.protocol import RankContext, Ranking
from noria.assistant.parts.ranking import HitRanker, Placer
from noria.assistant.products.catalogue import Hit
from noria.assistant.products.product import Product
from noria.core.errors import DataError, MissingExtra
from noria.core.tools import ToolContext, ToolResult
from tests.assistant.gateways import gateway
from tests.assistant.test_gateway import PNG
from tests.assistant.test_parts import bundles
from tests.assistant.test_tools import calls, server
from tests.chat_server import Body, Reply

ITEMS: list[dict[str, Any]] = [
    {"id": "lamp-1", "title": "Tall lamp", "price": 40, "currency": "EUR", "score": 0.9, "source": "text",
     "features": {"age": 90.0, "tags": ["sale"]}, "link": "https://shop.example/1"},
    {"id": "lamp-2", "title": "New lamp", "price": 60, "score": 0.5, "source": "text", "features": {"age": 2.0}},
    {"id": "lamp-3", "title": "Seen lamp", "price": 20, "score": 70.0, "source": "picture", "features": {"age": 5.0}},
    {"id": "lamp-4", "title": "Lamp without a score", "link": "javascript:alert(1)"},
]  # fmt: skip
PLANS = {
    "plans": [
        {"id": "fresh", "when": "age < 10", "bias": 0.3},
        {"id": "sale", "when": '"sale" in tags', "weight": 0.5},
        {"id": "dear", "when": "price > 100", "bias": 9.0},
    ]
}


def snapshot(path: Path) -> Path:
    from noria.blending.alignment.alignment import Alignment
    from noria.blending.plans.plans import Plans
    from noria.blending.snapshot import Snapshot

    alignment = Alignment.of_scales({"text": 1.0, "picture": 0.01}, mean_value=0.4)
    Snapshot.of(alignment, Plans.model_validate(PLANS)).save(path)
    return path


def shop(path: str, body: dict[str, Any]) -> Any:
    if body["method"] == "tools/list":
        tool = {"name": "search", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
        return {"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool]}}
    content = [{"type": "text", "text": "four lamps"}]
    result = {"content": content, "structuredContent": {"title": "Lamps", "items": ITEMS}}
    return {"jsonrpc": "2.0", "id": 1, "result": result}


def search(body: Body, number: int) -> Reply:
    last = body["messages"][-1]
    return Reply(str(last["content"])) if last["role"] == "tool" else calls("search")


def test_products_come_in_the_order_of_the_plans_each_with_its_account(tmp_path: Path) -> None:
    with server(shop) as (url, _):
        parts = {
            "tools": {"shop": {"kind": "mcp", "url": url}},
            "blending": str(snapshot(tmp_path / "00000001.json")),
        }
        with gateway(tmp_path / "data", search, parts=parts) as one:
            answer = one.ask("lamps please")
            trace = one.trace(answer["id"])["trace"]
        with gateway(tmp_path / "plain", search, parts={"tools": parts["tools"]}) as one:
            plain = one.ask("lamps please")["choices"][0]["message"]
    message = answer["choices"][0]["message"]
    (cards,) = message["shown"]
    # value: .9, .5, .7 (70 at .01); fresh adds .3 to the second and third, sale half of .9 to the first
    assert [item["id"] for item in cards["items"]] == ["lamp-1", "lamp-3", "lamp-2", "lamp-4"]
    why = [{term["name"]: pytest.approx(term["value"]) for term in item["why"]} for item in cards["items"]]
    assert why == [
        {"value": 0.9, "sale": 0.45},
        {"value": 0.7, "fresh": 0.3},
        {"value": 0.5, "fresh": 0.3},
        {},
    ]
    assert cards["title"] == "Lamps"
    assert not {"score", "source", "features"} & {name for item in cards["items"] for name in item}
    assert [item["link"] for item in cards["items"]] == ["https://shop.example/1", None, None, None]
    assert "The user sees them in this order: lamp-1, lamp-3, lamp-2, lamp-4" in message["content"]
    kinds = [span["kind"] for span in trace["spans"]]
    assert kinds == ["plan", "tool", "blend", "chat"]
    blend = trace["spans"][2]
    assert blend["chosen"] == "lamp-1"
    scores = [candidate.get("score") for candidate in blend["candidates"]]
    assert scores == [*map(pytest.approx, (1.35, 1.0, 0.8)), None]
    assert [candidate["propensity"] for candidate in blend["candidates"]] == [1, 0, 0, 0]
    assert blend["attributes"]["accounts"]["lamp-1"][1] == ["sale", pytest.approx(0.45)]
    assert blend["artefact"]
    assert [item["id"] for item in plain["shown"][0]["items"]] == ["lamp-1", "lamp-2", "lamp-3", "lamp-4"]
    assert all(item["why"] == [] for item in plain["shown"][0]["items"])
    assert "score" not in plain["shown"][0]["items"][0]


class Failing:
    """A ranker that cannot decide."""

    name, artefact = "failing", ""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def rank(self, items: Sequence[Mapping[str, Any]], context: RankContext) -> Ranking | None:
        raise self.error


@pytest.mark.parametrize(
    "error", [DataError("no plan"), ValueError("shape"), TypeError("kind"), KeyError("x")]
)
def test_a_ranker_that_fails_leaves_the_results_as_they_are(error: Exception) -> None:
    given = ToolResult("found", shown=[{"kind": "cards", "items": ITEMS}, {"kind": "video"}])
    placer = Placer(Failing(error))
    placed = placer.cards(given, "search")
    assert [item["id"] for item in placed.shown[0]["items"]] == [item["id"] for item in ITEMS]
    assert placed.text == "found"
    (span,) = placer.steps
    assert span.error is not None
    assert "no plan" not in str(span), "what it said is for the log"


def test_features_of_several_kinds_are_ignored_and_said(tmp_path: Path) -> None:
    from noria.assistant.parts.blending import BlendingRanker
    from noria.blending.snapshot import Snapshot

    ranker = BlendingRanker(Snapshot.load(snapshot(tmp_path / "s.json")))
    items = [ITEMS[0] | {"features": {"age": "old", "tags": "sale"}}, *ITEMS[1:]]
    ranking = ranker.rank(items, RankContext("search"))
    assert ranking is not None
    assert ranking.attributes["ignored"] == ["age", "tags"]
    assert ranking.order == (0, 2, 1, 3)
    assert all(len(account) == 1 for account in ranking.accounts), "nobody is targeted on what is not known"
    assert ranker.rank(ITEMS[3:], RankContext("search")) is None
    unknown = ranker.rank([ITEMS[0], ITEMS[1] | {"source": "nobody"}], RankContext("search"))
    assert unknown is not None
    assert (unknown.order, len(unknown.scores)) == ((0, 1), 1)
    assert unknown.attributes["dropped"] == {"source without alignment": 1}


def test_the_shops_own_hits_are_ranked_before_the_best_are_shown(tmp_path: Path) -> None:
    from noria.assistant.parts.blending import BlendingRanker
    from noria.blending.alignment.alignment import Alignment
    from noria.blending.plans.plans import Plans
    from noria.blending.snapshot import Snapshot

    plans = Plans.model_validate({"plans": [{"id": "green", "when": 'color == "green"', "bias": 0.5}]})
    scales = {"words": 10.0, "picture": 10.0, "both": 10.0}
    placer = Placer(BlendingRanker(Snapshot.of(Alignment.of_scales(scales, mean_value=0.2), plans)))
    hits = [
        Hit(Product("a", "Red lamp", attributes={"color": "red"}), 0.03, words=1),
        Hit(Product("b", "Green lamp", attributes={"color": "green"}), 0.02, words=2, picture=0.4),
        Hit(Product("c", "Lamp", brand="Lux"), 0.025, picture=0.9),
    ]
    ranked = HitRanker(placer, "search_products").rank(hits, ToolContext())
    assert [one.hit.product.id for one in ranked] == ["b", "a", "c"]
    assert dict(ranked[0].why[:2]) == {"value": pytest.approx(0.2), "green": pytest.approx(0.5)}
    assert ranked[0].why[2:] == (("fits your words", "number 2"), ("like your picture", 0.4))
    (span,) = placer.steps
    assert [candidate.name for candidate in span.candidates] == ["b", "a", "c"]
    assert HitRanker(Placer(), "s").rank(hits, ToolContext())[0].hit is hits[0], (
        "without a ranker as the search has it"
    )


def test_cards_are_read_item_by_item_and_nothing_else_of_them() -> None:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    given = {
        "items": [
            {"id": 7, "title": "<b>bold</b>", "image": url, "price": "12", "onclick": "x", "why": [{"name": "best"}]},
            {"id": "b", "title": "t" * 999, "image": "data:text/html;base64,PGI+", "link": "//evil", "score": True},
            {"title": "no id"}, "text", None, {"id": "c"},
        ]
    }  # fmt: skip
    cards, files = cards_of(given)
    assert cards is not None
    first, second = cards["items"]
    assert (first["id"], first["title"], first["price"], first["why"]) == ("7", "<b>bold</b>", None, [])
    assert (first["image"], files) == ("file:card 0", {"card 0": PNG})
    assert "onclick" not in first
    assert (second["image"], second["link"], len(second["title"])) == (None, None, 300)
    assert "score" not in second
    nothings: tuple[Any, ...] = (
        None,
        [],
        {},
        {"items": "x"},
        {"kind": "video", "items": ITEMS},
        {"items": []},
    )
    assert [cards_of(nothing) for nothing in nothings] == [(None, {})] * len(nothings)


def test_plans_are_part_of_the_bundle_and_off_without_their_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = snapshot(tmp_path / "s.json")
    made = bundles(tmp_path, parts={"blending": str(path)})
    choice = made.choice_of(made.named["brief"])
    assert choice.ranker is not None
    assert choice.ranker.artefact
    assert made.named != bundles(tmp_path / "other").named

    def absent(kind: str, *_: object) -> Any:
        raise MissingExtra("duckdb", "blending")

    monkeypatch.setattr("noria.assistant.service.bundles.open_ranker", absent)
    again = bundles(tmp_path / "again", parts={"blending": str(path)})
    off = again.choice_of(again.named["brief"])
    assert off.ranker is None
    assert "mend it with" in off.off["plans"]
    with pytest.raises(DataError):
        bundles(tmp_path / "damaged", parts={"blending": str(tmp_path / "nowhere.json")})
