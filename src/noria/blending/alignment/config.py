"""Settings of a fit, and which exposures they choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from noria.blending.alignment.aligners import Kind
from noria.blending.alignment.tallies import Binned, Cell, Tallies
from noria.core.config import Config

__all__ = ["FitConfig", "population"]

Choice = Literal["auto", Kind]


class FitConfig(Config):
    """How tallies become an alignment.

    Attributes:
        aligner: of every source, or `auto`: the simplest kind that the outcomes do not speak against.
        by_source: other kinds for some sources.
        tick: seconds of the clock that exposures are filed by.
        half_life: hours after which an exposure counts half; it spans a day's cycle by default.
        shrink: κ, pseudo-exposures.
        population: `control` aligns on requests that nobody was boosted in, where there are enough of them. On all
            exposures a boost would move the scale that it is priced in.
        least_control: exposures of the control bucket that are enough for a key.
        maturity: seconds an exposure has to be old, so that its outcome is in.
    """

    aligner: Choice = "mean"
    by_source: dict[str, Choice] = Field(default_factory=dict)
    tick: float = Field(900.0, gt=0)
    half_life: float | None = Field(24.0, gt=0)
    shrink: float = Field(200.0, ge=0)
    population: Literal["control", "all"] = "control"
    least_control: float = Field(1000.0, ge=0)
    maturity: float = Field(1800.0, ge=0)

    def kind(self, source: str) -> Choice:
        """Of a source."""
        return self.by_source.get(source, self.aligner)


def population(
    tallies: Tallies, cells: list[Cell], config: FitConfig, decay: Mapping[int, float] | None
) -> tuple[Binned, Literal["control", "all"]]:
    """Exposures of some cells: of the control bucket if it is asked for and large enough, else all."""
    if config.population == "control":
        data = tallies.binned(decay, [cell for cell in cells if cell.control])
        if len(data.n) and data.n.sum() >= config.least_control:
            return data, "control"
    return tallies.binned(decay, cells), "all"
