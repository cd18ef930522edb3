"""The companion: killed at any moment it is started again, and decides as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.companion.companion import POINTS, Companion, with_point
from noria.assistant.companion.readings import read_experiment
from noria.assistant.config import AssistantConfig
from noria.core.experiments.lifecycle import ExperimentConfig
from noria.core.storage.control import SQLiteControl
from noria.core.traces.index.index import TraceIndex
from tests.assistant.gateways import Gateway, echo, gateway, gateway_process, settings
from tests.assistant.test_gateway import WISH, stage, users
from tests.chat_server import Body, Reply, chat_server


def companions(folder: Path) -> list[int]:
    """Processes of the companions of a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"noria.assistant.companion.companion" in words and str(folder).encode() in words:
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
            deadline = time.monotonic() + 60
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


JUDGING = {
    "checklist": [
        {"id": "clear", "question": "Is it clear?"},
        {"id": "rude", "question": "Is it rude?", "good": "no"},
    ],
    "backends": ["m"],
    "share": 1.0,
}


def judge_or_echo(body: Body, number: int) -> Reply:
    """A backend that answers, and judges what it answered: `kind` is clear, `brief` is not."""
    text = str(body["messages"][-1]["content"])
    if "Questions:" not in text:
        return echo(body, number)
    if "prose" in text:
        return Reply("I find it quite nice.")
    return Reply(
        json.dumps(
            {
                "answers": [
                    {"number": 1, "answer": "yes" if "kind|" in text else "no"},
                    {"number": 2, "answer": "no"},
                ]
            }
        )
    )


def judgements(one: Gateway, trace: str, number: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    while True:
        found = one.trace(trace)["judgements"]
        if len(found) >= number:
            return list(found)
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_every_answer_is_judged_by_rules_and_a_share_by_models(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", judge_or_echo, companion=True, judging=JUDGING) as one:
        brief, kind, odd = one.ask("x")["id"], one.ask("x", model="kind")["id"], one.ask("prose")["id"]
        by_path = {record["path"]: record for record in judgements(one, brief, 2)}
        assert {verdict["value"] for verdict in by_path["rule"]["verdicts"]} == {"yes"}
        assert by_path["rule"].get("score") is None, "rules say what is broken, not how good it is"
        assert by_path["judge"]["score"] == 0.5
        assert by_path["judge"]["cost"] == pytest.approx(20e-6)
        scores = [record.get("score") for record in judgements(one, kind, 2)]
        assert 1.0 in scores
        invalid = next(record for record in judgements(one, odd, 2) if record["path"] == "judge")
        assert [verdict["value"] for verdict in invalid["verdicts"]] == ["invalid", "invalid"]
        assert invalid.get("score") is None, "what cannot be read is no score"
        time.sleep(1.5)
        row = next(row for row in one.call("/v1/traces")[1]["data"] if row["id"] == kind)
        assert row["score"] == 1.0


def test_the_judges_money_of_a_day_holds(tmp_path: Path) -> None:
    judging = JUDGING | {"budget_per_day": 0.0005, "most_cost": 0.0002}
    with gateway(tmp_path / "data", judge_or_echo, companion=True, judging=judging) as one:
        traces = [one.ask(f"q{n}")["id"] for n in range(40)]
        judgements(one, traces[-1], 1)
        time.sleep(1.0)
        records = [record for trace in traces for record in one.trace(trace)["judgements"]]
        paid = sum(record.get("cost") or 0.0 for record in records)
        assert 0 < paid <= 0.0005
        assert sum(record["path"] == "rule" for record in records) == 40
        assert sum(record["path"] == "judge" for record in records) < 40


@pytest.mark.slow
def test_a_companion_that_is_killed_judges_each_answer_once(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with (
        chat_server(judge_or_echo) as backend,
        gateway_process(folder, backend.url, companion=True, judging=JUDGING) as process,
    ):
        one, killed, traces = Gateway(process.url, folder, backend), set(), []
        for _ in range(3):
            deadline = time.monotonic() + 60
            while not (alive := set(companions(folder)) - killed):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            traces += [one.ask(f"q{len(traces) + n}")["id"] for n in range(30)]
            time.sleep(0.4)
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        judgements(one, traces[-1], 2)
        for trace in traces:
            records = judgements(one, trace, 2)
            assert len({record["id"] for record in records}) == len(records) == 2
