"""Drift of what is asked and of a score: population stability, and cumulative sums. Pure functions of arrays.

    PSI     Σ_b (q_b − p_b) ln(q_b / p_b)      p, q: shares of the reference and of the present in bin b
    CUSUM   S_t = max(0, S_{t−1} + (μ₀ − x_t)/σ − k)      an alarm where S_t > h

Without drift PSI / (1/n + 1/m) is χ² with B − 1 degrees of freedom (Yurdakul, "Statistical properties of population
stability index", 2018): small samples have a large PSI by chance, so a drift is one that chance does not explain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Stability:
    """A population stability index.

    Attributes:
        value: the index; NaN where a side is empty.
        chance: value that it exceeds with probability α where nothing drifted.
        bins: number of bins.
    """

    value: float
    chance: float
    bins: int

    def drifted(self, threshold: float) -> bool:
        """Whether it is above the threshold, and above what chance explains."""
        return self.value > threshold and self.value > self.chance


def stability(reference: ArrayLike, present: ArrayLike, *, alpha: float = 0.001) -> Stability:
    """Population stability index of two samples that are counted in bins.

    Half a count is added to each bin, so that an empty one gives a large number and not infinity.

    Args:
        reference: [bins] counts of the reference.
        present: [bins] counts of the present.
        alpha: chance of exceeding `Stability.chance` without drift.
    """
    from scipy.special import chdtri

    p, q = np.asarray(reference, np.float64), np.asarray(present, np.float64)
    if p.shape != q.shape or p.ndim != 1 or (p < 0).any() or (q < 0).any():
        raise ValueError("counts of the same bins, none negative")
    n, m, bins = float(p.sum()), float(q.sum()), len(p)
    if bins < 2 or n == 0 or m == 0:
        return Stability(math.nan, math.nan, bins)
    p, q = (p + 0.5) / (n + bins / 2), (q + 0.5) / (m + bins / 2)
    value = float(((q - p) * np.log(q / p)).sum())
    return Stability(value, float(chdtri(bins - 1, alpha)) * (1 / n + 1 / m), bins)


def share_stability(
    reference: Mapping[str, int], present: Mapping[str, int], *, alpha: float = 0.001
) -> Stability:
    """Population stability index of counts by category, such as a label of the traces."""
    names = sorted(reference.keys() | present.keys())
    counts = ([side.get(name, 0) for name in names] for side in (reference, present))
    return stability(*counts, alpha=alpha)


def embedding_stability(
    reference: ArrayLike, present: ArrayLike, *, axes: int = 4, bins: int = 10, alpha: float = 0.001
) -> Stability:
    """Largest population stability index along the principal axes of the reference.

    Along each axis the bins are quantiles of the reference. The α is shared by the axes.

    Args:
        reference: [queries, dimension] embeddings of the reference.
        present: [queries, dimension] embeddings of the present.
        axes: number of principal axes.
        bins: number of bins on each axis.
        alpha: chance of exceeding `Stability.chance` without drift.
    """
    known, now = np.asarray(reference, np.float64), np.asarray(present, np.float64)
    if known.ndim != 2 or now.ndim != 2 or known.shape[1] != now.shape[1]:
        raise ValueError("two arrays of [queries, dimension]")
    axes = min(axes, known.shape[1])
    if len(known) < bins or len(now) == 0:
        return Stability(math.nan, math.nan, bins)
    centre = known.mean(axis=0)
    _, _, directions = np.linalg.svd(known - centre, full_matrices=False)
    found = []
    for direction in directions[:axes]:
        old, new = (known - centre) @ direction, (now - centre) @ direction
        edges = np.unique(np.quantile(old, np.linspace(0, 1, bins + 1)[1:-1]))
        counts = (np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (old, new))
        found.append(stability(*counts, alpha=alpha / axes))
    return max(found, key=lambda one: one.value)


def cusum(values: ArrayLike, mean: float, deviation: float, *, allowance: float = 0.5) -> NDArray[np.float64]:
    """Cumulative sums of a fall: [values] S_t; a missing value (NaN) leaves the sum as it was.

    Args:
        values: [values] scores in the order of time.
        mean: mean μ₀ of the reference.
        deviation: standard deviation σ of the reference, positive.
        allowance: fall k, in standard deviations, that is let pass; half of the fall to be found.
    """
    if not deviation > 0:
        raise ValueError("a deviation is positive")
    falls = (mean - np.asarray(values, np.float64)) / deviation - allowance
    # S_t is the walk less its lowest point so far.
    walk = np.cumsum(np.where(np.isnan(falls), 0.0, falls))
    lowest = np.minimum.accumulate(np.minimum(walk, 0.0))
    sums: NDArray[np.float64] = walk - lowest
    return sums


def cusum_run_length(shift: float, *, allowance: float = 0.5, threshold: float = 5.0) -> float:
    """Mean number of values until an alarm, by Siegmund's approximation (Sequential Analysis, 1985).

    With Δ = shift − k and b = h + 1.166 it is (exp(−2Δb) + 2Δb − 1) / (2Δ²), and b² where Δ is 0.

    Args:
        shift: true fall in standard deviations; 0 gives the time between false alarms.
        allowance: allowance k.
        threshold: threshold h.
    """
    drift, height = shift - allowance, threshold + 1.166
    if abs(drift) < 1e-6:
        return height**2
    return (math.exp(-2 * drift * height) + 2 * drift * height - 1) / (2 * drift**2)
