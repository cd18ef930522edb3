"""`noria routing compare`: baselines and trained routers side by side, on questions that none was fitted on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.files import write_atomic
from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.core.runs.outputs import results_folder
from noria.routing.types import BASELINES
from noria.routing.verbs.options import TableOption, cell, cost_cell
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, SeedOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.routing.routers.comparing import RouterComparison
    from noria.routing.tables.table import Table

Rows: TypeAlias = list[list[str | int | float | None]]


class CompareConfig(TableOption, SeedOption, OutputOption, QuietOption):
    """Settings of `noria routing compare`."""

    sources: Annotated[tuple[Path, ...], Argument("ROUTER")] = Field(
        (), description="Run folders, or folders of saved routers."
    )
    test: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Table to judge on (default: a part of --table)."
    )
    routers: Annotated[tuple[str, ...], Option(metavar="LIST")] = Field(
        BASELINES, description="Baselines to fit, separated by commas."
    )
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share of the questions to judge on, without --test."
    )


@dataclass(frozen=True)
class CompareResult:
    """Routers on the same questions.

    Attributes:
        rows: one router each.
        report: the page.
        questions: number of questions that were judged on.
    """

    rows: list[RouterComparison]
    report: Path
    questions: int


@make_command(CompareConfig, extra="routing")
def command(config: CompareConfig) -> None:
    """Judge baselines, and any trained routers, on questions that the baselines were not fitted on."""
    result = run(config, Progress(quiet=config.quiet))
    lines = [["router", "macro", "micro", "cost", "regret", "available", "AIQ", "stability", "scored"]]
    for row in result.rows:
        score = row.score
        shares = [cell(value) for value in (score.regret, score.availability, row.aiq, row.stability)]
        figures = [cell(score.macro), cell(score.micro), cost_cell(score.cost), *shares, f"{score.scored:,}"]
        lines.append([row.name, *figures])
    click.echo(table(lines))
    click.echo(f"\n{result.questions:,} questions   report  {result.report}")


def run(config: CompareConfig, progress: Progress) -> CompareResult:
    """Judge baselines and trained routers, and write `compare.html`, with `compare.json` beside it.

    Without `test`, the part of the table that is judged on is the one that `noria routing train` with the same
    `held_out` and `seed` does not see either.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.routing.routers.baselines import fit_router
    from noria.routing.routers.comparing import compare_routers
    from noria.routing.routers.files import open_router
    from noria.routing.routers.scores import score_record
    from noria.routing.tables.imports import import_table

    if config.test and "held_out" in config.model_fields_set:
        raise ConfigError("--test is judged on as a whole", where="--held-out", mend="leave one of them out")
    whole, seed = import_table(config.table), config.seed
    if config.test:
        train, held = whole, import_table(config.test)
    else:
        train, held = whole.split(1 - config.held_out, seed=seed)
        for source in config.sources:
            _check_unseen(source, whole, config)
    folder = results_folder("routing", config.output, f"compare-{config.table.stem}")
    with progress:
        task = progress.task("compare", len(config.routers) + len(config.sources))
        routers = [
            (kind, fit_router(kind, held if kind == "oracle" else train, seed=seed))
            for kind in config.routers
        ]
        routers += [(source.name, open_router(source)) for source in config.sources]
        rows = compare_routers(routers, held, seed=seed, on_router=lambda name: task.advance(note=name))
        task.done()
    report = write_comparison(folder / "compare.html", config.table.name, rows, held)
    content = [
        {"router": row.name, "aiq": row.aiq, "stability": row.stability, **score_record(row.score)}
        for row in rows
    ]
    write_atomic(folder / "compare.json", json.dumps(json_values(content), indent=1) + "\n")
    return CompareResult(rows, report, len(held.questions))


def _check_unseen(source: Path, table: Table, config: CompareConfig) -> None:
    """Refuse a router that was trained on another part of the table, and so on questions that it would be judged on.

    Raises:
        ConfigError: it was.
    """
    from noria.routing.routers.scores import training_on

    run = training_on(source, table) or {}
    for field in ("seed", "held_out"):
        if run.get(field, getattr(config, field)) != getattr(config, field):
            option = field.replace("_", "-")
            raise ConfigError(
                f"it was trained with {option} {run[field]}, and so on some of these questions",
                where=str(source),
                mend=f"give --{option} {run[field]}",
            )


# -- the page ---------------------------------------------------------------------------------------------------------


def write_comparison(path: Path, name: str, rows: Sequence[RouterComparison], held: Table) -> Path:
    """Write the page of a comparison.

    Args:
        path: file of the page.
        name: name of the table.
        rows: the routers.
        held: the questions that they were judged on.

    Raises:
        RunError: the disk refuses.
    """
    sets = list(dict.fromkeys(held.dataset))
    blocks: list[Figure | str] = [_summary(rows)]
    points = [
        {"router": row.name, "cost": score.cost, "accuracy": score.micro, "trade": trade}
        for row in rows
        for trade, score in row.curve
        if not math.isnan(score.cost)
    ]
    if points:
        blocks.append(
            Figure.chart(
                "Quality against cost",
                _curves(points),
                "A point is a trade: how much better the dearest route must be. Cheaper is left, better is up.",
            )
        )
    accuracy: Rows = [[row.name, *(row.score.accuracy.get(n, math.nan) for n in sets)] for row in rows]
    blocks.append(Figure.table("Accuracy by data set", ["router", *sets], accuracy))
    write_page(
        path,
        f"Routers on {name}",
        [("Routers", blocks), ("The pool", [_pool(held)])],
        intro=f"{len(held.questions):,} questions of {len(sets)} data sets, {len(held.routes)} routes.",
        footer="Made by noria routing compare.",
    )
    return path


def _summary(rows: Sequence[RouterComparison]) -> Figure:
    return Figure.table(
        "Routers",
        [
            "router",
            "macro accuracy",
            "micro accuracy",
            "cost a question",
            "regret to the oracle",
            "available",
            "AIQ",
            "stability",
            "scored",
        ],
        [
            [row.name, s.macro, s.micro, s.cost, s.regret, s.availability, row.aiq, row.stability, s.scored]
            for row in rows
            for s in [row.score]
        ],
        "Without a trade for cost. A route that failed, and a router that chose none, earned 0; available is the share "
        "of questions that were answered, scored the number whose accuracy is known. AIQ is the mean height of the "
        "envelope over the costs that all routers span; stability is how often the choice stays when one word of ten "
        "is left out.",
    )


def _pool(held: Table) -> Figure:
    from noria.routing.routers.metrics import known_mean

    rows: Rows = [
        [route.label, *(known_mean(values[:, n]) for values in (held.quality, held.available, held.cost))]
        for n, route in enumerate(held.routes)
    ]
    return Figure.table("Routes", ["route", "mean quality", "available", "mean cost"], rows)


def _curves(points: Sequence[dict[str, Any]]) -> Any:
    import altair as alt

    names = list(dict.fromkeys(point["router"] for point in points))
    costs = [point["cost"] for point in points]
    wide = min(costs) > 0 and max(costs) / min(costs) > 30
    scale = alt.Scale(type="log") if wide else alt.Scale(zero=False)
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(point=True)
        .encode(
            x=alt.X("cost:Q", title="cost a question", scale=scale),
            y=alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(zero=False)),
            color=alt.Color("router:N", title=None, sort=names),
            order="trade:Q",
            tooltip=["router:N", "trade:Q", "cost:Q", "accuracy:Q"],
        )
        .properties(width="container", height=320)
    )
