"""Options that choose and open a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from noria.core.config import Config, Option

if TYPE_CHECKING:
    from noria.core.progress import Progress


class ModelChoice(Config):
    """A model, and how it is held in memory."""

    section: ClassVar[str] = "Model"

    model: Annotated[str, Option(metavar="DIR")] = Field(
        "tiny",
        description="diffusers folder of Wan-VACE or iTryOn, or a run; tiny has random weights, to try the path.",
    )
    lora: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="LoRA weights to load on it (.safetensors)."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format of the weights.")
    offload: bool = Field(False, description="Hold on the GPU only the model that is running.")
    tiling: bool = Field(False, description="Encode and decode the video in tiles, which needs less memory.")


def silence_libraries() -> None:
    """Keep remarks of diffusers and transformers to themselves; call it before they are imported."""
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


def open_model(choice: ModelChoice, progress: Progress) -> Any:
    """Open the pipeline that the options name, with its LoRA.

    Raises:
        NoriaError: it cannot be loaded.
    """
    import torch

    from noria.tryon.pipeline.lora import load_lora
    from noria.tryon.training.loading import open_any

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if choice.precision == "bf16" else torch.float32
    pipeline = open_any(choice.model, dtype=dtype, device="cpu" if choice.offload else device)
    if choice.lora is not None:
        loaded = load_lora(pipeline, choice.lora)
        progress.say(
            f"LoRA: {len(loaded.used)} layers changed"
            + (
                f", {len(loaded.ignored)} keys ignored: {', '.join(loaded.ignored[:8])}"
                if loaded.ignored
                else ""
            )
        )
    if choice.tiling:
        pipeline.vae.enable_tiling()
    if choice.offload and device != "cpu":
        pipeline.enable_model_cpu_offload()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
