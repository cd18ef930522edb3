"""Tuning of the proof's arms: each finds its best of six settings, on seeds that no claim is judged on.

Which weight the form component has, and how much entropy is worth, decides as much as the estimator does: where form is
pure noise, an arm that is held at λ = 1 is compared at its worst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from noria.core.proofs.arms import TRIES, Arm, best_candidate, candidates
from noria.core.proofs.proof import ProofContext
from noria.routing.proof.arms import CONDITIONS, ESTIMATORS, run_gradients, run_training
from noria.routing.proof.writer_arms import run_writer

TUNING_SEEDS = (100, 101)
"""Seeds that settings are chosen on."""
WEIGHTS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.0)
"""Weights λ of the form component that an estimator's gradient is measured with."""
TRAINING: dict[str, tuple[float, ...]] = {
    "form": (1.0, 0.3, 0.0),
    "entropy": (0.1, 0.03, 0.3),
    "lr": (3e-3, 1e-2),
}
"""Settings of a policy that chooses once, the defaults first: six of them are tried."""
WRITING: dict[str, tuple[float, ...]] = {"form": (1.0, 0.3, 0.1), "lr": (3e-4, 1e-4)}
"""Settings of a router that writes: all six are tried."""

Settings = Mapping[str, float]


def tuned_weights(
    context: ProofContext, name: str, file: str, estimators: Sequence[str], batches: int, prompts: int
) -> dict[str, dict[str, float]]:
    """Find each estimator's best weight of form, by the cosine of its gradient, in every condition.

    Where every rollout can be read, as it is where only scales differ, the weight does nothing, and is 1.

    Args:
        context: runs the jobs.
        name: name of the table.
        file: file or folder of the table.
        estimators: names of the estimators.
        batches: number of batches at each policy.
        prompts: number of questions of a batch.

    Returns:
        {condition: {estimator: λ}}.
    """
    disturbed = [c for c in CONDITIONS if c != "scale"]
    jobs = {
        f"gradients at λ {weight:g} on {name}, seed {seed}": (
            file,
            {c: dict.fromkeys(estimators, weight) for c in disturbed},
            seed,
            batches,
            prompts,
        )
        for weight in WEIGHTS
        for seed in TUNING_SEEDS
    }
    results = iter(context.map(run_gradients, jobs, label=f"weights on {name}"))
    measured = [[next(results) for _ in TUNING_SEEDS] for _ in WEIGHTS]

    def best(condition: str, estimator: str) -> float:
        scores = [[r[condition][estimator]["cosine"] for r in seeds] for seeds in measured]
        return WEIGHTS[best_candidate(scores, "higher")]

    chosen = {c: {estimator: best(c, estimator) for estimator in estimators} for c in disturbed}
    return chosen | {"scale": dict.fromkeys(estimators, 1.0)}


def tuned_training(
    context: ProofContext, name: str, file: str, arms: Sequence[str], steps: int
) -> dict[str, Settings]:
    """Find each estimator's best settings of a policy that chooses once, by macro accuracy at the end.

    Args:
        context: runs the jobs.
        name: name of the table.
        file: file or folder of the table.
        arms: names of the estimators.
        steps: number of training steps.
    """
    tried = candidates(TRAINING, generator=np.random.default_rng(0))

    def job(arm: str, seed: int, settings: Settings) -> tuple[Any, ...]:
        return (file, arm, seed, steps, settings)

    return _tuned(context, run_training, job, arms, tried, f"policies on {name}", "macro")


def tuned_writers(
    context: ProofContext, file: str, school: str, arms: Sequence[str], steps: int, prompts: int
) -> dict[str, Settings]:
    """Find each estimator's best settings of a router that writes, by macro accuracy over the training.

    Args:
        context: runs the jobs.
        file: file of the table.
        school: folder of the model that was taught the grammar.
        arms: names of the estimators.
        steps: number of training steps.
        prompts: number of questions of a step.
    """
    tried = candidates(WRITING, generator=np.random.default_rng(0))

    def job(arm: str, seed: int, settings: Settings) -> tuple[Any, ...]:
        return (file, school, ESTIMATORS[arm], seed, steps, prompts, settings)

    return _tuned(context, run_writer, job, arms, tried, "routers that write", "area")


def _tuned(
    context: ProofContext,
    function: Any,
    job: Any,
    arms: Sequence[str],
    tried: Sequence[Settings],
    label: str,
    key: str,
) -> dict[str, Settings]:
    """Best of the settings tried, by arm: the highest mean of `key` over the tuning seeds."""
    jobs = {
        f"{label}: {arm}, setting {number}, seed {seed}": job(arm, seed, settings)
        for arm in arms
        for number, settings in enumerate(tried)
        for seed in TUNING_SEEDS
    }
    results = iter(context.map(function, jobs, label=f"settings of {label}"))
    chosen = {}
    for arm in arms:
        scores = [[next(results)[key] for _ in TUNING_SEEDS] for _ in tried]
        chosen[arm] = tried[best_candidate(scores, "higher")]
    return chosen


def paid(name: str, result: Mapping[str, Any], *, tries: int = TRIES) -> Arm:
    """What an arm was paid and how it was tuned, from one of its results."""
    seeds = TUNING_SEEDS if tries else ()
    return Arm(name, "rollouts", result["rollouts"], tries, seeds, result["settings"])
