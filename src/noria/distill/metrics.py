"""How far a set of samples is from a set of references: pure functions of arrays.

Every function takes NumPy arrays or PyTorch tensors of any float type, computes in float64 and returns plain floats.
Sets are `[n, ...]`, one point a row; trailing axes are flattened to `d` numbers a point. A set that is too small, has
a NaN or an infinity in it, or does not fit the other set is a `DataError`. A value that the sets leave undefined (a
ratio with a zero below) is an `Undefined`: a NaN that knows its reason. It is never turned into a number.

The features are the caller's. In proofs they are the penultimate layer of `noria.distill.classifier`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.distance import cdist

from noria.core.errors import ConfigError, DataError, require

__all__ = [
    "Array",
    "DensityCoverage",
    "ManifoldScores",
    "Moments",
    "PrecisionRecall",
    "Undefined",
    "density_coverage",
    "frechet_distance",
    "k_means_modes",
    "knn_radii",
    "label_accuracy",
    "manifold_scores",
    "mode_coverage",
    "mode_shares",
    "moments",
    "nearest_mode",
    "precision_recall",
    "random_directions",
    "saturation",
    "sliced_wasserstein",
    "std_ratio",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Array: TypeAlias = npt.NDArray[Any] | torch.Tensor

BLOCK = 2**21
"""Entries of a distance or projection matrix held at a time: 16 MiB of float64."""


class Undefined(float):
    """NaN with the reason why there is no number.

    >>> value = Undefined("the reference has no spread")
    >>> value == value, value.reason
    (False, 'the reference has no spread')
    """

    reason: str

    def __new__(cls, reason: str) -> Undefined:
        """A NaN."""
        self = super().__new__(cls, "nan")
        self.reason = reason
        return self

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]  # what pickle and copy rebuild it from
        return (self.reason,)

    def __repr__(self) -> str:
        return f"Undefined({self.reason!r})"


# --- Fréchet distance ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Mean [d] and unbiased covariance [d, d] of `count` points."""

    mean: Floats
    covariance: Floats
    count: int


def moments(features: Array) -> Moments:
    """Mean and unbiased covariance of `features` [n, d]; n ≥ 2.

    Raises:
        DataError: fewer than two points, or a value that is not finite.
    """
    points = _points(features, "features", at_least=2)
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
        features_b: the same of the other set.

    Raises:
        DataError: fewer than two points, a value that is not finite, or sets of different dimension.

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


# --- nearest neighbours -------------------------------------------------------------------------------------


class PrecisionRecall(NamedTuple):
    """Share of samples within the reference's manifold, share of references within the samples'."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How densely references surround the samples (about 1 for equal laws), share of references with a sample near."""

    density: float
    coverage: float


class ManifoldScores(NamedTuple):
    """The four nearest-neighbour scores of one pass."""

    precision: float
    recall: float
    density: float
    coverage: float


def knn_radii(points: Array, k: int) -> Floats:
    """Euclidean distance [n] of every point to its k-th nearest other point; n > k.

    Raises:
        DataError: `k` or fewer points, or a value that is not finite.
        ConfigError: `k` below 1.
    """
    if k < 1:
        raise ConfigError(f"{k} nearest neighbours", where="k", mend="give 1 or more")
    points = _points(points, "points", at_least=k + 1)
    radii = [
        np.partition(cdist(points[rows], points), k, axis=1)[:, k].copy()  # rank 0 is the point itself
        for rows in _blocks(len(points), len(points))
    ]
    return np.concatenate(radii)


def manifold_scores(
    reference: Array, samples: Array, k: int = 5, *, reference_radii: Floats | None = None
) -> ManifoldScores:
    """Precision, recall, density and coverage from one pass over the distances.

    Around every point x of a set is the ball B(x) up to its k-th nearest neighbour in that set. Then

        precision = mean over samples s    of [s ∈ B(r) for some reference r]
        recall    = mean over references r of [r ∈ B(s) for some sample s]
        density   = mean over samples s    of #{references r: s ∈ B(r)} / k
        coverage  = mean over references r of [B(r) holds some sample]

    A ball is open, but always holds its own centre: so a set is fully within itself even where duplicates shrink
    balls to points, and all else equals the `prdc` package. Distances are block-wise and exact, not expanded through
    inner products, so results do not depend on the blocks. 2,000 × 2,000 points of 64 numbers take some 0.3 s.

    Args:
        reference: real points [n, d]; n > k.
        samples: generated points [m, d]; m > k.
        k: neighbours; the papers use 3 for precision and recall, 5 for density and coverage.
        reference_radii: `knn_radii(reference, k)` when the reference is used more than once.

    Raises:
        DataError: too few points, a value that is not finite, or sets of different dimension.
        ConfigError: `k` below 1.

    Source: Kynkäänniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage).
    """
    sample_radii = knn_radii(samples, k)
    real, made = _pair(reference, samples, "reference", "samples", at_least=k + 1)
    real_radii = knn_radii(real, k) if reference_radii is None else reference_radii
    if len(real_radii) != len(real):
        raise DataError(f"{len(real_radii)} radii for {len(real)} references")
    precise, balls = 0, 0
    recalled = np.zeros(len(real), dtype=bool)
    nearest = np.full(len(real), np.inf)
    for rows in _blocks(len(made), len(real)):
        distances = cdist(made[rows], real)
        same = distances == 0
        in_real = (distances < real_radii) | same
        precise += int(in_real.any(axis=1).sum())
        balls += int(in_real.sum())
        recalled |= ((distances < sample_radii[rows, None]) | same).any(axis=0)
        nearest = np.minimum(nearest, distances.min(axis=0))
    covered = (nearest < real_radii) | (nearest == 0)
    return ManifoldScores(
        precise / len(made), float(recalled.mean()), balls / (k * len(made)), float(covered.mean())
    )


def precision_recall(reference: Array, samples: Array, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall; see `manifold_scores`, which gives all four for the same work."""
    scores = manifold_scores(reference, samples, k)
    return PrecisionRecall(scores.precision, scores.recall)


def density_coverage(reference: Array, samples: Array, k: int = 5) -> DensityCoverage:
    """Density and coverage; see `manifold_scores`, which gives all four for the same work."""
    scores = manifold_scores(reference, samples, k)
    return DensityCoverage(scores.density, scores.coverage)


# --- sliced Wasserstein distance ----------------------------------------------------------------------------


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
        projections: how many random directions, or the directions themselves [d, count]. Arms of one comparison
            share directions.
        generator: draws the directions; needed when `projections` is a number.
        p: order of the distance, at least 1.

    Raises:
        DataError: an empty set, a value that is not finite, or sets of different dimension.
        ConfigError: `p` below 1, or a number of projections without a generator.

    Source: Bonneel et al. 2015.
    """
    if not p >= 1:
        raise ConfigError(f"the order {p} of a Wasserstein distance", where="p", mend="give 1 or more")
    left, right = _pair(a, b, "a", "b")
    dimension = left.shape[1]
    if isinstance(projections, int):
        if generator is None:
            raise ConfigError("random projections without a generator", where="generator")
        directions = random_directions(dimension, projections, generator)
    else:
        directions = _points(projections, "projections")
        if len(directions) != dimension:
            raise DataError(f"projections of {len(directions)} dimensions for points of {dimension}")
    total = 0.0
    for columns in _blocks(directions.shape[1], len(left) + len(right)):
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


# --- labels and modes ---------------------------------------------------------------------------------------


def label_accuracy(predicted: Array, labels: Array) -> float:
    """Share of samples whose predicted class [n] is the one that was asked for [n].

    Raises:
        DataError: no samples, different lengths, or values that are not whole numbers.
    """
    found, asked = _whole(predicted, "predicted"), _whole(labels, "labels")
    if len(found) != len(asked):
        raise DataError(f"{len(found)} predictions for {len(asked)} labels")
    return float((found == asked).mean())


def k_means_modes(features: Array, labels: Array, per_class: int, seed: int = 0) -> Floats:
    """Centres [modes, d] of `per_class` k-means clusters within each class of `features` [n, d], class by class.

    A class with fewer points than `per_class` gives one mode a distinct point. Run on one thread, so that the same
    input gives the same centres.

    Raises:
        DataError: no points, a value that is not finite, or lengths that differ.
        ConfigError: `per_class` below 1.
    """
    points, classes = _points(features, "features"), _whole(labels, "labels")
    if len(points) != len(classes):
        raise DataError(f"{len(classes)} labels for {len(points)} points")
    if per_class < 1:
        raise ConfigError(f"{per_class} modes a class", where="per_class", mend="give 1 or more")
    cluster = require("sklearn.cluster", "proof")
    threads = require("threadpoolctl", "proof")
    centres = []
    with threads.threadpool_limits(1):
        for number in np.unique(classes):
            own = points[classes == number]
            count = min(per_class, len(np.unique(own, axis=0)))
            centres.append(cluster.KMeans(count, n_init=4, random_state=seed).fit(own).cluster_centers_)
    return np.concatenate(centres)


def nearest_mode(features: Array, centres: Array) -> Integers:
    """Index [n] of the centre in `centres` [modes, d] that is nearest to each row of `features` [n, d]."""
    points, means = _pair(features, centres, "features", "centres")
    return np.concatenate(
        [cdist(points[rows], means).argmin(axis=1) for rows in _blocks(len(points), len(means))]
    )


def mode_shares(modes: Array, count: int) -> Floats:
    """Share [count] of the points `modes` [n] (mode numbers below `count`) that fall into each mode.

    Raises:
        DataError: no points, or a number that is no mode.
    """
    numbers = _whole(modes, "modes")
    if numbers.min() < 0 or numbers.max() >= count:
        outside = numbers[(numbers < 0) | (numbers >= count)][0]
        raise DataError(f"mode {outside} of {count}", mend=f"modes are numbered 0 to {count - 1}")
    return np.bincount(numbers, minlength=count) / len(numbers)


def mode_coverage(modes: Array, reference_shares: Array, share: float = 0.25) -> float:
    """Share of the reference's modes (classes, or clusters within them) that the samples hit.

    A mode is hit when its share of the samples is at least `share` times its share of the reference, and it got at
    least one sample. Modes that the reference does not have are not asked for.

    Args:
        modes: mode number [n] of every sample, e.g. the predicted class or `nearest_mode`.
        reference_shares: `mode_shares` of the reference, [modes].
        share: the part of a mode's natural weight below which it counts as lost, in (0, 1].

    Returns:
        A share in [0, 1]; `Undefined` with fewer samples than modes, where even a perfect sampler must miss some.

    Raises:
        DataError: no samples, a number that is no mode, or shares that are not a distribution.
        ConfigError: `share` outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigError(f"{share} is not in (0, 1]", where="share")
    wanted = _finite(reference_shares, "reference_shares")
    if wanted.ndim != 1 or (wanted < 0).any() or abs(wanted.sum() - 1) > 1e-6:
        raise DataError("shares are one axis of numbers ≥ 0 with the sum 1", where="reference_shares")
    got = mode_shares(modes, len(wanted))
    present = wanted > 0
    if len(modes) < present.sum():
        return Undefined(f"{len(modes)} samples cannot hit {present.sum()} modes")
    hit = (got >= share * wanted) & (got > 0)
    return float(hit[present].mean())


# --- contrast -----------------------------------------------------------------------------------------------


def saturation(samples: Array, low: float = -1.0, high: float = 1.0) -> float:
    """Share of all values of `samples` that lie strictly beyond the data's range [low, high].

    Raises:
        DataError: no values, or one that is not finite.
        ConfigError: an empty range.
    """
    if not low < high:
        raise ConfigError(f"the range {low} to {high} is empty", where="low, high")
    values = _finite(samples, "samples")
    return float(((values < low) | (values > high)).mean())


def std_ratio(samples: Array, reference: Array) -> float:
    """Standard deviation of all values of `samples` over that of all values of `reference`: 1 is the same contrast.

    Growth over training is the over-saturation that distribution matching tends to.

    Returns:
        A ratio; `Undefined` when the reference is constant.

    Raises:
        DataError: no values, or one that is not finite.
    """
    return ratio(spread(samples, "samples"), spread(reference, "reference"))


def ratio(spread: float, reference_spread: float) -> float:
    """A spread over the reference's; `Undefined` when that is 0."""
    if reference_spread == 0:
        return Undefined("the reference is constant, so a ratio to its spread does not exist")
    return spread / reference_spread


def spread(values: Array, name: str = "values") -> float:
    """Standard deviation of all of `values`; exactly 0, not round-off, when they are all equal."""
    array = _finite(values, name)
    return float(array.std()) if np.ptp(array) else 0.0


# --- what comes in ------------------------------------------------------------------------------------------


def _finite(values: Array, name: str) -> Floats:
    """`values` as a non-empty finite float64 array."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"not an array of real numbers ({error})", where=name) from error
    if array.size == 0:
        raise DataError("no values", where=name)
    if not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        row = int(np.argwhere(bad)[0][0]) if array.ndim else 0
        raise DataError(
            f"{int(bad.sum())} of {array.size} values are NaN or infinite, the first in row {row}", where=name
        )
    return array


def _points(values: Array, name: str, at_least: int = 1) -> Floats:
    """`values` [n, ...] as finite float64 points [n, d] with n ≥ `at_least`."""
    array = _finite(values, name)
    if array.ndim < 2:
        raise DataError(f"an array with {array.ndim} axes is not a set of points [n, d]", where=name)
    if len(array) < at_least:
        raise DataError(f"too few points: {len(array)}, and {at_least} are needed", where=name)
    return array.reshape(len(array), -1)


def _pair(a: Array, b: Array, name_a: str, name_b: str, at_least: int = 1) -> tuple[Floats, Floats]:
    """Two sets of points of one dimension."""
    left, right = _points(a, name_a, at_least), _points(b, name_b, at_least)
    if left.shape[1] != right.shape[1]:
        raise DataError(
            f"points of {left.shape[1]} ({name_a}) and of {right.shape[1]} dimensions ({name_b}) cannot be compared"
        )
    return left, right


def _whole(values: Array, name: str) -> Integers:
    """`values` [n] as whole numbers."""
    array = _finite(values, name)
    if array.ndim != 1 or (array != np.floor(array)).any():
        raise DataError("not one axis of whole numbers", where=name)
    return array.astype(np.int64)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of `rows` such that a block of them by `columns` stays within BLOCK entries."""
    step = max(1, BLOCK // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
