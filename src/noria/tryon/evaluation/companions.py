"""Files that belong to the videos of an evaluation, one for each by its name: options, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from noria.core.config import Config, Option
from noria.core.errors import ConfigError
from noria.tryon.evaluation.pairs import companion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from noria.tryon.actions.reading import Action
    from noria.tryon.hands.track import HandTrack
    from noria.tryon.video.clips import Clip

MASKS = (".mp4", ".npz", ".png")
"""Endings of the masks of a video."""
ACTIONS = (".json", ".srt", ".vtt")
"""Endings of the actions of a video."""
HANDS = (".npz",)
"""Endings of the hands of a video."""


class CompanionOptions(Config):
    """Folders with a file for each video."""

    section: ClassVar[str] = "Files by name"

    masks: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Masks that were generated in, by name: what lies outside must be kept."
    )
    faces: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Masks of the face in the references, by name, such as face.mp4 of track."
    )
    hands: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Hands in the generated videos, by name: .npz, as track writes it."
    )
    garments: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Masks of the garment that is visible in the generated videos, by name."
    )
    actions: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Timed actions that each video should show, by name: .json, .srt or .vtt."
    )
    shown_actions: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Timed actions that the generated videos show, by name, in the same captions."
    )
    contacts: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None,
        description="Spans in which a hand touches the garment, by name: actions, as annotate writes them.",
    )

    def given(self) -> list[str]:
        """Names of the options that name a folder."""
        return [f"--{name.replace('_', '-')}" for name in FOLDERS if getattr(self, name) is not None]

    def check_companions(self) -> None:
        """Refuse a folder of which no figure can be made.

        Raises:
            ConfigError: another folder is missing that all its figures need.
        """
        handled = self.hands is not None and self.garments is not None
        acted = self.actions is not None and (self.garments is not None or self.shown_actions is not None)
        needs = (
            ("contacts", handled, "--hands and --garments"),
            ("hands", handled, "--garments"),
            ("shown_actions", acted, "--actions"),
            ("actions", acted, "--garments or --shown-actions"),
            ("garments", handled or acted, "--hands or --actions"),
        )
        for name, used, other in needs:
            if getattr(self, name) is not None and not used:
                raise ConfigError(
                    "nothing is measured of it alone",
                    where=f"--{name.replace('_', '-')}",
                    mend=f"give {other}, too",
                )


FOLDERS = tuple(CompanionOptions.model_fields)


@dataclass(frozen=True)
class Companions:
    """What belongs to a pair of videos; None where no folder of it was named.

    Attributes:
        mask: where it was generated `[frames, height, width]`.
        face: the face in the reference, same shape.
        hands: hands in the generated video, repaired.
        garment: the garment that is visible in the generated video, same shape as the mask.
        actions: actions that the video should show.
        shown: actions that the generated video shows.
        contacts: spans in which a hand touches the garment.
    """

    mask: Tensor | None = None
    face: Tensor | None = None
    hands: HandTrack | None = None
    garment: NDArray[np.bool_] | None = None
    actions: list[Action] | None = None
    shown: list[Action] | None = None
    contacts: list[Action] | None = None


def read_companions(options: CompanionOptions, made: Clip, real: Clip) -> Companions:
    """Read what belongs to a generated video and its reference.

    Raises:
        DataError: a folder has not one file of that name, or the file is of another clip.
    """
    from noria.tryon.actions.reading import read_actions
    from noria.tryon.hands.repair import repair
    from noria.tryon.hands.track import read_hands
    from noria.tryon.video.reading import read_mask

    def mask(folder: Path | None, clip: Clip) -> Tensor | None:
        return None if folder is None else read_mask(companion(folder, name, MASKS), clip)

    def actions(folder: Path | None) -> list[Action] | None:
        return None if folder is None else read_actions(companion(folder, name, ACTIONS))

    name = real.path.name
    hands, garment = None, mask(options.garments, made)
    if options.hands is not None:
        track = read_hands(companion(options.hands, name, HANDS), len(made.frames), made.size)
        hands = repair(track, made.seconds).track
    return Companions(
        mask=mask(options.masks, real),
        face=mask(options.faces, real),
        hands=hands,
        garment=None if garment is None else garment.numpy(),
        actions=actions(options.actions),
        shown=actions(options.shown_actions),
        contacts=actions(options.contacts),
    )
