"""`noria distill export`: write a run's student as a diffusers folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import ConfigError, RunError
from noria.core.runs.outputs import results_folder
from noria.distill.config import ExportConfig
from noria.distill.verbs.options import StudentOptions, silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption

if TYPE_CHECKING:
    from noria.distill.students.card import ExportResult


class ExportJobConfig(ExportConfig, StudentOptions, OutputOption):
    """Settings of `noria distill export`."""

    source: Annotated[Path, Argument()] = Field(description="Folder of the run.")


@make_command(ExportJobConfig, extra="distill", needs=("torch",))
def command(config: ExportJobConfig) -> None:
    """Write a run's student as a diffusers folder, with its steps, a card and a LoRA file."""
    result = run(config)
    sigmas = " ".join(f"{value:.4g}" for value in result.sigmas[:-1])
    click.echo(f"student  {result.folder}   {len(result.sigmas_pre_shift)} steps, σ {sigmas}")
    if result.lora is not None:
        held = "" if result.captured in (None, 1) else f"   holds {result.captured:.1%} of the change"
        click.echo(f"lora     {result.lora}{held}")
    click.echo(f"card     {result.folder / 'README.md'}")
    click.echo(f"next     noria distill sample {result.folder} --prompt TEXT")


def run(config: ExportJobConfig) -> ExportResult:
    """Write a run's student as a diffusers folder.

    Raises:
        NoriaError: anything that a user can mend; no half-written folder stays.
    """
    folder = results_folder("distill", config.output, f"export-{config.source.resolve().name}")
    if (config.source / "model_index.json").is_file():
        raise RunError("it is exported already", where=str(config.source), mend="give the run's folder")
    silence_libraries()

    from noria.distill.students.export import export_student
    from noria.distill.students.loading import open_student

    student = open_student(
        config.source,
        teacher=config.model,
        variant=config.variant,
        allow_download=config.allow_download,
    )
    assert student.config is not None, "it is a run"
    if "lora_rank" in config.model_fields_set and (not config.lora or student.config.train == "lora"):
        raise ConfigError(
            f"rank {config.lora_rank} of a LoRA file that is not made by this export",
            where="--lora-rank",
            mend="it goes with --lora and a fully trained student; a LoRA student's file has its own rank",
        )
    options = config.part(ExportConfig)
    return export_student(
        student.adapter,
        student.networks("student"),
        folder,
        options.model_copy(update={"sigmas": options.sigmas or student.sigmas}),
        settings=student.config.model_dump(mode="json") | {"iterations": student.step},
    )
