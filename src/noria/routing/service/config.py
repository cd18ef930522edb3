"""Settings of the service: what a request may take, and how `noria routing serve` starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from noria.core.config import Config, Option
from noria.core.models.config import DownloadOption
from noria.routing.config import AnswerOptions, RouterArgument, TradeOption
from noria.verbs.options import ListenOptions


class BackendLimits(Config):
    """Limits on waiting for backends and on trying others."""

    section: ClassVar[str] = "Backends"

    patience: float = Field(
        120.0, gt=0, description="Seconds that a backend may take for its answer, or a stream's first word."
    )
    attempts: int = Field(
        1, ge=1, description="Attempts at a backend; a rate limit and a refused connection have one."
    )
    queue: float = Field(
        0.25, ge=0, description="Seconds of waiting for a place at a backend while there is another."
    )
    fallbacks: int = Field(2, ge=0, description="Backends that are tried after the first.")
    in_flight: int = Field(512, ge=1, description="Requests under way at once.")


class ServeLimits(BackendLimits):
    """What a request may take, and when a backend is left out."""

    body_bytes: int = Field(32 << 20, ge=1, description="Largest body of a request.")
    seconds: float = Field(300.0, gt=0, description="Seconds that an answer may take, fallbacks included.")
    failures: int = Field(3, ge=1, description="Failures in a row until a backend is left out for a while.")
    rest: float = Field(
        10.0, ge=0, description="Seconds that a backend is left out; doubled each time, up to ten minutes."
    )


class ServeConfig(RouterArgument, ListenOptions, BackendLimits, AnswerOptions, TradeOption, DownloadOption):
    """Settings of `noria routing serve`."""

    pool: Annotated[Path, Option(metavar="FILE")] = Field(
        description="YAML file of the models that can be asked."
    )
    route_only: bool = Field(False, description="Answer with the decision and its reasons; ask nobody.")
