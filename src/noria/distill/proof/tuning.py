"""The search for each arm's own best settings: equally many tries, at the quick scale, on a seed that is not judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.core.proofs.arms import best_candidate, candidates
from noria.distill.proof.arms import ARMS, Scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noria.core.proofs.proof import ProofContext

SEEDS = (0,)
"""Seeds of the search; those that are judged start at 1."""
SAMPLES = 200
"""Samples of each figure in the search."""


def tune(
    context: ProofContext, arms: Sequence[str], scale: Scale, folder: Path
) -> tuple[dict[str, dict[str, Any]], list[list[Any]]]:
    """Search for the best settings of each arm by its distance over the ladder.

    Args:
        context: runs the trials.
        arms: names of the arms.
        scale: the quick scale.
        folder: folder of the quick scale's teacher and classifier.

    Returns:
        The settings of each arm, and a row a trial: arm, settings, distance, whether it was chosen.
    """
    tried = {arm: trials(arm) for arm in arms}
    jobs = {
        f"{arm}, {_words(settings)}, seed {seed}": (arm, seed, settings, asdict(scale), str(folder))
        for arm in arms
        for settings in tried[arm]
        for seed in SEEDS
    }
    scores = iter(context.map(run_trial, jobs, label="search of settings"))
    chosen, rows = {}, []
    for arm in arms:
        values = [[next(scores) for _ in SEEDS] for _ in tried[arm]]
        best = best_candidate(values, "lower")
        chosen[arm] = tried[arm][best]
        rows += [
            [arm, _words(settings), *value, "chosen" if number == best else ""]
            for number, (settings, value) in enumerate(zip(tried[arm], values, strict=True))
        ]
    return chosen, rows


def trials(arm: str) -> list[dict[str, Any]]:
    """Settings to try for an arm; the usual ones first."""
    return candidates(ARMS[arm].space, generator=np.random.default_rng(0))


def run_trial(
    arm: str, seed: int, chosen: Mapping[str, Any], scale: dict[str, Any], folder: str
) -> float | None:
    """Distance over the ladder of an arm with these settings; None where it is not finite."""
    from noria.core.runs.workers import report
    from noria.distill.evaluation.metrics import frechet_distance
    from noria.distill.proof.running import drawn, load_data, new_student, reference_of

    s, home = Scale(**scale), Path(folder)
    data = load_data(s, None)
    distiller = new_student(arm, seed, chosen, s, data, home)
    while distiller.work.price < s.budget:
        distiller.step()
        report(min(distiller.work.price, s.budget), s.budget)
    reference = reference_of(s, data, home)
    logs = []
    for _, x in drawn(distiller, SAMPLES, s.guidance, role="student", renoises=ARMS[arm].renoises):
        if not bool(x.isfinite().all()):
            return None
        features, _ = reference.classifier.read(x.clamp(-1, 1).cpu().numpy())
        logs.append(math.log(max(frechet_distance(features, reference.moments), 1e-9)))
    return math.exp(sum(logs) / len(logs))


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
