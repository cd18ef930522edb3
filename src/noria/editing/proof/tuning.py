"""The search for each arm's own settings: equally many tries, at the quick scale, on a seed that is not judged."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.core.proofs.arms import best_candidate, candidates
from noria.editing.proof.arms import SPACE, TUNED, Scale
from noria.editing.proof.running import run_arm, run_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noria.core.proofs.proof import ProofContext

TUNING_SEEDS = (0,)
"""Seeds of the search; those that are judged start at 1."""
TRIES = 4
"""Settings that each arm tries."""


def tune(
    context: ProofContext, scale: Scale, arms: Sequence[str] = TUNED
) -> tuple[dict[str, dict[str, Any]], list[list[Any]]]:
    """Search for the settings of each arm by its strict accuracy at the end.

    Returns:
        The settings of each arm, and a row a trial: arm, settings, strict accuracy, whether it was chosen.
    """
    seed = TUNING_SEEDS[0]
    tried = candidates(SPACE, generator=np.random.default_rng(5), tries=TRIES)
    (kept,) = context.map(
        run_filter, {"filter, seed of the search": (seed, asdict(scale))}, label="difficulty"
    )
    jobs = {
        f"{arm}, {_words(settings)}": (arm, seed, settings, asdict(scale), kept["kept"], False)
        for arm in arms
        for settings in tried
    }
    results = iter(context.map(run_arm, jobs, label="search of settings"))
    chosen: dict[str, dict[str, Any]] = {}
    rows: list[list[Any]] = []
    for arm in arms:
        scores = [[next(results)["end"]["train"]["strict"]] for _ in tried]
        best = best_candidate(scores, "higher")
        chosen[arm] = tried[best]
        rows += [
            [arm, _words(settings), score[0], "chosen" if n == best else ""]
            for n, (settings, score) in enumerate(zip(tried, scores, strict=True))
        ]
    return chosen, rows


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in settings.items())
