"""Effective completion, the unit of everything here, and an audit of figures that could be the anchor.

    a = 1{ watch ≥ θ(duration) }            ECR = Σ a / n            ECS = (Σ a + κ ECR₀) / (n + κ)

Uniboost (arXiv 2605.26424) names the anchor; its threshold is not known. By default θ is half of the duration, at most
10 s (`capped`). The rule `quantile` takes the 60 % quantile of watch time among contents of about the same length, from
control traffic, within [min(duration, 3 s), duration], so that long and short contents have nearly equal rates. ECS of
a group is its smoothed rate; of a candidate it is its aligned value. Rules and reading are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from noria.core.config import Config

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST_SECONDS = 3.0
LONGEST = 20.0
"""Durations after which a watch is a loop or a screen left on, and not valid."""


class EffectiveCompletion(Config):
    """When an exposure is an effective completion."""

    rule: Literal["quantile", "ratio", "seconds", "capped"] = Field(
        "capped",
        description="Rule of the threshold: a quantile of watch time by duration, a ratio of the duration, fixed "
        "seconds, or capped: the ratio, but no more than the seconds.",
    )
    edges: tuple[float, ...] = Field((), description="Edges of the buckets of duration in seconds, rising.")
    thresholds: tuple[float, ...] = Field(
        (),
        description="Threshold of each bucket in seconds; empty: to fit.",
    )
    quantile: float = Field(
        0.6, gt=0, lt=1, description="Quantile of watch time that thresholds are fitted at."
    )
    ratio: float = Field(0.5, gt=0, le=1, description="Share of the duration that has to be watched.")
    seconds: float = Field(10.0, gt=0, description="Seconds to watch, also of content without duration.")

    @model_validator(mode="after")
    def _fits(self) -> EffectiveCompletion:
        if self.thresholds and len(self.thresholds) != len(self.edges) + 1:
            raise ValueError(
                f"{len(self.edges)} edges part {len(self.edges) + 1} buckets, not {len(self.thresholds)}"
            )
        if any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges do not rise")
        return self

    @property
    def fitted(self) -> bool:
        """Whether its thresholds are there."""
        return self.rule != "quantile" or bool(self.thresholds)

    def threshold(self, duration: Floats) -> Floats:
        """[rows] durations, NaN without one → [rows] seconds that have to be watched."""
        if not self.fitted:
            raise ValueError("the thresholds are not fitted")
        with np.errstate(invalid="ignore"):
            if self.rule == "ratio":
                result = self.ratio * duration
            elif self.rule == "seconds":
                result = np.minimum(self.seconds, duration)
            elif self.rule == "capped":
                result = np.minimum(self.ratio * duration, self.seconds)
            else:
                bucket = np.searchsorted(np.array(self.edges), duration, side="right")
                result = np.array(self.thresholds)[np.minimum(bucket, len(self.thresholds) - 1)]
                result = np.clip(result, np.minimum(duration, LEAST_SECONDS), duration)
        return np.where(np.isnan(duration), self.seconds, result)

    def outcome(self, watch: ArrayLike, duration: ArrayLike) -> tuple[Floats, dict[str, int]]:
        """Outcomes of exposures.

        Args:
            watch: [rows] seconds watched; NaN is not known.
            duration: [rows] seconds of the content; NaN where it has none.

        Returns:
            [rows] a: 1, 0, or NaN where the record is not valid; and how many are not, by reason.
        """
        w, d = np.asarray(watch, np.float64), np.asarray(duration, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            reasons = {
                "watch missing": np.isnan(w),
                "watch negative": w < 0,
                "duration not positive": d <= 0,
                "watched too long to be watching": w > LONGEST * d,
            }
            result = (w >= self.threshold(d)).astype(np.float64)
        counts, bad = {}, np.zeros(len(w), np.bool_)
        for reason, rows in reasons.items():
            fresh = rows & ~bad
            bad |= rows
            if fresh.any():
                counts[reason] = int(fresh.sum())
        result[bad] = np.nan
        return result, counts


def fit_thresholds(
    watch: ArrayLike, duration: ArrayLike, *, quantile: float = 0.6, buckets: int = 10, seconds: float = 10.0
) -> EffectiveCompletion:
    """The quantile rule, from control traffic; to be frozen for a quarter, so that the unit does not drift.

    Args:
        watch, duration: [rows] seconds; rows that are not valid are left out.
        quantile: quantile of watch time in each bucket.
        buckets: number of buckets of duration, of about as many exposures each.
        seconds: asked of content without a duration.
    """
    w, d = np.asarray(watch, np.float64), np.asarray(duration, np.float64)
    with np.errstate(invalid="ignore"):
        good = (w >= 0) & (d > 0) & (w <= LONGEST * d)
    w, d = w[good], d[good]
    if not len(d):
        return EffectiveCompletion(rule="capped", seconds=seconds)
    edges = np.unique(np.quantile(d, np.linspace(0, 1, buckets + 1)[1:-1]))
    bucket = np.searchsorted(edges, d, side="right")
    whole = float(np.quantile(w, quantile))
    thresholds = [
        float(np.quantile(w[bucket == n], quantile)) if (bucket == n).any() else whole
        for n in range(len(edges) + 1)
    ]
    return EffectiveCompletion(
        rule="quantile",
        edges=tuple(edges.tolist()),
        thresholds=tuple(thresholds),
        quantile=quantile,
        seconds=seconds,
    )


def smoothed_rate(completions: float, exposures: float, *, prior: float, strength: float = 200.0) -> float:
    """ECS of a group: its rate, drawn towards the prior one by `strength` exposures."""
    return (completions + strength * prior) / (exposures + strength)


# -- audit ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnchorAudit:
    """Quality of a figure as an anchor; None where the data do not say.

    Attributes:
        name: name of the figure.
        stability: standard deviation of the anchor's daily means over their mean; low is good.
        by_duration: weighted standard deviation of its means by bucket of duration, over the mean; low is good.
        by_source: stability by source.
        maturity: minutes until 95 % of it are in; low is good.
        coverage: share of exposures that have it; high is good.
        north_star: rank correlation of its group means with the north star's; high is good.
        pareto: whether no other figure is at least as good in everything and better in something.
    """

    name: str
    stability: float | None
    by_duration: float | None
    by_source: float | None
    maturity: float | None
    coverage: float
    north_star: float | None
    pareto: bool = False


def audit_anchors(
    figures: Mapping[str, ArrayLike],
    *,
    day: Sequence[Any] | None = None,
    duration: ArrayLike | None = None,
    source: Sequence[Any] | None = None,
    delay: Mapping[str, ArrayLike] | None = None,
    group: Sequence[Any] | None = None,
    north_star: ArrayLike | None = None,
    buckets: int = 10,
) -> list[AnchorAudit]:
    """Compare figures that could be the anchor: no score, a table of what each is good at.

    Args:
        figures: [rows] figure of each exposure by name, NaN where it is not known.
        day: [rows] day of each exposure.
        duration: [rows] seconds of the content.
        source: [rows] source of each exposure.
        delay: [rows] minutes from exposure to the figure, by name.
        group: [rows] what means are compared over, such as the user.
        north_star: [rows] what matters in the end, such as coming back; compared by group.
        buckets: number of buckets of duration.
    """
    days, sources, groups = (None if labels is None else _codes(labels) for labels in (day, source, group))
    lengths = None
    if duration is not None:
        d = np.asarray(duration, np.float64)
        inner = np.linspace(0, 1, buckets + 1)[1:-1]
        edges = np.unique(np.nanquantile(d, inner)) if np.isfinite(d).any() else np.empty(0)
        lengths = np.where(np.isnan(d), -1, np.searchsorted(edges, d, side="right"))
    result = []
    for name, column in figures.items():
        values = np.asarray(column, np.float64)
        known = ~np.isnan(values)
        late = np.asarray((delay or {}).get(name, np.full(len(values), np.nan)), np.float64)[known]
        result.append(
            AnchorAudit(
                name=name,
                stability=_spread(values, days, weighted=False),
                by_duration=_spread(values, lengths),
                by_source=_spread(values, sources),
                maturity=float(np.nanquantile(late, 0.95)) if np.isfinite(late).any() else None,
                coverage=float(known.mean()) if len(values) else 0.0,
                north_star=_correlation(values, north_star, groups),
            )
        )
    return [replace(one, pareto=not any(_beats(other, one) for other in result)) for one in result]


_SIGNS = {"stability": 1, "by_duration": 1, "by_source": 1, "maturity": 1, "coverage": -1, "north_star": -1}
"""1 for what is good when it is low, −1 for what is good when it is high."""


def _beats(other: AnchorAudit, one: AnchorAudit) -> bool:
    """Whether a figure is at least as good as another in everything that both know, and better in something."""
    pairs = [(sign, getattr(one, name), getattr(other, name)) for name, sign in _SIGNS.items()]
    gaps = [sign * (ours - theirs) for sign, ours, theirs in pairs if ours is not None and theirs is not None]
    return bool(gaps) and min(gaps) >= 0 and max(gaps) > 0


def _codes(labels: Sequence[Any]) -> Ints:
    """[rows] labels as numbers in the order of their first appearance; −1 for None."""
    known: dict[Any, int] = {}
    return np.array([-1 if one is None else known.setdefault(one, len(known)) for one in labels], np.int64)


def _means(values: Floats, codes: Ints) -> tuple[Floats, Floats]:
    """[labels] means of the known values, NaN where there are none; and how many there are."""
    rows = ~np.isnan(values) & (codes >= 0)
    size = int(codes.max(initial=-1)) + 1
    counts = np.bincount(codes[rows], minlength=size).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.bincount(codes[rows], weights=values[rows], minlength=size) / counts, counts


def _spread(values: Floats, codes: Ints | None, *, weighted: bool = True) -> float | None:
    if codes is None:
        return None
    means, counts = _means(values, codes)
    means, counts = means[counts > 0], counts[counts > 0]
    if len(means) < 2:
        return None
    weights = counts if weighted else np.ones(len(means))
    centre = float(np.average(means, weights=weights))
    square = float(np.average((means - centre) ** 2, weights=weights))
    if not weighted:
        square *= len(means) / (len(means) - 1)
    return float(np.sqrt(square)) / centre if centre > 0 else None


def _correlation(values: Floats, star: ArrayLike | None, codes: Ints | None) -> float | None:
    if star is None or codes is None:
        return None
    from scipy.stats import spearmanr

    sides = np.stack([_means(np.asarray(one, np.float64), codes)[0] for one in (values, star)])
    both = sides[:, np.isfinite(sides).all(axis=0)]
    if both.shape[1] < 3 or (np.ptp(both, axis=1) == 0).any():
        return None
    return float(spearmanr(*both).statistic)
