"""From scores to a decision with a confidence: a threshold a route, and a temperature.

A query goes to the route with the highest score if that reaches the route's threshold, else to none. Accuracy is then a
sum over routes, each of which depends on its own threshold alone, so the best one is found exactly: sort the scores of
the queries whose highest route it is, and take the best of all cuts by prefix sums, in O(n log n). A random search over
thresholds only approaches that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

NONE = -1
"""Label of a query that no route is for."""


@dataclass(frozen=True)
class Calibration:
    """Thresholds and temperature that turn scores into decisions.

    Attributes:
        thresholds: least score by route; a route that is not there has `default`.
        default: threshold of the others; above 0, so that a query that shares nothing with any route goes to none.
        temperature: divisor of scores before the softmax that gives a confidence.
    """

    thresholds: Mapping[str, float]
    default: float = 1e-6
    temperature: float = 0.05

    def array(self, routes: Sequence[str]) -> NDArray[np.float64]:
        """Thresholds of the routes, [routes]."""
        return np.array([self.thresholds.get(route, self.default) for route in routes], float)


def fit_thresholds(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], float]:
    """The thresholds with the highest accuracy, exactly.

    Args:
        scores: [queries, routes] scores.
        labels: [queries] index of the right route, or `NONE`.

    Returns:
        thresholds: [routes], half-way between two scores; −inf for a route that is never the highest.
        accuracy: share of right decisions with them.
    """
    matrix, truth = np.asarray(scores, float), np.asarray(labels, int)
    n, routes = matrix.shape
    thresholds = np.full(routes, -np.inf)
    if n == 0:
        return thresholds, float("nan")
    top = matrix.argmax(axis=1)
    best = matrix[np.arange(n), top]
    order = np.lexsort((-best, top))
    top, best, truth = top[order], best[order], truth[order]
    right = 0
    for route, (start, stop) in enumerate(_runs(top, routes)):
        if start == stop:
            continue
        own, wanted = best[start:stop], truth[start:stop]
        accepted = np.concatenate(([0], np.cumsum(wanted == route)))
        rejected = (wanted == NONE).sum() - np.concatenate(([0], np.cumsum(wanted == NONE)))
        gain = accepted + rejected
        allowed = np.concatenate(([True], own[1:] < own[:-1], [True]))  # equal scores fall on one side
        cut = int(np.flatnonzero(allowed)[gain[allowed].argmax()])
        # Of equally good cuts, the one that lets most through: with the highest index.
        cut = int(np.flatnonzero(allowed & (gain == gain[cut]))[-1])
        if cut == len(own):
            thresholds[route] = -np.inf if gain[cut] > gain[0] or rejected[0] == 0 else own[-1]
        elif cut == 0:
            thresholds[route] = np.nextafter(own[0], np.inf)
        else:
            thresholds[route] = (own[cut - 1] + own[cut]) / 2
        right += int(gain[cut])
    return thresholds, right / n


def _runs(top: NDArray[np.int64], routes: int) -> list[tuple[int, int]]:
    edges = np.searchsorted(top, np.arange(routes + 1))
    return [(int(edges[r]), int(edges[r + 1])) for r in range(routes)]


def confidences(scores: ArrayLike, thresholds: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """[queries, routes + 1] softmax of (scores − thresholds)/temperature, the last column for none at 0.

    A route without a threshold competes with its raw score above the least finite one.
    """
    matrix, bars = np.asarray(scores, float), np.asarray(thresholds, float)
    finite = bars[np.isfinite(bars)]
    bars = np.where(np.isfinite(bars), bars, finite.min() if len(finite) else 0.0)
    logits = np.concatenate([(matrix - bars) / temperature, np.zeros((len(matrix), 1))], axis=1)
    if not len(finite):
        logits[:, -1] = -np.inf
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    result: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return result


def fit_temperature(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> float:
    """The temperature with the least negative log-likelihood of the labels, by golden section on its logarithm."""
    matrix, truth = np.asarray(scores, float), np.asarray(labels, int)
    if not len(truth):
        return 0.05

    def loss(log: float) -> float:
        chances = confidences(matrix, thresholds, float(np.exp(log)))
        picked = chances[np.arange(len(truth)), np.where(truth == NONE, chances.shape[1] - 1, truth)]
        return float(-np.log(np.maximum(picked, 1e-12)).mean())

    low, high, ratio = np.log(1e-3), np.log(10.0), (np.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = loss(a), loss(b)
    for _ in range(40):
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = loss(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = loss(b)
    return float(np.exp((low + high) / 2))


def calibration_error(confidence: ArrayLike, right: ArrayLike, *, bins: int = 10) -> float:
    """Expected calibration error: mean over bins of |accuracy − confidence|, weighted by the bin's queries."""
    values, hits = np.asarray(confidence, float), np.asarray(right, float)
    if not len(values):
        return float("nan")
    place = np.minimum((values * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    gaps = np.bincount(place, hits, bins) - np.bincount(place, values, bins)
    return float(np.abs(gaps[counts > 0]).sum() / len(values))
