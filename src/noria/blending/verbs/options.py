"""Groups of options that verbs of blending share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

import click
from pydantic import Field

from noria.blending.accounting.returns import RetireRule
from noria.blending.alignment.config import FitConfig
from noria.blending.logs.gathering import GatherConfig
from noria.core.config import Config, Option

__all__ = [
    "CandidateOptions",
    "ColumnOption",
    "EngineOptions",
    "FeedSettings",
    "FileOption",
    "FolderOption",
    "ListOptions",
    "LogOption",
    "warn_absent",
]


FileOption: TypeAlias = Annotated[Path | None, Option(metavar="FILE")]
FolderOption: TypeAlias = Annotated[Path | None, Option(metavar="FOLDER")]
LogOption: TypeAlias = Annotated[str | None, Option(metavar="PATH")]
ColumnOption: TypeAlias = Annotated[str | None, Option(metavar="COLUMN")]


class ListOptions(Config):
    """The lists that are made."""

    size: Annotated[int, Option("-k")] = Field(10, ge=1, le=10_000, description="Places of a list.")


class CandidateOptions(ListOptions):
    """A log of whole requests, which are ranked again."""

    candidates: Path = Field(description="Parquet log of whole requests: a file or a folder.")
    most: Annotated[int | None, Option(metavar="ROWS")] = Field(
        None, ge=1, description="Most candidates to read, of whole requests."
    )


class EngineOptions(Config):
    """Engine that reads logs of exposures and outcomes."""

    engine: Literal["duckdb", "spark"] = Field("duckdb", description="Engine that reads the logs.")
    memory: Annotated[str | None, Option(metavar="SIZE")] = Field(
        None, description="Memory that DuckDB may take, such as 4GB."
    )


class FeedSettings(Config):
    """Settings from logs to outcomes, alignment and advice; one file serves `fit` and `attribute`."""

    section: ClassVar[str] = "Settings"

    gather: GatherConfig = Field(
        default_factory=GatherConfig,
        description="Rules of outcomes, such as gather.absent=zero.",
    )
    fit: FitConfig = Field(
        default_factory=FitConfig, description="Alignment's fit, such as fit.aligner=auto."
    )
    retire: RetireRule = Field(
        default_factory=RetireRule, description="Rule of retirement, such as retire.floor=1.2."
    )

    @property
    def fitting(self) -> FitConfig:
        """`fit` on the clock of `gather`."""
        return self.fit.model_copy(update={"tick": self.gather.tick, "maturity": self.gather.maturity})


def warn_absent(columns: Sequence[str]) -> None:
    """Warn of columns that plans are for and the candidates lack."""
    if columns:
        click.echo(
            f"noria: warning: the candidates have no column {', '.join(columns)}: plans for it hit nobody",
            err=True,
        )
