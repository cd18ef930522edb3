"""Everything a training of a router can be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from noria.core.config import Config
from noria.core.errors import ConfigError
from noria.routing.rewards.calibration import PRESETS, CalibrationConfig, preset
from noria.routing.rewards.components import FORM_ANSWER_COST, Component

__all__ = ["NetworkTraining", "WriterTraining"]


class _Training(Config):
    """What both kinds of policy share.

    Attributes:
        table: the replay table, by its path.
        calibration: a preset of `noria.routing.rewards.calibration`.
        changes: of the preset's fields.
        thrift: λ of cheapness beside an answer's 1; 0 leaves it out.
        form: λ of being readable, of a policy that writes.
        held_out: share of every data set's questions that the training does not see.
        steps, prompts, group: of the training: questions a step, and rollouts of each.
        seed: of everything.
    """

    table: str | None = None
    name: str = "router"
    calibration: str = "recal"
    changes: dict[str, Any] = Field(default_factory=dict)
    thrift: float = Field(0.3, ge=0)
    form: float = Field(1.0, ge=0)
    held_out: float = Field(0.2, gt=0, lt=1)
    steps: int = Field(400, ge=0)
    prompts: int = Field(64, ge=1)
    group: int = Field(8, ge=2)
    seed: int = Field(0, ge=0)
    eval_every: int = Field(20, ge=1)
    checkpoint_every: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _calibrates(self) -> _Training:
        if self.calibration not in PRESETS:
            raise ValueError(f"calibration: choose from {', '.join(PRESETS)}")
        try:
            self.calibrated()
        except ConfigError as error:
            raise ValueError(error.what) from None
        return self

    def calibrated(self) -> CalibrationConfig:
        """The calibration that this asks for."""
        components: dict[str, Component] = {}
        for name, component in FORM_ANSWER_COST.items():
            weight = {"form": self.form, "thrift": self.thrift}.get(name, component.weight)
            components[name] = component.model_copy(update={"weight": weight})
        return preset(self.calibration, components, **self.changes)


class NetworkTraining(_Training):
    """A policy that chooses once, a small network over a question's words.

    Attributes:
        width: numbers that a question is known by.
        hidden: of the network.
        lr: of Adam.
        entropy: what the policy is paid for keeping its options open.
    """

    policy: Literal["network"] = "network"
    width: int = Field(64, ge=1)
    hidden: int = Field(64, ge=1)
    lr: float = Field(3e-3, gt=0)
    entropy: float = Field(0.01, ge=0)


class WriterTraining(_Training):
    """A language model that writes the grammar of `noria.routing.writer.grammar`, trained by TRL.

    Attributes:
        model: a folder, a hub id, or `small`.
        pool: a pool's file, to train against live models; by default the table is replayed, for nothing.
        cache: folder of kept answers of the live pool.
        budget: what its answers may cost together.
        calls: of models in a rollout at most.
        information: characters of what a model says that are let in.
        turn_tokens: of a turn at most.
        completion_tokens: of a rollout at most, information with it.
        temperature: of its rollouts.
        lr, beta: of TRL's trainer.
        loss: how tokens are averaged.
        credit: every token earns every component, or each component goes to the tokens it is about.
        instruct: the prompt explains the grammar and the pool; else it is the question alone.
    """

    policy: Literal["writer"] = "writer"
    model: str | None = None
    pool: str | None = None
    cache: str | None = None
    budget: float | None = Field(None, ge=0)
    calls: int = Field(4, ge=0)
    information: int = Field(2000, ge=1)
    turn_tokens: int = Field(512, ge=1)
    completion_tokens: int = Field(2048, ge=1)
    temperature: float = Field(1.0, gt=0)
    lr: float = Field(1e-6, gt=0)
    beta: float = Field(0.0, ge=0)
    loss: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    credit: Literal["all", "spans"] = "all"
    instruct: bool = True
    prompts: int = Field(16, ge=1)
    steps: int = Field(200, ge=0)
