"""What serves follows the control state, also where it cannot be read or another process wrote it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.companion.companion import Companion
from noria.assistant.config import AssistantConfig
from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, Bundles
from noria.core.storage.control import SQLiteControl
from noria.core.traces.index.index import TraceIndex
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import Gateway, gateway, settings
from tests.assistant.test_gateway import WISH
from tests.waiting import until


@contextmanager
def beside(one: Gateway) -> Iterator[Bundles]:
    """The bundles of a gateway as another process sees them."""
    control = SQLiteControl(one.folder / "control.sqlite")
    config = AssistantConfig.model_validate(settings(one.backend.url))
    bundles = Bundles(control, ArtefactStore(one.folder / "versions"), config)
    bundles.begin()
    try:
        yield bundles
    finally:
        control.close()


def says(one: Gateway) -> str:
    """The route that answers."""
    text: str = one.ask("x")["choices"][0]["message"]["content"]
    return text.partition("|")[0]


def promote(bundles: Bundles, name: str) -> None:
    """Let a route serve."""
    move = bundles.pointers.present(CHAMPION)
    assert move is not None
    bundles.move(bundles.named[name], based_on=move.version, by="another process", reason="")


def change(bundles: Bundles, **changes: Any) -> None:
    """Change the settings of the experiment."""
    (document,) = bundles.control.read_all(EXPERIMENT)
    assert document.value is not None
    value = document.value | {"config": document.value["config"] | changes}
    bundles.control.write(EXPERIMENT, document.key, value, based_on=document.version, by="a later version")


@pytest.mark.parametrize(
    "changes", [{"of_a_later_version": 1}, {"challenger": "0" * 64}], ids=["field", "bundle"]
)
def test_an_experiment_that_cannot_be_read_stops_neither_gateway_nor_companion(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    with gateway(tmp_path / "data") as one, beside(one) as bundles:
        assert one.call("/v1/experiments", WISH)[0] == 201
        change(bundles, **changes)
        assert bundles.serving().experiments == ()
        promote(bundles, "kind")
        until(lambda: says(one) == "kind")
        promote(bundles, "brief")
        until(lambda: says(one) == "brief")
        companion = Companion(one.folder, bundles.config)
        companion.look()
        companion.close()
        assert one.raw("/experiments")[0] == one.raw("/")[0] == 200
        assert one.call("/v1/experiments/kindness/stop", {})[0] == 200
    said = [line for line in caplog.messages if "kindness is left out here" in line]
    assert 1 <= len(said) <= 3, "once of each of those who read it"


def test_an_index_that_fails_does_not_keep_what_serves_from_following(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail(*_: Any) -> int:
        tried.append(1)
        raise sqlite3.OperationalError("database disk image is malformed")

    with gateway(tmp_path / "data") as one, beside(one) as bundles:
        monkeypatch.setattr(TraceIndex, "follow", fail)
        until(lambda: tried)
        promote(bundles, "kind")
        until(lambda: says(one) == "kind")
