"""`noria editing sft`: teach a planner the think/answer form from examples, in a run folder that resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import click
from pydantic import Field

from noria.core.config import Config, Option
from noria.core.errors import DataError
from noria.core.models.config import DownloadOption
from noria.core.pages.charts import Figure, lines, series
from noria.core.pages.report import RunPage, RunRecord, run_page
from noria.core.progress import Progress, Task as Bar
from noria.core.runs.outputs import check_run_folder, named_run
from noria.editing.planner.settings import SftSettings
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.editing.planner.sft import Example

PLANNER = "planner"
"""Folder of the trained planner, inside of the run's: a plain Hugging Face folder."""


class PlannerModel(Config):
    """The planner that is trained, and the name of the run."""

    section: ClassVar[str] = "Planner"

    model: Annotated[str | None, Option("-m", metavar="NAME")] = Field(
        None, description="Folder or hub id of a Qwen3-VL or Qwen2.5-VL model."
    )
    data: Annotated[Path | None, Option("-d", metavar="FILE")] = Field(
        None, description="File of tasks, .jsonl or .parquet; pictures lie beside it."
    )
    name: str | None = Field(None, description="Name of the run (default: from the model).")


class SftJobConfig(SftSettings, PlannerModel, DownloadOption, OutputOption, QuietOption):
    """Settings of `noria editing sft`."""


@dataclass(frozen=True)
class SftResult:
    """The files and the outcome of a training: its folder, the planner's folder, its page, and the last loss."""

    folder: Path
    planner: Path
    report: Path
    loss: float


@make_command(SftJobConfig, extra="editing", needs=("torch", "transformers"))
def command(config: SftJobConfig) -> None:
    """Teach a planner the think/answer form; the same command resumes a run that was stopped.

    A task's `output` is what the planner should write; without one, its reference is: why, then what changes and stays.
    """
    result = run(config, Progress(quiet=config.quiet))
    click.echo(f"run      {result.folder}   loss {result.loss:.3f}")
    click.echo(f"planner  {result.planner}\nreport   {result.report}")
    click.echo(f"next     noria editing train --model {result.planner} --data {config.data}")


def run(job: SftJobConfig, progress: Progress) -> SftResult:
    """Train, or resume a training, and write the planner and the page.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        DivergenceError: the run blew up.
    """
    settings, folder = opened_run(job)
    examples, digest = read_examples(Path(str(job.data)))

    from noria.core.runs.checkpoints import fingerprint
    from noria.core.runs.run import Run, save_settings, settled
    from noria.core.training.loop import training
    from noria.editing.planner.checks import check_sees
    from noria.editing.planner.loading import open_policy, save_policy
    from noria.editing.planner.sft import SftTrainer, shuffled
    from noria.editing.planner.weights import merged

    policy = open_policy(str(job.model), allow_download=job.allow_download)
    check_sees(policy, examples[0].request)
    inputs = {"model": (str(job.model), fingerprint(policy.model)), "data": (str(job.data), digest)}
    identity = settled(folder, settings.model_dump(mode="json", exclude={"steps"}), inputs)
    trainer = SftTrainer(policy, shuffled(examples, job.seed), job.part(SftSettings))
    with progress, Run.open(folder, config=identity) as record:
        save_settings(folder, settings)
        progress.say(f"{len(examples):,} examples, {_count(trainer.updates.parameters)} weights to train")
        with training(record, progress, job.steps, page=write_run_page) as task:
            trainer.train(record, on_step=watching(task, "loss"))
        planner = save_policy(policy, folder / PLANNER, merged(policy))
        loss = float(record.metrics()[-1]["loss"])
        return SftResult(folder, planner, write_run_page(folder), loss)


class SftRunConfig(SftSettings, PlannerModel):
    """Settings that decide a run, which its folder keeps."""


def opened_run(job: SftJobConfig) -> tuple[SftRunConfig, Path]:
    """Settings with the name of the run, and its folder.

    Raises:
        ConfigError: the model or the data are missing, or the folder holds something else.
    """
    settings, folder = named_run(
        "editing",
        job.part(SftRunConfig),
        needed={"model": "a model folder or a hub id", "data": "a file of tasks"},
        output=job.output,
        label=lambda c: f"{Path(str(c.model)).name or 'planner'}-sft",
    )
    check_run_folder(folder)
    return settings, folder


def read_examples(path: Path) -> tuple[list[Example], str]:
    """Examples of a file of tasks, and a digest of what they say.

    Raises:
        DataError: a task has neither an output nor a reference, or its output is not in the think/answer form.
    """
    from noria.editing.data.pictures import open_scene
    from noria.editing.data.tasks import image_paths, read_tasks
    from noria.editing.planner.policy import Request
    from noria.editing.planner.sft import Example
    from noria.editing.plans import format_output, parse_plan

    examples, digest = [], hashlib.sha256()
    for task in read_tasks(path):
        output = task.extra.get("output")
        if output is None:
            if task.reference is None:
                raise DataError(
                    "neither an output nor a reference", where=f"{path}, task {task.id!r}", mend="give one"
                )
            output = format_output(task.reference.why or "The request says it all.", task.reference.text)
        if not isinstance(output, str) or not (plan := parse_plan(output)).ok:
            problem = "no text" if not isinstance(output, str) else plan.problem
            raise DataError(f"an output without a plan: {problem}", where=f"{path}, task {task.id!r}")
        scene = open_scene(image_paths(task, path.parent))
        examples.append(Example(Request(scene.images, task.instruction), output))
        digest.update(repr((scene.digests, task.instruction, output)).encode())
    return examples, digest.hexdigest()[:16]


def watching(task: Bar, *names: str) -> Callable[[int, Mapping[str, Any]], None]:
    """A watcher that shows these figures of every step."""

    def watch(step: int, values: Mapping[str, Any]) -> None:
        shown = [f"{name} {values[name]:.3f}" for name in names if values.get(name) is not None]
        task.at(step, "  ".join(shown))

    return watch


def _count(weights: Mapping[str, Any]) -> str:
    count = sum(weight.numel() for weight in weights.values())
    return f"{count / 1e6:,.1f} million" if count >= 1e6 else f"{count:,}"


def _page(run: RunRecord) -> RunPage:
    intro = (
        f"A planner from {run.config.get('model')}, taught by {run.config.get('data')}: {run.steps:,} steps."
    )
    return RunPage(
        "supervised planner", intro, [("While training", training_curves(run, {"Loss": {"loss": "loss"}}))]
    )


def training_curves(run: RunRecord, groups: Mapping[str, Mapping[str, str]]) -> Sequence[Figure | str]:
    """Charts of what was logged, or a line that says that nothing was."""
    charts = [
        Figure.chart(title, lines(points))
        for title, names in groups.items()
        if (points := series(run.rows, names))
    ]
    return charts or ["Nothing was logged yet."]


write_run_page = run_page("editing", _page)
"""Write `report.html` of a supervised training."""
