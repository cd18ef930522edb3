"""The claims of Uniboost (arXiv 2605.26424) at a scale that fits a laptop.

A simulated blending world with known truth, MovieLens-100k with every outcome known, and the Open Bandit sample for
off-policy estimates. The last two are read in place from packages that ship them and left out, with a note, where
those are not installed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from noria.blending.proof.arms import SIZE, run_aligners, run_world
from noria.blending.proof.bandit import run_bandit
from noria.blending.proof.data import movielens, open_bandit
from noria.blending.proof.films import FILM_SIZE, run_movielens

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

__all__ = ["SCALES", "prove"]


@dataclass(frozen=True)
class Scale:
    """Budgets: seeds of the world and of MovieLens, requests of a world, requests of its history."""

    worlds: int
    films: int
    requests: int
    history: int


SCALES = {"quick": Scale(4, 4, 300, 300), "full": Scale(40, 40, 1000, 400)}
SOURCE = "arXiv 2605.26424"
CAMPAIGNS = ("all", "men", "women")
INSTALL = "pip install --no-deps recbole==1.2.1 obp==0.4.1"

Found = dict[str, Any]


def prove(context: ProofContext) -> Evidence:
    """Run all worlds and data sets and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    worlds = context.seeds or list(range(scale.worlds))
    films = context.seeds or list(range(scale.films))
    budget = (scale.requests, scale.history)
    aligners = context.map(
        run_aligners, {f"alignment, seed {s}": (s, *budget) for s in worlds}, label="alignment"
    )
    results = context.map(run_world, {f"world, seed {s}": (s, *budget) for s in worlds}, label="worlds")
    rated: list[Found] = []
    if movielens() is not None:
        rated = context.map(run_movielens, {f"MovieLens, seed {s}": (s,) for s in films}, label="MovieLens")
    bandits: list[Found] = []
    if open_bandit("bts", "all") is not None:
        bandits = context.map(run_bandit, {f"Open Bandit, {c}": (c,) for c in CAMPAIGNS}, label="Open Bandit")
    return Evidence(
        system="blending",
        claims=claims(aligners, results, rated),
        seconds=time.perf_counter() - began,
        versions=versions("numpy", "scipy"),
        figures=figures(aligners, results, rated, bandits),
        notes=notes(results, rated, bandits),
        config=asdict(scale) | {"seeds": worlds, "places": SIZE, "places of films": FILM_SIZE},
    )


# -- claims -----------------------------------------------------------------------------------------------------------


def column(results: Sequence[Found], *path: str) -> list[float]:
    """One number of every seed."""
    values = []
    for result in results:
        value: Any = result
        for name in path:
            value = value[name]
        values.append(float(value))
    return values


Arm = tuple[str, str]
"""Its name, and the dotted path to its number in a seed's result."""

TOP = f"true completions a place, top {SIZE}"
PLACE = "true completions a place"
HITS = f"share of the top {FILM_SIZE} rated 4 or more"
OTHERS = "on requests that the return was not measured on"

ALIGNMENT: tuple[tuple[str, str, str, Arm, Arm], ...] = (
    (
        "aligned-over-raw",
        "Aligned values rank mixed sources better than raw scores",
        f"{TOP}, scores in proportion",
        ("mean scaling", "proportional.mean"),
        ("raw", "proportional.raw"),
    ),
    (
        "aligned-over-min-max",
        "Aligned values rank mixed sources better than min-max a request",
        f"{TOP}, scores in proportion",
        ("mean scaling", "proportional.mean"),
        ("per-request min-max", "proportional.per-request min-max"),
    ),
    (
        "isotonic-where-distorted",
        "Where models are distorted, isotonic alignment beats mean scaling",
        f"{TOP}, distorted scores",
        ("isotonic", "distorted.isotonic"),
        ("mean scaling", "distorted.mean"),
    ),
    (
        "diagnosis",
        "The diagnosis finds that: what it chooses beats mean scaling on distorted scores",
        f"{TOP}, distorted scores",
        ("chosen by the diagnosis", "distorted.chosen by the diagnosis"),
        ("mean scaling", "distorted.mean"),
    ),
)
WORLD: tuple[tuple[str, str, str, Arm, Arm], ...] = (
    (
        "inflation",
        "At the shares of a legacy pile-up, the linear form removes more than 80 % of the boosts' magnitude",
        "share of the boosts' magnitude that is gone",
        ("removed", "legacy.removed"),
        ("80 %", "legacy.goal"),
    ),
    (
        "legacy-value",
        "Against the pile-up, at its shares, the linear form's lists are worth more",
        "aligned value a place",
        ("linear", "legacy.linear.value"),
        ("legacy", "legacy.legacy.value"),
    ),
    (
        "legacy-truth",
        "Against the pile-up, at its shares, true completions are higher",
        PLACE,
        ("linear", "legacy.linear.truth"),
        ("legacy", "legacy.legacy.truth"),
    ),
    (
        "product-value",
        "Against a fully tuned product, at its shares, the linear form's lists are worth more",
        "aligned value a place",
        ("linear", "product.linear.value"),
        ("product", "product.product.value"),
    ),
    (
        "product-truth",
        "Against a fully tuned product, at its shares, true completions are higher",
        PLACE,
        ("linear", "product.linear.truth"),
        ("product", "product.product.truth"),
    ),
    (
        "retire",
        "Removing the plan with the worst return raises true completions",
        f"{PLACE}, {OTHERS}",
        ("without the worst", "plans.without the worst.completions"),
        ("all plans", "plans.all plans.completions"),
    ),
    (
        "retire-over-another",
        "Removing it raises completions and gains together more than removing another plan",
        "true completions and gains a place",
        ("without the worst", "plans.without the worst.both"),
        ("without another", "plans.without another.both"),
    ),
    (
        "bound",
        "What the log alone tells, the bound, is above the regret of leaving plans out",
        "expected completions",
        ("bound", "plans.bound"),
        ("regret", "plans.regret"),
    ),
)
FILMS: tuple[tuple[str, str, str, Arm, Arm], ...] = (
    (
        "films-raw",
        "MovieLens: aligned values rank two models' films better than raw scores",
        HITS,
        ("aligned", "hit rate.auto"),
        ("raw", "hit rate.raw"),
    ),
    (
        "films-min-max",
        "MovieLens: aligned values rank them better than min-max a request",
        HITS,
        ("aligned", "hit rate.auto"),
        ("min-max", "hit rate.min-max"),
    ),
    (
        "films-value",
        "MovieLens: at a tuned product's shares the linear form's lists are worth more",
        "aligned value a place",
        ("linear", "forms.linear.value"),
        ("product", "forms.product.value"),
    ),
    (
        "films-hits",
        "MovieLens: at a tuned product's shares the linear form hits more",
        HITS,
        ("linear", "forms.linear.hits"),
        ("product", "forms.product.hits"),
    ),
    (
        "films-retire",
        "MovieLens: removing the plan with the worst return raises hits",
        f"{HITS}, {OTHERS}",
        ("without the worst", "plans.without the worst"),
        ("all plans", "plans.all plans"),
    ),
    (
        "films-retire-over-another",
        "MovieLens: removing it raises hits more than removing another plan",
        f"{HITS}, {OTHERS}",
        ("without the worst", "plans.without the worst"),
        ("without another", "plans.without another"),
    ),
)


def claims(aligners: Sequence[Found], worlds: Sequence[Found], rated: Sequence[Found]) -> list[Claim]:
    """The claims of the three parts; none of MovieLens without the data."""
    from noria.core.proofs.proof import Claim

    return [
        Claim(
            id=name,
            statement=statement,
            metric=metric,
            better="higher",
            subject=ours[0],
            baseline=theirs[0],
            arms={arm: column(results, *path.split(".")) for arm, path in (ours, theirs)},
            source=SOURCE,
        )
        for table, results in ((ALIGNMENT, aligners), (WORLD, worlds), (FILMS, rated))
        for name, statement, metric, ours, theirs in table
        if results
    ]


# -- what is shown ----------------------------------------------------------------------------------------------------


def figures(
    aligners: Sequence[Found], worlds: Sequence[Found], rated: Sequence[Found], bandits: Sequence[Found]
) -> list[Figure]:
    """Alignments, forms, plans and off-policy estimates in numbers."""
    from noria.core.pages.charts import Figure

    names = list(aligners[0]["proportional"])
    values = [
        Figure.table(
            "How scores of three sources are made comparable",
            ["ranked by", "scores in proportion", "distorted scores"],
            [
                [name, *(_mean(aligners, kind, name) for kind in ("proportional", "distorted"))]
                for name in names
            ],
            f"True completions a place of the top {SIZE}, means over seeds.",
        ),
        Figure.table(
            "Forms of boosting, at equal shares of every plan and source",
            ["lists", "true completions", "aligned value", "largest difference of a share"],
            [
                ["no plans", _mean(worlds, "no plans", "truth"), _mean(worlds, "no plans", "value"), None],
                *(
                    [
                        f"{form}, at {which}",
                        _mean(worlds, key, form, "truth"),
                        _mean(worlds, key, form, "value"),
                        None if form != "linear" else max(column(worlds, key, "gap")),
                    ]
                    for key, which, other in (
                        ("product", "the shares of a tuned product", "product"),
                        ("legacy", "the shares of a pile-up", "legacy"),
                    )
                    for form in (other, "linear")
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

    sources = list(worlds[0]["legacy"]["removed by source"])
    return Figure.table(
        "Magnitude of boosts that is gone, by source",
        ["source", "gone"],
        [[s, f"{100 * _mean(worlds, 'legacy', 'removed by source', s):.1f} %"] for s in sources],
        "Legacy boosts are three broad ones of 3.0, 3.5 and 3.2 and ten narrow ones of 1.05 to 1.6, our choice. Most "
        "of what is gone is what all of them had in common, which never moved anything.",
    )


def _returns(worlds: Sequence[Found]) -> Figure:
    import altair as alt

    from noria.core.pages.charts import Figure

    rows = []
    for seed, world in enumerate(worlds):
        for plan, record in world["plans"]["returns"].items():
            if record["roi"] is not None and all(math.isfinite(x) for x in record["roi"]):
                rows.append(
                    {
                        "plan": plan,
                        "seed": seed,
                        **dict(zip(("roi", "low", "high"), record["roi"], strict=True)),
                    }
                )
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
    both: list[Mapping[str, Any]] = [one["plans"] for one in (*worlds, *rated)]
    checked, failed = (sum(int(one[name]) for one in both) for name in ("checked", "violations"))
    certificates = [*column(worlds, "product", "certificate"), *column(rated, "forms", "certificate")]
    right = sum(bool(one["plans"]["worst is bad"]) for one in worlds)
    pairs = [one["product"] for one in worlds] + [one["forms"] for one in rated]
    higher = sum(one["linear"]["value"] >= one["product"]["value"] for one in pairs)
    words = [
        f"The bound on regret was checked on {checked:,} pairs of request and plan and fails on {failed}.",
        "The optimality check, value and priced exposures of the linear form's list less those of the tuned product's, "
        f"was made on every request; its least is {min(certificates):.1e}. Aligned value is not lower in {higher} of "
        f"{len(pairs)} worlds and splits. The theorem is about aligned value; "
        "what it does for labels depends on the alignment and is reported with its interval.",
        f"The plan that returns single out is one of the two bad ones in {right} of {len(worlds)} worlds.",
        "Splits of MovieLens are of one data set: their interval tells about splits, not about other data sets.",
        "A return is measured on one half of the requests and its plan's removal judged on the other half.",
        "Thresholds, windows, guards, the controller and every formula of cost and return are ours; the paper's are "
        "not known to us. Its online figures cannot be reproduced here.",
    ]
    if not rated or not bandits:
        words.append(f"MovieLens or Open Bandit was not there and was left out; to have them: {INSTALL}")
    return words
