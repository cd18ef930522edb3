"""The console: what each plan costs and brings, what would be if, why an item stands where it stands.

Pages are made on the server and work without a script; the script keeps the table fresh, answers the sliders while they
move, and sends switches with the token. Nothing comes from elsewhere, and no text is taken for code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from noria.blending.service.recent import ServedRequest
from noria.blending.service.service import Feed
from noria.core.pages.charts import COLORS, Figure, theme
from noria.core.pages.report import environment, page_assets
from noria.core.service.serving import Request, Response, Route, asset, html_response, route

POINTS = 120
"""Most points of a line in a chart."""
LISTED = 20
"""Most requests that are listed."""


def console(feed: Feed) -> list[Route]:
    """Routes of the console: the page at `/`, its parts, its explanations, and the files that they load."""
    home = files("noria.blending") / "templates"
    shared = page_assets()
    style = shared["page.css"] + (home / "console.css").read_text(encoding="utf-8")

    async def page(request: Request) -> Response:
        return html_response(await asyncio.to_thread(_page, feed), inline_styles=True)

    async def plans(request: Request) -> Response:
        return html_response(await asyncio.to_thread(_render, "plans.html", state=_state(feed)))

    async def what_if(request: Request) -> Response:
        query = request.query_params
        result = await asyncio.to_thread(feed.supposed, query)
        plan = query.get("plan", "")
        return html_response(await asyncio.to_thread(_render, "whatif.html", result=result | {"plan": plan}))

    async def why(request: Request) -> Response:
        served = feed.find(request.path_params["request"])
        return html_response(await asyncio.to_thread(_why, served))

    return [
        route("/", page),
        route("/console/plans", plans),
        route("/console/what-if", what_if),
        route("/console/requests/{request:path}", why),
        asset("/assets/console.css", style, "text/css"),
        asset("/assets/console.js", (home / "console.js").read_text(encoding="utf-8"), "text/javascript"),
        asset("/assets/vega.js", shared["vega.js"], "text/javascript"),
        asset("/assets/page.js", shared["page.js"], "text/javascript"),
    ]


def _render(template: str, **content: Any) -> str:
    return str(environment("noria.blending").get_template(template).render(**content))


def _page(feed: Feed) -> str:
    record = _state(feed)
    status = record["status"]
    figures = _figures(status) if status else []
    return _render(
        "console.html",
        state=record,
        figures=figures,
        themes={mode: theme(mode) for mode in COLORS},
        requests=[one.to_json() for one in feed.recent.all()[:LISTED]],
        audit=feed.publisher.audit(20),
        supposed=_sliders(record),
    )


def _state(feed: Feed) -> dict[str, Any]:
    """Everything that the page shows of what serves and of what the loop has learnt."""
    record = feed.state()
    learnt = record.pop("nearline")
    record["logs"] = feed.journal is not None
    record["failing"] = learnt["failing"] if learnt else None
    record["status"] = status = learnt["status"] if learnt else None
    for plan in record["plans"]:
        plan["learnt"] = status["plans"].get(plan["id"]) if status else None
        plan["state"] = (
            "switched off"
            if plan["switched_off"] or record["all_off"]
            else "budget spent"
            if plan["resting"]
            else "on"
            if plan["on"]
            else "off"
        )
        plan["goal"] = _goal(plan["target"])
    return record


_GOALS = {
    "exposure_share": "{:.3g} % of exposures",
    "value_share": "{:.3g} % of value",
    "exposures_per_day": "{:,.0f} exposures a day",
    "completions_per_day": "{:,.0f} completions a day",
}


def _goal(target: Mapping[str, float] | None) -> str:
    if not target:
        return ""
    ((name, amount),) = target.items()
    return _GOALS[name].format(100 * amount if name.endswith("_share") else amount)


def _why(served: ServedRequest) -> str:
    record = served.explained()
    plans = sorted({plan["plan"] for item in record["items"] for plan in item["plans"]})
    return _render("why.html", request=record, plans=plans)


# -- what if ----------------------------------------------------------------------------------------------------------


def _sliders(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where each plan's sliders begin, and how far they go."""
    mean = record["mean_value"]
    return [
        {name: plan[name] for name in ("id", "weight", "bias", "on")}
        | {"weight_low": min(-1.0, 2 * plan["weight"]), "weight_high": max(1.0, 2 * plan["weight"])}
        | {"bias_low": min(-mean, 2 * plan["bias"]), "bias_high": max(mean, 2 * plan["bias"])}
        for plan in record["plans"]
    ]


# -- charts -----------------------------------------------------------------------------------------------------------


def _figures(status: Mapping[str, Any]) -> list[Figure]:
    history = _thinned(status["history"])
    rows = [
        {"at": 1000 * line["at"], "plan": plan, **values}
        for line in history
        for plan, values in line["plans"].items()
    ]
    bias = (
        "What each plan gives an exposure on top (its bias): its shadow price, where a controller or the solver "
        "has set it."
    )
    day = "since midnight UTC."
    return [
        _lines(
            "Exposure shares",
            "share",
            "share of the day's exposures",
            ".3~p",
            rows,
            f"Of what was shown {day}",
        ),
        _lines("Prices", "bias", "completions an exposure", ",.3~r", rows, bias),
        _lines(
            "Spend",
            "spend",
            "expected completions",
            ",.3~r",
            rows,
            f"Each plan's contributions to what was shown {day}",
        ),
        _calibration(status["sources"]),
    ]


def _thinned(lines: Sequence[Any]) -> list[Any]:
    step = max(1, -(-len(lines) // POINTS))
    return list(lines)[::-1][::step][::-1]


def _lines(
    title: str, field: str, axis: str, form: str, rows: Sequence[Mapping[str, Any]], caption: str
) -> Figure:
    kept = [{"at": row["at"], "plan": row["plan"], field: row[field]} for row in rows]
    times = [row["at"] for row in kept]
    clock = _clock((max(times) - min(times)) / 1000 if times else 0.0)
    plan = {"field": "plan", "type": "nominal"}
    moment = {"field": "at", "type": "temporal"}
    axis_x = {"format": clock, "tickCount": 6, "labelOverlap": "greedy"}
    tooltip = [
        plan,
        moment | {"format": "%d %b %H:%M:%S", "title": "at (UTC)"},
        _quantity(field, format=form),
    ]
    spec = {
        "data": {"values": kept},
        "mark": {"type": "line", "point": len(kept) < 60, "interpolate": "step-after"},
        "height": 220,
        "encoding": {
            "x": moment | {"title": None, "scale": {"type": "utc"}, "axis": axis_x},
            "y": _quantity(field, title=axis, axis={"format": form}),
            "color": plan | {"title": None},
            "tooltip": tooltip,
        },
    }
    return Figure.chart(title, spec, caption)


def _quantity(field: str, **more: Any) -> dict[str, Any]:
    """An encoding by a number."""
    return {"field": field, "type": "quantitative", **more}


def _clock(span: float) -> str:
    """Format of times on an axis of so many seconds, in which no two of six ticks read alike."""
    if span < 1800:
        return "%H:%M:%S"
    return "%H:%M" if span < 72_000 else "%d %b %H:%M"


def _calibration(sources: Sequence[Mapping[str, Any]]) -> Figure:
    """Outcomes against expected ones, by tenths of each source's exposures; the diagonal is priced right."""
    rows = [{"source": source["source"], **tenth} for source in sources for tenth in source["tenths"]]
    most = max([1e-9, *(max(row["value"], row["high"]) for row in rows)])
    ends = [
        {"source": source["source"], "value": end, "rate": end} for source in sources for end in (0.0, most)
    ]
    x = _quantity("value", title="expected completions an exposure", axis={"tickCount": 5})
    rate = _quantity("rate")
    figures = ("exposures", "score", "value", "rate", "low", "high")

    def layer(only: str, mark: dict[str, Any], **encoding: Any) -> dict[str, Any]:
        return {"transform": [{"filter": only}], "mark": mark, "encoding": {"x": x, **encoding}}

    tenth, diagonal = "isValid(datum.exposures)", "!isValid(datum.exposures)"
    dashed = {"type": "line", "strokeDash": [4, 4], "strokeWidth": 1, "opacity": 0.6}
    layers = [
        layer(diagonal, dashed, y=rate | {"title": "completions"}),
        layer(tenth, {"type": "rule", "strokeWidth": 2}, y=_quantity("low"), y2={"field": "high"}),
        layer(
            tenth,
            {"type": "point", "size": 60},
            y=rate,
            tooltip=[_quantity(name, format=",.3~g") for name in figures],
        ),
    ]
    spec = {
        "data": {"values": rows + ends},
        "facet": {"field": "source", "type": "nominal", "title": None},
        "spec": {"height": 220, "layer": layers},
    }
    caption = (
        "Completions against expected ones by tenths of each source's exposures, with 95 % intervals. On the dashed "
        "line a source is priced right; a bend across it asks for another aligner."
    )
    return Figure.chart("Calibration", spec, caption)
