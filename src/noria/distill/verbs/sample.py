"""`noria distill sample`: draw images with a student or its teacher."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError, DataError, DivergenceError
from noria.core.files import write_atomic
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.distill.verbs.options import StudentOptions, silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption, SeedOption

if TYPE_CHECKING:
    from noria.distill.evaluation.grids import Grid
    from noria.distill.students.loading import Student


MOST_PICTURES = 256
"""Number of pictures of the grid."""


class SampleConfig(StudentOptions, SeedOption, OutputOption, QuietOption):
    """Settings of `noria distill sample`."""

    prompt: Annotated[tuple[str, ...], Option("-p", metavar="TEXT", split=False)] = Field(
        (), description="Prompt to draw; may be given again."
    )
    prompts: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="File of prompts (default: the first eight of the run)."
    )
    steps: int | None = Field(
        None, ge=1, description="Number of evenly spaced steps (default: the student's own grid)."
    )
    sigmas: tuple[float, ...] | None = Field(
        None, description="Pre-shift σ grid instead of steps, such as 1,0.75,0.5,0.25."
    )
    samples: Annotated[int, Option(was=("--count",))] = Field(
        1, ge=1, description="Number of images of each prompt."
    )
    batch_size: int = Field(4, ge=1, description="Number of images drawn at a time.")
    teacher: bool = Field(
        False, description="Draw with the teacher, in 50 steps unless --steps says otherwise."
    )
    guidance: float = Field(1.0, description="Classifier-free guidance of the teacher.")


@make_command(SampleConfig, extra="distill", needs=("torch",))
def command(config: SampleConfig) -> None:
    """Draw images with the student of a run or an exported folder."""
    folder = run(config, Progress(quiet=config.quiet))
    click.echo(f"images  {folder}\ngrid    {folder / 'grid.png'}")


def run(config: SampleConfig, progress: Progress) -> Path:
    """Draw images, write each as a PNG file, and a grid of the first ones; image n has the noise of (seed, n).

    A batch is drawn, written and forgotten before the next.

    Returns:
        The folder of the images.

    Raises:
        NoriaError: anything that a user can mend.
    """
    if config.guidance != 1 and not config.teacher:
        raise ConfigError(
            f"guidance {config.guidance:g} on the student",
            where="--guidance",
            mend="a few-step student samples without guidance; leave it out, or draw with --teacher",
        )
    if config.steps is not None and config.sigmas is not None:
        raise ConfigError("both --steps and --sigmas given", mend="give one of them")
    folder = results_folder("distill", config.output, f"sample-{config.source.resolve().name}")
    silence_libraries()

    from noria.distill.data.prompts import read_prompts
    from noria.distill.evaluation.grids import SamplingConfig, sample_batches
    from noria.distill.evaluation.views import thumbnails
    from noria.distill.students.loading import default_device, open_student

    texts = [*config.prompt, *(read_prompts(config.prompts).texts if config.prompts is not None else ())]
    student = open_student(
        config.source,
        teacher=config.model,
        variant=config.variant,
        device=default_device(),
        allow_download=config.allow_download,
    )
    if config.model is not None and student.config is None and not config.teacher:
        raise ConfigError(
            "an exported student draws without its teacher",
            where="--model",
            mend="leave it out, or give --teacher",
        )
    if config.teacher and not student.has_teacher:
        raise ConfigError(
            "an exported student comes without its teacher", where="--teacher", mend="name it with --model"
        )
    if not texts and student.config is not None and student.config.prompts:
        texts = list(read_prompts(Path(student.config.prompts)).texts[:8])
    if not texts:
        raise DataError("no prompts", mend="give --prompt or --prompts")
    grid = _grid(config, student)
    prompts = [prompt for prompt in texts for _ in range(config.samples)]
    sampling = SamplingConfig(seed=config.seed, guidance=config.guidance, batch_size=config.batch_size)
    with progress:
        task = progress.task("sample", grid.steps * -(-len(prompts) // config.batch_size))
        batches = sample_batches(
            student,
            prompts,
            grid,
            sampling,
            role="teacher" if config.teacher else "student",
            on_batch=task.advance,
        )
        pictures: list[Any] = []
        for number, latent in enumerate(itertools.chain.from_iterable(batches)):
            if not bool(latent.isfinite().all()):
                raise DivergenceError(
                    f"image {number} is not finite",
                    where=str(config.source),
                    mend="use an earlier checkpoint",
                )
            image = student.adapter.decode(latent[None])
            write_atomic(folder / _file(number), _png(thumbnails(image, max(image.shape))[0]))
            if len(pictures) < MOST_PICTURES:
                pictures.append(thumbnails(image)[0])
        task.done(f"{len(prompts)} images at {grid.steps} steps")
    _write_grid(folder / "grid.png", pictures, texts, min(config.samples, len(pictures)))
    about = {
        "source": str(config.source),
        "step": student.step,
        "role": "teacher" if config.teacher else "student",
        "guidance": config.guidance,
        "seed": config.seed,
        "sigmas": list(grid.sigmas),
        "images": [{"file": _file(n), "prompt": p, "noise": n} for n, p in enumerate(prompts)],
    }
    write_atomic(folder / "samples.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return folder


def _grid(config: SampleConfig, student: Student) -> Grid:
    from noria.distill.evaluation.grids import REFERENCE_STEPS, Grid, even_grid

    contract = student.adapter.contract
    if config.steps is not None:
        return even_grid(contract, config.steps)
    if config.teacher and config.sigmas is None:
        return even_grid(contract, REFERENCE_STEPS)
    levels = config.sigmas or student.sigmas
    return Grid(str(len(levels)), tuple(float(s) for s in contract.grid(levels)))


def _write_grid(path: Path, pictures: list[Any], texts: Sequence[str], samples: int) -> None:
    """Write all pictures as one: a row for each prompt, or rows of eight where each has one sample."""
    import numpy as np

    from noria.distill.evaluation.ladder import one_line, picture_sheet

    columns = samples if samples > 1 else min(len(pictures), 8)
    pictures = [*pictures, *[np.zeros_like(pictures[0])] * (-len(pictures) % columns)]
    rows = [np.stack(pictures[start : start + columns]) for start in range(0, len(pictures), columns)]
    labels = [one_line(text) for text in texts[: len(rows)]] if samples > 1 else [""] * len(rows)
    write_atomic(path, picture_sheet(labels, rows))


def _file(number: int) -> str:
    return f"image-{number:04d}.png"


def _png(pixels: Any) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()
