"""The model router learns from replays of the traffic: better where it can be, cheaper where that is all there is."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import check
from noria.assistant.learners.router import RouterLearner
from noria.assistant.parts.routing import open_part
from noria.assistant.service.service import opened_gateway
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import ConfigError
from noria.core.learning.routes.route import Route
from noria.core.service.hosting import running
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import TOKEN, Gateway
from tests.assistant.test_bodies import texts, turned
from tests.chat_server import Body, Reply, chat_server

SUMS = ("add", "subtract", "divide", "multiply", "integral", "fraction", "percent", "root")
CHATS = ("poem", "song", "story", "letter", "greeting", "riddle", "toast", "joke")


def respond(body: Body, number: int) -> Reply:
    """The dear model answers everything well, the cheap one everything but sums; judges look at the answer."""
    said = texts(body)
    if body["model"] in ("cheap", "dear"):
        hard = any(word in said.rpartition("|")[2] or word in said for word in SUMS)
        return Reply("badly" if hard and body["model"] == "cheap" else "well")
    asked = [int(n) for n in re.findall(r"^(\d+)\. ", said.rpartition("Questions:")[2], re.M)]
    answer = "yes" if "Answer:\nwell" in said else "no"
    return Reply(json.dumps({"answers": [{"number": n, "answer": answer, "reason": "r"} for n in asked]}))


def values(url: str, begin: str = "cheap", **learning: Any) -> dict[str, Any]:
    def server(model: str, price: float) -> dict[str, Any]:
        prices = {"input": price, "output": price}
        return {"url": url, "model": model, "backoff": 0.01, "timeout": 20, "prices": prices}

    return {
        "backends": {
            "cheap": server("cheap", 0.1), "dear": server("dear", 10.0), "train": server("train", 0.0),
            "gate": server("gate", 0.0),
        },
        "routes": {"cheap": {"backend": "cheap"}, "dear": {"backend": "dear"}},
        "begin": begin,
        "judging": {"checklist": [{"id": "well", "question": "Is it well?"}]},
        "learning": {"learners": ["router"], "judge": "train", "gate_judge": "gate", "least_rated": 0} | learning,
    }  # fmt: skip


def traffic(one: Gateway, number: int, words: Callable[[int], tuple[str, ...]]) -> None:
    def ask(n: int) -> None:
        text = " ".join(random.Random(n).sample(words(n), 3))
        answer = one.ask(
            f"please {text} {'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}", user=f"user {n}"
        )
        well = answer["choices"][0]["message"]["content"] == "well"
        one.call("/v1/feedback", {"target": answer["id"], "value": float(well), "user": f"user {n}"})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(number)))


def half(n: int) -> tuple[str, ...]:
    return SUMS if n % 2 else CHATS


def chosen(folder: Path, receipt: dict[str, Any], text: str) -> str:
    """The backend that the router of a candidate chooses for a text."""
    store = ArtefactStore(folder / "versions")
    artefact = store.artefact(store.load_bundle(receipt["bundle"]).artefacts["model-router"])
    part = open_part(store.path(artefact), "", ["cheap", "dear"])
    query = CompletionRequest({"messages": [{"role": "user", "content": text}]}, "", False, False, {})
    step = part.apply(query, Route(backend="cheap"))
    assert step is not None
    return step.route.backend


@contextlib.contextmanager
def serving(folder: Path, begin: str = "cheap") -> Iterator[tuple[Gateway, dict[str, Any]]]:
    """A gateway over both models, on a thread of this process, and its settings."""
    with chat_server(respond) as backend:
        settings = values(backend.url, begin)
        config = AssistantConfig.model_validate(settings)
        opened = opened_gateway(folder, config, token=TOKEN, companion=False, access_log=False)
        with opened as service, running(service) as url:
            yield Gateway(url, folder, backend), settings


def test_a_router_that_is_better_passes_the_gate_of_improvement(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder) as (one, settings):
        wish = {"name": "dear", "challenger": "dear", "shadow_requests": 0, "canary_share": 0.5}
        assert one.call("/v1/experiments", wish)[0] == 201
        traffic(one, 290, half)
        receipt = turned(folder, settings)
        assert receipt["outcome"] == "registered", receipt["reason"]
        assert "the experiment dear is open" in receipt["reason"]
        assert receipt["candidate"]["gate"] == "improvement"
        assert receipt["gate"]["gate"] == "improvement"
        assert receipt["gate"]["gain"]["effect"] > 0.3
        assert chosen(folder, receipt, "please divide the fraction by a root") == "dear"
        assert chosen(folder, receipt, "please write a poem, a song and a toast") == "cheap", (
            "the trade saves"
        )
        log = receipt["gate notes"]["log"]
        assert log["rounds"] > 40, "the experiment has dealt requests to both backends"
        assert log["candidate"]["low"] > log["parent"]["mean"], "the log says so, too"
        rules = {rule["name"]: rule["outcome"] for rule in receipt["gate"]["rules"]}
        assert rules["log"] == "passed"


def test_a_router_that_is_as_good_has_to_be_cheaper(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder, "dear") as (one, settings):
        traffic(one, 210, half)
        receipt = turned(folder, settings)
        assert receipt["outcome"] == "handed over", receipt["reason"]
        assert receipt["gate"]["gate"] == "noninferiority"
        rules = {rule["name"]: rule["outcome"] for rule in receipt["gate"]["rules"]}
        assert rules["cheaper"] == "passed"
        assert "no experiment has dealt" in receipt["gate notes"]["log"]["why"]
        notes = receipt["gate notes"]
        assert notes["mean cost of the candidate"] < 0.8 * notes["mean cost of the parent"]


def test_with_few_requests_or_one_backend_it_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with serving(folder) as (one, settings):
        traffic(one, 20, half)
        assert turned(folder, settings)["outcome"] in ("blocked", "nothing")
    alone = settings | {"routes": {"cheap": {"backend": "cheap"}}}
    with pytest.raises(ConfigError, match="several backends"):
        check(AssistantConfig.model_validate(alone))
    same = settings | {"learning": settings["learning"] | {"judge": "gate"}}
    with pytest.raises(ConfigError, match="judge of its own"):
        check(AssistantConfig.model_validate(same))


def test_of_routers_that_gain_as_much_the_cheapest_is_proposed() -> None:
    learner = RouterLearner(None, ["cheap", "dear"], "train")  # type: ignore[arg-type]

    def tried(*rows: tuple[float, float]) -> float | None:
        found = [{"trade": n / 10, "gain": gain, "cost ratio": ratio} for n, (gain, ratio) in enumerate(rows)]
        best = learner._best(found)
        return None if best is None else best["trade"]

    assert tried((0.30, 10.0), (0.30, 5.0), (0.20, 1.0)) == 0.1, "as good, and half as dear"
    assert tried((0.30, math.nan), (0.30, math.nan)) == 0.0, "without prices the smaller trade"
    assert tried((0.0, 0.9), (0.0, 0.5), (-0.2, 0.1)) == 0.1, "none is better: the cheapest that is as good"
    assert tried((0.0, 1.0), (-0.2, 0.1), (math.nan, 0.1)) is None
