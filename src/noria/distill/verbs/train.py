"""`noria distill train`: train a few-step student, in a run folder that resumes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from noria.core.progress import Progress, Task
from noria.core.runs.outputs import check_run_folder, named_run
from noria.core.runs.run import Run, save_settings, settled
from noria.distill.config import DistillConfig, LoadConfig
from noria.distill.verbs.options import silence_libraries
from noria.distill.verbs.pages import write_run_page
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.distill.training.trainer import Distiller

__all__ = ["TrainJobConfig", "TrainResult", "command", "run", "settings_and_folder"]


class TrainJobConfig(DistillConfig, LoadConfig, OutputOption, QuietOption):
    """Settings of `noria distill train`: those of the training, and how it is run."""


@dataclass(frozen=True)
class TrainResult:
    """The files and the outcome of a training.

    Attributes:
        folder: folder of the run.
        report: page of the run; None in a process that writes no files.
        iterations, student_steps: numbers made in all.
        small: whether the model is a small transformer, which has no diffusers export.
    """

    folder: Path
    report: Path | None
    iterations: int
    student_steps: int
    small: bool


@make_command(TrainJobConfig, extra="distill", needs=("torch",))
def command(config: TrainJobConfig) -> None:
    """Train a few-step student; the same command resumes a run that was stopped.

    Settings are KEY=VALUE, such as train=lora or student.lr=2e-5; they beat the file, which beats the preset.
    """
    result = run(config, Progress(quiet=config.quiet))
    if result.report is None:  # a process beside the first
        return
    click.echo(
        f"run     {result.folder}   {result.iterations:,} iterations, {result.student_steps:,} student steps"
    )
    click.echo(f"report  {result.report}")
    verb = f"export {result.folder} --output {result.folder.name}-student"
    verb = f"evaluate {result.folder}" if result.small else verb
    click.echo(f"next    noria distill sample {result.folder}\n        noria distill {verb}")


def settings_and_folder(job: TrainJobConfig) -> tuple[DistillConfig, Path]:
    """Settings of the training with the name of its run, and the folder of the run.

    Raises:
        ConfigError: the model or the prompts are missing, or the folder leaves its place.
    """
    return named_run(
        "distill",
        job.part(DistillConfig),
        needed={"model": "a diffusers folder, a hub id or a .safetensors file", "prompts": "a file"},
        output=job.output,
        label=lambda c: f"{Path(str(c.model)).stem or 'model'}-{c.preset}",
    )


def run(job: TrainJobConfig, progress: Progress) -> TrainResult:
    """Train a student, or resume its training, and write its report.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        DivergenceError: the run blew up.
    """
    config, folder = settings_and_folder(job)
    silence_libraries()

    from noria.core.runs.checkpoints import fingerprint
    from noria.core.training.loop import training
    from noria.core.training.parallel import Parallel
    from noria.distill.adapters import SmallAdapter
    from noria.distill.data.prompts import read_prompts
    from noria.distill.evaluation.ladder import TrainingLadder
    from noria.distill.students.loading import check_prompts, open_model
    from noria.distill.training.trainer import Distiller

    parallel = Parallel("distill")
    progress = progress if parallel.main else Progress(quiet=True)
    prompts = read_prompts(Path(config.prompts or ""))
    check_run_folder(folder)
    adapter = open_model(config.model or "", job.part(LoadConfig), device=parallel.device)
    check_prompts(adapter, prompts)
    # Everything but the number of iterations must be the same for a run to resume; inputs by content.
    inputs = {
        "model": (str(config.model), fingerprint(adapter.network)),
        "prompts": (str(config.prompts), hashlib.sha256("\n".join(prompts.texts).encode()).hexdigest()[:16]),
    }
    identity = settled(folder, config.model_dump(mode="json", exclude={"iterations"}), inputs)
    distiller = Distiller(adapter, config, prompts, parallel=parallel)
    with progress, Run.open(folder, config=identity, writer=parallel.main) as record:
        parallel.barrier()
        if parallel.main:
            save_settings(folder, config)
        ladder = TrainingLadder(config, adapter, prompts, folder if parallel.main else None)
        left_out = f", {prompts.duplicates} repetitions left out" if prompts.duplicates else ""
        progress.say(f"{len(prompts):,} prompts{left_out}; {_parameters(distiller)} trainable parameters")
        with training(record, progress, config.iterations, page=write_run_page, unit="iteration") as task:
            distiller.train(record, on_iteration=_watch(task), on_ladder=ladder)
        task = progress.task("ladder")
        ladder.finish(distiller)
        task.done()
        page = write_run_page(folder) if parallel.main else None
        parallel.barrier()
    small = isinstance(adapter, SmallAdapter)
    return TrainResult(folder, page, distiller.iteration, distiller.student_steps, small)


def _watch(task: Task) -> Callable[[int, Mapping[str, float]], None]:
    """Show speed and losses of every iteration."""
    losses: dict[str, float] = {}
    times = [time.perf_counter()]

    def watch(iteration: int, values: Mapping[str, float]) -> None:
        losses.update({n.removeprefix("loss_"): v for n, v in values.items() if n.startswith("loss_")})
        times[:] = [*times[-20:], time.perf_counter()]
        speed = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
        shown = "  ".join(f"{name} {value:.3g}" for name, value in sorted(losses.items()))
        task.at(iteration, f"{speed:.3g} it/s  {shown}")

    return watch


def _parameters(distiller: Distiller) -> str:
    count = sum(p.numel() for p in distiller.roles.parameters("student").values())
    return f"{count / 1e6:,.1f} million" if count >= 1e6 else f"{count:,}"
