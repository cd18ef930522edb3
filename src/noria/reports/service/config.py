"""Settings of `noria reports serve`: those of `write`, and what a service has besides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from noria.core.config import Argument
from noria.reports.jobs.options import ReportOptions
from noria.verbs.options import ListenOptions, OutputOption


class ServeConfig(ReportOptions, ListenOptions, OutputOption):
    """Settings of the service: what every report is made of, from which sources and within which limits."""

    index: Annotated[Path | None, Argument()] = Field(
        None, description="File of the index (noria reports index); none where reports are searched for."
    )
    seconds: float | None = Field(
        600.0, gt=0, le=86_400, description="Most seconds of a report; it is partial where they end."
    )
    waiting: int = Field(16, ge=1, le=4096, description="Jobs that may wait; more are answered 503.")
    keep_days: float = Field(30.0, gt=0, description="Days for which a report and its job are kept.")
