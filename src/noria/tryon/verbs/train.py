"""`noria tryon train`: train a model on clips with hands and timed actions, in a run folder that resumes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noria.core.errors import ConfigError
from noria.core.pages.charts import Figure, curves
from noria.core.pages.report import RunPage, RunRecord, run_page
from noria.core.progress import Progress
from noria.core.runs.outputs import check_run_folder, named_run
from noria.core.runs.run import Run, save_settings, settled
from noria.tryon.training.config import TrainConfig
from noria.tryon.verbs.options import silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.tryon.training.cache import ClipCache, EncodedClip
    from noria.tryon.training.trainer import Trainer


class TrainJobConfig(TrainConfig, OutputOption, QuietOption):
    """Settings of `noria tryon train`: those of the training, and how it is run."""


@dataclass(frozen=True)
class TrainResult:
    """The folder of a training, its page, and the number of steps made."""

    folder: Path
    report: Path | None
    steps: int


@make_command(TrainJobConfig, extra="tryon", needs=("torch", "diffusers", "av"))
def command(config: TrainJobConfig) -> None:
    """Train a model; the same command resumes a run that was stopped.

    The paper's two stages: --preset stage1 on plain clips, then --preset stage2 --model RUN on clips with actions.
    """
    result = run(config, Progress(quiet=config.quiet))
    if result.report is None:  # a process beside the first
        return
    click.echo(f"run     {result.folder}   {result.steps:,} steps\nreport  {result.report}")
    click.echo(f"next    noria tryon generate VIDEO --model {result.folder} --mask FILE --garment FILE")


def run(job: TrainJobConfig, progress: Progress) -> TrainResult:
    """Train, or resume a training, and write its page.

    Raises:
        NoriaError: anything that a user can mend; the last checkpoint is whole then.
        DivergenceError: the training diverged.
    """
    config, folder = named_run(
        "tryon",
        job.part(TrainConfig),
        needed={"data": "a manifest of clips"},
        output=job.output,
        label=lambda settings: settings.preset,
    )
    silence_libraries()

    import torch

    from noria.core.runs.checkpoints import fingerprint
    from noria.core.training.loop import training
    from noria.core.training.parallel import Parallel
    from noria.tryon.training.loading import open_any
    from noria.tryon.training.trainer import Trainer, learner

    assert config.data is not None
    parallel = Parallel("tryon")
    progress = progress if parallel.main else Progress(quiet=True)
    check_run_folder(folder)
    if Path(config.model).resolve() == folder.resolve():
        raise ConfigError("the run's own folder", where="--model", mend="give the model that it begins with")
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    pipeline = open_any(config.model, dtype=dtype, device=parallel.device)
    weights = fingerprint(learner(pipeline, config.expert)[0])
    with progress:
        clips, cache = encoded_clips(pipeline, config, progress)
        content = hashlib.sha256("\n".join(sorted(map(_content, clips))).encode()).hexdigest()[:16]
        inputs = {"model": (config.model, weights), "data": (str(config.data), content)}
        varying = {"steps", "cache", "save_every", "log_every", "strip_every"}
        identity = settled(folder, config.model_dump(mode="json", exclude=varying), inputs)
        trainer = Trainer(pipeline, config, clips, cache, parallel)
        with Run.open(folder, config=identity, writer=parallel.main) as record:
            parallel.barrier()
            if parallel.main:
                save_settings(folder, config)
            number = sum(value.numel() for value in trainer.parameters.values())
            progress.say(f"{len(clips)} clips; {number / 1e6:,.2f} million weights learn")
            with training(record, progress, config.steps, page=write_run_page) as task:
                trainer.train(
                    record,
                    on_step=lambda step, figures: task.at(step, f"loss {figures['loss']:.4f}"),
                    on_strip=(lambda step: _strip(folder, trainer, step)) if parallel.main else None,
                )
            page = write_run_page(folder) if parallel.main else None
            parallel.barrier()
    return TrainResult(folder, page, trainer.state.step)


def encoded_clips(
    pipeline: Any, config: TrainConfig, progress: Progress
) -> tuple[list[EncodedClip], ClipCache]:
    """The clips of the manifest, encoded or from the cache.

    Raises:
        DataError: a clip cannot be used; `noria tryon prepare` names all of them.
    """
    from noria.tryon.training.cache import ClipCache
    from noria.tryon.training.config import ClipFormat
    from noria.tryon.training.manifest import read_manifest

    assert config.data is not None
    records = read_manifest(config.data)
    cache = ClipCache(config.cache or config.data.parent / "cache", pipeline, config.part(ClipFormat))
    task, clips = progress.task("encode", len(records)), []
    for record in records:
        clips.append(cache.clip(record))
        task.advance()
    task.done(f"{cache.made} made, the rest was there")
    return clips, cache


def _content(clip: EncodedClip) -> str:
    return f"{clip.digest} {clip.record.caption}"


def _strip(folder: Path, trainer: Trainer, step: int) -> None:
    """A picture of one clip: its frames, and what the model makes of them from 70 % noise, or its expert's middle."""
    import torch

    from noria.core.files import write_atomic
    from noria.core.models.flow import clean_estimate, interpolate
    from noria.core.pages.charts import image_grid
    from noria.tryon.pipeline.conditions import decode
    from noria.tryon.training.objective import velocity

    batch = trainer.batch(trainer.clips[:1])
    low, high = trainer.levels
    sigma = torch.full((1,), 0.7 if low < 0.7 < high else (low + high) / 2, device=batch.clean.device)
    noise = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(0)).to(batch.clean)
    vae = trainer.cache.pipeline.vae
    with torch.no_grad():
        noisy = interpolate(batch.clean, noise, sigma)
        estimate = clean_estimate(noisy, velocity(trainer.model, batch, noisy, sigma), sigma)
        rows = [decode(vae, part[:, :, batch.references :])[0] for part in (batch.clean, estimate)]
    step_between = max(1, rows[0].shape[1] // 6)
    frames = torch.stack([row[:, ::step_between].permute(1, 2, 3, 0) for row in rows])
    pixels = ((frames + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()
    write_atomic(folder / "strips" / f"{step:08d}.png", image_grid(pixels, ["clip", "estimate"]))


def _page(record: RunRecord) -> RunPage:
    figures = curves(
        record.rows,
        {
            "Loss": {"loss": "loss"},
            "Mean square of the velocity's error": {
                "error_acting": "frames with an action",
                "error_idle": "other frames",
            },
            "Norm of the gradient": {"grad_norm": "norm"},
        },
    )
    strips = sorted((record.folder / "strips").glob("*.png"))[-3:]
    pictures = [
        Figure.picture(f"Step {int(path.stem)}", path.read_bytes(), "A clip, and the estimate from noise.")
        for path in strips
    ]
    sections = [("Training", figures), *([("Pictures", pictures)] if pictures else [])]
    return RunPage("Training of try-on", f"{record.steps:,} steps of {record.config['preset']}.", sections)


write_run_page = run_page("tryon", _page)
