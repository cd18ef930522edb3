"""The page of a season: how good the answers were before and after, part by part, and what each turn did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noria.core.pages.charts import Figure, lines
from noria.core.pages.report import Block, RunPage, RunRecord, run_page

_INTRO = (
    "A simulated shop: its models are trained, its tools are the systems' own, its users have a hidden taste. What an "
    "answer was worth is the oracle's figure, which no part of the loop is told. Simulated users show that the "
    "machinery works, not that people are happier."
)


def _page(record: RunRecord) -> RunPage:
    result = record.file("result.json")
    if not result:
        return RunPage("The shop", _INTRO, [("So far", ["The season has not ended."])])
    whole = result["quality"]["all"]
    intro = (
        f"{_INTRO}\n\nQuality on {whole['requests']} questions that nobody learnt from: {whole['before']:.3f} before, "
        f"{whole['after']:.3f} after; {whole['difference']:+.3f} [{whole['low']:+.3f}, {whole['high']:+.3f}]."
    )
    return RunPage(
        "The shop", intro,
        [("Before and after", _exam(result)), ("The season", _season(result)), ("Turns of the wheel", _turns(result))],
    )  # fmt: skip


def _exam(result: Mapping[str, Any]) -> list[Block]:
    rows = [
        [name, one["requests"], f"{one['before']:.3f}", f"{one['after']:.3f}",
         f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"]
        for name, one in result["quality"].items()
    ]  # fmt: skip
    caption = "The same questions of the same users, by the oracle; 95 % intervals by resampling users."
    return [
        Figure.table(
            "Quality of the answers", ["questions", "number", "before", "after", "difference"], rows, caption
        )
    ]


def _season(result: Mapping[str, Any]) -> list[Block]:
    points = [
        {"step": number, "value": one["quality"], "name": "all answers"}
        for number, one in enumerate(result["parts"], 1)
    ]
    rows = [
        [number, one["part"], one["requests"], f"{one['quality']:.3f}", one["failed"],
         ", ".join(f"{name}: {value:.3f} of {count}" for name, (count, value) in one["bundles"].items())]
        for number, one in enumerate(result["parts"], 1)
    ]  # fmt: skip
    return [
        Figure.chart("Quality by part of the season", lines(points, y="quality", marks=True)),
        Figure.table("Parts", ["", "part", "answers", "quality", "failed", "by bundle"], rows),
    ]


def _turns(result: Mapping[str, Any]) -> list[Block]:
    if not result["turns"]:
        return ["The wheel was not turned."]
    rows = [
        [
            one["part"],
            one["learner"],
            f"{one['outcome']}: {one['reason']}",
            f"{one['stage']}: {one['test']}" if one["stage"] else "",
        ]
        for one in result["turns"]
    ]
    return [Figure.table("Turns", ["part", "learner", "the turn", "the test on users"], rows)]


write_season_page = run_page("assistant shop", _page)
"""Write the page of a season's run folder."""
