"""Running one arm of the proof on one seed, as a job of a worker process."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from noria.core.runs.workers import report
from noria.editing.planner.loading import open_policy
from noria.editing.planner.policy import Policy
from noria.editing.planner.rollouts import Attempt
from noria.editing.planner.settings import GrpoSettings
from noria.editing.planner.trainer import PlannerTrainer
from noria.editing.plans import format_output
from noria.editing.proof.arms import ARMS, Scale, settings_of
from noria.editing.proof.measuring import judged, request_of, shares, written_plans
from noria.editing.proof.rewarding import Answerer, JudgeErrors, WorldRewarder
from noria.editing.world.editor import WorldEditor
from noria.editing.world.tasks import SPLITS, Split, WorldTask, take

SHIPPED = Path(str(files("noria.editing"))) / "assets" / "planner"
"""Folder of the supervised planner that ships: where every trained arm starts."""
POOL_SEED, TEST_SEED = 100, 900_000
"""First seeds of the tasks that are trained on, and of those that are measured on."""


def run_filter(seed: int, scale: dict[str, Any]) -> dict[str, Any]:
    """Judge how hard the tasks are by rollouts of the planner that ships: numbers of those that teach something."""
    size = Scale(**scale)
    drawn_tasks = pool(seed, size)
    policy = open_policy(SHIPPED)
    rewarder = WorldRewarder(drawn_tasks, WorldEditor())
    kept, strict = [], []
    for first in range(0, len(drawn_tasks), 32):
        part = drawn_tasks[first : first + 32]
        generator = torch.Generator().manual_seed(seed * 1000 + first)
        prompts = policy.encode([request_of(task) for task in part])
        drawn = policy.sample(prompts, each=size.probes, longest=64, generator=generator)
        rewards = rewarder(
            [Attempt(first + n // size.probes, text, "both", 7) for n, text in enumerate(drawn.texts)]
        )
        for place in range(len(part)):
            rows = rewards[place * size.probes : (place + 1) * size.probes]
            share = sum(row == (1.0, 1.0) for row in rows) / len(rows)
            strict.append(share)
            if (
                len(set(rows)) > 1 and share < 1
            ):  # neither solved already nor without any difference to learn from
                kept.append(first + place)
        report(first + len(part), len(drawn_tasks))
    return {"kept": kept, "strict": strict, "rollouts": len(drawn_tasks) * size.probes}


def run_arm(
    arm: str,
    seed: int,
    chosen: dict[str, Any],
    scale: dict[str, Any],
    kept: list[int],
    whole: bool,
) -> dict[str, Any]:
    """Train an arm and measure it.

    Args:
        arm: name of the arm.
        seed: seed of its prompts, draws and judges.
        chosen: values of the free settings.
        scale: size of the proof.
        kept: numbers of the tasks that the filter kept.
        whole: whether held-out tasks are measured, too.

    Returns:
        Shares at the end by split, the curve, rollouts and renders.
    """
    size, recipe, editor = Scale(**scale), ARMS[arm], WorldEditor()
    splits: tuple[Split, ...] = SPLITS if whole else ("train",)
    if arm == "no planner":
        return {"end": no_planner(size.tests, splits), "curve": [], "renders": 0, "rollouts": 0}
    policy = open_policy(SHIPPED)
    if recipe.rule is None:
        return {"end": measure(policy, size.tests, splits), "curve": [], "renders": 0, "rollouts": 0}
    trained = pool(seed, size)
    if recipe.filtered:
        trained = [trained[n] for n in kept]
    errors = JudgeErrors(**{"seed": seed, **recipe.errors})
    rewarder = WorldRewarder(trained, editor, errors, shipped_answerer() if recipe.answerer else None)
    settings = GrpoSettings(**settings_of(arm, size, seed, chosen))
    frozen = editor.digest
    trainer = PlannerTrainer(policy, [request_of(task) for task in trained], rewarder, settings)
    curve = [{"step": 0, "renders": 0, **measure(policy, size.tests, ("train",))["train"]}]
    while trainer.state.step < size.steps:
        values = trainer.step()
        step = trainer.state.step
        report(step, size.steps, f"r_cog {values['r_cog'] or 0:.2f}  r_vis {values['r_vis'] or 0:.2f}")
        if step % size.every == 0:
            curve.append(
                {"step": step, "renders": trainer.renders, **measure(policy, size.tests, ("train",))["train"]}
            )
    return {
        "end": measure(policy, size.tests, splits),
        "curve": curve,
        "renders": trainer.renders,
        "rollouts": size.steps * size.prompts * size.rollouts,
        "frozen": frozen == editor.digest,
    }


def pool(seed: int, scale: Scale) -> list[WorldTask]:
    """Tasks of a seed that are trained on."""
    return take("train", POOL_SEED + 50 + seed, scale.pool)


@functools.cache
def test_tasks(split: Split, count: int) -> list[WorldTask]:
    """Tasks that are measured on, the same for every arm and seed."""
    return take(split, TEST_SEED, count)


def measure(policy: Policy, tests: int, splits: Sequence[Split]) -> dict[str, Any]:
    """Shares of a planner on tasks of each split, by the likeliest plans."""
    return {
        split: shares(judged(shown, written_plans(policy, shown), WorldEditor()))
        for split in splits
        for shown in [test_tasks(split, tests)]
    }


def no_planner(tests: int, splits: Sequence[Split]) -> dict[str, Any]:
    """Shares where the instruction itself goes to the editor."""
    return {
        split: shares(judged(shown, [format_output("", task.instruction) for task in shown], WorldEditor()))
        for split in splits
        for shown in [test_tasks(split, tests)]
    }


def shipped_answerer() -> Answerer:
    """The trained answerer that ships."""
    from noria.editing.world.answerer import load_answerer

    return load_answerer()
