"""Fits of one aligner on binned outcomes: a function for each kind."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from noria.blending.alignment.aligners import Affine, Aligner, Beta, Isotonic, Kind, Mean, Platt, Sir
from noria.blending.alignment.tallies import Bins

__all__ = ["fit_aligner"]

SIR_BINS = 100
TILT = 1e-6
"""Height of an isotonic aligner's tilt, in units of the key's rate."""


def fit_aligner(kind: Kind, data: Bins, *, rate: float | None = None, shrink: float = 0.0) -> Aligner | None:
    """Fit one aligner.

    Args:
        kind: kind of the aligner.
        data: exposures by bin.
        rate: ā₀, towards which it is shrunk; the data's own by default.
        shrink: κ, number of pseudo-exposures.

    Returns:
        None where the data have none of that kind that rises with the score.
    """
    n = float(data.n.sum())
    if n <= 0:
        return None
    own = float(data.a.sum()) / n
    prior = own if rate is None else rate
    middle = float((data.x * data.n).sum()) / n
    # Scores around zero, such as logits, have no scale.
    scale = (own * n + shrink * prior) / (middle * (n + shrink)) if middle > 0 else math.nan
    if kind == "mean":
        return Mean(scale) if scale > 0 and math.isfinite(scale) else None
    if shrink:
        expected = np.clip(scale * data.x, 0.0, 1.0) if scale > 0 else np.full(len(data.x), prior)
        data = Bins(data.x, data.n * (1 + shrink / n), data.a + data.n * (shrink / n) * expected)
    return _FITS[kind](data)


# -- kinds ------------------------------------------------------------------------------------------------------------


def _affine(data: Bins) -> Affine | None:
    n = data.n.sum()
    x, a = (data.x * data.n).sum() / n, data.a.sum() / n
    spread = (data.n * (data.x - x) ** 2).sum()
    if spread <= 0:
        return None
    slope = ((data.x - x) * (data.a - a * data.n)).sum() / spread
    return Affine(float(slope), float(a - slope * x)) if slope > 0 else None


def _platt(data: Bins) -> Platt | None:
    centre, spread = _centre(data)
    u = (data.x - centre) / spread
    result = _logistic(u[:, None], data)
    if result is None or result[1] <= 0:
        return None
    slope = float(result[1]) / spread
    return Platt(slope, float(result[0]) - slope * centre)


def _beta(data: Bins) -> Beta | None:
    if data.x[0] < 0 or data.x[-1] > 1:
        return None
    inner = np.clip(data.x, 1e-12, 1 - 1e-12)
    features = [np.log(inner), -np.log1p(-inner)]
    for used in ((0, 1), (0,), (1,)):  # a negative coefficient is left out, as the authors do
        result = _logistic(np.stack([features[number] for number in used], axis=1), data)
        if result is not None and (result[1:] >= 0).all() and result[1:].sum() > 0:
            slopes = dict(zip(used, result[1:].tolist(), strict=True))
            return Beta(slopes.get(0, 0.0), slopes.get(1, 0.0), float(result[0]))
    return None


def _isotonic(data: Bins) -> Isotonic | None:
    rates = _pava(data)
    if rates[0] == rates[-1]:
        return None
    # Of a flat stretch only the ends are knots.
    inner = np.zeros(len(rates), np.bool_)
    inner[1:-1] = (rates[1:-1] == rates[:-2]) & (rates[1:-1] == rates[2:])
    centre, spread = _centre(data)
    tilt = TILT * float(data.a.sum() / data.n.sum())
    return Isotonic(tuple(data.x[~inner].tolist()), tuple(rates[~inner].tolist()), tilt, centre, spread)


def _sir(data: Bins) -> Sir | None:
    before = np.cumsum(data.n) - data.n / 2
    quantile = np.minimum((before / data.n.sum() * SIR_BINS).astype(int), SIR_BINS - 1)
    _, place = np.unique(quantile, return_inverse=True)
    sums = (np.bincount(place, weights=one) for one in (data.n, data.a, data.n * data.x))
    n, a, x = (one.astype(np.float64) for one in sums)
    coarse = Bins(x / n, n, a)
    rates = _pava(coarse)
    if rates[0] == rates[-1]:
        return None
    centre, spread = _centre(data)
    return Sir(
        tuple(coarse.x.tolist()), tuple(rates.tolist()), TILT * float(a.sum() / n.sum()), centre, spread
    )


_FITS = {"affine": _affine, "platt": _platt, "beta": _beta, "isotonic": _isotonic, "sir": _sir}


def _pava(data: Bins) -> NDArray[np.float64]:
    from scipy.optimize import isotonic_regression

    result: NDArray[np.float64] = isotonic_regression(data.a / data.n, weights=data.n).x
    return result


def _centre(data: Bins) -> tuple[float, float]:
    """The median score and a spread that is not zero."""
    order = np.cumsum(data.n) / data.n.sum()
    low, middle, high = (float(data.x[np.searchsorted(order, q)]) for q in (0.25, 0.5, 0.75))
    return middle, (high - low) or abs(middle) or 1.0


def _logistic(features: NDArray[np.float64], data: Bins) -> NDArray[np.float64] | None:
    """Coefficients (the intercept first) that make the outcomes likeliest, by Newton's method.

    None where there is no maximum, as when one class is missing or the score parts them.
    """
    success, failure = data.a, data.n - data.a
    if (success < 0).any() or (failure < -1e-9 * data.n).any() or success.sum() <= 0 or failure.sum() <= 0:
        return None
    design = np.column_stack([np.ones(len(features)), features])
    theta = np.zeros(design.shape[1])
    theta[0] = math.log(success.sum() / failure.sum())

    def loss(theta: NDArray[np.float64]) -> float:
        z = design @ theta
        return float((np.logaddexp(0, -z) * success + np.logaddexp(0, z) * failure).sum())

    now = loss(theta)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -500, 500)))
        gradient = design.T @ (success - data.n * p)
        curvature = (design * (data.n * p * (1 - p))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            return None
        size = 1.0
        while (after := loss(theta + size * step)) > now and size > 1e-8:
            size /= 2
        theta = theta + size * step
        if np.abs(theta).max() > 1e6 or not np.isfinite(theta).all():
            return None
        if now - after <= 1e-13 * abs(now):
            return theta
        now = after
    return None
