"""`noria editing attribute`: is the plan wrong, or its rendering?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.core.records import json_values
from noria.core.runs.outputs import results_folder
from noria.editing.verbs.options import EnvironmentConfig, judge_server, opened_environment
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption, SeedOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.editing.use.attribution import Matrix


class AttributeConfig(EnvironmentConfig, SeedOption, OutputOption, JsonOption, QuietOption):
    """Settings of `noria editing attribute`."""

    tasks: Annotated[Path, Argument()] = Field(
        description="Tasks with checklists: a .jsonl or .parquet file."
    )
    samples: int = Field(1, ge=1, le=64, description="Rollouts of each task.")


@dataclass(frozen=True)
class AttributeResult:
    """Matrices by family, and the page."""

    matrices: Mapping[str, Matrix]
    page: Path


@make_command(AttributeConfig, extra="editing")
def command(config: AttributeConfig) -> None:
    """Count plans and pictures that are right or wrong, beside the oracle's plan and no planner at all."""
    from noria.editing.use.attribution import HEADER, advice, table_rows

    result = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        content = {name: vars(one) | {"advice": advice(one)} for name, one in result.matrices.items()}
        click.echo(json.dumps(json_values(content), ensure_ascii=False, indent=2))
        return
    rows = [["-" if cell is None else str(cell) for cell in row] for row in table_rows(result.matrices)]
    click.echo(table([HEADER, *rows]))
    click.echo(f"\n{advice(result.matrices['all'])}\nreport  {result.page}")


def run(config: AttributeConfig, progress: Progress) -> AttributeResult:
    """Roll the tasks out with both arms beside, and write the page. It resumes.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.editing.data.pictures import open_scene
    from noria.editing.data.tasks import image_paths, read_tasks
    from noria.editing.use.attribution import attribute, matrices, write_attribution

    if judge_server(config) is None:
        raise ConfigError("no judge", where="--judge-url", mend="give --judge-url and --judge-model")
    tasks = read_tasks(config.tasks)
    bare = [task.id for task in tasks if not len(task.checklist)]
    if bare:
        raise ConfigError(
            f"{len(bare)} tasks have no checklist, such as {bare[0]!r}",
            where=str(config.tasks),
            mend="write them with noria editing checklist",
        )
    scenes = [(task, open_scene(image_paths(task, config.tasks.parent))) for task in tasks]
    folder = results_folder("editing", config.output, f"attribute-{config.tasks.stem}")

    async def work() -> tuple[str, str]:
        async with opened_environment(config) as (planner, environment):
            await attribute(
                scenes,
                planner,
                environment,
                folder / "rollouts.jsonl",
                samples=config.samples,
                seed=config.seed,
                in_flight=config.in_flight,
                progress=progress,
            )
            return planner.name, environment.renderer.editor.name

    with progress:
        planner, editor = asyncio.run(work())
    from noria.core.records import json_records

    records = {str(entry["id"]): entry for _, entry in json_records(folder / "rollouts.jsonl")}
    found = matrices([records[task.id] for task in tasks if task.id in records])
    page = folder / "report.html"
    write_attribution(page, found, planner=planner, editor=editor)
    return AttributeResult(found, page)
