"""Settings of GRPO with credit of tokens."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from noria.core.config import Option
from noria.credit.config import CreditChoice

__all__ = ["TrainConfig"]


class TrainConfig(CreditChoice):
    """GRPO with credit of tokens, by `noria credit train`.

    A step takes `prompts` × `group` rollouts. As in the paper, the loss is averaged over all tokens (DAPO) and has no
    divergence term.
    """

    section: ClassVar[str] = "Training"

    model: Annotated[str | None, Option(metavar="MODEL")] = Field(
        None, description='Model folder, hub id, .gguf file, "small" or "small-start".'
    )
    data: Annotated[str | None, Option(metavar="SOURCE")] = Field(
        None, description="Questions: .jsonl or .parquet, chains, or gym:FAMILY."
    )
    name: str = Field("run", description="Name of the run; run stands for MODEL-CREDIT-SEED.")
    steps: int = Field(100, ge=0, description="Number of steps in all.")
    prompts: int = Field(8, ge=1, description="Number of questions in a step.")
    group: int = Field(8, ge=2, description="Number of rollouts of a question.")
    max_new_tokens: int = Field(256, ge=1, description="Most tokens of a rollout.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the rollouts.")
    lr: float = Field(1e-6, gt=0, description="Learning rate of AdamW.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Decay rates of the two moments of AdamW.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    clip_low: float = Field(0.2, gt=0, lt=1, description="Clipping range of the ratio below 1.")
    clip_high: float = Field(0.28, gt=0, description="Clipping range of the ratio above 1.")
    micro_batch: int = Field(16, ge=1, description="Number of rollouts in one pass of the model.")
    questions: int = Field(1024, ge=1, description="Most questions that are read or generated.")
    checkpoint_every: int = Field(10, ge=1, description="Steps from one checkpoint to the next.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format of the weights.")
