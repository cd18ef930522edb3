"""`noria tryon evaluate`: generated clips against their references."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from pydantic import Field

from noria.core.config import Argument, Config, Option
from noria.core.errors import DataError
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.tryon.evaluation.pictures import Lpips
    from noria.tryon.evaluation.videos import Features
    from noria.tryon.video.clips import Clip

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")


class EvaluateConfig(OutputOption, JsonOption, QuietOption):
    """Settings of `noria tryon evaluate`."""

    generated: Annotated[Path, Argument()] = Field(description="Folder of generated videos.")
    reference: Annotated[Path, Option(metavar="DIR")] = Field(
        description="Folder of the real videos; paired by name."
    )
    unpaired: bool = Field(False, description="Compare the two sets only: names need not agree.")
    features: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="TorchScript network of video features, such as I3D (default: means of pixels)."
    )
    features_side: int = Field(224, ge=8, le=1024, description="Pixels that this network takes, each way.")
    window: int = Field(16, ge=2, le=256, description="Frames of a window of the Fréchet distance.")
    compat: Literal["none", "catv2ton"] = Field(
        "none", description="Measure as a published script does, with its faults: windows of 10, BGR."
    )
    backbone: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="AlexNet's weights, for LPIPS."
    )
    heads: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Linear heads of LPIPS for AlexNet."
    )


class Scores(Config):
    """Figures of a set of clips; None where one was not measured."""

    clips: int
    ssim: float | None
    lpips: float | None
    psnr: float | None
    frechet: float | None
    windows: int


@make_command(EvaluateConfig, extra="tryon", needs=("torch", "av"))
def command(config: EvaluateConfig) -> None:
    """Measure SSIM, PSNR, LPIPS and a Fréchet video distance; a figure whose weights are not given is left out."""
    folder, scores, rows = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps({"scores": scores.model_dump(), "clips": rows}, indent=1))
        return
    shown = [(name, "—" if value is None else f"{value:.6g}") for name, value in scores.model_dump().items()]
    click.echo(table([("figure", "value"), *shown], names=1))
    click.echo(f"page    {folder / 'report.html'}")


def run(config: EvaluateConfig, progress: Progress) -> tuple[Path, Scores, list[dict[str, Any]]]:
    """Measure all clips, each opened once.

    Returns:
        The folder of the page, the figures of the set, and a row for each pair.

    Raises:
        NoriaError: a video or a weight file cannot be used, or pairs do not agree.
    """
    folder = results_folder("tryon", config.output, f"evaluate-{config.generated.resolve().name}")

    from noria.core.files import write_atomic
    from noria.tryon.evaluation.pictures import open_lpips
    from noria.tryon.evaluation.videos import PixelFeatures, ScriptFeatures

    lpips = None
    if config.backbone is not None or config.heads is not None:
        if config.backbone is None or config.heads is None:
            raise DataError("LPIPS needs both", where="--backbone, --heads")
        lpips = open_lpips(config.backbone, config.heads)
    features: Features = PixelFeatures()
    if config.features is not None:
        features = ScriptFeatures(config.features, config.features_side)
    names = _names(config)
    rows: list[dict[str, Any]] = []
    sides = ([config.generated / name for name in names[0]], [config.reference / name for name in names[1]])
    with progress:
        task = progress.task("measure", len(sides[0]) + len(sides[1]))
        if not config.unpaired:
            for one, other in zip(*sides, strict=True):
                rows.append(_pair(one, other, lpips))
                task.advance()
        moments = [_moments(side, config, features) for side in sides]
        task.done()
    from noria.tryon.evaluation.videos import frechet

    scores = Scores(
        clips=len(sides[0]),
        ssim=_mean(rows, "ssim"),
        lpips=_mean(rows, "lpips"),
        psnr=_mean(rows, "psnr"),
        frechet=frechet(moments[0][:2], moments[1][:2]),
        windows=moments[0][2],
    )
    about = {
        "scores": scores.model_dump(),
        "clips": rows,
        "compat": config.compat,
        "features": str(config.features),
    }
    write_atomic(folder / "scores.json", json.dumps(about, indent=1) + "\n")
    _write_page(folder, scores, rows, config)
    return folder, scores, rows


def _names(config: EvaluateConfig) -> tuple[list[str], list[str]]:
    """Names of the videos of both sides, in the same order where they are paired.

    Raises:
        DataError: a side is empty, or a generated video has no reference.
    """
    found = []
    for folder in (config.generated, config.reference):
        if not folder.is_dir():
            raise DataError("no such folder", where=str(folder))
        found.append(sorted(path.name for path in folder.iterdir() if path.suffix.lower() in VIDEOS))
        if not found[-1]:
            raise DataError("no video in it", where=str(folder))
    if config.unpaired:
        return found[0], found[1]
    missing = [name for name in found[0] if name not in found[1]]
    if missing:
        raise DataError(
            f"{len(missing)} videos without a reference, {missing[0]} first",
            where=str(config.reference),
            mend="name references like the generated videos, or give --unpaired",
        )
    return found[0], found[0]


def _pair(one: Path, other: Path, lpips: Lpips | None) -> dict[str, Any]:
    """Figures of a pair.

    Raises:
        DataError: the two do not have the same size and number of frames.
    """
    import torch

    from noria.tryon.evaluation.pictures import ssim
    from noria.tryon.video.clips import read_clip

    clips = read_clip(one), read_clip(other)
    _check_alike(*clips)
    made, real = (torch.tensor(clip.frames).permute(0, 3, 1, 2).float() for clip in clips)
    square = float((made - real).square().mean())
    row: dict[str, Any] = {
        "clip": one.name,
        "frames": len(made),
        "ssim": float(ssim(made, real).mean()),
        "psnr": 10 * math.log10(255**2 / square) if square else None,
        "lpips": None,
    }
    if lpips is not None:
        parts = [
            lpips(a / 127.5 - 1, b / 127.5 - 1)
            for a, b in zip(torch.split(made, 8), torch.split(real, 8), strict=True)
        ]
        row["lpips"] = float(torch.cat(parts).mean())
    return row


def _check_alike(one: Clip, other: Clip) -> None:
    if one.frames.shape != other.frames.shape:
        sizes = [f"{c.frames.shape[0]} frames of {c.size[1]}×{c.size[0]}" for c in (one, other)]
        raise DataError(
            f"{sizes[0]}, and its reference has {sizes[1]}",
            where=str(one.path),
            mend="pairs have the same frames: noria tryon generate keeps them",
        )


def _moments(paths: list[Path], config: EvaluateConfig, features: Features) -> Any:
    from noria.tryon.evaluation.videos import catv2ton_windows, moments, windows
    from noria.tryon.video.clips import read_clip

    frames: Iterator[Any] = (read_clip(path).frames for path in paths)
    if config.compat == "catv2ton":
        return moments(catv2ton_windows(frames), features)
    return moments((part for video in frames for part in windows(video, config.window)), features)


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else None


def _write_page(folder: Path, scores: Scores, rows: list[dict[str, Any]], config: EvaluateConfig) -> None:
    from noria.core.pages.charts import Figure
    from noria.core.pages.report import write_page

    whole = [[name, value] for name, value in scores.model_dump().items()]
    blocks = [Figure.table("All clips", ["figure", "value"], whole)]
    if rows:
        names = ["clip", "frames", "ssim", "psnr", "lpips"]
        blocks.append(Figure.table("Each clip", names, [[row[name] for name in names] for row in rows]))
    intro = "The Fréchet distance is of the features named here; figures of other features do not compare. "
    intro += f"Features: {'means of pixels' if config.features is None else config.features.name}."
    if config.compat == "catv2ton":
        intro += " Windows are those of CatV2TON's script, faults included."
    write_page(
        folder / "report.html", f"Evaluation of {config.generated.name}", [("Figures", blocks)], intro=intro
    )
