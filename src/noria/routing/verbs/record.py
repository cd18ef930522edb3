"""`noria routing record`: every model asked every question once, into a replay table."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.files import output_path
from noria.core.models.config import DownloadOption
from noria.core.progress import Progress
from noria.routing.config import AnswerOptions
from noria.routing.verbs.options import cost_cell
from noria.verbs.command import command as make_command
from noria.verbs.options import QuietOption

if TYPE_CHECKING:
    from noria.routing.pool.record import RecordResult
    from noria.routing.tables.table import Cell, Question, Route


class RecordConfig(AnswerOptions, DownloadOption, QuietOption):
    """Settings of `noria routing record`."""

    pool: Annotated[Path, Argument()] = Field(description="YAML file of the models that can be asked.")
    questions: Annotated[Path, Argument("QUESTIONS")] = Field(
        description="Questions with their answers: a .jsonl or .parquet file."
    )
    output: Annotated[str | None, Option("-o", metavar="FILE", was=("--out",))] = Field(
        None,
        description="Table to write, or to continue (default: runs/routing/record-QUESTIONS/table.jsonl).",
    )
    in_flight: Annotated[int, Option(was=("--at-once",))] = Field(
        64, ge=1, description="Requests under way at once."
    )

    @property
    def table(self) -> Path:
        """The file that the table is written to.

        Raises:
            ConfigError: it leaves its folder, or is not named as JSON lines are.
        """
        path = output_path(self.output or f"runs/routing/record-{self.questions.stem}/table.jsonl")
        if path.suffix != ".jsonl":
            raise ConfigError("a table is JSON lines", where=str(path), mend="name it .jsonl")
        return path


@make_command(RecordConfig, extra="routing")
def command(config: RecordConfig) -> None:
    """Record a replay table; the same command resumes a recording that was stopped."""
    result = run(config, Progress(quiet=config.quiet))
    whole = result.table
    click.echo(
        f"table  {config.table}   {len(whole.questions):,} questions, {len(whole.routes)} routes, "
        f"{len(whole.cells):,} answers"
    )
    click.echo(
        f"asked  {result.asked:,} now, {result.before:,} before; {result.failed:,} failed; "
        f"cost {cost_cell(result.cost)}"
    )
    for route, failed, cells, why in result.failures():
        click.echo(f"failed {route.label}: {failed:,} of {cells:,} ({why}); the same command asks again")
    left = len(whole.questions) * len(whole.routes) - len(whole.cells)
    if left:
        click.echo(f"left   {left:,}: the budget is spent; the same command with a new one resumes")
    click.echo(f"next   noria routing compare --table {config.table}")


def run(config: RecordConfig, progress: Progress) -> RecordResult:
    """Ask every route of a pool every question, and write the answers as a replay table.

    Raises:
        NoriaError: anything that a user can mend. What was answered before is kept.
    """
    from noria.routing.pool.config import read_pool
    from noria.routing.pool.pool import open_pool
    from noria.routing.pool.record import check_pool_answers, read_questions, record

    pool_config = read_pool(config.pool)
    questions = read_questions(config.questions)
    path = config.table

    async def work() -> RecordResult:
        pool = open_pool(
            pool_config,
            cache=config.cache,
            budget=config.budget,
            in_flight=config.in_flight,
            allow_download=config.allow_download,
        )
        async with pool:
            task = progress.task("record", len(questions) * len(pool.routes))
            failed = 0

            def on_cell(question: Question, route: Route, cell: Cell) -> None:
                nonlocal failed
                failed += cell.failed
                task.advance(note=f"{failed} failed" if failed else None)

            result = await record(pool, questions, path, in_flight=config.in_flight, on_cell=on_cell)
            task.done()
            return result

    with progress:
        result = asyncio.run(work())
    check_pool_answers(result, str(path))
    return result
