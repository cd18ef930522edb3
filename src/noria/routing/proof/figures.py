"""Tables and charts of the proof: the pool, the grid of estimators, the trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.routing.proof.arms import CONDITIONS

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure

__all__ = ["Results", "figures"]

Results = dict[str, list[dict[str, Any]]]
"""{arm: one result a seed}."""


def figures(
    gradients: Mapping[str, list[dict[str, Any]]],
    trained: Mapping[str, Results],
    written: Results,
    table_file: str,
) -> list[Figure]:
    """The grid of estimators, the pool, and the trainings."""
    from noria.core.pages.charts import Figure

    found = [_pool(table_file)]
    for name, results in gradients.items():
        rows = [
            [
                e,
                *(_mean([r[c][e]["cosine"] for r in results]) for c in CONDITIONS),
                _mean([r["scale"][e]["evenness"] for r in results]),
            ]
            for e in results[0]["form"]
        ]
        found.append(
            Figure.table(
                f"Cosine to the exact gradient, on {name}",
                [
                    "estimator",
                    "30 % unreadable",
                    "rewards × 0.2, 1, 5",
                    "both, and uneven sampling",
                    "evenness, × 0.2, 1, 5",
                ],
                rows,
                "Means over seeds, policies at a half, a quarter and a tenth of the largest entropy, and "
                "batches of 64 questions × 8 rollouts.",
            )
        )
    for name, arms in trained.items():
        rows = [
            [
                arm,
                _mean([r["macro"] for r in results]),
                _mean([r["spread"] for r in results]),
                _mean([r["drawdown"] for r in results]),
                sum(bool(r["collapsed"]) for r in results),
            ]
            for arm, results in arms.items()
        ]
        found.append(
            Figure.table(
                f"Policies trained in a corrupted environment, on {name}",
                ["estimator", "macro accuracy", "deviation at the end", "deepest fall", "collapsed runs"],
                rows,
                "Three of ten rollouts are unreadable and one of ten is lost; judged where nothing goes wrong.",
            )
        )
        curves = {arm: [r["curve"] for r in results] for arm, results in arms.items()}
        found.append(_curves(f"Accuracy over training, on {name}", curves))
        sets = list(next(iter(arms.values()))[0]["accuracy"])
        found.append(
            Figure.table(
                f"Accuracy by data set, on {name}",
                ["estimator", *sets],
                [[a, *(_mean([r["accuracy"][s] for r in rs]) for s in sets)] for a, rs in arms.items()],
            )
        )
    if written:
        rows = [
            [
                arm,
                _mean([r["macro"] for r in results]),
                _mean([r["area"] for r in results]),
                _mean([r["curves"]["form"][-1] for r in results]),
                _mean([r["malformed_late"] for r in results]),
                _mean([r["drawdown"] for r in results]),
                sum(bool(r["collapsed"]) for r in results),
            ]
            for arm, results in written.items()
        ]
        found.append(
            Figure.table(
                "Routers that write, trained by TRL",
                [
                    "estimator",
                    "macro accuracy",
                    "mean over training",
                    "well-formed, greedy",
                    "malformed late in training",
                    "deepest fall",
                    "collapsed runs",
                ],
                rows,
                "One call of ten is lost in training; judged where none is.",
            )
        )
        for what, title in (("macro", "Accuracy of routers that write"), ("form", "Well-formed rollouts")):
            found.append(_curves(title, {a: [r["curves"][what] for r in rs] for a, rs in written.items()}))
    return found


def _pool(table_file: str) -> Figure:
    import numpy as np

    from noria.core.pages.charts import Figure
    from noria.routing.tables.table import read_table

    table = read_table(Path(table_file))
    sets = sorted(set(table.dataset))
    names = np.array(table.dataset)
    rows: list[list[str | float]] = [
        [
            route.label,
            _mean(list(table.cost[:, n])),
            *(_mean(list(table.score[names == name, n])) for name in sets),
        ]
        for n, route in enumerate(table.routes)
    ]
    return Figure.table(
        "The recorded pool",
        ["route", "cost", *sets],
        rows,
        "Mean score by data set. A cost is in millions of multiplications, one for being called included.",
    )


def _curves(title: str, arms: Mapping[str, list[list[float]]]) -> Figure:
    from noria.core.pages.charts import Figure, lines

    points = [
        {"name": arm, "% of training": 100 * n / max(1, len(columns) - 1), "value": _mean(list(column))}
        for arm, curves in arms.items()
        for columns in [list(zip(*curves, strict=True))]
        for n, column in enumerate(columns)
    ]
    return Figure.chart(title, lines(points, x="% of training", height=260), "Means over seeds.")


def _mean(values: Sequence[Any]) -> float:
    there = [float(v) for v in values if v is not None and not math.isnan(v)]
    return sum(there) / len(there) if there else math.nan
