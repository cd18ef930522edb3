"""Intervals of rates: source videos resampled together, all figures in one matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noria.core.statistics.bootstrap import Method, bootstrap_ends
from noria.core.statistics.intervals import proportion_interval
from noria.grounding.scoring.rates import Floats, Ints, Ratio

Weights = NDArray[np.uint8]

BLOCK = 64
"""Draws that are worked on at once: memory is a byte a draw and source, not eight and their copies."""


def cluster_weights(sources: Ints, draws: int, generator: np.random.Generator) -> Weights:
    """[draws, clusters] how often each source is drawn when as many are drawn, with replacement, as there are.

    A byte holds it: of n sources, one is drawn at most n times, and of more than 255 never so often.
    """
    count = int(sources.max()) + 1 if len(sources) else 0
    weights = np.zeros((draws, count), dtype=np.uint8)
    for start in range(0, draws, BLOCK):
        block = weights[start : start + BLOCK]
        picks = generator.integers(count, size=block.shape) + np.arange(len(block))[:, None] * count
        block[:] = np.bincount(picks.ravel(), minlength=block.size).reshape(block.shape)
    return weights


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, None where undefined; `whole` and `sources` say how much it is of."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    whole: float
    sources: int


def bootstrap(ratios: Sequence[Ratio], sources: Ints, weights: Weights) -> Floats:
    """[draws, ratios] every figure under every drawn weighting of the sources; NaN where its whole is empty.

    One matrix product for all figures, in blocks of draws.

    Args:
        ratios: figures to resample.
        sources: [n] number of each video's source.
        weights: [draws, clusters] from `cluster_weights`.
    """
    sums = _by_source(ratios, sources, weights.shape[1])
    blocks = (weights[start : start + BLOCK] for start in range(0, len(weights), BLOCK))
    drawn = np.concatenate([block.astype(float) @ sums for block in blocks])
    half = len(ratios)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(drawn[:, half:] > 0, drawn[:, :half] / drawn[:, half:], np.nan)


def _by_source(ratios: Sequence[Ratio], sources: Ints, count: int) -> Floats:
    """[clusters, 2 ratios] parts, then wholes."""
    columns = [ratio.part for ratio in ratios] + [ratio.whole for ratio in ratios]
    sums = np.zeros((count, len(columns)))
    np.add.at(sums, sources, np.stack(columns, axis=1))
    return sums


def estimates(
    ratios: Sequence[Ratio],
    sources: Ints,
    weights: Weights,
    *,
    level: float = 0.95,
    method: Method = "percentile",
) -> list[Estimate]:
    """Every figure with its cluster-bootstrap interval.

    A share of exactly 0 or 1 has Wilson's interval over the sources in its place: every resample of nothing is nothing.

    Args:
        ratios: figures to resample.
        sources: [n] number of each video's source.
        weights: [draws, clusters] from `cluster_weights`.
        level: confidence of the intervals.
        method: `percentile`, or `bca` with the jackknife over sources (Efron 1987).
    """
    drawn = bootstrap(ratios, sources, weights)
    sums = _by_source(ratios, sources, weights.shape[1])
    rows = []
    for column, ratio in enumerate(ratios):
        part, whole = sums[:, column], sums[:, len(ratios) + column]
        counted = int((whole > 0).sum())
        low = high = None
        if counted >= 2 and ratio.value is not None:
            if ratio.share and ratio.value in (0.0, 1.0):
                score = proportion_interval(int(ratio.value) * counted, counted, level=level)
                low, high = score.low, score.high
            else:
                ends = bootstrap_ends(drawn[:, column], ratio.value, part, whole, level=level, method=method)
                low, high = (None if math.isnan(end) else end for end in ends)
        rows.append(Estimate(ratio.name, ratio.value, low, high, float(ratio.whole.sum()), counted))
    return rows
