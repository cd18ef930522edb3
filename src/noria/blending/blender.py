"""One request, one snapshot, one ranked list with its account: what the service and the replay call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.boosting import scoring
from noria.blending.boosting.scoring import PlanTables
from noria.blending.boosting.slots import Rule, place
from noria.blending.columns import Candidates, Column
from noria.blending.plans.matching import evaluate
from noria.blending.plans.plans import Plan, SlotRule
from noria.blending.plans.targeting import columns_of
from noria.blending.snapshot import Snapshot
from noria.core.errors import DataError

MAX_SIZE = 100_000
"""Most places of a list."""


@dataclass(frozen=True, eq=False)
class RankedList:
    """A list of K candidates with the account of each score: score = value + Σ contributions + guard.

    Attributes:
        order: [K] rows of the request, the best first.
        score: [K] scores r.
        value: [K] y, expected effective completions.
        contributions: [K, plans] s, before the guards.
        guard: [K] what the guards took (or gave back).
        mask: [K] plans that hit each; bit p is `plans[p]`.
        plans: ids in the order of the bits.
        natural: [K] the place, from 0, that each would have without slot rules.
        slot_cost: Σ score of the best K less Σ score of this list: what slot rules displaced; 0 without rules.
        dropped: candidates left out, by reason.
        fallback: candidates whose key had no aligner of its own, so that a broader one stood in.
        absent: columns that a plan or rule asks for and the request does not have.
        snapshot: digest of what ranked.
        version: version of what ranked.
    """

    order: NDArray[np.int64]
    score: NDArray[np.float64]
    value: NDArray[np.float64]
    contributions: NDArray[np.float64]
    guard: NDArray[np.float64]
    mask: NDArray[np.uint64]
    plans: tuple[str, ...]
    natural: NDArray[np.int64]
    slot_cost: float
    dropped: Mapping[str, int]
    fallback: int
    absent: tuple[str, ...]
    snapshot: str
    version: int

    def __len__(self) -> int:
        return len(self.order)

    def explain(self, rank: int) -> dict[str, Any]:
        """The account of the candidate at a place, from 0: {rank, row, score, value, plans, guard, natural}."""
        return {
            "rank": rank,
            "row": int(self.order[rank]),
            "score": float(self.score[rank]),
            "value": float(self.value[rank]),
            "plans": {
                plan: float(self.contributions[rank, bit])
                for bit, plan in enumerate(self.plans)
                if int(self.mask[rank]) >> bit & 1
            },
            "guard": float(self.guard[rank]),
            "natural": int(self.natural[rank]),
        }


class Blender:
    """Ranks requests with one snapshot. It never changes, so threads may share it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.plans = tuple(snapshot.plans.ids)
        self._resting = [snapshot.resting(plan) for plan in self.plans]
        self._targeting = [plan.targeting for plan in snapshot.plans.plans]
        request: set[str] = set()
        parts: list[Plan | SlotRule] = [*snapshot.plans.plans, *snapshot.plans.slots]
        for part in parts:
            request |= columns_of(part.targeting)
        self.asked = sorted(request)

    @cached_property
    def tables(self) -> PlanTables:
        """The plans as numbers."""
        pairs = [self.snapshot.weight_and_bias(plan) for plan in self.plans]
        guards = self.snapshot.plans.guards
        return PlanTables.of(
            [w for w, _ in pairs],
            [b for _, b in pairs],
            [plan.cap for plan in self.snapshot.plans.plans],
            total_cap=guards.total_cap,
            floor=guards.floor,
            mean_value=self.snapshot.alignment.mean_value,
        )

    def masks(
        self,
        columns: Mapping[str, Column],
        rows: int,
        *,
        at: float | None = None,
        active: Sequence[bool] | None = None,
    ) -> NDArray[np.uint64]:
        """Which plans that are on hit each candidate.

        Args:
            columns: columns of the candidates.
            rows: number of candidates.
            at: seconds since 1970 UTC, needed where a plan has a schedule.
            active: which plans are on; those that are at the time by default.

        Returns:
            [rows] masks; bit p is plan p.

        Raises:
            DataError: a column is not of the kind that a plan takes it for.
            ConfigError: a plan has a schedule and there is no time.
        """
        mask, one = np.zeros(rows, np.uint64), np.zeros(rows, np.uint64)
        active = self.snapshot.plans.active(at) if active is None else active
        for bit, (plan, targeting) in enumerate(zip(self.plans, self._targeting, strict=True)):
            if active[bit] and not self._resting[bit]:
                try:
                    hit = evaluate(targeting, columns, rows)
                except DataError as error:
                    raise DataError(
                        error.what, where=f"plan {plan!r}, {error.where}", mend=error.mend
                    ) from None
                np.bitwise_or(mask, np.multiply(hit, np.uint64(1 << bit), out=one), out=mask)
        return mask

    def rank(
        self,
        columns: Candidates | Mapping[str, Any],
        size: int,
        *,
        scene: str = "",
        at: float | None = None,
        mask: NDArray[np.uint64] | None = None,
    ) -> RankedList:
        """Rank a request's candidates.

        A candidate whose score is not finite, or whose source has no aligner, is left out and counted: one broken
        model does not take the page down, and no account is made of a number that is not there.

        Args:
            columns: `item`, `score`, `source`, perhaps `version`, and what plans are targeted on.
            size: number of places K of a list.
            scene: place of the list, for columns given as a mapping.
            at: seconds since 1970 UTC, needed where a plan has a schedule.
            mask: plans that hit each candidate, where the caller has them from `masks`.

        Raises:
            DataError: columns that cannot be used, or a size out of range.
            ConfigError: a plan has a schedule and there is no time.
        """
        if not 0 <= size <= MAX_SIZE:
            raise DataError(f"a list of {size}", where="size", mend=f"ask for 0 to {MAX_SIZE:,} places")
        result = columns if isinstance(columns, Candidates) else Candidates.of(columns, scene=scene)
        if mask is None:
            mask = self.masks(result.columns, len(result), at=at)
        aligned = self.snapshot.alignment.align(result)
        y = aligned.value
        good = np.isfinite(y)
        dropped: dict[str, int] = {}
        rows = None
        if not good.all():
            rows = np.flatnonzero(good)
            dropped = _reasons(result, aligned.unknown, good)
            y, mask = y[rows], mask[rows]
        rules = self.rules(result.columns, len(result), rows)
        best, *account = scoring.ranked(y, mask, self.tables, len(y) if rules else size)
        chosen = np.arange(len(best))  # places among the best
        cost = 0.0
        if rules:
            chosen = place(best, rules, size)
            cost = float(account[0][: len(chosen)].sum() - account[0][chosen].sum())
        score, value, taken, shares = (column[chosen] for column in account) if rules else account
        kept = best[chosen]
        return RankedList(
            order=kept if rows is None else rows[kept],
            score=score,
            value=value,
            contributions=shares,
            guard=taken,
            mask=mask[kept],
            plans=self.plans,
            natural=chosen,
            slot_cost=cost,
            dropped=dropped,
            fallback=int(aligned.fallback.sum()),
            absent=tuple(name for name in self.asked if name not in result.columns),
            snapshot=self.snapshot.digest,
            version=self.snapshot.version,
        )

    def rules(
        self, columns: Mapping[str, Column], count: int, rows: NDArray[np.int64] | None = None
    ) -> list[Rule]:
        """The slot rules on candidates.

        Args:
            columns: columns of the candidates.
            count: number of candidates.
            rows: candidates that are ranked; all by default.

        Raises:
            DataError: a column is not of the kind that a rule takes it for.
        """
        kept = slice(None) if rows is None else rows
        return [
            Rule(evaluate(rule.targeting, columns, count)[kept], rule.gap, rule.at_most, rule.first, rule.run)
            for rule in self.snapshot.plans.slots
        ]


def _reasons(candidates: Candidates, unknown: NDArray[np.bool_], good: NDArray[np.bool_]) -> dict[str, int]:
    """Numbers of candidates left out, by reason."""
    finite = np.isfinite(candidates.score)
    missing = candidates.source.codes < 0
    counts = {
        "score not finite": int((~finite).sum()),
        "source missing": int((finite & missing).sum()),
        "source without alignment": int((finite & unknown & ~missing).sum()),
        "value not finite": int((finite & ~unknown & ~good).sum()),
    }
    return {reason: count for reason, count in counts.items() if count}
