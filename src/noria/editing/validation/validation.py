"""Validation of a checklist before anything trains on it: null test, positive control, negation flip, mutation testing.

The null test needs nothing but the source: an unedited picture must fail every change item and pass every keep item.
The positive control takes the reference as the plan, which must pass every cognitive item. An item whose negation
gets the same answer is answered without being read. An item that never flips, whatever is wrong, tells nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image as Picture

from noria.core.judging.items import Checklist, Verdict
from noria.editing.checklists.items import EditItem, items_of
from noria.editing.data.pictures import Scene
from noria.editing.data.tasks import Task
from noria.editing.environment.judges import AtomicJudges, PathJudgement
from noria.editing.safety import negated
from noria.editing.synthesis.checklists import fault
from noria.editing.validation.mutation import mutant_pictures, mutant_plans

UNTESTED = "not tested: no verdict of its tests is valid"
"""Why an item is dropped whose tests the judge failed on."""
NOTHING = "Change nothing. Leave every part of the picture exactly as it is."
"""Plan of the null test."""


@dataclass
class ItemReport:
    """Results of the validation tests of one item.

    Attributes:
        id: id of the item.
        null, positive, negation: whether it passed; None where the test does not apply or had no valid verdict.
        flips, tried: mutants on which it turned from good to bad, and those on which it had a valid verdict.
        applied: tests that apply to it, all mutants together as one.
        why: why it is dropped, by the first test that it failed; empty where it is kept.
    """

    id: str
    null: bool | None = None
    positive: bool | None = None
    negation: bool | None = None
    flips: int = 0
    tried: int = 0
    applied: int = 0
    why: str = ""

    @property
    def tested(self) -> bool:
        """Whether a test that applies had a valid verdict, or none applies."""
        known = (self.null, self.positive, self.negation)
        return not self.applied or self.tried > 0 or any(one is not None for one in known)


@dataclass(frozen=True)
class ValidationResult:
    """A validated checklist.

    Attributes:
        task: id of the task.
        checklist: items that are kept.
        items: report of every item, in order.
        killed, mutants: mutants that at least one kept item saw, and all, by path.
        invalid, asked: verdicts that were invalid, and all.
    """

    task: str
    checklist: Checklist
    items: tuple[ItemReport, ...]
    killed: Mapping[str, int] = field(default_factory=dict)
    mutants: Mapping[str, int] = field(default_factory=dict)
    invalid: int = 0
    asked: int = 0

    def kill_rate(self, path: str) -> float | None:
        """Share of a path's mutants that the checklist sees; None where there is no mutant."""
        return self.killed.get(path, 0) / self.mutants[path] if self.mutants.get(path) else None

    @property
    def invalid_share(self) -> float:
        """Share of the verdicts that were invalid; 0 where none was asked."""
        return self.invalid / self.asked if self.asked else 0.0

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "id": self.task,
            "kept": len(self.checklist),
            "items": [vars(one) for one in self.items],
            "kill_rate": {path: self.kill_rate(path) for path in self.mutants},
            "invalid": self.invalid,
            "asked": self.asked,
        }


async def validate(
    task: Task,
    scene: Scene,
    judges: AtomicJudges,
    *,
    right: Picture | None = None,
    others: Sequence[Picture] = (),
    mutate: bool = True,
) -> ValidationResult:
    """Test every item of a task's checklist, and keep those that pass; one that no verdict tested is dropped.

    Args:
        task: task with its checklist; without a reference there is neither positive control nor mutant plan.
        scene: pictures of the task.
        judges: judges that will reward the planner, so that an item is tested with the judge that answers it.
        right: a right result, such as a render of the reference that was looked at; without one, the mutants of the
            picture are the source's, and only keep items can see them.
        others: results of other tasks.
        mutate: whether mutants are judged: one judgement a mutant and path.
    """
    return await _Validation(task, scene, judges, right, others, mutate).run()


class _Validation:
    """The tests of one checklist, and what they have found so far."""

    def __init__(
        self,
        task: Task,
        scene: Scene,
        judges: AtomicJudges,
        right: Picture | None,
        others: Sequence[Picture],
        mutate: bool,
    ) -> None:
        self.task, self.scene, self.judges = task, scene, judges
        self.right, self.others, self.mutate = right, others, mutate
        self.items = items_of(task.checklist, canaries=False)
        self.reports = {item.id: ItemReport(item.id, why=fault(item, task.reference)) for item in self.items}
        self.invalid = self.asked = 0

    async def run(self) -> ValidationResult:
        plain, turned = await asyncio.gather(self._null(False), self._null(True))
        base = dict(plain)
        if self.task.reference is not None:
            base |= await self._values(self.task.reference.text, None)
        if self.right is not None:
            base |= await self._values(None, self.right)
        for item in self.items:
            self._judge_null(item, plain.get(item.id))
            self._judge_negation(item, plain.get(item.id), turned.get(f"{item.id}~not"))
            knows = self.task.reference if item.path == "cognitive" else self.right
            if knows is not None:
                self._judge_positive(item, base.get(item.id))
        killed, mutants = await self._mutants(base) if self.mutate else ({}, {})
        for report in self.reports.values():
            report.why = report.why or ("" if report.tested else UNTESTED)
        kept = tuple(item for item in self.items if not self.reports[item.id].why)
        return ValidationResult(
            self.task.id,
            Checklist(kept),
            tuple(self.reports.values()),
            killed,
            mutants,
            self.invalid,
            self.asked,
        )

    # -- single tests ------------------------------------------------------------------------------------------

    def _judge_null(self, item: EditItem, good: bool | None) -> None:
        if item.role not in ("change", "keep"):
            return
        if item.path == "cognitive" and item.role == "keep":
            return  # a plan to change nothing may or may not say that a thing stays
        passed = None if good is None else good == (item.role == "keep")
        word = "already true of the source" if item.role == "change" else "not true of the source"
        self._mark(item, "null", passed, word)

    def _judge_negation(self, item: EditItem, plain: bool | None, turned: bool | None) -> None:
        if item.verifier is None:
            passed = None if plain is None or turned is None else plain == turned
            self._mark(item, "negation", passed, "its negation gets the same answer")

    def _judge_positive(self, item: EditItem, good: bool | None) -> None:
        self._mark(item, "positive", good, "not true of the reference")

    def _mark(self, item: EditItem, test: str, passed: bool | None, why: str) -> None:
        report = self.reports[item.id]
        report.applied += 1
        setattr(report, test, passed)
        if passed is False and not report.why:
            report.why = why

    async def _mutants(self, base: Mapping[str, bool | None]) -> tuple[dict[str, int], dict[str, int]]:
        """Judge all mutants: how many are seen by an item that is good on the right one, and how many there are."""
        jobs: list[tuple[str, Any]] = []
        if self.task.reference is not None:
            jobs += [("cognitive", self._values(one.text, None)) for one in mutant_plans(self.task.reference)]
        pictures = mutant_pictures(self.scene.source, self.right, self.others)
        jobs += [("visual", self._values(None, one.image)) for one in pictures]
        answers = await asyncio.gather(*(job for _, job in jobs))
        for item in self.items:
            applies = base.get(item.id) is not False and item.path in {path for path, _ in jobs}
            self.reports[item.id].applied += applies
        seen: list[tuple[str, set[str]]] = []
        for (path, _), values in zip(jobs, answers, strict=True):
            flipped = set()
            for item in self.items:
                value, report = values.get(item.id), self.reports[item.id]
                if item.path == path and value is not None and base.get(item.id):
                    report.tried += 1
                    report.flips += not value
                    if not value:
                        flipped.add(item.id)
            seen.append((path, flipped))
        for report in self.reports.values():
            if report.tried and not report.flips and not report.why:
                report.why = "never flips, whatever is wrong"
        kept = {name for name, report in self.reports.items() if not report.why}
        killed: dict[str, int] = {}
        total: dict[str, int] = {}
        for path, flipped in seen:
            total[path] = total.get(path, 0) + 1
            killed[path] = killed.get(path, 0) + bool(flipped & kept)
        return killed, total

    # -- judgements --------------------------------------------------------------------------------------------

    async def _null(self, turned: bool) -> dict[str, bool | None]:
        """Whether each item (or its negation) is good of a plan to change nothing, and of the source itself."""
        checklist = None
        if turned:
            checklist = Checklist(tuple(negated(item) for item in self.items if item.verifier is None))
        plan, picture = await asyncio.gather(
            self._values(NOTHING, None, checklist), self._values(None, self.scene.source, checklist)
        )
        return plan | picture

    async def _values(
        self, plan: str | None, picture: Picture | None, checklist: Checklist | None = None
    ) -> dict[str, bool | None]:
        """Whether each item of one path is good; None where the verdict is invalid."""
        items = self.task.checklist if checklist is None else checklist
        if plan is not None:
            judged = await self.judges.judge_plan(items, self.task.instruction, self.scene, plan)
        else:
            assert picture is not None
            judged = await self.judges.judge_picture(items, self.task.instruction, self.scene, picture)
        return self._read(judged)

    def _read(self, judged: PathJudgement) -> dict[str, bool | None]:
        values: dict[str, bool | None] = {}
        for item, verdict in zip(items_of(judged.checklist), judged.verdicts, strict=True):
            if item.role != "canary":
                values[item.id] = _good(item, verdict)
                self.asked += 1
                self.invalid += verdict.value == "invalid"
        return values


def _good(item: EditItem, verdict: Verdict) -> bool | None:
    return None if verdict.value == "invalid" else verdict.value == item.good


# -- the judge itself -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeCheck:
    """Whether a judge scores a right result above a wrong one, over tasks.

    Attributes:
        below: tasks on which the wrong result scored below the right one, by the kind of the wrong one.
        tried: tasks on which both had a score, by kind.
    """

    below: Mapping[str, int]
    tried: Mapping[str, int]

    @property
    def passed(self) -> bool:
        """Whether every kind was tried, and nine of ten tasks or more had it below."""
        return bool(self.tried) and all(
            count > 0 and self.below[kind] >= 0.9 * count for kind, count in self.tried.items()
        )


async def check_judge(
    judges: AtomicJudges, tasks: Sequence[tuple[Task, Scene, Picture]], *, least: float = 0.0
) -> JudgeCheck:
    """Test a picture's judge before any rollout: black, the unedited source, and another task's result.

    Args:
        judges: judges to test.
        tasks: tasks, their pictures, and a right result of each.
        least: reward below which the judge does not call a result right; its task is left out.
    """
    from noria.editing.rewards.atomic import visual_reward

    async def value(task: Task, scene: Scene, picture: Picture) -> float | None:
        judged = await judges.judge_picture(task.checklist, task.instruction, scene, picture)
        return visual_reward(judged.checklist, judged.verdicts).value

    below: dict[str, int] = {}
    tried: dict[str, int] = {}
    for number, (task, scene, right) in enumerate(tasks):
        wrong = {"black": right.point(lambda _: 0), "source": scene.source}
        if len(tasks) > 1:
            wrong["another's"] = tasks[(number + 1) % len(tasks)][2].resize(scene.source.size)
        best, *values = await asyncio.gather(
            value(task, scene, right), *(value(task, scene, picture) for picture in wrong.values())
        )
        for kind, one in zip(wrong, values, strict=True):
            tried.setdefault(kind, 0)
            below.setdefault(kind, 0)
            if best is not None and one is not None and best >= least:
                tried[kind] += 1
                below[kind] += one < best
    return JudgeCheck(below, tried)
