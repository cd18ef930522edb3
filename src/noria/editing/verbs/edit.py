"""`noria editing edit`: a picture and a request to a plan, an edited picture and its verdicts; or a file of tasks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.editing.verbs.options import (
    EditorOptions,
    JudgeOptions,
    PlannerOptions,
    judge_server,
    opened_judges,
    opened_planner,
    opened_renderer,
)
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption, SeedOption

if TYPE_CHECKING:
    from noria.core.judging.items import Checklist
    from noria.editing.data.pictures import Scene
    from noria.editing.use.batch import BatchResult
    from noria.editing.use.session import EditResult, ThinkThenEdit

TASKS = (".jsonl", ".parquet")


class EditConfig(
    PlannerOptions, EditorOptions, JudgeOptions, SeedOption, OutputOption, JsonOption, QuietOption
):
    """Settings of `noria editing edit`."""

    source: Annotated[Path, Argument("PICTURE")] = Field(
        description="Picture to edit, or a .jsonl or .parquet file of tasks."
    )
    instruction: Annotated[str, Argument("REQUEST")] = Field(
        "", description="Request in words, in any language."
    )
    also: Annotated[tuple[Path, ...], Option(metavar="FILE", split=False)] = Field(
        (), description="Further pictures that the request speaks of."
    )
    mask: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None,
        description="Picture whose transparent (or white) places may change; no bit outside of them does.",
    )
    checklist: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Checklist as JSON (default: the judge writes one)."
    )
    tries: int = Field(1, ge=1, le=20, description="Most rounds; each after the first reads what was wrong.")
    samples: int = Field(1, ge=1, le=32, description="Plans of each round, of which the best is kept.")


@dataclass(frozen=True)
class EditOutcome:
    """Outcome of one request: its tries, best first, and the page."""

    results: Sequence[EditResult]
    page: Path


@make_command(EditConfig, extra="editing")
def command(config: EditConfig) -> int:
    """Plan an edit, render it, check it, and write a page: before, plan, after, verdicts."""
    if config.source.suffix.lower() in TASKS:
        done = run_batch(config, Progress(quiet=config.quiet))
        click.echo(f"{done.edited} edited, {done.failed} without a picture, {done.skipped} done before")
        click.echo(f"results  {done.file}\nreport   {done.page}")
        return 1 if done.failed else 0
    outcome = run(config)
    best = outcome.results[0]
    if config.as_json:
        from noria.core.records import json_values
        from noria.editing.use.page import result_json

        click.echo(json.dumps(json_values(result_json(best)), ensure_ascii=False, indent=2))
    else:
        click.echo(f"plan     {best.plan.text or best.plan.problem}")
        for name, part in (("plan", best.cognitive), ("picture", best.visual)):
            if part.why != "empty":
                value = f"masked: {part.why}" if part.value is None else f"{part.value:.2f}"
                click.echo(f"reward of the {name}  {value}")
        click.echo(f"picture  {outcome.page.with_name('edited.png') if best.image else best.why}")
        click.echo(f"report   {outcome.page}")
    return 0 if best.image is not None else 1


def run(config: EditConfig) -> EditOutcome:
    """Edit one picture, and write its folder.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.editing.data.pictures import open_scene
    from noria.editing.use.page import write_edit

    if not config.instruction.strip():
        raise ConfigError("no request", where="REQUEST", mend="say in words what is to change")
    if config.checklist is not None and judge_server(config) is None:
        raise ConfigError("a checklist without a judge", where="--checklist", mend="give --judge-url, too")
    scene = open_scene([config.source, *config.also], config.mask)
    checklist = None if config.checklist is None else read_checklist(config.checklist)
    folder = results_folder("editing", config.output, f"edit-{config.source.stem}")
    results = asyncio.run(_edit(config, scene, checklist))
    return EditOutcome(results, write_edit(folder, scene, config.instruction, results))


def run_batch(config: EditConfig, progress: Progress) -> BatchResult:
    """Edit the tasks of a file, and resume what an earlier call did.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.editing.data.tasks import read_tasks
    from noria.editing.use.batch import edit_tasks

    for name in ("instruction", "also", "mask", "checklist"):
        if getattr(config, name):
            raise ConfigError("a file of tasks has its own", where=name, mend="leave it out")
    tasks = read_tasks(config.source)
    folder = results_folder("editing", config.output, f"edit-{config.source.stem}")

    async def work() -> BatchResult:
        async with opened_edit(config) as edit:
            return await edit_tasks(
                edit,
                tasks,
                folder,
                root=config.source.parent,
                tries=config.tries,
                samples=config.samples,
                seed=config.seed,
                in_flight=max(config.renders, config.in_flight),
                progress=progress,
            )

    with progress:
        return asyncio.run(work())


@contextlib.asynccontextmanager
async def opened_edit(config: EditConfig) -> AsyncIterator[ThinkThenEdit]:
    """Open planner, editor and judges as one."""
    from noria.editing.use.session import ThinkThenEdit

    async with (
        opened_planner(config) as planner,
        opened_renderer(config) as renderer,
        opened_judges(config) as judges,
    ):
        thinking = config.thinking and not config.direct
        yield ThinkThenEdit(planner, renderer, judges=judges, need_thinking=thinking)


def read_checklist(path: Path) -> Checklist:
    """Read a checklist of a JSON file.

    Raises:
        DataError: it is none.
    """
    from noria.core.records import read_json
    from noria.editing.checklists.items import checklist_from_json

    return checklist_from_json(read_json(path), where=str(path))


async def _edit(config: EditConfig, scene: Scene, checklist: Checklist | None) -> list[EditResult]:
    async with opened_edit(config) as edit:
        if edit.judges is not None and checklist is None:
            checklist = await written_checklist(config, scene, config.instruction)
        return await edit.edit(
            scene,
            config.instruction,
            checklist=checklist,
            tries=config.tries,
            samples=config.samples,
            seed=config.seed,
        )


async def written_checklist(config: JudgeOptions, scene: Scene, instruction: str) -> Checklist:
    """Let the judge's model write the reference and the checklist of a request.

    Raises:
        NoriaError: it does not.
    """
    from noria.core.chat import ChatClient
    from noria.editing.synthesis.checklists import write_checklist, write_reference

    server = judge_server(config)
    assert server is not None
    async with ChatClient(server) as client:
        reference = await write_reference(client, scene.parts, instruction)
        return (await write_checklist(client, scene.parts, instruction, reference))[0]
