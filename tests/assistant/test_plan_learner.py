"""The order of products learns from what people choose, behind a gate that orders other lists again."""

from __future__ import annotations

import concurrent.futures
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import check
from noria.assistant.learners.products.choices import ShownList, gains
from noria.core.errors import ConfigError
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import Gateway, gateway, settings
from tests.assistant.test_bodies import WORDS, turned
from tests.assistant.test_ranking import search
from tests.assistant.test_tools import server

SCALES = {"text": 1.0, "picture": 0.3}


def snapshot(path: Path) -> Path:
    from noria.blending.alignment.alignment import Alignment
    from noria.blending.plans.plans import Plans
    from noria.blending.snapshot import Snapshot

    plans = Plans.model_validate({"plans": [{"id": "sale", "when": "sale == true", "weight": 0.1}]})
    Snapshot.of(Alignment.of_scales(SCALES, mean_value=0.4), plans).save(path)
    return path


def shop(path: str, body: dict[str, Any]) -> Any:
    """A search that finds three items by words and three by pictures, with scores that follow from the request."""
    if body["method"] == "tools/list":
        tool = {"name": "search", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
        return {"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool]}}
    rng = random.Random(json.dumps(body["params"], sort_keys=True))
    items = [
        {"id": f"{source}-{n}", "title": f"{source} {n}", "score": rng.uniform(0.3, 0.9), "source": source}
        for source in SCALES
        for n in range(3)
    ]
    content = [{"type": "text", "text": "six things"}]
    return {"jsonrpc": "2.0", "id": 1, "result": {"content": content, "structuredContent": {"items": items}}}


def shoppers(one: Gateway, number: int, likes: str) -> None:
    """People who choose one thing: with a chance of nine in ten one that was found in the way that they like."""

    def ask(n: int) -> None:
        rng = random.Random(n)
        answer = one.ask(f"find {' '.join(rng.sample(WORDS, 4))}", user=f"user {n}")
        (cards,) = answer["choices"][0]["message"]["shown"]
        way = likes if rng.random() < 0.9 else rng.choice(list(SCALES))
        wanted = [item["id"] for item in cards["items"] if item["id"].startswith(way)]
        target = {"trace": answer["id"], "item": rng.choice(wanted)}
        said = {"target": target, "kind": "choice", "name": "click", "value": 1, "user": f"user {n}"}
        assert one.call("/v1/feedback", said)[0] == 202

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(number)))


@pytest.mark.parametrize(("likes", "outcome"), [("picture", "handed over"), ("text", "rejected")])
def test_what_people_choose_moves_the_order_where_it_is_wrong(
    tmp_path: Path, likes: str, outcome: str
) -> None:
    learning: dict[str, Any] = {"learners": ["plans"]}
    folder = tmp_path / "data"
    with server(shop) as (url, _):
        parts = {
            "tools": {"shop": {"kind": "mcp", "url": url}},
            "blending": str(snapshot(tmp_path / "s.json")),
        }
        with gateway(folder, search, parts=parts, learning=learning) as one:
            shoppers(one, 200, likes)
            first = one.call("/v1/champion")[1]["present"]["bundle"]
            receipt = turned(folder, settings(one.backend.url, parts=parts, learning=learning))
    if likes == "text":  # it is in order already: no gain, and nothing that a gate lets pass
        assert receipt["outcome"] in ("rejected", "nothing"), receipt["reason"]
        return
    assert receipt["outcome"] == outcome, receipt["reason"]
    assert receipt["candidate"]["notes"]["chosen"] == receipt["candidate"]["notes"]["lists"]
    from noria.blending.snapshot import Snapshot

    store = ArtefactStore(folder / "versions")
    before, after = (
        Snapshot.load(
            store.path(store.artefact(store.load_bundle(bundle).artefacts["plans"])) / "snapshot.json"
        )
        for bundle in (first, receipt["bundle"])
    )
    assert after.plans == before.plans, "the plans are the operator's"
    assert after.version == before.version + 1


def test_without_choices_or_an_order_it_says_so(tmp_path: Path) -> None:
    learning: dict[str, Any] = {"learners": ["plans"]}
    folder = tmp_path / "data"
    with server(shop) as (url, _):
        parts = {
            "tools": {"shop": {"kind": "mcp", "url": url}},
            "blending": str(snapshot(tmp_path / "s.json")),
        }
        with gateway(folder, search, parts=parts, learning=learning) as one:
            for n in range(60):
                one.ask(f"find {' '.join(random.Random(n).sample(WORDS, 4))}", user=f"user {n}")
            receipt = turned(folder, settings(one.backend.url, parts=parts, learning=learning))
            assert (
                receipt["reason"]
                in (
                    "plans: people chose from 0 lists, 50 needed",
                    "underpowered: 18 leakage groups for the gate, 30 needed",
                )
                or receipt["outcome"] == "blocked"
            ), receipt["reason"]
            config = AssistantConfig.model_validate(settings(one.backend.url, learning=learning))
            with pytest.raises(ConfigError, match="no order of products"):
                check(config)


def test_the_gain_of_a_list_is_one_where_what_was_chosen_stands_first() -> None:
    def shown(*chosen: str) -> ShownList:
        items = tuple({"id": name, "score": score} for name, score in (("a", 3.0), ("b", 2.0), ("c", 1.0)))
        return ShownList("t", "g", "search", 0.0, items, frozenset(chosen))

    assert gains(None, [shown("a"), shown("a", "b")]) == [1.0, 1.0]
    assert gains(None, [shown("c")]) == [pytest.approx(1 / math.log2(4))]
    assert all(map(math.isnan, gains(None, [shown(), shown("a", "b", "c")]))), "nothing is compared there"
