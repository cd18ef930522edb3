"""Vega-Lite specifications of charts, made from their tables.

Columns are renamed inside the specification (`c0`, `c1`, …), so that dots, brackets and quotes in names mean nothing
to Vega; titles keep the names. Years are ordinal or quantitative numbers and never dates, and dates are read as UTC, so
a picture is the same in every time zone. Months keep their order; missing values leave a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from noria.core.errors import DataError
from noria.core.pages.charts import PALETTE
from noria.reports.charts.borders import named_borders
from noria.reports.charts.records import ChartData
from noria.reports.evidence.tables import MONTHS, cell_number, column_kind, date_key

WIDTH, HEIGHT = 640, 340
FONTS = "Noto Sans CJK SC, Noto Sans SC, Source Han Sans SC, DejaVu Sans, Liberation Sans, sans-serif"
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
MOST_POINTS = 5_000
LONG = 28
"""Characters of a name above which bars lie down."""


def vega_lite(chart: ChartData, *, countries: Any = None) -> dict[str, Any]:
    """Specification of a chart.

    Args:
        chart: what it shows.
        countries: TopoJSON of the countries with names in `properties.name`, for a map.

    Raises:
        DataError: there is nothing to draw, too many points, or a map without countries.
    """
    if not chart.rows:
        raise DataError("a chart without rows", where=f"chart {chart.id}")
    if len(chart.rows) > MOST_POINTS:
        raise DataError(
            f"{len(chart.rows):,} points", where=f"chart {chart.id}", mend=f"at most {MOST_POINTS:,}"
        )
    if chart.kind == "map":
        spec = _map(chart, countries)
    elif chart.kind in _MARKS:
        spec = _MARKS[chart.kind](chart)
    else:
        raise DataError(f"{chart.kind} is not drawn in Vega-Lite", where=f"chart {chart.id}")
    if "encoding" in spec and chart.kind != "histogram":
        spec["encoding"]["description"] = {
            "field": "row"
        }  # the row of each mark, by which a page finds its source
    spec.setdefault("data", {"values": values(chart)})
    return {
        "$schema": SCHEMA,
        "title": {"text": wrapped(chart.title), "anchor": "start"},
        "width": WIDTH,
        "height": HEIGHT,
        "config": config(),
        **spec,
    }


def config() -> dict[str, Any]:
    """Colours, fonts and sizes of every chart."""
    return {
        "background": "white",
        "font": FONTS,
        "range": {"category": list(PALETTE["light"]), "heatmap": {"scheme": "viridis"}},
        "axis": {
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "gridColor": "#e4e7eb",
            "labelLimit": 190,
        },
        "legend": {"labelFontSize": 12, "titleFontSize": 12, "labelLimit": 240},
        "title": {"fontSize": 15, "fontWeight": 600, "offset": 12},
        "view": {"stroke": None},
    }


def values(chart: ChartData) -> list[dict[str, Any]]:
    """Rows as Vega reads them: numbers as numbers, years as numbers, missing cells null."""
    kinds = {name: column_kind(name, chart.column(name)) for name in chart.columns}
    rows = []
    for number, row in enumerate(chart.rows):
        entry: dict[str, Any] = {"row": number}
        for place, (name, text) in enumerate(zip(chart.columns, row, strict=True)):
            numeric = name == chart.y or kinds[name] in ("number", "year")
            value = cell_number(text) if numeric else None
            entry[f"c{place}"] = (
                (float(value) if value is not None else None) if numeric else (date_key(text) or text)
            )
        rows.append(entry)
    return rows


def wrapped(text: str, width: int = 72) -> list[str]:
    """Lines of a title."""
    import textwrap

    return textwrap.wrap(text, width if text.isascii() else width // 2) or [text]


def _field(chart: ChartData, name: str) -> str:
    return f"c{chart.columns.index(name)}"


def _x(chart: ChartData) -> dict[str, Any]:
    """Channel of the horizontal axis by what its column holds."""
    cells = chart.column(chart.x)
    kind = column_kind(chart.x, cells)
    base: dict[str, Any] = {"field": _field(chart, chart.x), "title": chart.x}
    if kind == "year" and chart.kind in ("line", "area"):
        years = sorted({int(cell) for cell in cells if cell.isdecimal()})
        if len(years) <= 12:
            base["axis"] = {"values": years, "format": "d", "grid": False}
            return base | {"type": "quantitative", "scale": {"zero": False, "nice": False, "padding": 16}}
        return base | {
            "type": "quantitative",
            "axis": {"format": "d", "tickMinStep": 1, "grid": False},
            "scale": {"zero": False, "nice": False, "padding": 12},
        }
    if kind == "year":
        return base | {"type": "ordinal", "axis": {"format": "d", "labelAngle": 0}}
    if kind == "date":
        return base | {"type": "temporal", "timeUnit": "utcyearmonthdate", "scale": {"type": "utc"}}
    if kind == "month":
        order = sorted(
            dict.fromkeys(cells),
            key=lambda cell: MONTHS.index(cell[:3].lower()) if cell[:3].lower() in MONTHS else 99,
        )
        return base | {"type": "ordinal", "sort": order}
    if kind == "number" and chart.kind in ("scatter", "line"):
        return base | {"type": "quantitative", "scale": {"zero": False}}
    return base | {"type": "nominal", "sort": None}


def _y(chart: ChartData, **more: Any) -> dict[str, Any]:
    title = f"{chart.y} ({chart.unit})" if chart.unit and chart.unit not in chart.y else chart.y
    return {"field": _field(chart, chart.y), "type": "quantitative", "title": wrapped(title, 44), **more}


def _color(chart: ChartData) -> dict[str, Any]:
    if not chart.series:
        return {}
    name = {"field": _field(chart, chart.series), "type": "nominal", "title": chart.series, "sort": None}
    return {"color": name}


def _line(chart: ChartData) -> dict[str, Any]:
    mark = {"type": "line", "point": {"size": 40} if len(chart.rows) < 120 else False, "strokeWidth": 2.5}
    shape = (
        {"strokeDash": _color(chart)["color"]}
        if chart.series and len(set(chart.column(chart.series))) > 3
        else {}
    )
    return {
        "mark": mark,
        "encoding": {"x": _x(chart), "y": _y(chart, scale={"zero": False}), **_color(chart), **shape},
    }


def _area(chart: ChartData) -> dict[str, Any]:
    return {
        "mark": {"type": "area", "opacity": 0.85},
        "encoding": {"x": _x(chart), "y": _y(chart, stack="zero"), **_color(chart)},
    }


def _bar(chart: ChartData) -> dict[str, Any]:
    names = chart.column(chart.x)
    encoding = {"x": _x(chart), "y": _y(chart), **_color(chart)}
    lying = max(map(len, names)) > LONG or len(set(names)) > 8
    if lying:
        encoding["x"], encoding["y"] = encoding["y"], encoding["x"]
    elif encoding["x"].get("type") == "nominal":
        encoding["x"]["axis"] = {"labelAngle": 0 if len(set(names)) <= 5 else -35}
    mark: dict[str, Any] = {"type": "bar", "cornerRadiusEnd": 2}
    if not chart.series:
        mark["color"] = PALETTE["light"][0]
    return {"mark": mark, "encoding": encoding}


def _grouped(chart: ChartData) -> dict[str, Any]:
    spec = _bar(chart)
    spec["encoding"]["yOffset" if spec["encoding"]["x"].get("type") == "quantitative" else "xOffset"] = (
        {"field": _field(chart, chart.series), "sort": None} if chart.series else {}
    )
    spec["encoding"] = {name: value for name, value in spec["encoding"].items() if value}
    return spec


def _pie(chart: ChartData) -> dict[str, Any]:
    slices = {
        "theta": {"field": _field(chart, chart.y), "type": "quantitative", "stack": True},
        "color": {"field": _field(chart, chart.x), "type": "nominal", "title": chart.x, "sort": None},
        "order": {"field": "row"},
    }
    arc = {"mark": {"type": "arc", "innerRadius": 62, "outerRadius": 135, "stroke": "white"}}
    label = {
        "mark": {"type": "text", "radius": 153, "fontSize": 12},
        "encoding": {
            "text": {"field": _field(chart, chart.y), "type": "quantitative", "format": ".3~f"},
            "color": {"value": "#1c2128"},
        },
    }
    return {"encoding": slices, "layer": [arc, label]}


def _scatter(chart: ChartData) -> dict[str, Any]:
    encoding = {
        "x": _x(chart) | {"type": "quantitative", "scale": {"zero": False, "padding": 24}},
        "y": _y(chart, scale={"zero": False, "padding": 16}),
        **_color(chart),
    }
    points = {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.8}}
    names = [name for name in chart.columns if name not in (chart.x, chart.y, chart.series)]
    if not names or len(chart.rows) > 30:
        return points | {"encoding": encoding}
    label = {
        "mark": {"type": "text", "align": "left", "dx": 7, "fontSize": 11, "color": "#59626d"},
        "encoding": {"text": {"field": _field(chart, names[0])}},
    }
    return {"encoding": encoding, "layer": [points, label]}


def _timeline(chart: ChartData) -> dict[str, Any]:
    """Events along an axis of years; `x` is the event's name, `y` the year."""
    names = chart.column(chart.x)
    return {
        "height": max(160, 34 * len(names)),
        "encoding": {
            "x": {
                "field": _field(chart, chart.y),
                "type": "quantitative",
                "axis": {"format": "d", "tickMinStep": 1},
                "scale": {"zero": False, "padding": 30},
                "title": chart.y,
            },
            "y": {
                "field": _field(chart, chart.x),
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {"labelLimit": 320},
            },
        },
        "layer": [
            {"mark": {"type": "rule", "color": "#d5dae0"}},
            {"mark": {"type": "point", "filled": True, "size": 110, "color": PALETTE["light"][0]}},
        ],
    }


def _heat(chart: ChartData) -> dict[str, Any]:
    across = {"field": _field(chart, chart.x), "type": "ordinal", "sort": None, "title": chart.x}
    down = {
        "field": _field(chart, chart.series or chart.x),
        "type": "ordinal",
        "sort": None,
        "title": chart.series,
    }
    return {
        "mark": "rect",
        "encoding": {"x": across, "y": down, "color": _y(chart, scale={"scheme": "viridis"})},
    }


def _histogram(chart: ChartData) -> dict[str, Any]:
    return {
        "mark": {"type": "bar", "color": PALETTE["light"][0]},
        "encoding": {
            "x": {"field": _field(chart, chart.y), "bin": {"maxbins": 24}, "title": chart.y},
            "y": {
                "aggregate": "count",
                "type": "quantitative",
                "title": "数量" if chart.language == "zh" else "Count",
            },
        },
    }


def _map(chart: ChartData, countries: Any) -> dict[str, Any]:
    if not isinstance(countries, dict) or "objects" not in countries:
        raise DataError(
            "a map needs the borders of countries",
            where=f"chart {chart.id}",
            mend="give --borders with a TopoJSON file",
        )
    name = "countries" if "countries" in countries["objects"] else next(iter(countries["objects"]))
    countries, missing = named_borders(countries, name, chart.column(chart.x))
    if len(missing) == len(set(chart.column(chart.x))):
        raise DataError(
            "no country of the borders has a name of the chart",
            where=f"chart {chart.id}",
            mend="give other borders",
        )
    lookup = {
        "lookup": "properties.name",
        "from": {
            "data": {"values": values(chart)},
            "key": _field(chart, chart.x),
            "fields": [_field(chart, chart.y)],
        },
    }
    border: dict[str, Any] = {"data": {"values": countries, "format": {"type": "topojson", "feature": name}}}
    land = border | {"mark": {"type": "geoshape", "fill": "#eceff2", "stroke": "white", "strokeWidth": 0.4}}
    filled = border | {
        "transform": [lookup, {"filter": f"isValid(datum.{_field(chart, chart.y)})"}],
        "mark": {"type": "geoshape", "stroke": "white", "strokeWidth": 0.4},
        "encoding": {"color": _y(chart, scale={"scheme": "viridis"})},
    }
    title: dict[str, Any] = {"text": wrapped(chart.title), "anchor": "start"}
    if missing:
        title |= {"subtitle": _off_map(missing, chart.language), "subtitleFontSize": 12}
    return {
        "title": title,
        "data": {"values": []},
        "projection": {"type": "equalEarth"},
        "layer": [land, filled],
        "height": 330,
    }


def _off_map(names: Sequence[str], language: str) -> str:
    """A line that names what the borders do not have: a reader must not take it for missing data."""
    shown = (", " if language == "en" else "、").join(names[:4])
    more = len(names) - 4
    if language == "zh":
        return f"不在地图上：{shown}" + (f"等 {len(names)} 个" if more > 0 else "")
    return f"Not on the map: {shown}" + (f" and {more} more" if more > 0 else "")


_MARKS: dict[str, Callable[[ChartData], dict[str, Any]]] = {
    "line": _line,
    "area": _area,
    "bar": _bar,
    "stacked bar": _bar,
    "grouped bar": _grouped,
    "pie": _pie,
    "scatter": _scatter,
    "timeline": _timeline,
    "heat map": _heat,
    "histogram": _histogram,
}
