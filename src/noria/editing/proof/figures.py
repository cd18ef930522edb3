"""Figures of the proof's page: whose fault what remains is, curves over renders, families, held-out tasks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noria.editing.world.rules import FAMILIES
from noria.editing.world.tasks import SPLITS

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure

Results = Mapping[str, list[dict[str, Any]]]


def figures(table: Results, searched: Sequence[Sequence[Any]]) -> list[Figure]:
    """Tables and charts of the page, in order."""
    from noria.core.pages.charts import Figure

    drawn = [_cells(table), _curves(table), _families(table)]
    if any("composition" in r["end"] for results in table.values() for r in results):
        drawn.append(_splits(table))
    if searched:
        header = ["arm", "settings", "strict accuracy", ""]
        drawn.append(
            Figure.table("Search of settings", header, [list(r) for r in searched], "One seed, not judged.")
        )
    return drawn


def _mean(results: Sequence[Mapping[str, Any]], split: str, name: str) -> float:
    return statistics.fmean(float(result["end"][split][name]) for result in results)


def _cells(table: Results) -> Figure:
    from noria.core.pages.charts import Figure

    names = ("strict", "blind", "gap", "plan", "image")
    rows = [
        [arm, *(f"{_mean(results, 'train', n):.3f}" for n in names),
         f"{statistics.fmean(r['renders'] for r in results):,.0f}",
         f"{statistics.fmean(r['rollouts'] for r in results):,.0f}"]
        for arm, results in table.items()
    ]  # fmt: skip
    header = ["arm", "both right", "image right, plan wrong", "plan right, image wrong", "plan right", "image right",
              "renders", "rollouts"]  # fmt: skip
    return Figure.table("Whose fault what remains is", header, rows, "Shares of tasks, means over seeds.")


def _families(table: Results) -> Figure:
    from noria.core.pages.charts import Figure

    found = [f for f in FAMILIES if f in next(iter(table.values()))[0]["end"]["train"]["families"]]
    rows = [
        [arm, *(f"{statistics.fmean(r['end']['train']['families'][f] for r in results):.3f}" for f in found)]
        for arm, results in table.items()
    ]
    return Figure.table("Strict accuracy by family", ["arm", *found], rows, "Means over seeds.")


def _splits(table: Results) -> Figure:
    from noria.core.pages.charts import Figure

    rows = [[arm, *(f"{_mean(results, s, 'strict'):.3f}" for s in SPLITS)] for arm, results in table.items()]
    caption = (
        "Strict accuracy, means over seeds: compositions, wordings and sizes that were not trained on, and the "
        "held-out family of two events in sequence."
    )
    return Figure.table("Held-out tasks", ["arm", *SPLITS], rows, caption)


def _curves(table: Results) -> Figure:
    import altair as alt

    from noria.core.pages.charts import Figure

    rows = [
        {"arm": arm, "seed": seed, "renders": point["renders"], "strict": point["strict"]}
        for arm, results in table.items()
        for seed, result in enumerate(results)
        for point in result["curve"]
    ]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("renders:Q", title="calls of the editor"),
            y=alt.Y("strict:Q", title="strict accuracy"),
            color=alt.Color("arm:N", title=None, sort=list(table)),
            detail="seed:N",
        )
        .properties(width="container", height=360)
    )
    return Figure.chart(
        "Strict accuracy over renders", chart, "A line a seed; the plan's reward alone renders nothing."
    )
