"""The experiments of the proof, one function a job: JSON arguments in, JSON results out.

Every arm of a seed shares the world, its outcomes and the alignment.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.aligners import Kind
from noria.blending.alignment import Alignment
from noria.blending.attribution import Displaced, Requests, displace, lift, values_of
from noria.blending.blender import Blender
from noria.blending.columns import Candidates, Coded
from noria.blending.fitting import FitConfig, fit_alignment
from noria.blending.legacy import Multipliers
from noria.blending.migration import exposures_of, legacy_lists, migrate
from noria.blending.returns import PlanReturn, plan_returns, worst_plan
from noria.blending.scoring import ALL, PlanTables, hits, lists
from noria.blending.snapshot import Snapshot
from noria.blending.solving import Goal, Solved, reached, solve
from noria.blending.tallies import Tallies, folds
from noria.blending.world import BAD, PLANS, SOURCES, World, make_world, world_plans
from noria.core.statistics.intervals import paired_difference

__all__ = ["run_aligners", "run_bandit", "run_movielens", "run_world"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SIZE = 10
"""Places of a list in the simulated world."""
POWERS = (1.0, 0.5, 2.0)
"""Of the distorted models, by source."""
LEGACY_SOURCES = {"organic": 3.0, "live": 3.5, "ads": 3.2}
LEGACY_PLANS = (1.25, 1.3, 1.4, 1.2, 1.5, 1.35, 1.6, 1.05, 1.4, 1.3)


def run_aligners(seed: int, requests: int, history: int) -> dict[str, Any]:
    """True completion rate of the top of plain lists, by how scores were made comparable."""
    found: dict[str, Any] = {}
    for name, powers in (("proportional", (1.0, 1.0, 1.0)), ("distorted", POWERS)):
        rng = np.random.default_rng([seed, 1])
        past = make_world(rng, requests=history, powers=powers)
        world = make_world(rng, requests=requests, powers=powers)
        tallies = outcomes(past, rng)
        found[name] = {
            "raw": _rate(world, world.score),
            "per-request min-max": _rate(world, _min_max(world)),
            "oracle": _rate(world, world.truth),
        }
        kinds: tuple[Kind, ...] = ("mean", "isotonic")
        for kind in kinds:
            found[name][kind] = _rate(world, valued(world, aligned(tallies, kind)))
        found[name]["chosen by the diagnosis"] = _rate(world, valued(world, aligned(tallies, "auto")))
    return found


def run_world(seed: int, requests: int, history: int) -> dict[str, Any]:
    """Plans in a world: a tuned product against the linear form, a legacy pile-up, attribution and retirement."""
    rng = np.random.default_rng([seed, 2])
    past, world = make_world(rng, requests=history), make_world(rng, requests=requests)
    alignment = aligned(outcomes(past, rng), "mean")
    y = valued(world, alignment)
    blender = Blender(Snapshot.of(alignment, world_plans()))
    mask = blender.masks(world.columns, len(y))
    pool = Requests(y, mask, world.start)
    free = PlanTables.idle(len(PLANS))
    natural, _ = reached(pool, free, SIZE, [Goal(p, 0) for p in range(len(PLANS))])
    return {
        "no plans": _list_figures(world, pool, shown(pool, free)),
        "product": product_against_linear(world, pool, 2 * natural),
        "legacy": legacy_against_linear(world, pool, alignment),
        "plans": attribution_figures(world, pool, 2 * natural, seed),
    }


# -- the pieces -------------------------------------------------------------------------------------------------------


def outcomes(past: World, rng: np.random.Generator, share: float = 0.04) -> Tallies:
    """Outcomes of randomly shown candidates of an earlier time: the control bucket."""
    rows = np.flatnonzero(rng.random(len(past.truth)) < share)
    seen = (rng.random(len(rows)) < past.truth[rows]).astype(float)
    tallies = Tallies()
    for code, source in enumerate(SOURCES):
        mine = past.source.codes[rows] == code
        tallies.add(
            past.score[rows][mine],
            seen[mine],
            source=source,
            control=True,
            fold=folds(rows[mine] // past.candidates),
        )
    return tallies


def aligned(tallies: Tallies, kind: Any) -> Alignment:
    """The alignment of one kind."""
    return fit_alignment(tallies, FitConfig(aligner=kind, half_life=None, least_control=0), now=0.0)[0]


def valued(world: World, alignment: Alignment) -> Floats:
    """[rows] y."""
    whole = Candidates(range(len(world.score)), world.score, world.source, {})
    return alignment.align(whole).value


def shown(pool: Requests, tables: PlanTables, size: int = SIZE) -> Ints:
    """[requests, K] rows of the lists under all plans."""
    return lists(pool.value, pool.mask, pool.start, ALL, tables, size)[:, 0]


def product_against_linear(world: World, pool: Requests, amounts: Floats) -> dict[str, Any]:
    """A product of boosts tuned to exposures, and the linear form at the very exposures that it reaches.

    A product is linear in the logarithm of the value, so the same solver tunes both.
    """
    plans = len(PLANS)
    free = PlanTables.idle(plans)
    product = Requests(np.log(np.maximum(pool.value, 1e-12)), pool.mask, pool.start)
    tuned = solve(product, free, SIZE, [Goal(p, a) for p, a in enumerate(amounts)], rounds=600)
    theirs = shown(product, tuned.tables)
    ours, gap = at_shares(pool, theirs, plans, SIZE)
    mine = shown(pool, ours.tables)
    return {
        "missed": float(tuned.missed.max(initial=0.0)),
        "gap": gap,
        "product": _list_figures(world, pool, theirs),
        "linear": _list_figures(world, pool, mine),
        "certificate": certificate(pool, ours, theirs, mine),
        "over requests": over_requests(world, pool, mine, theirs),
    }


def over_requests(world: World, pool: Requests, ours: Ints, theirs: Ints) -> dict[str, list[float]]:
    """What a place of lists has more than one of other lists of the same requests, with its 95 % interval."""
    found = {}
    for name, column in (("truth", world.truth), ("value", pool.value)):
        sides = [values_of(column, rows).sum(axis=1) / rows.shape[1] for rows in (ours, theirs)]
        gap = paired_difference(*sides)
        found[name] = [gap.effect, gap.low, gap.high]
    return found


def at_shares(pool: Requests, other: Ints, plans: int, size: int) -> tuple[Solved, float]:
    """The linear form at the shares of other lists, and the largest difference that is left."""
    goals = [Goal(p, int(count), exactly=True) for p, count in enumerate(exposures_of(pool, other, plans))]
    empty = PlanTables.idle(plans)
    solved = solve(pool, empty, size, goals, rounds=600, tolerance=1e-4)
    return solved, float(solved.missed.max(initial=0.0))


def certificate(pool: Requests, solved: Solved, theirs: Ints, mine: Ints) -> float:
    """Σ y + Σ λ · exposures of ours less that of other lists, the least over requests: never below zero."""
    shares = [hits(pool.mask, p) for p in range(len(solved.tables))]
    priced = pool.value + sum(price * hit for price, hit in zip(solved.tables.bias, shares, strict=True))
    ours, others = (values_of(priced, rows).sum(axis=1) for rows in (mine, theirs))
    return float((ours - others).min())


def legacy_against_linear(world: World, pool: Requests, alignment: Alignment) -> dict[str, Any]:
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
    scale = pool.value / world.score  # α of each row's source
    # The control arm aligns after boosting: α' = α · mean(x) / mean(z) of each source.
    means = [np.bincount(world.source.codes, weights=one) for one in (world.score, z)]
    after = scale * (means[0] / means[1])[world.source.codes]
    found = migrate(
        wide,
        after * z,
        scale * z - pool.value,
        len(table.multipliers),
        SIZE,
        sources=world.source.codes.astype(np.int64),
    )
    old = legacy_lists(after * z, pool.value, pool.start, SIZE)
    new = shown(wide, found.solved.tables)
    before, now = found.boosted
    return {
        "gap": found.gap,
        "removed": found.removed,
        "goal": 0.8,
        "removed by source": {name: float(1 - now[n] / before[n]) for n, name in enumerate(SOURCES)},
        "legacy": _list_figures(world, pool, old),
        "linear": _list_figures(world, pool, new),
        "over requests": over_requests(world, pool, new, old),
    }


def attribution_figures(world: World, pool: Requests, amounts: Floats, seed: int) -> dict[str, Any]:
    """Plans at twice their natural exposures: the bound on every request, and the plan of the worst return removed."""
    goals = [Goal(p, a) for p, a in enumerate(amounts)]
    empty = PlanTables.idle(len(PLANS))
    solved = solve(pool, empty, SIZE, goals)
    found = displace(pool, solved.tables, SIZE)
    gains, _ = lift(pool, found, world.gain)
    names = [name for name, _ in PLANS]
    told, worst = judged_plans(found, gains, names, seed)
    judged = found.take(np.arange(1, world.requests, 2))
    whole = _worth(world, judged.lists)
    removed = [_worth(world, judged.without[:, p]) for p in range(len(PLANS))]
    others = [removed[p] for p in range(len(PLANS)) if p != worst]
    return {
        "violations": violations(found),
        "checked": int(found.regret.size),
        "regret": float(found.regret.sum()),
        "bound": float(found.bound.sum()),
        "worst": names[worst],
        "worst is bad": names[worst] in BAD,
        "all plans": whole,
        "without the worst": removed[worst],
        "without another": {key: float(np.mean([one[key] for one in others])) for key in whole},
        "returns": {
            plan.plan: {
                "price": 1000 * plan.spend / plan.exposures if plan.exposures else None,
                "share": plan.exposures / (found.lists.size / 2),
                "roi": None if plan.roi is None else [plan.roi.effect, plan.roi.low, plan.roi.high],
                "retire": plan.retire,
            }
            for plan in told
        },
    }


def judged_plans(
    found: Displaced, gains: Floats, plans: Sequence[str], seed: int
) -> tuple[list[PlanReturn], int]:
    """Returns over every other request, and the plan with the worst; what that is worth is judged on the rest."""
    half = np.arange(0, len(gains), 2)
    generator = np.random.default_rng([seed, 3])
    told = plan_returns(found.take(half), plans, gains[half], generator=generator, resamples=400)
    worst = worst_plan(told)
    assert worst is not None
    return told, worst


def violations(found: Displaced, slack: float = 1e-9) -> int:
    """Requests and plans on which 0 ≤ regret ≤ bound does not hold."""
    return int(((found.regret < -slack) | (found.regret > found.bound + slack)).sum())


def _worth(world: World, rows: Ints) -> dict[str, float]:
    """Of lists, a place: true completions, gains, and both."""
    places = max(1, int((rows >= 0).sum()))
    truth, gain = (float(values_of(column, rows).sum()) / places for column in (world.truth, world.gain))
    return {"completions": truth, "gain": gain, "both": truth + gain}


def _list_figures(world: World, pool: Requests, rows: Ints) -> dict[str, float]:
    """Of lists, a place: true completions and values."""
    places = max(1, int((rows >= 0).sum()))
    return {
        "truth": float(values_of(world.truth, rows).sum()) / places,
        "value": float(values_of(pool.value, rows).sum()) / places,
    }


def _rate(world: World, key: Floats) -> float:
    """True completion rate of the best of each request by a key."""
    table, truth = (column.reshape(world.requests, world.candidates) for column in (key, world.truth))
    best = np.argpartition(-table, SIZE, axis=1)[:, :SIZE]
    return float(np.take_along_axis(truth, best, axis=1).mean())


def _min_max(world: World) -> Floats:
    """Scores of each source and request brought to [0, 1], as search engines' normalisation does."""
    found = np.empty(len(world.score))
    table = world.score.reshape(world.requests, world.candidates)
    codes = world.source.codes.reshape(world.requests, world.candidates)
    out = found.reshape(world.requests, world.candidates)
    for code in range(len(SOURCES)):
        mine = codes == code
        low = np.where(mine, table, np.inf).min(axis=1, keepdims=True)
        high = np.where(mine, table, -np.inf).max(axis=1, keepdims=True)
        scaled = (table - low) / np.maximum(high - low, 1e-300)
        out[mine] = scaled[mine]
    return found


# -- MovieLens --------------------------------------------------------------------------------------------------------

FILM_SIZE = 5
FACTORS = 16
LIKED = 4.0
"""Ratings from here on are effective completions."""
FILM_PLANS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("family", ("Children's", "Animation")),
    ("horror", ("Horror",)),
    ("romance", ("Romance",)),
    ("science-fiction", ("Sci-Fi",)),
    ("documentary", ("Documentary",)),
    ("musical", ("Musical",)),
)


def run_movielens(seed: int) -> dict[str, Any] | None:
    """Two models on scales of their own rank what a user rated, held out; None without the data.

    Half of each user's ratings train the models: factors by alternating least squares, and popularity, each the
    source of half of the films. A quarter of the held-out ratings is the control bucket that scores are aligned on;
    the rest are the requests. A rating of 4 or more is an effective completion, so every candidate's outcome is
    known.
    """
    from noria.blending.data import movielens

    log = movielens()
    if log is None:
        return None
    rng = np.random.default_rng([seed, 4])
    n = len(log.rating)
    train = rng.random(n) < 0.5
    predicted = _als(log.user[train], log.film[train], log.rating[train], log.users, log.films, rng)
    seen = np.bincount(log.film[train], minlength=log.films)
    total = np.bincount(log.film[train], weights=log.rating[train], minlength=log.films)
    liked = (log.rating >= LIKED).astype(float)
    popular = rng.random(log.films) < 0.5
    held = np.flatnonzero(~train)
    held = held[np.argsort(log.user[held], kind="stable")]
    user, film = log.user[held], log.film[held]
    source = popular[film].astype(np.int64)
    x = np.where(source == 1, 37.0 * np.log1p(seen[film]), np.exp(predicted(user, film)))
    a = liked[held]
    control = rng.random(log.users) < 0.25
    asked = control[user]
    tallies = Tallies()
    names = ("taste", "popularity")
    for code, name in enumerate(names):
        rows = asked & (source == code)
        tallies.add(x[rows], a[rows], source=name, control=True, fold=folds(user[rows]))
    rows = np.flatnonzero(~asked)
    counts = np.bincount(user[rows], minlength=log.users)
    rows = rows[counts[user[rows]] >= 2 * FILM_SIZE]  # a request needs something to choose from
    user, film, source, x, a = user[rows], film[rows], source[rows], x[rows], a[rows]
    start = np.concatenate([np.flatnonzero(np.diff(user, prepend=-1)), [len(user)]]).astype(np.int64)
    coded = Coded(names, source.astype(np.int32))
    whole = Candidates(range(len(x)), x, coded, {})
    values = {kind: aligned(tallies, kind).align(whole).value for kind in ("mean", "isotonic", "auto")}
    mask, plans = _film_masks(log, film, seen, total)
    empty = PlanTables.idle(len(plans))
    found: dict[str, Any] = {
        "hit rate": {
            name: _hits(a, shown(Requests(key, mask, start), empty, FILM_SIZE))
            for name, key in {"raw": x, "min-max": _request_min_max(x, source, start), **values}.items()
        }
    }
    pool = Requests(values["auto"], mask, start)
    natural, _ = reached(pool, empty, FILM_SIZE, [Goal(p, 0) for p in range(len(plans))])
    goals = [Goal(p, 1.5 * amount) for p, amount in enumerate(natural)]
    product = Requests(np.log(np.maximum(pool.value, 1e-12)), mask, start)
    tuned = solve(product, empty, FILM_SIZE, goals, rounds=600)
    theirs = shown(product, tuned.tables, FILM_SIZE)
    ours, gap = at_shares(pool, theirs, len(plans), FILM_SIZE)
    mine = shown(pool, ours.tables, FILM_SIZE)
    found["forms"] = {
        "gap": gap,
        "certificate": certificate(pool, ours, theirs, mine),
        "product": {"value": _hits(pool.value, theirs), "hits": _hits(a, theirs)},
        "linear": {"value": _hits(pool.value, mine), "hits": _hits(a, mine)},
    }
    solved = solve(pool, empty, FILM_SIZE, goals)
    displaced = displace(pool, solved.tables, FILM_SIZE)
    gains, _ = lift(pool, displaced, a)
    told, worst = judged_plans(displaced, gains, plans, seed)
    judged = displaced.take(np.arange(1, len(pool), 2))
    removed = [_hits(a, judged.without[:, p]) for p in range(len(plans))]
    found["plans"] = {
        "violations": violations(displaced),
        "checked": int(displaced.regret.size),
        "worst": plans[worst],
        "all plans": _hits(a, judged.lists),
        "without the worst": removed[worst],
        "without another": float(np.mean([one for p, one in enumerate(removed) if p != worst])),
        "returns": {plan.plan: None if plan.roi is None else plan.roi.effect for plan in told},
    }
    found["requests"] = len(start) - 1
    return found


def _als(
    user: Ints, film: Ints, rating: Floats, users: int, films: int, rng: np.random.Generator, rounds: int = 8
) -> Any:
    """Ratings by factors: alternating ridge regressions, as (user, film) → prediction."""
    centre = rating.mean()
    left = np.column_stack([np.ones(users), rng.normal(0, 0.1, (users, FACTORS))])
    right = np.column_stack([np.zeros(films), rng.normal(0, 0.1, (films, FACTORS))])
    for _ in range(rounds):
        for mine, theirs, own, other in ((left, right, user, film), (right, left, film, user)):
            width = theirs.shape[1]
            gram = np.zeros((len(mine), width, width))
            pull = np.zeros((len(mine), width))
            rows = theirs[other]
            order = np.argsort(own, kind="stable")
            edges = np.searchsorted(own[order], np.arange(len(mine) + 1))
            for one in range(len(mine)):
                part = order[edges[one] : edges[one + 1]]
                gram[one] = rows[part].T @ rows[part] + 6.0 * np.eye(width)
                pull[one] = rows[part].T @ (rating[part] - centre)
            mine[:] = np.linalg.solve(gram, pull[..., None])[..., 0]
    return lambda u, f: centre + np.einsum("nk,nk->n", left[u], right[f])


def _film_masks(
    log: Any, film: Ints, seen: NDArray[Any], total: NDArray[Any]
) -> tuple[NDArray[np.uint64], list[str]]:
    """Plans on films: genres, rarely seen ones, new ones, and one that pushes what is rated worst."""
    mean = (total + 5 * total.sum() / seen.sum()) / (seen + 5)
    flags = {name: [bool(set(kinds) & set(one)) for one in log.genres] for name, kinds in FILM_PLANS}
    flags["rare"] = (seen < 8).tolist()
    flags["new"] = (log.year >= 1997).tolist()
    flags["worst-rated"] = (mean <= np.quantile(mean, 0.2)).tolist()
    mask = np.zeros(len(film), np.uint64)
    for bit, column in enumerate(flags.values()):
        mask |= np.array(column, np.bool_)[film].astype(np.uint64) << np.uint64(bit)
    return mask, list(flags)


def _hits(column: Floats, rows: Ints) -> float:
    """Mean of a column over the places of lists."""
    return float(values_of(column, rows).sum()) / max(1, int((rows >= 0).sum()))


def _request_min_max(x: Floats, source: Ints, start: Ints) -> Floats:
    found = np.empty(len(x))
    for first, end in itertools.pairwise(start.tolist()):
        for code in (0, 1):
            mine = first + np.flatnonzero(source[first:end] == code)
            if len(mine):
                low, high = x[mine].min(), x[mine].max()
                found[mine] = (x[mine] - low) / (high - low) if high > low else 1.0
    return found


# -- Open Bandit ------------------------------------------------------------------------------------------------------


def run_bandit(campaign: Any) -> dict[str, Any] | None:
    """The clicks of the random policy, estimated from the log of Thompson sampling, against its own log; None without
    the data.
    """
    from noria.blending.data import open_bandit
    from noria.blending.estimators import off_policy
    from noria.core.statistics.intervals import proportion_interval

    logged, own = open_bandit("bts", campaign), open_bandit("random", campaign)
    if logged is None or own is None:
        return None
    rounds = len(logged.click)
    predicted = np.empty(rounds)
    fold = np.arange(rounds) % 2
    uniform = np.empty(rounds)
    for part in (0, 1):  # each half is predicted from the other
        rest = fold != part
        shows = np.bincount(logged.item[rest], minlength=logged.items)
        clicks = np.bincount(logged.item[rest], weights=logged.click[rest], minlength=logged.items)
        rate = (clicks + 200 * logged.click[rest].mean()) / (shows + 200)
        predicted[fold == part] = rate[logged.item[fold == part]]
        uniform[fold == part] = rate.mean()
    found = off_policy(
        logged.click,
        logged.propensity,
        np.full(rounds, 1 / logged.items),
        generator=np.random.default_rng(0),
        predicted=predicted,
        predicted_policy=uniform,
        most_weight=100.0,
    )
    truth = proportion_interval(int(own.click.sum()), len(own.click))

    def told(interval: Any) -> list[float] | None:
        return None if interval is None else [interval.effect, interval.low, interval.high]

    return {
        "campaign": campaign,
        "clicks": {"random": int(own.click.sum()), "bts": int(logged.click.sum())},
        "items": own.items,
        "least propensity": float(logged.propensity.min()),
        "ess": found.ess,
        "clipped": found.clipped,
        "ips": told(found.ips),
        "snips": told(found.snips),
        "dr": told(found.dr),
        "own": told(truth),
        "refused": found.refused,
    }
