"""Everything a training of a head can be told. Defaults are those of Bebop, sec. 6.1, where the paper has them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from noria.core.config import Config
from noria.mtp.types import MAX_GAMMA, ChainAttention, LayoutName, LossName

__all__ = ["TrainConfig"]


class TrainConfig(Config):
    """How a head is trained.

    `train_gamma` steps are run forward and backward (the paper trains 5 and drafts 3). `temperature` is the one that
    the policy will be sampled at: it divides the logits of both sides. `step_weights` weigh a loss of single steps by
    their place in the chain (FastMTP's β^{k−1} with β = 0.6 is [1, 0.6, 0.36, …]); a loss over the chain takes none.
    """

    model: str | None = None
    data: str | None = None
    name: str = "head"
    layout: LayoutName | None = None
    layers: int = Field(1, ge=1, le=MAX_GAMMA)
    start: Literal["auto", "checkpoint", "fresh"] = "auto"
    loss: LossName = "e2e_tv"
    train_gamma: int = Field(5, ge=1, le=MAX_GAMMA)
    chain_attention: ChainAttention | None = None
    temperature: float = Field(1.0, gt=0)
    step_weights: tuple[float, ...] | None = None
    steps: int = Field(1000, ge=0)
    batch_size: int = Field(16, ge=1)
    length: int = Field(1024, ge=4)
    lr: float = Field(3.5e-5, gt=0)
    warmup: float = Field(0.03, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(100, ge=1)
    log_every: int = Field(1, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.layers > 1 and self.train_gamma > self.layers:
            raise ValueError(
                f"train_gamma {self.train_gamma} is more than a head of {self.layers} layers has"
            )
        if self.layers > 1 and self.chain_attention == "ttt":
            raise ValueError("chain_attention ttt is for a head of one layer")
        if self.step_weights is not None:
            if self.loss.startswith("e2e"):
                raise ValueError(f"step_weights do not go with {self.loss}, which weighs its steps itself")
            if (
                len(self.step_weights) != self.train_gamma
                or min(self.step_weights) < 0
                or not any(self.step_weights)
            ):
                raise ValueError(f"step_weights must be {self.train_gamma} numbers from 0, not all 0")
        return self
