"""Bootstrap intervals of means and ratios, by unit or by cluster. Missing values (NaN) are left out.

`percentile` takes the quantiles of the draws. `bca` corrects them for bias and for a spread that changes with the value
(Efron 1987), with the jackknife over units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.core.statistics.intervals import Interval

Method: TypeAlias = Literal["percentile", "bca"]
"""Names of the ways from bootstrap draws to an interval."""

_BLOCK = 1 << 22  # numbers held at once while resampling


def bootstrap_mean(
    values: ArrayLike,
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 10_000,
    method: Method = "percentile",
) -> Interval:
    """The mean of independent values with its bootstrap interval.

    Args:
        values: [n]; NaN is left out.
        generator: draws the resamples.
        level: confidence, in (0, 1).
        resamples: number of resamples.
        method: `percentile`, or `bca` (bias-corrected and accelerated).

    Returns:
        The interval; its ends are NaN when fewer than two values are left.
    """
    kept = np.asarray(values, dtype=float)
    kept = kept[~np.isnan(kept)]
    return _bootstrap(kept, np.ones(len(kept)), generator, level, resamples, method)


def cluster_bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[object],
    *,
    generator: np.random.Generator,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    method: Method = "percentile",
) -> Interval:
    """The mean of values that come in clusters (items of one prompt, turns of one user), resampling whole clusters.

    Args:
        values: [n]; NaN is left out.
        clusters: [n] cluster of each value.
        generator: draws the resamples.
        weights: [n] weight of each value, not negative, equal by default; a value with a weight of NaN is left out.
        level: confidence, in (0, 1).
        resamples: number of resamples.
        method: `percentile`, or `bca` (bias-corrected and accelerated).

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
    return _bootstrap(sums[sizes > 0], sizes[sizes > 0], generator, level, resamples, method)


def bootstrap_ratios(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
    method: Method = "percentile",
) -> list[Interval]:
    """Ratios Σ numerator / Σ denominator of several columns, the units resampled together.

    Args:
        numerators: [units, columns], where a unit is a request, a user or a day; a unit with a NaN on either side is
            left out of that column.
        denominators: [units, columns].
        generator: draws the resamples.
        level: confidence, in (0, 1).
        resamples: number of resamples.
        method: `percentile`, or `bca` (bias-corrected and accelerated).

    Returns:
        One interval a column. It is NaN where the denominator sums to zero; its ends are NaN with fewer than two
        units, or where the denominator of a resample has another sign than the whole.
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
    intervals = []
    for column in range(top.shape[1]):
        whole, n = float(sums[1][:, column].sum()), int(known[:, column].sum())
        effect = float(sums[0][:, column].sum()) / whole if whole else math.nan
        low = high = math.nan
        resampled = drawn[1, :, column]
        if whole and n >= 2 and (np.sign(resampled) == np.sign(whole)).all():
            ratios, parts = drawn[0, :, column] / resampled, (sums[0][:, column], sums[1][:, column])
            low, high = bootstrap_ends(ratios, effect, *parts, level=level, method=method)
        intervals.append(Interval(effect, low, high, n, level))
    return intervals


def bootstrap_ends(
    drawn: NDArray[np.float64],
    effect: float,
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
    *,
    level: float = 0.95,
    method: Method = "percentile",
) -> tuple[float, float]:
    """The ends of the interval of Σ numerators / Σ denominators, from draws that were made elsewhere.

    Args:
        drawn: [resamples] the ratio under every resample; NaN, where a denominator was zero, is left out.
        effect: the ratio itself.
        numerators: [units] numerator of each.
        denominators: [units] denominator of each.
        level: confidence, in (0, 1).
        method: `percentile`, or `bca` (bias-corrected and accelerated).

    Returns:
        Low and high end; both NaN where no draw is known.
    """
    kept = drawn[~np.isnan(drawn)]
    if not len(kept):
        return math.nan, math.nan
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        ends = _corrected(ends, kept, effect, numerators, denominators)
    low, high = np.quantile(kept, ends)
    return float(low), float(high)


def _corrected(
    ends: NDArray[np.float64],
    drawn: NDArray[np.float64],
    effect: float,
    numerators: NDArray[np.float64],
    denominators: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The quantiles that BCa takes: Φ(b + z / (1 − a z)), z = b + Φ⁻¹(end), b the bias, a the acceleration."""
    from scipy.special import ndtr, ndtri

    below = float(np.mean(drawn < effect) + 0.5 * np.mean(drawn == effect))
    bias = float(ndtri(min(max(below, 1e-6), 1 - 1e-6)))
    whole = denominators.sum()
    rest = whole - denominators
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = np.where(np.sign(rest) == np.sign(whole), (numerators.sum() - numerators) / rest, np.nan)
    spread = np.nanmean(left_out) - left_out
    scale = float(np.nansum(spread**2)) ** 1.5
    acceleration = float(np.nansum(spread**3)) / (6 * scale) if scale > 0 else 0.0
    z = bias + ndtri(ends)
    return np.asarray(ndtr(bias + z / (1 - acceleration * z)), dtype=float)


def _bootstrap(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    generator: np.random.Generator,
    level: float,
    resamples: int,
    method: Method,
) -> Interval:
    """Interval of the ratio Σ sums / Σ sizes, where units are drawn with replacement. sums, sizes: [units]."""
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
    low, high = bootstrap_ends(means, effect, sums, sizes, level=level, method=method)
    return Interval(effect, low, high, units, level)
