"""Rewards of the world: its editor, its exact verifiers, and judges that err on purpose.

The errors of a judge follow from the rollout and a seed, so that a resumed run sees the same ones. A checklist with
noise η gives the wrong answer to each item with probability η. The scalar judge, which is scripted, knows the share of
good items and says it as a number of 1 to 10; with probability η its number is drawn at random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from noria.core.judging.items import Verdict
from noria.editing.checklists.items import EditItem, items_of
from noria.editing.checklists.verifiers import Evidence, verified
from noria.editing.planner.rollouts import Attempt
from noria.editing.plans import parse_plan
from noria.editing.rewards.atomic import atomic_reward
from noria.editing.types import PATHS, Path
from noria.editing.world.editor import WorldEditor
from noria.editing.world.tasks import WorldTask

Answerer = Callable[[Image, str, str], bool]
"""Answers whether a picture shows a name at a cell; the empty name asks whether the cell is empty."""


@dataclass(frozen=True)
class JudgeErrors:
    """Errors that the judges of an arm make.

    Attributes:
        cognitive, visual: probability of a wrong verdict on each path.
        scalar: whether one number is asked for in place of a checklist.
        grounded: whether the checklist comes from the reference.
        seed: seed of the errors.
    """

    cognitive: float = 0.0
    visual: float = 0.0
    scalar: bool = False
    grounded: bool = True
    seed: int = 0


class WorldRewarder:
    """Rewards a planner's outputs on tasks of the world.

    Args:
        tasks: tasks, by the numbers of the prompts.
        editor: frozen editor.
        errors: errors of the judges; none by default.
        answerer: answers the visual items about cells in place of the exact reader.
    """

    def __init__(
        self,
        tasks: Sequence[WorldTask],
        editor: WorldEditor,
        errors: JudgeErrors | None = None,
        answerer: Answerer | None = None,
    ) -> None:
        self.tasks, self.editor, self.errors, self.answerer = tasks, editor, errors or JudgeErrors(), answerer
        self.renders = 0

    def __call__(self, attempts: Sequence[Attempt]) -> list[tuple[float | None, float | None]]:
        """r_cog and r_vis of each attempt; None for what its stream does not ask for."""
        return [self._reward(attempt) for attempt in attempts]

    def _reward(self, attempt: Attempt) -> tuple[float | None, float | None]:
        asked = [path for path in PATHS if attempt.stream in ("both", path)]
        task, plan = self.tasks[attempt.prompt], parse_plan(attempt.output)
        values: dict[Path, float | None] = dict.fromkeys(asked, 0.0)
        if plan.ok:
            for path in asked:
                edited = None
                if path == "visual":
                    edited = self.editor.edit(task.image, plan.text, attempt.seed)
                    self.renders += 1
                values[path] = self._judged(task, path, plan.text, edited, attempt)
        return values.get("cognitive"), values.get("visual")

    def _judged(
        self, task: WorldTask, path: Path, plan: str, edited: Image | None, attempt: Attempt
    ) -> float | None:
        errors = self.errors
        key = f"{errors.seed}|{path}|{attempt}".encode()
        chance = np.random.default_rng(list(hashlib.sha256(key).digest()[:16]))
        share = getattr(errors, path)
        verdicts = judge(task, path, plan, edited, grounded=errors.grounded, answerer=self.answerer)
        checklist = task.checklist(grounded=errors.grounded)
        if errors.scalar:
            value = atomic_reward(checklist, verdicts, path).value
            if value is None:
                return None
            number = int(chance.integers(1, 11)) if chance.random() < share else 1 + round(9 * value)
            return (number - 1) / 9
        wrong = chance.random(len(verdicts)) < share
        heard = [_opposite(v) if w else v for v, w in zip(verdicts, wrong, strict=True)]
        return atomic_reward(checklist, heard, path).value


def judge(
    task: WorldTask,
    path: Path,
    plan: str,
    edited: Image | None,
    *,
    grounded: bool = True,
    answerer: Answerer | None = None,
) -> list[Verdict]:
    """Verdicts of the exact verifiers on one path, or of an answerer where it can answer."""
    checklist = task.checklist(grounded=grounded)
    items = items_of(checklist, path)
    whole = type(checklist)(tuple(items))
    seen = plan if path == "cognitive" else None
    found = verified(whole, Evidence(task.instruction, [task.image], plan=seen, edited=edited))
    if answerer is not None and edited is not None:
        for item in items:
            if item.verifier == "world.shows":
                answer = answerer(edited, *_asked(item))
                found[item.id] = Verdict(item.id, "yes" if answer else "no", "", "answerer")
    return [found[item.id] for item in items]


def _asked(item: EditItem) -> tuple[str, str]:
    return str(item.arguments["name"]), str(item.arguments["cell"])


def _opposite(verdict: Verdict) -> Verdict:
    turned = {"yes": "no", "no": "yes", "invalid": "invalid"}[verdict.value]
    return Verdict(verdict.item, turned, verdict.reason, verdict.judge)  # type: ignore[arg-type]
