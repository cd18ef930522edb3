"""The experiments of the proof, one function a job: JSON arguments in, JSON results out.

Every arm of a seed shares the world, its outcomes and the alignment.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import Requests, displace, lift, sums_of, values_of
from noria.blending.accounting.returns import plan_returns, worst_plan
from noria.blending.alignment.alignment import Alignment
from noria.blending.blender import Blender
from noria.blending.boosting.scoring import ALL, PlanTables, hits, lists
from noria.blending.columns import Candidates
from noria.blending.migration.legacy import Multipliers
from noria.blending.migration.migrate import aligned_after, exposures_of, legacy_lists, migrate
from noria.blending.pricing.solving import Goal, Solution, reached, solve
from noria.blending.snapshot import Snapshot
from noria.blending.world.world import PLANS, SOURCES, World, aligned, make_world, outcomes, world_plans
from noria.core.statistics.intervals import paired_difference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CANDIDATES = 500
"""Candidates of a request of the simulated world."""
ROUNDS = 600
"""Most rounds of the solver, for every form alike."""
SIZE = 10
"""Places of a list in the simulated world."""
POWERS = (1.0, 0.5, 2.0)
"""Powers of the distorted models, by source."""
LEGACY_SOURCES = {"organic": 3.0, "live": 3.5, "ads": 3.2}
LEGACY_PLANS = (1.25, 1.3, 1.4, 1.2, 1.5, 1.35, 1.6, 1.05, 1.4, 1.3)


WORLDS: dict[str, tuple[float, float, float]] = {"proportional": (1.0, 1.0, 1.0), "distorted": POWERS}
"""Powers of the models' scores, by the name of the world."""
_SHRINK: dict[str, tuple[float, ...]] = {"shrink": (200.0, 0.0, 50.0, 1000.0, 4000.0, 16_000.0)}
SPACES: dict[str, dict[str, tuple[float, ...]]] = {
    "hand-set weights": {"live": (1.0, 4.0, 16.0, 64.0), "ads": (1.0, 0.25, 1 / 16, 1 / 64)},
    "min-max": {"live": (1.0, 0.7, 0.85, 1.2), "ads": (1.0, 0.7, 0.85, 1.2)},
    **dict.fromkeys(("mean", "isotonic", "auto"), _SHRINK),
}
"""Free settings of each way to make scores comparable: a weight a source, or pseudo-exposures of a fit."""
OUTCOME_SHARE = 0.04
"""Share of the candidates of a world's history whose outcomes are known."""


def run_aligners(
    seed: int, requests: int, history: int, tried: dict[str, dict[str, list[dict[str, float]]]]
) -> dict[str, dict[str, list[float]]]:
    """True completion rate of the top of plain lists, by world and by how scores were made comparable.

    Args:
        seed: seed of the worlds.
        requests, history: requests of a world, and of its history.
        tried: settings of each arm, by world and arm; one to judge, several to tune on.
    """
    result: dict[str, dict[str, list[float]]] = {}
    for name, powers in WORLDS.items():
        rng = np.random.default_rng([seed, 1])
        past = make_world(rng, requests=history, powers=powers)
        world = make_world(rng, requests=requests, powers=powers)
        tallies = outcomes(past, rng, OUTCOME_SHARE)
        scaled = {
            "hand-set weights": world.score,
            "min-max": min_max(world.score, world.source.codes, world.start),
        }
        rates = {"raw": [_rate(world, world.score)], "oracle": [_rate(world, world.truth)]}
        for arm, settings in tried[name].items():
            keys = [
                scaled[arm] * np.array([one.get(source, 1.0) for source in SOURCES])[world.source.codes]
                if arm in scaled
                else valued(world, aligned(tallies, arm, shrink=one["shrink"]))
                for one in settings
            ]
            rates[arm] = [_rate(world, key) for key in keys]
        result[name] = rates
    return result


def run_world(seed: int, requests: int, history: int) -> dict[str, Any]:
    """Plans in a world: a tuned product against the linear form, a legacy pile-up, attribution and retirement."""
    rng = np.random.default_rng([seed, 2])
    past, world = make_world(rng, requests=history), make_world(rng, requests=requests)
    alignment = aligned(outcomes(past, rng), "mean")
    y = valued(world, alignment)
    blender = Blender(Snapshot.of(alignment, world_plans()))
    mask = blender.masks(world.columns, len(y))
    pool = Requests(y, mask, world.start)
    free, names = PlanTables.idle(len(PLANS)), [name for name, _ in PLANS]
    goals = natural_goals(pool, len(PLANS), SIZE, 2.0)
    columns = {"truth": world.truth, "value": y}

    def worth(rows: Ints) -> dict[str, float]:
        completions, gain = per_place(world.truth, rows), per_place(world.gain, rows)
        return {"completions": completions, "gain": gain, "both": completions + gain}

    return {
        "no plans": list_figures(columns, shown(pool, free)),
        "product": product_against_linear(pool, goals, SIZE, columns),
        "legacy": legacy_against_linear(world, pool, alignment, columns),
        "plans": attribution_figures(pool, goals, SIZE, names, world.gain, worth, seed),
    }


def valued(world: World, alignment: Alignment) -> Floats:
    """[rows] values y under an alignment."""
    whole = Candidates(range(len(world.score)), world.score, world.source, {})
    return alignment.align(whole).value


def shown(pool: Requests, tables: PlanTables, size: int = SIZE) -> Ints:
    """[requests, K] rows of the lists under all plans."""
    return lists(pool.value, pool.mask, pool.start, ALL, tables, size)[:, 0]


def natural_goals(pool: Requests, plans: int, size: int, factor: float) -> list[Goal]:
    """Goals of so many times the exposures that each plan has without boosts."""
    natural, _ = reached(pool, PlanTables.idle(plans), size, [Goal(p, 0) for p in range(plans)])
    return [Goal(p, factor * amount) for p, amount in enumerate(natural)]


def product_against_linear(
    pool: Requests, goals: Sequence[Goal], size: int, columns: Mapping[str, Floats]
) -> dict[str, Any]:
    """A product of boosts tuned to exposures, and the linear form at the very exposures that it reaches.

    A product is linear in the logarithm of the value, so the same solver tunes both.
    """
    product = Requests(np.log(np.maximum(pool.value, 1e-12)), pool.mask, pool.start)
    tuned = solve(product, PlanTables.idle(len(goals)), size, goals, rounds=ROUNDS)
    theirs = shown(product, tuned.tables, size)
    ours, gap = at_shares(pool, theirs, len(goals), size)
    mine = shown(pool, ours.tables, size)
    return {
        "missed": float(tuned.missed.max(initial=0.0)),
        "gap": gap,
        "certificate": certificate(pool, ours, theirs, mine),
        "product": list_figures(columns, theirs),
        "linear": list_figures(columns, mine),
        "over requests": over_requests(columns, mine, theirs),
    }


def over_requests(columns: Mapping[str, Floats], ours: Ints, theirs: Ints) -> dict[str, list[float]]:
    """Gain of a place over one of other lists of the same requests, with its 95 % interval."""
    result = {}
    for name, column in columns.items():
        sides = [sums_of(column, rows) / rows.shape[1] for rows in (ours, theirs)]
        gap = paired_difference(*sides)
        result[name] = [gap.effect, gap.low, gap.high]
    return result


def at_shares(pool: Requests, other: Ints, plans: int, size: int) -> tuple[Solution, float]:
    """The linear form at the shares of other lists, and the largest difference that is left."""
    goals = [Goal(p, int(count), exactly=True) for p, count in enumerate(exposures_of(pool, other, plans))]
    empty = PlanTables.idle(plans)
    solved = solve(pool, empty, size, goals, rounds=ROUNDS, tolerance=1e-4)
    return solved, float(solved.missed.max(initial=0.0))


def certificate(pool: Requests, solved: Solution, theirs: Ints, mine: Ints) -> float:
    """Σ y + Σ λ · exposures of ours less that of other lists, the least over requests: never below zero."""
    shares = [hits(pool.mask, p) for p in range(len(solved.tables))]
    priced = pool.value + sum(price * hit for price, hit in zip(solved.tables.bias, shares, strict=True))
    ours, others = (sums_of(priced, rows) for rows in (mine, theirs))
    return float((ours - others).min())


def legacy_against_linear(
    world: World, pool: Requests, alignment: Alignment, columns: Mapping[str, Floats]
) -> dict[str, Any]:
    """A pile-up of multipliers, and the linear form that keeps the shares of every plan and source."""
    table = Multipliers.model_validate(
        {
            "multipliers": [
                *(
                    {"id": f"all-{name}", "when": f'source == "{name}"', "boost": boost}
                    for name, boost in LEGACY_SOURCES.items()
                ),
                *(
                    {"id": name, "when": when, "boost": boost}
                    for (name, when), boost in zip(PLANS, LEGACY_PLANS, strict=True)
                ),
            ]
        }
    )
    z = table.boosted(world.score, world.columns)
    blender = Blender(Snapshot.of(alignment, table.plans()))
    wide = Requests(pool.value, blender.masks(world.columns, len(z)), pool.start)
    sources = world.source.codes.astype(np.int64)
    legacy, lifted = aligned_after(world.score, z, pool.value, sources)
    result = migrate(wide, legacy, lifted, len(table.multipliers), SIZE, sources=sources)
    old = legacy_lists(legacy, pool.value, pool.start, SIZE)
    new = shown(wide, result.solved.tables)
    return {
        "gap": result.gap,
        "certificate": certificate(wide, result.solved, old, new),
        "boosts": _magnitudes(world, pool, z, legacy, old)
        | {"linear": float(result.boosted[1].sum()) / old.size},
        "legacy": list_figures(columns, old),
        "linear": list_figures(columns, new),
        "over requests": over_requests(columns, new, old),
    }


def _magnitudes(world: World, pool: Requests, z: Floats, legacy: Floats, rows: Ints) -> dict[str, float]:
    """Σ |boost| a place of the legacy lists in each of the units that one could count it in."""
    scale = pool.value / world.score
    common = float((scale * z).sum() / pool.value.sum())
    units = {
        "legacy, in the alignment of unboosted scores": scale * z,
        "legacy, in the alignment after boosting": legacy,
        "legacy, with the mean factor divided out": scale * z / common,
        "legacy, with the least source's factor divided out": scale * z / min(LEGACY_SOURCES.values()),
    }
    return {
        name: float(values_of(np.abs(boosted - pool.value), rows).sum()) / rows.size
        for name, boosted in units.items()
    }


def attribution_figures(
    pool: Requests,
    goals: Sequence[Goal],
    size: int,
    plans: Sequence[str],
    gain: Floats,
    worth: Callable[[Ints], dict[str, float]],
    seed: int,
) -> dict[str, Any]:
    """Plans at their goals: the bound on every request, and the plan of the worst return removed.

    Returns are measured over every other request; what removing a plan is worth is judged on the rest.
    """
    solved = solve(pool, PlanTables.idle(len(plans)), size, goals)
    result = displace(pool, solved.tables, size)
    half = np.arange(0, len(pool), 2)
    gains, generator = lift(pool, result, gain)[0][half], np.random.default_rng([seed, 3])
    returns = plan_returns(result.take(half), plans, gains, generator=generator, resamples=400)
    worst = worst_plan(returns)
    assert worst is not None
    judged = result.take(np.arange(1, len(pool), 2))
    whole = worth(judged.lists)
    removed = [worth(judged.without[:, p]) for p in range(len(plans))]
    others = [one for p, one in enumerate(removed) if p != worst]
    bad = (result.regret < -1e-9) | (result.regret > result.bound + 1e-9)
    return {
        "violations": int(bad.sum()),
        "checked": int(result.regret.size),
        "regret": float(result.regret.sum()),
        "bound": float(result.bound.sum()),
        "worst": plans[worst],
        "all plans": whole,
        "without the worst": removed[worst],
        "without another": {key: float(np.mean([one[key] for one in others])) for key in whole},
        "returns": {
            plan.plan: None if plan.roi is None else [plan.roi.effect, plan.roi.low, plan.roi.high]
            for plan in returns
        },
    }


def per_place(column: Floats, rows: Ints) -> float:
    """Mean of a column over the places of lists."""
    return float(values_of(column, rows).sum()) / max(1, int((rows >= 0).sum()))


def list_figures(columns: Mapping[str, Floats], rows: Ints) -> dict[str, float]:
    """Means of columns over the places of lists."""
    return {name: per_place(column, rows) for name, column in columns.items()}


def _rate(world: World, key: Floats) -> float:
    """True completion rate of the best of each request by a key."""
    table, truth = (column.reshape(world.requests, world.candidates) for column in (key, world.truth))
    best = np.argpartition(-table, SIZE, axis=1)[:, :SIZE]
    return float(np.take_along_axis(truth, best, axis=1).mean())


def min_max(score: Floats, source: NDArray[Any], start: Ints) -> Floats:
    """Scores of each source and request brought to [0, 1], as search engines' normalisation does."""
    result = np.empty(len(score))
    for first, end in itertools.pairwise(start.tolist()):
        for code in np.unique(source[first:end]):
            mine = first + np.flatnonzero(source[first:end] == code)
            low, high = score[mine].min(), score[mine].max()
            result[mine] = (score[mine] - low) / (high - low) if high > low else 1.0
    return result
