"""May this candidate replace its parent? A gate compares both on the same items and leaves a receipt that can be read.

Items of one leakage group (one user) are not independent, so the interval is over groups: with gᵢ the summed gain of
group i and mᵢ its items,

    Δ̂ = Σ gᵢ / Σ mᵢ        s² = n/(n − 1) Σ (gᵢ − Δ̂ mᵢ)² / (Σ mᵢ)²

and Student's t with n − 1 degrees of freedom. Nor are items of many users who ask the same: both sides answer them
alike. Where items have contents, the interval is over both, clustered two ways (Cameron, Gelbach and Miller, 2011):
s² = s²(groups) + s²(contents) − s²(pairs of both), at least the larger of the first two, and n is the smaller number. A
rule that lacks evidence blocks; it never passes because nothing was seen.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.core.errors import DataError
from noria.core.experiments.gate_config import GateConfig as GateConfig
from noria.core.statistics.intervals import Interval


@dataclass(frozen=True)
class PairedScores:
    """Scores of a parent and its candidate on the same items; NaN is a score that could not be had.

    Attributes:
        items: name of each item, unique.
        groups: leakage group of each item.
        parent, candidate: [items] score of each, higher is better.
        slices: slice of each item, such as its skill; one slice by default.
        parent_errors, candidate_errors: [items] whether the answer broke a hard rule, such as one of safety.
        contents: content of each item, such as its request, that items of other groups may have, too; none by default.
    """

    items: Sequence[str]
    groups: Sequence[str]
    parent: NDArray[np.float64]
    candidate: NDArray[np.float64]
    slices: Sequence[str] = ()
    parent_errors: NDArray[np.bool_] | None = None
    candidate_errors: NDArray[np.bool_] | None = None
    contents: Sequence[str] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.items), len(self.groups), len(self.parent), len(self.candidate)}
        lengths |= {len(names) for names in (self.slices, self.contents) if names}
        lengths |= {len(e) for e in (self.parent_errors, self.candidate_errors) if e is not None}
        if len(lengths) != 1:
            raise DataError("scores, groups and slices are of different lengths", where="gate")
        if len(set(self.items)) != len(self.items):
            raise DataError("an item is there twice", where="gate", mend="score each item once")
        if (self.parent_errors is None) != (self.candidate_errors is None):
            raise DataError("hard errors of one side only", where="gate", mend="give both or neither")

    @property
    def gains(self) -> NDArray[np.float64]:
        """[items] candidate less parent; NaN where either is missing."""
        gains: NDArray[np.float64] = np.subtract(self.candidate, self.parent, dtype=np.float64)
        return gains

    @property
    def missing(self) -> float:
        """Share of items without a score on a side."""
        return float(np.isnan(self.gains).mean()) if len(self.items) else 1.0

    def gain(self, level: float) -> Interval:
        """The mean gain over items, with an interval of this level over groups and contents."""
        return grouped_gain(self.gains, self.groups, self.contents, level=level)

    def digest(self) -> str:
        """SHA-256 of all of it, for the receipt."""
        digest = hashlib.sha256()
        for texts in (self.items, self.groups, self.slices, *([self.contents] if self.contents else [])):
            digest.update(json.dumps(list(texts)).encode())
        for values in (self.parent, self.candidate):
            digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
        for errors in (self.parent_errors, self.candidate_errors):
            digest.update(b"" if errors is None else np.ascontiguousarray(errors, dtype=bool).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Rule:
    """One rule of a gate, and its outcome on the scores.

    Attributes:
        name: short name of the rule.
        outcome: `passed`, `failed`, or `missing` where there is too little evidence; only the first lets pass.
        found: the measured figures, in words.
    """

    name: str
    outcome: Literal["passed", "failed", "missing"]
    found: str


@dataclass(frozen=True)
class Receipt:
    """A gate's decision, with everything that it rests on."""

    gate: str
    accepted: bool
    rules: tuple[Rule, ...]
    gain: Interval
    data: str
    config: Mapping[str, Any]

    @property
    def reason(self) -> str:
        """The decision in a line: the rules that stood against it, or the gain."""
        against = [f"{rule.name}: {rule.found}" for rule in self.rules if rule.outcome != "passed"]
        return (
            "; ".join(against)
            or f"gain {self.gain.effect:+.4g} [{self.gain.low:+.4g}, {self.gain.high:+.4g}]"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values of the receipt; what is not known is null."""
        gain = {name: _json_number(getattr(self.gain, name)) for name in ("effect", "low", "high")}
        return {
            "gate": self.gate,
            "accepted": self.accepted,
            "reason": self.reason,
            "rules": [vars(rule) for rule in self.rules],
            "gain": gain | {"groups": self.gain.n, "level": self.gain.level},
            "data": self.data,
            "config": dict(self.config),
        }


def grouped_gain(
    gains: ArrayLike, groups: Sequence[str], contents: Sequence[str] = (), *, level: float = 0.9
) -> Interval:
    """The mean gain over items, with an interval over groups, or over groups and contents.

    Args:
        gains: [items]; NaN is left out.
        groups: [items] leakage group of each.
        contents: [items] content of each, which items of other groups may have, too; none by default.
        level: two-sided confidence; a one-sided α is level 1 − 2α.

    Returns:
        The interval, whose `n` counts groups, or contents where these are fewer; its ends are NaN with fewer than two.
    """
    from scipy.special import stdtrit

    values = np.asarray(gains, dtype=float)
    known = ~np.isnan(values)
    values = values[known]
    if not len(values):
        return Interval(math.nan, math.nan, math.nan, 0, level)
    mean = float(values.mean())
    ways = [_numbered(groups)[known], *([_numbered(contents)[known]] if contents else [])]
    n, variance = _clustered(values - mean, ways[0])
    if contents:
        others, by_content = _clustered(values - mean, ways[1])
        _, by_both = _clustered(values - mean, ways[0] * (int(ways[1].max()) + 1) + ways[1])
        n, variance = min(n, others), max(variance, by_content, variance + by_content - by_both)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, level)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, n, level)


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    """[items] number of each name."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _clustered(residuals: NDArray[np.float64], clusters: NDArray[np.int64]) -> tuple[int, float]:
    """The number of clusters, and the variance of a mean whose residuals are dependent within them."""
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=residuals)
    n = len(sums)
    return n, n / (n - 1) * float((sums**2).sum()) / len(residuals) ** 2 if n > 1 else math.nan


def improvement_gate(scores: PairedScores, config: GateConfig) -> Receipt:
    """Accept a candidate that is better: the gain's lower bound above −tolerance, its mean above zero, nothing broken.

    Slices with enough items keep their floors, and hard errors never rise, however few items there are.
    """
    gain = scores.gain(1 - 2 * config.alpha)
    rules = [*_evidence(scores, gain, config)]
    better = gain.effect > 0 and gain.low > -config.tolerance
    words = f"gain {gain.effect:+.4g}, lower bound {gain.low:+.4g} at α = {config.alpha:g}"
    rules.append(Rule("gain", "passed" if better else "failed", words))
    rules += _floors(scores, config)
    rules += _hard_errors(scores)
    return _receipt("improvement", scores, gain, rules, config)


def equivalence_gate(scores: PairedScores, config: GateConfig) -> Receipt:
    """Accept a candidate that is equal: the gain's whole interval within ±bound (two one-sided tests at α).

    For what must be the same and cheaper, such as decoding heads or a few-step student.
    """
    gain = scores.gain(1 - 2 * config.alpha)
    rules = [*_evidence(scores, gain, config)]
    equal = gain.low > -config.bound and gain.high < config.bound
    words = f"difference [{gain.low:+.4g}, {gain.high:+.4g}], allowed ±{config.bound:g}"
    rules.append(Rule("equivalence", "passed" if equal else "failed", words))
    rules += _hard_errors(scores)
    return _receipt("equivalence", scores, gain, rules, config)


def noninferiority_gate(scores: PairedScores, config: GateConfig) -> Receipt:
    """Accept a candidate that is not worse: the gain's lower bound above −loss, floors kept, no more hard errors.

    For what is to be cheaper; that it is, is another rule.
    """
    gain = scores.gain(1 - 2 * config.alpha)
    rules = [*_evidence(scores, gain, config)]
    words = f"gain {gain.effect:+.4g}, lower bound {gain.low:+.4g}, −{config.loss:g} allowed"
    rules.append(Rule("not worse", "passed" if gain.low > -config.loss else "failed", words))
    rules += _floors(scores, config)
    rules += _hard_errors(scores)
    return _receipt("noninferiority", scores, gain, rules, config)


def monotone_gate(scores: PairedScores, config: GateConfig) -> Receipt:
    """Accept a candidate that is no worse on average, as published self-evolution does: half of pure noise passes."""
    gain = scores.gain(1 - 2 * config.alpha)
    known = not math.isnan(gain.effect)
    outcome: Literal["passed", "failed", "missing"] = "missing"
    if known:
        outcome = "passed" if gain.effect >= 0 else "failed"
    return _receipt("monotone", scores, gain, [Rule("gain", outcome, f"gain {gain.effect:+.4g}")], config)


def round_alpha(alpha: float, number: int) -> float:
    """The level of round `number` (from 1) such that all rounds together stay below α: α · 6 / (π² number²)."""
    if number < 1:
        raise ValueError("rounds are counted from 1")
    return alpha * 6 / (math.pi * number) ** 2


def _evidence(scores: PairedScores, gain: Interval, config: GateConfig) -> Iterator[Rule]:
    enough = gain.n >= config.least_groups
    yield Rule(
        "groups",
        "passed" if enough else "missing",
        f"{gain.n} leakage groups, {config.least_groups} needed",
    )
    share = scores.missing
    yield Rule(
        "scores",
        "passed" if share <= config.most_missing else "missing",
        f"{share:.1%} of items lack a score, {config.most_missing:.1%} allowed",
    )


def _floors(scores: PairedScores, config: GateConfig) -> Iterator[Rule]:
    gains, slices = scores.gains, np.asarray(scores.slices or ["all"] * len(scores.items))
    for name in sorted(set(slices.tolist())):
        own = gains[slices == name]
        own = own[~np.isnan(own)]
        floor = config.floors.get(name, config.floor)
        if len(own) >= config.slice_items:
            outcome: Literal["passed", "failed"] = "passed" if own.mean() >= -floor else "failed"
            yield Rule(
                f"floor of {name}", outcome, f"{own.mean():+.4g} on {len(own)} items, −{floor:g} allowed"
            )


def _hard_errors(scores: PairedScores) -> Iterator[Rule]:
    if scores.parent_errors is None or scores.candidate_errors is None:
        return
    before, after = int(scores.parent_errors.sum()), int(scores.candidate_errors.sum())
    yield Rule("hard errors", "passed" if after <= before else "failed", f"{before} before, {after} after")


def _receipt(
    gate: str, scores: PairedScores, gain: Interval, rules: Sequence[Rule], config: GateConfig
) -> Receipt:
    accepted = all(rule.outcome == "passed" for rule in rules)
    return Receipt(gate, accepted, tuple(rules), gain, scores.digest(), config.model_dump(mode="json"))


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None
