"""Two models or more on the same videos: differences with intervals, and tests that account for how many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from noria.core.statistics.corrections import holm
from noria.core.statistics.intervals import mcnemar
from noria.grounding.scoring.intervals import BLOCK, Weights, bootstrap
from noria.grounding.scoring.rates import (
    DEFAULT,
    Marks,
    Passes,
    Ratio,
    Theta,
    Truth,
    averaged,
    composite,
    measures,
    passes,
    rates,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MEASURES = ("T1", "MAE", "T2", "T3", "T3 grounding")
"""Figures that are compared besides the rates."""


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
    truth: Truth,
    first: Sequence[Marks],
    second: Sequence[Marks],
    weights: Weights,
    *,
    theta: Theta = DEFAULT,
    level: float = 0.95,
) -> list[Difference]:
    """T1, MAE, T2, T3, the four rates and the fair PR of two models, resampled together by source.

    T2, CR and HR are over the videos that a judge judged for both, so that neither gets the easier ones.

    p of a difference comes from its bootstrap distribution: twice the smaller share of draws on either side of zero,
    each draw counted once more so that it is never 0. Holm's correction is over the figures of this pair.

    Args:
        truth: what is right.
        first, second: what the two said, in each order of options; figures are means over orders.
        weights: [draws, clusters] of `cluster_weights`.
        theta: thresholds of passing.
        level: confidence of the intervals.
    """
    first, second = both_judged(truth, first, second)
    passed = [[passes(truth, marks, theta) for marks in side] for side in (first, second)]
    sides = [
        averaged(
            [
                [r for r in measures(truth, m) if r.name in MEASURES] + rates(p)
                for m, p in zip(side, ps, strict=True)
            ]
        )
        for side, ps in zip((first, second), passed, strict=True)
    ]
    for side, extra in zip(sides, fair_prejudice(*passed), strict=True):
        side.append(extra)
    drawn = [bootstrap(side, truth.sources, weights) for side in sides]
    rows = []
    for column, (a, b) in enumerate(zip(*sides, strict=True)):
        delta = drawn[0][:, column] - drawn[1][:, column]
        rows.append(_difference(a, b, delta[~np.isnan(delta)], level))
    adjusted = holm([row.p for row in rows])
    return [replace(row, adjusted=p) for row, p in zip(rows, adjusted, strict=True)]


def both_judged(
    truth: Truth, first: Sequence[Marks], second: Sequence[Marks]
) -> tuple[list[Marks], list[Marks]]:
    """The marks of two models without the judgements of videos that the other model has none of."""
    if any(marks.judged is None for marks in (*first, *second)):
        return list(first), list(second)
    known = np.all([composite(truth, marks)[1] for marks in (*first, *second)], axis=0)

    def kept(marks: Marks) -> Marks:
        assert marks.judged is not None
        judged = np.where(known[:, None, None], marks.judged, np.nan)
        return replace(marks, judged=judged, reasoned=marks.reasoned | ~known[:, None])

    return [kept(marks) for marks in first], [kept(marks) for marks in second]


def _difference(a: Ratio, b: Ratio, delta: Floats, level: float) -> Difference:
    first, second = a.value, b.value
    if first is None or second is None or not len(delta):
        return Difference(a.name, first, second, None, None, None, None)
    low, high = np.quantile(delta, [(1 - level) / 2, (1 + level) / 2])
    tail = min(np.sum(delta <= 0), np.sum(delta >= 0))
    p = min(1.0, 2 * (float(tail) + 1) / (len(delta) + 1))
    return Difference(a.name, first, second, first - second, float(low), float(high), p)


def fair_prejudice(first: Sequence[Passes], second: Sequence[Passes]) -> tuple[Ratio, Ratio]:
    """PR of both on the videos that both rate rightly: neither gets the easier ones."""
    both = first[0].rating & second[0].rating & first[0].has_grounding  # ratings are asked for once
    a, b = (
        Ratio(
            "PR fair", both * np.mean([~one.grounding for one in side], axis=0), both.astype(float), "lower"
        )
        for side in (first, second)
    )
    return a, b


def mcnemar_of(first: Passes, second: Passes, what: str) -> tuple[int, int, float | None]:
    """(only the first passed, only the second, exact two-sided p) over the videos where both are known.

    It takes videos as independent, which clips of one source are not quite. None where they never differ.

    Args:
        first, second: who passed.
        what: `rating`, `reasoning` or `grounding`.
    """
    known = getattr(first, f"has_{what}") & getattr(second, f"has_{what}")
    a, b = getattr(first, what) & known, getattr(second, what) & known
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    return only_first, only_second, mcnemar(only_second, only_first)


def max_t(
    figures: Sequence[Ratio], sources: Ints, *, draws: int, generator: np.random.Generator
) -> dict[tuple[int, int], float | None]:
    """Adjusted p of every pair of models in one figure: Westfall and Young's max-T, by flipping signs of sources.

    Under no difference, a source's difference is as likely as its opposite. One draw flips the same sources in all
    pairs, so that the correction knows how the pairs hang together. Videos of which a figure is unknown for one of
    the models (its judge failed) are left out for all.

    Args:
        figures: one figure, a model each, whose wholes are alike where they are known.
        sources: [n] number of each video's source.
        draws: number of sign flips.
        generator: source of the sign flips.

    Returns:
        {(i, j): p} for i < j; p is None where nothing is known of all models.
    """
    count = int(sources.max()) + 1
    known = np.all([figure.whole > 0 for figure in figures], axis=0)
    values = [np.where(known, figure.part, 0.0) for figure in figures]
    pairs = [(i, j) for i in range(len(values)) for j in range(i + 1, len(values))]
    if not known.any():
        return dict.fromkeys(pairs)
    sums = np.zeros((count, len(pairs)))
    for column, (i, j) in enumerate(pairs):
        np.add.at(sums[:, column], sources, values[i] - values[j])
    scale = np.sqrt((sums**2).sum(axis=0))
    scale[scale == 0] = np.inf
    observed = np.abs(sums.sum(axis=0)) / scale
    blocks = [min(BLOCK, draws - start) for start in range(0, draws, BLOCK)]
    flips = (generator.integers(2, size=(size, count)) * 2.0 - 1.0 for size in blocks)
    largest = np.concatenate([(np.abs(signs @ sums) / scale).max(axis=1) for signs in flips])
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
        rate: proportion p.
        clusters: n, independent observations.
        design: variance inflation by clustering.
        level, power: level and power of the test.
    """
    from scipy.special import ndtri

    error = math.sqrt(2 * rate * (1 - rate) * design / clusters)
    z = float(ndtri((1 + level) / 2))
    return {"significant": z * error, "with_power": (z + float(ndtri(power))) * error}


def rank_intervals(
    drawn: Floats, *, level: float = 0.95, better: str = "higher"
) -> list[tuple[float, float]]:
    """The interval of each model's rank. drawn: [draws, models] of one figure, resampled together."""
    signed = -drawn if better == "higher" else drawn
    ranks = 1 + (signed[:, :, None] > signed[:, None, :]).sum(axis=2)
    low, high = np.quantile(ranks, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
