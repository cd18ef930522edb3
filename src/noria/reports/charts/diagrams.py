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
    nodes = [
        {"name": wrapped(str(n), 20), "x": float(p[0]), "y": float(-p[1])} for n, p in sorted(places.items())
    ]
    edges = [
        {
            "x": float(places[a][0]),
            "y": float(-places[a][1]),
            "x2": float(places[b][0]),
            "y2": float(-places[b][1]),
        }
        for a, b in sorted(graph.edges)
    ]
    plain: dict[str, Any] = {"axis": None, "scale": {"zero": False, "padding": 70}}
    x, y = {"field": "x", "type": "quantitative", **plain}, {"field": "y", "type": "quantitative", **plain}
    heads = [
        {"x": e["x"] + 0.62 * (e["x2"] - e["x"]), "y": e["y"] + 0.62 * (e["y2"] - e["y"])} for e in edges
    ]
    return {
        "$schema": SCHEMA,
        "title": {"text": wrapped(chart.title), "anchor": "start"},
        "width": WIDTH,
        "height": max(
            200, 70 * max(sum(graph.nodes[n]["layer"] == k for n in graph) for k in range(len(graph)))
        ),
        "config": config(),
        "layer": [
            {
                "data": {"values": edges},
                "mark": {"type": "rule", "color": "#59626d"},
                "encoding": {"x": x, "y": y, "x2": {"field": "x2"}, "y2": {"field": "y2"}},
            },
            {
                "data": {"values": heads},
                "mark": {
                    "type": "point",
                    "shape": "triangle-right",
                    "filled": True,
                    "size": 70,
                    "color": "#59626d",
                },
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"values": nodes},
                "mark": {
                    "type": "point",
                    "shape": "square",
                    "filled": True,
                    "size": 5200,
                    "color": "#eef2fb",
                    "stroke": "#3555ee",
                    "opacity": 1,
                },
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"values": nodes},
                "mark": {"type": "text", "fontSize": 12, "lineBreak": "\n"},
                "encoding": {"x": x, "y": y, "text": {"field": "name"}},
            },
        ],
    }
