"""The read-out of an A/B test: per-user means and per-view ratios with CUPED, by tea-tasting.

CUPED takes out what users differed in anyway: y − θ (x − x̄) with x the same figure before the test and θ = cov(y, x) /
var(x), which leaves the effect where it is and narrows its interval (Deng et al. 2013).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.core.errors import DataError, require


@dataclass(frozen=True)
class Measure:
    """A figure that is compared: a column's mean over users, or the ratio of two columns' means.

    Attributes:
        value: column of the figure.
        per: column of the denominator, for a figure a view rather than a user.
        before, before_per: columns of the time before the test, to take out what users differed in anyway (CUPED).
    """

    value: str
    per: str | None = None
    before: str | None = None
    before_per: str | None = None


@dataclass(frozen=True)
class Effect:
    """One figure's effect, treatment against control; `relative` with its 95 % interval. NaN is what cannot be had.

    Attributes:
        name: name of the figure.
        control, treatment: mean of the figure in each.
        difference, relative: treatment less control, and that over the control.
        low, high: ends of the interval of `relative`.
        p_value: two-sided p value of no difference.
        missing: users who lack one of its columns, and are left out of it.
    """

    name: str
    control: float
    treatment: float
    difference: float
    relative: float
    low: float
    high: float
    p_value: float
    missing: int


@dataclass(frozen=True)
class ReadOut:
    """Effects, and the p value of the split itself: a small one says that users were not dealt out evenly."""

    effects: list[Effect]
    users: dict[str, int]
    split_p_value: float


def read_out(
    users: Mapping[str, ArrayLike | Sequence[Any]],
    measures: Mapping[str, Measure],
    *,
    variant: str = "variant",
    control: str = "control",
    split: float = 1.0,
) -> ReadOut:
    """Read a test of two variants.

    Args:
        users: columns by name, a row a user: sums over the test and over the time before it.
        measures: figures to compare, by name.
        variant: column that says which variant a user saw.
        control: the name of the control in it.
        split: users of the treatment a user of the control, as planned.

    Raises:
        DataError: a column is absent, or there are not two variants.
        MissingExtra: there is no tea-tasting.
    """
    tasting, arrow = require("tea_tasting", "experiments"), require("pyarrow", "experiments")
    for name in (variant, *(one for m in measures.values() for one in _columns(m))):
        if name not in users:
            raise DataError(f"there is no column {name!r}", where="users")
    seen = np.array([str(one) for one in list(users[variant])])  # type: ignore[arg-type]
    names = sorted(set(seen.tolist()))
    if len(names) != 2 or control not in names:
        raise DataError(
            f"variants {', '.join(names) or 'of nobody'}",
            where=variant,
            mend=f"give {control!r} and one other",
        )
    treatment = next(name for name in names if name != control)

    def analysed(metric: Any, columns: Mapping[str, NDArray[Any]]) -> Any:
        experiment = tasting.Experiment({"it": metric}, variant=variant)
        with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what cannot be computed is NaN
            return experiment.analyze(arrow.table(dict(columns)), control=control)["it"]

    effects = []
    for name, measure in measures.items():
        columns = {one: np.asarray(users[one], np.float64) for one in _columns(measure)}
        known = np.isfinite(np.column_stack(list(columns.values())).sum(axis=1))
        missing = len(known) - int(known.sum())
        sides = [known & (seen == side) for side in (control, treatment)]
        result = None
        if min(int(side.sum()) for side in sides) > 1:
            kept = {one: column[known] for one, column in columns.items()} | {variant: seen[known]}
            if measure.per is None:
                metric = tasting.Mean(measure.value, measure.before)
            else:
                metric = tasting.RatioOfMeans(measure.value, measure.per, measure.before, measure.before_per)
            result = analysed(metric, kept)

        def had(field: str, result: Any = result) -> float:
            return math.nan if result is None else float(getattr(result, field))

        effects.append(
            Effect(
                name,
                control=had("control"),
                treatment=had("treatment"),
                difference=had("effect_size"),
                relative=had("rel_effect_size"),
                low=had("rel_effect_size_ci_lower"),
                high=had("rel_effect_size_ci_upper"),
                p_value=had("pvalue"),
                missing=missing,
            )
        )
    dealt = analysed(tasting.SampleRatio({control: 1.0, treatment: split}), {variant: seen})
    counts = {name: int((seen == name).sum()) for name in names}
    return ReadOut(effects, counts, float(dealt.pvalue))


def _columns(measure: Measure) -> list[str]:
    columns = (measure.value, measure.per, measure.before, measure.before_per)
    return [one for one in columns if one is not None]
