"""Figures for a report: charts in one theme, tables, pictures, and grids of sample images.

A `Figure` is plain data: it can be pickled and stored as JSON (`Figure(**json.loads(json.dumps(asdict(figure))))`).
`noria.core.pages.report` draws figures on a page.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from noria.core.records import json_values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Mode = Literal["light", "dark"]
Cell = str | int | float | None

# Colours of the page and of its charts. Contrast with the background: text at least 7, faint text at least 4.5.
COLORS: dict[Mode, dict[str, str]] = {
    "light": {
        "page": "#ffffff",
        "panel": "#f6f7f9",
        "text": "#1c2128",
        "faint": "#59626d",
        "line": "#d5dae0",
        "link": "#0b5cad",
        "supported": "#0a6b4a",
        "refuted": "#b3331d",
        "inconclusive": "#6b5a14",
    },
    "dark": {
        "page": "#14171c",
        "panel": "#1d2127",
        "text": "#e6e9ed",
        "faint": "#a0a9b4",
        "line": "#363d47",
        "link": "#7ab8ff",
        "supported": "#5fd3a4",
        "refuted": "#ff9478",
        "inconclusive": "#dcc46a",
    },
}

# Categorical colours, with similar hues in the same order in both modes. They were searched for: a contrast of at least
# 3:1 with the page, and the largest distance for eyes of any kind, larger for the first eight (see the tests).
PALETTE: dict[Mode, tuple[str, ...]] = {
    "light": (
        *("#3555ee", "#9f1d04", "#105d54", "#f23ba8", "#98713d", "#432853"),
        *("#0299dc", "#680511", "#93966b", "#b31eb6", "#c78107", "#797979"),
    ),
    "dark": (
        *("#b6e5ff", "#ca2809", "#83b9aa", "#87547d", "#ead023", "#6146ef"),
        *("#4c95b1", "#ed6e46", "#04782e", "#ce61f1", "#f6a46a", "#91d4d2"),
    ),
}

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"


@dataclass(frozen=True)
class Figure:
    """A title, a caption, and what is shown: make one with `chart`, `table`, `picture`, `video` or `shaded`.

    `data` holds JSON values only: a chart's `{"spec", "missing", "empty", "pick"}`, a table's `{"header", "rows",
    "numeric"}`, a picture's `{"png"}` and a video's `{"mp4"}` (base64), a shaded text's `{"pieces"}`.
    """

    kind: Literal["chart", "table", "picture", "video", "shaded"]
    title: str
    caption: str
    data: dict[str, Any]

    @classmethod
    def chart(cls, title: str, chart: Any, caption: str = "") -> Figure:
        """A Vega-Lite chart: an altair chart, or its specification as a mapping.

        The theme of the page fills in what the chart leaves open; a chart without a width takes that of the page. NaN
        and infinite values become missing: they are not drawn, and their number stands below the chart. A click on a
        name in the legend highlights that series.

        Raises:
            ValueError: the chart would fetch its data by a URL.
        """
        spec = dict(chart) if isinstance(chart, Mapping) else _altair_spec(chart)
        spec = json_values(spec)
        spec.pop("$schema", None)
        spec.setdefault("description", f"{title}. {caption}".strip())
        rows = _data_rows(spec)
        fields = {part["field"] for part in _walk(spec) if isinstance(part.get("field"), str)}
        gaps = sum(row[field] is None for row in rows or () for field in fields & set(row))
        data = {"spec": spec, "missing": gaps, "empty": rows == [], "pick": _finish(spec)}
        return cls("chart", title, caption, data)

    @classmethod
    def table(
        cls, title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = ""
    ) -> Figure:
        """A table. A cell that is None, NaN or infinite is shown as a dash, never as a number.

        Raises:
            ValueError: a row has more or fewer cells than the header.
        """
        table = [[_cell(cell) for cell in row] for row in rows]
        for row in table:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} cells under {len(header)} headings: {row}")
        columns = [[row[n] for row in table if missing(row[n]) is None] for n in range(len(header))]
        numeric = [bool(column) and all(_is_number(cell) for cell in column) for column in columns]
        data = {"header": [str(name) for name in header], "rows": table, "numeric": numeric}
        return cls("table", title, caption, data)

    @classmethod
    def picture(cls, title: str, png: bytes, caption: str = "") -> Figure:
        """A PNG, shown at its own size.

        Raises:
            ValueError: the bytes are not a PNG.
        """
        if not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("not a PNG")
        return cls("picture", title, caption, {"png": base64.b64encode(png).decode()})

    @classmethod
    def video(cls, title: str, mp4: bytes, caption: str = "") -> Figure:
        """Make a video that a browser plays.

        Args:
            title: title above the video.
            mp4: content of an mp4 file.
            caption: text under the title.
        """
        return cls("video", title, caption, {"mp4": base64.b64encode(mp4).decode("ascii")})

    @classmethod
    def shaded(cls, title: str, pieces: Sequence[Piece], caption: str = "") -> Figure:
        """A text in pieces, each with a shade of its own and a note that appears under the pointer.

        Raises:
            ValueError: a shade is outside of 0 … 1.
        """
        entries = []
        for piece in pieces:
            if piece.shade is not None and not 0 <= piece.shade <= 1:
                raise ValueError(f"a shade of {piece.shade}")
            shade = None if piece.shade is None else round(SHADES * piece.shade)
            entries.append(vars(piece) | {"shade": shade})
        return cls("shaded", title, caption, {"pieces": entries})


SHADES = 9  # classes s1 … s9 of the style sheet


@dataclass(frozen=True)
class Piece:
    """A piece of a shaded text.

    Attributes:
        text: text of the piece; its line breaks are kept.
        shade: depth of the background, 0 … 1; None for no shade.
        note: note that appears under the pointer.
        mark: whether the piece is underlined.
    """

    text: str
    shade: float | None = None
    note: str = ""
    mark: bool = False


def theme(mode: Mode = "light") -> dict[str, Any]:
    """Vega-Lite configuration of every chart, for a light or a dark page."""
    color, palette = COLORS[mode], list(PALETTE[mode])
    text = {"labelColor": color["faint"], "titleColor": color["text"]}
    sizes = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500}
    return {
        "background": "transparent",
        "font": FONT,
        "padding": 4,
        "view": {
            "stroke": None,
            "continuousHeight": 280,
            "continuousWidth": 280,
            "discreteWidth": {"step": 36},
        },
        "axis": {
            **text,
            **sizes,
            "domainColor": color["line"],
            "tickColor": color["line"],
            "gridColor": color["line"],
            "gridOpacity": 0.6,
            "tickSize": 4,
            "labelPadding": 5,
            "titlePadding": 10,
            "labelOverlap": "greedy",
        },
        "axisX": {"grid": False, "labelAngle": 0},
        "axisY": {"domain": False, "ticks": False, "tickCount": 6},
        "legend": {
            **text,
            **sizes,
            "orient": "top",
            "direction": "horizontal",
            "labelColor": color["text"],
            "labelLimit": 260,
            "symbolSize": 80,
            "symbolStrokeWidth": 2,
            "columnPadding": 16,
            "rowPadding": 4,
            "offset": 14,
        },
        "header": {**text, **sizes, "labelColor": color["text"], "labelFontWeight": 600, "labelPadding": 6},
        "title": {"color": color["text"], "subtitleColor": color["faint"], "anchor": "start", "fontSize": 13},
        "mark": {"color": palette[0]},
        "line": {"strokeWidth": 2, "strokeJoin": "round", "strokeCap": "round"},
        "point": {"filled": True, "size": 45},
        "bar": {"cornerRadiusEnd": 2},
        "rule": {"color": color["faint"]},
        "text": {"color": color["text"], "fontSize": 12},
        "range": {"category": palette, "heatmap": {"scheme": "viridis"}, "ramp": {"scheme": "viridis"}},
        "tooltipFormat": {"numberFormat": ",.4~g"},
    }


def series(
    rows: Iterable[Mapping[str, Any]], names: Mapping[str, str], *, x: str = "step"
) -> list[dict[str, Any]]:
    """Points for :func:`lines` from a run's log: one for every figure of `names` that a row has.

    Args:
        rows: lines of the log, each with its `step`.
        names: names on the chart, by the figure of the log.
        x: field of the points that holds the step.
    """
    return [
        {x: row["step"], "value": row[key], "name": name}
        for key, name in names.items()
        for row in rows
        if row.get(key) is not None
    ]


def curves(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Mapping[str, str]]) -> list[Figure]:
    """Charts of a run's log, one for each group that has points.

    Args:
        rows: lines of the log, each with its `step`.
        groups: names in the legend by the figure of the log, by the title of the chart.
    """
    charts = {title: series(rows, names) for title, names in groups.items()}
    return [Figure.chart(title, lines(points)) for title, points in charts.items() if points]


def lines(
    points: Sequence[Mapping[str, Any]],
    *,
    y: str | None = None,
    x: str = "step",
    legend: str | None = None,
    marks: bool = False,
    height: int = 220,
) -> Any:
    """A chart of lines, one a name, in the order of first appearance. A single line has no legend.

    Args:
        points: points with the fields `x`, "value" and "name".
        y: title of the axis of values, which need not begin at 0.
        x: field along which the lines run.
        legend: title of the legend.
        marks: whether every point is marked.
        height: height in pixels.
    """
    import altair as alt

    names = list(dict.fromkeys(point["name"] for point in points))
    key = alt.Legend(title=legend) if len(names) > 1 else None
    return (
        alt.Chart(alt.Data(values=list(points)))
        .mark_line(point=marks)
        .encode(
            x=alt.X(f"{x}:Q", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=y, scale=alt.Scale(zero=False)),
            color=alt.Color("name:N", sort=names, legend=key),
            tooltip=["name:N", f"{x}:Q", "value:Q"],
        )
        .properties(width="container", height=height)
    )


def image_grid(images: NDArray[np.uint8], row_labels: Sequence[str], *, scale: int = 1) -> bytes:
    """Sample images as one PNG, a labelled row for each arm.

    Every pixel becomes a square of `scale` × `scale`, unblended. Labels stand on the left, light on an opaque dark
    background, so that they read the same on any page.

    Args:
        images: [rows, columns, height, width] in grey, or [rows, columns, height, width, 3]; uint8.
        row_labels: label of each row.
        scale: number of screen pixels along each pixel.

    Raises:
        ValueError: another shape or type, no image, a label too many or too few, a scale below 1.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (4, 5) or images.shape[4:] not in ((), (3,)):
        raise ValueError(
            f"expected uint8 [rows, columns, h, w] or [..., 3], got {images.dtype} {images.shape}"
        )
    if not images.size or len(row_labels) != len(images) or scale < 1:
        raise ValueError(f"{len(row_labels)} labels for images of shape {images.shape}, scale {scale}")
    if images.ndim == 4:
        images = np.repeat(images[..., None], 3, axis=-1)
    rows, columns, height, width = images.shape[:4]
    height, width = height * scale, width * scale

    font, gap, margin = _font(13), 2, 10
    boxes = [font.getbbox(label) for label in row_labels]
    left = math.ceil(max(box[2] for box in boxes)) + 2 * margin
    pitch = max(height, 18) + gap
    size = (left + columns * (width + gap) - gap + margin, 2 * margin + rows * pitch - gap)
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(row_labels):
        top = margin + row * pitch
        draw.text((margin, top + (pitch - gap) / 2), label, fill=LABEL, font=font, anchor="lm")
        for column in range(columns):
            pixels = images[row, column].repeat(scale, axis=0).repeat(scale, axis=1)
            place = (left + column * (width + gap), top + (pitch - gap - height) // 2)
            sheet.paste(Image.fromarray(pixels), place)
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    return png.getvalue()


GROUND, LABEL = "#1f242b", "#eef1f4"  # background and labels of an image grid


def number(value: float, *, digits: int = 3, sign: bool = False) -> str:
    """Format a number: `digits` significant digits, thousands apart, a true minus sign, powers of ten spelt out.

    >>> number(12345.678), number(-0.00012), number(2, sign=True)
    ('12,346', '−1.2×10⁻⁴', '+2')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or value == 0:
        text = f"{int(value):{'+' if sign and value else ''},}"
    elif 1e-3 <= abs(value) < 1e7:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:{'+' if sign else ''},.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text and decimals > digits - 1 else text
    else:
        mantissa, _, power = f"{value:{'+' if sign else ''}.{digits - 1}e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}×10{str(int(power)).translate(SUPERSCRIPT)}"
    return text.replace("-", "−")


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def missing(cell: Any) -> str | None:
    """Reason why a cell is missing, or None if it is not: a missing value is not a zero."""
    if cell is None or cell == "":
        return "no value"
    if isinstance(cell, float) and not math.isfinite(cell):
        return "not a number" if math.isnan(cell) else "infinite"
    if isinstance(cell, Mapping):
        return str(cell["missing"])
    return None


# -- behind the constructors ------------------------------------------------------------------------------------------


def _altair_spec(chart: Any) -> dict[str, Any]:
    import altair

    with altair.theme.enable("none"):  # the page brings the theme
        spec: dict[str, Any] = chart.to_dict()
    return spec


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a specification, except rows of data."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key not in ("values", "datasets"):
                yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _data_rows(spec: dict[str, Any]) -> list[Any] | None:
    """All rows of data in a chart, or None if it holds no table (its data may be a generated sequence)."""
    tables = list(spec.get("datasets", {}).values())
    for part in _walk(spec):
        data = part.get("data")
        if isinstance(data, dict) and "url" in data:
            raise ValueError(f"a figure holds its own data, and this one would fetch {data['url']}")
        if isinstance(data, dict) and isinstance(data.get("values"), list):
            tables.append(data["values"])
    return [row for table in tables for row in table] if tables else None


def _finish(spec: dict[str, Any]) -> bool:
    """Add, in place, what every chart needs and no configuration can hold; whether its legend can be clicked.

    Logarithmic axes end at the data and stress the powers of ten. Where colour names series, a click on a name in the
    legend highlights that series.
    """
    parts = list(_walk(spec))
    units = [part for part in parts if "mark" in part and isinstance(part.get("encoding"), dict)]
    for unit in units:
        for channel in ("x", "y"):
            position = unit["encoding"].get(channel)
            if isinstance(position, dict) and (position.get("scale") or {}).get("type") == "log":
                position["scale"] = {"nice": False, "padding": 10} | position["scale"]
                if position.get("axis", {}) is not None:  # None hides the axis
                    position["axis"] = LOG_AXIS | position.get("axis", {})

    colored = [
        unit
        for unit in units
        if (color := unit["encoding"].get("color") or {}).get("type") == "nominal"
        and color.get("legend", {}) is not None
    ]
    fields = {unit["encoding"]["color"].get("field") for unit in colored}
    if len(fields) != 1 or None in fields or any("params" in part for part in parts):
        return False
    pick = {"name": "pick", "select": {"type": "point", "fields": list(fields)}, "bind": "legend"}
    colored[0]["params"] = [pick]
    for unit in colored:
        mark = unit["mark"] if isinstance(unit["mark"], dict) else {}
        opacity = {"condition": {"param": "pick", "value": mark.get("opacity", 1)}, "value": 0.08}
        unit["encoding"].setdefault("opacity", opacity)
    return True


POWER_OF_TEN = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6"
LOG_AXIS = {"gridOpacity": {"condition": {"test": POWER_OF_TEN, "value": 1}, "value": 0.25}}


def _cell(cell: Any) -> Any:
    """A cell as a JSON value; a missing one, the text "nan" too, as {"missing": reason}."""
    if hasattr(cell, "dtype") and hasattr(cell, "item"):  # a NumPy scalar
        cell = cell.item()
    if isinstance(cell, str) and cell.strip().lower().lstrip("+-") in ("nan", "inf"):
        cell = float(cell)
    reason = missing(cell)
    if reason is not None:
        return {"missing": reason}
    return cell if isinstance(cell, int | float) else str(cell)


def _is_number(cell: Any) -> bool:
    if isinstance(cell, str):
        try:
            float(cell.replace(",", "").replace("−", "-").rstrip("%× "))
        except ValueError:
            return False
        return True
    return not isinstance(cell, bool)


def _font(size: int) -> Any:
    from PIL import ImageFont

    for name in ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc"):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)  # Latin letters only: no σ, no dash
