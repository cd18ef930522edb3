"""`noria tryon inspect`: look at a clip and what belongs to it, before anything is generated."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.core.runs.outputs import results_folder
from noria.tryon.pipeline.inputs import ClipOptions, read_inputs
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption
from noria.verbs.tables import counted

if TYPE_CHECKING:
    from noria.tryon.video.masks import MaskFault

SHOWN = 10
"""Most runs of frames with a doubtful mask that are printed; the page lists all."""


class InspectConfig(ClipOptions, OutputOption, JsonOption):
    """Settings of `noria tryon inspect`."""

    person: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Mask of the person, as track writes it: says which hands lie off the person."
    )


@make_command(InspectConfig, extra="tryon", needs=("torch", "av"))
def command(config: InspectConfig) -> None:
    """Show a clip, its mask, hands and actions side by side, and list what is doubtful.

    The mask is written as it will be used, to be corrected and given again with --mask-grow 0 --mask-window 1.
    """
    folder, about = run(config)
    if config.as_json:
        click.echo(json.dumps(about, indent=1))
        return
    click.echo(
        f"clip    {about['frames']} frames of {about['width']}×{about['height']}, {about['seconds']:.2f} s"
    )
    for name in ("doubtful_masks", "missing_hands", "exchanged_hands", "misaligned_hands"):
        if about.get(name):
            click.echo(f"note    {counted({name.replace('_', ' '): about[name]})}")
    doubtful = about.get("doubtful_frames", [])
    for words in doubtful[:SHOWN] + (["more on the page"] if len(doubtful) > SHOWN else []):
        click.echo(f"mask    {words}")
    click.echo(f"page    {folder / 'report.html'}")


def _in_runs(faults: Sequence[MaskFault]) -> list[str]:
    """Faults of masks in words, those of successive frames together: `frames 20 to 22: empty`."""
    runs = []
    numbered = enumerate(sorted(faults, key=lambda fault: (fault.reason, fault.frame)))
    for (reason, _), group in itertools.groupby(numbered, lambda one: (one[1].reason, one[1].frame - one[0])):
        frames = [fault.frame for _, fault in group]
        named = f"frame {frames[0]}" if len(frames) == 1 else f"frames {frames[0]} to {frames[-1]}"
        runs.append((frames[0], f"{named}: {reason}"))
    return [words for _, words in sorted(runs)]


def run(config: InspectConfig) -> tuple[Path, dict[str, Any]]:
    """Write the page, and the prepared mask as a video.

    Returns:
        The folder, and the figures of the clip.

    Raises:
        NoriaError: anything that a user can mend.
    """
    import numpy as np

    from noria.core.files import write_atomic
    from noria.tryon.hands.repair import misaligned
    from noria.tryon.verbs.page import write_clip_page
    from noria.tryon.video.clips import encode_clip
    from noria.tryon.video.reading import read_mask

    if config.person is not None and config.hands is None:
        raise ConfigError("no hands to compare with the person", where="--person", mend="give --hands, too")
    folder = results_folder("tryon", config.output, f"inspect-{config.video.resolve().stem}")
    inputs = read_inputs(config)
    clip = inputs.clip
    about: dict[str, Any] = {
        "frames": len(clip.frames),
        "height": clip.size[0],
        "width": clip.size[1],
        "seconds": clip.duration,
        "fps": clip.fps,
        "actions": len(inputs.actions),
    }
    if inputs.mask is not None:
        about |= {
            "masked": float(inputs.mask.float().mean()),
            "doubtful_masks": len(inputs.faults),
            "doubtful_frames": _in_runs(inputs.faults),
        }
        grey = np.repeat(inputs.mask.numpy().astype(np.uint8)[..., None] * 255, 3, axis=-1)
        write_atomic(folder / "mask.mp4", encode_clip(grey, clip.seconds.tolist(), crf=1))
    if inputs.hands is not None:
        about |= {"missing_hands": inputs.hands.missing, "exchanged_hands": inputs.hands.swapped}
        if config.person is not None:
            person = read_mask(config.person, clip).numpy()
            about["misaligned_hands"] = len(misaligned(inputs.hands.track, person))
    write_clip_page(
        folder / "report.html",
        inputs,
        title=f"Clip {clip.path.name}",
        intro="What a generation would be given.",
    )
    write_atomic(folder / "inspect.json", json.dumps(about, indent=1) + "\n")
    return folder, about
