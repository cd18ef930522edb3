"""Settings of a planner's training: supervised fine-tuning, and GRPO with streams."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from noria.core.config import Config, Option
from noria.editing.types import RULES, Rule


class TunedWeights(Config):
    """Which weights of the planner are trained, and how fast."""

    section: ClassVar[str] = "Training"

    lr: float | None = Field(
        None, gt=0, le=1, description="Learning rate (default: 1e-6 in full, 1e-5 with LoRA)."
    )
    warmup: int = Field(0, ge=0, description="Steps over which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Weight decay of AdamW.")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of the gradients.")
    lora: int = Field(0, ge=0, le=1024, description="Rank of LoRA adapters; 0 trains all weights.")
    train_vision: bool = Field(False, description="Train the vision tower, too, which is frozen otherwise.")
    micro_batch: int = Field(16, ge=1, description="Rows of one pass through the model.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again instead of keeping them."
    )
    seed: int = Field(0, ge=0, description="Seed of the random generators.")
    save_every: int = Field(20, ge=1, description="Steps between checkpoints.")

    @property
    def rate(self) -> float:
        """Learning rate: the one that is set, else a default for LoRA or for all weights."""
        return self.lr if self.lr is not None else (1e-5 if self.lora else 1e-6)


class SftSettings(TunedWeights):
    """Settings of supervised fine-tuning."""

    steps: Annotated[int, Option("-s")] = Field(200, ge=1, description="Number of optimizer steps in all.")
    batch_size: int = Field(16, ge=1, description="Examples of a step.")
    decay: bool = Field(True, description="Let the learning rate fall to a tenth in a straight line.")


class GrpoSettings(TunedWeights):
    """Settings of GRPO (eq. 3 to 5); sizes and rates are not published [RECONSTRUCTED]."""

    steps: Annotated[int, Option("-s")] = Field(200, ge=1, description="Number of optimizer steps in all.")
    prompts: int = Field(8, ge=1, description="Prompts of a step.")
    rule: Rule = Field("split", description=f"Combination of the two rewards: {', '.join(RULES)}.")
    cognitive_group: int = Field(8, ge=0, description="Rollouts a prompt that the plan's reward judges.")
    visual_group: int = Field(8, ge=0, description="Rollouts a prompt that the picture's reward judges.")
    cognitive_weight: float = Field(1.0, ge=0, description="Weight of the plan's reward.")
    visual_weight: float = Field(1.0, ge=0, description="Weight of the picture's reward.")
    temperature: float = Field(1.0, gt=0, le=2, description="Temperature of the rollouts.")
    longest: int = Field(2048, ge=4, description="Most tokens of an output.")
    passes: int = Field(1, ge=1, le=8, description="Optimizer steps on the same rollouts.")
    clip_low: float = Field(0.2, gt=0, lt=1, description="Clip of the ratio below.")
    clip_high: float = Field(0.28, gt=0, description="Clip of the ratio above.")
    beta: float = Field(0.0, ge=0, description="Weight of the divergence from the start (k3).")
    aggregation: Literal["grpo", "dapo"] = Field(
        "dapo", description="Average over sequences, or over tokens."
    )

    @model_validator(mode="after")
    def _groups(self) -> GrpoSettings:
        if self.rule == "split" and max(self.cognitive_group, self.visual_group) < 2:
            raise ValueError("a group of one rollout has no advantages: give a group of 2 or more")
        if self.rule != "split" and self.cognitive_group + self.visual_group < 2:
            raise ValueError("a group of one rollout has no advantages: give a group of 2 or more")
        return self
