"""Diagrams of steps and parts: a directed graph, laid out in layers by networkx, drawn in Vega-Lite."""

from __future__ import annotations

from typing import Any

from noria.core.errors import DataError, require
from noria.reports.charts.records import ChartData
from noria.reports.charts.specs import SCHEMA, WIDTH, config, wrapped

MOST_NODES = 60


def diagram(chart: ChartData) -> dict[str, Any]:
    """Vega-Lite specification of a diagram: each row is an arrow from `x` to `y`.

    Raises:
        DataError: too many boxes, or none.
    """
    networkx = require("networkx", "reports")
    graph = networkx.DiGraph()
    for source, target in zip(chart.column(chart.x), chart.column(chart.y), strict=True):
        graph.add_edge(source, target) if target else graph.add_node(source)
    if not 0 < len(graph) <= MOST_NODES:
        raise DataError(
            f"a diagram of {len(graph)} boxes", where=f"chart {chart.id}", mend=f"1 to {MOST_NODES}"
        )
    layers = networkx.condensation(graph)
    for layer, members in enumerate(networkx.topological_generations(layers)):
        for component in members:
            for node in layers.nodes[component]["members"]:
                graph.nodes[node]["layer"] = layer
    places = networkx.multipartite_layout(graph, subset_key="layer", align="vertical")
    points = {node: (float(place[0]), float(-place[1])) for node, place in sorted(places.items())}
    arrows = [(*points[a], *points[b]) for a, b in sorted(graph.edges)]
    deepest = max(sum(graph.nodes[n]["layer"] == k for n in graph) for k in range(len(graph)))
    return {
        "$schema": SCHEMA,
        "title": {"text": wrapped(chart.title), "anchor": "start"},
        "width": WIDTH,
        "height": max(200, 70 * deepest),
        "config": config(),
        "layer": _layers(points, arrows),
    }


def _layers(
    points: dict[Any, tuple[float, float]], arrows: list[tuple[float, float, float, float]]
) -> list[dict[str, Any]]:
    """Lines, their heads, boxes and names, one above the other."""
    plain: dict[str, Any] = {"axis": None, "scale": {"zero": False, "padding": 70}}
    place = {name: {"field": name, "type": "quantitative", **plain} for name in ("x", "y")}
    lines = [{"x": x, "y": y, "x2": x2, "y2": y2} for x, y, x2, y2 in arrows]
    heads = [{"x": x + 0.62 * (x2 - x), "y": y + 0.62 * (y2 - y)} for x, y, x2, y2 in arrows]
    boxes = [{"name": wrapped(str(node), 20), "x": x, "y": y} for node, (x, y) in points.items()]
    line = {"type": "rule", "color": "#59626d"}
    head = {"type": "point", "shape": "triangle-right", "filled": True, "size": 70, "color": "#59626d"}
    box = {"type": "point", "shape": "square", "filled": True, "size": 5200, "color": "#eef2fb"}
    text = {"type": "text", "fontSize": 12, "lineBreak": "\n"}
    return [
        {
            "data": {"values": lines},
            "mark": line,
            "encoding": place | {"x2": {"field": "x2"}, "y2": {"field": "y2"}},
        },
        {"data": {"values": heads}, "mark": head, "encoding": place},
        {"data": {"values": boxes}, "mark": box | {"stroke": "#3555ee", "opacity": 1}, "encoding": place},
        {"data": {"values": boxes}, "mark": text, "encoding": place | {"text": {"field": "name"}}},
    ]
