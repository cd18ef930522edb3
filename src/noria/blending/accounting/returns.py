"""Returns: each plan's return with its interval, and which plans to retire.

    ROI_p = G_p / R_p      lift over regret; and G_p / C_p, lift over spend

A plan is advised away when its return is below a floor beyond doubt: one-sided t test of Σ (G − floor · R) over
clusters (requests, or users), corrected for the number of plans by Holm and for the number of looks by Bonferroni,
with a share of the spend that matters, on the last days in a row. The source promises such a rule; its formula is
ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from noria.blending.accounting.attribution import Displacement
from noria.core.config import Config
from noria.core.statistics.bootstrap import bootstrap_ratios
from noria.core.statistics.corrections import holm
from noria.core.statistics.intervals import Interval

Floats = NDArray[np.float64]


class RetireRule(Config):
    """When a plan is advised away."""

    floor: float = Field(1.0, description="Return that a plan has to reach.")
    share: float = Field(
        0.01, ge=0, le=1, description="Share of the spend below which a plan gets no advice."
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="Chance of advising against any plan wrongly.")
    looks: int = Field(1, ge=1, description="Number of looks at the same data as they grow.")
    days: int = Field(0, ge=0, description="Last days in a row to be below the floor; 0 for none.")


@dataclass(frozen=True)
class PlanReturn:
    """One plan's return.

    Attributes:
        exposures, displaced: shown candidates that it hit, and how many fewer there would be without it.
        spend, spend_share: C, and its share of all plans' spend.
        value_cost, regret, bound: D, R and the bound of R.
        lift: G; None where no candidate has a gain.
        unknown: candidates in it without a gain, left out.
        roi, roi_spend: G / R and G / C with intervals over clusters; None where the denominator is nothing.
        p_value: p value of a return at or above the floor, corrected for all plans and looks; None if unknown.
        days_below: last days in a row with a return below the floor.
        retire: whether the advice is to retire the plan.
    """

    plan: str
    exposures: float
    displaced: float
    spend: float
    spend_share: float | None
    value_cost: float
    regret: float
    bound: float
    lift: float | None
    unknown: int
    roi: Interval | None
    roi_spend: Interval | None
    p_value: float | None
    days_below: int | None
    retire: bool


def plan_returns(
    displaced: Displacement,
    plans: Sequence[str],
    gains: Floats,
    *,
    generator: np.random.Generator,
    unknown: Sequence[int] | None = None,
    clusters: Sequence[object] | None = None,
    days: Sequence[int] | None = None,
    rule: RetireRule | None = None,
    resamples: int = 2000,
) -> list[PlanReturn]:
    """Returns of all plans.

    Args:
        displaced: accounts of the requests.
        plans: ids of the plans.
        gains: [requests, plans] lift, as `attribution.lift` gives it.
        generator: draws the resamples.
        unknown: [plans] candidates without a gain.
        clusters: [requests] what is independent, such as the user; the request itself by default.
        days: [requests] day of each, needed for a rule that looks at days.
        rule: rule of retirement.
        resamples: number of resamples of the intervals.
    """
    rule = rule or RetireRule()
    member = _numbers(clusters if clusters is not None else range(len(gains)))
    count = int(member.max()) + 1 if len(member) else 0

    def by_cluster(column: Floats) -> Floats:
        total = np.zeros((count, column.shape[1]))
        np.add.at(total, member, column)
        return total

    lifted, regret, spend = (by_cluster(one) for one in (gains, displaced.regret, displaced.spend))
    roi = bootstrap_ratios(lifted, regret, generator=generator, resamples=resamples)
    roi_spend = bootstrap_ratios(lifted, spend, generator=generator, resamples=resamples)
    raw = [_below(lifted[:, p] - rule.floor * regret[:, p]) for p in range(len(plans))]
    adjusted = holm(raw, looks=rule.looks)
    streak = _streaks(gains - rule.floor * displaced.regret, displaced.exposures, days)
    names = ("exposures", "exposures_without", "spend", "value_cost", "regret", "bound")
    totals = {name: getattr(displaced, name).sum(axis=0).tolist() for name in names}
    whole = float(displaced.spend.sum())
    result = []
    for p, plan in enumerate(plans):
        exposures, outside, spent, value_cost, cost, bound = (totals[name][p] for name in names)
        share = spent / whole if whole > 0 else None
        p_value, below = adjusted[p], None if streak is None else streak[p]
        advice = (
            p_value is not None
            and p_value <= rule.alpha
            and share is not None
            and share >= rule.share
            and (rule.days == 0 or (below is not None and below >= rule.days))
        )
        result.append(
            PlanReturn(
                plan=plan,
                exposures=exposures,
                displaced=exposures - outside,
                spend=spent,
                spend_share=share,
                value_cost=value_cost,
                regret=cost,
                bound=bound,
                lift=float(gains[:, p].sum()),
                unknown=0 if unknown is None else int(unknown[p]),
                roi=_told(roi[p]),
                roi_spend=_told(roi_spend[p]),
                p_value=p_value,
                days_below=below,
                retire=advice,
            )
        )
    return result


def worst_plan(returns: Sequence[PlanReturn], *, share: float = 0.02) -> int | None:
    """The plan that is surest to return little: the least upper end of its return's interval.

    Args:
        returns: returns of all plans.
        share: share of the spend below which a plan is too small to be told apart from luck.

    Returns:
        Its place; None where no plan has an interval.
    """
    ends = {
        place: plan.roi.high
        for place, plan in enumerate(returns)
        if plan.roi is not None and np.isfinite(plan.roi.high) and (plan.spend_share or 0.0) >= share
    }
    return min(ends, key=lambda place: ends[place]) if ends else None


def _below(differences: Floats) -> float | None:
    """One-sided t test that the mean is not below zero; None where nothing varies."""
    from scipy.special import stdtr

    n = len(differences)
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    if spread == 0:
        return None
    return float(stdtr(n - 1, differences.mean() / (spread / np.sqrt(n))))


def _streaks(surplus: Floats, exposures: Floats, days: Sequence[int] | None) -> list[int] | None:
    """Last days in a row with a surplus below zero; a day on which the plan showed nothing ends no streak."""
    if days is None:
        return None
    day = np.asarray(days)
    result = []
    for p in range(surplus.shape[1]):
        streak = 0
        for one in sorted(set(day.tolist()), reverse=True):
            rows = day == one
            if exposures[rows, p].sum() == 0:
                continue
            if surplus[rows, p].sum() >= 0:
                break
            streak += 1
        result.append(streak)
    return result


def _told(interval: Interval) -> Interval | None:
    return interval if np.isfinite(interval.effect) else None


def _numbers(labels: Sequence[object]) -> NDArray[np.int64]:
    known: dict[object, int] = {}
    return np.array([known.setdefault(label, len(known)) for label in labels], np.int64)
