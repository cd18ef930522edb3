"""Options of the verbs that read a clip with its mask, hands, pose and actions, and what they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from noria.core.config import Argument, Config, Option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from noria.tryon.actions.reading import Action
    from noria.tryon.hands.repair import RepairResult
    from noria.tryon.video.clips import Clip
    from noria.tryon.video.masks import MaskFault


class MaskOptions(Config):
    """Settings of the preparation of a mask, in training as in use."""

    section: ClassVar[str] = "Mask"

    mask_shape: Literal["outline", "box"] = Field(
        "outline", description="Shape of the mask; a box says nothing of the old garment."
    )
    mask_grow: int = Field(
        4, ge=-64, le=256, description="Pixels by which the mask grows; below 0 it shrinks."
    )
    mask_window: int = Field(
        5, ge=1, le=99, description="Frames over which the mask is smoothed, an odd number."
    )
    mask_steady: bool = Field(
        True, description="Keep the mask of an action's frames the same, so that it does not show the action."
    )
    keep_hands: bool = Field(True, description="Leave the hands of the source out of the mask.")


class MaskedClipOptions(MaskOptions):
    """A clip, its mask and its hands."""

    section: ClassVar[str] = "Clip"

    video: Annotated[Path, Argument()] = Field(description="Video of the person, or one photo.")
    mask: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Mask of the garment: a video, one picture for all frames, or .npz with `mask`."
    )
    hands: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Hands as .npz: `joints` [frames, 2, 21, 3] in metres, `valid`, `K`."
    )
    longest_gap: int = Field(5, ge=0, le=100, description="Most frames without a hand that are interpolated.")


class ClipOptions(MaskedClipOptions):
    """A clip and all that belongs to it."""

    pose: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Drawn pose, a video of the same size, to paint inside the mask."
    )
    actions: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Timed actions: .json, .srt or .vtt."
    )


@dataclass(frozen=True)
class ClipInputs:
    """What the options named, read and prepared.

    Attributes:
        clip: the clip.
        mask: prepared mask `[frames, height, width]`, or None.
        faults: frames in which the given mask is not to be trusted.
        hands: repaired hands, or None.
        drawn: where the hands are `[frames, height, width]`, or None.
        pose: drawn pose, or None.
        actions: timed actions.
    """

    clip: Clip
    mask: Tensor | None
    faults: list[MaskFault]
    hands: RepairResult | None
    drawn: NDArray[np.bool_] | None
    pose: NDArray[np.uint8] | None
    actions: list[Action]


def read_inputs(options: ClipOptions) -> ClipInputs:
    """Read and prepare all that the options name.

    Raises:
        NoriaError: a file cannot be used, or does not belong to the clip.
    """
    from noria.tryon.actions.reading import read_actions
    from noria.tryon.hands.rendering import render
    from noria.tryon.hands.repair import repair
    from noria.tryon.hands.track import read_hands
    from noria.tryon.video.masks import mask_faults
    from noria.tryon.video.reading import read_mask, read_pose, read_source

    clip = read_source(options.video)
    actions = read_actions(options.actions) if options.actions else []
    hands = drawn = None
    if options.hands:
        track = read_hands(options.hands, len(clip.frames), clip.size)
        hands = repair(track, clip.seconds, longest_gap=options.longest_gap)
        drawn = render(hands.track, clip.size)[1]
    mask, faults = None, []
    if options.mask:
        given = read_mask(options.mask, clip)
        faults = mask_faults(given)
        mask = prepared_mask(given, options, clip, drawn, actions)
    pose = read_pose(options.pose, clip) if options.pose else None
    return ClipInputs(clip, mask, faults, hands, drawn, pose, actions)


def prepared_mask(
    mask: Tensor, options: MaskOptions, clip: Clip, drawn: NDArray[np.bool_] | None, actions: Sequence[Action]
) -> Tensor:
    """Shape, smooth, widen and steady a mask; then take the hands out of it."""
    import torch

    from noria.tryon.pipeline.book import make_book
    from noria.tryon.pipeline.long import padded_times
    from noria.tryon.video.framing import whole_frames
    from noria.tryon.video.masks import grown, loosened, smoothed, steady, without

    mask = grown(loosened(smoothed(mask, options.mask_window | 1), options.mask_shape), options.mask_grow)
    if options.mask_steady and actions:
        book = make_book(actions, padded_times(clip, whole_frames(len(clip.frames))), clip.duration)
        mask = steady(mask, book.frame_spans(clip.seconds.tolist()))
    if options.keep_hands and drawn is not None:
        mask = without(mask, torch.from_numpy(drawn))
    return mask
