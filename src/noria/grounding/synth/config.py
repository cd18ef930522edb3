"""Settings of SynthOCEAN."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from noria.core.config import Config


class Knobs(Config):
    """Settings of the drawn world."""

    section: ClassVar[str] = "Knobs"

    confounder: float = Field(
        0.0, ge=0, le=1, description="Share of traits whose stripe on the shirt has the colour of the level."
    )
    visibility: float = Field(1.0, ge=0, le=1, description="Visibility of every behaviour.")
    leak: bool = Field(False, description="Name levels in questions, as some of the release do.")
    solvable: float = Field(0.0, ge=0, le=1, description="Share of questions whose right option has a tell.")
    label_noise: float = Field(0.0, ge=0, le=1, description="Share of levels that are one off.")
    width: int = Field(160, ge=2, multiple_of=2, description="Width of a frame, even.")
    height: int = Field(120, ge=2, multiple_of=2, description="Height of a frame, even.")
    fps: int = Field(10, ge=1, description="Frames a second.")
    two_clips: float = Field(0.2, ge=0, le=1, description="Share of sources that have two clips.")
