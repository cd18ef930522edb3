"""The claims of Uniboost (arXiv 2605.26424) at a scale that fits a laptop.

A simulated blending world with known truth, MovieLens-100k with every outcome known, and the Open Bandit sample for
off-policy estimates. The last two are read in place from packages that ship them and left out, with a note, where
those are not installed.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from noria.blending.proof.arms import (
    CANDIDATES,
    OUTCOME_SHARE,
    ROUNDS,
    SIZE,
    SPACES,
    WORLDS,
    run_aligners,
    run_world,
)
from noria.blending.proof.bandit import run_bandit
from noria.blending.proof.data import movielens, open_bandit
from noria.blending.proof.films import (
    FILM_OUTCOMES,
    FILM_REQUESTS,
    FILM_SIZE,
    FILM_SPACES,
    OVERLAP,
    run_movielens,
)
from noria.blending.world.world import BAD
from noria.core.proofs.arms import TRIES, Arm, best_candidate, candidates

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext


@dataclass(frozen=True)
class Scale:
    """Budgets: seeds of the world and of MovieLens, requests of a world, requests of its history."""

    worlds: int
    films: int
    requests: int
    history: int


SCALES = {"quick": Scale(4, 4, 300, 300), "full": Scale(40, 40, 1000, 400)}
TUNING = (1001, 1002)
"""Seeds that settings are chosen on; none of them is judged."""
SOURCE = "arXiv 2605.26424"
CAMPAIGNS = ("all", "men", "women")
INSTALL = "pip install --no-deps recbole==1.2.1 obp==0.4.1"

Found = dict[str, Any]
Settings = dict[str, Any]


def prove(context: ProofContext) -> Evidence:
    """Tune every way to make scores comparable, run all worlds and data sets, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    worlds = context.seeds or list(range(scale.worlds))
    films = context.seeds or list(range(scale.films))
    budget = (scale.requests, scale.history)
    tuned = tune_aligners(context, budget)
    chosen = {name: {arm: [setting] for arm, setting in arms.items()} for name, arms in tuned.items()}
    aligners = context.map(
        run_aligners, {f"alignment, seed {s}": (s, *budget, chosen) for s in worlds}, label="alignment"
    )
    results = context.map(run_world, {f"world, seed {s}": (s, *budget) for s in worlds}, label="worlds")
    rated: list[Found] = []
    film_settings: Settings = {}
    if movielens() is not None:
        film_settings = tune_films(context)
        fixed = {arm: [setting] for arm, setting in film_settings.items()}
        rated = context.map(
            run_movielens, {f"MovieLens, seed {s}": (s, fixed) for s in films}, label="MovieLens"
        )
    bandits: list[Found] = []
    if open_bandit("bts", "all") is not None:
        bandits = context.map(run_bandit, {f"Open Bandit, {c}": (c,) for c in CAMPAIGNS}, label="Open Bandit")
    paid = {
        "aligners": _paid_aligners(tuned, scale),
        "worlds": _paid_plans(scale.requests),
        "films": _paid_films(film_settings),
    }
    return Evidence(
        system="blending",
        claims=claims(aligners, results, rated, paid),
        checks=checks(results, rated),
        seconds=time.perf_counter() - began,
        versions=versions("numpy", "scipy"),
        figures=figures(aligners, results, rated, bandits),
        notes=notes(results, rated, bandits),
        config=asdict(scale)
        | {"seeds": sorted({*worlds, *films}), "places": SIZE, "places of films": FILM_SIZE, "chosen": tuned},
    )


# -- tuning -----------------------------------------------------------------------------------------------------------


def tune_aligners(context: ProofContext, budget: tuple[int, int]) -> dict[str, dict[str, Settings]]:
    """Best setting of every arm in each world, on seeds that are not judged."""
    tried = {name: {arm: _tries(arm, space) for arm, space in SPACES.items()} for name in WORLDS}
    found = context.map(
        run_aligners, {f"tuning, seed {s}": (s, *budget, tried) for s in TUNING}, label="tuning"
    )
    return {name: _best(arms, [one[name] for one in found]) for name, arms in tried.items()}


def tune_films(context: ProofContext) -> dict[str, Settings]:
    """Best setting of every arm on splits of MovieLens that are not judged."""
    tried = {arm: _tries(arm, space) for arm, space in FILM_SPACES.items()}
    found = context.map(
        run_movielens, {f"tuning on films, seed {s}": (s, tried, True) for s in TUNING}, label="tuning"
    )
    return _best(tried, [one["hit rate"] for one in found])


def _best(
    tried: Mapping[str, Sequence[Settings]], rates: Sequence[Mapping[str, Sequence[float]]]
) -> dict[str, Settings]:
    """The setting of each arm with the highest rate over the tuning seeds."""
    return {
        arm: settings[best_candidate(list(zip(*(one[arm] for one in rates), strict=True)), "higher")]
        for arm, settings in tried.items()
    }


def _tries(arm: str, space: Mapping[str, Sequence[float]]) -> list[Settings]:
    return candidates(space, generator=np.random.default_rng(zlib.crc32(arm.encode())))


def _paid(name: str, unit: str, spent: float, settings: Settings | None = None) -> Arm:
    if settings is None:
        return Arm(name, unit, spent)
    return Arm(name, unit, spent, tries=TRIES, tuning_seeds=TUNING, settings=settings)


def _paid_aligners(tuned: Mapping[str, Mapping[str, Settings]], scale: Scale) -> dict[str, dict[str, Arm]]:
    """What each way to make scores comparable was paid, by world: outcomes of the history; none for weights by hand."""
    spent = scale.history * CANDIDATES * OUTCOME_SHARE
    return {
        world: {"raw": _paid("raw", "outcomes", 0)}
        | {
            arm: _paid(arm, "outcomes", 0 if arm in ("hand-set weights", "min-max") else spent, settings)
            for arm, settings in arms.items()
        }
        for world, arms in tuned.items()
    }


def _paid_plans(requests: int) -> dict[str, Arm]:
    """What forms and the choice of a plan were paid: rounds of the solver, requests that returns are measured on."""
    return {
        "legacy": _paid("legacy", "rounds of the solver", 0),  # boosts that nobody tunes, our choice
        **{form: _paid(form, "rounds of the solver", ROUNDS) for form in ("linear", "product")},
        "without the worst": _paid("without the worst", "requests measured", requests / 2),
        **{name: _paid(name, "requests measured", 0) for name in ("all plans", "without another")},
    }


def _paid_films(chosen: Mapping[str, Settings]) -> dict[str, Arm]:
    if not chosen:
        return {}
    return _paid_plans(FILM_REQUESTS) | {
        "raw": _paid("raw", "outcomes", 0),
        "min-max": _paid("min-max", "outcomes", 0, chosen["min-max"]),
        "auto": _paid("auto", "outcomes", FILM_OUTCOMES, chosen["auto"]),
    }


# -- claims -----------------------------------------------------------------------------------------------------------


def column(results: Sequence[Found], *path: str) -> list[float]:
    """One number of every seed; of a list, its first."""
    values = []
    for result in results:
        value: Any = result
        for name in path:
            value = value[name]
        values.append(float(value[0] if isinstance(value, list) else value))
    return values


Row = tuple[str, str, str, str, str, str]
"""Id, statement, metric, subject, baseline, and the dotted path to an arm's number in a seed's result."""

TOP = f"true completions a place, top {SIZE}"
PLACE = "true completions a place"
HITS = f"share of the top {FILM_SIZE} rated 4 or more"
OTHERS = "on requests that the return was not measured on"

ALIGNMENT: dict[str, tuple[Row, ...]] = {
    "proportional": (
        (
            "aligned-over-raw",
            "Aligned values rank mixed sources better than raw scores",
            *(f"{TOP}, scores in proportion", "mean", "raw", "proportional.{}"),
        ),
        (
            "aligned-over-weights",
            "Aligned values rank mixed sources better than scores with tuned weights",
            *(f"{TOP}, scores in proportion", "mean", "hand-set weights", "proportional.{}"),
        ),
        (
            "aligned-over-min-max",
            "Aligned values rank mixed sources better than min-max a request with tuned weights",
            *(f"{TOP}, scores in proportion", "mean", "min-max", "proportional.{}"),
        ),
    ),
    "distorted": (
        (
            "isotonic-where-distorted",
            "Where models are distorted, isotonic alignment beats mean scaling",
            *(f"{TOP}, distorted scores", "isotonic", "mean", "distorted.{}"),
        ),
    ),
}
WORLD: tuple[Row, ...] = (
    (
        "legacy-truth",
        "Against a pile-up that nobody tunes, at its shares, true completions are higher",
        *(PLACE, "linear", "legacy", "legacy.{}.truth"),
    ),
    (
        "product-truth",
        "Against a fully tuned product, at its shares, true completions are higher",
        *(PLACE, "linear", "product", "product.{}.truth"),
    ),
    (
        "retire",
        "Removing the plan with the worst return raises true completions",
        *(f"{PLACE}, {OTHERS}", "without the worst", "all plans", "plans.{}.completions"),
    ),
    (
        "retire-over-another",
        "Removing it raises completions and gains together more than removing another plan",
        f"true completions and gains a place, {OTHERS}",
        *("without the worst", "without another", "plans.{}.both"),
    ),
)
FILMS: tuple[Row, ...] = (
    (
        "films-raw",
        "MovieLens: aligned values rank two models' films better than raw scores",
        *(HITS, "auto", "raw", "hit rate.{}"),
    ),
    (
        "films-min-max",
        "MovieLens: aligned values rank them better than min-max a request with a tuned weight",
        *(HITS, "auto", "min-max", "hit rate.{}"),
    ),
    (
        "films-hits",
        "MovieLens: at a tuned product's shares the linear form hits more",
        *(HITS, "linear", "product", "forms.{}.hits"),
    ),
    (
        "films-retire",
        "MovieLens: removing the plan with the worst return raises hits",
        *(f"{HITS}, {OTHERS}", "without the worst", "all plans", "plans.{}.hits"),
    ),
    (
        "films-retire-over-another",
        "MovieLens: removing it raises hits more than removing another plan",
        *(f"{HITS}, {OTHERS}", "without the worst", "without another", "plans.{}.hits"),
    ),
)


def claims(
    aligners: Sequence[Found], worlds: Sequence[Found], rated: Sequence[Found], paid: Mapping[str, Any]
) -> list[Claim]:
    """The claims of the three parts; none of MovieLens without the data."""
    from noria.core.proofs.proof import Claim

    tables = [(rows, aligners, paid["aligners"][world], 0.0) for world, rows in ALIGNMENT.items()]
    tables += [(WORLD, worlds, paid["worlds"], 0.0), (FILMS, rated, paid["films"], OVERLAP)]
    return [
        Claim(
            id=name,
            statement=statement,
            metric=metric,
            better="higher",
            subject=subject,
            baseline=baseline,
            arms={arm: column(results, *path.format(arm).split(".")) for arm in (subject, baseline)},
            source=SOURCE,
            paid={arm: arms[arm] for arm in (subject, baseline)},
            overlap=overlap,
        )
        for rows, results, arms, overlap in tables
        for name, statement, metric, subject, baseline, path in rows
        if results
    ]


def checks(worlds: Sequence[Found], rated: Sequence[Found]) -> list[Check]:
    """What the linear form and the accounts promise on every request, whatever the data."""
    from noria.core.proofs.proof import Check

    certificates = [
        *column(worlds, "product", "certificate"),
        *column(worlds, "legacy", "certificate"),
        *column(rated, "forms", "certificate"),
    ]
    both: list[Mapping[str, Any]] = [one["plans"] for one in (*worlds, *rated)]
    checked, failed = (sum(int(one[name]) for one in both) for name in ("checked", "violations"))
    return [
        Check(
            "optimality",
            "On every request the linear form's list has no less priced value than a tuned product's and a pile-up's",
            min(certificates) > -1e-9,
            f"least difference {min(certificates):.1e} completions over {len(certificates)} worlds and splits",
            "Everett 1963, on equation 2",
        ),
        Check(
            "bound",
            "Regret of leaving a plan out lies between 0 and the bound that the log alone gives",
            failed == 0,
            f"{failed} of {checked:,} pairs of request and plan fail",
        ),
    ]


# -- what is shown ----------------------------------------------------------------------------------------------------


def figures(
    aligners: Sequence[Found], worlds: Sequence[Found], rated: Sequence[Found], bandits: Sequence[Found]
) -> list[Figure]:
    """Alignments, forms, plans and off-policy estimates in numbers."""
    from noria.core.pages.charts import Figure

    kinds = ("proportional", "distorted")
    forms = [
        ("product", "product", "the shares of a tuned product"),
        ("product", "linear", "the shares of a tuned product"),
        ("legacy", "legacy", "the shares of a pile-up"),
        ("legacy", "linear", "the shares of a pile-up"),
    ]
    values = [
        Figure.table(
            "How scores of three sources are made comparable",
            ["ranked by", "scores in proportion", "distorted scores"],
            [[name, *(_mean(aligners, kind, name) for kind in kinds)] for name in aligners[0][kinds[0]]],
            f"True completions a place of the top {SIZE}, means over seeds.",
        ),
        Figure.table(
            "Forms of boosting, at equal shares of every plan and source",
            ["lists", "true completions", "aligned value", "largest difference of a share"],
            [
                ["no plans", *(_mean(worlds, "no plans", figure) for figure in ("truth", "value")), None],
                *(
                    [
                        f"{form}, at {shares}",
                        *(_mean(worlds, key, form, figure) for figure in ("truth", "value")),
                        max(column(worlds, key, "gap")) if form == "linear" else None,
                    ]
                    for key, form, shares in forms
                ),
            ],
            "A place, means over seeds.",
        ),
        _over_requests(worlds),
        _inflation(worlds),
        _returns(worlds),
    ]
    if rated:
        values.append(
            Figure.table(
                "MovieLens: how two models' scores are made comparable",
                ["ranked by", "hits"],
                [[name, _mean(rated, "hit rate", name)] for name in rated[0]["hit rate"]],
                f"Share of the top {FILM_SIZE} rated 4 or more, means over seeds.",
            )
        )
        worst = [result["plans"]["worst"] for result in rated]
        values.append(
            Figure.table(
                "MovieLens: the plan that its own returns single out",
                ["plan", "seeds"],
                [[plan, worst.count(plan)] for plan in dict.fromkeys(worst)],
            )
        )
    if bandits:
        rows = [
            [
                b["campaign"],
                b["clicks"]["bts"],
                b["ess"],
                *(_interval(b[name]) for name in ("ips", "snips", "dr", "own")),
            ]
            for b in bandits
        ]
        values.append(
            Figure.table(
                "Open Bandit: clicks per 1,000 of the random policy, estimated from the log of Thompson sampling",
                ["campaign", "clicks in the log", "worth in rounds", "IPS", "SNIPS", "DR", "its own log"],
                rows,
                "With 95 % intervals; each log has 10,000 rounds. Weights are clipped at 100.",
            )
        )
    return values


def _mean(results: Sequence[Found], *path: str) -> float:
    values = column(results, *path)
    return sum(values) / len(values)


def _interval(ends: Sequence[float] | None) -> str | None:
    if ends is None:
        return None
    effect, low, high = (1000 * x for x in ends)
    return f"{effect:.2f} ({low:.2f} to {high:.2f})"


def _over_requests(worlds: Sequence[Found]) -> Figure:
    from noria.core.pages.charts import Figure

    rows = []
    for seed, world in enumerate(worlds[:3]):
        for key, against in (("product", "the tuned product"), ("legacy", "the pile-up")):
            record = world[key]["over requests"]
            rows.append([seed, against, *(_interval(record[name]) for name in ("truth", "value"))])
    return Figure.table(
        "The linear form against others within single worlds, completions of 1,000 places",
        ["world", "against", "true completions", "aligned value"],
        rows,
        "Paired by request, with 95 % intervals over requests.",
    )


def _inflation(worlds: Sequence[Found]) -> Figure:
    from noria.core.pages.charts import Figure

    linear = _mean(worlds, "legacy", "boosts", "linear")
    units = [name for name in worlds[0]["legacy"]["boosts"] if name != "linear"]
    rows = [
        [unit, before, linear, f"{100 * (linear / before - 1):+.0f} %"]
        for unit in units
        for before in [_mean(worlds, "legacy", "boosts", unit)]
    ]
    return Figure.table(
        "Magnitude of boosts a place, by the unit that a pile-up's are counted in",
        ["unit", "pile-up", "linear form", "change"],
        rows,
        "Its boosts are three broad ones of 3.0, 3.5 and 3.2 and ten narrow ones of 1.05 to 1.6, our choice. What of "
        "them is gone depends on the unit, even in its sign, so that nothing is claimed of it.",
    )


def _returns(worlds: Sequence[Found]) -> Figure:
    import altair as alt

    from noria.core.pages.charts import Figure

    rows = [
        {"plan": plan, "seed": seed, **dict(zip(("roi", "low", "high"), ends, strict=True))}
        for seed, world in enumerate(worlds)
        for plan, ends in world["plans"]["returns"].items()
        if ends is not None and all(map(math.isfinite, ends))
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(size=40)
        .encode(
            y=alt.Y("plan:N", title=None),
            x=alt.X("roi:Q", title="gain over regret"),
            tooltip=["plan:N", "seed:Q", "roi:Q", "low:Q", "high:Q"],
        )
        .properties(width="container", height=240)
    )
    return Figure.chart(
        "Returns of plans in the world",
        chart,
        "A point is a seed. The plans old-live and repost-push push what is worse than it looks.",
    )


def notes(worlds: Sequence[Found], rated: Sequence[Found], bandits: Sequence[Found]) -> list[str]:
    """Notes that a reader must know."""
    right = sum(one["plans"]["worst"] in BAD for one in worlds)
    pairs = [one["product"] for one in worlds] + [one["forms"] for one in rated]
    higher = sum(one["linear"]["value"] >= one["product"]["value"] for one in pairs)
    words = [
        f"Aligned value is not lower than a tuned product's in {higher} of {len(pairs)} worlds and splits, as the "
        "check of optimality entails; what it does for labels depends on the alignment, and is claimed.",
        f"Every way to make scores comparable has its best of {TRIES} settings, chosen by true completions on the "
        f"seeds {' and '.join(map(str, TUNING))}, which are not judged. Raw scores have no setting; nobody tunes "
        "the pile-up.",
        f"The plan that returns single out is one of the two bad ones in {right} of {len(worlds)} worlds.",
        "Splits of MovieLens are of one data set and overlap: their intervals are corrected for that (Nadeau and "
        f"Bengio, 2003, with a test set of {OVERLAP:g} of the training set), and tell nothing about other data.",
        "A return is measured on one half of the requests and its plan's removal judged on the other half.",
        "Thresholds, windows, guards, the controller and every formula of cost and return are ours; the paper's are "
        "not known to us. Its online figures cannot be reproduced here.",
    ]
    if not rated or not bandits:
        words.append(f"MovieLens or Open Bandit was not there and was left out; to have them: {INSTALL}")
    return words
