"""Agreement of judges: Krippendorff's alpha, where invalid verdicts are missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from noria.core.judging.items import Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def agreement(subjects: Iterable[Sequence[Sequence[Verdict]]]) -> float | None:
    """Krippendorff's alpha of the judges over all items of all subjects, [subjects][judges][items]."""
    import numpy as np  # in the functions: settings name items of checklists, and need no arrays

    columns = [
        [{"yes": 1.0, "no": 0.0}.get(verdict.value, math.nan) for verdict in column]
        for rows in subjects
        for column in zip(*rows, strict=True)
    ]
    return krippendorff_alpha(np.array(columns).T) if columns else None


Level: TypeAlias = Literal["nominal", "ordinal", "interval", "ratio"]


def krippendorff_alpha(ratings: NDArray[np.float64], level: Level = "nominal") -> float | None:
    """Krippendorff's alpha = 1 − observed / expected disagreement; 1 is perfect agreement, 0 that of chance.

    The definition is that of Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability". Memory grows with the
    square of the number of different values.

    Args:
        ratings: [judges, units]; NaN is a missing rating.
        level: level of measurement.

    Returns:
        None where it is undefined: no unit has two ratings, or all ratings are the same.

    Raises:
        ValueError: a rating is infinite, or negative on the ratio level.
    """
    import numpy as np

    present = ~np.isnan(ratings)
    ratings = ratings[:, present.sum(axis=0) >= 2]  # a rating alone in its unit agrees with nothing
    values = np.unique(ratings[~np.isnan(ratings)])
    if len(values) < 2:
        return None
    if np.isinf(values).any() or (level == "ratio" and values[0] < 0):
        raise ValueError("ratings are finite, and not negative on the ratio level")
    counts = (ratings[:, :, None] == values).sum(axis=0).astype(float)  # [units, values]
    total = counts.sum(axis=0)
    weights = counts / (counts.sum(axis=1, keepdims=True) - 1)
    observed = weights.T @ counts - np.diag(weights.sum(axis=0))
    expected = (np.outer(total, total) - np.diag(total)) / (total.sum() - 1)
    # Ordinal values stand at the middle of their ranks.
    scale = np.cumsum(total) - total / 2 if level == "ordinal" else values
    distance = (scale[:, None] - scale) ** 2
    if level == "nominal":
        distance = (distance > 0).astype(float)
    elif level == "ratio":
        distance /= np.where(distance > 0, (values[:, None] + values) ** 2, 1)
    return float(1 - (observed * distance).sum() / (expected * distance).sum())
