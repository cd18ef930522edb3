"""`noria tryon export`: a training as a diffusers folder, or its LoRA as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import ConfigError, RunError
from noria.core.runs.outputs import is_run, results_folder
from noria.tryon.verbs.options import silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption


class ExportConfig(OutputOption):
    """Settings of `noria tryon export`."""

    source: Annotated[Path, Argument("RUN")] = Field(description="Folder of a training.")
    only_lora: bool = Field(
        False,
        description="Write the LoRA alone, as stock WanVACEPipeline loads it, without the hands' branch and the gates.",
    )


@make_command(ExportConfig, extra="tryon", needs=("torch", "diffusers"))
def command(config: ExportConfig) -> None:
    """Write a training as a folder for --model, with a LoRA merged into its weights; or its LoRA alone."""
    folder = run(config)
    if config.only_lora:
        click.echo(f"lora    {folder}\nnext    WanVACEPipeline.load_lora_weights({str(folder)!r})")
    else:
        click.echo(
            f"model   {folder}\nnext    noria tryon generate VIDEO --model {folder} --mask FILE --garment FILE"
        )


def run(config: ExportConfig) -> Path:
    """Write the folder, whole or not at all.

    Raises:
        NoriaError: the source is no training, or there is something at the output.
    """
    source = config.source
    if not is_run(source):
        raise ConfigError("no training", where=str(source), mend="give the folder of noria tryon train")
    kind = "lora" if config.only_lora else "model"
    folder = results_folder("tryon", config.output, f"export-{source.resolve().name}-{kind}")
    if folder.exists() and any(folder.iterdir()):
        raise RunError("there is something already", where=str(folder), mend="choose another --output")
    silence_libraries()

    from noria.core.files import appearing
    from noria.tryon.pipeline.lora import save_lora
    from noria.tryon.training.loading import open_trained, settings_of
    from noria.tryon.training.trainer import learner

    settings = settings_of(source)
    if config.only_lora and settings.train != "lora":
        raise ConfigError(f"it trained {settings.train}", where="--only-lora", mend="leave it out")
    import torch

    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    pipeline = open_trained(source, dtype, "cpu")
    model, _ = learner(pipeline, settings.expert)
    with appearing(folder) as partial:
        if config.only_lora:
            save_lora(model, partial)
        else:
            if settings.train == "lora":
                model.fuse_lora()
                model.unload_lora()
            pipeline.save_pretrained(partial)
    return folder
