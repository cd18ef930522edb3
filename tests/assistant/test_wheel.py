"""The wheel turns once: traffic is judged, a turn proposes and gates another route, an experiment promotes it."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.companion.turns import Turns
from noria.assistant.config import AssistantConfig
from noria.core.learning.plan import open_turn
from noria.core.learning.scheduling.schedule import Due
from noria.core.storage.control import SQLiteControl
from noria.core.traces.index.index import TraceIndex
from tests.assistant.gateways import Gateway, gateway_process, settings
from tests.assistant.test_companion import judge_or_echo
from tests.assistant.test_gateway import stage
from tests.chat_server import chat_server

WORDS = ["boats", "cats", "rain", "gold", "tea", "snow", "iron", "figs", "owls", "wool", "salt", "maps"]
LOOP: dict[str, Any] = {
    "judging": {
        "checklist": [
            {"id": "clear", "question": "Is it clear?"},
            {"id": "rude", "question": "Is it rude?", "good": "no"},
        ],
        "backends": ["m"],
        "share": 1.0,
    },
    "learning": {
        "judge": "m",
        "gate_judge": "n",
        "least_rated": 40,
        "experiment": {
            "shadow_requests": 0,
            "canary_units": 0,
            "planned": 400,
            "least": 30,
            "primary": "score",
        },
    },
    "promote": "auto",
}


def wheel(url: str, **learning: Any) -> dict[str, Any]:
    """Settings of a gateway that learns, whose gate has another judge than its learner."""
    server = settings(url)["backends"]["m"]
    backends = {name: server | {"model": name} for name in ("m", "n")}
    return LOOP | {"backends": backends, "learning": LOOP["learning"] | learning}


def learn(folder: Path, *more: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "noria.cli", "assistant", "learn"]
    config = ["--config", str(folder.parent / "noria.yaml"), "--folder", str(folder)]
    done = subprocess.run([*command, *config, *more], capture_output=True, text=True, timeout=170)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def traffic(one: Gateway, first: int, number: int) -> list[str]:
    def ask(n: int) -> str:
        unlike = hashlib.sha256(str(n).encode()).hexdigest()  # near duplicates would be one leakage group
        words = f"{WORDS[n % 12]} {WORDS[n // 12 % 12]} {unlike[:8]} {unlike[8:16]} {unlike[16:24]}"
        return str(one.ask(f"Tell me of {words}.", user=f"user {n}")["id"])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, range(first, first + number)))


@pytest.mark.slow
def test_from_traffic_to_a_promotion(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with (
        chat_server(judge_or_echo) as backend,
        gateway_process(folder, backend.url, companion=True, **wheel(backend.url)) as process,
    ):
        one = Gateway(process.url, folder, backend)
        assert "underpowered" in learn(folder, "-m", "too early"), "without rated traces there is no evidence"
        traces = traffic(one, 0, 240)
        deadline = time.monotonic() + 60
        while not all(len(one.trace(name)["judgements"]) == 2 for name in traces[-5:]):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        said = learn(folder, "-m", "the first real one")
        assert "handed over" in said, said
        receipt = json.loads((folder / "turns" / "000002" / "receipt.json").read_text())
        assert receipt["gate"]["accepted"]
        assert (folder / "turns" / "000002" / "report.html").read_text().startswith("<!doctype html>")
        assert one.call("/v1/champion")[1]["present"]["version"] == 1, "a turn promotes nothing"
        name = receipt["experiment"]
        stage(one, name, "ab")
        time.sleep(0.7)
        for batch in range(4):
            traffic(one, 1000 + 60 * batch, 60)
        found = stage(one, name, "promoted", seconds=60)
        assert found["reading"]["interval"]["low"] > 0
        present = one.call("/v1/champion")[1]["present"]
        assert present["bundle"] == receipt["bundle"]
        time.sleep(0.7)  # the gateway takes it over at its next look
        assert one.ask("x")["choices"][0]["message"]["content"].startswith("kind|")


@pytest.mark.slow
def test_a_turn_starts_by_itself_when_enough_was_judged(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    schedule = {"judged": 100, "pause": 0}
    with (
        chat_server(judge_or_echo) as backend,
        gateway_process(
            folder,
            backend.url,
            companion=True,
            **(loop := wheel(backend.url, schedule=schedule) | {"promote": "ask"}),
        ) as process,
    ):
        one = Gateway(process.url, folder, backend)
        traffic(one, 0, 240)
        receipt = folder / "turns" / "000001" / "receipt.json"
        deadline = time.monotonic() + 90
        while not receipt.exists():
            assert time.monotonic() < deadline, (folder / "turns" / "log.txt").read_text()
            time.sleep(0.5)
        control = SQLiteControl(folder / "control.sqlite")
        while open_turn(control) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        values = json.loads(receipt.read_text())
        assert values["outcome"] == "handed over", values["reason"]
        (document,) = control.read_all("turn")
        assert document.value is not None
        plan = document.value["plan"]
        assert plan["by"] == "schedule"
        assert plan["reason"].startswith("volume: ")
        stage(one, values["experiment"], "ab")
        config = AssistantConfig.model_validate(settings(backend.url, **loop))
        turns, index = Turns(folder, config, control, print), TraceIndex(folder / "index.sqlite")
        assert turns.due(index).reason == "0 of 100 judged traces"
        for name in traffic(one, 1000, 120):
            last = name
        while not one.trace(last)["judgements"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1.5)  # the companion indexes it at its next look
        assert turns.due(index) == Due("wait", f"the experiment {values['experiment']} is open")
        one.call(f"/v1/experiments/{values['experiment']}/stop", {"reason": "enough"})
        assert turns.due(index).action == "start"
        one.call("/v1/switches/learning", {"on": False}, method="PUT")
        assert turns.due(index) == Due("wait", "learning is switched off")
        index.close()
        control.close()
        assert process.stop() == 0


def test_a_turn_needs_a_judge_and_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write = (tmp_path / "noria.yaml").write_text
    write(json.dumps(settings("http://127.0.0.1:9/v1")))
    assert "a gate needs a judge and a checklist" in learn(folder, code=2)
    write(json.dumps(settings("http://127.0.0.1:9/v1", learning={"gate_judge": "nobody"})))
    assert "there is no backend 'nobody'" in learn(folder, code=2)
    for judge in (None, "n"):
        write(json.dumps(settings("http://127.0.0.1:9/v1", **wheel("http://127.0.0.1:9/v1", judge=judge))))
        assert "the learner needs a judge of its own beside the gate's" in learn(folder, code=2)
    write(json.dumps(settings("http://127.0.0.1:9/v1", **wheel("http://127.0.0.1:9/v1"))))
    assert "there is no journal" in learn(folder, code=2)
    assert not (folder / "turns").exists()


def test_learning_that_is_switched_off_starts_nothing(tmp_path: Path) -> None:
    from tests.assistant.gateways import gateway

    folder = tmp_path / "data"
    with gateway(folder) as one:
        url = one.backend.url
        (tmp_path / "noria.yaml").write_text(json.dumps(settings(url, **wheel(url))))
        one.ask("x")
        one.call("/v1/switches/learning", {"on": False}, method="PUT")
        assert "learning is switched off" in learn(folder)
        control = SQLiteControl(folder / "control.sqlite")
        assert [d.value["state"] for d in control.read_all("turn") if d.value] == ["stopped"]
        control.close()


def test_the_level_of_a_gate_cannot_be_set_beside_the_turns_own() -> None:
    values = settings("http://127.0.0.1:9")
    gate = AssistantConfig.model_validate(values | {"learning": {"gate": {"tolerance": 0.1}}}).learning.gate
    assert gate.tolerance == 0.1
    with pytest.raises(ValueError, match=r"leave gate\.alpha out"):
        AssistantConfig.model_validate(values | {"learning": {"gate": {"alpha": 0.2}}})
