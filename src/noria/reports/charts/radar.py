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
    if len(names) < 3:
        raise DataError("a radar needs three indicators", where=f"chart {chart.id}", mend="ask for bars")
    numbers = _numbers(chart)
    most = {
        name: max((v for (n, _), v in numbers.items() if n == name), default=0.0) or 1.0 for name in names
    }
    angles = {name: 2 * math.pi * place / len(names) - math.pi / 2 for place, name in enumerate(names)}
    marks: list[dict[str, Any]] = []
    for share in (0.25, 0.5, 0.75, 1.0):
        ring = [_at(angles[name], share) for name in [*names, names[0]]]
        marks.append(_path(ring, stroke="#d5dae0", width=1, fill="transparent"))
    for name in names:
        spoke = [_at(angles[name], 0), _at(angles[name], 1)]
        marks.append(_path(spoke, stroke="#d5dae0", width=1, fill="transparent"))
        marks.append(_label(name, most[name], _at(angles[name], 1.13), math.cos(angles[name])))
    for place, group in enumerate(dict.fromkeys(group for _, group in numbers)):
        color = PALETTE["light"][place % 12]
        shares = [
            (angles[name], numbers[name, group] / most[name]) for name in names if (name, group) in numbers
        ]
        points = [_at(angle, share) for angle, share in shares]
        marks.append(_path([*points, *points[:1]], stroke=color, width=2.5, fill=color))
        marks += _legend(group, place, color)
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


def _numbers(chart: ChartData) -> dict[tuple[str, str], float]:
    """Value by indicator and series.

    Raises:
        DataError: a negative value.
    """
    groups = chart.column(chart.series) if chart.series else [chart.title] * len(chart.rows)
    cells = [cell_number(text) for text in chart.column(chart.y)]
    rows = zip(chart.column(chart.x), groups, cells, strict=True)
    numbers = {(name, group): float(value) for name, group, value in rows if value is not None}
    if any(value < 0 for value in numbers.values()):
        raise DataError(
            "a negative value has no place on a radar", where=f"chart {chart.id}", mend="ask for bars"
        )
    return numbers


def _at(angle: float, share: float) -> dict[str, float]:
    return {
        "x": WIDTH / 2 - 60 + RADIUS * share * math.cos(angle),
        "y": HEIGHT / 2 + 10 + RADIUS * share * math.sin(angle),
    }


def _legend(group: str, place: int, color: str) -> list[dict[str, Any]]:
    """Swatch and name of a polygon."""
    top = 20 + 22 * place
    swatch = {"x": WIDTH - 110, "y": top, "width": 12, "height": 12, "fill": color}
    name = {
        "x": WIDTH - 92,
        "y": top + 6,
        "baseline": "middle",
        "text": group,
        "fontSize": 12,
        "fill": "#1c2128",
    }
    return [_mark("rect", swatch), _mark("text", name)]


def _mark(kind: str, style: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "encode": {"enter": {name: {"value": value} for name, value in style.items()}}}


def _path(points: list[dict[str, float]], *, stroke: str, width: float, fill: str) -> dict[str, Any]:
    path = " ".join(f"{'L' if n else 'M'}{p['x']:.2f},{p['y']:.2f}" for n, p in enumerate(points))
    style = {"path": path, "stroke": stroke, "strokeWidth": width, "fill": fill, "fillOpacity": 0.12}
    return _mark("path", style)


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
    return _mark("text", style)
