"""Difficulty of a task for a planner: rewards of K rollouts, and the oracle's render of the reference.

Kept are tasks that are neither too easy nor too hard nor without spread; where the oracle itself fails, the editor
cannot do it, and no planner can learn from it.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from noria.editing.data.names import task_seed
from noria.editing.data.pictures import Scene
from noria.editing.data.tasks import Difficulty, Task
from noria.editing.environment.rewarding import RewardEnvironment, Rollout, ScoredRollout
from noria.editing.plans import format_output
from noria.editing.types import Planner


@dataclass(frozen=True)
class DifficultySettings:
    """Bounds of the tasks that curation keeps.

    Attributes:
        k: rollouts of each task.
        low, high: bounds of the mean reward of a kept task.
        spread: least deviation of the rewards of a kept task.
        oracle: least visual reward of the reference's render.
        seed: seed of the renders.
    """

    k: int = 8
    low: float = 0.1
    high: float = 0.9
    spread: float = 0.05
    oracle: float = 0.5
    seed: int = 0


async def measure(
    task: Task, scene: Scene, planner: Planner, environment: RewardEnvironment, settings: DifficultySettings
) -> tuple[Difficulty, list[ScoredRollout]]:
    """Roll a task out K times, and render its reference.

    Raises:
        CoverageError: too much goes wrong.
        NoriaError: the planner does not answer.
    """
    outputs = await asyncio.gather(
        *(planner.write(scene.images, task.instruction, sample=number) for number in range(settings.k))
    )
    seed = task_seed(task.id, settings.seed)
    rollouts = [Rollout(task, scene, output, "both", seed, number) for number, output in enumerate(outputs)]
    if task.reference is not None:
        oracle = format_output("", task.reference.text)
        rollouts.append(Rollout(task, scene, oracle, "visual", seed, settings.k))
    scored = list(await asyncio.gather(*(environment.score(rollout) for rollout in rollouts)))
    own = scored[: settings.k]
    p_cog, s_cog = _moments([one.cognitive.value for one in own])
    p_vis, s_vis = _moments([one.visual.value for one in own])
    oracle_vis = scored[-1].visual.value if task.reference is not None else None
    found = Difficulty(settings.k, p_cog, p_vis, s_cog, s_vis, oracle_vis)
    return Difficulty(**{**vars(found), "bucket": bucket(found)}), scored


def bucket(difficulty: Difficulty) -> str:
    """Place in the curriculum by the mean of both rewards: `easy` from 2/3, `hard` below 1/3, `unknown` without any."""
    known = [p for p in (difficulty.p_cog, difficulty.p_vis) if p is not None]
    if not known:
        return "unknown"
    mean = sum(known) / len(known)
    return "easy" if mean >= 2 / 3 else "medium" if mean >= 1 / 3 else "hard"


def unfit(difficulty: Difficulty, settings: DifficultySettings) -> str:
    """Why a task is not kept, in a phrase; empty where it is.

    Either reward with a mean within bounds and some spread is enough: a stream of its own learns from it.
    """
    if difficulty.oracle_vis is not None and difficulty.oracle_vis < settings.oracle:
        return "the editor cannot do it"
    pairs = [(difficulty.p_cog, difficulty.s_cog), (difficulty.p_vis, difficulty.s_vis)]
    known = [(p, s) for p, s in pairs if p is not None]
    if not known:
        return "no valid reward"
    if any(settings.low <= p <= settings.high and (s or 0.0) >= settings.spread for p, s in known):
        return ""
    if all(p > settings.high for p, _ in known):
        return "too easy"
    if all(p < settings.low for p, _ in known):
        return "too hard"
    return "no spread"


def _moments(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and deviation of the rewards that are there; None where there are too few."""
    known = [value for value in values if value is not None]
    return (
        statistics.fmean(known) if known else None,
        statistics.stdev(known) if len(known) > 1 else None,
    )
