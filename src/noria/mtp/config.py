"""Settings: of a head's training, of the model that a user names, and of how its tokens are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from noria.core.config import Argument, Config, Option
from noria.core.errors import ConfigError
from noria.core.models.config import ModelOptions
from noria.mtp.types import MAX_GAMMA, ChainAttention, LayoutName, LossName


def refuse_unused(config: Config, names: Iterable[str], why: str) -> None:
    """Refuse settings that were given and would do nothing.

    Raises:
        ConfigError: one of them was given.
    """
    for name in names:
        if name in config.model_fields_set:
            raise ConfigError(
                f"it does nothing {why}", where=f"--{name.replace('_', '-')}", mend="leave it out"
            )


class TrainConfig(Config):
    """Settings of a head's training. Defaults are those of Bebop, sec. 6.1, where the paper has them.

    A loss over the chain takes no `step_weights`. FastMTP's β^{k−1} with β = 0.6 is [1, 0.6, 0.36, …].
    """

    section: ClassVar[str] = "Training"

    model: Annotated[str | None, Option(metavar="MODEL")] = Field(
        None, description='Model folder, hub id, .gguf file, or "small".'
    )
    data: Annotated[str | None, Option(metavar="FILE")] = Field(
        None, description="Text that the policy wrote: .jsonl or .parquet."
    )
    name: str = Field("head", description="Name of the run (default: of the model and the loss).")
    layout: LayoutName | None = Field(
        None, description="Vendor layout of the head (default: the model family's own)."
    )
    layers: int = Field(1, ge=1, le=MAX_GAMMA, description="Number of layers of a new head.")
    start: Literal["auto", "checkpoint", "fresh"] = Field(
        "auto", description="Head to start from; auto takes the one in the model's files, else a new one."
    )
    loss: LossName = Field("e2e_tv", description="Loss that the head is trained with.")
    train_gamma: int = Field(
        5,
        ge=1,
        le=MAX_GAMMA,
        description="Drafts that a chain runs forward and backward (the paper drafts 3).",
    )
    chain_attention: ChainAttention | None = Field(
        None, description="Attention along a chain (default: as the head drafts)."
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="Temperature that the policy will be sampled at; it divides both sides' logits.",
    )
    step_weights: tuple[float, ...] | None = Field(
        None, description="Weight of each step of a chain, for a loss of single steps."
    )
    steps: int = Field(1000, ge=0, description="Number of steps in all.")
    batch_size: int = Field(16, ge=1, description="Rows of a step.")
    length: int = Field(1024, ge=4, description="Tokens of a packed row.")
    lr: float = Field(3.5e-5, gt=0, description="Learning rate of AdamW.")
    warmup: float = Field(0.03, ge=0, le=1, description="Share of the steps over which the rate rises.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Decay rates of AdamW's two moments.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    seed: int = Field(0, ge=0, description="Seed of a new head, the held-out text and the order of rows.")
    checkpoint_every: int = Field(100, ge=1, description="Steps from one checkpoint to the next.")
    log_every: int = Field(1, ge=1, description="Steps from one line of the log to the next.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format of the weights.")

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


class SourceOptions(ModelOptions):
    """A run that trained a head, or a model with a head in its files."""

    source: Annotated[str, Argument()] = Field(
        description='Run folder, model folder or hub id with a head in its files, or "small".'
    )
    model: Annotated[str | None, Option(metavar="MODEL")] = Field(
        None, description="Where the run's model is now."
    )
    precision: Literal["fp32", "bf16"] | None = Field(  # type: ignore[assignment]
        None, description="Number format of the weights (default: the run's own, else fp32)."
    )


class SamplingOptions(Config):
    """Temperature and filters that tokens are drawn with."""

    section: ClassVar[str] = "Sampling"

    temperature: Annotated[float | None, Option("-t")] = Field(
        None, ge=0, description="Temperature of both sides, 0 is greedy (default: the run's own, else 1)."
    )
    top_k: int = Field(0, ge=0, description="Number of most probable tokens that are kept; 0 keeps all.")
    top_p: float = Field(1.0, ge=0, le=1, description="Mass of the most probable tokens that are kept.")
    min_p: float = Field(0.0, ge=0, le=1, description="Least share of the best token's probability.")


class SampleConfig(Config):
    """Completions of prompts: how many, how long, and of which seed."""

    max_new_tokens: int = Field(512, ge=1, description="Most tokens of a completion.")
    samples: int = Field(1, ge=1, description="Completions of each prompt.")
    seed: int = Field(0, ge=0, description="Seed of the random generators.")
    batch_size: int = Field(64, ge=1, description="Requests decoded together.")
