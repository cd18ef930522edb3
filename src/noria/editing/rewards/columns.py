"""Atomic rewards of many recorded judgements at once: columns in, one number a rollout out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noria.editing.rewards.atomic import LEAST_COVERAGE

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class VerdictColumns:
    """Verdicts on the items of one path, a row each, of many rollouts.

    Attributes:
        rollout: [rows] number of the rollout, from 0.
        weight: [rows] weight of the item.
        valid: [rows] whether the verdict is yes or no.
        good: [rows] whether it is the item's good answer; read where it is valid.
        canary: [rows] whether the item is a canary.
    """

    rollout: NDArray[np.int64]
    weight: Floats
    valid: Bools
    good: Bools
    canary: Bools


def rewards_of(columns: VerdictColumns, rollouts: int, *, least_coverage: float = LEAST_COVERAGE) -> Floats:
    """Rewards of rollouts, as `atomic_reward` gives them one by one.

    Args:
        columns: verdicts in any order.
        rollouts: number of rollouts.
        least_coverage: least valid weight as a share of all.

    Returns:
        [rollouts]; NaN where the reward is masked: no items, too few valid ones, a canary answered wrongly.
    """
    item = ~columns.canary

    def total(mask: Bools) -> Floats:
        return np.bincount(columns.rollout, np.where(mask, columns.weight, 0.0), rollouts).astype(np.float64)

    known, whole = total(item & columns.valid), total(item)
    fooled = total(columns.canary & columns.valid & ~columns.good) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        rewards = total(item & columns.valid & columns.good) / known
    masked = fooled | (known == 0) | (known < least_coverage * whole)
    return np.where(masked, np.nan, rewards)
