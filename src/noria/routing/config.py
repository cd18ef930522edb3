"""Settings of both trainings, and groups of options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from noria.core.config import Argument, Config, Option
from noria.core.errors import ConfigError
from noria.routing.rewards.components import FORM_ANSWER_COST
from noria.routing.rewards.config import PRESETS, CalibrationConfig, preset


class RouterArgument(Config):
    """The router that a verb uses."""

    router: Annotated[Path, Argument()] = Field(description="Run folder, or folder of a saved router.")


class TradeOption(Config):
    """Trade of quality for cost: the quality that a dearer route must add."""

    trade: float | None = Field(
        None,
        ge=0,
        description="Quality by which the dearest route must be better (default: as it was saved).",
    )


class AnswerOptions(Config):
    """Where answers of a pool are kept, and what they may cost."""

    section: ClassVar[str] = "Pool"

    cache: Annotated[Path | None, Option(metavar="FOLDER")] = Field(
        None, description="Folder where answers of servers are kept and looked up."
    )
    budget: float | None = Field(None, ge=0, description="Most that all answers may cost together.")


class TrainingConfig(Config):
    """Settings that both policies share."""

    section: ClassVar[str] = "Training"

    table: Annotated[str | None, Option(metavar="FILE")] = Field(
        None, description="Replay table: our own format, or another's."
    )
    policy: str = Field(
        "network",
        description="Router to train: network, writer (a language model), a baseline (random, best_single, "
        "best_per_task, knn, mf), or the label of a route.",
    )
    name: str = Field("router", description="Name of the run (default: of table, policy and calibration).")
    calibration: str = Field("recal", description=f"Calibration of rewards: {', '.join(PRESETS)}.")
    changes: dict[str, Any] = Field(
        default_factory=dict, description="Settings over the calibration's, such as changes.scale=none."
    )
    thrift: float = Field(0.0, ge=0, description="Weight of cheapness beside an answer's 1; 0 leaves it out.")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share of every data set's questions that training does not see."
    )
    steps: int = Field(400, ge=0, description="Number of steps in all (of a writer 200).")
    prompts: int = Field(64, ge=1, description="Questions of a step (of a writer 16).")
    group: int = Field(8, ge=2, description="Rollouts of a question.")
    lr: float = Field(3e-3, gt=0, description="Learning rate (of a writer 1e-6).")
    seed: int = Field(0, ge=0, description="Seed of the random generators.")
    checkpoint_every: int = Field(50, ge=1, description="Steps from one checkpoint to the next.")

    @model_validator(mode="after")
    def _calibrates(self) -> TrainingConfig:
        if self.calibration not in PRESETS:
            raise ValueError(f"calibration: choose from {', '.join(PRESETS)}")
        try:
            self.calibrated()
        except ConfigError as error:
            raise ValueError(error.what) from None
        return self

    def calibrated(self) -> CalibrationConfig:
        """The named calibration with the changes over it.

        Raises:
            ConfigError: a change of a component that there is not.
        """
        components = {name: component.model_dump() for name, component in FORM_ANSWER_COST.items()}
        for name, weight in self.weights.items():
            components[name]["weight"] = weight
        changes = dict(self.changes)
        for name, change in changes.pop("components", {}).items():
            if name not in components:
                raise ConfigError(f"changes: {name!r} is no component, but {', '.join(components)} are")
            components[name] |= change
        return preset(self.calibration, components, **changes)

    @property
    def weights(self) -> dict[str, float]:
        """Weights of components that a setting of their own names."""
        return {"thrift": self.thrift}


class NetworkTraining(TrainingConfig):
    """Training of a policy that chooses once: a small network over a question's words."""

    section: ClassVar[str] = "Policy network"

    width: int = Field(
        64, ge=1, description="Numbers that a question is known by; fewer where there are fewer questions."
    )
    hidden: int = Field(64, ge=1, description="Width of the network's hidden layer.")
    eval_every: int = Field(20, ge=1, description="Steps from one evaluation to the next.")
    entropy: float = Field(0.1, ge=0, description="Reward of the policy for keeping its options open.")


class WriterTraining(AnswerOptions, TrainingConfig):
    """Training, by TRL, of a language model that writes the grammar of `noria.routing.writer.grammar`."""

    section: ClassVar[str] = "Policy writer"

    policy: str = Field("writer", description="Router to train.")
    form: float = Field(1.0, ge=0, description="Weight of being readable.")
    steps: int = Field(200, ge=0, description="Number of steps in all.")
    prompts: int = Field(16, ge=1, description="Questions of a step.")
    lr: float = Field(1e-6, gt=0, description="Learning rate of TRL's trainer.")
    model: Annotated[str | None, Option(metavar="MODEL")] = Field(
        None, description='Model folder, hub id, or "small".'
    )
    pool: str | None = Field(
        None, description="Pool's file, to train against live models (default: the table is replayed)."
    )
    calls: int = Field(4, ge=0, description="Most calls of models in a rollout.")
    information: int = Field(2000, ge=1, description="Most characters of a model's words that are let in.")
    turn_tokens: int = Field(512, ge=1, description="Most tokens of a turn.")
    completion_tokens: int = Field(
        2048, ge=1, description="Most tokens of a rollout, what models say included."
    )
    temperature: float = Field(1.0, gt=0, description="Temperature of the rollouts.")
    beta: float = Field(0.0, ge=0, description="Weight of the divergence from the start.")
    loss: Literal["grpo", "dapo", "dr_grpo"] = Field("dapo", description="Average over tokens in the loss.")
    credit: Literal["all", "spans"] = Field(
        "all",
        description="Tokens that a component goes to: all, or the spans that it is about.",
    )
    instruct: bool = Field(
        True, description="Explain grammar and pool in the prompt; without it the question stands alone."
    )

    @model_validator(mode="after")
    def _asks_somebody(self) -> WriterTraining:
        unused = sorted({"cache", "budget"} & self.model_fields_set)
        if self.policy == "writer" and self.pool is None and unused and getattr(self, unused[0]) is not None:
            raise ValueError(f"{unused[0]}: recorded answers cost nothing; leave it out, or give pool=FILE")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Weights of components that a setting of their own names."""
        return {"form": self.form, "thrift": self.thrift}
