"""What-if: requests that were served, ranked again with other plans.

Shares, spend and value follow exactly from the candidates; outcomes do not, since other items would have been seen.
Differences are paired by request, with Student's t interval over requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.blender import Blender, RankedList
from noria.blending.logs.comparison import within_share
from noria.blending.plans.plans import Plans
from noria.blending.service.recent import ServedRequest
from noria.blending.snapshot import Setting
from noria.core.statistics.intervals import paired_difference

FEW = 30
"""Requests below which an interval over them is no more than a hint."""


def with_setting(
    blender: Blender, plan: str, weight: float | None, bias: float | None, *, on: bool
) -> Blender:
    """A blender with another weight, bias or switch of one plan; None leaves what serves."""
    snapshot = blender.snapshot
    old = snapshot.weight_and_bias(plan)
    setting = Setting(old[0] if weight is None else weight, old[1] if bias is None else bias)
    plans = tuple(
        one.model_copy(update={"enabled": on}) if one.id == plan else one for one in snapshot.plans.plans
    )
    changed = snapshot.next(
        created=snapshot.created,
        plans=snapshot.plans.model_copy(update={"plans": plans}),
        settings={**snapshot.settings, plan: setting},
    )
    return Blender(changed)


def with_plans(blender: Blender, plans: Plans) -> Blender:
    """A blender with another plan file; what controllers set for plans that stay is kept."""
    now = blender.snapshot
    return Blender(now.next(created=now.created, plans=plans, settings=now.settings_for(plans)))


def what_if(served: Sequence[ServedRequest], before: Blender, after: Blender) -> dict[str, Any]:
    """Both rankings of the same requests, in completions per 1,000 exposures.

    Args:
        served: requests; those of the control bucket are left out.
        before: blender that serves.
        after: blender with the change.

    Returns:
        {requests, few, exposures, moved, value, plans: {id: {share, spend}}}; value and each of a plan's figures is
        {before, after, change: [effect, low, high]}, with None for what cannot be had. `few` says that so few requests
        tell little.
    """
    requests = [one for one in served if not one.control and len(one.candidates)]
    lists = [[one.ranked(blender) for one in requests] for blender in (before, after)]
    shown = [np.array([len(ranked) for ranked in side], float) for side in lists]
    values = [np.array([ranked.value.sum() for ranked in side], float) for side in lists]
    record: dict[str, Any] = {
        "requests": len(requests),
        "few": len(requests) < FEW,
        "exposures": int(shown[1].sum()),
        "moved": _moved(*lists),
        "value": _compared(values, shown, per=1000.0),
        "plans": {},
    }
    for plan in dict.fromkeys((*before.plans, *after.plans)):
        parts = [
            np.array([_of_plan(ranked, plan) for ranked in side], float).reshape(-1, 2) for side in lists
        ]
        record["plans"][plan] = {
            "share": _compared([part[:, 0] for part in parts], shown, per=1.0, is_share=True),
            "spend": _compared([part[:, 1] for part in parts], shown, per=1000.0),
        }
    return record


def _of_plan(ranked: RankedList, plan: str) -> tuple[float, float]:
    """Places that a plan hits, and its contributions' sum; 0 for a plan that is absent."""
    if plan not in ranked.plans:
        return 0.0, 0.0
    bit = ranked.plans.index(plan)
    hit = ranked.mask >> np.uint64(bit) & np.uint64(1)
    return float(hit.sum()), float(ranked.contributions[:, bit].sum())


def _moved(before: Sequence[RankedList], after: Sequence[RankedList]) -> float | None:
    """Share of places that another item holds."""
    changed = total = 0
    for one, two in zip(before, after, strict=True):
        longest, both = max(len(one), len(two)), min(len(one), len(two))
        total += longest
        changed += longest - int((one.order[:both] == two.order[:both]).sum())
    return changed / total if total else None


def _compared(
    sums: Sequence[NDArray[np.float64]],
    shown: Sequence[NDArray[np.float64]],
    *,
    per: float,
    is_share: bool = False,
) -> dict[str, Any]:
    """Sums by request over exposures, before and after, and the change with its interval."""
    means = [float(a.sum() / n.sum()) * per if n.sum() else None for a, n in zip(sums, shown, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = [a / n * per for a, n in zip(sums, shown, strict=True)]
    result = paired_difference(rates[1], rates[0])
    if is_share:
        result = within_share(result, rates[0])
    change = None if np.isnan(result.effect) else [result.effect, result.low, result.high]
    return {"before": means[0], "after": means[1], "change": change}
