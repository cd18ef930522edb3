"""Two snapshots on the same logged requests: shares, spend and value, and the changes paired by request."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import sums_of, values_of
from noria.blending.boosting.scoring import hits
from noria.blending.logs.replay import ReplayResult
from noria.blending.snapshot import Snapshot
from noria.core.statistics.intervals import Interval, paired_difference

Floats = NDArray[np.float64]


def ends(interval: Interval | None) -> list[float | None] | None:
    """[effect, low, high] as JSON has it; None where there is no effect."""
    if interval is None or not np.isfinite(interval.effect):
        return None
    return [end if np.isfinite(end) else None for end in (interval.effect, interval.low, interval.high)]


def summary(replayed: ReplayResult, snapshot: Snapshot) -> dict[str, Any]:
    """One snapshot's lists in numbers: value, inflation, guards, and each plan's share, spend and price."""
    shown, tables = replayed.lists, replayed.tables
    value = replayed.requests.value
    places = int((shown >= 0).sum())

    def total(column: Floats) -> float:
        return float(values_of(column, shown).sum())

    plans = []
    for bit, plan in enumerate(replayed.plans):
        weight, bias = float(tables.weight[bit]), float(tables.bias[bit])
        hit = hits(replayed.requests.mask, bit)
        exposures, spend = total(hit.astype(float)), total(np.where(hit, weight * value + bias, 0.0))
        plans.append(
            {
                "plan": plan,
                "weight": weight,
                "bias": bias,
                "candidates": float(hit.mean()) if len(hit) else None,
                "exposures": exposures,
                "share": exposures / places if places else None,
                "spend": spend,
                "price": 1000 * spend / exposures if exposures else None,
            }
        )
    worth, moved = total(value), total(np.abs(replayed.score - value))
    return {
        "version": snapshot.version,
        "digest": snapshot.digest,
        "exposures": places,
        "value": worth / places if places else None,
        "inflation": moved / worth if worth > 0 else None,
        "guard": total(replayed.guard),
        "dropped": dict(replayed.dropped),
        "plans": plans,
    }


def within_share(change: Interval, before: Floats) -> Interval:
    """The change of a share with its interval cut to what leaves the share between 0 and 1.

    Args:
        change: change of the mean share.
        before: [requests] the share in each before.
    """
    mean = float(before.mean()) if len(before) else math.nan
    if not math.isfinite(mean):
        return change
    return replace(change, low=max(change.low, -mean), high=min(change.high, 1 - mean))


def change(before: ReplayResult, after: ReplayResult) -> dict[str, Any]:
    """Changes from one replay to another, paired by request: value, places, and each plan's share."""
    one, two = (sums_of(side.requests.value, side.lists) for side in (before, after))
    mean = float(one.mean()) if len(one) else 0.0
    gap = paired_difference(two, one)
    plans = []
    for plan in dict.fromkeys((*before.plans, *after.plans)):
        old, new = (_shares(side, plan) for side in (before, after))
        plans.append({"plan": plan, "share": ends(within_share(paired_difference(new, old), old))})
    return {
        "value": [x / mean if np.isfinite(x) else None for x in (gap.effect, gap.low, gap.high)]
        if mean
        else None,
        "moved": _moved(before, after),
        "plans": plans,
    }


def _shares(side: ReplayResult, plan: str) -> Floats:
    """[requests] share of a plan in each list; none where there is no such plan."""
    if plan not in side.plans:
        return np.zeros(len(side.lists))
    hit = hits(side.requests.mask, side.plans.index(plan)).astype(float)
    result: Floats = sums_of(hit, side.lists) / np.maximum((side.lists >= 0).sum(axis=1), 1)
    return result


def _moved(before: ReplayResult, after: ReplayResult) -> float | None:
    """Share of places that another candidate holds."""
    one, two = (np.where(side.lists >= 0, side.rows[side.lists], -1) for side in (before, after))
    places = int(((one >= 0) | (two >= 0)).sum())
    return float((one != two).sum()) / places if places else None
