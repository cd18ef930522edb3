"""Parts of the pipeline: a request finds its skill and its model, the trace says why, a failing part stops nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.parts import protocol
from noria.assistant.parts.protocol import Step, prepare
from noria.assistant.service.bundles import Bundles
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import ConfigError, DataError, MissingExtra, NoriaError
from noria.core.learning.routes.route import Route
from noria.core.storage.control import SQLiteControl
from noria.core.traces.ids import Clock
from noria.core.traces.records import SpanKind
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import gateway, settings
from tests.chat_server import Reply, chat_server

SKILLS = {
    "cut-out": (
        "Removes the background of a picture, or cuts an object out.",
        "Say which object you cut out.",
    ),
    "recipes": ("Finds recipes and cooks dishes from ingredients.", "List the ingredients first."),
    "style-search": (
        "Searches clothes of a similar style, colour or pattern.",
        "Name the style in one word.",
    ),
}


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    folder = tmp_path / "bank"
    for name, (description, body) in SKILLS.items():
        (folder / name).mkdir(parents=True)
        text = f"---\nname: {name}\ndescription: {description}\n---\n\n{body}\n"
        (folder / name / "SKILL.md").write_text(text)
    return folder


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    rows = [
        ("remove the background of this picture", "cut-out"), ("cut the dog out of the picture", "cut-out"),
        ("a recipe with eggs and flour", "recipes"), ("which dishes can I cook from rice", "recipes"),
        ("clothes of a similar pattern", "style-search"), ("search a similar style in blue", "style-search"),
        ("what is the capital of Peru", "none"), ("tell me a joke", "none"), ("17 times 23", "none"),
    ]  # fmt: skip
    path = tmp_path / "samples.jsonl"
    lines = [{"id": str(n), "query": text, "expected": [skill]} for n, (text, skill) in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def test_the_list_of_bundles_names_their_parts_and_makes_none(tmp_path: Path, bank: Path) -> None:
    with gateway(tmp_path / "data", parts={"skills": {"bank": str(bank)}}) as one:
        kept = sorted(path.stem for path in (tmp_path / "data" / "versions" / "bundles").iterdir())
        listed = one.call("/v1/bundles")[1]["data"]
        assert sorted(bundle["bundle"] for bundle in listed) == kept
        assert all(bundle["name"] and set(bundle["artefacts"]) == {"route", "skills"} for bundle in listed)
        assert sorted(path.stem for path in (tmp_path / "data" / "versions" / "bundles").iterdir()) == kept


def test_a_request_finds_its_skill_and_the_trace_says_why(tmp_path: Path, bank: Path, samples: Path) -> None:
    parts = {"skills": {"bank": str(bank), "data": str(samples)}}
    with gateway(tmp_path / "data", parts=parts) as one:
        answer = one.ask("Remove the background of my picture, please")
        system, _, said = answer["choices"][0]["message"]["content"].rpartition("|")
        assert system.startswith("brief\n\n"), "the route's own words come first"
        assert system.endswith("Say which object you cut out.\n")
        assert said == "Remove the background of my picture, please"
        trace = one.trace(answer["id"])["trace"]
        assert trace["labels"] == {"skill": "cut-out"}
        step, chat = trace["spans"]
        assert (step["kind"], step["chosen"], chat["kind"]) == ("skill", "cut-out", "chat")
        assert {c["name"]: c["propensity"] for c in step["candidates"]}["cut-out"] == 1.0
        assert {c["name"] for c in step["candidates"]} == {*SKILLS, "none"}
        scores = {c["name"]: c["score"] for c in step["candidates"]}
        assert max(scores, key=lambda name: scores[name]) == "cut-out"

        plain = one.ask("What is the capital of Peru?")
        assert plain["choices"][0]["message"]["content"] == "brief|What is the capital of Peru?"
        assert one.trace(plain["id"])["trace"]["labels"] == {"skill": "none"}
        status, replayed = one.call(f"/v1/traces/{answer['id']}/replay?bundle=kind", method="POST")
        assert status == 200
        assert replayed["outcome"]["text"].endswith(f"Say which object you cut out.\n|{said}"), (
            "the bundle's parts act"
        )


def test_a_router_chooses_the_backend(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from noria.routing.routers.baselines import Fixed
    from noria.routing.routers.files import save_router
    from noria.routing.tables.table import Route as PoolRoute

    routes = [PoolRoute("elsewhere", "direct"), PoolRoute("m", "direct"), PoolRoute("large", "direct")]
    save_router(Fixed(routes, np.array([0.0, 2.0, 1.0]), route=2), tmp_path / "router")

    parts = {"router": str(tmp_path / "router")}
    with chat_server(lambda body, number: Reply(str(body["model"]))) as double:
        both = {
            name: {"url": double.url, "model": model} for name, model in (("m", "small"), ("large", "big"))
        }
        with gateway(tmp_path / "data", parts=parts, backends=both) as one:
            answer = one.ask("how are you?")
            step = one.trace(answer["id"])["trace"]["spans"][0]
        with pytest.raises(ConfigError, match="none is a backend"):
            bundles(
                tmp_path / "other",
                parts=parts,
                backends={"n": both["m"]},
                routes={"r": {"backend": "n"}},
                begin="r",
            ).serving()
    assert answer["choices"][0]["message"]["content"] == "big"
    assert (step["kind"], step["chosen"]) == ("model", "large")
    assert "elsewhere" not in {c["name"] for c in step["candidates"]}


class Failing:
    """A part that cannot decide."""

    kind: SpanKind = "skill"
    artefact = "a" * 64

    def __init__(self, error: Exception) -> None:
        self.error = error

    def apply(self, query: CompletionRequest, route: Route) -> Step | None:
        raise self.error


@pytest.mark.parametrize(
    "error", [DataError("no bank"), ValueError("shape"), KeyError("x"), ZeroDivisionError()]
)
def test_a_part_that_fails_is_a_span_and_the_request_goes_on(error: Exception) -> None:
    query = CompletionRequest({"messages": [{"role": "user", "content": "x"}]}, "", False, False, {})
    route = Route(backend="m", system="brief")
    prepared = prepare(query, route, [Failing(error)], Clock())
    assert prepared.route == route
    assert [span.error.kind for span in prepared.steps if span.error] == ["part_failed"]
    assert "no bank" not in str(prepared.steps), "what it said is for the log"


def bundles(folder: Path, **changes: Any) -> Bundles:
    config = AssistantConfig.model_validate(settings("http://127.0.0.1:1/v1", **changes))
    made = Bundles(SQLiteControl(folder / "control.sqlite"), ArtefactStore(folder / "versions"), config)
    made.begin()
    return made


def test_a_bundle_holds_its_parts_and_one_whose_extra_is_absent_is_off(
    tmp_path: Path, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_skills = bundles(tmp_path, parts={"skills": {"bank": str(bank)}})
    without = bundles(tmp_path / "other")
    assert with_skills.serving().bundle != without.serving().bundle
    again = bundles(tmp_path / "again", parts={"skills": {"bank": str(bank)}})
    assert with_skills.named == again.named, "the same files are the same bundle"
    (bank / "recipes" / "SKILL.md").write_text("---\nname: recipes\ndescription: Cooks.\n---\nOther words.\n")
    changed = bundles(tmp_path / "changed", parts={"skills": {"bank": str(bank)}})
    assert changed.named != again.named

    def absent(kind: str, *_: object) -> Any:
        raise MissingExtra("numpy", "skills")

    monkeypatch.setattr("noria.assistant.service.bundles.open_part", absent)
    off = Bundles(again.control, again.artefacts, again.config).choice_of(again.named["brief"])
    assert off.parts == ()
    assert "mend it with" in off.off["skills"]


@pytest.mark.parametrize("change", ["absent", "empty", "damaged"])
def test_a_bank_that_cannot_be_read_is_said_at_the_start(tmp_path: Path, bank: Path, change: str) -> None:
    if change == "absent":
        bank = tmp_path / "nowhere"
    elif change == "empty":
        bank = tmp_path / "empty"
        bank.mkdir()
    else:
        (bank / "recipes" / "SKILL.md").write_bytes(b"---\nname: [\n---\n\xff")
    with pytest.raises(NoriaError):
        bundles(tmp_path / "data", parts={"skills": {"bank": str(bank)}})


def test_skills_and_router_take_less_than_a_millisecond(tmp_path: Path, bank: Path, samples: Path) -> None:
    made = bundles(tmp_path, parts={"skills": {"bank": str(bank), "data": str(samples)}})
    choice, clock = made.choice_of(made.named["brief"]), Clock()
    queries = [
        CompletionRequest(
            {"messages": [{"role": "user", "content": f"cut out the dog {n}"}]}, "", False, False, {}
        )
        for n in range(200)
    ]
    took = []
    for query in queries:
        began = time.process_time()
        prepare(query, choice.route, choice.parts, clock)
        took.append(time.process_time() - began)
    assert sorted(took)[len(took) // 2] < 1e-3
    assert protocol.MODULES.keys() == {"skills", "model-router"}
