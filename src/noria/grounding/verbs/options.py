"""Options that several verbs of grounding share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, TypeAlias

from pydantic import Field

from noria.core.chat.budget import Budget
from noria.core.chat.cache import ChatCache
from noria.core.config import Config, Option

OutputPath: TypeAlias = Annotated[str | None, Option("-o", metavar="PATH", was=("--out",))]
"""The option `--output` of a verb that says in its own words what is written there."""


class SourceOptions(Config):
    """Options that open runs and files of predictions."""

    data: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of the annotations, one JSON file a video (a run knows its own)."
    )
    judge: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Judgement to score by, where a run has several."
    )
    reasoning_tags: tuple[str, ...] = Field(
        (), description="Names of tags around reasoning in a run's replies (default: the run's own setting)."
    )


class BudgetOption(Config):
    """A limit on what requests may cost."""

    section: ClassVar[str] = "Server"

    budget: float | None = Field(
        None, ge=0, description="Most that all requests may cost, in the currency of --prices."
    )

    def remaining(self, spent: float) -> Budget | None:
        """The budget that is left, as chat clients take it; None where there is no limit.

        Args:
            spent: cost of what earlier processes asked.
        """
        return None if self.budget is None else Budget(self.budget, spent=spent)


class CacheOption(Config):
    """Replies that are kept."""

    section: ClassVar[str] = "Server"

    cache: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of kept replies, which several runs may share."
    )

    def replies(self) -> ChatCache | None:
        """The cache as chat clients take it."""
        return None if self.cache is None else ChatCache(self.cache)
