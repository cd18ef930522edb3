"""What a planner over the world's editor gets right: strict accuracy, and whose fault the rest is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from noria.editing.planner.policy import Policy, Request
from noria.editing.plans import parse_plan
from noria.editing.proof.rewarding import judge
from noria.editing.rewards.atomic import atomic_reward
from noria.editing.types import PATHS
from noria.editing.world.editor import WorldEditor
from noria.editing.world.rules import FAMILIES
from noria.editing.world.tasks import WorldTask

MEASURED = 97
"""Seed of the editor when planners are measured."""


@dataclass(frozen=True)
class Judged:
    """One output, judged exactly.

    Attributes:
        family: family of its task.
        plan_right: whether every cognitive item is good.
        image_right: whether every visual item is good.
    """

    family: str
    plan_right: bool
    image_right: bool


def request_of(task: WorldTask) -> Request:
    """The request that a planner gets."""
    return Request((task.image,), task.instruction)


def written_plans(policy: Policy, tasks: Sequence[WorldTask], *, longest: int = 80) -> list[str]:
    """The likeliest output of a policy for each task."""
    outputs: list[str] = []
    for start in range(0, len(tasks), 128):
        prompts = policy.encode([request_of(task) for task in tasks[start : start + 128]])
        drawn = policy.sample(prompts, each=1, longest=longest, generator=torch.Generator(), temperature=0.0)
        outputs += drawn.texts
    return outputs


def judged(tasks: Sequence[WorldTask], outputs: Sequence[str], editor: WorldEditor) -> list[Judged]:
    """Judge an output of each task by the exact verifiers."""
    found = []
    for number, (task, output) in enumerate(zip(tasks, outputs, strict=True)):
        plan = parse_plan(output)
        if not plan.ok:
            found.append(Judged(task.family, False, False))
            continue
        edited = editor.edit(task.image, plan.text, MEASURED + number)
        right = {
            path: atomic_reward(
                task.checklist(), judge(task, path, plan.text, edited if path == "visual" else None), path
            ).strict
            for path in PATHS
        }
        found.append(Judged(task.family, bool(right["cognitive"]), bool(right["visual"])))
    return found


def shares(results: Sequence[Judged]) -> dict[str, Any]:
    """Shares of the four cells, of right plans and images, and strict accuracy by family.

    `blind` are right images of wrong plans, `gap` wrong images of right plans.
    """
    count = max(1, len(results))

    def share(plan: bool | None, image: bool | None) -> float:
        hits = [r for r in results if plan in (None, r.plan_right) and image in (None, r.image_right)]
        return len(hits) / count

    families = {}
    for family in FAMILIES:
        rows = [r for r in results if r.family == family]
        if rows:
            families[family] = sum(r.plan_right and r.image_right for r in rows) / len(rows)
    return {
        "strict": share(True, True),
        "plan": share(True, None),
        "image": share(None, True),
        "blind": share(False, True),
        "gap": share(True, False),
        "families": families,
    }
