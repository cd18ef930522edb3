"""The experiment of the proof on MovieLens, where the outcome of every candidate is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import Requests
from noria.blending.alignment.tallies import Tallies, folds
from noria.blending.boosting.scoring import PlanTables
from noria.blending.columns import Candidates, NameColumn
from noria.blending.proof.arms import (
    Floats,
    Ints,
    attribution_figures,
    min_max,
    natural_goals,
    per_place,
    product_against_linear,
    shown,
)
from noria.blending.world.world import aligned

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


FILM_SPACES: dict[str, dict[str, tuple[float, ...]]] = {
    "min-max": {"popularity": (1.0, 0.5, 0.7, 0.85, 1.2, 1.5)},
    "auto": {"shrink": (200.0, 0.0, 50.0, 1000.0, 4000.0, 16_000.0)},
}
"""Free settings of each way to make films' scores comparable."""
FILM_OUTCOMES, FILM_REQUESTS = 12_500, 600
"""About how many outcomes a split aligns on, and how many requests it has."""
OVERLAP = 0.75
"""Held-out ratings of requests over ratings that train the models: the splits are of one data set."""


def run_movielens(
    seed: int, tried: dict[str, list[dict[str, float]]], only_hits: bool = False
) -> dict[str, Any] | None:
    """Two models on scales of their own rank what a user rated, held out; None without the data.

    Half of each user's ratings train the models: factors by alternating least squares, and popularity, each the
    source of half of the films. A quarter of the held-out ratings is the control bucket that scores are aligned on;
    the rest are the requests. A rating of 4 or more is an effective completion, so every candidate's outcome is
    known.

    Args:
        seed: seed of the split and of the models.
        tried: settings of each arm; one to judge, several to tune on. Value is aligned by the first of `auto`.
        only_hits: leave out plans, as tuning needs.
    """
    from noria.blending.proof.data import movielens

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
    is_control = control[user]
    tallies = Tallies()
    names = ("taste", "popularity")
    for code, name in enumerate(names):
        rows = is_control & (source == code)
        tallies.add(x[rows], a[rows], source=name, control=True, fold=folds(user[rows]))
    rows = np.flatnonzero(~is_control)
    counts = np.bincount(user[rows], minlength=log.users)
    rows = rows[counts[user[rows]] >= 2 * FILM_SIZE]  # a request needs something to choose from
    user, film, source, x, a = user[rows], film[rows], source[rows], x[rows], a[rows]
    start = np.concatenate([np.flatnonzero(np.diff(user, prepend=-1)), [len(user)]]).astype(np.int64)
    coded = NameColumn(names, source.astype(np.int32))
    whole = Candidates(range(len(x)), x, coded, {})
    scaled = min_max(x, source, start)
    keys = {
        "raw": [x],
        "min-max": [scaled * np.where(source == 1, one["popularity"], 1.0) for one in tried["min-max"]],
        "auto": [aligned(tallies, "auto", shrink=one["shrink"]).align(whole).value for one in tried["auto"]],
    }
    mask, plans = _film_masks(log, film, seen, total)
    empty = PlanTables.idle(len(plans))
    result: dict[str, Any] = {
        "hit rate": {
            name: [per_place(a, shown(Requests(key, mask, start), empty, FILM_SIZE)) for key in several]
            for name, several in keys.items()
        }
    }
    if only_hits:
        return result
    pool = Requests(keys["auto"][0], mask, start)
    goals = natural_goals(pool, len(plans), FILM_SIZE, 1.5)
    return result | {
        "forms": product_against_linear(pool, goals, FILM_SIZE, {"value": pool.value, "hits": a}),
        "plans": attribution_figures(
            pool, goals, FILM_SIZE, plans, a, lambda rows: {"hits": per_place(a, rows)}, seed
        ),
        "requests": len(start) - 1,
    }


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
