"""Settings of `noria blending serve`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from noria.blending.alignment.anchors import EffectiveCompletion
from noria.blending.alignment.config import FitConfig
from noria.blending.blender import MAX_SIZE
from noria.blending.pricing.control import Gains
from noria.core.config import Config

__all__ = ["GainsConfig", "NearlineConfig", "NearlineFit", "ServeConfig"]


class GainsConfig(Config):
    """Constants of the controllers; outputs in units of the mean value, a tick of the nearline loop as the clock."""

    proportional: float = Field(0.2, ge=0)
    integral: float = Field(0.05, ge=0)
    derivative: float = Field(0.0, ge=0)
    low: float = 0.0
    high: float = 10.0
    rate: float = Field(0.1, gt=0)

    def gains(self) -> Gains:
        """As the controllers take them."""
        return Gains(**self.model_dump())


class NearlineFit(FitConfig):
    """How outcomes become an alignment, with an hour's clock: what is kept for days is kept by the hour."""

    tick: float = Field(3600.0, gt=0)


class NearlineConfig(Config):
    """The loop that learns from the log.

    Attributes:
        on: whether it runs; it needs a log.
        tick: seconds between two looks at the log.
        show_within: seconds after which a list that nobody has seen is forgotten.
        absent: what an exposure without an outcome is once its time is up: `missing`, and left out; or `zero`, where
            clients only report what was watched.
        least: exposures in a tick below which no controller moves.
        least_fit: exposures below which an aligner is not replaced, and no narrower one is made.
        most_open: lists that are kept in memory while their impressions and outcomes may still come; the oldest go.
        checkpoint: seconds between two checkpoints of what was learnt; what came since is read again after a stop.
        keep_days: of tallies and books.
        returns: ticks between two looks at what plans return; 0 never looks.
        anchor: when an exposure is an effective completion.
        fit: how outcomes become an alignment. Its maturity closes a list.
        gains: of the controllers.
    """

    on: bool = True
    tick: float = Field(60.0, gt=0)
    show_within: float = Field(1800.0, gt=0)
    absent: Literal["missing", "zero"] = "missing"
    least: int = Field(200, ge=1)
    least_fit: int = Field(1000, ge=1)
    most_open: int = Field(300_000, ge=1)
    checkpoint: float = Field(600.0, ge=0)
    keep_days: int = Field(7, ge=1)
    returns: int = Field(10, ge=0)
    anchor: EffectiveCompletion = EffectiveCompletion()
    fit: NearlineFit = NearlineFit()
    gains: GainsConfig = GainsConfig()


class ServeConfig(Config):
    """The service.

    Attributes:
        size: places of a list where the request does not say.
        control: share of users (of requests, where no user is given) ranked by value alone, to align on.
        sample: share of requests that are logged with all of their candidates, for what-if and replay.
        recent: sampled requests that are kept in memory for the console.
        poll: seconds between two looks for a new snapshot.
        skew: seconds by which a client's clock may differ before it is counted.
        body_mib: of a request to rank.
        in_flight: requests under way.
        keep_log_gib: of the log; older segments go once the loop has read them. None keeps all.
        nearline: the loop.
    """

    size: int = Field(50, ge=1, le=MAX_SIZE)
    control: float = Field(0.02, ge=0, le=1)
    sample: float = Field(0.01, ge=0, le=1)
    recent: int = Field(200, ge=0, le=10_000)
    poll: float = Field(0.5, gt=0)
    skew: float = Field(300.0, gt=0)
    body_mib: float = Field(32.0, gt=0, le=1024)
    in_flight: int = Field(256, ge=1)
    keep_log_gib: float | None = Field(20.0, gt=0)
    nearline: NearlineConfig = NearlineConfig()
