"""The training of the supervised planner that ships.

`python -m noria.editing.proof.starting FOLDER` trains another one like it, in about a quarter of an hour of one core.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from noria.editing.planner.loading import open_policy, save_policy
from noria.editing.planner.settings import SftSettings
from noria.editing.planner.sft import Example, SftTrainer
from noria.editing.planner.small import SmallPlannerConfig, new_planner
from noria.editing.proof.measuring import request_of
from noria.editing.proof.running import measure
from noria.editing.world.instructions import world_words
from noria.editing.world.tasks import demonstration, tasks

FIRST_SEED = 50
"""First seed of the demonstrations."""
STEPS = 2400


def train_start(
    folder: Path, *, seed: int = 0, steps: int = STEPS, say: Callable[[str], None] = print
) -> dict[str, float]:
    """Train a planner on noisy demonstrations into a folder.

    Args:
        folder: new folder of a Hugging Face model.
        seed: seed of its weights and demonstrations.
        steps: steps of 48 demonstrations each.
        say: takes a line of progress every hundred steps.

    Returns:
        Shares of plans, pictures and both that are right, and of either alone, on 144 tasks that it did not see.
    """
    with tempfile.TemporaryDirectory() as scratch:
        start = new_planner(Path(scratch) / "start", world_words(), SmallPlannerConfig(seed=seed))
        policy = open_policy(start)
    settings = SftSettings(
        steps=steps,
        batch_size=48,
        micro_batch=48,
        lr=2e-3,
        warmup=min(50, steps // 2),
        weight_decay=0.01,
        train_vision=True,
        seed=seed,
    )

    def progress(step: int, values: Mapping[str, Any]) -> None:
        if step % 100 == 0:
            say(f"step {step} of {steps}: loss {values['loss']:.3f}")

    SftTrainer(policy, Demonstrations(seed), settings).train(on_step=progress)
    save_policy(policy, folder)
    measured = measure(policy, tests=144, splits=("train",))["train"]
    return {name: value for name, value in measured.items() if isinstance(value, float)}


class Demonstrations:
    """Endless noisy demonstrations, the same for the same step; every step has tasks of its own, so none is learnt by
    heart.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, step: int, count: int) -> list[Example]:
        """Examples of a step."""
        chance = np.random.default_rng([self.seed, 21, step])
        fresh = itertools.islice(tasks("train", (FIRST_SEED + self.seed) * 100_000 + step), count)
        return [Example(request_of(task), demonstration(task, chance)) for task in fresh]


if __name__ == "__main__":
    for name, share in train_start(Path(sys.argv[1])).items():
        print(f"{name}: {share:.2f}")
