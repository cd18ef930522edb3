"""Accept length against entropy over a training run, one point a step.

The regression of accept length on entropy, and Bebop's Eq. 16, which splits the change of length into what entropy
explains and the rest, the mismatch of head and policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.core.errors import ConfigError, DataError
from noria.core.statistics.intervals import Interval

FEWEST = 5  # points an early fit needs


@dataclass(frozen=True)
class Regression:
    """A straight line L = intercept + slope · H.

    Attributes:
        slope: tokens a nat, with its interval.
        intercept: tokens, with its interval.
        correlation: r, in [−1, 1].
        spread: the standard deviation of H over the points, nats.
        n: points.
    """

    slope: Interval
    intercept: Interval
    correlation: float
    spread: float
    n: int


def regress(entropy: ArrayLike, length: ArrayLike, *, level: float = 0.95) -> Regression:
    """Ordinary least squares of accept length on entropy, with Student's t intervals (n − 2 degrees of freedom).

    The intervals take the points' errors as independent and H as known. Steps of a run are neither quite: noise in H
    flattens the slope, and errors that last for many steps make the interval too narrow. Points of a frozen policy at
    several temperatures have neither trouble.

    Args:
        entropy: [n] nats. A point that has a NaN on either side is left out.
        length: [n] tokens a round.
        level: confidence, in (0, 1).

    Returns:
        The line; NaN for what the points do not determine: all of it with fewer than two different entropies, the
        intervals with two points.

    Raises:
        DataError: the two are not lists of one length.
        ConfigError: `level` out of range.
    """
    entropy, length = _pairs(entropy, length, level)
    known = ~(np.isnan(entropy) | np.isnan(length))
    h, tokens = entropy[known], length[known]
    n = len(h)
    spread = float(h.std(ddof=1)) if n > 1 else math.nan
    if n < 2 or h.min() == h.max():
        missing = Interval(math.nan, math.nan, math.nan, n, level)
        return Regression(missing, missing, math.nan, spread, n)
    from scipy import stats  # takes a second to import

    line = stats.linregress(h, tokens)
    t = float(stats.t.ppf((1 + level) / 2, n - 2)) if n > 2 else math.nan

    def interval(effect: float, error: float) -> Interval:
        return Interval(float(effect), float(effect - t * error), float(effect + t * error), n, level)

    correlation = float(line.rvalue) if tokens.min() != tokens.max() else math.nan
    return Regression(
        interval(line.slope, line.stderr),
        interval(line.intercept, line.intercept_stderr),
        correlation,
        spread,
        n,
    )


@dataclass(frozen=True)
class Decomposition:
    """The change of accept length over a run, split in two (Bebop, Eq. 16). Arrays are [steps].

    Attributes:
        change: ΔL_t = L_t − L_0, tokens; NaN where a step is missing.
        entropy_part: b (H_t − H_0), tokens; NaN where not identifiable.
        mismatch: ΔL_t − b (H_t − H_0), tokens; NaN where not identifiable.
        margin: what the interval of b leaves open of either part, ± tokens; NaN where not identifiable or b came alone.
        slope: b, tokens a nat; NaN where not identifiable.
        identifiable: whether b can be told.
        reason: why not, or what b was taken from.
    """

    change: NDArray[np.float64]
    entropy_part: NDArray[np.float64]
    mismatch: NDArray[np.float64]
    margin: NDArray[np.float64]
    slope: Interval
    identifiable: bool
    reason: str


def decompose(
    entropy: ArrayLike,
    length: ArrayLike,
    *,
    early: int | None = None,
    slope: Interval | float | None = None,
    baseline: int = 1,
    flat: float = 1e-3,
    tolerance: float = 0.05,
    level: float = 0.95,
) -> Decomposition:
    """ΔL_t = b (H_t − H_0) + mismatch_t, with b fitted where the head still fits the policy: early in the run.

    The paper does not say how long that is; here the first 20 % of the steps, at least ten. b is not told, and both
    parts are NaN, if fewer than five early steps are known, if their entropy is flat, or if the interval of b leaves
    more open than there is to explain: half_width(b) · max |H_t − H_0| > max(tolerance, max |ΔL_t| / 2). A slope
    measured elsewhere (the frozen policy at several temperatures) can be passed in and has no need of early steps.

    A mismatch that grows in step with entropy from the start is counted as entropy's: no regression can tell them
    apart.

    Args:
        entropy: H_t [steps], mean of the policy's entropy, nats; NaN is missing.
        length: L_t [steps], mean accept length, tokens; NaN is missing.
        early: how many first steps to fit b on.
        slope: b, instead of fitting it.
        baseline: the mean over this many first known steps is H_0 and L_0; 1 is the paper's, more have less noise.
        flat: a standard deviation of the early entropy, nats, up to which it is flat.
        tolerance: tokens that may stay open whatever the change is.
        level: confidence of the fit.

    Raises:
        DataError: the two are not lists of one length, or no step is known.
        ConfigError: a setting out of its range.
    """
    h, tokens = _pairs(entropy, length, level)
    known = np.flatnonzero(~(np.isnan(h) | np.isnan(tokens)))
    if not len(known):
        raise DataError("no step has both an entropy and an accept length")
    if early is None:
        early = max(10, math.ceil(len(h) / 5))
    if early < 1 or baseline < 1:
        raise ConfigError(f"early = {early}, baseline = {baseline}", mend="give at least 1 step")
    first = known[:baseline]
    moved, change = h - h[first].mean(), tokens - tokens[first].mean()
    change = np.where(np.isnan(moved), np.nan, change)

    if slope is None:
        fit = regress(h[:early], tokens[:early], level=level)
        b, reason = fit.slope, f"b was fitted on {fit.n} early steps"
        trouble = _too_little(fit, flat)
    else:
        b = slope if isinstance(slope, Interval) else Interval(float(slope), math.nan, math.nan, 0, level)
        reason = "b was given"
        trouble = "the slope that was given is NaN" if math.isnan(b.effect) else None
    half = (b.high - b.low) / 2
    if trouble is None:
        open_ = half * float(np.nanmax(np.abs(moved)))
        most = max(tolerance, float(np.nanmax(np.abs(change))) / 2)
        if open_ > most:
            trouble = (
                "entropy moved too little for its noise where b comes from: "
                f"b = {b.effect:.3g} ± {half:.2g} tokens a nat leaves ± {open_:.2g} tokens open over the run, "
                f"and {most:.2g} is the most that would still tell something"
            )
    if trouble is not None:
        nothing = np.full(len(h), np.nan)
        unknown = Interval(math.nan, math.nan, math.nan, b.n, b.level)
        return Decomposition(change, nothing, nothing.copy(), nothing.copy(), unknown, False, trouble)
    part = np.where(np.isnan(change), np.nan, b.effect * moved)
    margin = np.where(np.isnan(change), np.nan, half * np.abs(moved))
    return Decomposition(change, part, change - part, margin, b, True, reason)


def _too_little(fit: Regression, flat: float) -> str | None:
    """Why the early steps cannot give a slope, or None."""
    if fit.n < FEWEST:
        return (
            f"only {fit.n} early steps have both an entropy and an accept length, and a slope needs {FEWEST}"
        )
    if fit.spread <= flat:
        return (
            "entropy is too flat early in the run: "
            f"its standard deviation over {fit.n} steps is {fit.spread:.2g} nats, "
            f"not above {flat:g}, and a slope against it would be noise"
        )
    return None


def _pairs(
    entropy: ArrayLike, length: ArrayLike, level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    h, tokens = np.asarray(entropy, dtype=float), np.asarray(length, dtype=float)
    if h.shape != tokens.shape or h.ndim != 1:
        raise DataError(
            f"entropies {list(h.shape)} and accept lengths {list(tokens.shape)}",
            mend="give one of each a step",
        )
    if not 0 < level < 1:
        raise ConfigError(f"{level}", where="level", mend="give a confidence between 0 and 1")
    if np.isinf(h).any() or np.isinf(tokens).any():
        raise DataError("an entropy or accept length is infinite", mend="give NaN for what is missing")
    return h, tokens
