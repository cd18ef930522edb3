"""Settings of the calibration, and presets: ReCal, its ablations and its rivals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from noria.core.config import Config
from noria.core.errors import ConfigError
from noria.core.training.types import Scale
from noria.routing.rewards.components import FORM_ANSWER_COST, Component, order


class VarianceWeight(Config):
    """Stage 2a: groups weighted by how much their rewards vary."""

    kind: Literal["sigmoid", "power", "none"] = Field(
        "none", description="Form of the weight: HERO's sigmoid, (σ/σ_max)^power, or none."
    )
    direction: Literal["up", "down"] = Field(
        "up", description="Groups that are stressed: those whose outcomes vary (up), or agree (down)."
    )
    low: float = Field(0.5, ge=0, description="Least weight of the sigmoid.")
    high: float = Field(2.0, ge=0, description="Greatest weight of the sigmoid.")
    kappa: float = Field(5.0, ge=0, description="Steepness κ of the sigmoid.")
    power: float = Field(1.0, ge=0, description="Exponent of the power.")
    momentum: float = Field(0.1, gt=0, le=1, description="Momentum β of the running mean of σ.")
    target: str = Field("answer", description="Component whose σ is read.")
    on: Literal["target", "all"] = Field("target", description="Advantages that are weighted.")


class DatasetScaling(Config):
    """Stage 2b: data sets brought to one scale."""

    kind: Literal["rms", "none"] = Field("none", description="Scale of a data set's advantages.")
    memory: float = Field(
        0.9, ge=0, lt=1, description="Share of the running sums that stays at a step; 0 forgets them."
    )
    prior: float = Field(32.0, ge=0, description="Rows N₀ of the batch's level that steady a rare data set.")
    weight: Literal["proportional", "sqrt", "uniform"] = Field(
        "proportional",
        description="Weight of a data set in the loss: how often it was sampled, the root of that, or all alike.",
    )


class CalibrationConfig(Config):
    """Settings by which rewards become advantages."""

    components: dict[str, Component] = Field(
        default_factory=lambda: dict(FORM_ANSWER_COST), description="Components that are rewarded."
    )
    gate: Literal["mask", "zero"] = Field(
        "mask", description="An ineligible reward is left out (mask), or counts as 0 (zero)."
    )
    combine: Literal["normalize_then_sum", "sum_then_normalize"] = Field(
        "normalize_then_sum", description="Order of normalising components and summing them."
    )
    scale: Scale = Field("group", description="Deviation that a centred reward is divided by.")
    epsilon: float = Field(1e-4, gt=0, description="Number added to deviations: TRL's 1e-4, verl's 1e-6.")
    flat: float = Field(1e-8, ge=0, description="Largest deviation that counts as none.")
    whiten: Literal["none", "rows", "tokens"] = Field(
        "none",
        description="Standardise the sum over the batch, as GDPO does: by rows, or by tokens, as verl does.",
    )
    variance: VarianceWeight = Field(VarianceWeight(), description="Settings of stage 2a.")
    dataset: DatasetScaling = Field(DatasetScaling(), description="Settings of stage 2b.")

    def model_post_init(self, context: Any) -> None:
        """Refuse components in a circle, and a variance of a component that is not there."""
        try:
            order(self.components)
        except ConfigError as error:
            raise ValueError(error.what) from None
        if self.variance.kind != "none" and self.variance.target not in self.components:
            raise ValueError(f"variance.target {self.variance.target!r} is no component")


SCALAR: dict[str, Any] = {"gate": "zero", "combine": "sum_then_normalize"}
SIGMOID, RMS = {"kind": "sigmoid"}, {"kind": "rms"}

PRESETS: dict[str, dict[str, Any]] = {
    "grpo": SCALAR,
    "dr_grpo": {**SCALAR, "scale": "none"},
    "dapo": SCALAR,
    "gdpo": {"gate": "zero", "whiten": "rows"},
    "recal": {"variance": SIGMOID, "dataset": RMS},
    "recal_uniform": {"variance": SIGMOID, "dataset": {**RMS, "weight": "uniform"}},
    "recal_dr": {"scale": "none", "dataset": RMS},
    "gates": {},
    "no_decomposition": {**SCALAR, "variance": {**SIGMOID, "on": "all"}, "dataset": RMS},
    "no_variance": {"dataset": RMS},
    "no_dataset": {"variance": SIGMOID},
}
"""
grpo              the sum of rewards, standardised in its group (arXiv 2402.03300)
dr_grpo           only centred (arXiv 2503.20783)
dapo              GRPO's advantages; what else DAPO does, the trainer does: loss by token, wider clip, no dead groups
gdpo              each component standardised, summed, and standardised over the batch (arXiv 2601.05242)
recal             all of the above stages
recal_uniform     and every data set counts alike
recal_dr          without dividing by a group's deviation
gates             stage 1 alone
no_decomposition  ReCal on the sum of rewards
no_variance       ReCal without stage 2a
no_dataset        ReCal without stage 2b
"""


def preset(
    name: str, components: Mapping[str, Component | Mapping[str, Any]] | None = None, **changes: Any
) -> CalibrationConfig:
    """The settings of a name, some of them changed.

    Args:
        name: one of `PRESETS`.
        components: components in the place of the preset's.
        changes: other fields in the place of the preset's.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"no calibration {name!r}", where="calibration", mend=f"choose from {', '.join(PRESETS)}"
        )
    values = PRESETS[name] | changes
    if components is not None:
        values = values | {"components": dict(components)}
    return CalibrationConfig.model_validate(values)
