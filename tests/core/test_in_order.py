"""Several learners in a turn: the first with a candidate proposes, by its own gate, and what was rejected stays so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.core.errors import ConfigError
from noria.core.experiments.gates import GateConfig, PairedScores
from noria.core.learning.in_order import InOrder, Way
from noria.core.learning.learner import Candidate, Comparison, Gate
from noria.core.learning.plan import EXPERIMENT, TurnConfig, plan_turn, rejected_candidates
from noria.core.learning.turn import Turn
from noria.core.storage.control import SQLiteControl
from noria.core.versions.artefacts import ArtefactStore
from tests.core.learning_world import bundle, log


@dataclass
class Fixed:
    """A learner of files with a fixed text, and the evaluator that gives its candidates a fixed gain."""

    name: str
    text: str | None
    gain: float = 1.0
    gate: Gate = "improvement"
    asked: list[Path] = field(default_factory=list)

    def settings(self) -> Mapping[str, Any]:
        return {"text": self.text}

    async def propose(self, data: Any, parent: Any, run: Any) -> Candidate | None:
        self.asked.append(run.folder)
        if self.text is None:
            run.reasons.append("there is no evidence")
            return None
        folder = run.folder / "made"
        folder.mkdir(exist_ok=True)
        (folder / "file").write_text(self.text)
        return Candidate(f"kind-{self.name.replace(' ', '-')}", folder)

    async def compare(self, rows: Any, parent: Any, candidate: Candidate, run: Any) -> Comparison:
        assert (candidate.folder / "file").read_text() == self.text
        names = [row.view.trace.id for row in rows]
        zeros = np.zeros(len(names))
        groups = [row.example.group for row in rows]
        return Comparison(PairedScores(names, groups, zeros, zeros + self.gain))


def turned(home: Path, *learners: Fixed) -> dict[str, Any]:
    if (home / "parent").exists():  # the turn after another one
        store, parent = ArtefactStore(home / "store"), (home / "parent").read_text()
    else:
        store, parent = bundle(home)
        (home / "parent").write_text(parent)
    control = SQLiteControl(home / "control.sqlite")
    both = InOrder([Way(one, one, {"planned": 77}) for one in learners], rejected_candidates(control, parent))
    plan = plan_turn(control, parent=parent, learner=both.name, reason="test", now=1.0)
    settings = TurnConfig(least_rated=1, gate=GateConfig(least_groups=5))
    turn = Turn(
        home / f"turn-{plan.number}", plan, settings, learner=both, evaluator=both, store=store, control=control,
        views=lambda: log(120),
    )  # fmt: skip
    receipt = asyncio.run(turn.run())
    control.close()
    return receipt


def test_the_first_with_a_candidate_proposes_and_each_works_in_a_folder_of_its_own(tmp_path: Path) -> None:
    first, second, third = Fixed("first", None), Fixed("second one", "b"), Fixed("third", "c")
    receipt = turned(tmp_path, first, second, third)
    assert receipt["outcome"] == "handed over", receipt["reason"]
    assert receipt["candidate"]["by"] == "second one"
    assert receipt["candidate"]["notes"]["asked before"] == ["first: there is no evidence"]
    assert [one.name for one in (*first.asked, *second.asked)] == ["first", "second-one"]
    assert third.asked == []
    control = SQLiteControl(tmp_path / "control.sqlite")
    (document,) = control.read_all(EXPERIMENT)
    assert document.value is not None
    assert document.value["config"]["planned"] == 77, "the way's settings of the experiment"
    control.close()


def test_what_a_gate_rejected_is_not_proposed_again_and_the_next_one_has_its_turn(tmp_path: Path) -> None:
    bad, good = Fixed("bad", "a", gain=-1.0), Fixed("good", "b")
    assert turned(tmp_path, bad, good)["outcome"] == "rejected"
    receipt = turned(tmp_path, bad, good)
    assert receipt["candidate"]["by"] == "good"
    assert receipt["candidate"]["notes"]["asked before"] == ["bad: its candidate was rejected before"]


def test_what_lost_its_experiment_is_not_proposed_again(tmp_path: Path) -> None:
    one = Fixed("one", "a")
    receipt = turned(tmp_path, one)
    control = SQLiteControl(tmp_path / "control.sqlite")
    (document,) = control.read_all(EXPERIMENT)
    value = {**(document.value or {}), "stage": "rolled back"}
    control.write(EXPERIMENT, document.key, value, based_on=document.version, by="test")
    assert rejected_candidates(control, receipt["turn"]["parent"]) == {receipt["candidate"]["digest"]}
    assert rejected_candidates(control, "another parent") == set()
    control.close()
    again = turned(tmp_path, one)
    assert (again["outcome"], again["reason"]) == ("nothing", "one: its candidate was rejected before")


def test_each_candidate_has_the_gate_of_its_learner(tmp_path: Path) -> None:
    equal = Fixed("equal", "a", gain=0.0, gate="equivalence")
    receipt = turned(tmp_path / "a", equal)
    assert receipt["gate"]["gate"] == "equivalence"
    assert receipt["gate"]["accepted"]
    not_worse = Fixed("not worse", "a", gain=-0.01, gate="noninferiority")
    receipt = turned(tmp_path / "b", Fixed("none", None), not_worse)
    assert receipt["gate"]["gate"] == "noninferiority"
    assert receipt["gate"]["accepted"]
    worse = Fixed("worse", "a", gain=-0.05, gate="noninferiority")
    assert turned(tmp_path / "c", worse)["outcome"] == "rejected"


def test_two_learners_of_one_name_or_none_are_refused() -> None:
    one = Fixed("one", "a")
    with pytest.raises(ConfigError, match="different names"):
        InOrder([Way(one, one), Way(one, one)])
    with pytest.raises(ConfigError, match="different names"):
        InOrder([])
