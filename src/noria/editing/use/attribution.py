"""Attribution: is the plan wrong, or its rendering? The 2 × 2 of (plan right, picture right) by family.

Beside it stand two arms of the same editor: the oracle (the reference as the plan), which no planner can beat by much,
and the instruction itself, which needs no planner.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noria.core.errors import NoriaError
from noria.core.pages.charts import Figure
from noria.core.pages.report import Block, write_page
from noria.core.progress import Progress
from noria.core.statistics.intervals import proportion_interval
from noria.editing.data.lines import Lines
from noria.editing.data.names import task_seed
from noria.editing.data.pictures import Scene
from noria.editing.data.tasks import Task
from noria.editing.data.working import work_through
from noria.editing.environment.rewarding import RewardEnvironment, Rollout
from noria.editing.plans import format_output
from noria.editing.types import Planner


@dataclass(frozen=True)
class Matrix:
    """Rollouts by whether every item of the plan, and every item of the picture, is good.

    Attributes:
        success: plan right, picture right.
        blind_spot: plan wrong, picture right: a reward of the picture alone would praise it.
        gap: plan right, picture wrong: the editor does not carry it out.
        both_wrong: plan wrong, picture wrong.
        open: rollouts of which either is not known.
        oracle, oracles: references whose render is right, and those that are known.
        direct, directs: instructions whose render is right, and those that are known.
    """

    success: int = 0
    blind_spot: int = 0
    gap: int = 0
    both_wrong: int = 0
    open: int = 0
    oracle: int = 0
    oracles: int = 0
    direct: int = 0
    directs: int = 0

    @property
    def known(self) -> int:
        """Rollouts whose place is known."""
        return self.success + self.blind_spot + self.gap + self.both_wrong

    @property
    def right(self) -> float:
        """Share of right pictures; NaN where nothing is known."""
        return (self.success + self.blind_spot) / self.known if self.known else math.nan

    @property
    def ceiling(self) -> float:
        """Share of right pictures with the oracle's plan; NaN where none is known."""
        return self.oracle / self.oracles if self.oracles else math.nan

    @property
    def floor(self) -> float:
        """Share of right pictures without a planner; NaN where none is known."""
        return self.direct / self.directs if self.directs else math.nan

    def with_rollout(self, plan: bool | None, picture: bool | None) -> Matrix:
        """The matrix with one more rollout."""
        if plan is None or picture is None:
            return replace(self, open=self.open + 1)
        name = {(1, 1): "success", (0, 1): "blind_spot", (1, 0): "gap", (0, 0): "both_wrong"}[plan, picture]
        return replace(self, **{name: getattr(self, name) + 1})

    def with_arms(self, oracle: bool | None, direct: bool | None) -> Matrix:
        """The matrix with one more task of the two arms."""
        return replace(
            self,
            oracle=self.oracle + bool(oracle),
            oracles=self.oracles + (oracle is not None),
            direct=self.direct + bool(direct),
            directs=self.directs + (direct is not None),
        )


def matrices(records: Sequence[Mapping[str, Any]]) -> dict[str, Matrix]:
    """Matrices by family, and of `all`.

    Args:
        records: one a task: `family`, `rollouts` (pairs of plan and picture right), `oracle`, `direct`; None is
            not known.
    """
    found: dict[str, Matrix] = {"all": Matrix()}
    for record in records:
        for name in dict.fromkeys((str(record["family"]), "all")):
            matrix = found.get(name, Matrix())
            for plan, picture in record["rollouts"]:
                matrix = matrix.with_rollout(plan, picture)
            found[name] = matrix.with_arms(record.get("oracle"), record.get("direct"))
    return found


def advice(matrix: Matrix) -> str:
    """Recommendation that follows from a matrix, in a sentence: training the planner, changing the editor, or neither.

    A planner can win what lies between its own share of right pictures and the oracle's; an editor what the oracle
    misses.
    """
    if not matrix.known or not matrix.oracles:
        return "Too little is known to say whether planning or rendering is to blame."
    planning, rendering = matrix.ceiling - matrix.right, 1 - matrix.ceiling
    numbers = (
        f"right pictures are {matrix.right:.0%} of the rollouts, {matrix.ceiling:.0%} with the oracle's plan"
    )
    if not math.isnan(matrix.floor):
        numbers += f", and {matrix.floor:.0%} without a planner"
    if max(planning, rendering) < 0.05:
        return f"Neither is worth much: {numbers}."
    if rendering > planning:
        return f"Change the editor: {numbers}; plans that are right fail in it."
    if matrix.gap > matrix.blind_spot + matrix.both_wrong:
        return (
            f"Train the planner on this editor's words: {numbers}, and most wrong pictures have a right plan."
        )
    return f"Train the planner: {numbers}."


async def attribute(
    tasks: Sequence[tuple[Task, Scene]],
    planner: Planner,
    environment: RewardEnvironment,
    log: Path,
    *,
    samples: int = 1,
    seed: int = 0,
    in_flight: int = 8,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Roll tasks out, with both arms beside; a record a task, which resumes from its log.

    Args:
        tasks: tasks with checklists, and their pictures.
        planner: planner to attribute.
        environment: rewards the rollouts; it must not gate.
        log: file of the records.
        samples: rollouts of a task.
        seed: seed of the renders.
        in_flight: tasks under way at once.
        progress: shows the finished tasks, if given.

    Raises:
        CoverageError: too many verdicts or renders are invalid.
        RunError: the disk refuses.
    """
    with Lines(log) as lines:
        stamp = {"planner": planner.name, "samples": samples, "seed": seed}
        done = {name for name, one in lines.records.items() if one.get("stamp") == stamp}
        left = [pair for pair in tasks if pair[0].id not in done]

        async def work(pair: tuple[Task, Scene]) -> None:
            lines.add(await _record(*pair, planner, environment, samples, seed) | {"stamp": stamp})

        await work_through(
            left, work, in_flight=in_flight, progress=progress, label="attribute", done=len(tasks) - len(left)
        )
        return [lines.records[task.id] for task, _ in tasks if task.id in lines.records]


async def _record(
    task: Task, scene: Scene, planner: Planner, environment: RewardEnvironment, samples: int, seed: int
) -> dict[str, Any]:
    own = task_seed(task.id, seed)

    async def drawn(number: int) -> tuple[bool | None, bool | None]:
        try:
            output = await planner.write(scene.images, task.instruction, sample=number)
        except NoriaError:
            return None, None
        scored = await environment.score(Rollout(task, scene, output, "both", own, number))
        return scored.cognitive.strict, scored.visual.strict

    async def arm(plan: str | None) -> bool | None:
        if not plan:
            return None
        rollout = Rollout(task, scene, format_output("", plan), "visual", own)
        return (await environment.score(rollout)).visual.strict

    rollouts, oracle, direct = await asyncio.gather(
        asyncio.gather(*(drawn(number) for number in range(samples))),
        arm(task.reference.text if task.reference else None),
        arm(task.instruction),
    )
    return {
        "id": task.id,
        "family": task.family,
        "rollouts": [list(pair) for pair in rollouts],
        "oracle": oracle,
        "direct": direct,
    }


HEADER = [
    "family",
    "success",
    "blind spot",
    "gap",
    "both wrong",
    "open",
    "right",
    "oracle's plan",
    "no planner",
]


def table_rows(found: Mapping[str, Matrix]) -> list[list[str | int | float | None]]:
    """Rows under `HEADER`, `all` last."""
    names = [*(name for name in sorted(found) if name != "all"), "all"]
    return [
        [
            name,
            *(
                getattr(found[name], field)
                for field in ("success", "blind_spot", "gap", "both_wrong", "open")
            ),
            *(
                f"{v:.0%}" if v == v else None
                for v in (found[name].right, found[name].ceiling, found[name].floor)
            ),
        ]
        for name in names
    ]


def write_attribution(path: Path, found: Mapping[str, Matrix], *, planner: str, editor: str) -> None:
    """Write the page: the 2 × 2 drawn by family, the table, and what each speaks for.

    Raises:
        RunError: the disk refuses.
    """
    names = {"success": "both right", "blind_spot": "plan wrong, picture right", "gap": "plan right, picture wrong",
             "both_wrong": "both wrong"}  # fmt: skip
    points = [
        {"family": family, "outcome": phrase, "share": getattr(matrix, field) / matrix.known, "order": order}
        for family, matrix in found.items()
        if matrix.known
        for order, (field, phrase) in enumerate(names.items())
    ]
    whole = found["all"]
    blocks: list[Block] = [advice(whole)]
    if points:
        blocks.append(
            Figure.chart("Where it goes wrong", _bars(points), "Share of the rollouts whose place is known.")
        )
    blocks.append(Figure.table("Rollouts", HEADER, table_rows(found)))
    if whole.known:
        interval = proportion_interval(whole.success + whole.blind_spot, whole.known)
        blocks.append(
            f"Right pictures: {interval.effect:.0%}, 95 % interval {interval.low:.0%} to {interval.high:.0%} "
            f"({whole.known:,} rollouts)."
        )
    sentences: list[Block] = [
        f"{name}: {advice(matrix)}" for name, matrix in sorted(found.items()) if name != "all"
    ]
    write_page(
        path,
        "Is the plan wrong, or its rendering?",
        [("All tasks", blocks), ("By family", sentences or ["There is one family."])],
        intro=f"Planner: {planner}. Editor: {editor}.",
        footer="Made by noria editing attribute.",
    )


def _bars(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "data": {"values": list(points)},
        "mark": "bar",
        "encoding": {
            "y": {"field": "family", "type": "nominal", "title": None},
            "x": {"field": "share", "type": "quantitative", "axis": {"format": "%"}, "title": None,
                  "scale": {"domain": [0, 1]}},
            "color": {"field": "outcome", "type": "nominal", "title": None, "sort": None},
            "order": {"field": "order", "type": "quantitative"},
        },
    }  # fmt: skip
