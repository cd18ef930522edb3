"""Settings of a training, and the presets: the paper's two stages, LoRA, and the guider alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.tryon.pipeline.inputs import MaskOptions

PRESETS: dict[str, dict[str, Any]] = {
    "stage1": {"use_actions": False, "use_hands": False, "ac_weight": 0.0, "steps": 10_000},
    "stage2": {"steps": 10_000},
    "lora": {"train": "lora", "lr": 1e-4, "steps": 3_000},
    "guider": {"train": "guider", "lr": 1e-4, "steps": 3_000},
}
"""Values of each preset. Steps, stages and the weight of the constraint are the paper's; rates are reconstructed."""


class ClipFormat(MaskOptions):
    """Settings that clips are read with for a training; caches depend on them."""

    section: ClassVar[str] = "Data"

    frames: int = Field(
        81, ge=1, le=401, description="Frames of a training clip, 4m + 1; longer clips are cut."
    )
    fps: float | None = Field(
        16.0, gt=0, le=240, description="Frames a second that clips are read at (null: as they are)."
    )
    most_pixels: int = Field(576 * 768, ge=256, description="Most pixels of a frame; larger ones are scaled.")

    @field_validator("frames")
    @classmethod
    def _wan_frames(cls, value: int) -> int:
        if value % 4 != 1:
            raise ValueError(f"{value} is not 4m + 1, as 33 or 81 are")
        return value


class TrainConfig(ClipFormat):
    """One training. Values of the preset lie under those that are given."""

    section: ClassVar[str] = "Training"

    name: str = Field("tryon", description="Name of the run (default: the preset's).")
    preset: Annotated[str, Option(metavar="NAME")] = Field(
        "stage2", description=f"Recipe to start from: {', '.join(PRESETS)}."
    )
    model: Annotated[str, Option(metavar="DIR")] = Field(
        "tiny", description="diffusers folder of Wan-VACE or iTryOn, or the run of an earlier stage."
    )
    data: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="Manifest of clips: .jsonl of ours or of MagicTryOn, .csv of DiffSynth."
    )
    cache: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of encoded clips and captions (default: cache beside the manifest)."
    )
    train: Literal["full", "lora", "guider"] = Field(
        "full",
        description="Weights that learn; lora and guider also train the hands' branch and the actions' gates.",
    )
    expert: Literal["high", "low"] | None = Field(
        None, description="Expert that learns, by its noise levels, of a model that has two, such as Wan2.2."
    )
    steps: int = Field(10_000, ge=1, description="Number of steps.")
    batch_size: int = Field(1, ge=1, description="Number of clips of a step, over all processes.")
    lr: float = Field(1e-5, gt=0, description="Learning rate after the warm-up.")
    warmup: int = Field(100, ge=0, description="Steps over which the learning rate rises.")
    weight_decay: float = Field(1e-3, ge=0, description="Weight decay of AdamW.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    rank: int = Field(32, ge=1, description="Rank of LoRA.")
    ac_weight: float = Field(0.5, ge=0, description="Weight of the action-aware constraint.")
    ac_normalize: Literal["all", "masked"] = Field(
        "all", description="Divisor of the constraint: all elements (the paper), or those with an action."
    )
    use_actions: bool = Field(True, description="Read the captions of actions.")
    use_hands: bool = Field(True, description="Read the hands.")
    text_drop: float = Field(0.1, ge=0, le=1, description="Share of clips that are trained without captions.")
    hand_drop: float = Field(0.1, ge=0, le=1, description="Share of clips that are trained without hands.")
    sigmas: Literal["logit_normal", "uniform"] = Field("logit_normal", description="Law of the noise levels.")
    shift: float = Field(1.0, gt=0, description="Shift of the noise levels.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format of the weights.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations twice, to hold fewer of them."
    )
    save_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    log_every: int = Field(10, ge=1, description="Steps between lines of the log.")
    strip_every: int = Field(
        500, ge=1, description="Steps between pictures of what the model makes of one clip."
    )
    seed: int = Field(0, ge=0, description="Seed of the random generators.")

    @model_validator(mode="before")
    @classmethod
    def _over_the_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = str(values.get("preset", "stage2"))
        if name not in PRESETS:
            raise ConfigError(
                f"unknown preset {name!r}", where="preset", mend=f"one of: {', '.join(PRESETS)}"
            )
        return PRESETS[name] | values
