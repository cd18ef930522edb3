"""The two atomic rewards: r_cog on the plan alone (eq. 1) and r_vis on the picture alone (eq. 2).

    r_cog(a) = 1/N Σ_j R(x, u, a, q_j)      r_vis(y) = 1/M Σ_k R(x, u, y, q_k)      (DDA-Thinker, arXiv 2604.25477)

for source picture x, request u, plan a and edited picture y, with R = 1 where the answer to item q is good, else 0.
Each is the share of good answers among the valid ones of its path's items. A reward that could not be had is None and
is masked: no items, too few valid ones, no picture, a canary that was answered wrongly. An output without a plan is the
policy's own fault: its reward is 0 on both paths [RECONSTRUCTED: cheaper and harder to hack than a term for the
format].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from noria.core.judging.items import Checklist, Verdict
from noria.core.judging.scores import Score, score
from noria.editing.checklists.items import items_of, part
from noria.editing.types import Path

LEAST_COVERAGE = 0.5
"""Least share of a path's weight that valid verdicts must have, for the reward to count."""


@dataclass(frozen=True)
class AtomicReward:
    """Reward of one path.

    Attributes:
        value: Σ weight of good items / Σ weight of valid ones, in [0, 1]; None where it is masked.
        why: why it is masked, in a word: `empty`, `invalid`, `canary`, `no picture`, `gated`; or `no plan` where it is
            0.
        valid, invalid: number of items with and without a verdict that can be used, canaries apart.
        strict: whether every item is good; None where that is open.
    """

    value: float | None
    why: str = ""
    valid: int = 0
    invalid: int = 0
    strict: bool | None = None


NO_PLAN = AtomicReward(0.0, "no plan", strict=False)
"""Reward of an output without a plan, on both paths."""


def masked(why: str) -> AtomicReward:
    """A reward that could not be had, and why."""
    return AtomicReward(None, why)


def atomic_reward(
    checklist: Checklist, verdicts: Sequence[Verdict], path: Path, *, least_coverage: float = LEAST_COVERAGE
) -> AtomicReward:
    """R = Σ w_j [answer_j is good] / Σ w_j over the valid items j of one path.

    Args:
        checklist: items of both paths, or of one.
        verdicts: verdicts of any items, in any order; an item without one is invalid.
        path: path to score.
        least_coverage: least valid weight as a share of all.
    """
    given = {one.item: one.value for one in verdicts}
    canaries = [item for item in items_of(checklist, path) if item.role == "canary"]
    if any(given.get(item.id) not in (item.good, "invalid", None) for item in canaries):
        return masked("canary")
    items = part(checklist, path, canaries=False)
    result: Score = score(items, verdicts)
    if not len(items):
        return masked("empty")
    weight = sum(item.weight for item in items.items)
    known = sum(item.weight for item in items.items if given.get(item.id, "invalid") != "invalid")
    value, why = result.value, ""
    if value is None or known < least_coverage * weight:
        value, why = None, "invalid"
    return AtomicReward(value, why, result.valid, result.invalid, result.perfect)


def cognitive_reward(checklist: Checklist, verdicts: Sequence[Verdict]) -> AtomicReward:
    """r_cog of a plan, from the verdicts on the cognitive items (eq. 1)."""
    return atomic_reward(checklist, verdicts, "cognitive")


def visual_reward(checklist: Checklist, verdicts: Sequence[Verdict]) -> AtomicReward:
    """r_vis of a picture, from the verdicts on the visual items (eq. 2)."""
    return atomic_reward(checklist, verdicts, "visual")


def fails_required(checklist: Checklist, verdicts: Sequence[Verdict]) -> bool:
    """Whether a plan fails a required cognitive item: it is not rendered, and r_vis is masked, not 0."""
    given = {one.item: one.value for one in verdicts}
    return any(
        item.required and given.get(item.id, "invalid") not in (item.good, "invalid")
        for item in items_of(checklist, "cognitive")
    )
