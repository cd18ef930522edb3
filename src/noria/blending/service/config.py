"""Settings of `noria blending serve`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from noria.blending.alignment.anchors import EffectiveCompletion
from noria.blending.alignment.config import FitConfig
from noria.blending.blender import MAX_SIZE
from noria.blending.pricing.control import Gains
from noria.core.config import Config, Option
from noria.verbs.options import ListenOptions

__all__ = ["NearlineConfig", "NearlineFit", "ServeConfig"]


class NearlineFit(FitConfig):
    """Settings of the loop's alignment, with an hour's clock: what is kept for days is kept by the hour."""

    tick: float = Field(3600.0, gt=0, description="Seconds of the clock that exposures are filed by.")


class NearlineConfig(Config):
    """Settings of the loop that learns from the log."""

    on: bool = Field(True, description="Run the loop; it needs a log.")
    tick: float = Field(60.0, gt=0, description="Seconds between two looks at the log.")
    show_within: float = Field(1800.0, gt=0, description="Seconds after which an unseen list is forgotten.")
    absent: Literal["missing", "zero"] = Field(
        "missing",
        description="Meaning of a missing outcome: unknown, or zero where clients report only what was watched.",
    )
    least: int = Field(200, ge=1, description="Exposures in a tick below which no controller moves.")
    least_fit: int = Field(1000, ge=1, description="Exposures below which an aligner is not replaced.")
    most_open: int = Field(300_000, ge=1, description="Most lists kept in memory for outcomes to come.")
    checkpoint: float = Field(600.0, ge=0, description="Seconds between two checkpoints of what was learnt.")
    keep_days: int = Field(7, ge=1, description="Days that tallies and books are kept.")
    returns: int = Field(10, ge=0, description="Ticks between two looks at what plans return; 0 never looks.")
    anchor: EffectiveCompletion = Field(EffectiveCompletion(), description="Rule of an effective completion.")
    fit: NearlineFit = Field(NearlineFit(), description="Alignment's fit; its maturity closes a list.")
    gains: Gains = Field(Gains(), description="Constants of the controllers.")


class ServeConfig(ListenOptions):
    """Settings of the service."""

    section: ClassVar[str] = "Ranking"

    hosts: Annotated[list[str], Option("--allow-host", metavar="NAME")] = Field(
        [], description="Further names that the service is called by."
    )
    access_log: bool = Field(True, description="Write a line on stderr for each request.")
    size: int = Field(50, ge=1, le=MAX_SIZE, description="Places of a list where the request does not say.")
    control: float = Field(0.02, ge=0, le=1, description="Share of users ranked by value alone, to align on.")
    sample: float = Field(0.01, ge=0, le=1, description="Share of requests logged with all candidates.")
    recent: int = Field(200, ge=0, le=10_000, description="Sampled requests kept in memory for the console.")
    poll: float = Field(0.5, gt=0, description="Seconds between two looks for a new snapshot.")
    skew: float = Field(300.0, gt=0, description="Seconds of skew from which a client's clock is counted.")
    body_mib: float = Field(32.0, gt=0, le=1024, description="Largest body of a request to rank, in MiB.")
    in_flight: int = Field(256, ge=1, description="Requests under way at once.")
    keep_log_gib: float | None = Field(20.0, gt=0, description="Largest size of the log in GiB, or null.")
    nearline: NearlineConfig = Field(
        default_factory=NearlineConfig, description="Settings of the loop, such as nearline.tick=30."
    )
