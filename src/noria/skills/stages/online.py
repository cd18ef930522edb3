"""Online A/B of two banks over the core's experiments: sticky arms, a look at any time, and a check before comparing.

An experiment that is too small for its planned effect is "underpowered". Arms that were not dealt as planned, or did
not finish alike, are "not comparable": nothing is read then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from noria.core.config import Config
from noria.core.experiments.power import sequential_units
from noria.core.experiments.sequential import SPLIT_ALPHA, confidence_sequence, split_evidence
from noria.core.statistics.intervals import Interval

Reading = Literal[
    "treatment is better",
    "treatment is worse",
    "open",
    "no difference found",
    "underpowered",
    "not comparable",
]


class OnlineConfig(Config):
    """Settings of an A/B test of two banks."""

    effect: float = Field(0.02, gt=0, description="Smallest difference that matters.")
    power: float = Field(
        0.8, gt=0.5, lt=1, description="Chance that the test detects a difference of that size."
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Chance of a false finding over all looks.")
    share: float = Field(0.5, gt=0, lt=1, description="Share of the users who get the treatment.")


@dataclass(frozen=True)
class Online:
    """Reading of an A/B test.

    Attributes:
        reading: verdict that the data allow so far.
        why: reason in words.
        interval: confidence sequence of the difference, treatment less control; NaN where not comparable.
        planned: users of both arms that the planned effect needs.
        users: users by arm.
        finished: share of the users of each arm whose value is known.
    """

    reading: Reading
    why: str
    interval: Interval
    planned: int
    users: Mapping[str, int]
    finished: Mapping[str, float]


def planned_users(config: OnlineConfig, variances: tuple[float, float]) -> int:
    """Users of both arms with which a sequential test finds the effect at its power."""
    return sequential_units(
        config.effect, variances, power=config.power, share=config.share, alpha=config.alpha
    )


def read_online(control: Sequence[float], treatment: Sequence[float], config: OnlineConfig) -> Online:
    """Read a test at any time; one value a user, NaN where the user's session did not finish.

    Args:
        control, treatment: values of the users of each arm.
        config: settings of the test.
    """
    sides = [np.asarray(v, float) for v in (control, treatment)]
    known = [v[~np.isnan(v)] for v in sides]
    users = {"control": len(sides[0]), "treatment": len(sides[1])}
    finished = {
        n: len(k) / len(v) if len(v) else math.nan for n, k, v in zip(users, known, sides, strict=True)
    }
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    if min(map(len, known)) < 2:
        return Online(
            "underpowered", "fewer than two users of an arm have a value", nothing, 0, users, finished
        )
    pooled = float(np.concatenate(known).var(ddof=1))
    planned = planned_users(config, (pooled, pooled))
    split = split_evidence(users, {"control": 1 - config.share, "treatment": config.share})
    if split > -math.log(SPLIT_ALPHA):
        why = f"users were not dealt as planned (log Bayes factor {split:.1f})"
        return Online("not comparable", why, nothing, planned, users, finished)
    p = _finish_p([len(k) for k in known], [len(v) for v in sides])
    if p < 0.001:
        return Online(
            "not comparable", f"the arms did not finish alike (p {p:.2g})", nothing, planned, users, finished
        )
    effect = float(known[1].mean() - known[0].mean())
    error = math.sqrt(sum(float(k.var(ddof=1)) / len(k) for k in known))
    total = sum(map(len, known))
    interval = confidence_sequence(effect, error, total, planned=planned, alpha=config.alpha)
    if interval.low > 0 or interval.high < 0:
        reading: Reading = "treatment is better" if interval.low > 0 else "treatment is worse"
        why = f"{effect:+.4g} [{interval.low:+.4g}, {interval.high:+.4g}] at any look"
    elif total < planned:
        reading, why = "underpowered", f"{total:,} users, {planned:,} needed for {config.effect:g}"
    else:
        reading, why = "no difference found", f"{effect:+.4g}, and {config.effect:g} would have been found"
    return Online(reading, why, interval, planned, users, finished)


def _finish_p(done: Sequence[int], all_: Sequence[int]) -> float:
    """Two-sided p value that both arms finish alike, by the normal approximation."""
    rate = sum(done) / sum(all_)
    spread = rate * (1 - rate) * sum(1 / n for n in all_)
    if spread <= 0:
        return 1.0
    z = (done[1] / all_[1] - done[0] / all_[0]) / math.sqrt(spread)
    return math.erfc(abs(z) / math.sqrt(2))
