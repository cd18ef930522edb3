"""`noria tryon evaluate`: generated clips against their references."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from pydantic import Field

from noria.core.config import Argument, Config, Option
from noria.core.errors import DataError
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.tryon.evaluation.companions import CompanionOptions
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from noria.tryon.evaluation.keeping import Embedding
    from noria.tryon.evaluation.pictures import Lpips
    from noria.tryon.evaluation.videos import Features, Moments
    from noria.tryon.video.clips import Clip

    Cut = Callable[[NDArray[np.uint8], bool], Iterator[Tensor]]
    """Frames of a video, and whether it is the last, to windows."""
    Sides = tuple[list[Path], list[Path]]
    """Generated videos and references."""

EACH = ("ssim", "psnr", "lpips", "background_ssim", "background_psnr", "face_ssim", "identity")
"""Figures of a pair, of whose values a set has the mean."""
HANDLED = ("action_timing", "onset_error", "contact_f1", "penetration", "coupling")
"""Figures of hands and garment in a generated video, of whose values a set has the mean."""
COUNTS = ("frames_without_face", "frames_without_hand", "actions_missed", "movements_extra")
"""Figures that are added up over a set."""


class EvaluateConfig(CompanionOptions, OutputOption, JsonOption, QuietOption):
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
    identity: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="TorchScript network that embeds faces; needs --faces."
    )
    identity_side: int = Field(112, ge=8, le=1024, description="Pixels that this network takes, each way.")
    reach: int = Field(
        6, ge=0, le=200, description="Pixels between a hand and the garment that count as contact."
    )


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
    action_timing: float | None
    onset_error: float | None
    actions_missed: int | None
    movements_extra: int | None
    contact_f1: float | None
    penetration: float | None
    coupling: float | None
    frames_without_hand: int | None
    frechet: float | None
    windows: int


@make_command(EvaluateConfig, extra="tryon", needs=("torch", "av"))
def command(config: EvaluateConfig) -> None:
    """Measure SSIM, PSNR, LPIPS, a Fréchet video distance, what was kept, and what hands do to the garment.

    A figure whose weights, masks, hands or actions are not given is left out.
    """
    folder, scores, rows = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps({"scores": scores.model_dump(), "clips": rows}, indent=1))
        return
    shown = [(name, "—" if value is None else f"{value:.6g}") for name, value in scores.model_dump().items()]
    click.echo(table([("figure", "value"), *shown], names=1))
    click.echo(f"page    {folder / 'report.html'}")


def run(config: EvaluateConfig, progress: Progress) -> tuple[Path, Scores, list[dict[str, Any]]]:
    """Measure all clips, each decoded once.

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
    from noria.tryon.evaluation.videos import Moments, PixelFeatures, ScriptFeatures, frechet

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
        if config.given():
            raise DataError(
                "unpaired videos have no masks, hands or actions",
                where=", ".join(config.given()),
                mend="leave it out",
            )
        names = videos(config.generated), videos(config.reference)
    else:
        config.check_companions()
        names = (paired(config.generated, config.reference),) * 2
    sides = ([config.generated / name for name in names[0]], [config.reference / name for name in names[1]])
    moments = Moments(features), Moments(features)
    with progress:
        if config.unpaired:
            rows: list[dict[str, Any]] = []
            _gather(sides, config, moments, progress)
        else:
            rows = _measure(sides, config, moments, (lpips, embedding), progress)
    one, other = (side.result() for side in moments)
    scores = Scores(
        clips=len(sides[0]),
        **{name: _mean(rows, name) for name in (*EACH, *HANDLED)},
        **{name: _sum(rows, name) for name in COUNTS},
        frechet=frechet(one[:2], other[:2]),
        windows=one[2],
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


def _cut(config: EvaluateConfig) -> Cut:
    """What cuts the videos of one side into windows, one after the other."""
    from noria.tryon.evaluation.videos import CatV2TonWindows, windows

    if config.compat == "catv2ton":
        return CatV2TonWindows()
    return lambda frames, last: windows(frames, config.window)


def _gather(
    sides: Sides, config: EvaluateConfig, moments: tuple[Moments, Moments], progress: Progress
) -> None:
    """Take in the windows of videos that are no pairs."""
    from noria.tryon.video.clips import read_clip

    task = progress.task("measure", sum(map(len, sides)))
    for paths, side in zip(sides, moments, strict=True):
        cut = _cut(config)
        for number, path in enumerate(paths, 1):
            side.add(cut(read_clip(path).frames, number == len(paths)))
            task.advance()
    task.done()


def _measure(
    sides: Sides,
    config: EvaluateConfig,
    moments: tuple[Moments, Moments],
    networks: tuple[Lpips | None, Embedding | None],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Figures of each pair, and the windows of both of its videos."""
    from noria.tryon.video.clips import read_clip

    rows, cuts = [], (_cut(config), _cut(config))
    task = progress.task("measure", len(sides[0]))
    for number, pair in enumerate(zip(*sides, strict=True), 1):
        made, real = (read_clip(path) for path in pair)
        rows.append(_pair(made, real, config, *networks))
        for clip, cut, side in zip((made, real), cuts, moments, strict=True):
            side.add(cut(clip.frames, number == len(sides[0])))
        task.advance()
    task.done()
    return rows


def _pair(
    made: Clip, real: Clip, config: EvaluateConfig, lpips: Lpips | None, embedding: Embedding | None
) -> dict[str, Any]:
    """Figures of a pair, as far as what they need is given; what is equal has no PSNR.

    Raises:
        DataError: the two differ in size or number of frames, or a file by their name is not theirs.
    """
    import torch

    from noria.tryon.evaluation.companions import read_companions
    from noria.tryon.evaluation.handling import handling
    from noria.tryon.evaluation.keeping import Likeness, compare, identity
    from noria.tryon.evaluation.pairs import check_alike

    check_alike(made, real)
    given, parts = read_companions(config, made, real), {"": Likeness()}
    row: dict[str, Any] = {"clip": real.path.name, "frames": len(real.frames)}
    row |= dict.fromkeys((*EACH, *HANDLED, *COUNTS)) | handling(made, given, config.reach)
    one, other = (torch.from_numpy(clip.frames).permute(0, 3, 1, 2) for clip in (made, real))
    if given.mask is not None:
        parts["background_"] = Likeness(~given.mask, pure=True)
    if given.face is not None:
        parts["face_"] = Likeness(given.face)
        row["frames_without_face"] = int((~given.face.flatten(1).any(1)).sum())
        if embedding is not None:
            row["identity"], _ = identity(one, other, given.face, embedding)
    row["lpips"] = compare(one, other, list(parts.values()), lpips)
    for part, likeness in parts.items():
        figures = {f"{part}ssim": likeness.ssim, f"{part}psnr": likeness.psnr}
        row |= {key: value for key, value in figures.items() if key in EACH and value != math.inf}
    return row


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else None


def _sum(rows: list[dict[str, Any]], name: str) -> int | None:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) if values else None


def _write_page(folder: Path, scores: Scores, rows: list[dict[str, Any]], config: EvaluateConfig) -> None:
    from noria.core.pages.charts import Figure
    from noria.core.pages.report import write_page

    whole = [[name, value] for name, value in scores.model_dump().items()]
    blocks = [Figure.table("All clips", ["figure", "value"], whole)]
    tables = [("Each clip", (*EACH, COUNTS[0])), ("Hands and garment of each clip", (*HANDLED, *COUNTS[1:]))]
    for title, figures in tables[: 2 if config.hands or config.actions else 1] if rows else []:
        names = ["clip", "frames", *figures]
        blocks.append(Figure.table(title, names, [[row[name] for name in names] for row in rows]))
    intro = "The Fréchet distance is of the features named here; figures of other features do not compare. "
    intro += f"Features: {'means of pixels' if config.features is None else config.features.name}."
    if config.compat == "catv2ton":
        intro += " Windows are those of CatV2TON's script, faults included."
    write_page(
        folder / "report.html", f"Evaluation of {config.generated.name}", [("Figures", blocks)], intro=intro
    )
