"""The arms of the proof: what rewards each, and what it is paid.

Every trained arm starts from the same supervised planner and draws the same number of rollouts from the same prompts;
it differs in its reward, and in its own best learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noria.editing.types import Rule

UNIT = "rollouts"
"""What costs: outputs of the planner that are drawn and rewarded. Renders are reported beside."""
NOISY = 0.3
"""Probability of a wrong verdict where one stream is noisy."""
LEVELS = (0.0, 0.15, 0.3)
"""Probabilities of a wrong verdict, or of a random number, by which checklist and scalar judge are compared."""


@dataclass(frozen=True)
class Scale:
    """The size of a proof.

    Attributes:
        steps: GRPO steps of an arm.
        prompts: prompts of a step.
        rollouts: rollouts a prompt, in one group or in two.
        pool: tasks that are trained on, before the filter.
        tests: tasks of each measurement.
        every: steps between two measurements of the curve.
        probes: rollouts by which the filter judges a task.
    """

    steps: int
    prompts: int = 8
    rollouts: int = 16
    pool: int = 480
    tests: int = 144
    every: int = 10
    probes: int = 8


@dataclass(frozen=True)
class Recipe:
    """One side of the proof: its reward, and what is changed of it.

    Attributes:
        note: the arm in words.
        rule: combination of the rewards; None for an arm that is not trained.
        cognitive, visual: share of the rollouts that each stream gets under `split`.
        errors: how its judges err, as values of `JudgeErrors`.
        filtered: whether the tasks are filtered by difficulty.
        answerer: whether the trained answerer judges pictures.
        tuned_as: arm whose learning rate it takes, where it has no search of its own.
    """

    note: str
    rule: Rule | None = "split"
    cognitive: float = 0.5
    visual: float = 0.5
    errors: Mapping[str, Any] = field(default_factory=dict)
    filtered: bool = True
    answerer: bool = False
    tuned_as: str = ""


def _noisy(arm: str, rule: Rule) -> Recipe:
    return Recipe(
        f"{arm}, and a visual judge that errs in {NOISY:.0%}", rule, errors={"visual": NOISY}, tuned_as=arm
    )


def _levels() -> dict[str, Recipe]:
    arms = {}
    for level in LEVELS:
        errors = {"cognitive": level, "visual": level}
        if level:
            arms[f"checklist, noise {level}"] = Recipe(
                f"split, every verdict wrong in {level:.0%}", errors=errors, tuned_as="split"
            )
        arms[f"scalar, noise {level}"] = Recipe(
            f"split, a number of 1 to 10 in place of a checklist, random in {level:.0%}",
            errors=errors | {"scalar": True},
            tuned_as="split",
        )
    return arms


ARMS: dict[str, Recipe] = {
    "no planner": Recipe("the instruction is the plan", None),
    "SFT": Recipe("the supervised planner, where every arm starts", None),
    "visual only": Recipe("r_vis alone", cognitive=0.0, visual=1.0),
    "cognitive only": Recipe("r_cog alone", cognitive=1.0, visual=0.0),
    "sum": Recipe("r_cog + r_vis in one group", "sum"),
    "gdpo": Recipe("each normalised, then added, in one group", "gdpo"),
    "split": Recipe("a group each: the paper"),
    "sum, noisy visual": _noisy("sum", "sum"),
    "gdpo, noisy visual": _noisy("gdpo", "gdpo"),
    "split, noisy visual": _noisy("split", "split"),
    "split, ungrounded": Recipe("checklists without the reference", errors={"grounded": False}),
    "split, no filter": Recipe(
        "all tasks, also those too easy or too hard", filtered=False, tuned_as="split"
    ),
    "split, trained judge": Recipe("a trained answerer judges pictures", answerer=True, tuned_as="split"),
    **_levels(),
}
QUICK = ("no planner", "SFT", "visual only", "cognitive only", "sum", "split")
SPACE: Mapping[str, Sequence[Any]] = {"lr": (3e-4, 1e-4, 1e-3, 3e-5)}
"""Free setting of every trained arm, and the values that each tries."""
TUNED = [name for name, recipe in ARMS.items() if recipe.rule and not recipe.tuned_as]
CHOSEN: dict[str, dict[str, Any]] = {
    "visual only": {"lr": 1e-4},
    "cognitive only": {"lr": 3e-4},
    "sum": {"lr": 3e-4},
    "split": {"lr": 3e-4},
}
"""Settings of each arm that the search found best at the quick scale, on a seed that is not judged."""


def settings_of(arm: str, scale: Scale, seed: int, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Values of :class:`~noria.editing.planner.settings.GrpoSettings` for an arm."""
    recipe = ARMS[arm]
    return {
        "steps": scale.steps,
        "prompts": scale.prompts,
        "rule": recipe.rule,
        "cognitive_group": round(scale.rollouts * recipe.cognitive),
        "visual_group": round(scale.rollouts * recipe.visual),
        "longest": 64,
        "micro_batch": 64,
        "warmup": 3,
        "seed": seed,
        **chosen,
    }
