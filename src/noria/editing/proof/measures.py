"""Measures that the claims compare: figures of two arms, one a seed, out of their results."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Results = Mapping[str, Sequence[Mapping[str, Any]]]
Values = list[float | None]
TARGET = 0.8
"""Share of the sum's gain in strict accuracy that counts as reached."""


@dataclass(frozen=True)
class Measure:
    """One figure that arms are compared by.

    Attributes:
        words: name with its unit.
        better: which way is better.
        values: values of subject and baseline, one a seed; None where an arm is missing.
        comparison: how the two are compared.
    """

    words: str
    better: Literal["lower", "higher"]
    values: Callable[[Results, str, str], tuple[Values, Values] | None]
    comparison: Literal["difference", "log_ratio"] = "difference"


def renders_to(curve: Sequence[Mapping[str, Any]], target: float) -> float | None:
    """Renders after which a curve's strict accuracy first reaches a target, between its points by a straight line.

    None where it never does.
    """
    for before, now in itertools.pairwise(curve):
        if now["strict"] >= target:
            gain = now["strict"] - before["strict"]
            share = 1.0 if gain <= 0 else max(0.0, (target - before["strict"]) / gain)
            return float(before["renders"] + share * (now["renders"] - before["renders"]))
    return None


def _at_end(name: str) -> Callable[[Results, str, str], tuple[Values, Values] | None]:
    def values(table: Results, subject: str, baseline: str) -> tuple[Values, Values] | None:
        if subject not in table or baseline not in table:
            return None
        first, second = ([r["end"]["train"][name] for r in table[arm]] for arm in (subject, baseline))
        return first, second

    return values


def _renders(table: Results, subject: str, baseline: str) -> tuple[Values, Values] | None:
    """Renders until each arm reaches 80 % of the baseline's gain over the start."""
    if subject not in table or baseline not in table:
        return None
    first: Values = []
    second: Values = []
    for ours, theirs in zip(table[subject], table[baseline], strict=True):
        start, end = theirs["curve"][0]["strict"], theirs["curve"][-1]["strict"]
        target = start + TARGET * (end - start)
        reachable = end > start
        first.append(renders_to(ours["curve"], target) if reachable else None)
        second.append(renders_to(theirs["curve"], target) if reachable else None)
    return first, second


def _lost(table: Results, subject: str, baseline: str) -> tuple[Values, Values] | None:
    """Strict accuracy that noise costs a checklist, and a scalar judge."""
    names = (("split", "checklist, noise 0.3"), ("scalar, noise 0.0", "scalar, noise 0.3"))
    if any(arm not in table for pair in names for arm in pair):
        return None
    lost: list[Values] = []
    for clean, noisy in names:
        pairs = zip(table[clean], table[noisy], strict=True)
        lost.append([a["end"]["train"]["strict"] - b["end"]["train"]["strict"] for a, b in pairs])
    return lost[0], lost[1]


def _collapsed(table: Results, subject: str, baseline: str) -> tuple[Values, Values] | None:
    """Mean strict accuracy of the two families that the start solves least."""
    if any(arm not in table for arm in (subject, baseline, "SFT")):
        return None
    first: Values = []
    second: Values = []
    for start, ours, theirs in zip(table["SFT"], table[subject], table[baseline], strict=True):
        solved = start["end"]["train"]["families"]
        least = sorted(solved, key=lambda family: (solved[family], family))[:2]
        for values, result in ((first, ours), (second, theirs)):
            values.append(sum(result["end"]["train"]["families"][family] for family in least) / 2)
    return first, second


MEASURES: dict[str, Measure] = {
    "strict": Measure("strict accuracy: plan and image right, share of tasks", "higher", _at_end("strict")),
    "blind": Measure("right images of wrong plans, share of tasks", "lower", _at_end("blind")),
    "gap": Measure("wrong images of right plans, share of tasks", "lower", _at_end("gap")),
    "renders": Measure(
        "renders until 80 % of the sum's gain in strict accuracy", "lower", _renders, "log_ratio"
    ),
    "loss": Measure("strict accuracy lost to noise of .3, share of tasks", "lower", _lost),
    "collapsed": Measure(
        "strict accuracy of the two families least solved at the start", "higher", _collapsed
    ),
}
"""Measures by name."""
