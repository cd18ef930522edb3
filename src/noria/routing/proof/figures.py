"""Tables and charts of the proof: the pool, the grid of estimators, the trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.pages.charts import Figure, lines
from noria.routing.proof.arms import CONDITIONS
from noria.routing.routers.metrics import known_mean
from noria.routing.tables.table import read_table

Results = dict[str, list[dict[str, Any]]]
"""{arm: one result a seed}."""
Rows = list[list[str | int | float | None]]


def figures(
    gradients: Mapping[str, list[dict[str, Any]]],
    trained: Mapping[str, Results],
    written: Results,
    table_file: str,
) -> list[Figure]:
    """Draw the pool, the grid of estimators, and the trainings."""
    shown = [_pool(table_file)]
    shown += [_cosines(name, results) for name, results in gradients.items()]
    for name, arms in trained.items():
        shown.append(
            _by_estimator(
                f"Policies trained in a corrupted environment, on {name}",
                arms,
                {"macro accuracy": "macro", "deviation at the end": "spread", "deepest fall": "drawdown"},
                "Three of ten rollouts are unreadable and one of ten is lost, except with the product's defaults; "
                "judged where nothing goes wrong.",
            )
        )
        curves = {arm: [r["curve"] for r in results] for arm, results in arms.items()}
        shown.append(_curves(f"Accuracy over training, on {name}", curves))
        shown.append(_accuracies(name, arms))
    if written:
        ends = {arm: [r | {"form": r["curves"]["form"][-1]} for r in rs] for arm, rs in written.items()}
        columns = {"macro accuracy": "macro", "mean over training": "area", "well-formed, greedy": "form"}
        columns |= {"malformed late in training": "malformed_late", "deepest fall": "drawdown"}
        caption = "One call of ten is lost in training; judged where none is."
        shown.append(_by_estimator("Routers that write, trained by TRL", ends, columns, caption))
        for what, title in (("macro", "Accuracy of routers that write"), ("form", "Well-formed rollouts")):
            shown.append(_curves(title, {a: [r["curves"][what] for r in rs] for a, rs in written.items()}))
    return shown


def _cosines(name: str, results: Sequence[Mapping[str, Any]]) -> Figure:

    conditions = ("30 % unreadable", "rewards × 0.2, 1, 5", "both, and uneven sampling")
    rows = [
        [
            estimator,
            *(known_mean([r[c][estimator]["cosine"] for r in results]) for c in CONDITIONS),
            known_mean([r["scale"][estimator]["evenness"] for r in results]),
        ]
        for estimator in results[0]["form"]
    ]
    return Figure.table(
        f"Cosine to the exact gradient, on {name}",
        ["estimator", *conditions, "evenness, × 0.2, 1, 5"],
        rows,
        "Each at its best weight of form. Means over seeds, policies at a half, a quarter and a tenth of the largest "
        "entropy, and batches of 64 questions × 8 rollouts.",
    )


def _by_estimator(title: str, arms: Results, columns: Mapping[str, str], caption: str) -> Figure:
    """Means over seeds of the figures that `columns` names, and how many runs collapsed."""
    rows: Rows = [
        [
            arm,
            *(known_mean([r[key] for r in results]) for key in columns.values()),
            sum(bool(r["collapsed"]) for r in results),
        ]
        for arm, results in arms.items()
    ]
    return Figure.table(title, ["estimator", *columns, "collapsed runs"], rows, caption)


def _accuracies(name: str, arms: Results) -> Figure:

    sets = list(next(iter(arms.values()))[0]["accuracy"])
    rows: Rows = [[a, *(known_mean([r["accuracy"][s] for r in rs]) for s in sets)] for a, rs in arms.items()]
    return Figure.table(f"Accuracy by data set, on {name}", ["estimator", *sets], rows)


def _pool(table_file: str) -> Figure:

    table = read_table(Path(table_file))
    sets = sorted(set(table.dataset))
    names = np.array(table.dataset)
    rows: list[list[str | float]] = [
        [
            route.label,
            known_mean(table.cost[:, n]),
            *(known_mean(table.quality[names == name, n]) for name in sets),
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

    points = [
        {"name": arm, "% of training": 100 * n / max(1, len(columns) - 1), "value": known_mean(column)}
        for arm, curves in arms.items()
        for columns in [list(zip(*curves, strict=True))]
        for n, column in enumerate(columns)
    ]
    return Figure.chart(title, lines(points, x="% of training", height=260), "Means over seeds.")
