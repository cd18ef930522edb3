"""The verbs of `noria distill`. They parse, call a job, and print what came of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noria.core.errors import require
from noria.core.progress import Progress
from noria.verbs import DOWNLOAD, JSON, PATH, QUIET, SETTINGS, numbers, output, plain_warnings, table

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["group"]


@click.group(context_settings=SETTINGS)
def group() -> None:
    """Distil a flow-matching diffusion model to a few steps (CDM, DMD2 and relatives)."""
    plain_warnings()


@group.command(short_help="Train a few-step student.")
@click.option(
    "--model", metavar="MODEL", help="Diffusers folder, hub id, or a small teacher's .safetensors file."
)
@click.option("--prompts", metavar="FILE", help="Prompts: .txt (one a line), .jsonl or .parquet.")
@click.option(
    "--preset", metavar="NAME", help="Recipe to start from (default cdm); see `noria distill presets`."
)
@click.option("--config", type=PATH, metavar="FILE", help="YAML file of settings.")
@output("Run folder (default runs/distill/NAME).")
@DOWNLOAD
@QUIET
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def train(
    model: str | None,
    prompts: str | None,
    preset: str | None,
    config: Path | None,
    output: str | None,
    allow_download: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Train a few-step student; the same command goes on with a run that was stopped.

    Settings are KEY=VALUE, such as train=lora or student.lr=2e-5; they beat the file, which beats the preset.
    """
    from noria.distill.verbs.settings import resolve

    resolved, folder = resolve(
        model=model, prompts=prompts, preset_name=preset, file=config, output=output, overrides=settings
    )
    done = _jobs().train(resolved, folder, allow_download=allow_download, progress=Progress(quiet=quiet))
    if done.report is None:  # a process beside the first
        return
    click.echo(
        f"run     {done.folder}   {done.iterations:,} iterations, {done.student_steps:,} student steps"
    )
    click.echo(f"report  {done.report}")
    verb = (
        f"evaluate {done.folder}"
        if done.small
        else f"export {done.folder} --output {done.folder.name}-student"
    )
    click.echo(f"next    noria distill sample {done.folder}\n        noria distill {verb}")


@group.command(short_help="Draw images.")
@click.argument("source", type=PATH)
@click.option(
    "--prompt", "-p", "prompt", multiple=True, metavar="TEXT", help="What to draw; may be given again."
)
@click.option("--prompts", type=PATH, metavar="FILE", help="A file of prompts.")
@click.option("--steps", type=int, metavar="N", help="Evenly spaced steps (default: the student's own grid).")
@click.option("--sigmas", metavar="LIST", help="A pre-shift σ grid instead, such as 1,0.75,0.5,0.25.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise.")
@click.option("--count", type=int, default=1, show_default=True, help="Images a prompt.")
@click.option("--batch-size", type=int, default=4, show_default=True, help="Images at a time.")
@click.option("--teacher", is_flag=True, help="Draw with the teacher (50 steps unless told otherwise).")
@click.option("--guidance", type=float, default=1.0, show_default=True, help="Of the teacher.")
@click.option("--model", metavar="MODEL", help="Where the run's model is now, or the teacher of an export.")
@output("Folder for the images (default samples/NAME).")
@DOWNLOAD
@QUIET
def sample(
    source: Path,
    prompt: tuple[str, ...],
    prompts: Path | None,
    steps: int | None,
    sigmas: str | None,
    seed: int,
    count: int,
    batch_size: int,
    teacher: bool,
    guidance: float,
    model: str | None,
    output: str | None,
    allow_download: bool,
    quiet: bool,
) -> None:
    """Draw images with the student of a run or an exported folder."""
    folder = _jobs().sample(
        source,
        output,
        prompts=prompt,
        prompt_file=prompts,
        steps=steps,
        sigmas=numbers(sigmas, "--sigmas", "1,0.75,0.5"),
        seed=seed,
        count=count,
        as_teacher=teacher,
        guidance=guidance,
        model=model,
        allow_download=allow_download,
        batch_size=batch_size,
        progress=Progress(quiet=quiet),
    )
    click.echo(f"images  {folder}\ngrid    {folder / 'grid.png'}")


@group.command(short_help="Judge a student on the ladder of steps.")
@click.argument("source", type=PATH)
@click.option("--prompts", type=PATH, metavar="FILE", help="Prompts (default: the run's own).")
@click.option("--samples", type=int, metavar="N", help="Samples a grid (default 64; 500 of a small model).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of their noise.")
@click.option("--batch-size", type=int, metavar="N", help="Samples at a time.")
@click.option("--guidance", type=float, help="Of the teacher (default: as distilled in, at most 4.5).")
@click.option(
    "--reference",
    metavar="DIR",
    help='Compare with real images: a folder; for a small model "digits" or the folder of MNIST.',
)
@click.option("--features", metavar="DIR", help="Folder of a transformers vision model to compare through.")
@click.option("--model", metavar="MODEL", help="Where the run's model is now, or the teacher of an export.")
@JSON
@output("Folder for the results (default: evaluation, in the run).")
@DOWNLOAD
@QUIET
def evaluate(
    source: Path,
    prompts: Path | None,
    samples: int | None,
    seed: int,
    batch_size: int | None,
    guidance: float | None,
    reference: str | None,
    features: str | None,
    model: str | None,
    as_json: bool,
    output: str | None,
    allow_download: bool,
    quiet: bool,
) -> None:
    """Judge a student at 1, 2, 3, 4, 6, 8 steps and under a foreign shift, beside its teacher."""
    results, page = _jobs().evaluate(
        source,
        output,
        prompt_file=prompts,
        samples=samples,
        seed=seed,
        guidance=guidance,
        reference=reference,
        features=features,
        model=model,
        allow_download=allow_download,
        batch_size=batch_size,
        progress=Progress(quiet=quiet),
    )
    if as_json:
        click.echo(json.dumps(results, indent=1, ensure_ascii=False))
        return
    click.echo(_table(results["scores"]))
    click.echo(
        f"\ncompared with {results['reference']}, through {results['lens']}; {results['samples']} samples"
    )
    click.echo(f"report  {page}\ndata    {page.with_suffix('.json')}")


@group.command(short_help="Write a student as a diffusers folder.")
@click.argument("source", type=PATH)
@output("Folder to write; must not exist.", required=True)
@click.option(
    "--lora",
    is_flag=True,
    help="Also a LoRA file of a fully trained student (a LoRA student always has one).",
)
@click.option("--lora-rank", type=click.IntRange(1), default=64, show_default=True, help="Of that file.")
@click.option("--sigmas", metavar="LIST", help="Pre-shift σ grid to record (default: the trained one).")
@click.option(
    "--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the weights (default: the model's)."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@click.option("--model", metavar="MODEL", help="Where the run's model is now.")
@DOWNLOAD
def export(
    source: Path,
    output: str,
    lora: bool,
    lora_rank: int,
    sigmas: str | None,
    dtype: str | None,
    overwrite: bool,
    model: str | None,
    allow_download: bool,
) -> None:
    """Write a run's student as a diffusers folder, with its steps, a card and a LoRA file."""
    done = _jobs().export(
        source,
        output,
        lora=lora,
        lora_rank=lora_rank,
        sigmas=numbers(sigmas, "--sigmas", "1,0.75,0.5"),
        dtype=dtype,
        overwrite=overwrite,
        model=model,
        allow_download=allow_download,
    )
    click.echo(f"student  {done.folder}   {len(done.sigmas_pre_shift)} steps, σ {_listed(done.sigmas[:-1])}")
    if done.lora is not None:
        held = "" if done.captured in (None, 1) else f"   holds {done.captured:.1%} of the change"
        click.echo(f"lora     {done.lora}{held}")
    click.echo(f"card     {done.folder / 'README.md'}")
    click.echo(f"next     noria distill sample {output} --prompt TEXT")


@group.command(short_help="Train a small teacher, to try things without a GPU.")
@click.option(
    "--data", default="digits", show_default=True, metavar="SET", help='"digits", or the folder of MNIST.'
)
@output("The .safetensors file to write.", required=True)
@click.option("--steps", type=int, default=3000, show_default=True, help="Optimiser steps.")
@click.option("--width", type=click.IntRange(8), default=64, show_default=True, help="Of the transformer.")
@click.option(
    "--blocks", type=click.IntRange(1), help="Of the transformer (default 3, or 4 above 16 pixels)."
)
@click.option("--batch-size", type=int, default=128, show_default=True, help="Images a step.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights and batches.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@QUIET
def teacher(
    data: str,
    output: str,
    steps: int,
    width: int,
    blocks: int | None,
    batch_size: int,
    seed: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train a small class-conditional teacher on real images, to try everything without a GPU."""
    path, prompts = _jobs().teacher(
        data,
        output,
        steps=steps,
        width=width,
        blocks=blocks,
        batch_size=batch_size,
        seed=seed,
        overwrite=overwrite,
        progress=Progress(quiet=quiet),
    )
    click.echo(f"teacher  {path}\nprompts  {prompts}")
    click.echo(f"next     noria distill train --model {path} --prompts {prompts} --preset cdm-small")


@group.command(short_help="List the recipes.")
@click.option("--show", metavar="NAME", help="Print all settings of one preset, as YAML for --config.")
def presets(show: str | None) -> None:
    """List the recipes that a training can start from."""
    from noria.distill.config import PRESET_NOTES

    if show is None:
        width = max(map(len, PRESET_NOTES))
        click.echo("\n".join(f"{name:{width}}  {note}" for name, note in PRESET_NOTES.items()))
        return
    from noria.distill.verbs.settings import show_preset

    click.echo(show_preset(show), nl=False)


@group.command(short_help="Write a run's report again.")
@click.argument("source", type=PATH)
def report(source: Path) -> None:
    """Write a run's report again, from the files in its folder."""
    click.echo(f"report  {_jobs().report(source)}")


# -- helpers ----------------------------------------------------------------------------------------------------------


def _jobs() -> ModuleType:
    """The jobs need PyTorch; say which extra brings it. What its libraries only remark on is left unsaid."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    require("torch", "distill")
    return require("noria.distill.verbs.jobs", "distill")


def _listed(values: Any) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _table(scores: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for entry in scores for name in entry["figures"]))
    lines = [["arm", "steps", *(name.replace("_", " ") for name in names)]]
    for entry in scores:
        values = [entry["figures"].get(name) for name in names]
        lines.append([entry["arm"], entry["grid"], *("-" if v is None else f"{v:.4g}" for v in values)])
    return table(lines, names=2)
