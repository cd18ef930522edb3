"""The reward environment as the trainer calls it: attempts in, r_cog and r_vis out, every rollout on the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from noria.editing.data.pictures import Scene
from noria.editing.data.tasks import Task
from noria.editing.environment.rewarding import RewardEnvironment, Rollout, ScoredRollout
from noria.editing.planner.rollouts import Attempt


class EnvironmentRewarder:
    """Rewards attempts through a `RewardEnvironment`, which lives on one event loop.

    Args:
        environment: environment, of the loop that runs `runner`.
        runner: event loop of the environment.
        tasks: tasks by the numbers of the prompts, each with its pictures.
        on_scored: called with every rollout of a step, in order.
    """

    def __init__(
        self,
        environment: RewardEnvironment,
        runner: asyncio.Runner,
        tasks: Sequence[tuple[Task, Scene]],
        on_scored: Callable[[Sequence[ScoredRollout]], None] | None = None,
    ) -> None:
        self.environment, self.runner, self.tasks, self.on_scored = environment, runner, tasks, on_scored

    @property
    def renders(self) -> int:
        """Calls of the editor so far."""
        return self.environment.renderer.counts.calls

    def __call__(self, attempts: Sequence[Attempt]) -> list[tuple[float | None, float | None]]:
        """r_cog and r_vis of each attempt; None where missing, masked or not asked for by its stream.

        Raises:
            CoverageError: too many verdicts are invalid, or too many renders failed.
        """
        scored = self.runner.run(self._score(attempts))
        if self.on_scored is not None:
            self.on_scored(scored)
        return [(one.cognitive.value, one.visual.value) for one in scored]

    async def _score(self, attempts: Sequence[Attempt]) -> list[ScoredRollout]:
        rollouts = (
            Rollout(*self.tasks[one.prompt], one.output, one.stream, one.seed, number)
            for number, one in enumerate(attempts)
        )
        found: dict[int, ScoredRollout] = {}
        async for scored in self.environment.score_all(rollouts):
            found[scored.rollout.number] = scored
        return [found[number] for number in range(len(attempts))]


class RolloutLog:
    """Rollouts of a run as JSON lines, one file a step: a step that is made again after a kill writes its file anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, scored: Sequence[ScoredRollout]) -> None:
        """Write the rollouts of the next step.

        Raises:
            RunError: the disk refuses.
        """
        from noria.core.files import write_atomic
        from noria.core.records import json_values

        self.step += 1
        lines = [json.dumps(json_values(one.to_json()), ensure_ascii=False) for one in scored]
        write_atomic(self.folder / f"step-{self.step:06d}.jsonl", "\n".join(lines) + "\n")
