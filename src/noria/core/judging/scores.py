"""Panels of judges, their majority, and scores of checklists with bounds for what is invalid."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from noria.core.chat import Part
from noria.core.judging.items import Checklist, Judge, Value, Verdict


async def ask_panel(
    judges: Sequence[Judge], checklist: Checklist, subject: Sequence[Part]
) -> list[list[Verdict]]:
    """Ask every judge at once: verdicts [judges][items]."""
    pending: list[Awaitable[list[Verdict]]] = [judge.verdicts(checklist, subject) for judge in judges]
    return list(await asyncio.gather(*pending))


def majority(rows: Sequence[Sequence[Verdict]], *, quorum: int = 1) -> list[Verdict]:
    """Majority of the valid verdicts on each item; a tie, or fewer valid ones than `quorum`, is invalid.

    Args:
        rows: verdicts [judges][items], the items in the same order.
        quorum: least number of valid verdicts that an item needs.

    Raises:
        ValueError: the rows are about different items.
    """
    verdicts = []
    for column in zip(*rows, strict=True):
        if len({verdict.item for verdict in column}) > 1:
            raise ValueError("the judges' verdicts are about different items")
        yes, no = (sum(verdict.value == word for verdict in column) for word in ("yes", "no"))
        invalid = len(column) - yes - no
        value: Value = "yes" if yes > no else "no"
        if yes == no or yes + no < quorum:
            value = "invalid"
        verdicts.append(Verdict(column[0].item, value, f"{yes} yes, {no} no, {invalid} invalid", "panel"))
    return verdicts


# -- scores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """Score of a checklist, or of one of its paths.

    Attributes:
        value: Σ weight of good items / Σ weight of valid ones, in [0, 1]; None where none is valid.
        low, high: value if every invalid item were bad, or good.
        valid, invalid: number of valid and of invalid items.
    """

    value: float | None
    low: float
    high: float
    valid: int
    invalid: int

    @property
    def perfect(self) -> bool | None:
        """Whether every item is good; None where an invalid one leaves that open."""
        if self.high < 1:
            return False
        return None if self.invalid or not self.valid else True


def score(checklist: Checklist, verdicts: Sequence[Verdict]) -> Score:
    """Score all items, whatever their path. An item without a verdict is invalid."""
    values = {verdict.item: verdict.value for verdict in verdicts}
    good = valid = total = 0.0
    counts = [0, 0]
    for item in checklist.items:
        value = values.get(item.id, "invalid")
        total += item.weight
        counts[value == "invalid"] += 1
        if value != "invalid":
            valid += item.weight
            good += item.weight * (value == item.good)
    if not total:
        return Score(None, 0.0, 1.0, 0, 0)
    return Score(
        good / valid if valid else None, good / total, (good + total - valid) / total, counts[0], counts[1]
    )


def score_paths(checklist: Checklist, verdicts: Sequence[Verdict]) -> dict[str, Score]:
    """Score each path by itself."""
    return {
        path: score(Checklist(tuple(item for item in checklist.items if item.path == path)), verdicts)
        for path in checklist.paths
    }


def combine(
    paths: Mapping[str, Score],
    *,
    weights: Mapping[str, float] | None = None,
    rule: Literal["mean", "least", "product"] = "mean",
) -> float | None:
    """Combine the scores of several paths into one number; None where a path has no score.

    Args:
        paths: scores by the name of their path.
        weights: weights of the paths; equal by default.
        rule: the weighted mean Σ w s / Σ w, the least, or the weighted geometric mean Π s^(w / Σ w).
    """
    values = {name: path.value for name, path in paths.items()}
    shares = {name: 1.0 if weights is None else weights[name] for name in values}
    total = sum(shares.values())
    known = {name: value for name, value in values.items() if value is not None}
    if len(known) < len(values) or total <= 0:
        return None
    if rule == "least":
        return min(known.values())
    if rule == "product":
        return math.prod(float(value ** (shares[name] / total)) for name, value in known.items())
    return sum(shares[name] * value for name, value in known.items()) / total
