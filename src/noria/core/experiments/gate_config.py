"""Settings of the gates, without the arrays that they are decided on: a command's help reads them, too."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from noria.core.config import Config


class GateConfig(Config):
    """The evidence that a candidate needs to pass."""

    alpha: float = Field(0.05, gt=0, lt=0.5, description="One-sided level of the lower bound of the gain.")
    tolerance: float = Field(0.0, ge=0, description="Loss that the lower bound may still hold.")
    least_groups: int = Field(30, ge=2, description="Leakage groups below which a gate does not decide.")
    most_missing: float = Field(
        0.05, ge=0, le=1, description="Largest share of items without a score on a side."
    )
    floor: float = Field(0.05, ge=0, description="Loss that a slice may show.")
    slice_items: int = Field(50, ge=1, description="Items from which a slice is held to its floor.")
    floors: Mapping[str, float] = Field(default_factory=dict, description="Floors of slices that differ.")
    bound: float = Field(0.01, gt=0, description="Largest difference that counts as equal.")
    loss: float = Field(
        0.03,
        gt=0,
        description="Loss that the lower bound may hold for a candidate that is only to be cheaper.",
    )
