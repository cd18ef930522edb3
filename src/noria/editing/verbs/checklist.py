"""`noria editing checklist`: write checklists for tasks, validate them, keep what passes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.editing.verbs.options import JudgeOptions, judge_server, opened_judges
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, ServerOptions

if TYPE_CHECKING:
    from noria.editing.data.tasks import Task
    from noria.editing.validation.writing import Written


class ChecklistConfig(ServerOptions, JudgeOptions, OutputOption, QuietOption):
    """Settings of `noria editing checklist`."""

    tasks: Annotated[Path, Argument()] = Field(description="Tasks: a .jsonl or .parquet file.")
    rewrite: bool = Field(False, description="Write checklists anew also where a task has one.")
    validate_items: Annotated[bool, Option("--validate")] = Field(
        True, description="Test every item with the judge, and drop those that fail."
    )
    mutants: bool = Field(True, description="Judge mutants, too: a kill rate for each checklist.")
    least: int = Field(
        1, ge=1, le=6, description="Least number of items on each side, or the task is dropped."
    )


@dataclass(frozen=True)
class ChecklistResult:
    """Tasks with their checklists, why others were dropped, the files, and verdicts that were invalid, and all."""

    tasks: list[Task]
    dropped: dict[str, str]
    file: Path
    page: Path
    invalid: int = 0
    asked: int = 0


@make_command(ChecklistConfig, extra="editing")
def command(config: ChecklistConfig) -> int:
    """Write and validate checklists: null test, positive control, negation flip, mutants."""
    result = run(config, Progress(quiet=config.quiet))
    click.echo(f"{len(result.tasks):,} tasks with a checklist, {len(result.dropped):,} without")
    if result.asked:
        click.echo(f"{result.invalid:,} of {result.asked:,} verdicts of the validation are invalid")
    click.echo(f"tasks   {result.file}\nreport  {result.page}")
    return 0 if result.tasks else 1


def run(config: ChecklistConfig, progress: Progress) -> ChecklistResult:
    """Write and validate, a task after the other, and resume.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.core.chat import ChatClient
    from noria.editing.data.tasks import read_tasks, with_pictures, write_tasks
    from noria.editing.validation.writing import write_all, write_report

    tasks = read_tasks(config.tasks)
    if config.validate_items and judge_server(config) is None:
        raise ConfigError(
            "no judge", where="--judge-url", mend="give --judge-url and --judge-model, or --no-validate"
        )
    folder = results_folder("editing", config.output, f"checklist-{config.tasks.stem}")
    server = config.server()

    async def work() -> dict[str, Written]:
        async with ChatClient(server) as writer, opened_judges(config) as judges:
            return await write_all(
                tasks,
                config.tasks.parent,
                writer,
                judges if config.validate_items else None,
                folder / "validation.jsonl",
                rewrite=config.rewrite,
                mutate=config.mutants,
                in_flight=config.in_flight,
                progress=progress,
            )

    with progress:
        written = asyncio.run(work())
    kept: list[Task] = []
    dropped: dict[str, str] = {}
    for task in tasks:
        one = written[task.id]
        why = one.why or one.too_few(config.least)
        if why:
            dropped[task.id] = why
        else:
            moved = with_pictures(task, config.tasks.parent, folder)
            kept.append(replace(moved, reference=one.reference, checklist=one.checklist))
    write_tasks(folder / "tasks.jsonl", kept)
    write_report(folder / "report.html", written, dropped)
    counts = [sum(getattr(written[task.id], name) for task in tasks) for name in ("invalid", "asked")]
    return ChecklistResult(kept, dropped, folder / "tasks.jsonl", folder / "report.html", *counts)
