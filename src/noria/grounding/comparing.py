"""Two models or more on the same videos: differences with intervals, and tests that account for how many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.grounding.scoring import (
    DEFAULT,
    Marks,
    Passes,
    Ratio,
    Theta,
    Truth,
    bootstrap,
    measures,
    passes,
    rates,
)

__all__ = [
    "Difference",
    "compare",
    "fair_prejudice",
    "holm",
    "least_detectable",
    "max_t",
    "mcnemar",
    "rank_intervals",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """First less second, with its paired cluster-bootstrap interval; `p` is two-sided, `adjusted` by Holm."""

    name: str
    first: float | None
    second: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    adjusted: float | None = None


def compare(
    truth: Truth, first: Marks, second: Marks, weights: Floats, *, theta: Theta = DEFAULT, level: float = 0.95
) -> list[Difference]:
    """T1, T2, T3, the four rates and the fair PR of two models, resampled together by source.

    p of a difference comes from its bootstrap distribution: twice the smaller share of draws on either side of zero,
    each draw counted once more so that it is never 0. Holm's correction is over all rows that have one.

    Args:
        truth: what is right.
        first, second: what the two said.
        weights: [draws, clusters] of `cluster_weights`.
        theta: thresholds.
        level: of the intervals.
    """
    passed = [passes(truth, marks, theta) for marks in (first, second)]
    sides = [
        [
            *(r for r in measures(truth, marks) if r.name in ("T1", "MAE", "T2", "T3", "T3 grounding")),
            *rates(passed_),
        ]
        for marks, passed_ in zip((first, second), passed, strict=True)
    ]
    fair = fair_prejudice(*passed)
    for side, extra in zip(sides, fair, strict=True):
        side.append(extra)
    drawn = [bootstrap(side, truth.sources, weights) for side in sides]
    rows = []
    for column, (a, b) in enumerate(zip(*sides, strict=True)):
        delta = drawn[0][:, column] - drawn[1][:, column]
        rows.append(_difference(a, b, delta[~np.isnan(delta)], level))
    adjusted = iter(holm([row.p for row in rows if row.p is not None]))
    return [
        Difference(**{**vars(row), "adjusted": next(adjusted)}) if row.p is not None else row for row in rows
    ]


def _difference(a: Ratio, b: Ratio, delta: Floats, level: float) -> Difference:
    first, second = a.value, b.value
    if first is None or second is None or not len(delta):
        return Difference(a.name, first, second, None, None, None, None)
    low, high = np.quantile(delta, [(1 - level) / 2, (1 + level) / 2])
    tail = min(np.sum(delta <= 0), np.sum(delta >= 0))
    p = min(1.0, 2 * (float(tail) + 1) / (len(delta) + 1))
    return Difference(a.name, first, second, first - second, float(low), float(high), p)


def fair_prejudice(first: Passes, second: Passes) -> tuple[Ratio, Ratio]:
    """PR of both on the videos that both rate rightly: neither gets the easier ones."""
    both = first.rating & second.rating & first.has_grounding
    a, b = (
        Ratio("PR fair", (both & ~side.grounding).astype(float), both.astype(float), "lower")
        for side in (first, second)
    )
    return a, b


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int, float | None]:
    """(only the first passed, only the second, exact two-sided p); None where they never differ."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, total, 0.5).pvalue) if total else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the family-wise error stays below the level whatever the tests share."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = running
    return adjusted


def max_t(
    values: Sequence[Floats], sources: Ints, *, draws: int, generator: np.random.Generator
) -> dict[tuple[int, int], float]:
    """Adjusted p of every pair of models in one figure: Westfall and Young's max-T, by flipping signs of sources.

    Under no difference, a source's difference is as likely as its opposite. One draw flips the same sources in all
    pairs, so that the correction knows how the pairs hang together.

    Args:
        values: a model each, [n] a video's contribution.
        sources: [n].
        draws: sign flips.
        generator: draws them.

    Returns:
        {(i, j): p} for i < j.
    """
    count = int(sources.max()) + 1
    pairs = [(i, j) for i in range(len(values)) for j in range(i + 1, len(values))]
    sums = np.zeros((count, len(pairs)))
    for column, (i, j) in enumerate(pairs):
        np.add.at(sums[:, column], sources, values[i] - values[j])
    scale = np.sqrt((sums**2).sum(axis=0))
    scale[scale == 0] = np.inf
    observed = np.abs(sums.sum(axis=0)) / scale
    signs = generator.integers(2, size=(draws, count)) * 2.0 - 1.0
    largest = (np.abs(signs @ sums) / scale).max(axis=1)
    return {
        pair: (1 + float(np.sum(largest >= value - 1e-12))) / (draws + 1)
        for pair, value in zip(pairs, observed, strict=True)
    }


def least_detectable(
    rate: float, clusters: int, *, design: float = 1.0, level: float = 0.95, power: float = 0.8
) -> dict[str, float]:
    """The least difference of two unpaired proportions near `rate` that a corpus of this size shows.

    half = z_{(1+level)/2} √(2 p (1−p) design / n) is what must be seen to reach the level, and
    `with_power` = (z_{(1+level)/2} + z_power) √(…) what must be true to be seen with that power.

    Args:
        rate: p.
        clusters: n, independent observations.
        design: variance inflation by clustering.
        level, power: of the test.
    """
    from scipy.special import ndtri

    error = math.sqrt(2 * rate * (1 - rate) * design / clusters)
    z = float(ndtri((1 + level) / 2))
    return {"significant": z * error, "with_power": (z + float(ndtri(power))) * error}


def rank_intervals(
    drawn: Floats, *, level: float = 0.95, better: str = "higher"
) -> list[tuple[float, float]]:
    """Of each model, the interval of its rank among all: drawn is [draws, models] of one figure, resampled together."""
    signed = -drawn if better == "higher" else drawn
    ranks = 1 + (signed[:, :, None] > signed[:, None, :]).sum(axis=2)
    low, high = np.quantile(ranks, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def comparison_to_json(rows: Sequence[Difference]) -> list[dict[str, Any]]:
    """As files hold it."""
    return [vars(row).copy() for row in rows]
