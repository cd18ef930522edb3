"""The rubric: four dimensions, what they are worth, and where Good ends and Poor begins. One YAML file.

Known of the paper (arXiv 2606.12984): TCR (tool-call reasonableness), CCC (card-composition compliance), CQ (content
quality) and CA (constraint adherence) with 10, 10, 20 and 10 points; J = 2 (TCR + CCC + CQ + CA); the Poor shares above
which a body is repaired, .20, .10, .05 and .10, from 50 answers on. Its cut-points of Good and Poor are not published:
0.8 and 0.5 of the points are a reconstruction, and a setting. So is how an answer without cards is counted; here its
points are renormalised,

    J_all = 100 (TCR + CQ + CA + 1_card CCC) / (40 + 10 · 1_card)

and a card that was due and is missing makes CCC 0, not absent. J over answers with cards and J_all are never mixed.
Rules alone say nothing of a dimension that has no rule: without a judge, J_all is over the dimensions that have one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from noria.core.config import Config, parse_config
from noria.core.files import read_bytes
from noria.skills.judging.rules import Rule

Dimension = Literal["TCR", "CCC", "CQ", "CA"]
DIMENSIONS: tuple[Dimension, ...] = ("TCR", "CCC", "CQ", "CA")
Tier = Literal["Good", "Average", "Poor"]
CARDS: Dimension = "CCC"


class DimensionSettings(Config):
    """One dimension of the rubric."""

    points: int = Field(ge=1, le=100, description="Most points of the dimension.")
    trigger: float = Field(gt=0, lt=1, description="Poor share above which the body is repaired.")
    good: float = Field(0.8, gt=0, le=1, description="Share of the points from which an answer is Good.")
    poor: float = Field(0.5, ge=0, lt=1, description="Share of the points below which an answer is Poor.")
    meaning: str = Field("", description="Question that the judge answers, in words.")

    @model_validator(mode="after")
    def _ordered(self) -> DimensionSettings:
        if self.poor > self.good:
            raise ValueError("Poor ends above the beginning of Good")
        return self

    def tier(self, points: float) -> Tier:
        """Tier of a number of points."""
        share = points / self.points
        return "Good" if share >= self.good else "Average" if share >= self.poor else "Poor"


def _dimensions() -> Mapping[Dimension, DimensionSettings]:
    return {
        "TCR": DimensionSettings(
            points=10, trigger=0.20, meaning="Are the tool calls the right ones, in order, and used?"
        ),
        "CCC": DimensionSettings(
            points=10, trigger=0.10, meaning="Are the product cards complete, correct and in the format?"
        ),
        "CQ": DimensionSettings(
            points=20, trigger=0.05, meaning="Does the answer meet the user's need, correctly?"
        ),
        "CA": DimensionSettings(points=10, trigger=0.10, meaning="Does the answer keep every constraint?"),
    }


class Rubric(Config):
    """Dimensions, thresholds and rules that answers are judged by."""

    dimensions: Mapping[Dimension, DimensionSettings] = Field(
        default_factory=_dimensions, description="Points, triggers and tiers of the four dimensions."
    )
    rules: tuple[Rule, ...] = Field((), description="Deterministic checks, each for a dimension.")
    least_answers: int = Field(
        50, ge=1, description="Answers of a skill from which its body may be repaired."
    )
    least_support: int = Field(3, ge=1, description="Leakage groups that a repair note needs behind it.")

    @model_validator(mode="after")
    def _complete(self) -> Rubric:
        missing = set(DIMENSIONS) - set(self.dimensions)
        if missing:
            raise ValueError(f"no settings of {', '.join(sorted(missing))}")
        names = [rule.id for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have the same id")
        return self


def load_rubric(path: Path | None) -> Rubric:
    """Read a rubric; the default one without rules where no file is given.

    Raises:
        ConfigError: with file and line: a field is wrong.
    """
    return (
        Rubric() if path is None else parse_config(Rubric, read_bytes(path, limit=1_000_000), where=str(path))
    )


def paper_score(points: Mapping[str, float | None]) -> float | None:
    """J = 2 (TCR + CCC + CQ + CA), for answers with cards; None where a dimension is missing."""
    values = [points.get(name) for name in DIMENSIONS]
    known = [v for v in values if v is not None]
    return 2.0 * math.fsum(known) if len(known) == len(DIMENSIONS) else None


def all_score(
    points: Mapping[str, float | None],
    rubric: Rubric,
    *,
    cards: bool,
    judged: Collection[Dimension] = DIMENSIONS,
) -> float | None:
    """J_all in percent of the points that apply.

    Args:
        points: points by dimension.
        rubric: most points of each dimension.
        cards: whether the answer should have cards.
        judged: dimensions that were to be judged.

    Returns:
        The score; None where a dimension that applies is missing, or none applies.
    """
    names = [name for name in DIMENSIONS if name in judged and (cards or name != CARDS)]
    values = [points.get(name) for name in names]
    known = [v for v in values if v is not None]
    if not names or len(known) < len(names):
        return None
    return 100.0 * math.fsum(known) / sum(rubric.dimensions[name].points for name in names)
