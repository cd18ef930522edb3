"""Radar charts in Vega: one axis an indicator, each scaled to its own largest value, one polygon a series."""

from __future__ import annotations

import math
from typing import Any

from noria.core.errors import DataError
from noria.core.pages.charts import PALETTE
from noria.reports.charts.records import ChartData
from noria.reports.charts.specs import FONTS, HEIGHT, WIDTH, wrapped
from noria.reports.evidence.tables import cell_number

RADIUS = 130
SCHEMA = "https://vega.github.io/schema/vega/v6.json"


def radar(chart: ChartData) -> dict[str, Any]:
    """Vega specification of a radar chart: `x` names the indicator, `series` the polygon, `y` the value.

    Raises:
        DataError: fewer than three indicators, or a negative value, which has no place on a radar.
    """
    names = list(dict.fromkeys(chart.column(chart.x)))
    groups = list(dict.fromkeys(chart.column(chart.series))) if chart.series else [chart.title]
    if len(names) < 3:
        raise DataError("a radar needs three indicators", where=f"chart {chart.id}", mend="ask for bars")
    numbers: dict[tuple[str, str], float] = {}
    for row, name in enumerate(chart.column(chart.x)):
        value = cell_number(chart.column(chart.y)[row])
        if value is not None:
            numbers[name, chart.column(chart.series)[row] if chart.series else chart.title] = float(value)
    if any(value < 0 for value in numbers.values()):
        raise DataError(
            "a negative value has no place on a radar", where=f"chart {chart.id}", mend="ask for bars"
        )
    most = {
        name: max((v for (n, _), v in numbers.items() if n == name), default=0.0) or 1.0 for name in names
    }
    angles = {name: 2 * math.pi * place / len(names) - math.pi / 2 for place, name in enumerate(names)}
    center = (WIDTH / 2 - 60, HEIGHT / 2 + 10)

    def at(name: str, share: float) -> dict[str, float]:
        return {
            "x": center[0] + RADIUS * share * math.cos(angles[name]),
            "y": center[1] + RADIUS * share * math.sin(angles[name]),
        }

    marks: list[dict[str, Any]] = []
    for share in (0.25, 0.5, 0.75, 1.0):
        ring = [at(name, share) for name in [*names, names[0]]]
        marks.append(_path(ring, stroke="#d5dae0", width=1, fill="transparent"))
    for name in names:
        marks.append(_path([at(name, 0), at(name, 1)], stroke="#d5dae0", width=1, fill="transparent"))
        marks.append(_label(name, most[name], at(name, 1.13), math.cos(angles[name])))
    for number, group in enumerate(groups):
        points = [at(name, numbers[name, group] / most[name]) for name in names if (name, group) in numbers]
        color = PALETTE["light"][number % 12]
        marks.append(_path([*points, *points[:1]], stroke=color, width=2.5, fill=color))
        marks.append(
            {
                "type": "rect",
                "encode": {
                    "enter": {
                        k: {"value": v}
                        for k, v in {
                            "x": WIDTH - 110,
                            "y": 20 + 22 * number,
                            "width": 12,
                            "height": 12,
                            "fill": color,
                        }.items()
                    }
                },
            }
        )
        marks.append(
            {
                "type": "text",
                "encode": {
                    "enter": {
                        k: {"value": v}
                        for k, v in {
                            "x": WIDTH - 92,
                            "y": 26 + 22 * number,
                            "baseline": "middle",
                            "text": group,
                            "fontSize": 12,
                            "fill": "#1c2128",
                        }.items()
                    }
                },
            }
        )
    return {
        "$schema": SCHEMA,
        "width": WIDTH,
        "height": HEIGHT + 20,
        "background": "white",
        "padding": 10,
        "title": {"text": wrapped(chart.title), "anchor": "start", "fontSize": 15, "font": FONTS},
        "config": {"text": {"font": FONTS}},
        "marks": marks,
    }


def _path(points: list[dict[str, float]], *, stroke: str, width: float, fill: str) -> dict[str, Any]:
    path = " ".join(f"{'L' if n else 'M'}{p['x']:.2f},{p['y']:.2f}" for n, p in enumerate(points))
    style = {"path": path, "stroke": stroke, "strokeWidth": width, "fill": fill, "fillOpacity": 0.12}
    return {"type": "path", "encode": {"enter": {name: {"value": value} for name, value in style.items()}}}


def _label(name: str, most: float, place: dict[str, float], side: float) -> dict[str, Any]:
    align = "center" if abs(side) < 0.2 else "left" if side > 0 else "right"
    style = {
        "x": place["x"],
        "y": place["y"],
        "align": align,
        "baseline": "middle",
        "fontSize": 11,
        "fill": "#1c2128",
        "text": [*wrapped(name, 26), f"0–{most:,.6g}"],
    }
    return {"type": "text", "encode": {"enter": {key: {"value": value} for key, value in style.items()}}}
