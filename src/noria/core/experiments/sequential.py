"""Readings that hold at every look: confidence sequences, always-valid p-values, and a sequential check of the split.

A fixed-horizon interval holds once. Whoever looks every day and stops at the first good one is wrong far more often
than α says. A confidence sequence holds at all looks together:

    |Δ̂ − Δ| < s √((1 + κ) ln((1 + κ) / (κ α²)))    at all n at once, with probability at least 1 − α

s is the standard error of Δ̂ at n units, κ = ρ n*/n, and ρ = 1 / (−W₋₁(−α²/e) − 1) makes the interval narrowest at the
n* units that were planned. It is the two-sided normal mixture of Robbins (1970), Howard et al. (2021, eq. 14) in
intrinsic time 1/s², applied to estimates that are asymptotically normal (Waudby-Smith et al. 2024): means, ratios, and
CUPED-adjusted ones alike. Being asymptotic, it wants a least number of units before the first look.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.core.statistics.intervals import Interval

LEAST_UNITS = 100
"""Units of the smaller arm before the first look: below, the normal law is not yet to be trusted."""
SPLIT_ALPHA = 0.001
"""Level of the check of the split."""

Decision = Literal["promote", "roll back", "futile", "continue"]


@functools.cache
def mixture_ratio(alpha: float) -> float:
    """ρ of the planned time for which the mixture's interval is narrowest there (Howard et al. 2021, prop. 3)."""
    from scipy.special import lambertw

    if not 0 < alpha < 1:
        raise ValueError(f"alpha is in (0, 1), not {alpha}")
    return 1 / (-float(lambertw(-(alpha**2) / math.e, k=-1).real) - 1)


def sequence_width(units: ArrayLike, planned: float, *, alpha: float = 0.05) -> NDArray[np.float64]:
    """Half-width of the confidence sequence in standard errors.

    Args:
        units: number of units read so far.
        planned: number of units at which the interval is to be narrowest, in the same count.
        alpha: probability that the sequence ever misses the truth.
    """
    kappa = mixture_ratio(alpha) * planned / np.asarray(units, dtype=float)
    return np.sqrt((1 + kappa) * (np.log1p(1 / kappa) - 2 * math.log(alpha)))


def confidence_sequence(
    effect: float, standard_error: float, units: int, *, planned: int, alpha: float = 0.05
) -> Interval:
    """The interval of an effect at this look, valid at all looks together.

    Args:
        effect: estimate Δ̂, challenger less champion.
        standard_error: standard error s of the estimate.
        units: units that it was estimated from, of both arms.
        planned: units that the test was planned for.
        alpha: probability that the sequence ever misses the truth.

    Returns:
        The interval; its ends are NaN where effect or standard error are not known.
    """
    if not (math.isfinite(effect) and math.isfinite(standard_error)) or units < 1:
        return Interval(effect, math.nan, math.nan, units, 1 - alpha)
    half = standard_error * float(sequence_width(units, planned, alpha=alpha))
    return Interval(effect, effect - half, effect + half, units, 1 - alpha)


def always_valid_p(
    effect: float, standard_error: float, units: int, *, planned: int, alpha: float = 0.05
) -> float:
    """A p-value that may be looked at at any time: the least level at which the sequence excludes no effect.

    The mixture stays that of `alpha`: p = √((1 + κ)/κ) exp(−z² / (2 (1 + κ))), at most 1. NaN without an estimate.
    """
    if not (math.isfinite(effect) and math.isfinite(standard_error)) or standard_error <= 0 or units < 1:
        return math.nan
    kappa = mixture_ratio(alpha) * planned / units
    z = effect / standard_error
    return min(1.0, math.sqrt((1 + kappa) / kappa) * math.exp(-z * z / (2 * (1 + kappa))))


def decide(interval: Interval, *, planned: int, smaller_arm: int, least: int = LEAST_UNITS) -> Decision:
    """Decide by a reading: promote above zero, roll back below zero, give up at the horizon, else continue.

    Args:
        interval: confidence sequence of the effect, challenger less champion, higher is better.
        planned: units at which the test ends.
        smaller_arm: units of the smaller arm.
        least: units of the smaller arm before anything is decided.
    """
    if smaller_arm >= least:
        if interval.low > 0:
            return "promote"
        if interval.high < 0:
            return "roll back"
    return "futile" if interval.n >= planned else "continue"


def split_evidence(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Evidence that units were not dealt out in these shares, valid at every look.

    The Bayes factor of a Dirichlet mixture of concentration one a share against the shares themselves (Lindon & Malek
    2022). It is a martingale where the split is right, so that by Ville's inequality it reaches 1/α with probability α
    at most, however often one looks.

    Args:
        counts: units seen, by arm.
        shares: planned shares, by the same arms; scaled to sum to one.

    Returns:
        The logarithm of the Bayes factor; above −ln α the split is refuted at level α.
    """
    from scipy.special import gammaln

    if counts.keys() != shares.keys() or any(count < 0 for count in counts.values()):
        raise ValueError("counts and shares are of the same arms, and no count is negative")
    p = np.array([shares[arm] for arm in counts], dtype=float)
    n = np.array([counts[arm] for arm in counts], dtype=float)
    if not (p > 0).all():
        raise ValueError("a share of 0 is refuted by its first unit; leave the arm out")
    p = p / p.sum()
    prior = np.ones_like(p)
    posterior = prior + n
    mixed = gammaln(posterior).sum() - gammaln(posterior.sum()) - gammaln(prior).sum() + gammaln(prior.sum())
    return float(mixed - n @ np.log(p))
