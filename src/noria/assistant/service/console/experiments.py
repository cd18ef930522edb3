"""The page of experiments: where each stands, and its confidence sequence over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, Bundles
from noria.assistant.service.operations import power_table
from noria.core.experiments.lifecycle import OPEN
from noria.core.experiments.sequential import SPLIT_ALPHA
from noria.core.pages.charts import Figure
from noria.core.service.serving import Request


class ExperimentPages:
    """Contents of the page of experiments.

    Args:
        bundles: bundles, pointers and experiments.
    """

    def __init__(self, bundles: Bundles) -> None:
        self.bundles = bundles

    def experiments(self, request: Request) -> Mapping[str, Any]:
        """Every experiment, with its interval over time."""
        found = experiments_of(self.bundles)
        figures = [_over_time(one) for one in found if one.get("points")]
        move = self.bundles.pointers.present(CHAMPION)
        return {
            "experiments": found,
            "figures": figures[:3],
            "names": names_of(self.bundles),
            "version": move.version if move else 0,
            "split_alpha": SPLIT_ALPHA,
        }


def names_of(bundles: Bundles) -> dict[str, str]:
    """Name of each bundle of a configured route, by its content hash."""
    return {bundle: name for name, bundle in bundles.named.items()}


def experiments_of(bundles: Bundles) -> list[dict[str, Any]]:
    """Every experiment that can be read, with its settings, its power and its readings, the newest first."""
    found = []
    for document in bundles.control.read_all(EXPERIMENT):
        value = dict(document.value or {})
        config = bundles.settings_of(document)
        if config is None:
            continue
        history = bundles.control.history(EXPERIMENT, document.key)
        found.append(
            value
            | {
                "name": document.key,
                "settings": config,
                "power": power_table(config),
                "began": history[0].at,
                "by": history[0].by,
                "open": value["stage"] in OPEN,
                "reading": value.get("reading"),
                "points": value.get("points", []),
                "history": value.get("history", []),
                "won": bool(value.get("won")),
            }
        )
    return sorted(found, key=lambda one: -one["began"])


def _over_time(one: Mapping[str, Any]) -> Figure:
    rows = [
        {"units": units, "effect": effect, "low": low, "high": high}
        for units, effect, low, high in one["points"]
    ]
    x = {"field": "units", "type": "quantitative", "title": "users who were read"}
    spec = {
        "data": {"values": rows},
        "height": 220,
        "layer": [
            {"mark": {"type": "area", "opacity": 0.2}, "encoding": {
                "x": x, "y": {"field": "low", "type": "quantitative", "title": "challenger less champion"},
                "y2": {"field": "high"}}},
            {"mark": {"type": "line", "point": len(rows) < 60}, "encoding": {
                "x": x, "y": {"field": "effect", "type": "quantitative"}}},
            {"mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {"y": {"datum": 0}}},
        ],
    }  # fmt: skip
    primary = one["settings"].primary
    level = 100 * (1 - one["settings"].alpha / (1 + len(one["settings"].guardrails)))
    return Figure.chart(
        f"{one['name']}: {primary} over time",
        spec,
        f"The band is a confidence sequence: with a probability of {level:g} % it holds the true difference at all "
        "looks together. The test ends when it leaves 0, or at its planned number of users.",
    )
