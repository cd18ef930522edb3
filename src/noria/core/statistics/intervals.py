"""Effects and their intervals, as pure functions of numbers.

A value that is NaN is missing. It is left out, never counted as zero, and `Interval.n` is the number of values that are
left; an interval that is undefined (one seed, no data) is NaN, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Interval:
    """An estimate `effect` from `n` independent observations, and the interval [low, high] of confidence `level`."""

    effect: float
    low: float
    high: float
    n: int
    level: float = 0.95


def mean_known(values: Iterable[float | None]) -> float:
    """The mean of the values that are known: None and NaN are left out; NaN where nothing is known."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, *, level: float = 0.95, overlap: float = 0.0
) -> Interval:
    """The mean of ours − theirs over pairs (the same seed on both sides), with Student's t interval.

    mean(d) ± t_{n−1}((1+level)/2) · sd(d) · √(1/n + overlap). Exact for normal differences and no overlap; both sides
    of a pair may be dependent. With an overlap it is the corrected resampled t test (Nadeau and Bengio, 2003).

    Args:
        ours: [n] one value a pair.
        theirs: [n] values in the same order. A pair with a NaN on either side is left out.
        level: confidence, in (0, 1).
        overlap: size of the test set over that of the training set, where the pairs are random splits of one data set
            and so are not independent; 0 for independent pairs.

    Returns:
        The interval; its ends are NaN when fewer than two pairs are left.
    """
    difference = _differences(ours, theirs)
    n = len(difference)
    mean = float(difference.mean()) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, level)
    from scipy.special import stdtrit  # scipy.stats has it too, and takes a second to import

    half = float(stdtrit(n - 1, (1 + level) / 2)) * _standard_error(difference, overlap)
    return Interval(mean, mean - half, mean + half, n, level)


def paired_p_value(ours: ArrayLike, theirs: ArrayLike, *, margin: float = 0.0, overlap: float = 0.0) -> float:
    """Two-sided P value that the mean of ours − theirs is `margin`: Student's t, as in :func:`paired_difference`.

    It is below 1 − level exactly where the interval of that level leaves the margin out; NaN where fewer than two
    pairs are left.
    """
    difference = _differences(ours, theirs) - margin
    n = len(difference)
    if n < 2:
        return math.nan
    mean, error = float(difference.mean()), _standard_error(difference, overlap)
    if error == 0:
        return float(mean == 0)
    from scipy.special import stdtr

    return 2 * float(stdtr(n - 1, -abs(mean) / error))


def _differences(ours: ArrayLike, theirs: ArrayLike) -> np.ndarray:
    """Differences of the pairs that have both values."""
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"pairs need two lists of one length, got shapes {a.shape} and {b.shape}")
    return np.asarray([x for x in a - b if not math.isnan(x)], dtype=float)


def _standard_error(difference: np.ndarray, overlap: float) -> float:
    return float(difference.std(ddof=1)) * math.sqrt(1 / len(difference) + overlap)


def proportion_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval, which stays inside [0, 1] and has a width at 0 and at 1.

    Args:
        successes: number of successes, 0 … trials.
        trials: number of trials with a verdict.
        level: confidence, in (0, 1).
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan, 0, level)
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    p = successes / trials
    scale = 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    # At 0 and at 1 one end is exactly 0 or 1; the formula gives it up to rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(p, low, high, trials, level)


def mcnemar(gained: int, lost: int, *, mid: bool = False) -> float | None:
    """McNemar's exact test: the two-sided P value that a pair that differs is as likely gained as lost.

    Args:
        gained, lost: pairs of which only the second, and only the first, is a success.
        mid: count only half of the probability of what was seen (mid-p), which is less conservative.

    Returns:
        The P value; None where no pair differs.
    """
    n, k = gained + lost, min(gained, lost)
    if not n:
        return None
    twice, ways = 0, 1  # whole numbers: 2ⁿ is no float from 1,024 pairs on
    for i in range(k):
        twice += 2 * ways
        ways = ways * (n - i) // (i + 1)
    return float(min(1.0, (twice + ways * (1 if mid else 2)) / 2**n))
