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
    from torch import Tensor

    from noria.tryon.evaluation.keeping import Embedding
    from noria.tryon.evaluation.pictures import Lpips
    from noria.tryon.evaluation.videos import Features
    from noria.tryon.video.clips import Clip

MASKS = (".mp4", ".npz", ".png")
"""Endings of the masks of a video."""
EACH = ("ssim", "psnr", "lpips", "background_ssim", "background_psnr", "face_ssim", "identity")
"""Figures of a pair."""


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
    masks: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Masks that were generated in, by name: what lies outside must be kept."
    )
    faces: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Masks of the face in the references, by name, such as face.mp4 of track."
    )
    identity: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="TorchScript network that embeds faces; needs --faces."
    )
    identity_side: int = Field(112, ge=8, le=1024, description="Pixels that this network takes, each way.")


class Scores(Config):
    """Figures of a set of clips; None where one was not measured."""

    clips: int
    ssim: float | None
    lpips: float | None
    psnr: float | None
    background_ssim: float | None
    background_psnr: float | None
    face_ssim: float | None
    identity: float | None
    frames_without_face: int | None
    frechet: float | None
    windows: int


@make_command(EvaluateConfig, extra="tryon", needs=("torch", "av"))
def command(config: EvaluateConfig) -> None:
    """Measure SSIM, PSNR, LPIPS, a Fréchet video distance, and whether background and person were kept.

    A figure whose weights or masks are not given is left out.
    """
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
    from noria.tryon.evaluation.keeping import Embedding
    from noria.tryon.evaluation.pairs import paired, videos
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
    embedding = None
    if config.identity is not None:
        if config.faces is None:
            raise DataError("an embedding needs faces", where="--identity", mend="give --faces, too")
        embedding = Embedding(config.identity, config.identity_side)
    if config.unpaired:
        if config.masks or config.faces:
            raise DataError("unpaired videos have no masks", where="--masks, --faces", mend="leave it out")
        names = videos(config.generated), videos(config.reference)
    else:
        names = (paired(config.generated, config.reference),) * 2
    rows: list[dict[str, Any]] = []
    sides = ([config.generated / name for name in names[0]], [config.reference / name for name in names[1]])
    with progress:
        task = progress.task("measure", len(sides[0]) + len(sides[1]))
        if not config.unpaired:
            for one, other in zip(*sides, strict=True):
                rows.append(_pair(one, other, config, lpips, embedding))
                task.advance()
        moments = [_moments(side, config, features) for side in sides]
        task.done()
    from noria.tryon.evaluation.videos import frechet

    scores = Scores(
        clips=len(sides[0]),
        **{name: _mean(rows, name) for name in EACH},
        frames_without_face=sum(row["frames_without_face"] for row in rows) if config.faces else None,
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


def _pair(
    one: Path, other: Path, config: EvaluateConfig, lpips: Lpips | None, embedding: Embedding | None
) -> dict[str, Any]:
    """Figures of a pair.

    Raises:
        DataError: the two do not have the same size and number of frames, or a mask is not theirs.
    """
    import torch

    from noria.tryon.evaluation.pictures import ssim
    from noria.tryon.video.clips import read_clip

    clips = read_clip(one), read_clip(other)
    _check_alike(*clips)
    made, real = (torch.tensor(clip.frames).permute(0, 3, 1, 2).float() for clip in clips)
    square = float((made - real).square().mean())
    row: dict[str, Any] = dict.fromkeys(EACH) | {
        "clip": one.name,
        "frames": len(made),
        "ssim": float(ssim(made, real).mean()),
        "psnr": 10 * math.log10(255**2 / square) if square else None,
        "frames_without_face": None,
    }
    if lpips is not None:
        parts = [
            lpips(a / 127.5 - 1, b / 127.5 - 1)
            for a, b in zip(torch.split(made, 8), torch.split(real, 8), strict=True)
        ]
        row["lpips"] = float(torch.cat(parts).mean())
    return row | _kept(made, real, clips[1], config, embedding)


def _kept(
    made: Tensor, real: Tensor, reference: Clip, config: EvaluateConfig, embedding: Embedding | None
) -> dict[str, Any]:
    """Figures of what a pair must keep, as far as masks of it are given; an equal background has no PSNR."""
    from noria.tryon.evaluation.keeping import identity, psnr_in, ssim_in
    from noria.tryon.evaluation.pairs import companion
    from noria.tryon.video.reading import read_mask

    row: dict[str, Any] = {}
    if config.masks is not None:
        outside = ~read_mask(companion(config.masks, reference.path.name, MASKS), reference)
        ratio = psnr_in(made, real, outside)
        row["background_psnr"] = None if ratio is None or math.isinf(ratio) else ratio
        row["background_ssim"] = ssim_in(made, real, outside, pure=True)
    if config.faces is not None:
        faces = read_mask(companion(config.faces, reference.path.name, MASKS), reference)
        row["face_ssim"] = ssim_in(made, real, faces, pure=False)
        row["frames_without_face"] = int((~faces.flatten(1).any(1)).sum())
        if embedding is not None:
            row["identity"], _ = identity(made, real, faces, embedding)
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
        names = ["clip", "frames", *EACH]
        blocks.append(Figure.table("Each clip", names, [[row[name] for name in names] for row in rows]))
    intro = "The Fréchet distance is of the features named here; figures of other features do not compare. "
    intro += f"Features: {'means of pixels' if config.features is None else config.features.name}."
    if config.compat == "catv2ton":
        intro += " Windows are those of CatV2TON's script, faults included."
    write_page(
        folder / "report.html", f"Evaluation of {config.generated.name}", [("Figures", blocks)], intro=intro
    )
