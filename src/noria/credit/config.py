"""What credit can be told, and a name for every rule that is compared."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from noria.core.config import Config, load_config
from noria.core.errors import ConfigError
from noria.credit.kinds import HORIZON, AnswerNodes, Mass, Rule, Signal

__all__ = ["NAMES", "CreditConfig", "TrainConfig", "named_credit"]


class CreditConfig(Config):
    """Which tokens get how much of a response's advantage.

    The flow: `layers` of which the attention is averaged, at most `number_of_layers` of a named third; `values` weighs
    heads by what they write; `answer_nodes`, `absorbing` and `emission` as of :func:`noria.credit.flow.trace_flow`;
    `skip_special` leaves marks of templates out of the question. `answer` names the finder. `horizon` is how far behind
    a token the later ones are whose attention to it makes its FAI.

    The rule: `fraction` of the scored tokens get `gamma`, the others `rest`; tokens are ranked `within` their response,
    their group or the batch; `mass` may keep the mean weight at 1; `applies` to rollouts of either sign of advantage or
    of one; `warmup_steps` go from no effect to all of it.
    """

    signal: Signal = "flow"
    layers: str | int | list[int] = "mid"
    number_of_layers: int = Field(5, ge=1)
    sliding: bool | None = None
    values: bool = False
    answer_nodes: AnswerNodes = "predictor"
    absorbing: bool = True
    emission: float = Field(0.0, ge=0, lt=1)
    skip_special: bool = True
    answer: str = "auto"
    horizon: tuple[int, int] = HORIZON
    longest_answer: float = Field(0.5, gt=0, le=1)
    include_answer: bool = True
    rule: Rule = "top"
    fraction: float = Field(0.4, gt=0, le=1)
    gamma: float = Field(1.5, ge=0)
    rest: float = Field(1.0, ge=0)
    quantile: float = Field(0.5, ge=0, lt=1)
    beta: float = Field(0.5, ge=0)
    mass: Mass = "free"
    within: Literal["response", "group", "batch"] = "response"
    applies: Literal["both", "positive", "negative"] = "both"
    warmup_steps: int = Field(0, ge=0)
    stream_above: int = Field(16_384, ge=1)
    batch_size: int = Field(8, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> CreditConfig:
        if (self.rule == "add") != (self.signal == "ktae"):
            raise ValueError("the rule add goes with the signal ktae, and only with it")
        if self.rule == "bilevel" and self.signal in ("random", "none"):
            raise ValueError(f"the rule bilevel needs a signal, not {self.signal}")
        if self.values and self.signal not in ("flow", "attention", "attention_flow"):
            raise ValueError("values weigh the attention of flow, attention and attention_flow only")
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
"""A name is a rule of the paper or of a rival, with its own settings; any of them may be changed beside it."""


def named_credit(name: str, **more: Any) -> CreditConfig:
    """The settings of a name, some of them changed.

    Raises:
        ConfigError: no such name, or a setting out of its range.
    """
    if name not in NAMES:
        raise ConfigError(f"no credit {name!r}", where="credit", mend=f"choose from {', '.join(NAMES)}")
    return load_config(CreditConfig, base=NAMES[name] | more)


class TrainConfig(Config):
    """GRPO with credit of tokens, by `noria credit train`.

    `prompts` × `group` rollouts make a step. The loss is averaged over all tokens (DAPO), without a divergence term, as
    the paper trains. `credit` is a name, or a name with settings of its own beside it in `credit_settings`.
    """

    model: str | None = None
    data: str | None = None
    name: str = "run"
    credit: str = "flow"
    credit_settings: dict[str, Any] = Field(default_factory=dict)
    answer: str = "auto"
    steps: int = Field(100, ge=0)
    prompts: int = Field(8, ge=1)
    group: int = Field(8, ge=2)
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, gt=0)
    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    micro_batch: int = Field(16, ge=1)
    questions: int = Field(1024, ge=1)
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(10, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _named(self) -> TrainConfig:
        if self.credit not in NAMES:
            raise ValueError(f"no credit {self.credit!r}; choose from {', '.join(NAMES)}")
        return self
