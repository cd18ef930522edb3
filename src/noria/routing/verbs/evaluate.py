"""`noria routing evaluate`: a router judged on every question of a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.core.files import write_atomic
from noria.core.runs.outputs import results_folder
from noria.routing.config import RouterArgument
from noria.routing.verbs.options import TableOption, cell, cost_cell, score_line
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.routing.routers.metrics import Score


class EvaluateConfig(RouterArgument, TableOption, OutputOption, JsonOption):
    """Settings of `noria routing evaluate`."""

    trades: Annotated[tuple[float, ...], Option(metavar="LIST")] = Field(
        (), description="Trades to judge at as well, such as 0,0.1,0.5."
    )


@dataclass(frozen=True)
class EvaluateResult:
    """A router's score on a table.

    Attributes:
        score: at the router's own trade.
        curve: (trade, score) at the trades asked for.
        file: the results as JSON.
        seen: whether the router was trained on a part of the table.
    """

    score: Score
    curve: list[tuple[float, Score]]
    file: Path
    seen: bool


@make_command(EvaluateConfig, extra="routing")
def command(config: EvaluateConfig) -> None:
    """Judge ROUTER on every question of a table."""
    result = run(config)
    if config.as_json:
        click.echo(result.file.read_text().rstrip())
        return
    click.echo(f"{config.router.name}: {score_line(result.score)}")
    click.echo(table([("data set", "accuracy"), *((n, cell(v)) for n, v in result.score.accuracy.items())]))
    if result.curve:
        rows = [
            (f"{t:g}", cell(s.macro), cell(s.micro), cost_cell(s.cost), cell(s.availability))
            for t, s in result.curve
        ]
        click.echo("\n" + table([("trade", "macro", "micro", "cost", "available"), *rows], names=0))
    if result.seen:
        click.echo(
            "\nnote     the router was trained on a part of this table; compare judges on the other part"
        )
    click.echo(f"\nresults  {result.file}")


def run(config: EvaluateConfig) -> EvaluateResult:
    """Judge a router on a table, and write `evaluation.json`.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then.
    """
    from noria.routing.routers.files import open_router
    from noria.routing.routers.scores import judge_router, score_record, training_on
    from noria.routing.tables.imports import import_table

    source = config.router
    label = f"evaluate-{source.resolve().name}-{config.table.stem}"
    folder = results_folder("routing", config.output, label)
    questions = import_table(config.table)
    more: dict[str, Any]
    curve: list[tuple[float, Score]] = []
    if (source / "policy").is_dir():
        from noria.routing.writer.judging import evaluate_writer
        from noria.routing.writer.policy import open_writer

        if config.trades:
            raise ConfigError("a router that writes has no trade", where="--trades", mend="leave it out")
        written = evaluate_writer(open_writer(source), questions)
        score, more = written.score, {"form": written.form, "calls": written.calls}
    else:
        router = open_router(source)
        curve = [(trade, judge_router(router, questions, trade)) for trade in config.trades]
        score, more = judge_router(router, questions), {"trade": router.trade}
    seen = training_on(source, questions) is not None
    content = {
        "router": str(source),
        "seen": seen,
        "table": str(config.table),
        **more,
        "score": score_record(score),
        "curve": [{"trade": trade, **score_record(one)} for trade, one in curve],
    }
    file = folder / "evaluation.json"
    write_atomic(file, json.dumps(content, indent=1) + "\n")
    return EvaluateResult(score, curve, file, seen)
