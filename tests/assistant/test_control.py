"""What serves follows the control state, also where it cannot be read or another process wrote it."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.companion.companion import Companion
from noria.assistant.config import AssistantConfig
from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, Bundles
from noria.core.errors import ConfigError
from noria.core.storage.control import Document, SQLiteControl
from noria.core.traces.index.index import TraceIndex
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import Gateway, gateway, settings
from tests.assistant.pages import page_gateway
from tests.assistant.test_gateway import WISH
from tests.assistant.test_page import Person
from tests.waiting import until


@contextmanager
def beside(folder: Path, url: str = "http://127.0.0.1:9/v1") -> Iterator[Bundles]:
    """The bundles of a gateway as another process sees them."""
    control = SQLiteControl(folder / "control.sqlite")
    config = AssistantConfig.model_validate(settings(url))
    bundles = Bundles(control, ArtefactStore(folder / "versions"), config)
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
    with gateway(tmp_path / "data") as one, beside(one.folder, one.backend.url) as bundles:
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

    with gateway(tmp_path / "data") as one, beside(one.folder, one.backend.url) as bundles:
        monkeypatch.setattr(TraceIndex, "follow", fail)
        until(lambda: tried)
        promote(bundles, "kind")
        until(lambda: says(one) == "kind")


def test_of_two_experiments_that_start_at_once_one_is_refused_by_the_name_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_looked = threading.Barrier(2)
    read_all = SQLiteControl.read_all

    def looked(control: SQLiteControl, kind: str) -> list[Document]:
        seen = read_all(control, kind)
        with suppress(threading.BrokenBarrierError):
            both_looked.wait(1)
        return seen

    with beside(tmp_path) as here, beside(tmp_path) as there:
        monkeypatch.setattr(SQLiteControl, "read_all", looked)

        def start(bundles: Bundles, name: str) -> str:
            try:
                return bundles.start(WISH | {"name": name}, by=name).name
            except ConfigError as refused:
                return str(refused)

        with ThreadPoolExecutor(2) as pool:
            said = set(pool.map(start, (here, there), ("one", "two")))
        (won,) = read_all(here.control, EXPERIMENT)
        assert said == {won.key, f"experiment: the experiment {won.key} is open; stop it first"}


def test_a_control_state_that_cannot_be_reached_is_said_in_a_line_and_on_a_page(tmp_path: Path) -> None:
    with page_gateway(tmp_path / "data") as (one, page):
        ann = Person(one.url)
        ann.ask("say before")
        page.room.state.control.close()
        for path, method, content in (
            ("/v1/switches/learning", "PUT", {"on": False}),
            ("/v1/promote", "POST", {"bundle": "kind", "based_on": 1}),
            ("/v1/experiments", "POST", WISH),
            ("/v1/experiments", "GET", None),
        ):
            status, answer = one.call(path, content, method=method)
            assert (status, answer["error"]["code"]) == (503, "unavailable"), path
            assert "sqlite" not in str(answer)
        for path in ("", "/conversations", "/account", "/data"):
            status, body, headers = ann.get(path)
            assert (status, headers["content-type"]) == (503, "text/html; charset=utf-8")
            assert page.room.text("unable") in body.decode()
            assert "set-cookie" not in headers, "who visits stays who it was"
        status, body, _ = ann.get("/conversations", **{"x-part": "1"})
        assert (status, json.loads(body)) == (503, {"said": page.room.text("unable")})
        assert one.ask("x")["choices"], "who asks is answered all the same"
