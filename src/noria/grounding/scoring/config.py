"""Settings of scoring."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from noria.core.config import Config, Option
from noria.grounding.corpus.types import Bins, Polarity
from noria.grounding.scoring.rates import Theta


class LevelSettings(Config):
    """Which level a score is."""

    section: ClassVar[str] = "Scoring"

    bins: Bins = Field("paper", description="Edges of the levels: the paper's, or the released scorer's.")
    polarity: Annotated[Polarity, Option("--neuroticism")] = Field(
        "as_released", description="Polarity of the neuroticism score."
    )


class ScoreSettings(LevelSettings):
    """Settings of scoring answers."""

    section: ClassVar[str] = "Scoring"

    theta: Annotated[tuple[str, str, str], Option("--thresholds", metavar="A,B,C")] = Field(
        (".5", ".7", ".5"), description="Thresholds of the rating, the reasons and the grounding."
    )
    draws: int = Field(2000, ge=100, description="Number of bootstrap draws.")
    seed: int = Field(0, ge=0, description="Seed of the bootstrap.")
    level: float = Field(0.95, gt=0, lt=1, description="Confidence of the intervals.")
    method: Literal["percentile", "bca"] = Field("percentile", description="Method of the intervals.")

    @field_validator("theta", mode="before")
    @classmethod
    def _thresholds(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        try:
            parts = tuple(str(part).strip() for part in parts)
            Theta(*parts)
        except (ValueError, TypeError, ZeroDivisionError):
            raise ValueError(f"{value!r}: write three numbers in (0, 1], such as .5,.7,.5") from None
        return parts

    @property
    def thresholds(self) -> Theta:
        """The thresholds as exact numbers."""
        return Theta(*self.theta)
