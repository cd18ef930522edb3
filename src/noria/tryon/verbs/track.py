"""`noria tryon track`: hands, body pose and masks of one person of a clip, by MediaPipe's networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from pydantic import Field, field_validator

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.core.runs.outputs import results_folder
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.tryon.estimators.following import BodyTrack
    from noria.tryon.video.clips import Clip


class TrackConfig(OutputOption, JsonOption, QuietOption):
    """Settings of `noria tryon track`."""

    video: Annotated[Path, Argument()] = Field(description="Video of the person, or one photo.")
    hands: bool = Field(True, description="Estimate the hands.")
    pose: bool = Field(True, description="Draw the pose.")
    mask: bool = Field(True, description="Make a mask of the person, and one of the garment to start from.")
    person: Annotated[str | None, Option(metavar="CHOICE")] = Field(
        None,
        description="Person of several: largest, a number from 1 at the left, or a point X,Y in pixels.",
    )
    garment: Literal["upper", "lower", "whole"] = Field(
        "upper", description="Part of the body that the garment covers."
    )
    field_of_view: float = Field(
        60.0, ge=10, le=150, description="Degrees that the camera sees along the frame's longer side."
    )

    @field_validator("person")
    @classmethod
    def _a_choice(cls, value: str | None) -> str | None:
        words = (value or "largest").split(",")
        try:
            good = value in (None, "largest") or len(words) == 2 or int(words[0]) >= 1
            numbers = [float(word) for word in words if word != "largest"]
        except ValueError:
            good, numbers = False, []
        if not good or len(words) > 2 or any(not abs(number) < 1e6 for number in numbers):
            raise ValueError(f"{value!r} is not largest, a number from 1, or a point such as 320,240")
        return value


@make_command(TrackConfig, extra="mediapipe", needs=("av", "ai_edge_litert"))
def command(config: TrackConfig) -> None:
    """Estimate hands, pose and masks of one person of a clip, frame by frame.

    MediaPipe's files come with `noria assets mediapipe`. Look at the page, correct mask.mp4, and give the files to
    `inspect` and `generate`. What was missed in a frame is counted and left empty.
    """
    folder, about = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps(about, indent=1))
        return
    frames = about["frames"]
    if about["person_missed"] is not None:
        click.echo(f"person  in {frames - about['person_missed']} of {frames} frames")
    if about["hands"] is not None:
        click.echo(
            f"hands   {about['hands']} in {about['frames_with_hands']} of {frames} frames"
            + (f", {about['other_hands']} of others left out" if about["other_hands"] else "")
        )
    click.echo(f"page    {folder / 'report.html'}")
    options = " ".join(f"--{name} {folder / file}" for name, file in about["files"].items())
    click.echo(f"next    noria tryon inspect {config.video} {options}")


def run(config: TrackConfig, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """Go through the clip and write what was asked for.

    Returns:
        The folder, and the figures: None where something was not estimated.

    Raises:
        NoriaError: nobody is in sight, the choice is ambiguous, or the networks are not here.
    """
    if not (config.hands or config.pose or config.mask):
        raise ConfigError("nothing to estimate", where="--no-hands --no-pose --no-mask", mend="leave one out")
    folder = results_folder("tryon", config.output, f"track-{config.video.resolve().stem}")

    from noria.core.files import write_atomic
    from noria.tryon.estimators.following import clip_camera, follow, follow_hands
    from noria.tryon.estimators.hands import HandEstimator
    from noria.tryon.estimators.persons import PersonEstimator
    from noria.tryon.hands.track import write_hands
    from noria.tryon.video.reading import read_source

    clip = read_source(config.video)
    hand_networks = HandEstimator() if config.hands else None
    body, files = None, {}
    about: dict[str, Any] = {"frames": len(clip.frames), "person_missed": None, "hands": None}
    with progress:
        if config.pose or config.mask or config.person is not None:
            task = progress.task("person", len(clip.frames))
            body = follow(clip, PersonEstimator(), config.person, task.advance)
            task.done(f"missed in {body.missed}")
            about |= {"person_missed": body.missed, "other_persons": body.others}
        if hand_networks is not None:
            task = progress.task("hands", len(clip.frames))
            camera = clip_camera(clip.size, config.field_of_view)
            hands, counts = follow_hands(clip, hand_networks, camera, body, task.advance)
            task.done(f"{counts.seen} hands")
            about |= {"hands": int(hands.valid.sum()), "frames_with_hands": int(hands.valid.any(1).sum())}
            about |= {"other_hands": counts.others, "impossible_hands": hands.dropped}
            write_atomic(folder / "hands.npz", write_hands(hands))
            files["hands"] = "hands.npz"
    files |= _write_body(folder, clip, body, config)
    about["files"] = files
    write_atomic(folder / "track.json", json.dumps(about, indent=1) + "\n")
    _write_page(folder, config, files, about)
    return folder, about


def _write_body(folder: Path, clip: Clip, body: BodyTrack | None, config: TrackConfig) -> dict[str, str]:
    """Write the drawn pose and the masks; gives the files by the option that takes each."""
    import numpy as np

    from noria.core.files import write_atomic
    from noria.tryon.estimators.drawing import garment_region, head_region, skeleton
    from noria.tryon.video.clips import encode_clip

    files: dict[str, str] = {}
    if body is None:
        return files
    seen = [crop is not None for crop in body.crops]
    seconds = clip.seconds.tolist()
    if config.pose:
        black = np.zeros((*clip.size, 3), np.uint8)
        drawn = [
            skeleton(joints, clip.size) if here else black
            for joints, here in zip(body.joints, seen, strict=True)
        ]
        write_atomic(folder / "pose.mp4", encode_clip(np.stack(drawn), seconds, crf=8))
        files["pose"] = "pose.mp4"
    if config.mask:
        region, face = body.masks.copy(), body.masks.copy()
        for frame in np.flatnonzero(seen):
            region[frame] = garment_region(body.joints[frame], body.masks[frame], config.garment)
            face[frame] &= head_region(body.joints[frame], clip.size)
        for name, mask in (("person", body.masks), ("face", face), ("mask", region)):
            grey = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=-1)
            write_atomic(folder / f"{name}.mp4", encode_clip(grey, seconds, crf=1))
        files["mask"] = "mask.mp4"
    return files


def _write_page(folder: Path, config: TrackConfig, files: dict[str, str], about: dict[str, Any]) -> None:
    """Show what was written, read back as `inspect` reads it."""
    from noria.core.pages.charts import Figure
    from noria.tryon.pipeline.inputs import ClipOptions, read_inputs
    from noria.tryon.verbs.page import write_clip_page

    given = {name: folder / file for name, file in files.items()}
    inputs = read_inputs(ClipOptions(video=config.video, mask_grow=0, **given))
    rows: list[list[str | float]] = [
        [name.replace("_", " "), "not estimated" if value is None else value]
        for name, value in about.items()
        if name != "files"
    ]
    write_clip_page(
        folder / "report.html",
        inputs,
        title=f"Person of {config.video.name}",
        intro="Estimates of networks, to be looked at and corrected. A frame without an estimate is left empty.",
        more=[("Estimates", [Figure.table("Frames and hands", ["figure", "value"], rows)])],
    )
