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


def paired_difference(ours: ArrayLike, theirs: ArrayLike, *, level: float = 0.95) -> Interval:
    """The mean of ours − theirs over pairs (the same seed on both sides), with Student's t interval.

    mean(d) ± t_{n−1}((1+level)/2) · sd(d)/√n. Exact for normal differences; both sides of a pair may be dependent.

    Args:
        ours: [n] one value a pair.
        theirs: [n] values in the same order. A pair with a NaN on either side is left out.
        level: confidence, in (0, 1).

    Returns:
        The interval; its ends are NaN when fewer than two pairs are left.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"pairs need two lists of one length, got shapes {a.shape} and {b.shape}")
    difference = (a - b)[~(np.isnan(a) | np.isnan(b))]
    n = len(difference)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, level)
    mean = float(difference.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1, level)
    from scipy.special import stdtrit  # scipy.stats has it too, and takes a second to import

    half = float(stdtrit(n - 1, (1 + level) / 2)) * float(difference.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, level)


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
