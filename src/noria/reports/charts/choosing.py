"""Kinds of charts in words, and the kind that fits what a table holds."""

from __future__ import annotations

import re

from noria.reports.charts.records import ChartKind

WORDS: tuple[tuple[ChartKind, str], ...] = (
    ("radar", r"radar(?: chart| plot| diagram)?s?|spider chart|雷达图"),
    ("stacked bar", r"stacked (?:bar|column)|堆叠(?:柱状|条形)?图|堆积"),
    ("heat map", r"heat ?maps?|热力图|热图"),
    ("timeline", r"time ?lines?|gantt|时间轴|时间线|甘特图"),
    ("pie", r"pie charts?|doughnut|donut|饼图|环形图|占比图"),
    ("scatter", r"scatter(?: ?plots?| charts?| diagrams?)?|散点图|气泡图|bubble chart"),
    ("map", r"(?:choropleth|world map|data map|map chart|thematic map)s?|地图"),
    ("histogram", r"histograms?|直方图"),
    ("area", r"area charts?|面积图"),
    ("line", r"(?:line|trend)[ -](?:charts?|graphs?|plots?)|折线图|曲线图|趋势图"),
    ("bar", r"(?:bar|column)[ -](?:charts?|graphs?|plots?)|柱状图|条形图|柱形图"),
    (
        "diagram",
        r"flow ?charts?|(?:flow|architecture|schematic|concept|structure) diagrams?"
        r"|流程图|架构图|结构图|示意图|思维导图",
    ),
)
_IMAGE = re.compile(
    r"\b(?:images?|photos?|photographs?|pictures?|illustrations?|screenshots?)\b|照片|图片|实景图|插图|截图",
    re.IGNORECASE,
)


def demanded_kinds(text: str) -> list[tuple[ChartKind, int]]:
    """Kinds of charts that a text names, with the place of each, in the order of the text."""
    found = []
    taken: list[range] = []
    for kind, words in WORDS:
        for match in re.finditer(words, text, re.IGNORECASE):
            if not any(match.start() in span for span in taken):
                taken.append(range(match.start(), match.end()))
                found.append((kind, match.start()))
    return sorted(found, key=lambda one: one[1])


def demanded_images(text: str) -> list[int]:
    """Places at which a text asks for a picture."""
    return [match.start() for match in _IMAGE.finditer(text)]


def fitting_kind(*, periods: int, entities: int, measures: int, share: bool) -> ChartKind:
    """Kind by what there is to show: time is a line, parts of a whole a pie, two measures a scatter, names bars.

    Args:
        periods: number of periods with values.
        entities: number of entities.
        measures: number of measures.
        share: whether the values are parts of one whole.
    """
    if share and entities == 1:
        return "pie"
    if share:
        return "stacked bar"
    if periods >= 3 and measures == 1:
        return "line"
    if measures >= 3:
        return "radar"
    if measures == 2:
        return "scatter"
    return "map" if entities > 25 else "bar"
