"""The read-out of an A/B test: per-user means and per-view ratios with CUPED, by tea-tasting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from noria.core.errors import DataError, require

__all__ = ["Effect", "Measure", "ReadOut", "read_out"]


@dataclass(frozen=True)
class Measure:
    """What is compared: a column's mean over users, or the ratio of two columns' means.

    Attributes:
        value: column.
        per: column of the denominator, for a figure a view rather than a user.
        before, before_per: the same columns from before the test, to take out what users differed in anyway (CUPED).
    """

    value: str
    per: str | None = None
    before: str | None = None
    before_per: str | None = None


@dataclass(frozen=True)
class Effect:
    """One figure's effect, treatment against control; `relative` with its 95 % interval."""

    name: str
    control: float
    treatment: float
    difference: float
    relative: float
    low: float
    high: float
    p_value: float


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
        users: by column: one row a user, sums over the test and over the time before it.
        measures: by name.
        variant: column that says which variant a user saw.
        control: the name of the control in it.
        split: users of the treatment a user of the control, as planned.

    Raises:
        DataError: a column is absent, or there are not two variants.
        MissingExtra: there is no tea-tasting.
    """
    tasting, arrow = require("tea_tasting", "blending"), require("pyarrow", "blending")
    wanted = {variant} | {
        one for m in measures.values() for one in (m.value, m.per, m.before, m.before_per) if one is not None
    }
    absent = sorted(wanted - users.keys())
    if absent:
        raise DataError(f"there is no column {absent[0]!r}", where="users")
    seen = [str(one) for one in list(users[variant])]  # type: ignore[arg-type]
    names = sorted(set(seen))
    if len(names) != 2 or control not in names:
        raise DataError(
            f"variants {', '.join(names) or 'of nobody'}",
            where=variant,
            mend=f"give {control!r} and one other",
        )
    metrics: dict[str, Any] = {
        name: tasting.Mean(m.value, m.before)
        if m.per is None
        else tasting.RatioOfMeans(m.value, m.per, m.before, m.before_per)
        for name, m in measures.items()
    }
    treatment = next(name for name in names if name != control)
    ratio = {control: 1.0, treatment: split}
    table = arrow.table({name: seen if name == variant else list(users[name]) for name in sorted(wanted)})  # type: ignore[arg-type]
    experiment = tasting.Experiment({**metrics, "__split__": tasting.SampleRatio(ratio)}, variant=variant)
    found = experiment.analyze(table, control=control)
    effects = [
        Effect(
            name,
            float(found[name].control),
            float(found[name].treatment),
            float(found[name].effect_size),
            float(found[name].rel_effect_size),
            float(found[name].rel_effect_size_ci_lower),
            float(found[name].rel_effect_size_ci_upper),
            float(found[name].pvalue),
        )
        for name in measures
    ]
    counts = {name: seen.count(name) for name in names}
    return ReadOut(effects, counts, float(found["__split__"].pvalue))
