"""The experiment of the proof on the Open Bandit sample: estimates for a policy that did not serve."""

from __future__ import annotations

from typing import Any

import numpy as np

# -- Open Bandit ------------------------------------------------------------------------------------------------------


def run_bandit(campaign: Any) -> dict[str, Any] | None:
    """The clicks of the random policy, estimated from the log of Thompson sampling, against its own log; None without
    the data.
    """
    from noria.blending.proof.data import open_bandit
    from noria.core.experiments.off_policy import off_policy
    from noria.core.statistics.intervals import proportion_interval

    logged, own = open_bandit("bts", campaign), open_bandit("random", campaign)
    if logged is None or own is None:
        return None
    rounds = len(logged.click)
    predicted = np.empty(rounds)
    fold = np.arange(rounds) % 2
    uniform = np.empty(rounds)
    for part in (0, 1):  # each half is predicted from the other
        rest = fold != part
        shows = np.bincount(logged.item[rest], minlength=logged.items)
        clicks = np.bincount(logged.item[rest], weights=logged.click[rest], minlength=logged.items)
        rate = (clicks + 200 * logged.click[rest].mean()) / (shows + 200)
        predicted[fold == part] = rate[logged.item[fold == part]]
        uniform[fold == part] = rate.mean()
    result = off_policy(
        logged.click,
        logged.propensity,
        np.full(rounds, 1 / logged.items),
        generator=np.random.default_rng(0),
        predicted=predicted,
        predicted_policy=uniform,
        most_weight=100.0,
    )
    truth = proportion_interval(int(own.click.sum()), len(own.click))

    def record(interval: Any) -> list[float] | None:
        return None if interval is None else [interval.effect, interval.low, interval.high]

    return {
        "campaign": campaign,
        "clicks": {"random": int(own.click.sum()), "bts": int(logged.click.sum())},
        "items": own.items,
        "least propensity": float(logged.propensity.min()),
        "ess": result.ess,
        "clipped": result.clipped,
        "ips": record(result.ips),
        "snips": record(result.snips),
        "dr": record(result.dr),
        "own": record(truth),
        "refused": result.refused,
    }
