"""A turn: a better route gets an experiment, a worse one a receipt; missing evidence blocks; a kill changes nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from noria.core.chat import Failure
from noria.core.errors import RunError
from noria.core.experiments.gates import GateConfig, round_alpha
from noria.core.learning.plan import LEASE, TurnConfig, abandon_turn, holding, open_turn, plan_turn
from noria.core.learning.routes.backends import read_route, write_route
from noria.core.learning.turn import STAGES
from noria.core.storage.control import SQLiteControl
from noria.core.versions.artefacts import ArtefactStore
from noria.core.versions.pointers import Pointers

from .learning_world import BAD, NEW, Model, frozen, gate_texts, log, logged_trace, models, replay, turn

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def control(home: Path) -> SQLiteControl:
    return SQLiteControl(home / "control.sqlite")


def switch(home: Path, name: str, value: dict[str, Any]) -> None:
    control(home).write("switch", name, value, based_on=0, by="ann")


async def test_a_better_route_is_kept_with_its_lineage_and_gets_an_experiment(tmp_path: Path) -> None:
    one = turn(tmp_path)
    receipt = await one.run()
    assert (receipt["outcome"], receipt["experiment"]) == ("handed over", "turn-1")
    assert receipt["stages"] == list(STAGES)
    store = ArtefactStore(tmp_path / "store")
    artefact = store.artefact(receipt["artefact"])
    assert read_route(store.path(artefact)) == NEW
    before = store.load_bundle(one.plan.parent).artefacts["route"]
    assert artefact.lineage.parents == (before,)
    assert artefact.lineage.dataset == receipt["data"]["digest"]
    assert artefact.lineage.receipt == receipt["gate"]
    assert artefact.lineage.at == one.plan.at
    document = control(tmp_path).read("experiment", "turn-1")
    assert document is not None
    assert document.value is not None
    assert document.value["stage"] == "shadow"
    assert document.value["reason"].startswith("turn 1 of routes: gain +")
    assert document.value["config"]["champion"] == one.plan.parent
    assert document.value["config"]["challenger"] == receipt["bundle"]
    assert receipt["gate"]["gain"]["effect"] == pytest.approx(
        0.15, abs=0.06
    )  # one item of two is better by .3
    assert (one.folder / "report.html").read_text().count("Handed over") >= 1


async def test_the_gate_sees_no_request_that_the_learner_saw_and_nobody_sees_the_final_ones(
    tmp_path: Path,
) -> None:
    served = models()
    one = turn(tmp_path, served=served)
    receipt = await one.run()
    data = frozen(tmp_path / "again")
    assert data.digest == receipt["data"]["digest"]
    split = {row.view.trace.user: row.example.split for row in data.final() if row.example}  # type: ignore[union-attr]
    assert set(split.values()) == {"final"}
    final = {row.example.messages[0]["content"] for row in data.final() if row.example}
    asked = {request.messages[-1].text for model in served.values() for request in model.asked}
    assert asked
    assert not asked & final
    by_bad = {request.messages[-1].text for request in served["bad"].asked}  # asked by the learner only
    gates = {e.messages[0]["content"] for e in data.examples("gates")}
    assert not by_bad & gates
    assert {r.messages[-1].text for r in served["new"].asked} & gates


async def test_a_worse_route_and_an_equal_one_are_not_proposed(tmp_path: Path) -> None:
    for name, served in (("worse", models()), ("equal", models() | {"bad": Model(0.5)})):
        receipt = await turn(tmp_path / name, routes=[BAD], served=served).run()
        assert receipt["outcome"] == "nothing"
        assert (receipt["gate"], receipt["artefact"]) == (None, None)


async def test_what_pleases_the_learners_judge_alone_is_rejected_by_the_gates(tmp_path: Path) -> None:
    one = turn(tmp_path, routes=[BAD], likes="badly")
    receipt = await one.run()
    assert receipt["outcome"] == "rejected"
    assert receipt["gate"]["gain"]["high"] < 0
    assert receipt["artefact"] is None
    assert len(ArtefactStore(tmp_path / "store").artefacts("route")) == 1
    assert control(tmp_path).read_all("experiment") == []


async def test_one_safety_error_rejects_a_candidate_whatever_it_gains(tmp_path: Path) -> None:
    served = models() | {"new": Model(0.9, unsafe=gate_texts()[0])}
    receipt = await turn(tmp_path, served=served).run()
    against = [rule["name"] for rule in receipt["gate"]["rules"] if rule["outcome"] != "passed"]
    assert (receipt["outcome"], against) == ("rejected", ["hard errors"])
    assert receipt["gate"]["gain"]["low"] > 0


async def test_a_route_that_gives_no_answer_by_its_own_fault_has_a_hard_error(tmp_path: Path) -> None:
    class Garbage(Model):
        async def ask(self, request):  # type: ignore[no-untyped-def]
            outcome = await super().ask(request)
            only = request.messages[-1].text == gate_texts()[0]
            return Failure("garbage", "no JSON") if only else outcome

    receipt = await turn(tmp_path, served=models() | {"new": Garbage(0.9)}).run()
    against = [rule["name"] for rule in receipt["gate"]["rules"] if rule["outcome"] != "passed"]
    assert (receipt["outcome"], against) == ("rejected", ["hard errors"])


async def test_missing_evidence_blocks_before_anything_is_paid(tmp_path: Path) -> None:
    served = models()
    few = [logged_trace(n, score=1.0 if n < 50 else None) for n in range(300)]
    receipt = await turn(tmp_path / "rated", views=few, served=served).run()
    assert receipt["outcome"] == "blocked"
    assert receipt["reason"].startswith("underpowered: 50 rated")
    broken = [
        logged_trace(n, score=None, invalid=True) if n % 3 == 0 else logged_trace(n) for n in range(300)
    ]
    receipt = await turn(tmp_path / "invalid", views=broken, served=served).run()
    assert receipt["reason"].startswith("33.3% of 300 verdicts are invalid")
    receipt = await turn(tmp_path / "groups", views=log(), served=served,
                         config=TurnConfig(gate=GateConfig(least_groups=200))).run()  # fmt: skip
    assert "leakage groups for the gate, 200 needed" in receipt["reason"]
    assert receipt["spent"]["money"] == 0
    assert all(model.asked == [] for model in served.values())


async def test_a_backend_that_is_down_is_missing_evidence_and_no_bad_route(tmp_path: Path) -> None:
    served = models()
    one = turn(tmp_path, served=served)
    one.evaluator = replay(models() | {"old": Model(0.5, failure="timeout")})
    receipt = await one.run()
    assert receipt["outcome"] == "blocked"
    assert "100.0% of items lack a score" in receipt["reason"]


async def test_a_turn_that_would_pass_its_budget_stops_with_a_partial_receipt(tmp_path: Path) -> None:
    served = models()
    one = turn(tmp_path, served=served, config=TurnConfig(money=1.0))
    receipt = await one.run()
    assert (receipt["outcome"], receipt["reason"]) == ("stopped", "its budget of 1 is spent")
    assert receipt["stages"] == list(STAGES[:2])
    assert receipt["spent"]["money"] <= 1.0
    assert sum(len(model.asked) for model in served.values()) * 0.01 <= 1.0 + 1e-9
    assert open_turn(control(tmp_path)) is None
    asked = sum(len(model.asked) for model in served.values())
    assert await one.run() == receipt  # an ended turn only says again how it ended
    assert sum(len(model.asked) for model in served.values()) == asked


async def test_a_turn_ends_when_its_time_is_over(tmp_path: Path) -> None:
    receipt = await turn(tmp_path, config=TurnConfig(seconds=1e-9)).run()
    assert receipt["outcome"] == "stopped"
    assert "its time" in receipt["reason"]
    assert receipt["data"] is None


async def test_switches_are_honoured_and_a_malformed_one_counts_as_off(tmp_path: Path) -> None:
    switch(tmp_path / "a", "experiments", {"on": False})
    receipt = await turn(tmp_path / "a").run()
    assert receipt["outcome"] == "registered"
    assert receipt["bundle"]
    assert control(tmp_path / "a").read("experiment", "turn-1") is None
    for name, value in (("b", {"on": False}), ("c", {"off": True})):
        served = models()
        switch(tmp_path / name, "learning", value)
        receipt = await turn(tmp_path / name, served=served).run()
        assert (receipt["outcome"], receipt["reason"]) == ("stopped", "learning is switched off")
        assert all(model.asked == [] for model in served.values())


async def test_no_experiment_begins_beside_another_or_against_what_does_not_serve(tmp_path: Path) -> None:
    control(tmp_path / "a").write("experiment", "mine", {"stage": "canary"}, based_on=0, by="ann")
    receipt = await turn(tmp_path / "a").run()
    assert (receipt["outcome"], receipt["reason"].partition(";")[0]) == (
        "registered",
        "the experiment mine is open",
    )
    one = turn(tmp_path / "b")
    other = tmp_path / "other"
    write_route(other, BAD)
    moved = one.store.bundle([one.store.add("route", other).digest])
    Pointers(one.control, one.store).promote("champion", moved.digest, based_on=0, by="ann")
    receipt = await one.run()
    assert receipt["reason"].startswith("another bundle serves by now")
    assert receipt["bundle"]
    assert control(tmp_path / "b").read_all("experiment") == []


async def test_learning_that_is_switched_off_stops_a_turn_under_way(tmp_path: Path) -> None:
    served = models()
    one = turn(tmp_path, served=served)

    class Off(Model):
        async def ask(self, request):  # type: ignore[no-untyped-def]
            if len(self.asked) == 5:
                switch(tmp_path, "learning", {"on": False})
            return await super().ask(request)

    off = Off(0.5)
    backends = one.learner.replay.backends  # type: ignore[attr-defined]
    backends["old"] = type(backends["old"])(off, backends["old"].prices)
    assert (await one.run())["reason"] == "learning is switched off"
    assert len(off.asked) <= 6 + 8  # those that were under way


async def test_one_turn_at_a_time(tmp_path: Path) -> None:
    one = turn(tmp_path)
    with (
        holding(control(tmp_path), tmp_path / "elsewhere"),
        pytest.raises(RunError, match="another turn is under way"),
    ):
        await one.run()
    assert plan_turn(control(tmp_path), parent="x", learner="routes", reason="", now=0.0) == one.plan
    assert (await one.run())["outcome"] == "handed over"
    second = plan_turn(control(tmp_path), parent=one.plan.parent, learner="routes", reason="", now=9.0)
    assert (second.number, second.round) == (2, 2)
    assert control(tmp_path).acquire(LEASE, "somebody", seconds=1) is not None


async def test_a_lost_lease_ends_a_turn_without_a_receipt(tmp_path: Path) -> None:
    one = turn(tmp_path)

    class Taken(Model):
        async def ask(self, request):  # type: ignore[no-untyped-def]
            if not self.asked:
                held = control(tmp_path)
                held._database.execute("UPDATE leases SET holder = 'other', token = token + 1")
            import time

            time.sleep(0.01)
            return await super().ask(request)

    import noria.core.learning.turn as module

    backends = one.learner.replay.backends  # type: ignore[attr-defined]
    backends["old"] = type(backends["old"])(Taken(0.5), backends["old"].prices)
    real = module.holding
    module.holding = lambda control, folder: real(control, folder, seconds=0.04)  # type: ignore[assignment]
    try:
        with pytest.raises(RunError, match="another turn took over"):
            await one.run()
    finally:
        module.holding = real
    assert not (one.folder / "receipt.json").exists()


async def test_only_gates_that_decided_spend_alpha(tmp_path: Path) -> None:
    store = control(tmp_path)
    for n in range(3):
        few = [logged_trace(i, score=None) for i in range(10)]
        receipt = await turn(tmp_path, views=few).run()
        assert (receipt["turn"]["number"], receipt["turn"]["round"]) == (n + 1, 1)
    receipt = await turn(tmp_path).run()
    assert receipt["turn"]["number"] == 4
    assert receipt["gate"]["config"]["alpha"] == round_alpha(0.05, 1)
    receipt = await turn(tmp_path).run()
    assert receipt["turn"]["round"] == 2
    assert receipt["gate"]["config"]["alpha"] == round_alpha(0.05, 2)
    assert len(store.read_all("turn")) == 5


async def test_other_settings_are_refused_in_the_folder_of_a_turn(tmp_path: Path) -> None:
    one = turn(tmp_path, config=TurnConfig(seconds=1e-9))
    await one.run()
    one.config = TurnConfig(least_rated=99)
    with pytest.raises(RunError, match="was made with"):
        await one.run()
    other = turn(tmp_path / "b", config=TurnConfig(seconds=1e-9))
    await other.run()
    other.evaluator = replay(models(), likes="badly", most_items=3)
    with pytest.raises(RunError, match=r"evaluator.config.most_items=400"):
        await other.run()


async def test_the_learner_sees_failures_of_its_own_split_only(tmp_path: Path) -> None:
    one = turn(tmp_path)
    seen: list[str] = []
    propose = type(one.learner).propose

    async def listening(self: Any, data: Any, parent: Any, run: Any) -> Any:
        seen.extend(failure.trace for failure in run.failures)
        return await propose(self, data, parent, run)

    type(one.learner).propose = listening  # type: ignore[assignment, method-assign]
    try:
        await one.run()
    finally:
        type(one.learner).propose = propose  # type: ignore[method-assign]
    rows = frozen(tmp_path / "again").rows("train")
    learnt = {row.view.trace.id: row.example.score for row in rows if row.example}
    assert set(seen) == {trace for trace, score in learnt.items() if score == 0.0}


async def test_a_stage_that_is_there_is_not_done_again(tmp_path: Path) -> None:
    one = turn(tmp_path)
    compare = one.evaluator.compare
    one.evaluator.__dict__["compare"] = None
    with pytest.raises(TypeError):
        await one.run()
    one.evaluator.__dict__["compare"] = compare
    asked = [len(backend.model.asked) for backend in one.learner.replay.backends.values()]  # type: ignore[attr-defined]
    one.views = lambda: pytest.fail("the data was frozen already")
    one.learner.__dict__["propose"] = None
    assert (await one.run())["outcome"] == "handed over"
    assert sum(asked) > 0


async def test_a_rule_of_the_evaluator_must_pass_too(tmp_path: Path) -> None:
    one = turn(tmp_path)
    one.evaluator = replay(models(), most_cost_ratio=0.5)
    receipt = await one.run()
    against = [rule["name"] for rule in receipt["gate"]["rules"] if rule["outcome"] != "passed"]
    assert (receipt["outcome"], against) == ("rejected", ["cost"])


async def test_a_turn_that_cannot_resume_is_ended_by_hand(tmp_path: Path) -> None:
    class Fails(Model):
        async def ask(self, request):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError("a fault of the program")

    one = turn(tmp_path, served=models() | {"old": Fails(0.5)})
    with pytest.raises(ZeroDivisionError):
        await one.run()
    assert open_turn(control(tmp_path)) == one.plan
    abandon_turn(control(tmp_path), one.plan, by="ann", reason="the learner is broken")
    assert (await one.run())["reason"] == "the learner is broken"
    document = control(tmp_path).read("turn", "000001")
    assert document is not None
    assert document.value is not None
    assert document.value["reason"] == "the learner is broken"  # what was said by hand stays
    with pytest.raises(RunError, match="no such turn"):
        abandon_turn(control(tmp_path), one.plan, by="ann", reason="again")
    second = turn(tmp_path)
    assert (second.plan.number, second.plan.round) == (2, 1)
    assert (await second.run())["outcome"] == "handed over"


def results(folder: Path) -> dict[str, str]:
    """Digests of all results of a turn: its page, which says when it was made, its lock and its purse left out."""
    left_out = {"report.html", ".lock", "paid.sqlite", "paid.sqlite-wal", "paid.sqlite-shm", "spent.json"}
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


SLOW = (pytest.mark.slow, pytest.mark.timeout(600))


@pytest.mark.parametrize("kills", [pytest.param(9, id="few"), pytest.param(40, id="many", marks=SLOW)])
def test_a_turn_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, "-m", "tests.core.killed_turn", tmp_path, str(kills)]
    root = Path(__file__).parents[
        2
    ]  # in which `-m` finds `tests`; installed packages bring a folder of that name
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["killed"] >= kills - 1
    whole = results(tmp_path / "whole" / "turns" / "000001")
    assert "receipt.json" in whole
    assert {"3-propose/result.json", "1-freeze/dataset.json"} <= whole.keys()
    for home in sorted(tmp_path.glob("killed-*")):
        assert results(home / "turns" / "000001") == whole, home.name
        documents = control(home)
        assert [d.value["state"] for d in documents.read_all("turn") if d.value] == ["handed over"]
        assert len(documents.history("experiment", "turn-1")) == 1
        assert sorted(p.name for p in (home / "store" / "artefacts").iterdir()) == sorted(
            p.name for p in (tmp_path / "whole" / "store" / "artefacts").iterdir()
        )
    assert report["asked_again"] <= 8 * report["killed"]  # what was under way, and nothing that was paid
