"""Tuning of the proof's arms: each finds its best of six settings, on seeds that no claim is judged on.

Which weight the form component has, and how much entropy is worth, decides as much as the estimator does: where form is
pure noise, an arm that is held at λ = 1 is compared at its worst.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from noria.core.proofs.arms import TRIES, Arm, best_candidate, candidates
from noria.core.proofs.proof import ProofContext
from noria.routing.proof.arms import CONDITIONS, run_gradients

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


def tuned(
    context: ProofContext,
    function: Callable[..., Any],
    space: Mapping[str, Sequence[float]],
    job: Callable[[str, int, Settings], tuple[Any, ...]],
    arms: Sequence[str],
    label: str,
    key: str,
) -> dict[str, Settings]:
    """Find each estimator's best of the settings tried: the highest mean of a figure over the tuning seeds.

    Args:
        context: runs the jobs.
        function: trains one arm.
        space: values of each setting.
        job: arguments of `function`, of an arm, a seed and settings.
        arms: names of the estimators.
        label: name of what is trained.
        key: figure of a result that is judged by.
    """
    tried = candidates(space, generator=np.random.default_rng(0))
    jobs = {
        f"{label}: {arm}, setting {number}, seed {seed}": job(arm, seed, settings)
        for arm in arms
        for number, settings in enumerate(tried)
        for seed in TUNING_SEEDS
    }
    results = iter(context.map(function, jobs, label=f"settings of {label}"))
    chosen: dict[str, Settings] = {}
    for arm in arms:
        scores = [[next(results)[key] for _ in TUNING_SEEDS] for _ in tried]
        chosen[arm] = tried[best_candidate(scores, "higher")]
    return chosen


def paid(name: str, result: Mapping[str, Any], *, tries: int = TRIES) -> Arm:
    """What an arm was paid and how it was tuned, from one of its results."""
    seeds = TUNING_SEEDS if tries else ()
    return Arm(name, "rollouts", result["rollouts"], tries, seeds, result["settings"])
