"""Bootstrap intervals of means and ratios, by unit or by cluster. Missing values (NaN) are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.core.statistics.intervals import Interval

_BLOCK = 1 << 22  # numbers held at once while resampling


def bootstrap_mean(
    values: ArrayLike, *, generator: np.random.Generator, level: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The mean of independent values with its percentile bootstrap interval.

    Args:
        values: [n]; NaN is left out.
        generator: draws the resamples.
        level: confidence, in (0, 1).
        resamples: how many.

    Returns:
        The interval; its ends are NaN when fewer than two values are left.
    """
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    return _bootstrap(kept, np.ones(len(kept)), generator, level, resamples)


def cluster_bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[object],
    *,
    generator: np.random.Generator,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """The mean of values that come in clusters (items of one prompt, turns of one user), resampling whole clusters.

    Args:
        values: [n]; NaN is left out.
        clusters: [n] which cluster each value is of.
        generator: draws the resamples.
        weights: [n], not negative: how much each value counts, all the same by default; one of NaN is left out.
        level: confidence, in (0, 1).
        resamples: how many.

    Returns:
        The interval, whose `n` counts clusters; its ends are NaN when fewer than two clusters are left.
    """
    array = np.asarray(values, dtype=float)
    weigh = np.ones(len(array)) if weights is None else np.asarray(weights, dtype=float)
    if not len(array) == len(clusters) == len(weigh):
        raise ValueError(f"{len(array)} values with {len(weigh)} weights in {len(clusters)} clusters")
    numbers: dict[object, int] = {}
    index = np.array([numbers.setdefault(c, len(numbers)) for c in clusters], dtype=int)
    kept = ~np.isnan(array * weigh)
    sums = np.bincount(index[kept], weights=(array * weigh)[kept], minlength=len(numbers)).astype(float)
    sizes = np.bincount(index[kept], weights=weigh[kept], minlength=len(numbers)).astype(float)
    return _bootstrap(sums[sizes > 0], sizes[sizes > 0], generator, level, resamples)


def bootstrap_ratios(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> list[Interval]:
    """Ratios Σ numerator / Σ denominator of several columns, the units resampled together.

    Args:
        numerators: [units, columns], one unit a request, a user, a day; a unit with a NaN on either side is left out of
            that column.
        denominators: [units, columns].
        generator: draws the resamples.
        level: confidence, in (0, 1).
        resamples: how many.

    Returns:
        One interval a column. It is NaN where the denominator sums to zero; its ends are NaN with fewer than two
        units, or where the denominator of a resample does not keep the sign of the whole.
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if top.shape != bottom.shape or top.ndim != 2:
        raise ValueError(f"ratios need two tables of one shape, got {top.shape} and {bottom.shape}")
    known = ~(np.isnan(top) | np.isnan(bottom))
    sums = np.where(known, top, 0.0), np.where(known, bottom, 0.0)
    units = len(top)
    drawn = np.empty((2, resamples, top.shape[1]))
    block = max(1, _BLOCK // max(1, units))
    for start in range(0, resamples, block):
        rows = slice(start, min(start + block, resamples))
        weights = np.zeros((rows.stop - start, units))
        if units:
            weights[:] = generator.multinomial(units, np.full(units, 1 / units), size=len(weights))
        for side, table in zip(drawn, sums, strict=True):
            side[rows] = weights @ table
    found = []
    for column in range(top.shape[1]):
        whole, n = float(sums[1][:, column].sum()), int(known[:, column].sum())
        if whole == 0:
            found.append(Interval(math.nan, math.nan, math.nan, n, level))
            continue
        effect = float(sums[0][:, column].sum()) / whole
        below = drawn[1, :, column]
        if n < 2 or (np.sign(below) != np.sign(whole)).any():
            found.append(Interval(effect, math.nan, math.nan, n, level))
            continue
        low, high = np.quantile(drawn[0, :, column] / below, [(1 - level) / 2, (1 + level) / 2])
        found.append(Interval(effect, float(low), float(high), n, level))
    return found


def _bootstrap(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    generator: np.random.Generator,
    level: float,
    resamples: int,
) -> Interval:
    """Interval of the ratio Σ sums / Σ sizes, units drawn with replacement. sums, sizes: [units]."""
    units = len(sums)
    if units == 0:
        return Interval(math.nan, math.nan, math.nan, 0, level)
    effect = float(sums.sum() / sizes.sum())
    if units == 1:
        return Interval(effect, math.nan, math.nan, 1, level)
    means = np.empty(resamples)
    block = max(1, _BLOCK // units)
    for start in range(0, resamples, block):
        drawn = generator.integers(units, size=(min(block, resamples - start), units))
        means[start : start + block] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(effect, float(low), float(high), units, level)
