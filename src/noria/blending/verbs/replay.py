"""The jobs behind `noria blending replay`, `solve` and `import`: what plans do on logged requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import values_of
from noria.blending.boosting.scoring import hits
from noria.blending.logs.replay import Replayed, absent_columns, read_candidates, replay
from noria.blending.plans.plans import load_plans
from noria.blending.snapshot import Snapshot
from noria.blending.verbs.results import Done, ends, finish, results_folder
from noria.core.statistics.intervals import paired_difference

__all__ = ["replay_log"]

Floats = NDArray[np.float64]


# -- replay -----------------------------------------------------------------------------------------------------------


def replay_log(
    snapshot: Path,
    candidates: Path,
    output: str | None,
    *,
    size: int,
    against: Path | None = None,
    plans: Path | None = None,
    most: int | None = None,
) -> Done:
    """Rank logged requests again, and compare with another snapshot or plan file.

    Args:
        snapshot: what serves.
        candidates: the log.
        output: folder; `runs/blending/replay` by default.
        size: K.
        against: another snapshot.
        plans: another plan file, on the alignment of the first.
        most: rows of the log to read.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = results_folder(output, "replay")
    first = Snapshot.load(snapshot)
    second = Snapshot.load(against) if against is not None else first
    if plans is not None:
        second = Snapshot.of(
            second.alignment, load_plans(plans), version=second.version + 1, created=second.created
        )
    log = read_candidates(candidates, most=most)
    before = replay(log, first, size)
    results: dict[str, Any] = {
        "requests": len(log),
        "candidates": len(log.score),
        "size": size,
        "absent": sorted({*absent_columns(log, first), *absent_columns(log, second)}),
        "before": _side(before, first),
    }
    if second is not first:
        after = replay(log, second, size)
        results["after"] = _side(after, second)
        results["change"] = _change(before, after)
    return finish(folder, "replay", results)


def _side(found: Replayed, snapshot: Snapshot) -> dict[str, Any]:
    """One snapshot's lists in numbers."""
    shown = found.lists
    places = int((shown >= 0).sum())
    value = float(values_of(found.requests.value, shown).sum())
    moved = float(values_of(np.abs(found.score - found.requests.value), shown).sum())
    plans = []
    for bit, plan in enumerate(found.plans):
        hit = hits(found.requests.mask, bit).astype(float)
        s = np.where(hit > 0, found.tables.weight[bit] * found.requests.value + found.tables.bias[bit], 0.0)
        exposures, spend = (float(values_of(column, shown).sum()) for column in (hit, s))
        plans.append(
            {
                "plan": plan,
                "weight": float(found.tables.weight[bit]),
                "bias": float(found.tables.bias[bit]),
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
        "guard": float(values_of(found.guard, shown).sum()),
        "dropped": dict(found.dropped),
        "plans": plans,
    }


def _change(before: Replayed, after: Replayed) -> dict[str, Any]:
    """Second less first, paired by request."""

    def per_request(found: Replayed, column: Floats) -> Floats:
        total: Floats = values_of(column, found.lists).sum(axis=1)
        return total

    one, two = (per_request(found, found.requests.value) for found in (before, after))
    mean = float(one.mean()) if len(one) else 0.0
    gap = paired_difference(two, one)
    found: dict[str, Any] = {
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
        found["plans"].append({"plan": plan, "share": ends(paired_difference(sides[1], sides[0]))})
    return found


def _moved(before: Replayed, after: Replayed) -> float | None:
    """Share of places that another candidate holds."""
    one, two = (np.where(side.lists >= 0, side.rows[side.lists], -1) for side in (before, after))
    places = int(((one >= 0) | (two >= 0)).sum())
    return float((one != two).sum()) / places if places else None
