"""What a turn hands over is what the gateway serves: the same file of a route, the same document of an experiment."""

from __future__ import annotations

import asyncio
from pathlib import Path

from noria.assistant.config import AssistantConfig
from noria.assistant.service.bundles import Bundles
from noria.core.experiments.lifecycle import OPEN, TREATMENT
from noria.core.learning.routes.backends import write_route
from noria.core.learning.routes.route import Route
from noria.core.storage.control import SQLiteControl
from noria.core.versions.artefacts import ArtefactStore
from tests.core.learning_world import turn

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
