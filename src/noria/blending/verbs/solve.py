"""The verb `solve`: the boosts that reach every plan's target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from noria.blending.logs.replay import Replayed, read_candidates, replay
from noria.blending.plans.plans import Plan, load_plans
from noria.blending.plans.targeting import columns_of
from noria.blending.pricing.solving import Goal, frontier, reached, solve
from noria.blending.snapshot import Setting, Snapshot
from noria.blending.verbs.results import Done, finish, results_folder
from noria.core.errors import ConfigError, DataError

__all__ = ["solve_targets"]


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
