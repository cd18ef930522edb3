"""The life of an experiment: shadow, canary, A/B test, and then promoted, rolled back, or stopped without a winner.

Every step is a pure function of where the experiment stands and of what was read, so that a service, a simulation and a
test decide alike. Readings hold at every look (:mod:`noria.core.experiments.sequential`): looking often costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from noria.core.config import Config
from noria.core.experiments.assignment import Arms
from noria.core.experiments.sequential import SPLIT_ALPHA, confidence_sequence, split_evidence
from noria.core.statistics.intervals import Interval

Stage = Literal["shadow", "canary", "ab", "promoted", "rolled back", "futile", "stopped"]
OPEN: tuple[Stage, ...] = ("shadow", "canary", "ab")
"""Stages in which an experiment still takes traffic."""
CONTROL, TREATMENT = "champion", "challenger"
"""Names of the two arms."""


class Guardrail(Config):
    """A figure that a challenger may not make worse, higher being better."""

    name: str = Field(min_length=1, description="Name of the figure.")
    tolerance: float = Field(0.0, ge=0, description="Loss that is still allowed.")


class ExperimentConfig(Config):
    """Settings of one experiment; `planned` is printed with its power before the start."""

    name: str = Field(pattern=r"^[\w.-]{1,80}$", description="Name of the experiment.")
    champion: str = Field(description="Bundle that serves, by content hash.")
    challenger: str = Field(description="Bundle that may replace it, by content hash.")
    salt: str = Field(min_length=8, description="Text that deals the users to the arms.")
    primary: str = Field("helpful", description="Figure that decides, higher being better.")
    guardrails: tuple[Guardrail, ...] = Field((), description="Figures that may not get worse.")
    agrees: tuple[str, ...] = Field(
        (),
        description="Figures that must be better, too, before a promotion, such as that of the judges beside the "
        "users'.",
    )
    shadow_requests: int = Field(100, ge=0, description="Requests answered in the shadow before the canary.")
    canary_share: float = Field(0.05, gt=0, le=0.5, description="Share of the users who get the canary.")
    canary_units: int = Field(100, ge=0, description="Users of the canary before the A/B test.")
    share: float = Field(
        0.5, gt=0, lt=1, description="Share of the users who get the challenger in the test."
    )
    planned: int = Field(2000, ge=2, description="Users of both arms at which the test ends.")
    least: int = Field(100, ge=2, description="Users of the smaller arm before the first decision.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance of a false promotion or roll-back.")

    def arms(self, stage: Stage) -> Arms | None:
        """Shares of the users at a stage; None where all get the champion, as in the shadow."""
        share = {"canary": self.canary_share, "ab": self.share}.get(stage)
        if share is None:
            return None
        # The challenger's end of the line grows, so that users of the canary stay with it in the test.
        return Arms(self.name, self.salt, {TREATMENT: share, CONTROL: 1 - share})


@dataclass(frozen=True)
class Estimate:
    """A difference, challenger less champion, higher being better, and its standard error; NaN where not known."""

    effect: float
    standard_error: float


@dataclass(frozen=True)
class Reading:
    """Data of an experiment so far.

    Attributes:
        units: number of users read in each arm.
        assigned: number of users seen in each arm since the present stage began, rated or not: what shows whether they
            were dealt out as planned.
        primary: difference of the primary figure.
        guardrails: difference of each guardrail.
        agrees: difference of each figure that has to agree in sign.
        shadowed: number of requests answered in the shadow.
    """

    units: Mapping[str, int]
    assigned: Mapping[str, int]
    primary: Estimate = Estimate(math.nan, math.nan)
    guardrails: Mapping[str, Estimate] = field(default_factory=dict)
    shadowed: int = 0
    agrees: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Decision that a reading of an experiment leads to.

    Attributes:
        stage: stage from now on.
        reason: why, in a line that can be read alone.
        comparable: whether the arms may be compared; where not, nothing is decided and a person must look.
        interval: confidence sequence of the primary figure.
        guarded: confidence sequence of each guardrail.
        split: P value of the split of the users, valid at every look; NaN in the shadow.
    """

    stage: Stage
    reason: str
    comparable: bool
    interval: Interval
    guarded: Mapping[str, Interval] = field(default_factory=dict)
    split: float = math.nan


def next_step(config: ExperimentConfig, stage: Stage, reading: Reading) -> Step:
    """Where an experiment goes from a stage; the same stage while there is too little to decide.

    A guardrail or the primary figure that got worse rolls back at once, in the canary, too. Nothing is decided on arms
    that were not dealt out as planned. The α is shared alike by the primary figure and every guardrail.
    """
    alpha = config.alpha / (1 + len(config.guardrails))
    total = sum(reading.units.values())

    def sequence(estimate: Estimate) -> Interval:
        return confidence_sequence(
            estimate.effect, estimate.standard_error, total, planned=config.planned, alpha=alpha
        )

    interval = sequence(reading.primary)
    guarded = {name: sequence(estimate) for name, estimate in reading.guardrails.items()}
    arms = config.arms(stage) if stage in OPEN else None
    split = math.nan
    if arms is not None:
        counts = {arm: reading.assigned.get(arm, 0) for arm in arms.shares}
        split = math.exp(-max(0.0, split_evidence(counts, arms.shares)))
    if split < SPLIT_ALPHA:
        dealt = " and ".join(f"{count} {arm}" for arm, count in counts.items())
        to, reason = stage, f"not comparable: {dealt} were dealt, which the shares do not explain"
    else:
        to, reason = _next(config, stage, reading, interval, guarded)
    return Step(to, reason, not split < SPLIT_ALPHA, interval, guarded, split)


def _next(
    config: ExperimentConfig,
    stage: Stage,
    reading: Reading,
    interval: Interval,
    guarded: Mapping[str, Interval],
) -> tuple[Stage, str]:
    """The stage after one whose arms may be compared, and why."""
    if stage not in OPEN:
        return stage, f"it is {stage}"
    worse = _worse(config, guarded)
    if stage == "shadow":
        if reading.shadowed < config.shadow_requests:
            return stage, f"{reading.shadowed} of {config.shadow_requests} requests"
        if worse:
            return "stopped", f"in the shadow {worse}"
        return "canary", f"{reading.shadowed} requests in the shadow broke no guardrail"
    total = sum(reading.units.values())
    smaller = min(reading.units.get(CONTROL, 0), reading.units.get(TREATMENT, 0))
    if smaller >= config.least:
        if interval.high < 0:
            worse = f"{config.primary} is worse, {_words(interval)}"
        if worse:
            return "rolled back", worse
    if stage == "canary":
        seen = reading.units.get(TREATMENT, 0)
        if seen < config.canary_units:
            return stage, f"{seen} of {config.canary_units} users"
        return "ab", f"{config.canary_units} users of the canary broke no guardrail"
    better, against = smaller >= config.least and interval.low > 0, _against(config, reading)
    if better and not against:
        return "promoted", f"{config.primary} is better, {_words(interval)}"
    if total >= config.planned:
        why = f"{config.primary} is better, but {against}" if better else "underpowered or equal"
        return "futile", f"{why} after {total} users, {_words(interval)}"
    return stage, f"{total} of {config.planned} users, {_words(interval)}{f'; {against}' if better else ''}"


def _against(config: ExperimentConfig, reading: Reading) -> str:
    """The first figure that does not agree with a better primary one, in words; empty where all do.

    One that nobody knows does not agree: raters who are bought move one figure, and not the others.
    """
    for name in config.agrees:
        estimate = reading.agrees.get(name, Estimate(math.nan, math.nan))
        if not estimate.effect > 0:
            return (
                f"{name} does not agree ({estimate.effect:+.3g})"
                if estimate.effect <= 0
                else f"nobody knows {name}"
            )
    return ""


def _worse(config: ExperimentConfig, guarded: Mapping[str, Interval]) -> str:
    """The first guardrail that is broken, in words; empty where none is known to be."""
    for guardrail in config.guardrails:
        interval = guarded.get(guardrail.name)
        if interval is not None and interval.high < -guardrail.tolerance:
            return f"{guardrail.name} is worse, {_words(interval)}"
    return ""


def _words(interval: Interval) -> str:
    if math.isnan(interval.low):
        return "not known yet"
    return f"{interval.effect:+.3g} [{interval.low:+.3g}, {interval.high:+.3g}]"
