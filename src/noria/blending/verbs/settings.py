"""What the verbs of `noria blending` can be told: from a YAML file and `key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from noria.blending.accounting.returns import RetireRule
from noria.blending.alignment.config import FitConfig
from noria.blending.logs.gathering import GatherConfig
from noria.core.config import Config, load_config

__all__ = ["BlendConfig", "RetireConfig", "settings"]


class RetireConfig(Config):
    """When a plan is advised away; see `noria.blending.accounting.returns`."""

    floor: float = 1.0
    share: float = Field(0.01, ge=0, le=1)
    alpha: float = Field(0.05, gt=0, lt=1)
    looks: int = Field(1, ge=1)
    days: int = Field(0, ge=0)

    def rule(self) -> RetireRule:
        """As the mathematics takes it."""
        return RetireRule(self.floor, self.share, self.alpha, self.looks, self.days)


class BlendConfig(Config):
    """How logs become outcomes, outcomes an alignment, and returns advice.

    The tick and the maturity of `fit` are those of `gather`.
    """

    gather: GatherConfig = GatherConfig()
    fit: FitConfig = FitConfig()
    retire: RetireConfig = RetireConfig()

    @property
    def fitting(self) -> FitConfig:
        """`fit` on the clock of `gather`."""
        return self.fit.model_copy(update={"tick": self.gather.tick, "maturity": self.gather.maturity})


def settings(file: Path | None, overrides: Sequence[str]) -> BlendConfig:
    """Read settings.

    Raises:
        ConfigError: an unknown field, a value out of its range, a file that cannot be read.
    """
    return load_config(BlendConfig, file=file, overrides=overrides)
