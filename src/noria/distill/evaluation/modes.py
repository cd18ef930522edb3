"""Modes of a reference set, and the share of them that samples hit; errors are those of `metrics`."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from noria.core.errors import ConfigError, DataError, require
from noria.distill.evaluation.points import (
    Array,
    Floats,
    Integers,
    Undefined,
    blocks,
    finite,
    point_pair,
    point_set,
    whole_numbers,
)

__all__ = ["k_means_modes", "mode_coverage", "mode_shares", "nearest_mode"]


def k_means_modes(features: Array, labels: Array, per_class: int, seed: int = 0) -> Floats:
    """Centres [modes, d] of `per_class` k-means clusters within each class of `features` [n, d], class by class.

    A class with fewer points than `per_class` gives one mode a distinct point. Run on one thread, so that the same
    input gives the same centres.
    """
    points, classes = point_set(features, "features"), whole_numbers(labels, "labels")
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
    points, means = point_pair(features, centres, "features", "centres")
    return np.concatenate(
        [cdist(points[rows], means).argmin(axis=1) for rows in blocks(len(points), len(means))]
    )


def mode_shares(modes: Array, count: int) -> Floats:
    """Share [count] of the points `modes` [n] (mode numbers below `count`) that fall into each mode."""
    numbers = whole_numbers(modes, "modes")
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
    """
    if not 0 < share <= 1:
        raise ConfigError(f"{share} is not in (0, 1]", where="share")
    wanted = finite(reference_shares, "reference_shares")
    if wanted.ndim != 1 or (wanted < 0).any() or abs(wanted.sum() - 1) > 1e-6:
        raise DataError("shares are one axis of numbers ≥ 0 with the sum 1", where="reference_shares")
    got = mode_shares(modes, len(wanted))
    present = wanted > 0
    if len(modes) < present.sum():
        return Undefined(f"{len(modes)} samples cannot hit {present.sum()} modes")
    hit = (got >= share * wanted) & (got > 0)
    return float(hit[present].mean())
