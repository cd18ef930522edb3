"""Settings of a distillation run, and the named presets.

The switches are orthogonal: a preset is a set of values, so any published recipe and any ablation is the same trainer.
Defaults are those of the released CDM recipes (arXiv 2605.06376).
"""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from noria.core.config import Config, Option
from noria.core.errors import ConfigError
from noria.core.models.config import DownloadOption
from noria.distill.types import TauSampler

ScheduleKind = Literal["fixed", "dynamic", "dynamic_per_sample"]


class ModelFormat(Config):
    """Size of a model's images, and number format of its weights."""

    section: ClassVar[str] = "Model"

    height: int | None = Field(
        None, ge=8, description="Height of the images in pixels (default: the model's)."
    )
    width: int | None = Field(None, ge=8, description="Width of the images in pixels (default: the model's).")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format of the frozen weights.")
    variant: Annotated[str | None, Option(metavar="NAME")] = Field(
        None,
        pattern=r"^[A-Za-z0-9_]+$",
        description="Variant of a diffusers model's weight files, such as fp16 (default: the plain ones).",
    )


class LoadConfig(ModelFormat, DownloadOption):
    """Settings of loading a model."""


class ScheduleConfig(Config):
    """Noise levels that the student is simulated through (CDM §3.2).

    `dynamic` draws a length N ~ U{1..max_steps} and N − 1 inner levels ~ U(low, high) for each batch;
    `dynamic_per_sample` for each sample; `fixed` always uses `steps`.
    """

    kind: ScheduleKind = Field("dynamic", description="Levels: fixed, or drawn for each batch or sample.")
    space: Literal["pre_shift", "post_shift"] = Field(
        "pre_shift", description="Space of the drawn levels: before the shift (the release), or true σ."
    )
    steps: tuple[float, ...] = Field(
        (1.0, 0.75, 0.5, 0.25), description="Pre-shift σ of the student's own grid, falling from 1."
    )
    max_steps: int = Field(28, ge=1, le=1000, description="Largest number of steps that is drawn.")
    low: float = Field(0.25, gt=0, le=1, description="Lowest inner level that is drawn.")
    high: float = Field(0.95, gt=0, le=1, description="Highest inner level that is drawn.")
    stochastic: bool = Field(False, description="Step by re-noising, not along the ODE.")

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
    """The student's losses, their weights and the axes of the paper's ablations (CDM §3.3, Eq. 3 to 8)."""

    ca_weight: float = Field(1.0, ge=0, description="Weight of CA, the loss that distils guidance.")
    dm_weight: float = Field(1.0, ge=0, description="Weight of DM, distribution matching at the anchor.")
    cdm_weight: float = Field(1.0, ge=0, description="Weight of CDM, matching beside the trajectory.")
    consistency_weight: float = Field(0.0, ge=0, description="Weight of discrete consistency distillation.")
    ca_scale: float = Field(7.0, ge=0, description="Strength α of the guidance that is distilled in.")
    ca_convention: Literal["difference", "guidance"] = Field(
        "difference", description="Factor of R_c − R_∅: α, or α − 1 of a CFG scale α."
    )
    dm_guidance: float = Field(
        1.0, ge=0, description="CFG scale of the teacher in DM; 1 leaves guidance to CA."
    )
    ca_tau: TauSampler = Field(
        "capped", description="Level of CA's reads; capped (the release) is below the anchor."
    )
    dm_tau: TauSampler = Field("uniform", description="Level of DM's reads.")
    cdm_tau: TauSampler = Field("uniform", description="Level of CDM's reads.")
    tau_space: Literal["pre_shift", "post_shift"] = Field(
        "post_shift",
        description="Space that levels of reads and of the critic are drawn in: pre-shift, or true σ.",
    )
    logit_mean: float = Field(0.0, description="Mean of the logit of a logit-normal read level.")
    logit_std: float = Field(
        1.0, gt=0, description="Standard deviation of the logit of a logit-normal read level."
    )
    off_point: Literal["velocity", "renoise", "trajectory"] = Field(
        "velocity", description="Point of CDM: along the student's velocity, by re-noise, or the anchor."
    )
    renoise_from: Literal["anchor_x0", "final_x0"] = Field(
        "anchor_x0", description="Clean estimate that re-noise makes CDM's point of."
    )
    base: Literal["student", "anchor_x0", "final_x0"] = Field(
        "student",
        description="Clean image that CDM reads: of its point, of the anchor, or of the rollout's end.",
    )
    read: Literal["independent", "shared_sigma", "share_student"] = Field(
        "independent", description="Noise of CDM's reads: own τ, the point's σ, or the point itself."
    )
    min_norm: float = Field(0.1, ge=0, description="Lower clamp of a push's normaliser; 0 is DMD2's.")
    consistency_steps: int = Field(28, ge=2, description="Number of teacher's steps, whose ends agree.")
    consistency_guidance: float = Field(1.0, ge=0, description="CFG scale of the teacher in consistency.")

    @model_validator(mode="after")
    def _coherent(self) -> ObjectiveConfig:
        if self.read == "share_student" and self.base != "student":
            raise ValueError("read=share_student needs base=student: the shared point is the student's own")
        if not (self.ca_weight or self.dm_weight or self.cdm_weight or self.consistency_weight):
            raise ValueError("every weight is 0; give ca, dm, cdm or consistency a weight above 0")
        return self

    @property
    def needs_critic(self) -> bool:
        """Whether any loss reads the fake teacher."""
        return bool(self.dm_weight or self.cdm_weight)


class OptimizerConfig(Config):
    """AdamW with linear warm-up, then constant, and gradient clipping."""

    lr: float = Field(1e-5, gt=0, description="Learning rate after the warm-up.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay rates of AdamW's two moments.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of AdamW.")
    eps: float = Field(1e-8, gt=0, description="Smallest denominator of AdamW.")
    warmup: int = Field(100, ge=0, description="Steps of the linear warm-up.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")


class CriticConfig(OptimizerConfig):
    """The fake teacher: its optimiser, what it is trained on, and the merge φ ← (1 − merge) φ + merge θ.

    `source`: the student's x̂₀ at the shared anchor (`anchor_x0`, the release), at the end of its rollout
    (`final_x0`), half of the batch each (`mix`), or at the anchor with the anchor's σ told to the critic
    (`anchor_conditioned`).
    """

    lr: float = Field(5e-6, gt=0, description="Learning rate after the warm-up.")
    source: Literal["anchor_x0", "final_x0", "mix", "anchor_conditioned"] = Field(
        "anchor_x0", description="Samples of the student that the critic learns from."
    )
    merge: float = Field(0.001, ge=0, le=1, description="Share of the student's weights merged in each step.")


class LoraConfig(Config):
    """LoRA student and LoRA critic over one frozen base."""

    rank: int = Field(64, ge=1, description="Rank of the matrices.")
    alpha: float = Field(128.0, gt=0, description="Scale α of the matrices; α / rank multiplies them.")


class DistillConfig(ModelFormat):
    """One distillation run. Values of the preset lie under those that are given, field by field."""

    section: ClassVar[str] = "Training"

    name: str = Field("distill", description="Name of the run (default: the model's and the preset's).")
    preset: Annotated[str, Option(metavar="NAME")] = Field(
        "cdm", description="Recipe to start from; `noria distill presets` lists them."
    )
    model: Annotated[str | None, Option(metavar="MODEL")] = Field(
        None, description="Diffusers folder, hub id, or a small teacher's .safetensors file."
    )
    prompts: Annotated[str | None, Option(metavar="FILE")] = Field(
        None, description="Prompts: .txt (one a line), .jsonl or .parquet."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the random generators.")
    iterations: int = Field(4000, ge=1, description="Number of critic updates in all.")
    batch_size: int = Field(16, ge=1, description="Samples of an iteration, over all processes together.")
    update_ratio: int = Field(2, ge=1, description="Critic updates for each update of the student.")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="Decay of the moving average of the student.")
    guidance: float = Field(1.0, description="Guidance of the student: always 1, it is distilled in.")
    train: Literal["full", "lora"] = Field(
        "full", description="Weights that are trained: all, or LoRA matrices."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations to save memory.")
    execution: Literal["fast", "reference"] = Field(
        "fast", description="Order of the network calls; both give the same losses to round-off."
    )
    checkpoint_every: int = Field(200, ge=1, description="Iterations from one checkpoint to the next.")
    log_every: int = Field(10, ge=1, description="Iterations from one line of the log to the next.")
    ladder_every: int = Field(
        0, ge=0, description="Iterations from one judged ladder to the next; 0 for none."
    )
    max_std_ratio: float = Field(
        20.0, gt=1, description="Spread of the student over the teacher's at which a run stops."
    )
    schedule: Annotated[ScheduleConfig, Option(metavar="MAPPING")] = Field(
        default_factory=ScheduleConfig,
        description="Noise levels of the student's rollout, as schedule.KEY=VALUE.",
    )
    objective: Annotated[ObjectiveConfig, Option(metavar="MAPPING")] = Field(
        default_factory=ObjectiveConfig, description="Losses of the student, as objective.KEY=VALUE."
    )
    student: Annotated[OptimizerConfig, Option(metavar="MAPPING")] = Field(
        default_factory=OptimizerConfig, description="Optimizer of the student, as student.KEY=VALUE."
    )
    critic: Annotated[CriticConfig, Option(metavar="MAPPING")] = Field(
        default_factory=CriticConfig, description="Optimizer and data of the critic, as critic.KEY=VALUE."
    )
    lora: Annotated[LoraConfig, Option(metavar="MAPPING")] = Field(
        default_factory=LoraConfig, description="LoRA matrices of train=lora, as lora.KEY=VALUE."
    )

    @model_validator(mode="before")
    @classmethod
    def _over_the_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return merged(preset(str(values.get("preset", "cdm"))), values)

    @model_validator(mode="after")
    def _read(self) -> DistillConfig:
        """Refuse a value over the preset's that nothing reads under the other settings."""
        base = preset(self.preset)
        for names, condition, needs in _READ_IF:
            if condition(self):
                continue
            for name in names:
                section, key = name.split(".")
                inner = getattr(self, section)
                usual = base.get(section, {}).get(key, type(inner).model_fields[key].default)
                if getattr(inner, key) != usual:
                    raise ValueError(f"{name}={getattr(inner, key)} is not read: it needs {needs}")
        return self

    @field_validator("guidance")
    @classmethod
    def _unguided(cls, guidance: float) -> float:
        if guidance != 1:
            raise ValueError(
                f"guidance {guidance} on the student: a few-step student samples without guidance, keep it at 1 "
                "(objective.ca_scale sets how much guidance is distilled in)"
            )
        return guidance


def _names(section: str, kind: type[Config], *keys: str) -> list[str]:
    return [f"{section}.{key}" for key in keys or kind.model_fields]


_READ_IF: list[tuple[list[str], Callable[[DistillConfig], bool], str]] = [
    (_names("lora", LoraConfig), lambda c: c.train == "lora", "train=lora"),
    (
        _names("schedule", ScheduleConfig, "max_steps", "low", "high", "space"),
        lambda c: c.schedule.kind != "fixed",
        "another schedule.kind than fixed",
    ),
    (
        _names("objective", ObjectiveConfig, "ca_scale", "ca_convention", "ca_tau"),
        lambda c: c.objective.ca_weight > 0,
        "objective.ca_weight above 0",
    ),
    (
        _names("objective", ObjectiveConfig, "dm_guidance", "dm_tau"),
        lambda c: c.objective.dm_weight > 0,
        "objective.dm_weight above 0",
    ),
    (
        _names("objective", ObjectiveConfig, "cdm_tau", "off_point", "base", "read"),
        lambda c: c.objective.cdm_weight > 0,
        "objective.cdm_weight above 0",
    ),
    (
        _names("objective", ObjectiveConfig, "renoise_from"),
        lambda c: c.objective.off_point == "renoise",
        "objective.off_point=renoise",
    ),
    (
        _names("objective", ObjectiveConfig, "consistency_steps", "consistency_guidance"),
        lambda c: c.objective.consistency_weight > 0,
        "objective.consistency_weight above 0",
    ),
    (
        _names("objective", ObjectiveConfig, "logit_mean", "logit_std"),
        lambda c: "logit_normal" in (c.objective.ca_tau, c.objective.dm_tau, c.objective.cdm_tau),
        "a level that is logit_normal",
    ),
    (
        _names("critic", CriticConfig),
        lambda c: c.objective.needs_critic,
        "a loss that reads the critic: objective.dm_weight or cdm_weight above 0",
    ),
]
"""Settings, the condition under which they are read, and what that is in words."""


class TeacherConfig(Config):
    """Training of a small class-conditional teacher: AdamW, warm-up and cosine decay."""

    section: ClassVar[str] = "Training"

    steps: int = Field(3000, ge=2, description="Number of optimizer steps.")
    batch_size: int = Field(128, ge=1, description="Images of a step.")
    lr: float = Field(1e-3, gt=0, description="Peak of the learning rate.")
    label_dropout: float = Field(0.1, ge=0, le=1, description="Share of labels replaced by the null class.")
    seed: int = Field(0, ge=0, description="Seed of weights and batches.")


class ExportConfig(Config):
    """Settings of a student's diffusers folder."""

    lora: bool = Field(
        False, description="Write a LoRA file of a fully trained student, too; a LoRA student always has one."
    )
    lora_rank: int = Field(64, ge=1, description="Rank of that file's matrices.")
    sigmas: tuple[float, ...] | None = Field(
        None, description="Pre-shift σ grid to record as the student's own (default: the trained one)."
    )
    precision: Annotated[Literal["fp32", "bf16", "fp16"] | None, Option(was=("--dtype",))] = Field(
        None, description="Number format of the weights (default: the model's)."
    )
    overwrite: bool = Field(False, description="Replace an earlier export.")


_FIXED: dict[str, Any] = {"schedule": {"kind": "fixed"}}
_LARGE: dict[str, Any] = {"height": 1024, "width": 1024, "precision": "bf16"}

PRESETS: dict[str, dict[str, Any]] = {
    "cdm": {},
    "cdm-sd3": {"iterations": 4001, "batch_size": 128, **_LARGE},
    "cdm-longcat": {"iterations": 2001, "batch_size": 64, **_LARGE},
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
        "schedule": {"kind": "fixed", "stochastic": True},
        "update_ratio": 5,
        "objective": {"ca_weight": 0.0, "cdm_weight": 0.0, "dm_guidance": 8.0, "min_norm": 0.0},
        "critic": {"source": "anchor_x0", "merge": 0.0},
    },
    "decoupled-dmd": {
        **_FIXED,
        "objective": {"cdm_weight": 0.0, "ca_tau": "above", "tau_space": "pre_shift"},
    },
    "tdm-like": {
        **_FIXED,
        "objective": {"ca_weight": 0.0, "cdm_weight": 0.0, "dm_guidance": 8.0},
        "critic": {"source": "anchor_conditioned", "merge": 0.0},
    },
    "consistency": {
        **_FIXED,
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
    "dmd2": "fixed grid, guided DM only, steps by re-noising, critic of the sampled step (its GAN left out)",
    "decoupled-dmd": "fixed grid, DM and CA with τ above the anchor, drawn before the shift",
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
"""One line for each preset."""


def preset(name: str) -> dict[str, Any]:
    """A copy of the values of preset `name`.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown preset {name!r}", where="preset", mend=f"{hint}one of: {', '.join(PRESETS)}"
        )
    return copy.deepcopy(PRESETS[name])


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `over` laid over those of `base`, mapping by mapping."""
    values = dict(base)
    for name, value in over.items():
        below = values.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merged(below, value)
        values[name] = value
    return values
