"""What several verbs of `noria routing` take and print."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from noria.core.config import Config, Option

if TYPE_CHECKING:
    from noria.routing.routers.metrics import Score


class TableOption(Config):
    """The table that routers are judged on."""

    table: Annotated[Path, Option(metavar="FILE")] = Field(
        description="Replay table: our own format, or another's."
    )


def cell(value: float) -> str:
    """A share with three digits; a dash for what is not known."""
    return "—" if math.isnan(value) else f"{value:.3f}"


def cost_cell(value: float) -> str:
    """A cost with four digits, or that it is unknown."""
    return "unknown" if math.isnan(value) else f"{value:.4g}"


def score_line(score: Score) -> str:
    """A score in one line."""
    return (
        f"macro accuracy {cell(score.macro)}, micro {cell(score.micro)}, cost {cost_cell(score.cost)}, regret "
        f"{cell(score.regret)}, available {cell(score.availability)} "
        f"({score.scored:,} of {score.questions:,} questions scored)"
    )
