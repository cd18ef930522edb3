"""`noria editing curate`: drop what is doubled, contaminated, too easy, too hard, or beyond the editor."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.editing.verbs.options import EnvironmentConfig, judge_server, opened_environment
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, SeedOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from noria.editing.curation.curating import CurationResult
    from noria.editing.data.pictures import Scene
    from noria.editing.data.tasks import Task
    from noria.editing.environment.rewarding import RewardEnvironment

CHECKED = 8
"""Most tasks whose judge is tested before the rollouts."""


class CurateConfig(EnvironmentConfig, SeedOption, OutputOption, QuietOption):
    """Settings of `noria editing curate`."""

    tasks: Annotated[Path, Argument()] = Field(description="Tasks: a .jsonl or .parquet file.")
    against: Annotated[tuple[Path, ...], Option(metavar="PATH", split=False)] = Field(
        (), description="Benchmarks that no task may come from: RISEBench's file, KRIS-Bench's folder, tasks."
    )
    rollouts: int = Field(8, ge=0, le=128, description="Rollouts of each task; 0 leaves difficulty out.")
    low: float = Field(0.1, ge=0, le=1, description="Least mean reward.")
    high: float = Field(0.9, ge=0, le=1, description="Largest mean reward.")
    spread: float = Field(0.05, ge=0, le=1, description="Least deviation of a reward over the rollouts.")
    oracle: float = Field(0.5, ge=0, le=1, description="Least reward of the reference's own render.")


@make_command(CurateConfig, extra="editing")
def command(config: CurateConfig) -> int:
    """Sift tasks, measure their difficulty, order them from easy to hard, and report every reason."""
    result, folder = run(config, Progress(quiet=config.quiet))
    rows = [["kept", f"{len(result.kept):,}"], *([why, f"{n:,}"] for why, n in result.counts.most_common())]
    click.echo(table([["outcome", "tasks"], *rows]))
    click.echo(f"\ntasks   {folder / 'tasks.jsonl'}\nreport  {folder / 'report.html'}")
    return 0 if result.kept else 1


def run(config: CurateConfig, progress: Progress) -> tuple[CurationResult, Path]:
    """Curate, and write `tasks.jsonl` with its pictures and `report.html`. It resumes.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.editing.curation.curating import CurationResult, in_order, read_benchmark, sift, write_report
    from noria.editing.data.tasks import read_tasks, with_pictures, write_tasks

    if config.rollouts and judge_server(config) is None:
        raise ConfigError("no judge", where="--judge-url", mend="give it and --judge-model, or --rollouts 0")
    if config.low > config.high:
        raise ConfigError("low is above high", where="--low, --high")
    tasks = read_tasks(config.tasks)
    benchmarks = [read_benchmark(path) for path in config.against]
    folder = results_folder("editing", config.output, f"curate-{config.tasks.stem}")
    with progress:
        left, reasons = sift(tasks, config.tasks.parent, benchmarks, progress=progress)
        kept = [task for task, _ in left]
        if config.rollouts and left:
            kept, more = asyncio.run(_weighed(config, left, folder, progress))
            reasons |= more
    moved = [with_pictures(task, config.tasks.parent, folder) for task in in_order(kept)]
    result = CurationResult(tuple(moved), reasons, len(tasks))
    write_tasks(folder / "tasks.jsonl", moved)
    names = ", ".join(one.name for one in benchmarks)
    note = f"Kept away from: {names}." if names else "Not compared with any benchmark."
    write_report(folder / "report.html", result, note=note)
    return result, folder


async def _weighed(
    config: CurateConfig, left: list[tuple[Task, Scene]], folder: Path, progress: Progress
) -> tuple[list[Task], dict[str, str]]:
    from noria.editing.curation.curating import weigh
    from noria.editing.curation.difficulty import DifficultySettings

    settings = DifficultySettings(
        k=config.rollouts,
        low=config.low,
        high=config.high,
        spread=config.spread,
        oracle=config.oracle,
        seed=config.seed,
    )
    async with opened_environment(config) as (planner, environment):
        await _check(left, environment, config.oracle)
        return await weigh(
            left,
            planner,
            environment,
            settings,
            folder / "difficulty.jsonl",
            in_flight=config.in_flight,
            progress=progress,
        )


async def _check(left: list[tuple[Task, Scene]], environment: RewardEnvironment, oracle: float) -> None:
    """Test the judge on renders of references that it calls right: wrong pictures must score below them.

    Raises:
        CheckError: they do not, so that its rewards would teach nothing, or it calls no render right.
    """
    from noria.core.errors import CheckError
    from noria.editing.data.names import task_seed
    from noria.editing.validation.validation import check_judge

    right: list[tuple[Task, Scene, Picture]] = []
    able = [(task, scene) for task, scene in left if task.reference is not None and len(task.checklist)]
    for task, scene in able[:CHECKED]:
        assert task.reference is not None
        made = await environment.renderer.render(scene, task.reference.text, task_seed(task.id, 0))
        if made.image is not None:
            right.append((task, scene, made.image))
    found = await check_judge(environment.judges, right, least=oracle)
    if not any(found.tried.values()):
        raise CheckError(
            f"no right picture to test the judge on: of {len(left):,} tasks {len(able):,} have a reference and a "
            f"checklist, {len(right)} of {len(able[:CHECKED])} were rendered, and the judge calls none of these right",
            where="--judge-model, --editor-url",
            mend="write references with noria editing checklist, look at their renders, or give --rollouts 0",
        )
    if not found.passed:
        kinds = ", ".join(f"{name} {found.below[name]} of {n} judged" for name, n in found.tried.items())
        raise CheckError(
            f"the judge does not score wrong pictures below right ones in 9 of 10 tasks ({kinds})",
            where="--judge-model",
            mend="use another judge, or look at the checklists",
        )
