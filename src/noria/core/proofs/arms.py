"""Arms of a proof: what each was paid and how it was tuned, so that a sceptic can see that they were treated alike.

Every arm of a comparison gets the same budget in the unit that costs, the same data, and its own best setting of every
free setting, found with the same number of tries on seeds that are not judged.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from noria.core.errors import DataError

TRIES = 6
"""Settings that each arm tries by default."""
ALIKE = 0.02
"""Share by which budgets may differ: an arm stops at whole steps or batches."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: name of the arm, a key of `Claim.arms`.
        unit: what costs, such as `network evaluations`, `tokens`, `renders`.
        spent: amount of it that one seed was paid, tuning not counted; 0 for an untrained arm, whose budget is not
            compared.
        tries: number of settings that were tried; 0 for an arm without a free setting.
        tuning_seeds: seeds that the settings were chosen on.
        settings: the settings chosen.
        published: whether the settings are a publication's on purpose: such an arm stands beside a tuned one, and its
            tries are not compared.
    """

    name: str
    unit: str
    spent: float
    tries: int = 0
    tuning_seeds: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    published: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON values of every attribute."""
        return {**vars(self), "tuning_seeds": list(self.tuning_seeds), "settings": dict(self.settings)}


def unfair(arms: Sequence[Arm], judged: Sequence[int], *, tolerance: float = ALIKE) -> list[str]:
    """Reasons why a comparison of these arms would not be fair; none where they were treated alike.

    Args:
        arms: those that are compared with each other.
        judged: seeds that the claims are judged on.
        tolerance: largest difference of budgets, as a share of the largest one.
    """
    reasons = []
    paid = [arm for arm in arms if arm.spent]
    units = list(dict.fromkeys(arm.unit for arm in paid))
    if len(units) > 1:
        reasons.append(f"budgets are counted in {' and in '.join(units)}")
    elif paid:
        least, most = min(paid, key=lambda arm: arm.spent), max(paid, key=lambda arm: arm.spent)
        if most.spent - least.spent > tolerance * most.spent:
            reasons.append(
                f"{most.name} was paid {most.spent:,.6g} {most.unit}, {least.name} {least.spent:,.6g}"
            )
    tuned = [arm for arm in arms if arm.tries and not arm.published]
    tries = sorted({arm.tries for arm in tuned})
    if len(tries) > 1:
        named = ", ".join(f"{arm.name} {arm.tries}" for arm in tuned)
        reasons.append(f"arms were tuned with different numbers of tries: {named}")
    for arm in arms:
        if arm.tries and not arm.tuning_seeds:
            reasons.append(f"{arm.name} does not say which seeds it was tuned on")
        if both := sorted(set(arm.tuning_seeds) & set(judged)):
            reasons.append(f"{arm.name} was tuned on seed {both[0]}, which is judged")
    return reasons


def candidates(
    space: Mapping[str, Sequence[Any]], *, generator: np.random.Generator, tries: int = TRIES
) -> list[dict[str, Any]]:
    """Settings to try: the first value of each, then others drawn without repeats.

    Args:
        space: values of each free setting; the first is the published or usual one.
        generator: draws the others.
        tries: number of settings; all of the grid where it has no more.
    """
    if not space or any(not values for values in space.values()):
        raise ValueError("every free setting needs a value to try")
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    order = [0, *(1 + generator.permutation(len(grid) - 1))]
    return [grid[number] for number in order[:tries]]


def best_candidate(scores: Sequence[Sequence[float | None]], better: Literal["lower", "higher"]) -> int:
    """Place of the best candidate by its mean over the tuning seeds; the first of equals.

    A candidate that has no score on one of the seeds (it diverged, say) is not the best.

    Args:
        scores: one list a candidate, one value a tuning seed.
        better: which way is better.

    Raises:
        DataError: no candidate has a score on every seed.
    """
    sign = 1.0 if better == "higher" else -1.0
    means = [
        sign * statistics.fmean(float(v) for v in values if v is not None)
        if values and all(v is not None and math.isfinite(v) for v in values)
        else -math.inf
        for values in scores
    ]
    best = max(means, default=-math.inf)
    if best == -math.inf:
        raise DataError("no setting gave a score on every seed", where="tuning", mend="widen the settings")
    return means.index(best)
