"""Has the traffic moved? Shares, query embeddings, route margins and the Poor share, against a time of reference.

* PSI of the shares of routes, Σ (p − q) log (p/q): .1 is some, .25 is much, by convention.
* The squared maximum mean discrepancy of query embeddings, unbiased, with a permutation over leakage groups for its
  p value: MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y), with a Gaussian kernel of median width.
* CUSUM of margins and of Poor answers, S_t = max(0, S_{t−1} + z_t − k): an alarm where S_t > h.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMOOTHING = 0.5
MUCH = 0.25
MOST = 1500


@dataclass(frozen=True)
class Drift:
    """Findings about two times.

    Attributes:
        psi: population stability index of the routes.
        shares: share of each route before and after.
        mmd: squared maximum mean discrepancy of the embeddings.
        p_value: p value of a permutation test; NaN where there are too few groups.
        margin_alarm, poor_alarm: place in the later time at which the CUSUM rang; None where it did not.
        alarm: whether anything calls for a new round of the chain.
    """

    psi: float
    shares: Mapping[str, tuple[float, float]]
    mmd: float
    p_value: float
    margin_alarm: int | None
    poor_alarm: int | None

    @property
    def alarm(self) -> bool:
        """Whether to run the chain again."""
        moved = self.psi > MUCH or self.p_value < 0.01
        return moved or self.margin_alarm is not None or self.poor_alarm is not None


def stability_index(
    before: Sequence[str], after: Sequence[str]
) -> tuple[float, dict[str, tuple[float, float]]]:
    """PSI of two lists of labels, with half a count added to each, and the shares."""
    labels = sorted({*before, *after})
    counts = [Counter(before), Counter(after)]
    sums = [len(before) + SMOOTHING * len(labels), len(after) + SMOOTHING * len(labels)]
    shares = {
        label: ((counts[0][label] + SMOOTHING) / sums[0], (counts[1][label] + SMOOTHING) / sums[1])
        for label in labels
    }
    return sum((q - p) * math.log(q / p) for p, q in shares.values()), shares


def discrepancy(
    before: ArrayLike,
    after: ArrayLike,
    groups: Sequence[str],
    *,
    generator: np.random.Generator,
    permutations: int = 200,
) -> tuple[float, float]:
    """MMD² and its p value; whole groups change sides, since queries of one group are not independent.

    Args:
        before: [n, dimension] embeddings.
        after: [m, dimension].
        groups: [n + m] leakage group of each; a group that is on both sides is permuted as two.
        generator: draws the permutations.
        permutations: number of them.
    """
    x, y = np.asarray(before, float), np.asarray(after, float)
    rows = np.concatenate([x, y])
    if len(x) < 2 or len(y) < 2:
        return math.nan, math.nan
    squares = (rows**2).sum(axis=1)
    distance = np.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T, 0.0)
    width = float(np.median(distance[np.triu_indices(len(rows), 1)])) or 1.0
    kernel = np.exp(-distance / width)
    np.fill_diagonal(kernel, 0.0)
    side = np.arange(len(rows)) < len(x)
    names = [f"{int(s)}{group}" for s, group in zip(side, groups, strict=True)]
    _, index = np.unique(names, return_inverse=True)
    first = np.zeros(index.max() + 1, bool)
    first[index[side]] = True
    value = _mmd(kernel, side)
    beaten = 0
    for _ in range(permutations):
        beaten += _mmd(kernel, generator.permutation(first)[index]) >= value
    few = min(int(first.sum()), int((~first).sum())) < 5
    return value, math.nan if few else (1 + beaten) / (1 + permutations)


def _mmd(kernel: NDArray[np.float64], side: NDArray[np.bool_]) -> float:
    n, m = int(side.sum()), int((~side).sum())
    if n < 2 or m < 2:
        return 0.0
    rows = kernel @ side
    inner = float(rows[side].sum()) / (n * (n - 1))
    cross = float(rows[~side].sum()) / (n * m)
    outer = float(kernel.sum() - 2 * rows[~side].sum() - rows[side].sum()) / (m * (m - 1))
    return inner + outer - 2 * cross


def cusum(
    values: ArrayLike, mean: float, spread: float, *, slack: float = 0.5, bar: float = 8.0
) -> int | None:
    """Place at which the one-sided CUSUM of values above `mean` exceeds `bar`; None where it never does.

    With slack ½ and bar 8 a normal sequence without a change rings about once in 50,000 values (Siegmund's formula for
    the mean run length: (e^{2δb} − 2δb − 1)/(2δ²), δ = slack, b = bar + 1.166).
    """
    total = 0.0
    for place, value in enumerate(np.asarray(values, float)):
        if math.isnan(value) or spread <= 0:
            continue
        total = max(0.0, total + (value - mean) / spread - slack)
        if total > bar:
            return place
    return None


def find_drift(
    routes: tuple[Sequence[str], Sequence[str]],
    vectors: tuple[ArrayLike, ArrayLike],
    groups: Sequence[str],
    margins: tuple[ArrayLike, ArrayLike],
    poor: tuple[ArrayLike, ArrayLike],
    *,
    generator: np.random.Generator,
) -> Drift:
    """Compare two times; each pair is (before, after).

    Args:
        routes: label of each query.
        vectors: [queries, dimension] embeddings.
        groups: leakage groups, those of before first.
        margins: lead of the best route.
        poor: 1 where an answer is Poor, NaN where it was not judged.
        generator: draws the permutations.
    """
    psi, shares = stability_index(*routes)
    mmd, p = discrepancy(*vectors, groups, generator=generator)
    lead = np.asarray(margins[0], float)
    lead = lead[np.isfinite(lead)]
    later = -np.nan_to_num(np.asarray(margins[1], float), nan=np.nan, posinf=np.nan)
    margin = cusum(later, -float(lead.mean()), float(lead.std())) if len(lead) > 1 else None
    rate = np.asarray(poor[0], float)
    rate = rate[~np.isnan(rate)]
    share = float(np.clip(rate.mean(), 0.01, 0.99)) if len(rate) else math.nan
    spread = math.sqrt(share * (1 - share)) if len(rate) else 0.0
    return Drift(psi, shares, mmd, p, margin, cusum(poor[1], share, spread) if len(rate) > 1 else None)
