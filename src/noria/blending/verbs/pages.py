"""The page that a verb leaves behind, drawn from its results alone; several results make one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noria.core.pages.charts import Figure, number
from noria.core.pages.report import write_page

__all__ = ["TITLES", "write_results_page"]

Blocks = list[Figure | str]
Results = Mapping[str, Any]

TITLES = {
    "fit": "Alignment",
    "replay": "Replay",
    "attribute": "What plans cost and bring",
    "solve": "Targets and their prices",
    "import": "Boosts brought over",
}


def write_results_page(path: Path, results: Sequence[Results]) -> None:
    """Write the page of one verb's results, or of several verbs'.

    Raises:
        RunError: the disk refuses.
    """
    sections: list[tuple[str, Blocks]] = []
    for one in results:
        sections += _SECTIONS[one["verb"]](one)
    title = TITLES[results[0]["verb"]] if len(results) == 1 else "Traffic and what it costs"
    made = max(str(one["made"]) for one in results)
    write_page(
        path,
        title,
        sections,
        intro="Values and boosts are in expected effective completions. Scores add up over plans; exposures do not.",
        footer=f"Made by noria blending {', '.join(str(one['verb']) for one in results)} at {made}.",
    )


# -- fit --------------------------------------------------------------------------------------------------------------

KINDS = ("mean", "affine", "platt", "beta", "sir", "isotonic")


def _fit(r: Results) -> list[tuple[str, Blocks]]:
    alignment: Blocks = [
        f"{r['exposures']:,} exposures; {number(r['mean_value'])} effective completions an exposure; snapshot version "
        f"{r['version']}, digest {r['digest'][:12]}.",
        _table(
            "Aligners",
            r["keys"],
            {
                "scene": "scene",
                "source": "source",
                "version": "version",
                "kind": "kind",
                "from": "origin",
                "population": "population",
                "exposures": lambda k: round(k["exposures"]),
                "rate": "rate",
                "known to": lambda k: f"{_percent(k['error'])}" if k["error"] is not None else None,
                "share above 1": "above_one",
                "why": "why",
            },
            "From: its own outcomes, or what stands in for them: its parent's aligner, one held back because it "
            "jumped, the last good one. Known to: the standard error of the rate, relative to it.",
        ),
    ]
    points = [
        {"key": f"{c['source']} {c['version']}".strip(), **d} for c in r["curves"] for d in c["deciles"]
    ]
    calibration: Blocks = []
    if points:
        calibration.append(
            Figure.chart(
                "Outcomes against aligned values, under mean scaling",
                _calibration(points),
                "A point is a tenth of a key's exposures by score, with its 95 % interval. On the line the value is "
                "right; a bend asks for another aligner.",
            )
        )
    calibration.append(
        _table(
            "Which aligner the outcomes ask for",
            r["curves"],
            {
                "source": "source",
                "version": "version",
                "fitted": "kind",
                "advised": "advice",
                "p of mean scaling": "p_value",
                **{f"loss, {kind}": _loss(kind) for kind in KINDS},
            },
            "Mean squared error on folds that were not fitted on. Advised is the simplest kind within one standard "
            "error of the best.",
        )
    )
    found: list[tuple[str, Blocks]] = [("Alignment", alignment), ("Calibration", calibration)]
    if r["anchors"]:
        anchors = _table(
            "Figures that could be the anchor",
            r["anchors"],
            {
                "figure": "name",
                "from day to day": "stability",
                "by duration": "by_duration",
                "by source": "by_source",
                "minutes to 95 %": "maturity",
                "coverage": "coverage",
                "north star": "north_star",
                "unbeaten": "pareto",
            },
            "Spreads are standard deviations over means; low is good. Unbeaten: no other figure is at least as good in "
            "everything.",
        )
        found.append(("Anchor", [anchors]))
    return [*found, ("Left out", [_dropped(r["dropped"])])]


def _loss(kind: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda curve: curve["losses"].get(kind)


def _calibration(points: list[dict[str, Any]]) -> Any:
    import altair as alt

    ends = [pick(p["value"] for p in points) for pick in (min, max)]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("value:Q", title="mean value of the tenth", scale=alt.Scale(zero=False)),
        color=alt.Color("key:N", title=None),
        tooltip=["key:N", "value:Q", "rate:Q", "low:Q", "high:Q"],
    )
    rate = alt.Y("rate:Q", title="effective completions an exposure", scale=alt.Scale(zero=False))
    line = (
        alt.Chart(alt.Data(values=[{"value": end, "rate": end} for end in ends]))
        .mark_line(strokeDash=[4, 4], color="#888888", strokeWidth=1)
        .encode(x="value:Q", y="rate:Q")
    )
    bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
    return (line + bars + base.mark_line(point=True).encode(y=rate)).properties(width="container", height=320)


# -- replay -----------------------------------------------------------------------------------------------------------


def _replay(r: Results) -> list[tuple[str, Blocks]]:
    blocks: Blocks = [
        f"{r['requests']:,} requests with {r['candidates']:,} candidates, lists of {r['size']}."
    ]
    if r["absent"]:
        blocks.append(f"The log has no column {', '.join(r['absent'])}: plans for it hit nobody.")
    blocks.append(_side(r["before"], "As served"))
    if "change" in r:
        change = r["change"]
        shares = [
            {"plan": p["plan"], **dict(zip(("change", "low", "high"), p["share"], strict=True))}
            for p in change["plans"]
            if p["share"]
        ]
        blocks += [
            _side(r["after"], "As it would be"),
            f"Value {_signed(change['value'], percent=True)}; {_percent(change['moved'])} of places change.",
            Figure.chart(
                "Change of each plan's share of exposures",
                _intervals(shares, "change", "change of the share"),
                "Paired by request, with 95 % intervals.",
            ),
        ]
    return [("Replay", blocks)]


def _side(side: Mapping[str, Any], title: str) -> Figure:
    return _table(
        f"{title}: version {side['version']}",
        side["plans"],
        {
            "plan": "plan",
            "weight": "weight",
            "bias": "bias",
            "of candidates": "candidates",
            "exposures": lambda p: round(p["exposures"]),
            "share": "share",
            "spend": "spend",
            "price of 1,000": "price",
        },
        f"Value of a place {_number(side['value'])}; boosts are {_percent(side['inflation'])} of value; guards took "
        f"{_number(-side['guard'])}.",
    )


# -- attribute --------------------------------------------------------------------------------------------------------


def _attribute(r: Results) -> list[tuple[str, Blocks]]:
    found: list[tuple[str, Blocks]] = []
    if "books" in r:
        found.append(("Accounts of all exposures", _books(r["books"])))
    if "returns" in r:
        found.append(("What plans displace and bring", _returns(r["returns"])))
    if "experiment" in r:
        found.append(("A/B test", _experiment(r["experiment"])))
    if "books" in r:
        found.append(("Left out", [_dropped(r["books"]["dropped"])]))
    return found


def _books(b: Mapping[str, Any]) -> Blocks:
    blocks: Blocks = [
        f"{b['exposures']:,} exposures worth {_number(b['value'])} completions; boosts are {_percent(b['inflation'])} "
        f"of it; guards took {_number(-b['guard'])}.",
        _table(
            "Accounts",
            b["plans"],
            {
                "plan": "plan",
                "exposures": "exposures",
                "spend": "spend",
                "price of 1,000": "price",
                "value": "value",
                "known": "known",
                "completions": "outcomes",
                "surplus": "surplus",
                "gain": "gain",
            },
            "Spend is the sum of a plan's contributions over what was shown. Surplus is completions less value over "
            "exposures with an outcome: below zero, the plan's candidates do worse than they are priced.",
        ),
        _table(
            "By source",
            b["by_source"],
            {
                "source": "source",
                "exposures": "exposures",
                "value": "value",
                "boosts over value": "inflation",
            },
        ),
    ]
    daily = [{**d, "day": _day(d["day"])} for d in b["daily"]]
    if len({d["day"] for d in daily}) > 1:
        blocks.append(Figure.chart("Spend a day", _daily(daily), "Expected effective completions."))
    if b["unknown"]:
        lost = sum(b["unknown"].values())
        blocks.append(
            f"{lost:,} exposures are of snapshots that were not given; they are in no plan's account."
        )
    return blocks


def _returns(t: Mapping[str, Any]) -> Blocks:
    def end(name: str, place: int) -> Callable[[Mapping[str, Any]], float | None]:
        return lambda p: p[name][place] if p[name] else None

    rule = t["rule"]
    advice = (
        f"Advice: a return below {rule['floor']:g} at {rule['alpha']:g}, corrected for all plans, with at least "
        f"{_percent(rule['share'])} of the spend."
        if t["advice"]
        else "No advice: the gain is the completions themselves. Give the plans' own figure with --gain."
    )
    bars = [
        {"plan": p["plan"], **dict(zip(("roi", "low", "high"), p["roi"], strict=True))}
        for p in t["plans"]
        if p["roi"]
    ]
    blocks: Blocks = [
        f"{t['requests']:,} requests, {t['exposures']:,} exposures. The bound on regret fails on {t['violations']:,} "
        f"of {t['requests'] * len(t['plans']):,} pairs of request and plan.",
        _table(
            "Displacement",
            t["plans"],
            {
                "plan": "plan",
                "exposures": lambda p: round(p["exposures"]),
                "price of 1,000": "price",
                "spend": "spend",
                "displaced": lambda p: round(p["displaced"]),
                "value cost": "value_cost",
                "regret": "regret",
                "bound": "bound",
                "Shapley a request": "shapley",
            },
            "Each plan is left out alone: displaced exposures, cost and regret do not add up over plans; spend and "
            "Shapley values do.",
        ),
        f"The gain is the {t['gain']}, observed for {t['observed']:,} candidates and predicted for the rest.",
        _table(
            "Returns, the surest to return little first",
            sorted(t["plans"], key=lambda p: (p["roi"] or [None] * 3)[2] or float("inf")),
            {
                "plan": "plan",
                "lift": "lift",
                "surplus": "surplus",
                "return": end("roi", 0),
                "95 % from": end("roi", 1),
                "to": end("roi", 2),
                "over spend": end("roi_spend", 0),
                "p": lambda p: p["p_value"] if t["advice"] else None,
                "advice": lambda p: ("retire" if p["retire"] else "keep") if t["advice"] else None,
            },
            f"Return is lift over regret; over spend, lift over spend. {advice}",
        ),
    ]
    if bars:
        blocks.append(
            Figure.chart("Return", _intervals(bars, "roi", "lift over regret"), "With 95 % intervals.")
        )
    return blocks


def _experiment(e: Mapping[str, Any]) -> Blocks:
    users = ", ".join(f"{count:,} of {name}" for name, count in e["users"].items())
    return [
        f"{users} users; the split itself has p = {_number(e['split_p_value'])}.",
        _table(
            "Effects",
            e["effects"],
            {
                "figure": "name",
                "CUPED": "cuped",
                "control": "control",
                "treatment": "treatment",
                "change": lambda f: _percent(f["relative"], sign=True),
                "95 % from": lambda f: _percent(f["low"], sign=True),
                "to": lambda f: _percent(f["high"], sign=True),
                "p": "p_value",
                "users without it": lambda f: f["missing"] or None,
            },
            "With CUPED, what users differed in before the test is taken out. A user who lacks a figure, or its time "
            "before, is left out of it.",
        ),
    ]


# -- solve and import -------------------------------------------------------------------------------------------------


def _solve(r: Results) -> list[tuple[str, Blocks]]:
    loss = (
        ""
        if r["loss"] is None
        else f" No lists with these shares are worth more by {_number(r['loss'])} or more."
    )
    blocks: Blocks = [
        f"{r['requests']:,} requests, {r['exposures']:,} places: {_number(r['value'])} completions a place with the "
        f"targets, {_number(r['without'])} without.{loss}",
        _table(
            "Targets",
            r["plans"],
            {
                "plan": "plan",
                "moves": "moves",
                "target": "target",
                "reached": "reached",
                "missed": "missed",
                "price": "price",
                "price of 1,000": lambda p: 1000 * p["price"],
            },
            "The price is what one more exposure of the plan takes from all lists, or one more completion where the "
            "weight is moved.",
        ),
    ]
    if "frontier" in r:
        f = r["frontier"]
        blocks.append(
            Figure.chart(
                f"The frontier of {f['plan']}",
                _frontier(f["points"]),
                "Its price, and what it takes from the value of a place, as its share rises; other targets are kept.",
            )
        )
        if f["beyond"]:
            shares = ", ".join(_percent(share) for share in f["beyond"])
            blocks.append(f"Beyond reach on these requests: {shares}.")
    return [("Targets", blocks)]


def _import(r: Results) -> list[tuple[str, Blocks]]:
    before, after = (_number(value) for value in r["value"])
    blocks: Blocks = [
        f"{r['requests']:,} requests: {_percent(r['removed'])} of the boosts' magnitude is gone at unchanged shares "
        f"(largest difference {_number(r['gap'])}). Value of a place {before} before, {after} after; "
        f"{_signed(r['gain'])} completions a request. Most of what is gone is what all boosts had in common, which "
        "never moved anything.",
        _table(
            "Plans",
            r["plans"],
            {"plan": "plan", "for": "when", "bias": "bias", "exposures before": "before", "after": "after"},
        ),
        _table(
            "Boosts by source, completions",
            r["sources"],
            {"source": "source", "before": "before", "after": "after"},
        ),
    ]
    return [("Boosts brought over", blocks)]


_SECTIONS: dict[str, Callable[[Results], list[tuple[str, Blocks]]]] = {
    "fit": _fit,
    "replay": _replay,
    "attribute": _attribute,
    "solve": _solve,
    "import": _import,
}


# -- charts and words -------------------------------------------------------------------------------------------------


def _table(
    title: str,
    records: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str | Callable[[Any], Any]],
    caption: str = "",
) -> Figure:
    """A row a record; a column that is empty in all of them is left out."""
    cells = {
        name: [record[what] if isinstance(what, str) else what(record) for record in records]
        for name, what in columns.items()
    }
    kept = {name: column for name, column in cells.items() if any(cell not in (None, "") for cell in column)}
    rows = [list(row) for row in zip(*kept.values(), strict=True)]
    return Figure.table(title, list(kept), rows, caption)


def _intervals(rows: list[dict[str, Any]], field: str, title: str) -> Any:
    import altair as alt

    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("plan:N", title=None, sort=[row["plan"] for row in rows]),
        tooltip=["plan:N", f"{field}:Q", "low:Q", "high:Q"],
    )
    dots = base.mark_point(size=70).encode(x=alt.X(f"{field}:Q", title=title))
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    return (bars + dots).properties(width="container", height=max(60, 26 * len(rows)))


def _daily(rows: list[dict[str, Any]]) -> Any:
    import altair as alt

    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("day:O", title=None),
            y=alt.Y("spend:Q", title="completions"),
            color=alt.Color("plan:N", title=None),
            tooltip=["plan:N", "day:O", "spend:Q", "exposures:Q"],
        )
        .properties(width="container", height=280)
    )


def _frontier(points: list[dict[str, Any]]) -> Any:
    import altair as alt

    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("reached:Q", title="share reached", axis=alt.Axis(format="%")),
        tooltip=["reached:Q", "price:Q", "cost:Q", "value:Q"],
    )
    price = base.mark_line(point=True).encode(y=alt.Y("price:Q", title="price, completions"))
    cost = base.mark_line(point=True, strokeDash=[4, 3]).encode(y=alt.Y("cost:Q", title="cost of a place"))
    return (price.properties(width="container", height=180)) & (
        cost.properties(width="container", height=180)
    )


def _dropped(reasons: Mapping[str, int]) -> Figure | str:
    if not reasons:
        return "Nothing was left out."
    return Figure.table(
        "Rows left out, by reason", ["reason", "rows"], [list(one) for one in reasons.items()]
    )


def _number(value: float | None) -> str:
    return "—" if value is None else number(float(value))


def _percent(value: float | None, *, sign: bool = False) -> str:
    return "—" if value is None else f"{number(100 * value, sign=sign)} %"


def _signed(interval: Sequence[float | None] | None, *, percent: bool = False) -> str:
    if interval is None or interval[0] is None:
        return "—"
    scale, unit = (100.0, " %") if percent else (1.0, "")
    effect, low, high = (None if x is None else number(scale * x, sign=True) + unit for x in interval)
    return f"{effect} ({low} to {high})" if low is not None else str(effect)


def _day(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")
