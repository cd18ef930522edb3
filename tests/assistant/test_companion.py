"""The companion: killed at any moment it is started again, and decides as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from noria.assistant.service.companion import POINTS, Companion, with_point
from noria.assistant.service.config import AssistantConfig
from noria.assistant.service.readings import read_experiment
from noria.core.experiments.lifecycle import ExperimentConfig
from noria.core.storage.control import SQLiteControl
from noria.core.traces.index import TraceIndex
from tests.assistant.gateways import Gateway, echo, gateway, gateway_process, settings
from tests.assistant.test_gateway import WISH, stage, users
from tests.chat_server import chat_server


def companions(folder: Path) -> list[int]:
    """Processes of the companions of a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"noria.assistant.service.companion" in words and str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_killed_again_and_again_it_decides_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with (
        chat_server(echo) as backend,
        gateway_process(folder, backend.url, companion=True, promote="auto") as process,
    ):
        one = Gateway(process.url, folder, backend)
        one.call("/v1/experiments", WISH)
        stage(one, "kindness", "ab")
        time.sleep(0.7)  # the gateway takes the stage over
        killed = set()
        for number in range(4):
            deadline = time.monotonic() + 30
            while not (alive := set(companions(folder)) - killed):
                assert time.monotonic() < deadline, "it was not started again"
                time.sleep(0.1)
            users_before = number * 40
            for name in range(users_before, users_before + 40):
                answer = one.ask("x", user=f"user {name}")
                route = answer["choices"][0]["message"]["content"].partition("|")[0]
                value = float(name % 10 < (9 if route == "kind" else 2))
                one.call("/v1/feedback", {"target": answer["id"], "value": value, "client_key": "1"})
            if number < 3:
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        found = stage(one, "kindness", "promoted", seconds=60)
        assert found["reading"]["interval"]["low"] > 0
        assert one.call("/v1/champion")[1]["present"]["version"] == 2, "promoted once"
        assert process.stop() == 0
    assert companions(folder) == [], "it ends with its gateway"


def test_an_index_that_was_lost_is_made_again_and_says_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with gateway(folder) as one:
        started = ExperimentConfig.model_validate(one.call("/v1/experiments", WISH)[1]["experiment"])
        users(one, 40, rate=lambda route, name: float(name % 2))
        companion = Companion(folder, AssistantConfig.model_validate(settings(one.backend.url)))
        companion.index.follow(folder)
        before = read_experiment(companion.index, started, "ab", 0)
        companion.close()
        (folder / "index.sqlite").write_bytes(b"no database at all")
        for suffix in ("-wal", "-shm"):
            (folder / f"index.sqlite{suffix}").unlink(missing_ok=True)
        index = TraceIndex(folder / "index.sqlite")
        assert index.follow(folder) == 80
        assert read_experiment(index, started, "ab", 0) == before
        assert sum(before.assigned.values()) == sum(before.units.values()) == 40
        index.close()


def test_an_operators_stop_beats_a_decision_that_was_under_way(tmp_path: Path) -> None:
    """The companion writes on the version that it has read: what changed meanwhile is read anew."""
    folder = tmp_path / "data"
    with gateway(folder) as one:
        one.call("/v1/experiments", WISH)
        companion = Companion(folder, AssistantConfig.model_validate(settings(one.backend.url)))
        document = companion.control.read("experiment", "kindness")
        assert document is not None
        one.call("/v1/experiments/kindness/stop", {"reason": "enough"})
        other = SQLiteControl(folder / "control.sqlite")
        companion.look()
        last = other.read("experiment", "kindness")
        assert last is not None
        assert last.value is not None
        assert (last.value["stage"], last.value["reason"]) == ("stopped", "enough")
        other.close()
        companion.close()


def test_points_over_time_are_bounded_and_keep_the_ends() -> None:
    points: list[list[float]] = []
    for units in range(1, 1000):
        record = {
            "units": {"champion": units, "challenger": units},
            "interval": {"effect": 0.1, "low": 0.0, "high": 0.2},
        }
        points = with_point(points, record)
        assert with_point(points, record) == points, "the same reading again is no new point"
        assert len(points) <= POINTS
    assert points[-1][0] >= 2 * 990
    assert json.dumps(points)
    unknown = {"units": {"champion": 0}, "interval": {"effect": None, "low": None, "high": None}}
    assert with_point([], unknown) == []
