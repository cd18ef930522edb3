"""Estimates of what another policy would have earned, from the log of a randomised one: IPS, SNIPS and DR.

Only a log whose choices were drawn with known probabilities says anything about other choices. With w = π(a) / p(a) of
each round:

    IPS    Σ w r / n            SNIPS   Σ w r / Σ w            DR    Σ [q̂_π + w (r − q̂)] / n
    ESS    (Σ w)² / Σ w²        effective number of rounds

An estimate whose ESS is tiny is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.core.errors import DataError
from noria.core.statistics.bootstrap import bootstrap_ratios
from noria.core.statistics.intervals import Interval

LEAST_ESS = 30.0
"""Effective rounds below which no number is given."""


@dataclass(frozen=True)
class OffPolicy:
    """An off-policy estimate.

    Attributes:
        ips, snips, dr: mean reward a round with its interval; None where refused, or where there is no model
            (`dr`).
        ess: effective number of rounds.
        rounds: number of rounds in the log.
        unsupported: share of the policy's probability on actions that the log could not have taken; None if not known.
        clipped: rounds whose weight was clipped.
        refused: why there is no number; empty if there is.
    """

    ips: Interval | None
    snips: Interval | None
    dr: Interval | None
    ess: float
    rounds: int
    unsupported: float | None
    clipped: int
    refused: str = ""


def off_policy(
    reward: ArrayLike,
    propensity: ArrayLike,
    policy: ArrayLike,
    *,
    generator: np.random.Generator,
    predicted: ArrayLike | None = None,
    predicted_policy: ArrayLike | None = None,
    unsupported: float | None = None,
    most_weight: float = math.inf,
    least_ess: float = LEAST_ESS,
    clusters: ArrayLike | None = None,
    resamples: int = 2000,
) -> OffPolicy:
    """Estimate a policy's mean reward.

    Args:
        reward: [rounds] rewards r.
        propensity: [rounds] probability p with which the log chose what it did, above 0.
        policy: [rounds] probability π with which the policy would have chosen it.
        generator: draws the resamples.
        predicted: [rounds] q̂ of what was chosen, for DR.
        predicted_policy: [rounds] Σ_a π(a) q̂(a), for DR.
        unsupported: share of the policy's probability on actions with p = 0.
        most_weight: weights are clipped here; it biases towards the log.
        least_ess: below it no number is given.
        clusters: [rounds] what is independent, such as the user; the round by default.
        resamples: number of resamples of the intervals.

    Raises:
        DataError: a propensity that is no probability above 0, or columns of different lengths.
    """
    r, p, target = (np.asarray(one, np.float64) for one in (reward, propensity, policy))
    if not len(r) == len(p) == len(target):
        raise DataError("rewards and probabilities of different lengths", where="rounds")
    if not np.all((p > 0) & (p <= 1)):
        raise DataError(
            "a propensity that is not in (0, 1]", where="rounds", mend="leave out rounds that were not drawn"
        )
    if not np.all((target >= 0) & (target <= 1)):
        raise DataError("a policy's probability that is not in [0, 1]", where="rounds")
    raw = target / p
    w = np.minimum(raw, most_weight)
    clipped = int((raw > most_weight).sum())
    square = float((w**2).sum())
    ess = float(w.sum()) ** 2 / square if square > 0 else 0.0
    if ess < least_ess:
        why = f"the log is worth {ess:.1f} rounds for this policy; at least {least_ess:g} are needed"
        return OffPolicy(None, None, None, ess, len(r), unsupported, clipped, why)
    one = np.ones(len(r))
    columns: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = [(w * r, one), (w * r, w)]
    if predicted is not None and predicted_policy is not None:
        q, q_policy = np.asarray(predicted, np.float64), np.asarray(predicted_policy, np.float64)
        columns.append((q_policy + w * (r - q), one))
    top, bottom = (np.stack(side, axis=1) for side in zip(*columns, strict=True))
    if clusters is not None:
        _, code = np.unique(np.asarray(clusters), return_inverse=True)
        top, bottom = (_summed(side, code) for side in (top, bottom))
    result = bootstrap_ratios(top, bottom, generator=generator, resamples=resamples)
    return OffPolicy(
        result[0], result[1], result[2] if len(result) > 2 else None, ess, len(r), unsupported, clipped
    )


def _summed(column: NDArray[np.float64], code: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.zeros((int(code.max(initial=-1)) + 1, column.shape[1]))
    np.add.at(total, code, column)
    return total
