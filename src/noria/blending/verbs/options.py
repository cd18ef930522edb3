"""Groups of options that verbs of blending share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from noria.blending.accounting.returns import RetireRule
from noria.blending.alignment.config import CheckedFit
from noria.blending.logs.gathering import GatherConfig
from noria.core.config import Config, Option
from noria.core.errors import ConfigError

if TYPE_CHECKING:
    from noria.blending.logs.candidates import CandidateLog
    from noria.blending.logs.database import ReadOptions
    from noria.blending.logs.gathering import GatherResult
    from noria.core.progress import Progress

SAMPLED = 100_000
"""Exposures that units are judged by, and the anchor is audited on."""

FileOption: TypeAlias = Annotated[Path | None, Option(metavar="FILE")]
FolderOption: TypeAlias = Annotated[Path | None, Option(metavar="FOLDER")]
LogOption: TypeAlias = Annotated[str | None, Option(metavar="PATH")]
ColumnOption: TypeAlias = Annotated[str | None, Option(metavar="COLUMN")]


class ListOptions(Config):
    """The lists that are made."""

    size: Annotated[int, Option("-k")] = Field(10, ge=1, le=10_000, description="Places of a list.")


class ColumnSettings(Config):
    """Names of columns in logs that others write."""

    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The logs' own names of columns, such as columns.request=session_id.",
    )


class MostOption(Config):
    """Bound on a log of whole requests."""

    # A million candidates take about half a gigabyte.
    most: Annotated[int, Option(metavar="ROWS")] = Field(
        1_000_000, ge=1, description="Most candidates to read; a longer log is sampled by whole requests."
    )


class CandidateOptions(ListOptions, ColumnSettings, MostOption):
    """A log of whole requests, which are ranked again."""

    candidates: Path = Field(description="Log of whole requests: a file or a folder.")

    def read(self) -> CandidateLog:
        """The log, or a sample of it.

        Raises:
            NoriaError: it cannot be read.
        """
        from noria.blending.logs.candidates import read_candidates

        return read_candidates(self.candidates, most=self.most, columns=self.columns)


class EngineOptions(Config):
    """Engine that reads logs of exposures and outcomes: DuckDB on one machine, or Spark on a cluster."""

    engine: Literal["duckdb", "spark"] = Field("duckdb", description="Engine that reads the logs.")
    memory: Annotated[str | None, Option(metavar="SIZE")] = Field(
        None, description="Memory that DuckDB takes before it spills to disk, such as 4GB (default: 256MB)."
    )


class FeedSettings(ColumnSettings):
    """Settings from logs to outcomes, alignment and advice; one file serves `fit` and `attribute`."""

    section: ClassVar[str] = "Settings"

    gather: GatherConfig = Field(
        default_factory=GatherConfig,
        description="Rules of outcomes, such as gather.absent=zero.",
    )
    fit: CheckedFit = Field(
        default_factory=CheckedFit, description="Alignment's fit, such as fit.aligner=auto."
    )
    retire: RetireRule = Field(
        default_factory=RetireRule, description="Rule of retirement, such as retire.floor=1.2."
    )

    @model_validator(mode="after")
    def _one_clock(self) -> FeedSettings:
        for name in ("tick", "maturity"):
            own = getattr(self.fit, name)
            if name in self.fit.model_fields_set and own != getattr(self.gather, name):
                raise ValueError(f"fit.{name} is that of the log: say gather.{name}={own:g}")
        return self

    @property
    def fitting(self) -> CheckedFit:
        """`fit` on the clock of `gather`."""
        return self.fit.model_copy(update={"tick": self.gather.tick, "maturity": self.gather.maturity})


class FeedOptions(FeedSettings, EngineOptions):
    """Logs of exposures and outcomes, and what is made of them."""

    @property
    def reading(self) -> ReadOptions:
        """Memory of DuckDB, and names of the columns, with which logs are read."""
        return {"memory": self.memory, "columns": self.columns}

    def sample(self, exposures: list[str], outcomes: list[str]) -> dict[str, Any] | None:
        """Joined rows of a sample of the requests; None on a cluster, unless the anchor is fitted on them.

        Raises:
            DataError: the logs cannot be read, or are not in seconds.
        """
        from noria.blending.integrations import duckdb
        from noria.blending.logs.units import check_units

        if self.engine != "duckdb" and self.gather.anchor.fitted:
            return None
        rows = duckdb.sample(exposures, outcomes, self.gather, SAMPLED, **self.reading)
        check_units(rows, self.gather)
        return rows

    def gathered(
        self,
        exposures: list[str],
        outcomes: list[str] | None,
        progress: Progress,
        *,
        now: float | None = None,
        accounts: bool = False,
    ) -> GatherResult:
        """Tallies and books of logs, by the chosen engine.

        Args:
            exposures, outcomes: paths of the files.
            progress: shows each batch.
            now: seconds since 1970 UTC; the time of the last exposure by default.
            accounts: whether exposures without the columns of an account are refused.

        Raises:
            ConfigError: the anchor's thresholds are still to be fitted.
            NoriaError: the logs cannot be read, or the engine is not installed.
        """
        from noria.blending.integrations import duckdb, spark

        if not self.gather.anchor.fitted:
            raise ConfigError(
                "the anchor's thresholds are not fitted",
                where="gather.anchor",
                mend="give --config settings.yaml of the fit that serves",
            )
        logs = (exposures, outcomes, self.gather)
        if self.engine == "duckdb":
            return duckdb.gather(*logs, now=now, accounts=accounts, progress=progress, **self.reading)
        if self.memory is not None:
            raise ConfigError(
                "it is for DuckDB", where="--memory", mend="set Spark's own memory in its configuration"
            )
        return spark.gather(*logs, now=now, accounts=accounts, columns=self.columns)
