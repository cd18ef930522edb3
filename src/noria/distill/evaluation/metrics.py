"""Distances of a set of samples from a set of references: pure functions of arrays.

Every function takes NumPy arrays or PyTorch tensors of any float type, computes in float64 and returns plain floats.
Sets are `[n, ...]`, one point a row; trailing axes are flattened to `d` numbers a point. A set that is too small, has
a NaN or an infinity in it, or does not fit the other set is a `DataError`. A value that the sets leave undefined (a
ratio with a zero below) is an `Undefined`: a NaN that knows its reason. It is never turned into a number.

The features are the caller's. In proofs they are the penultimate layer of `noria.distill.evaluation.classifier`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noria.core.errors import ConfigError, DataError
from noria.distill.evaluation.points import (
    Array,
    Floats,
    Undefined,
    blocks,
    finite,
    point_pair,
    point_set,
    whole_numbers,
)

__all__ = [
    "Moments",
    "frechet_distance",
    "label_accuracy",
    "logit_accuracy",
    "moments",
    "random_directions",
    "saturation",
    "sliced_wasserstein",
    "std_ratio",
]


@dataclass(frozen=True)
class Moments:
    """Mean [d] and unbiased covariance [d, d] of `count` points."""

    mean: Floats
    covariance: Floats
    count: int


def moments(features: Array) -> Moments:
    """Mean and unbiased covariance of `features` [n, d]; n ≥ 2."""
    points = point_set(features, "features", at_least=2)
    mean = points.mean(axis=0)
    centred = points - mean
    return Moments(mean, centred.T @ centred / (len(points) - 1), len(points))


def frechet_distance(features_a: Array | Moments, features_b: Array | Moments) -> float:
    """Squared Fréchet (2-Wasserstein) distance of the Gaussians with the two sets' moments.

        ‖μa − μb‖² + tr Σa + tr Σb − 2 tr (Σa Σb)^½

    With Σ = F Fᵀ the last trace is the sum of the singular values of Faᵀ Fb. That needs no square root of a product
    that is not symmetric and, with eigenvalues of round-off size cut, stays exact where Σ is singular (fewer points
    than dimensions, dead features). In units of the features squared, as FID is. Symmetric; 0 for equal moments.

    The estimate is biased upwards for few points (Chong & Forsyth 2020): compare values of equal counts only.

    Args:
        features_a: points [n, d], or their `moments` when they are used more than once.
        features_b: points or moments of the other set.

    Source: Dowson & Landau 1982; Heusel et al. 2017.
    """
    a = features_a if isinstance(features_a, Moments) else moments(features_a)
    b = features_b if isinstance(features_b, Moments) else moments(features_b)
    if a.mean.shape != b.mean.shape:
        raise DataError(f"points of {len(a.mean)} and of {len(b.mean)} dimensions cannot be compared")
    product = _factor(a.covariance).T @ _factor(b.covariance)
    cross = np.linalg.svd(product, compute_uv=False).sum() if product.size else 0.0
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(np.square(a.mean - b.mean).sum() + max(spread, 0.0))


def _factor(covariance: Floats) -> Floats:
    """F [d, rank] with F Fᵀ = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def random_directions(dimension: int, count: int, generator: np.random.Generator) -> Floats:
    """`count` directions [dimension, count], uniform on the unit sphere, one a column."""
    if dimension < 1 or count < 1:
        raise ConfigError(f"{count} directions of dimension {dimension}", mend="give 1 or more of each")
    directions = generator.standard_normal((dimension, count))
    return np.asarray(directions / np.linalg.norm(directions, axis=0))


def sliced_wasserstein(
    a: Array,
    b: Array,
    projections: int | Array,
    generator: np.random.Generator | None = None,
    *,
    p: float = 2.0,
) -> float:
    """Sliced Wasserstein distance (mean over directions θ of W_p(⟨a, θ⟩, ⟨b, θ⟩)^p)^(1/p) of two sets.

    Each one-dimensional W_p is exact, also for sets of different size: the quantile functions are steps, so the
    integral of |Qa − Qb|^p is a finite sum. In units of the points. Symmetric; 0 for equal sets. With the one
    projection [[1]] it is the optimal transport cost on the line.

    Args:
        a: points [n, ...].
        b: points [m, ...] of the same shape.
        projections: number of random directions, or the directions themselves [d, count]. Arms of one comparison
            share directions.
        generator: draws the directions; needed when `projections` is a number.
        p: order of the distance, at least 1.

    Source: Bonneel et al. 2015.
    """
    if not p >= 1:
        raise ConfigError(f"the order {p} of a Wasserstein distance", where="p", mend="give 1 or more")
    left, right = point_pair(a, b, "a", "b")
    dimension = left.shape[1]
    if isinstance(projections, int):
        if generator is None:
            raise ConfigError("random projections without a generator", where="generator")
        directions = random_directions(dimension, projections, generator)
    else:
        directions = point_set(projections, "projections")
        if len(directions) != dimension:
            raise DataError(f"projections of {len(directions)} dimensions for points of {dimension}")
    total = 0.0
    for columns in blocks(directions.shape[1], len(left) + len(right)):
        some = directions[:, columns]
        total += float(line_costs(np.sort(left @ some, axis=0), np.sort(right @ some, axis=0), p).sum())
    return float((total / directions.shape[1]) ** (1 / p))


def line_costs(sorted_a: Floats, sorted_b: Floats, p: float) -> Floats:
    """W_p^p [columns] between the columns of two sorted arrays [n, columns] and [m, columns]."""
    n, m = len(sorted_a), len(sorted_b)
    if n == m:
        return np.asarray((np.abs(sorted_a - sorted_b) ** p).mean(axis=0))
    # Both quantile functions are constant between neighbouring multiples of 1/n and 1/m: count in units of 1/(n m).
    cuts = np.union1d(np.arange(n + 1, dtype=np.int64) * m, np.arange(m + 1, dtype=np.int64) * n)
    start, weight = cuts[:-1], np.diff(cuts) / (n * m)
    return np.asarray(weight @ (np.abs(sorted_a[start // m] - sorted_b[start // n]) ** p))


def label_accuracy(predicted: Array, labels: Array) -> float:
    """Share of samples whose predicted class [n] is the wanted one [n]."""
    classes, wanted = whole_numbers(predicted, "predicted"), whole_numbers(labels, "labels")
    if len(classes) != len(wanted):
        raise DataError(f"{len(classes)} predictions for {len(wanted)} labels")
    return float((classes == wanted).mean())


def logit_accuracy(logits: Floats, labels: Array | None) -> float:
    """Share of samples whose largest logit [n, classes] is at their label [n]; `Undefined` without labels."""
    if labels is None:
        return Undefined("no labels were asked for")
    wanted = np.asarray(labels)
    classes = logits.shape[1]
    if wanted.size and (wanted.min() < 0 or wanted.max() >= classes):
        raise DataError(f"a label outside 0 to {classes - 1}", where="labels")
    return label_accuracy(logits.argmax(axis=1), wanted)


def saturation(samples: Array, low: float = -1.0, high: float = 1.0) -> float:
    """Share of all values of `samples` that lie strictly beyond the data's range [low, high]."""
    if not low < high:
        raise ConfigError(f"the range {low} to {high} is empty", where="low, high")
    values = finite(samples, "samples")
    return float(((values < low) | (values > high)).mean())


def std_ratio(samples: Array, reference: Array) -> float:
    """Standard deviation of all values of `samples` over that of all values of `reference`: 1 is the same contrast.

    Growth over training is the over-saturation that distribution matching tends to.

    Returns:
        A ratio; `Undefined` when the reference is constant.
    """
    return ratio(spread(samples, "samples"), spread(reference, "reference"))


def ratio(spread: float, reference_spread: float) -> float:
    """A spread over the reference's; `Undefined` when that is 0."""
    if reference_spread == 0:
        return Undefined("the reference is constant, so a ratio to its spread does not exist")
    return spread / reference_spread


def spread(values: Array, name: str = "values") -> float:
    """Standard deviation of all of `values`; exactly 0, not round-off, when they are all equal."""
    array = finite(values, name)
    return float(array.std()) if np.ptp(array) else 0.0
