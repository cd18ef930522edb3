"""`noria distill teacher`: train a small teacher on real images, to try everything without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError, RunError
from noria.core.files import output_path, write_atomic
from noria.core.progress import Progress
from noria.distill.config import TeacherConfig
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

__all__ = ["TeacherJobConfig", "command", "run"]


class TeacherJobConfig(TeacherConfig, OutputOption, QuietOption):
    """Settings of `noria distill teacher`."""

    output: Annotated[str, Option("-o", metavar="FILE", was=("--out",))] = Field(
        "runs/distill/teacher/teacher.safetensors", description="The .safetensors file to write."
    )
    data: Annotated[str, Option(metavar="SET")] = Field(
        "digits", description='Images: "digits", or the folder of MNIST.'
    )
    width: int = Field(64, ge=8, description="Width of the transformer.")
    blocks: int | None = Field(
        None, ge=1, description="Number of its blocks (default: 3, or 4 above 16 pixels)."
    )
    overwrite: bool = Field(False, description="Replace a file that is there.")


@make_command(TeacherJobConfig, extra="distill", needs=("torch",))
def command(config: TeacherJobConfig) -> None:
    """Train a small class-conditional teacher on real images, to try everything without a GPU."""
    path, prompts = run(config, Progress(quiet=config.quiet))
    click.echo(f"teacher  {path}\nprompts  {prompts}")
    click.echo(f"next     noria distill train --model {path} --prompts {prompts} --preset cdm-small")


def run(config: TeacherJobConfig, progress: Progress) -> tuple[Path, Path]:
    """Train a teacher, and write it and a file of class numbers beside it.

    Raises:
        NoriaError: anything that a user can mend.
    """
    path = output_path(config.output)
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"{config.output!r} does not end in .safetensors",
            where="--output",
            mend="name a .safetensors file",
        )
    if path.exists() and not config.overwrite:
        raise RunError("the file exists already", where=str(path), mend="choose another, or give --overwrite")

    from noria.core.models.flow import SmallTransformerConfig
    from noria.distill.data.mnist import image_set
    from noria.distill.training.teacher import save_teacher, train_teacher

    data = image_set(config.data)
    size = data.images.shape[-1]
    shape = SmallTransformerConfig(
        image_size=size,
        channels=data.images.shape[1],
        patch=2 if size <= 16 else 4,
        width=config.width,
        blocks=config.blocks or (3 if size <= 16 else 4),
        classes=data.classes,
    )
    with progress:
        task = progress.task(f"teacher of {data.name}", config.steps)
        network = train_teacher(
            data,
            shape,
            config.part(TeacherConfig),
            on_step=lambda step, loss: task.at(step, f"loss {loss:.4f}"),
        )
        task.done()
    prompts = path.with_name(f"{path.stem}-prompts.txt")
    save_teacher(network, path)
    write_atomic(prompts, "".join(f"{n}\n" for n in range(data.classes)))
    return path, prompts
