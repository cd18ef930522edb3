"""`noria tryon inspect`: look at a clip and what belongs to it, before anything is generated."""

from __future__ import annotations

import json
from pathlib import Path

import click

from noria.core.runs.outputs import results_folder
from noria.tryon.verbs.inputs import ClipOptions, read_inputs
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption


class InspectConfig(ClipOptions, OutputOption, JsonOption):
    """Settings of `noria tryon inspect`."""


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
            click.echo(f"note    {about[name]} {name.replace('_', ' ')}")
    click.echo(f"page    {folder / 'report.html'}")


def run(config: InspectConfig) -> tuple[Path, dict[str, float]]:
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

    folder = results_folder("tryon", config.output, f"inspect-{config.video.resolve().stem}")
    inputs = read_inputs(config)
    clip = inputs.clip
    about: dict[str, float] = {
        "frames": len(clip.frames),
        "height": clip.size[0],
        "width": clip.size[1],
        "seconds": clip.duration,
        "fps": clip.fps,
        "actions": len(inputs.actions),
    }
    if inputs.mask is not None:
        about |= {"masked": float(inputs.mask.float().mean()), "doubtful_masks": len(inputs.faults)}
        grey = np.repeat(inputs.mask.numpy().astype(np.uint8)[..., None] * 255, 3, axis=-1)
        write_atomic(folder / "mask.mp4", encode_clip(grey, clip.seconds.tolist(), crf=1))
    if inputs.hands is not None:
        about |= {"missing_hands": inputs.hands.missing, "exchanged_hands": inputs.hands.swapped}
        if inputs.mask is not None:
            about["misaligned_hands"] = len(
                misaligned(inputs.hands.track, inputs.mask.numpy() | inputs.drawn)
            )
    write_clip_page(
        folder / "report.html",
        inputs,
        title=f"Clip {clip.path.name}",
        intro="What a generation would be given.",
    )
    write_atomic(folder / "inspect.json", json.dumps(about, indent=1) + "\n")
    return folder, about
