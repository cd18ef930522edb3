"""What a turn hands over is what the gateway serves: the same file of a route, the same document of an experiment."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from noria.assistant.companion.turns import Turns
from noria.assistant.config import AssistantConfig
from noria.assistant.learning import end_open_turn, opened_turn
from noria.assistant.service.bundles import Bundles
from noria.core.errors import DataError
from noria.core.experiments.figures import SharedFigures
from noria.core.experiments.lifecycle import OPEN, TREATMENT
from noria.core.learning.ending import ERASED
from noria.core.learning.routes.backends import write_route
from noria.core.learning.routes.route import Route
from noria.core.learning.turn import Turn
from noria.core.storage.control import SQLiteControl
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import gateway as running_gateway, settings
from tests.core.learning_world import turn
from tests.core.test_ending import telling

SERVER = {"url": "http://127.0.0.1:1/v1", "model": "m"}


def gateway(folder: Path) -> Bundles:
    config = AssistantConfig.model_validate(
        {
            "backends": {"old": SERVER, "new": SERVER, "bad": SERVER},
            "routes": {"default": {"backend": "old"}},
            "begin": "default",
        }
    )
    bundles = Bundles(SQLiteControl(folder / "control.sqlite"), ArtefactStore(folder / "store"), config)
    bundles.begin()
    return bundles


def test_a_route_of_a_learner_is_the_artefact_that_the_gateway_keeps(tmp_path: Path) -> None:
    values = {"backend": "old", "system": "Be kind.", "sampling": {"temperature": 0.5, "max_tokens": 9}}
    bundles = gateway(tmp_path)
    kept = bundles.keep(Route.model_validate(values), by="ann")
    write_route(tmp_path / "made", Route.model_validate(values))
    made = bundles.artefacts.add("route", tmp_path / "made")
    assert kept.artefacts["route"] == made.digest
    assert bundles.route_of(kept.digest).model_dump() == Route.model_validate(values).model_dump()


def test_the_gateway_deals_users_to_the_bundle_of_a_turn(tmp_path: Path) -> None:
    bundles = gateway(tmp_path)
    one = turn(tmp_path)
    assert one.plan.parent == bundles.serving().bundle
    receipt = asyncio.run(one.run())
    assert receipt["outcome"] == "handed over"
    serving = bundles.serving()
    (experiment,) = serving.experiments
    assert experiment.stage == "shadow"
    assert experiment.challenger.route.backend == "new"
    document = bundles.control.read("experiment", receipt["experiment"])
    assert document is not None
    assert document.value is not None
    bundles.control.write(
        "experiment", document.key, document.value | {"stage": "ab"}, based_on=document.version, by="ann"
    )
    assert document.value["stage"] in OPEN
    choices = [bundles.serving().choose(f"user {n}") for n in range(200)]
    dealt = {choice.bundle for choice in choices if choice.assignments[0].arm == TREATMENT}
    assert dealt == {receipt["bundle"]}
    assert 60 <= sum(choice.bundle == receipt["bundle"] for choice in choices) <= 140


def learning(url: str, **changes: Any) -> AssistantConfig:
    """Settings of a gateway whose routes learn, with another judge at the gate."""
    values = {"judge": "m", "gate_judge": "n", "least_rated": 0} | changes
    checklist = [{"id": "well", "question": "Is it well?"}]
    base = settings(url)
    backends = {name: base["backends"]["m"] | {"model": name} for name in ("m", "n")}
    more = {"backends": backends, "judging": {"checklist": checklist}, "learning": values}
    return AssistantConfig.model_validate(base | more)


def learn(folder: Path, config: AssistantConfig, *, by: str = "ann") -> tuple[dict[str, Any], list[str]]:
    """The receipt of the turn that runs, and what was told."""
    told: list[str] = []

    async def run() -> dict[str, Any]:
        opened = opened_turn(folder, config, by=by, reason="test", tell=told.append)
        async with opened as (one, _):
            return await one.run()

    return asyncio.run(run()), told


def interrupt(folder: Path, config: AssistantConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a turn be killed when its data are frozen."""
    with monkeypatch.context() as killing:
        killing.setattr(Turn, "_attribute", None)
        with pytest.raises(TypeError):
            learn(folder, config)


def test_a_turn_whose_settings_changed_is_stopped_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    with running_gateway(folder) as one:
        for n in range(3):
            one.ask(f"question {n}", user=f"user {n}")
        url = one.backend.url
        interrupt(folder, learning(url, money=5.0), monkeypatch)
        receipt, told = learn(folder, learning(url, money=7.0))
        assert (receipt["turn"]["number"], told) == (1, []), "other money lets it resume"
        interrupt(folder, learning(url), monkeypatch)
        receipt, told = learn(folder, learning(url, least_rated=5), by="schedule")
        assert (receipt["turn"]["number"], receipt["turn"]["reason"]) == (3, "test")
        (line,) = told
        assert line.startswith(
            "turn 2 stopped: its settings have changed: config.least_rated was 0, and is 5; it"
        )
        stopped = json.loads((folder / "turns" / "000002" / "receipt.json").read_text())
        assert (stopped["outcome"], stopped["stages"]) == ("stopped", ["1-freeze"])
        interrupt(folder, learning(url), monkeypatch)
        monkeypatch.setattr("noria.assistant.learning.check", lambda config: None)
        receipt, (line,) = learn(folder, learning(url, learners=["descriptions", "routes"]))
        assert receipt["turn"]["number"] == 5
        assert "its learners have changed: they were routes, and are skill descriptions, routes" in line


def test_the_companion_tells_that_a_turn_could_not_resume_and_how_the_next_one_ended(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    control = SQLiteControl(tmp_path / "control.sqlite")
    turns = Turns(
        tmp_path, learning("http://127.0.0.1:1"), control, lambda what, **more: told.append((what, more))
    )
    stopped = "turn 1 stopped: its settings have changed: config.alpha was 0.05, and is 0.01; it spent 2"
    turns._log.write(f"{stopped}\nnothing: routes: no better one\nreceipt   /x: y\n".encode())
    turns._log.flush()
    asyncio.run(turns._end(SimpleNamespace(returncode=0)))  # type: ignore[arg-type]
    assert told == [
        ("turn stopped", {"reason": stopped}), ("turn ended", {"outcome": "nothing: routes: no better one"})
    ]  # fmt: skip


def test_a_turn_is_ended_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    with running_gateway(folder) as one:
        one.ask("hello", user="ann")
        config = learning(one.backend.url)
        with pytest.raises(DataError, match="no turn is open"):
            end_open_turn(folder, config, "it fails")
        interrupt(folder, config, monkeypatch)
        _, receipt = end_open_turn(folder, config, "it fails each time")
        assert (receipt["outcome"], receipt["reason"]) == ("stopped", "it fails each time")
        assert learn(folder, config)[0]["turn"]["number"] == 2


def test_an_erased_user_is_in_no_file_of_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a turn that ended, nor in one that is open, nor in an ablation, nor in figures of an experiment."""
    folder = tmp_path / "data"
    with running_gateway(folder) as one:
        config = learning(one.backend.url)
        for name in ("ann", "bob"):
            one.ask(f"zebra of {name}", user=name)
        assert learn(folder, config)[0]["outcome"] == "blocked"
        assert telling(folder / "turns") == [], "that one has ended"
        interrupt(folder, config, monkeypatch)
        ablation = folder / "ablations" / "000001"
        ablation.mkdir(parents=True)
        shutil.copytree(folder / "turns" / "000002" / "1-freeze", ablation / "dataset")
        (ablation / "paid.sqlite").write_bytes(b"answers about a zebra")
        assert telling(folder / "turns")
        assert len(telling(ablation)) >= 2
        one.call("/v1/users/erase", {"caller": "operator", "user": "carl"})
        assert telling(ablation), "carl is not among them"
        assert telling(folder / "turns"), "carl is not among them"
        with_figures = SQLiteControl(folder / "control.sqlite")
        asked = {"caller": "operator", "user": "ann"}
        key = one.call("/v1/users/erase", asked)[1]["key"]
        SharedFigures(with_figures, "here").publish("ended", 7, [(key, "control", "success", 1.0, 1)])
        assert one.call("/v1/users/erase", asked)[0] == 200
        assert with_figures.execute("SELECT * FROM figures", ()) == []
        with_figures.close()
        assert telling(folder / "turns") == telling(ablation) == []
        receipt = json.loads((folder / "turns" / "000002" / "receipt.json").read_text())
        assert (receipt["outcome"], receipt["reason"]) == ("stopped", ERASED)
        assert telling(folder, "zebra of ann") == []
        assert telling(folder, "zebra of bob") == ["journal.sqlite"]
        assert learn(folder, config)[0]["data"]["counts"]["traces"] == 1
