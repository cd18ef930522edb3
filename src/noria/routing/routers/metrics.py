"""What a router is judged by: quality against cost, regret to the oracle, stability. Pure functions of numbers.

A value that is NaN was not measured. It is left out of a mean, and the mean of nothing is NaN. A route that failed, and
a router that chose nobody, were measured: they served nobody, which is a quality of 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """Quality, cost and regret of a router's choices.

    Attributes:
        accuracy: mean quality by data set.
        macro: mean of the accuracies.
        micro: mean quality over questions.
        cost: mean cost over questions; NaN where no cost is known.
        regret: micro accuracy of the best choice of each question, less ours.
        availability: share of questions whose chosen route answered, of those where that is known.
        failed: number of questions whose chosen route failed, or that no route was chosen for.
        scored: number of questions whose chosen quality is known.
        questions: number of all questions.
        costed: number of questions whose chosen cost is known.
    """

    accuracy: Mapping[str, float]
    macro: float
    micro: float
    cost: float
    regret: float
    availability: float
    failed: int
    scored: int
    questions: int
    costed: int


def judge(
    choice: ArrayLike,
    quality: Floats,
    cost: Floats,
    dataset: Sequence[str],
    available: Floats | None = None,
) -> Score:
    """Judge one choice a question.

    Args:
        choice: [questions], a column of `quality`; −1 for none, which serves nobody.
        quality, cost: [questions, routes].
        dataset: [questions], names.
        available: [questions, routes], 1 where the route answered and 0 where it failed; not known by default.
    """
    chosen = np.asarray(choice, dtype=int)
    rows = np.arange(len(chosen))
    nobody = np.where(np.isnan(quality).all(1), np.nan, 0.0)  # unless the question cannot be scored
    earned = np.where(chosen >= 0, quality[rows, chosen], nobody)
    paid = np.where(chosen >= 0, cost[rows, chosen], np.nan)
    served = np.full(len(chosen), np.nan) if available is None else available[rows, chosen]
    return score_of(earned, paid, quality, dataset, np.where(chosen >= 0, served, 0.0))


def score_of(earned: Floats, paid: Floats, quality: Floats, dataset: Sequence[str], served: Floats) -> Score:
    """Sum up what each question earned and cost.

    Args:
        earned, paid: [questions].
        quality: [questions, routes], for the best choice that there was.
        dataset: [questions].
        served: [questions], 1 where it was answered and 0 where that failed.
    """
    best = _best(quality)
    both = ~np.isnan(earned) & ~np.isnan(best)
    accuracy = means_by_name(earned, dataset)
    return Score(
        accuracy=accuracy,
        macro=known_mean(list(accuracy.values())),
        micro=known_mean(earned),
        cost=known_mean(paid),
        regret=known_mean(best[both]) - known_mean(earned[both]),
        availability=known_mean(served),
        failed=int((served == 0).sum()),
        scored=int((~np.isnan(earned)).sum()),
        questions=len(earned),
        costed=int((~np.isnan(paid)).sum()),
    )


def _best(score: Floats) -> Floats:
    known = ~np.isnan(score)
    top = np.where(known, score, -np.inf).max(axis=1, initial=-np.inf)
    return np.where(known.any(1), top, np.nan)


def means_by_name(values: ArrayLike, names: Sequence[str]) -> dict[str, float]:
    """Mean of the known values of each name; NaN where none is."""
    numbers = np.asarray(values, dtype=float)
    place = {name: n for n, name in enumerate(dict.fromkeys(names))}
    known = ~np.isnan(numbers)
    group = np.array([place[name] for name in names], dtype=int)[known]
    count = np.bincount(group, minlength=len(place))
    total = np.bincount(group, numbers[known], minlength=len(place))
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return dict(zip(place, means.tolist(), strict=True))


def known_mean(values: ArrayLike) -> float:
    """Mean of the values that are known; NaN where none is."""
    numbers = np.asarray(values, dtype=float)
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if len(known) else math.nan


# -- quality against cost ---------------------------------------------------------------------------------------------


def envelope(cost: ArrayLike, quality: ArrayLike) -> tuple[Floats, Floats]:
    """Corners of the non-decreasing concave envelope of points, by rising cost.

    What lies on a straight line between two routers is had by tossing a coin between them, and a dearer router that is
    worse is never needed; so the envelope is what a set of routers can offer (RouterBench, arXiv 2403.12031). It starts
    at the cheapest point and ends at the best one. O(n log n).

    Raises:
        ValueError: no points, or one that is no number.
    """
    x, y = np.asarray(cost, dtype=float), np.asarray(quality, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"points of shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a point that is no number: leave it out first")
    order = np.lexsort((-y, x))
    x, y = x[order], y[order]
    # Only points better than all cheaper ones can be corners.
    rising = np.concatenate([[True], y[1:] > np.maximum.accumulate(y)[:-1]])
    points = list(zip(x[rising].tolist(), y[rising].tolist(), strict=True))
    corners: list[tuple[float, float]] = []
    for point in points:
        while len(corners) > 1 and _below(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return np.array([c[0] for c in corners]), np.array([c[1] for c in corners])


def _below(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def aiq(cost: ArrayLike, quality: ArrayLike, *, low: float | None = None, high: float | None = None) -> float:
    """Average improvement in quality: the mean height of the envelope over the costs from `low` to `high`.

    Args:
        cost, quality: coordinates of the points.
        low: the lowest cost; that of the cheapest point by default. Below the cheapest point the height is 0: there is
            nothing to buy.
        high: the highest cost; that of the dearest point by default. Beyond the best point the height stays.

    Returns:
        The mean height; NaN where `low` equals `high`. RouterBench's published code divides the same area by the
        highest cost instead: ×(high − low)/high gives its number.
    """
    x, y = envelope(cost, quality)
    points = np.asarray(cost, dtype=float)
    start = float(points.min()) if low is None else low
    end = float(points.max()) if high is None else high
    if not end > start:
        return math.nan
    inner = x[(x > max(start, x[0])) & (x < end)]
    first = max(start, float(x[0]))
    if first >= end:
        return 0.0
    at = np.concatenate([[first], inner, [end]])
    return float(np.trapezoid(np.interp(at, x, y), at)) / (end - start)


# -- stability --------------------------------------------------------------------------------------------------------


def agreement(choices: Sequence[ArrayLike]) -> float:
    """Share of questions on which two of several routers choose alike, over all pairs. NaN for fewer than two."""
    table = np.asarray([np.asarray(choice, dtype=int) for choice in choices])
    if len(table) < 2 or not table.shape[1]:
        return math.nan
    pairs = [float((table[i] == table[j]).mean()) for i in range(len(table)) for j in range(i)]
    return float(np.mean(pairs))


def drawdown(curve: ArrayLike) -> float:
    """Deepest fall from an earlier height: max over t of (max up to t − value at t). NaN for an empty curve."""
    values = np.asarray(curve, dtype=float)
    values = values[~np.isnan(values)]
    return float((np.maximum.accumulate(values) - values).max()) if len(values) else math.nan


def spread_at_end(curve: ArrayLike, share: float = 0.2) -> float:
    """Deviation over the last `share` of a curve; NaN for fewer than two values there."""
    values = np.asarray(curve, dtype=float)
    tail = values[-max(1, round(share * len(values))) :]
    tail = tail[~np.isnan(tail)]
    return float(tail.std(ddof=1)) if len(tail) > 1 else math.nan


def collapsed(curve: ArrayLike, *, share: float = 0.5, window: int = 3) -> bool:
    """Whether a run fell to less than `share` of the best mean of `window` values it had had, and stayed there."""
    values = np.asarray(curve, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2 * window:
        return False
    smooth = np.convolve(values, np.ones(window) / window, "valid")
    return bool(smooth[-1] < share * smooth.max())


def gradient_shares(energy: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """Shares of energy, and how even they are: exp(entropy) over their number, 1 when all are alike.

    Args:
        energy: energy by data set, not negative.
    """
    total = sum(energy.values())
    if not total > 0:
        return dict.fromkeys(energy, math.nan), math.nan
    shares = {name: value / total for name, value in energy.items()}
    entropy = -sum(p * math.log(p) for p in shares.values() if p > 0)
    return shares, math.exp(entropy) / len(shares)
