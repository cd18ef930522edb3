"""`noria tryon prepare`: encode the clips of a manifest once, and name those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import CheckError, DataError
from noria.core.progress import Progress
from noria.tryon.training.config import ClipFormat
from noria.tryon.verbs.options import silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, QuietOption


class PrepareConfig(ClipFormat, JsonOption, QuietOption):
    """Settings of `noria tryon prepare`."""

    data: Annotated[Path, Argument()] = Field(
        description="Manifest of clips: .jsonl of ours or of MagicTryOn, .csv of DiffSynth."
    )
    model: Annotated[str, Option(metavar="DIR")] = Field(
        "tiny", description="diffusers folder whose autoencoder and text encoder are used."
    )
    cache: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of encoded clips and captions (default: cache beside the manifest)."
    )


@make_command(PrepareConfig, extra="tryon", needs=("torch", "diffusers", "av"))
def command(config: PrepareConfig) -> None:
    """Encode clips and captions for a training, each once; name every clip that cannot be used, and exit 1 then."""
    about = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps(about, indent=1))
    else:
        click.echo(f"clips   {about['clips']} usable, {about['made']} entries made")
        click.echo(f"action  {about['acting']:.1%} of the latent frames")
        for line in about["refused"]:
            click.echo(f"refused {line}")
    if about["refused"]:
        raise CheckError(f"{len(about['refused'])} of its clips cannot be used", where=str(config.data))


def run(config: PrepareConfig, progress: Progress) -> dict[str, Any]:
    """Encode what the cache lacks.

    Returns:
        Numbers of `clips` that can be used and of entries `made`, the share of latent frames with an action `acting`,
        and a line for each clip `refused`.

    Raises:
        NoriaError: the manifest or the model cannot be used.
    """
    silence_libraries()

    import torch

    from noria.tryon.training.cache import WHOLE, ClipCache
    from noria.tryon.training.loading import open_any
    from noria.tryon.training.manifest import read_manifest

    records = read_manifest(config.data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = open_any(config.model, device=device)
    cache = ClipCache(config.cache or config.data.parent / "cache", pipeline, config.part(ClipFormat))
    refused, tables = [], []
    with progress:
        task = progress.task("encode", len(records))
        for record in records:
            try:
                clip = cache.clip(record)
                cache.text(record.caption, WHOLE)
                tables.append(clip.table)
            except DataError as error:
                refused.append(str(error))
            task.advance()
        task.done()
    acting = torch.cat(tables).gt(0).float().mean() if tables else torch.tensor(0.0)
    return {"clips": len(tables), "made": cache.made, "acting": float(acting), "refused": refused}
