"""Settings of a fit, and which exposures they choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from noria.blending.alignment.aligners import Kind
from noria.blending.alignment.tallies import Bins, Cell, Tallies
from noria.core.config import Config

Choice = Literal["auto", Kind]


class FitConfig(Config):
    """Settings of an alignment's fit."""

    aligner: Choice = Field(
        "mean",
        description="Kind of aligner of every source; auto chooses one by the outcomes.",
    )
    by_source: dict[str, Choice] = Field(default_factory=dict, description="Kinds of aligners by source.")
    tick: float = Field(900.0, gt=0, description="Seconds of the clock that exposures are filed by.")
    half_life: float | None = Field(
        24.0, gt=0, description="Hours after which an exposure counts half, or null."
    )
    shrink: float = Field(
        200.0, ge=0, description="Pseudo-exposures that draw a thin key to its scene's rate."
    )
    # On all exposures a boost would move the scale that it is priced in.
    population: Literal["control", "all"] = Field("control", description="Exposures to align on.")
    least_control: float = Field(1000.0, ge=0, description="Control exposures that are enough for a key.")
    maturity: float = Field(1800.0, ge=0, description="Age in seconds at which an exposure's outcome is in.")

    def kind(self, source: str) -> Choice:
        """The configured kind of aligner of a source."""
        return self.by_source.get(source, self.aligner)


class CheckedFit(FitConfig):
    """Settings of a fit whose result is checked before it is written."""

    # Beyond them an outcome tells nothing: units or the anchor are wrong.
    rates: tuple[float, float] = Field(
        (0.001, 0.999), description="Least and greatest rate of effective completions that a fit believes."
    )
    without: list[str] = Field(
        default_factory=list,
        description="Sources that may stay without an aligner, and so out of every list.",
    )


def population(
    tallies: Tallies, cells: list[Cell], config: FitConfig, decay: Mapping[int, float] | None
) -> tuple[Bins, Literal["control", "all"]]:
    """Exposures of some cells: of the control bucket if configured and large enough, else all."""
    if config.population == "control":
        data = tallies.binned(decay, [cell for cell in cells if cell.control])
        if len(data.n) and data.n.sum() >= config.least_control:
            return data, "control"
    return tallies.binned(decay, cells), "all"
