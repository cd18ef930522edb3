"""The gate of planners of edits: edits of other leakage groups, planned by both, rendered by the frozen editor, judged.

A checklist is written for each request before either plan is, and both sides have the same editor and seed. What counts
is the picture, the share of its items that are good; the plans may not get clearly worse.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from noria.assistant.config.learning import PlannerConfig
from noria.assistant.config.parts import LEARNT
from noria.assistant.learners.around import Around
from noria.assistant.learners.paid import PaidModel
from noria.assistant.learners.pictures.calls import distinct, picture_calls
from noria.assistant.learners.pictures.edits import CheckedEdits, checked_edits, judges_of, reinforcement
from noria.assistant.learners.working import Halt, worked
from noria.core.errors import needing
from noria.core.experiments.gates import PairedScores, Rule, grouped_gain
from noria.core.experiments.splits import widest_contents
from noria.core.learning.dataset import Row
from noria.core.learning.learner import Candidate, Comparison, LearnerRun, Parent
from noria.core.progress import Progress

with needing("editing"):
    import torch

    from noria.editing.data.pictures import Scene, open_scene
    from noria.editing.data.tasks import image_paths
    from noria.editing.environment.rewarding import EnvironmentSettings, Rollout
    from noria.editing.planner.loading import open_policy
    from noria.editing.planner.policy import Policy, Request
    from noria.editing.verbs.train import opened_rewards

KIND = LEARNT["edit"]
FLOOR = 0.05
"""Loss of the plans' own items that the upper end of its interval may show."""
_BATCH = 16


@dataclass(frozen=True)
class BetterEdits:
    """Edits by what serves and by a candidate, before the gate's judge.

    Attributes:
        config: the planner, its tool and editor, and the number of edits.
        around: the gateway's backends, and the pictures of its requests.
        judge: name of the backend that judges.
    """

    config: PlannerConfig
    around: Around
    judge: str

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {
            "judge": self.judge,
            "writer": self.around.config.learning.writer,
            "editor": dict(self.config.editor),
            "edits": self.config.edits,
        }

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says, with the plans' own checklists as a rule."""
        backends, loop, halt = self.around.backends, asyncio.get_running_loop(), Halt()
        writer = self.around.config.learning.writer
        assert writer is not None
        models = [PaidModel(backends[n], n, run.spending, loop, halt) for n in (writer, self.judge)]
        calls = distinct([one for one in picture_calls(rows, self.config.tool) if one.before])
        # What people wished does not say here what is right: a gate is not moved by one person's words.
        plain = [replace(one, wished="") for one in calls[: self.config.edits]]
        place, judges = run.folder / "held-out", judges_of(models[1])
        edits = await checked_edits(plain, place, self.around.blob, models[0], judges)
        groups = {one.trace: one.group for one in calls}
        contents = {one.trace: one.contents for one in calls}
        before = parent.folder(KIND) or Path(self.config.model)
        sides = [
            await worked(run.spending, partial(self._edited, folder, edits, models[1]), halt)
            for folder in (before, candidate.folder)
        ]
        names = [task.id for task in edits.tasks]
        plans = self._plans(sides, [groups[name] for name in names])
        scores = PairedScores(
            names, [groups[name] for name in names],
            np.array([one[1] for one in sides[0]], np.float64),
            np.array([one[1] for one in sides[1]], np.float64),
            contents=widest_contents([contents[name] for name in names]),
        )  # fmt: skip
        notes = {
            "edits": len(names),
            "without a checklist": len(edits.dropped),
            **{f"{what}{when}": _mean([one[n] for one in side])
               for side, when in zip(sides, (" before", ""), strict=True)
               for n, what in enumerate(("plan", "picture"))},
        }  # fmt: skip
        return Comparison(scores, (plans,), notes)

    @staticmethod
    def _plans(sides: Sequence[Sequence[tuple[float, float]]], groups: Sequence[str]) -> Rule:
        gains = [new[0] - old[0] for old, new in zip(*sides, strict=True)]
        gain = grouped_gain(gains, groups, level=0.95)
        worse: Literal["passed", "failed"] = "failed" if gain.high < -FLOOR else "passed"
        words = (
            f"{gain.effect:+.3g} of the plans' items [{gain.low:+.3g}, {gain.high:+.3g}], −{FLOOR:g} allowed"
        )
        return Rule("plans", "missing" if math.isnan(gain.high) else worse, words)

    def _edited(
        self, folder: Path, edits: CheckedEdits, model: PaidModel, progress: Progress
    ) -> list[tuple[float, float]]:
        """[tasks] reward of the plan and of the picture by a planner; NaN where one could not be had."""
        scenes = [open_scene(image_paths(task, edits.file.parent)) for task in edits.tasks]
        if not scenes:
            return []
        outputs = planned(
            folder, [task.instruction for task in edits.tasks], scenes, self.config.tokens, progress
        )
        job = reinforcement(self.config, folder, edits.file, folder)
        bounds = EnvironmentSettings(
            in_flight=job.in_flight, invalid_limit=1.0
        )  # the gate counts what is missing
        found: dict[int, tuple[float, float]] = {}

        async def rewarded(environment: Any) -> None:
            task = progress.task("judge", len(scenes))
            rollouts = (
                Rollout(one, scene, output, seed=0, number=n)
                for n, (one, scene, output) in enumerate(zip(edits.tasks, scenes, outputs, strict=True))
            )
            async for scored in environment.score_all(rollouts):
                values = (scored.cognitive.value, scored.visual.value)
                found[scored.rollout.number] = tuple(math.nan if v is None else v for v in values)  # type: ignore[assignment]
                task.advance()

        with asyncio.Runner() as runner, opened_rewards(job, runner, judges_of(model), bounds) as environment:
            runner.run(rewarded(environment))
        return [found[n] for n in range(len(scenes))]


def planned(
    folder: Path, instructions: Sequence[str], scenes: Sequence[Scene], longest: int, progress: Progress
) -> list[str]:
    """The likeliest output of a planner for each request."""
    policy: Policy = open_policy(folder)
    task = progress.task("plan", len(scenes))
    outputs: list[str] = []
    for start in range(0, len(scenes), _BATCH):
        part = slice(start, start + _BATCH)
        requests = [Request(s.images, i) for s, i in zip(scenes[part], instructions[part], strict=True)]
        drawn = policy.sample(
            policy.encode(requests), each=1, longest=longest, generator=torch.Generator(), temperature=0.0
        )
        outputs += drawn.texts
        task.at(len(outputs))
    return outputs


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None
