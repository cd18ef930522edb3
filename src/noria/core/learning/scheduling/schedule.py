"""When a turn is due: by volume, by drift, by hand. Pure decisions, and the switches that forbid it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from noria.core.config import Config
from noria.core.storage.control import Control

if TYPE_CHECKING:
    from noria.core.learning.scheduling.drift import Stability

SWITCH = "switch"
"""Kind of the control documents of switches, such as `switch/learning`, whose value is `{"on": false}`."""


def switched_on(control: Control, name: str) -> bool:
    """Whether a switch (`learning`, `experiments`) is on: it is unless its document says `{"on": false}`.

    A document of another form counts as off: who threw a switch must not be overheard.
    """
    document = control.read(SWITCH, name)
    return document is None or document.value is None or document.value.get("on") is True


class ScheduleConfig(Config):
    """Conditions under which a turn is due."""

    judged: int = Field(500, ge=1, description="Judged traces since the last turn that make a turn due.")
    least: int = Field(100, ge=1, description="Judged traces below which a drift starts no turn.")
    stability: float = Field(0.2, gt=0, description="Population stability index that counts as a drift.")
    fall: float = Field(5.0, gt=0, description="Threshold of the cumulative sum of the score's fall.")
    pause: float = Field(
        3600.0, ge=0, description="Seconds after a turn before volume or drift start another."
    )


@dataclass(frozen=True)
class Signals:
    """Figures that the schedule decides by.

    Attributes:
        now: second since 1970.
        ended: second at which the last turn ended; None before the first.
        judged: judged traces since the last turn.
        stability: indices by what they are of, such as `queries` or `skill`.
        fall: cumulative sum of the score's fall; NaN where it is not known.
        asked: why a person asks for a turn; empty where nobody does.
        open: number of a turn that did not end; None where there is none.
        learning: whether the switch `learning` is on.
    """

    now: float
    ended: float | None = None
    judged: int = 0
    stability: Mapping[str, Stability] = field(default_factory=dict)
    fall: float = math.nan
    asked: str = ""
    open: int | None = None
    learning: bool = True


@dataclass(frozen=True)
class Due:
    """A decision of the schedule, and why in a line."""

    action: Literal["start", "resume", "wait"]
    reason: str


def next_turn(config: ScheduleConfig, signals: Signals) -> Due:
    """Whether a turn is to start, or one that was interrupted to resume.

    A person's word needs no volume and no pause, and starts nothing while learning is switched off.
    """
    if not signals.learning:
        return Due("wait", "learning is switched off")
    if signals.open is not None:
        return Due("resume", f"turn {signals.open} did not end")
    if signals.asked:
        return Due("start", f"by hand: {signals.asked}")
    if signals.ended is not None and signals.now < signals.ended + config.pause:
        return Due("wait", f"the last turn ended {signals.now - signals.ended:.0f} s ago")
    if signals.judged >= config.judged:
        return Due("start", f"volume: {signals.judged} judged traces since the last turn")
    drift = _drift(config, signals)
    if drift and signals.judged >= config.least:
        return Due("start", f"drift: {drift}")
    seen = f"{signals.judged} of {config.judged} judged traces"
    return Due("wait", f"{seen}; {drift}, too few for a turn" if drift else seen)


def _drift(config: ScheduleConfig, signals: Signals) -> str:
    """The first drift, in words; empty where there is none."""
    for name, one in sorted(signals.stability.items()):
        if one.drifted(config.stability):
            return f"{name} has a stability index of {one.value:.3g} ({one.chance:.2g} by chance)"
    if signals.fall > config.fall:
        return f"the score's cumulative fall is {signals.fall:.3g}"
    return ""
