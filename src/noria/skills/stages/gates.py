"""The gates of the chain: the paired one (default), the paper's monotone one, and what stands beside both.

The monotone gate (SkillChain, arXiv 2606.12984) accepts a mean that does not fall, F1(B') ≥ F1(B) or J(B') ≥ J(B): half
of pure noise; it is there to be compared with. The paired gate (ours) asks that the mean gain be above 0 and its lower
bound over leakage groups above −tolerance, at α · 6 / (π k)² in round k, and keeps the floors of every skill. Beside
both stand cost, taste for length, and canaries (answers known to be bad that a judge must not like).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from pydantic import Field

from noria.core.config import Config
from noria.core.experiments.gates import (
    GateConfig,
    PairedScores,
    Receipt,
    Rule,
    improvement_gate,
    monotone_gate,
    round_alpha,
)
from noria.core.experiments.power import fixed_units
from noria.skills.judging.judges import BodyJudge, Judged, judge_answers
from noria.skills.judging.rubric import Rubric
from noria.skills.traffic.samples import Response, Sample

GateKind = Literal["paired", "monotone", "off"]


class GateSettings(Config):
    """Settings of the gates of a chain."""

    gate: GateKind = Field("paired", description="Gate: paired evidence, the paper's monotone one, or none.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="One-sided level of all rounds of a stage together.")
    tolerance: float = Field(0.0, ge=0, description="Loss that the lower bound of the gain may still hold.")
    least_groups: int = Field(30, ge=2, description="Leakage groups below which the gate does not decide.")
    floor: float = Field(0.05, ge=0, description="Loss that a skill may show.")
    slice_items: int = Field(20, ge=1, description="Items from which a skill is held to its floor.")
    most_missing: float = Field(0.1, ge=0, le=1, description="Largest share of items without a score.")
    longest: float = Field(1.25, ge=1, description="Growth of a body's length that needs no gain.")

    def core(self, number: int, parts: int = 1) -> GateConfig:
        """Settings of the core's gate in a round, from 1, for one of `parts` equal parts of the round's α."""
        return GateConfig(
            alpha=round_alpha(self.alpha, number) / parts,
            tolerance=self.tolerance,
            least_groups=self.least_groups,
            floor=self.floor,
            slice_items=self.slice_items,
            most_missing=self.most_missing,
        )


def decide(
    scores: PairedScores, settings: GateSettings, *, number: int, parts: int = 1, rules: Sequence[Rule] = ()
) -> Receipt:
    """Decide whether a candidate replaces its parent.

    Args:
        scores: scores of parent and candidate on the same items.
        settings: the gate.
        number: number of the round, from 1; later rounds have less of α.
        parts: this comparison has one of so many equal parts of the round's α.
        rules: further rules, which a monotone gate heeds as little as its publication does.
    """
    if settings.gate == "paired":
        receipt = improvement_gate(scores, settings.core(number, parts))
        listed = (*receipt.rules, *rules)
        return replace(receipt, rules=listed, accepted=all(rule.outcome == "passed" for rule in listed))
    receipt = monotone_gate(scores, settings.core(number, parts))
    if settings.gate == "off":
        rule = Rule("off", "passed", "no gate decides")
        return replace(receipt, gate="off", rules=(rule,), accepted=True)
    return receipt


def needed_items(effect: float, spread: float, settings: GateSettings, *, power: float = 0.8) -> int:
    """Items at which the first round finds a gain of `effect` with this power, for paired gains of this spread.

    One-sided at α₁ = α·6/π²; for printing before a run.
    """
    if effect <= 0 or spread <= 0:
        return 0
    alpha = round_alpha(settings.alpha, 1)
    # fixed_units is of two arms with half of the units each: its spread is 2 (v + v) = 4 v, and a pair's is v.
    units = fixed_units(effect, (spread**2, spread**2), power=power, alpha=2 * alpha)
    return math.ceil(units / 4)


def length_rule(parent: Sequence[Judged], candidate: Sequence[Judged]) -> Rule:
    """A gain that length alone may explain: answers a quarter longer, and the rule path no better."""
    before = float(np.mean([len(j.response.text) for j in parent])) if parent else 0.0
    after = float(np.mean([len(j.response.text) for j in candidate])) if candidate else 0.0
    broken = [
        float(np.mean([len(j.rules.violations) for j in side])) if side else 0.0
        for side in (parent, candidate)
    ]
    grew = before > 0 and after > 1.25 * before
    words = (
        f"{before:.0f} characters before, {after:.0f} after, {broken[0]:.2f} and {broken[1]:.2f} rules broken"
    )
    return Rule("length", "failed" if grew and broken[1] >= broken[0] else "passed", words)


def growth_rule(before: str, after: str, gain: float, settings: GateSettings) -> Rule:
    """A body may not grow beyond the allowed ratio unless it gains at least a point for each further tenth."""
    ratio = len(after) / max(1, len(before))
    allowed = settings.longest + 0.1 * max(0.0, 100 * gain)
    outcome: Literal["passed", "failed"] = (
        "passed" if ratio <= allowed or len(after) - len(before) < 400 else "failed"
    )
    return Rule("growth of the body", outcome, f"{ratio:.2f} times as long, {allowed:.2f} allowed")


@dataclass(frozen=True)
class Canary:
    """A sample with an answer that is known to be bad; a judge that likes it cannot be believed."""

    sample: Sample
    response: Response


def canary_rule(
    canaries: Sequence[Canary],
    rubric: Rubric,
    judge: BodyJudge,
    bodies: Mapping[str, str],
    *,
    most: float = 50.0,
) -> Rule | None:
    """Whether the judge gives every canary less than `most` percent; None without canaries."""
    if not canaries:
        return None
    judged = judge_answers(
        [(c.sample, c.response) for c in canaries], rubric, judge, bodies=bodies, use_rules=False
    )
    liked = [j.sample.id for j in judged if j.score is not None and j.score >= most]
    missing = sum(j.score is None for j in judged)
    outcome: Literal["passed", "failed", "missing"] = (
        "failed" if liked else "missing" if missing else "passed"
    )
    return Rule(
        "canaries", outcome, f"{len(liked)} of {len(judged)} bad answers are liked, {missing} without points"
    )


@dataclass
class Memory:
    """Proposals that a gate rejected; the same one is not tried again."""

    seen: set[str] = field(default_factory=set)

    def known(self, skill: str, text: str) -> bool:
        """Whether this text was rejected for this skill before."""
        return self.key(skill, text) in self.seen

    def reject(self, skill: str, text: str) -> None:
        """Remember a rejection."""
        self.seen.add(self.key(skill, text))

    @staticmethod
    def key(skill: str, text: str) -> str:
        """Digest of a proposal, up to case and blanks."""
        return hashlib.sha256(json.dumps([skill, " ".join(text.casefold().split())]).encode()).hexdigest()
