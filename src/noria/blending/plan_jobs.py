"""The jobs behind `noria blending replay`, `solve` and `import`: what plans do on logged requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from noria.blending.attribution import values_of
from noria.blending.jobs import Done, ends, finish, results_folder
from noria.blending.legacy import Legacy, read_legacy
from noria.blending.migration import migrate
from noria.blending.plans import Plan, Plans, load_plans
from noria.blending.replay import Replayed, absent_columns, read_candidates, replay
from noria.blending.scoring import hits
from noria.blending.snapshot import Setting, Snapshot
from noria.blending.solving import Goal, frontier, reached, solve
from noria.blending.targeting import columns_of
from noria.core.errors import ConfigError, DataError
from noria.core.statistics.intervals import paired_difference

__all__ = ["import_legacy", "replay_log", "solve_targets"]

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


# -- solve ------------------------------------------------------------------------------------------------------------


def solve_targets(
    snapshot: Path,
    candidates: Path,
    output: str | None,
    *,
    size: int,
    plans: Path | None = None,
    daily_exposures: float | None = None,
    frontier_of: str | None = None,
    most: int | None = None,
) -> Done:
    """Set the boosts that reach every plan's target, and write the snapshot with them.

    Args:
        snapshot: what serves.
        candidates: a log of whole requests.
        output: folder; `runs/blending/solve` by default.
        size: K.
        plans: the plan file with the targets; the snapshot's by default.
        daily_exposures: of all traffic, needed for targets a day.
        frontier_of: a plan whose price is told as its target rises.
        most: rows of candidates to read.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = results_folder(output, "solve")
    served = Snapshot.load(snapshot)
    if plans is not None:
        file = load_plans(plans)
        kept = {plan: setting for plan, setting in served.settings.items() if plan in file.ids}
        served = Snapshot.of(
            served.alignment, file, settings=kept, version=served.version, created=served.created
        )
    wanted = [
        (bit, plan) for bit, plan in enumerate(served.plans.plans) if plan.target is not None and plan.enabled
    ]
    if not wanted:
        raise ConfigError(
            "no plan has a target",
            where=str(plans or snapshot),
            mend="give one, as target: {exposure_share: 0.05}",
        )
    log = read_candidates(candidates, most=most)
    for _, plan in wanted:
        absent = sorted(columns_of(plan.targeting) - log.columns.keys())
        if absent:
            raise DataError(
                f"there is no column {absent[0]!r}, which plan {plan.id!r} is for", where=str(candidates)
            )
    found = replay(log, served, size)
    places = int(np.minimum(np.diff(found.requests.start), size).sum())
    if not places:
        raise DataError(
            "no candidate can be ranked", where=str(candidates), mend="give a snapshot that knows its sources"
        )
    free = _free_value(found, [bit for bit, _ in wanted])
    goals = [_goal(bit, plan, places, free, daily_exposures) for bit, plan in wanted]
    solved = solve(found.requests, found.tables, size, goals)
    settings = dict(served.settings)
    for (bit, plan), goal in zip(wanted, goals, strict=True):
        weight, bias = float(solved.tables.weight[bit]), float(solved.tables.bias[bit])
        settings[plan.id] = Setting(weight, bias) if goal.moves == "bias" else Setting(weight, plan.bias)
    after = served.next(created=served.created, settings=settings)
    told = []
    for number, ((_, plan), goal) in enumerate(zip(wanted, goals, strict=True)):
        scale = places if goal.moves == "bias" else free
        told.append(
            {
                "plan": plan.id,
                "moves": goal.moves,
                "target": goal.amount / scale,
                "reached": float(solved.reached[number]) / scale,
                "missed": float(solved.missed[number]),
                "price": float(solved.price[number]),
            }
        )
    results: dict[str, Any] = {
        "requests": len(log),
        "exposures": places,
        "size": size,
        "plans": told,
        "value": solved.value / max(1, places),
        "without": free / max(1, places),
        "loss": None if solved.loss is None else solved.loss / max(1, places),
        "rounds": solved.rounds,
        "version": after.version,
        "digest": after.digest,
    }
    if frontier_of is not None:
        results["frontier"] = _frontier(found, served, goals, frontier_of, size, places, free)
    return finish(folder, "solve", results, snapshot__json=after)


def _goal(bit: int, plan: Plan, places: int, free: float, daily: float | None) -> Goal:
    target = plan.target
    assert target is not None
    if target.is_share:
        return Goal(bit, target.amount * (places if target.moves == "bias" else free), target.moves)
    if daily is None:
        raise ConfigError(
            f"plan {plan.id!r} has a target a day",
            where="--daily-exposures",
            mend="say how many exposures a day there are in all",
        )
    return Goal(bit, target.amount * places / daily, target.moves)


def _free_value(found: Replayed, bits: Sequence[int]) -> float:
    """Σ y of the lists with the plans that have targets at no boost."""
    weight, bias = found.tables.weight.copy(), found.tables.bias.copy()
    weight[list(bits)] = bias[list(bits)] = 0.0
    return reached(found.requests, found.tables.repriced(weight, bias), found.size, [])[1]


def _frontier(
    found: Replayed, served: Snapshot, goals: Sequence[Goal], plan: str, size: int, places: int, free: float
) -> dict[str, Any]:
    bit = served.plans.place(plan)
    own = next((goal for goal in goals if goal.plan == bit), Goal(bit, 0.0))
    others = [goal for goal in goals if goal.plan != bit]
    scale = places if own.moves == "bias" else free
    middle = own.amount / scale or 0.05
    shares = [min(0.95, middle * step) for step in (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)]
    points = frontier(found.requests, found.tables, size, own, sorted(set(shares)), others=others)
    within = [point for point in points if point.reached >= point.target - 0.001]
    return {
        "plan": plan,
        "moves": own.moves,
        "points": [asdict(point) | {"cost": point.cost / max(1, places)} for point in within],
        "beyond": [point.target for point in points if point not in within],
    }


# -- import -----------------------------------------------------------------------------------------------------------


def import_legacy(
    source: Path, snapshot: Path, candidates: Path, output: str | None, *, size: int, most: int | None = None
) -> Done:
    """Plans that keep the shares of another system's boosts, without what those have in common.

    Args:
        source: a table of multipliers (.yaml) or a function_score query (.json).
        snapshot: whose alignment gives scores their unit.
        candidates: a log of whole requests, with the columns that the boosts are targeted on.
        output: folder; `runs/blending/import` by default.
        size: K.
        most: rows of candidates to read.

    Raises:
        NoriaError: anything that a user can mend.
    """
    folder = results_folder(output, "import")
    legacy: Legacy = read_legacy(source)
    served = Snapshot.load(snapshot)
    empty = Snapshot.of(served.alignment, legacy.plans())
    log = read_candidates(candidates, most=most)
    absent = absent_columns(log, empty)
    if absent:
        raise DataError(f"there is no column {absent[0]!r}, which a boost is for", where=str(candidates))
    found = replay(log, empty, size)
    x, y = log.score[found.rows], found.requests.value
    z = legacy.boosted(log.score, log.columns)[found.rows]
    if (x <= 0).any():
        raise DataError("a score that is not above 0 has no multiple", where=str(candidates))
    scale = y / x
    source_codes = log.source.codes[found.rows].astype(np.int64)
    kept = np.isfinite(z)
    means = [
        np.bincount(source_codes[kept], weights=one[kept], minlength=len(log.source.names)) for one in (x, z)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        after = scale * (means[0] / means[1])[source_codes] * z  # the old system aligns after boosting
    done = migrate(
        found.requests,
        np.where(kept, after, -np.inf),
        np.where(kept, scale * z - y, 0.0),
        len(found.plans),
        size,
        sources=source_codes,
    )
    biases = done.solved.tables.bias
    plans = Plans(
        plans=tuple(
            plan.model_copy(update={"bias": float(f"{bias:.6g}")})
            for plan, bias in zip(empty.plans.plans, biases.tolist(), strict=True)
        )
    )
    gap = paired_difference(done.requests[1], done.requests[0])
    places = max(1, int(np.minimum(np.diff(found.requests.start), size).sum()))
    results = {
        "requests": len(log),
        "exposures": places,
        "size": size,
        "removed": done.removed,
        "gap": done.gap,
        "value": [done.value[0] / places, done.value[1] / places],
        "gain": ends(gap),
        "sources": [
            {"source": name, "before": float(done.boosted[0][n]), "after": float(done.boosted[1][n])}
            for n, name in enumerate(log.source.names)
            if n < len(done.boosted[0])
        ],
        "plans": [
            {
                "plan": plan.id,
                "when": plan.when,
                "bias": plan.bias,
                "before": int(done.exposures[0][bit]),
                "after": int(done.exposures[1][bit]),
            }
            for bit, plan in enumerate(plans.plans)
        ],
    }
    text = yaml.safe_dump(
        plans.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )
    return finish(
        folder,
        "import",
        results,
        plans__yaml=text,
        snapshot__json=served.next(created=served.created, plans=plans, settings={}),
    )
