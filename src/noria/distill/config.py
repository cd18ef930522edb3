"""Everything a distillation run can be told, and the named presets.

The switches are orthogonal: a preset is nothing but a set of values, so any published recipe and any ablation is the
same trainer. Defaults are those of the released CDM recipes (arXiv 2605.06376).
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from noria.core.config import Config
from noria.core.errors import ConfigError

__all__ = [
    "PRESETS",
    "PRESET_NOTES",
    "CriticConfig",
    "DistillConfig",
    "LoraConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "preset",
]

TauSampler = Literal["uniform", "capped", "above", "logit_normal"]


class ScheduleConfig(Config):
    """Which noise levels the student is simulated through (CDM §3.2).

    `dynamic` draws a length N ~ U{1..max_steps} and N − 1 inner levels ~ U(low, high) for each batch;
    `dynamic_per_sample` for each sample; `fixed` always uses `steps`. `space` says whether the drawn levels are shifted
    by the scheduler afterwards (`pre_shift`, the release) or are true σ already (`post_shift`).
    """

    kind: Literal["fixed", "dynamic", "dynamic_per_sample"] = "dynamic"
    space: Literal["pre_shift", "post_shift"] = "pre_shift"
    steps: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    max_steps: int = Field(28, ge=1, le=1000)
    low: float = Field(0.25, gt=0, le=1)
    high: float = Field(0.95, gt=0, le=1)
    stochastic: bool = False

    @field_validator("steps")
    @classmethod
    def _falls_inside(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if not steps or any(not 0 < s <= 1 for s in steps):
            raise ValueError(f"σ steps {list(steps)} must be one or more values in (0, 1]")
        if steps[0] != 1:
            raise ValueError(f"σ steps {list(steps)} must start at 1, pure noise")
        if any(b >= a for a, b in itertools.pairwise(steps)):
            raise ValueError(f"σ steps {list(steps)} must fall strictly")
        return steps

    @model_validator(mode="after")
    def _ordered(self) -> ScheduleConfig:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class ObjectiveConfig(Config):
    """The student's terms, their weights and the axes of the paper's ablations (CDM §3.3, Eq. 3-8).

    Attributes:
        ca_scale: α. In the `difference` convention it multiplies R_c − R_∅; in `guidance` it is a CFG scale, and α − 1
            does.
        dm_guidance: CFG scale of the real read in DM. 1 (CDM) leaves guidance to CA; DMD2 guides the read itself.
        ca_tau: where the teacher reads for CA: below the anchor's σ (`capped`, the release), above it (the argument of
            Decoupled-DMD), or anywhere.
        off_point: where CDM puts its point: along the student's velocity, by Gaussian re-noise of a clean estimate,
            or at the anchor itself (`trajectory`).
        base: the clean image CDM's teacher reads are made from: the student's own x̂′ (local), the anchor's x̂₀, or the
            end of the whole rollout.
        read: how CDM re-noises that image: `independent` τ and noise, `shared_sigma` (τ = σ′, fresh noise), or at the
            off-trajectory point itself (`share_student`).
        min_norm: lower clamp of the gradient normaliser.
        consistency_weight: discrete consistency distillation instead of, or beside, distribution matching.
    """

    ca_weight: float = Field(1.0, ge=0)
    dm_weight: float = Field(1.0, ge=0)
    cdm_weight: float = Field(1.0, ge=0)
    consistency_weight: float = Field(0.0, ge=0)
    ca_scale: float = Field(7.0, ge=0)
    ca_convention: Literal["difference", "guidance"] = "difference"
    dm_guidance: float = Field(1.0, ge=0)
    ca_tau: TauSampler = "capped"
    dm_tau: TauSampler = "uniform"
    cdm_tau: TauSampler = "uniform"
    logit_mean: float = 0.0
    logit_std: float = Field(1.0, gt=0)
    off_point: Literal["velocity", "renoise", "trajectory"] = "velocity"
    renoise_from: Literal["anchor_x0", "final_x0"] = "anchor_x0"
    base: Literal["student", "anchor_x0", "final_x0"] = "student"
    read: Literal["independent", "shared_sigma", "share_student"] = "independent"
    min_norm: float = Field(0.1, ge=0)
    consistency_steps: int = Field(28, ge=2)
    consistency_guidance: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _coherent(self) -> ObjectiveConfig:
        if self.read == "share_student" and self.base != "student":
            raise ValueError("read=share_student needs base=student: the shared point is the student's own")
        if not (self.ca_weight or self.dm_weight or self.cdm_weight or self.consistency_weight):
            raise ValueError("every weight is 0; give ca, dm, cdm or consistency a weight above 0")
        return self

    @property
    def needs_critic(self) -> bool:
        """Whether any term reads the fake teacher."""
        return bool(self.dm_weight or self.cdm_weight)


class OptimizerConfig(Config):
    """AdamW with linear warm-up, then constant, and gradient clipping."""

    lr: float = Field(1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0)
    eps: float = Field(1e-8, gt=0)
    warmup: int = Field(100, ge=0)
    clip: float = Field(1.0, gt=0)


class CriticConfig(OptimizerConfig):
    """The fake teacher: its optimiser, what it is trained on, and the merge φ ← (1 − merge) φ + merge θ.

    `source`: the student's x̂₀ at the shared anchor (`anchor_x0`, the release), at the end of its rollout
    (`final_x0`), half of the batch each (`mix`), or at the anchor with the anchor's σ told to the critic
    (`anchor_conditioned`).
    """

    lr: float = Field(5e-6, gt=0)
    source: Literal["anchor_x0", "final_x0", "mix", "anchor_conditioned"] = "anchor_x0"
    merge: float = Field(0.001, ge=0, le=1)


class LoraConfig(Config):
    """LoRA student and LoRA critic over one frozen base."""

    rank: int = Field(64, ge=1)
    alpha: float = Field(128.0, gt=0)


class DistillConfig(Config):
    """One distillation run.

    Attributes:
        iterations: critic updates; the student moves every `update_ratio`-th.
        batch_size: samples an iteration over all processes together.
        execution: `fast` (ragged rollout, shared student forward, batched teacher reads) or `reference` (the
            straightforward order). Both use the same random numbers and give the same losses to round-off.
        guidance: always 1; a few-step student has its guidance distilled in.
    """

    name: str = "distill"
    preset: str = "cdm"
    model: str | None = None
    prompts: str | None = None
    height: int | None = Field(None, ge=8)
    width: int | None = Field(None, ge=8)
    seed: int = Field(0, ge=0, lt=2**31)
    iterations: int = Field(4000, ge=1)
    batch_size: int = Field(16, ge=1)
    update_ratio: int = Field(2, ge=1)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    guidance: float = 1.0
    train: Literal["full", "lora"] = "full"
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    execution: Literal["fast", "reference"] = "fast"
    checkpoint_every: int = Field(200, ge=1)
    log_every: int = Field(10, ge=1)
    ladder_every: int = Field(0, ge=0)
    max_std_ratio: float = Field(20.0, gt=1)
    schedule: ScheduleConfig = ScheduleConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    student: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig = CriticConfig()
    lora: LoraConfig = LoraConfig()

    @field_validator("guidance")
    @classmethod
    def _unguided(cls, guidance: float) -> float:
        if guidance != 1:
            raise ValueError(
                f"guidance {guidance} on the student: a few-step student samples without guidance, keep it at 1 "
                "(objective.ca_scale sets how much guidance is distilled in)"
            )
        return guidance


_FIXED: dict[str, Any] = {"schedule": {"kind": "fixed"}}

PRESETS: dict[str, dict[str, Any]] = {
    "cdm": {},
    "cdm-sd3": {"iterations": 4001, "batch_size": 128, "height": 1024, "width": 1024, "precision": "bf16"},
    "cdm-longcat": {"iterations": 2001, "batch_size": 64, "height": 1024, "width": 1024, "precision": "bf16"},
    "cdm-small": {
        "iterations": 1200,
        "batch_size": 32,
        "ema_decay": 0.99,
        "schedule": {"max_steps": 8, "low": 0.02, "high": 0.98},
        "objective": {"ca_scale": 0.5, "ca_tau": "above"},
        "student": {"lr": 1e-4, "warmup": 20},
        "critic": {"lr": 2e-4, "warmup": 20, "source": "anchor_conditioned"},
    },
    "dmd2": {
        **_FIXED,
        "update_ratio": 5,
        "objective": {"ca_weight": 0.0, "cdm_weight": 0.0, "dm_guidance": 8.0, "min_norm": 0.0},
        "critic": {"source": "final_x0", "merge": 0.0},
    },
    "decoupled-dmd": {**_FIXED, "objective": {"cdm_weight": 0.0, "ca_tau": "above"}},
    "tdm-like": {
        **_FIXED,
        "objective": {"ca_weight": 0.0, "cdm_weight": 0.0, "dm_guidance": 8.0},
        "critic": {"source": "anchor_conditioned", "merge": 0.0},
    },
    "consistency": {
        "schedule": {"kind": "fixed"},
        "objective": {"ca_weight": 0.0, "dm_weight": 0.0, "cdm_weight": 0.0, "consistency_weight": 1.0},
    },
    "cdm-no-schedule": {**_FIXED},
    "cdm-no-cdm": {"objective": {"cdm_weight": 0.0}},
    "cdm-no-ca": {"objective": {"ca_weight": 0.0}},
    "cdm-no-merge": {"critic": {"merge": 0.0}},
    "cdm-renoise": {"objective": {"off_point": "renoise"}},
    "cdm-global-x0": {"objective": {"base": "final_x0"}},
    "cdm-on-trajectory": {"objective": {"off_point": "trajectory"}},
}

PRESET_NOTES: dict[str, str] = {
    "cdm": "the method: dynamic schedule, CA + DM + CDM (the default)",
    "cdm-sd3": "cdm at the published batch size and resolution for Stable Diffusion 3 Medium",
    "cdm-longcat": "the same for LongCat-Image",
    "cdm-small": "cdm for the small teachers of `noria distill teacher`; a minute on a CPU",
    "dmd2": "fixed grid, guided DM only, critic on the end of the rollout",
    "decoupled-dmd": "fixed grid, DM and CA with τ above the anchor",
    "tdm-like": "fixed grid, guided DM, critic told which anchor its sample came from (small models only)",
    "consistency": "discrete consistency distillation on the student's own samples",
    "cdm-no-schedule": "cdm on a fixed grid",
    "cdm-no-cdm": "cdm without the term beside the trajectory",
    "cdm-no-ca": "cdm without guidance distilled in",
    "cdm-no-merge": "cdm without the critic's drift towards the student",
    "cdm-renoise": "cdm with the point beside the trajectory made by Gaussian noise, not by velocity",
    "cdm-global-x0": "cdm reading teachers at the end of the whole rollout",
    "cdm-on-trajectory": "cdm with its point on the trajectory",
}
"""What each preset is, in a line."""


def preset(name: str) -> dict[str, Any]:
    """A copy of the values of preset `name`.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        import difflib

        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown preset {name!r}", where="preset", mend=f"{hint}one of: {', '.join(PRESETS)}"
        )
    return copy.deepcopy(PRESETS[name])
