"""The pages that trainings and comparisons leave behind, drawn from what is in the folder alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.routing.routers.metrics import Score
from noria.routing.routers.page import Rows
from noria.routing.tables.table import Table

__all__ = ["write_comparison"]


def write_comparison(
    path: Path,
    table: str,
    rows: Sequence[tuple[str, Score, float, float]],
    curves: Mapping[str, Sequence[tuple[float, Score]]],
    held: Table,
) -> Path:
    """Write the page of a comparison.

    Raises:
        RunError: the disk refuses.
    """
    sets = list(dict.fromkeys(held.dataset))
    summary = Figure.table(
        "Routers",
        [
            "router",
            "macro accuracy",
            "micro accuracy",
            "cost a question",
            "regret to the oracle",
            "AIQ",
            "stability",
        ],
        [[name, s.macro, s.micro, s.cost, s.regret, area, stays] for name, s, area, stays in rows],
        "Without a trade for cost. AIQ is the mean height of the envelope over the costs that all routers span; "
        "stability is how often the choice stays when one word of ten is left out.",
    )
    accuracy = Figure.table(
        "Accuracy by data set",
        ["router", *sets],
        [[name, *(s.accuracy.get(n, math.nan) for n in sets)] for name, s, _, _ in rows],
    )
    points = [
        {"router": name, "cost": s.cost, "accuracy": s.micro, "trade": trade}
        for name, curve in curves.items()
        for trade, s in curve
        if not math.isnan(s.cost)
    ]
    blocks: list[Figure | str] = [summary]
    if points:
        blocks.append(
            Figure.chart(
                "Quality against cost",
                _curves(points),
                "A point is a trade: how much better the dearest route must be. Cheaper is left, better is up.",
            )
        )
    blocks.append(accuracy)
    routes = Figure.table(
        "Routes",
        ["route", "mean score", "mean cost"],
        [
            [route.label, _mean(held.score[:, n]), _mean(held.cost[:, n])]
            for n, route in enumerate(held.routes)
        ],
    )
    write_page(
        path,
        f"Routers on {Path(table).name}",
        [("Routers", blocks), ("The pool", [routes])],
        intro=f"{len(held.questions):,} questions of {len(sets)} data sets, {len(held.routes)} routes.",
        footer="Made by noria routing compare.",
    )
    return path


def _curves(points: Rows) -> Any:
    import altair as alt

    names = list(dict.fromkeys(point["router"] for point in points))
    costs = [point["cost"] for point in points]
    wide = min(costs) > 0 and max(costs) / min(costs) > 30
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "cost:Q",
                title="cost a question",
                scale=alt.Scale(type="log") if wide else alt.Scale(zero=False),
            ),
            y=alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(zero=False)),
            color=alt.Color("router:N", title=None, sort=names),
            order="trade:Q",
            tooltip=["router:N", "trade:Q", "cost:Q", "accuracy:Q"],
        )
        .properties(width="container", height=320)
    )


def _mean(values: Any) -> float:
    there = [float(v) for v in values if not math.isnan(v)]
    return sum(there) / len(there) if there else math.nan
