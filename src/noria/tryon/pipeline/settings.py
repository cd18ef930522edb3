"""Settings of sampling, which are options of `noria tryon generate` too."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from noria.core.config import Config

NEGATIVE = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall "
    "gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three "
    "legs, many people in the background, walking backwards"
)
"""The negative prompt that Wan2.1 is used with."""
GENERATED = "Generated with noria tryon: the garment in this video is synthetic."
"""Note that every result carries."""


class SamplingConfig(Config):
    """Settings of the generation of a clip."""

    section: ClassVar[str] = "Sampling"

    steps: int = Field(30, ge=1, le=1000, description="Number of denoising steps.")
    guidance: float = Field(
        5.0, ge=1, le=30, description="Guidance on the caption; 1 is none, for few-step LoRAs."
    )
    action_guidance: float | None = Field(
        None,
        ge=0,
        le=30,
        description="Guidance on the actions apart from the caption (default: one for both).",
    )
    guided_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the steps, from the first on, that are guided; the rest cost half.",
    )
    hand_scale: float = Field(1.0, ge=0, le=4, description="Strength of the hands; 0 leaves them out.")
    control_scale: float = Field(1.0, ge=0, le=4, description="Strength of mask, pose and garment.")
    negative: str = Field(NEGATIVE, max_length=4000, description="Text that guidance leads away from.")
    chunk_frames: int = Field(81, ge=5, le=401, description="Most frames that are generated at once, 4m + 1.")
    chunk_overlap: int = Field(
        9, ge=1, le=101, description="Frames that a chunk takes over from the one before."
    )
    most_pixels: int = Field(
        480 * 832,
        ge=256,
        le=2**22,
        description="Most pixels of a frame that the model sees; larger ones are scaled.",
    )
    feather: int = Field(4, ge=0, le=64, description="Pixels inside the mask over which the result fades in.")
    person_crop: bool = Field(
        True, description="Generate only the part of the frame around the mask, as the rest stays as it is."
    )
    crop_margin: float = Field(
        0.25,
        ge=0,
        le=2,
        description="Margin around the mask's box, as a share of it, of the part that is generated.",
    )

    @field_validator("chunk_frames", "chunk_overlap")
    @classmethod
    def _wan_frames(cls, value: int) -> int:
        if value % 4 != 1:
            raise ValueError(f"{value} is not 4m + 1, as 5, 9 or 81 are")
        return value

    @model_validator(mode="after")
    def _new_frames(self) -> SamplingConfig:
        if self.chunk_overlap >= self.chunk_frames:
            raise ValueError("chunk_overlap is not below chunk_frames, so that chunks add nothing")
        return self
