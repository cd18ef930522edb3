"""Settings of a policy's training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from noria.core.config import Config
from noria.mtp.types import MAX_GAMMA, LossName, Rule


class RLConfig(Config):
    """Settings of the training of a policy.

    `prompts` × `group` completions make a step. `clip_low` and `clip_high` bound the ratio of new to old probability.
    `entropy_bonus` adds that many times the policy's mean entropy to the objective; a negative one lowers it.
    """

    steps: int = Field(100, ge=0)
    prompts: int = Field(8, ge=1)
    group: int = Field(8, ge=2)
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0)
    gamma: int = Field(3, ge=0, le=MAX_GAMMA)
    rule: Rule = "rejection"
    staleness: int = Field(0, ge=0, le=16)
    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    entropy_bonus: float = 0.0
    micro_batch: int = Field(16, ge=1)
    head: Literal["frozen", "online"] = "frozen"
    head_loss: LossName = "e2e_tv"
    head_lr: float = Field(3.5e-5, gt=0)
    head_grad_clip: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(50, ge=1)
