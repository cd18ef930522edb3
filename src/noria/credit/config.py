"""Settings of credit, and a name for every rule that is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from noria.core.config import Config, Option, load_config
from noria.core.errors import ConfigError
from noria.credit.types import (
    ANSWER_SIGNALS,
    ATTENTION_SIGNALS,
    HORIZON,
    AnswerNodes,
    Mass,
    Operator,
    Rule,
    Signal,
)


class CreditConfig(Config):
    """Settings that decide how much of a response's advantage each token gets.

    The fields up to `include_answer` decide the scores (:func:`noria.credit.scores.flow.trace_flow` for the flow), and
    those from `rule` on turn scores into weights.
    """

    signal: Signal = Field("flow", description="Signal that scores the tokens.")
    layers: str | int | list[int] = Field(
        "mid", description="Layers whose attention is averaged: mid, all, 3, 15-25."
    )
    number_of_layers: int = Field(5, ge=1, description="Most layers that are read of a named third.")
    sliding: bool | None = Field(
        None,
        description="Whether layers with a sliding window are read (default: only if there is no other).",
    )
    values: bool = Field(False, description="Weight attention by the norm of the value that a head writes.")
    answer_nodes: AnswerNodes = Field(
        "predictor", description="Where the flow ends: predicting rows or own rows."
    )
    absorbing: bool = Field(True, description="Stop the flow at the first answer node it meets.")
    emission: float = Field(
        0.0, ge=0, lt=1, description="Weight of the edge from a token to its predicting row."
    )
    skip_special: bool = Field(
        True, description="Leave special tokens of chat templates out of the question."
    )
    answer: str = Field("auto", description="Finder of the answer in a response.")
    horizon: tuple[int, int] = Field(
        HORIZON, description="Least and greatest distance to the later tokens whose attention makes FAI."
    )
    longest_answer: float = Field(
        0.5, gt=0, le=1, description="Largest share of a response that its answer may be."
    )
    include_answer: bool = Field(True, description="Count the tokens of the answer among those scored.")
    rule: Rule = Field("top", description="Rule that turns scores into weights.")
    fraction: float = Field(0.4, gt=0, le=1, description="Share of the scored tokens that the rule chooses.")
    gamma: float = Field(1.5, ge=0, description="Weight of chosen tokens.")
    rest: float = Field(1.0, ge=0, description="Weight of the other tokens.")
    quantile: float = Field(
        0.5, ge=0, lt=1, description="Quantile of scores below which the rule bilevel suppresses."
    )
    beta: float = Field(
        0.5, ge=0, description="Weight beyond 1 that the rule bilevel gives the highest score."
    )
    mass: Mass = Field("free", description="Whether the mean weight of a response is held at 1.")
    within: Literal["response", "group", "batch"] = Field(
        "response", description="Set in which tokens are ranked."
    )
    applies: Literal["both", "positive", "negative"] = Field(
        "both", description="Sign of the advantages that are weighted."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps until the weights have their whole effect.")
    stream_above: int = Field(16_384, ge=1, description="Length from which attention is read in blocks.")
    batch_size: int = Field(8, ge=1, description="Responses scored together.")
    seed: int = Field(0, ge=0, description="Seed of the random scores.")

    @model_validator(mode="after")
    def _fits(self) -> CreditConfig:
        if (self.rule == "add") != (self.signal == "ktae"):
            raise ValueError("the rule add goes with the signal ktae, and only with it")
        if self.rule == "bilevel" and self.signal in ("random", "none"):
            raise ValueError(f"the rule bilevel needs a signal, not {self.signal}")
        if self.values and self.signal not in ("flow", "attention", "attention_flow"):
            raise ValueError("values weigh the attention of flow, attention and attention_flow only")
        if self.rule == "all" and self.mass == "preserve":
            raise ValueError("the rule all with the mean weight kept at 1 changes nothing")
        if not 1 <= self.horizon[0] <= self.horizon[1]:
            raise ValueError("horizon goes from a distance of 1 or more to one that is no less")
        return self


NAMES: dict[str, dict[str, Any]] = {
    "flow": {},
    "flow_emission": {"emission": 0.25},
    "flow_soft": {"rule": "soft"},
    "flow_mass": {"mass": "preserve"},
    "flow_bottom": {"rule": "bottom"},
    "none": {"signal": "none", "rule": "all", "gamma": 1.0},
    "uniform": {"signal": "none", "rule": "all", "gamma": 1.2},
    "random": {"signal": "random"},
    "attention": {"signal": "attention"},
    "rollout": {"signal": "rollout", "layers": "all"},
    "attention_flow": {"signal": "attention_flow"},
    "entropy": {"signal": "entropy", "fraction": 0.2, "gamma": 1.0, "rest": 0.0, "within": "batch"},
    "entropy_gamma": {"signal": "entropy"},
    "waad": {"signal": "waad"},
    "fai": {"signal": "fai"},
    "coupled": {"signal": "coupled"},
    "oar_g": {"signal": "oar_g", "rule": "bilevel"},
    "oar_p": {"signal": "oar_p", "rule": "bilevel"},
    "ktae": {"signal": "ktae", "rule": "add"},
}
"""The credit of the paper, its rivals and the controls by name, each with its settings that are not the defaults."""


_READ: dict[str, Callable[[CreditConfig], bool]] = {
    **dict.fromkeys(("layers", "number_of_layers", "sliding"), lambda c: c.signal in ATTENTION_SIGNALS),
    "answer_nodes": lambda c: c.signal in ("flow", "attention", "rollout", "attention_flow"),
    **dict.fromkeys(("absorbing", "emission", "skip_special", "stream_above"), lambda c: c.signal == "flow"),
    "horizon": lambda c: c.signal in ("fai", "coupled"),
    "longest_answer": lambda c: c.signal in ANSWER_SIGNALS,
    "fraction": lambda c: c.rule in ("top", "bottom"),
    "gamma": lambda c: c.rule in ("top", "bottom", "soft", "all"),
    "rest": lambda c: c.rule in ("top", "bottom") and c.signal != "coupled",
    **dict.fromkeys(("quantile", "beta"), lambda c: c.rule == "bilevel"),
    "mass": lambda c: c.rule not in ("add", "all"),
    "within": lambda c: c.rule in ("top", "bottom", "soft") and c.signal != "coupled",
}
"""Settings that only some credits read, each with the condition under which it is read."""


def unread(config: CreditConfig, settings: Iterable[str]) -> list[str]:
    """Those of the settings that a credit does not read, so that giving them would change nothing."""
    return [field for field in settings if field in _READ and not _READ[field](config)]


def _with_settings(name: str, more: Mapping[str, Any]) -> CreditConfig:
    if name not in NAMES:
        raise ConfigError(f"no credit {name!r}", where="credit", mend=f"choose from {', '.join(NAMES)}")
    return load_config(CreditConfig, base=NAMES[name] | dict(more))


def _refuse(fields: Sequence[str], names: Iterable[str]) -> None:
    if fields:
        raise ConfigError(
            f"the credit {' or '.join(names)} does not read it, so it would change nothing",
            where=fields[0],
            mend="leave it out, or choose another credit",
        )


def named_credit(name: str, **more: Any) -> CreditConfig:
    """The settings of a named credit, with `more` in place of its own.

    Raises:
        ConfigError: there is no such name; or a setting is unknown, out of its range, or not read by this credit.
    """
    config = _with_settings(name, more)
    _refuse(unread(config, more), [name])
    return config


class CreditSettings(Config):
    """Settings that every verb shares that scores tokens by named credits."""

    section: ClassVar[str] = "Credit"

    credit_settings: dict[str, Any] = Field(
        default_factory=dict, description="Settings over the named credit, such as credit_settings.gamma=2."
    )
    answer: Annotated[str, Option(metavar="FINDER")] = Field(
        "auto", description="Finder of answers: auto, boxed, tag, tag:NAME, hash, last-number, regex:PATTERN."
    )
    seed: int = Field(0, ge=0, description="Seed of the random generators.")

    def named(self, *names: str) -> dict[str, CreditConfig]:
        """The credits of these names, each with those of the settings over it that it reads.

        Raises:
            ConfigError: no such name; or a setting is unknown, out of its range, or read by none of the credits.
        """
        more = {"answer": self.answer, "seed": self.seed} | self.credit_settings
        credits = {name: _with_settings(name, more) for name in names}
        by_none = [f for f in self.credit_settings if all(unread(config, [f]) for config in credits.values())]
        _refuse(by_none if credits else [], names)
        return credits


class MaskSettings(CreditSettings):
    """Settings of a mask test."""

    section: ClassVar[str] = "Masking"

    ends: list[Literal["top", "bottom"]] = Field(
        ["top", "bottom"], min_length=1, description="Ends of each score that are masked."
    )
    fraction: float = Field(0.2, gt=0, lt=1, description="Share of the reasoning tokens to mask.")
    operator: Operator = Field("hide", description="Way in which a token is masked.")
    batch_size: int = Field(32, ge=1, description="Number of answers written together.")


class CreditChoice(CreditSettings):
    """The choice of one named credit, with settings over it."""

    credit: Annotated[str, Option(metavar="NAME")] = Field(
        "flow", description=f"Name of the credit: {', '.join(NAMES)}."
    )

    @model_validator(mode="after")
    def _known(self) -> CreditChoice:
        _ = self.credit_config
        return self

    @property
    def credit_config(self) -> CreditConfig:
        """The named credit with the settings over it."""
        return self.named(self.credit)[self.credit]
