"""Two snapshots on the same logged requests: shares, spend and value, and the changes paired by request."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import values_of
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
    shown = replayed.lists
    places = int((shown >= 0).sum())
    value = float(values_of(replayed.requests.value, shown).sum())
    moved = float(values_of(np.abs(replayed.score - replayed.requests.value), shown).sum())
    plans = []
    for bit, plan in enumerate(replayed.plans):
        hit = hits(replayed.requests.mask, bit).astype(float)
        s = np.where(
            hit > 0, replayed.tables.weight[bit] * replayed.requests.value + replayed.tables.bias[bit], 0.0
        )
        exposures, spend = (float(values_of(column, shown).sum()) for column in (hit, s))
        plans.append(
            {
                "plan": plan,
                "weight": float(replayed.tables.weight[bit]),
                "bias": float(replayed.tables.bias[bit]),
                "candidates": float(hit.mean()) if len(hit) else None,
                "exposures": exposures,
                "share": exposures / places if places else None,
                "spend": spend,
                "price": 1000 * spend / exposures if exposures else None,
            }
        )
    return {
        "version": snapshot.version,
        "digest": snapshot.digest,
        "exposures": places,
        "value": value / places if places else None,
        "inflation": moved / value if value > 0 else None,
        "guard": float(values_of(replayed.guard, shown).sum()),
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

    def per_request(side: ReplayResult, column: Floats) -> Floats:
        total: Floats = values_of(column, side.lists).sum(axis=1)
        return total

    one, two = (per_request(side, side.requests.value) for side in (before, after))
    mean = float(one.mean()) if len(one) else 0.0
    gap = paired_difference(two, one)
    result: dict[str, Any] = {
        "value": None
        if not mean
        else [x / mean if np.isfinite(x) else None for x in (gap.effect, gap.low, gap.high)],
        "moved": _moved(before, after),
        "plans": [],
    }
    for plan in dict.fromkeys((*before.plans, *after.plans)):
        sides = []
        for side in (before, after):
            if plan in side.plans:
                hit = hits(side.requests.mask, side.plans.index(plan)).astype(float)
                sides.append(per_request(side, hit) / np.maximum((side.lists >= 0).sum(axis=1), 1))
            else:
                sides.append(np.zeros(len(side.lists)))
        result["plans"].append(
            {"plan": plan, "share": ends(within_share(paired_difference(sides[1], sides[0]), sides[0]))}
        )
    return result


def _moved(before: ReplayResult, after: ReplayResult) -> float | None:
    """Share of places that another candidate holds."""
    one, two = (np.where(side.lists >= 0, side.rows[side.lists], -1) for side in (before, after))
    places = int(((one >= 0) | (two >= 0)).sum())
    return float((one != two).sum()) / places if places else None
