"""Drawing of charts: specification to PNG and SVG by vl-convert, without a browser and without the network."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from noria.core.errors import DataError
from noria.reports.charts.diagrams import diagram
from noria.reports.charts.radar import radar
from noria.reports.charts.records import ChartData
from noria.reports.charts.specs import vega_lite

SCALE = 2.0
"""Pixels of a PNG for one of the specification."""
_CJK = re.compile(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]")


class Drawing(msgspec.Struct, frozen=True):
    """A drawn chart: its specification, and its picture in two formats."""

    spec: dict[str, Any]
    png: bytes
    svg: str


def specification(chart: ChartData, *, countries: Any = None) -> dict[str, Any]:
    """Specification of a chart in Vega (radar) or Vega-Lite (all others)."""
    if chart.kind == "radar":
        return radar(chart)
    return diagram(chart) if chart.kind == "diagram" else vega_lite(chart, countries=countries)


def draw(chart: ChartData, *, countries: Any = None) -> Drawing:
    """Draw a chart; the same chart gives the same bytes.

    Raises:
        DataError: it cannot be drawn.
    """
    spec = specification(chart, countries=countries)
    svg = _drawn(spec, chart.id)
    return Drawing(spec, _pixels(svg, chart.id), _renumbered(svg, chart.id))


def png_of_spec(spec: dict[str, Any], where: str) -> bytes:
    """PNG of a Vega or Vega-Lite specification; addresses in it are not followed.

    Raises:
        DataError: it is not a specification that can be drawn.
    """
    return _pixels(_drawn(spec, where), where)


def svg_of_spec(spec: dict[str, Any], where: str) -> str:
    """SVG of a specification, drawn as `png_of_spec` draws it.

    Raises:
        DataError: it is not a specification that can be drawn.
    """
    return _renumbered(_drawn(spec, where), where)


def _drawn(spec: dict[str, Any], where: str) -> str:
    """SVG as Vega makes it; its PNG is made of it, since to run Vega takes longer than to fill pixels."""
    import vl_convert

    _refuse_addresses(spec, where)
    make = vl_convert.vega_to_svg if _is_vega(spec) else vl_convert.vegalite_to_svg
    try:
        return str(make(spec, allowed_base_urls=[]))
    except ValueError as error:
        raise DataError(f"it cannot be drawn: {str(error)[:200]}", where=f"chart {where}") from None


def _pixels(svg: str, where: str) -> bytes:
    import vl_convert

    try:
        return bytes(vl_convert.svg_to_png(svg, scale=SCALE))
    except ValueError as error:
        raise DataError(f"it cannot be drawn: {str(error)[:200]}", where=f"chart {where}") from None


def _renumbered(svg: str, chart: str) -> str:
    """An SVG whose ids count from 0 under its chart's name: Vega counts them over all charts of a process."""
    names: dict[str, str] = {}
    for name in re.findall(r' id="([A-Za-z_]+\d+)"', svg):
        names.setdefault(name, f"{chart}-i{len(names)}")
    return re.sub(r'( id="|url\(#|href="#)([A-Za-z_]+\d+)', lambda m: m[1] + names.get(m[2], m[2]), svg)


def _refuse_addresses(value: Any, where: str) -> None:
    """Refuse a specification that names an address or a file: charts hold their data.

    Raises:
        DataError: it does, or it is nested too deep.
    """
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > 60:
            raise DataError("nested too deep", where=f"chart {where}")
        if isinstance(part, dict):
            if part.keys() & {"url", "href"}:
                raise DataError(
                    "it names an address or a file", where=f"chart {where}", mend="put the data into it"
                )
            waiting += [(inner, depth + 1) for inner in part.values() if isinstance(inner, dict | list)]
        elif isinstance(part, list):
            waiting += [(inner, depth + 1) for inner in part if isinstance(inner, dict | list)]


def _is_vega(spec: dict[str, Any]) -> bool:
    return "/schema/vega/" in str(spec.get("$schema", ""))


@functools.cache
def fonts_for_chinese() -> tuple[str, ...]:
    """Names of installed fonts that have Chinese characters; empty where there is none."""
    folders = [
        Path("/usr/share/fonts"),
        Path("/usr/local/share/fonts"),
        Path.home() / ".local/share/fonts",
        Path.home() / ".fonts",
        Path("/System/Library/Fonts"),
        Path("/Library/Fonts"),
    ]
    known = re.compile(
        (
            r"cjk|noto.*(?:sc|tc|jp|kr)|sourcehan|wqy|pingfang|heiti|simhei"
            r"|simsun|msyh|droidsansfallback|unifont|stheiti|arphic|uming|ukai"
        ),
        re.IGNORECASE,
    )
    return tuple(
        sorted(
            {
                p.stem
                for folder in folders
                if folder.is_dir()
                for p in folder.rglob("*.[to]t[fc]")
                if known.search(p.stem)
            }
        )
    )


def register_fonts(folder: Path) -> None:
    """Let charts use the fonts of a folder.

    Raises:
        DataError: there is no such folder.
    """
    import vl_convert

    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), mend="give a folder of .ttf or .otf files")
    vl_convert.register_font_directory(str(folder))


def missing_font(texts: Sequence[str], *, fonts: Path | None = None) -> str | None:
    """Warning where texts hold Chinese characters and no font for them is installed; None where all is well."""
    if not any(_CJK.search(text) for text in texts) or fonts_for_chinese():
        return None
    if fonts is not None and any(fonts.rglob("*.[to]t[fc]")):
        return None
    return (
        "no font with Chinese characters is installed: charts "
        "would show boxes; install Noto Sans CJK or give --fonts"
    )
