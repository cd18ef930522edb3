"""From another system's boosts to plans: the biases that keep every share, and what becomes of scores and value.

Boosts that part all candidates among them (one a source, say) move no list together, only against each other. What
they have in common is the inflation, and is taken out: the one with most exposures is left without a boost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import Requests, sums_of
from noria.blending.boosting.scoring import ALL, PlanTables, hits, lists, score, top
from noria.blending.pricing.solving import Goal, Solution, solve
from noria.core.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Migration:
    """Result of a migration.

    Attributes:
        solved: the biases, the shares they reach and how far those are from the old ones.
        exposures: [plans] of the legacy lists, then of the new ones.
        value: Σ y of the legacy lists, and of the new ones.
        boosted: [sources] Σ of |boost| in completions over the legacy lists, beyond what all boosts have in common, and
            over the new ones.
        requests: [requests] value of the legacy list and of the new one, for intervals.
    """

    solved: Solution
    exposures: tuple[Ints, Ints]
    value: tuple[float, float]
    boosted: tuple[Floats, Floats]
    requests: tuple[Floats, Floats]

    @property
    def gap(self) -> float:
        """The largest difference of a plan's share of exposures."""
        return float(self.solved.missed.max(initial=0.0))


def legacy_lists(legacy: Floats, value: Floats, start: Ints, size: int) -> Ints:
    """[requests, K] rows of the lists by legacy score, ties by value; −1 where one is shorter."""
    result = np.full((len(start) - 1, size), -1, np.int64)
    for request, (first, end) in enumerate(zip(start[:-1].tolist(), start[1:].tolist(), strict=True)):
        rows = top(legacy[first:end], value[first:end], size)
        rows = rows[np.isfinite(legacy[first + rows])]
        result[request, : len(rows)] = first + rows
    return result


def migrate(
    requests: Requests,
    legacy: Floats,
    lifted: Floats,
    plans: int,
    size: int,
    *,
    sources: Ints | None = None,
    tolerance: float = 2e-4,
    rounds: int = 600,
) -> Migration:
    """Biases under which every plan has as many exposures as under the legacy scores.

    Args:
        requests: candidates; bit p of the mask is boost p.
        legacy: [rows] α' z, what the legacy lists are sorted by.
        lifted: [rows] what the legacy boosts add in completions, beyond what all of them have in common.
        plans: number of plans.
        size: number of places K of a list.
        sources: [rows] code of each candidate's source, to tell the inflation of each.
        tolerance: difference of shares that is let pass.
        rounds: most rounds of the solver.
    """
    old = legacy_lists(legacy, requests.value, requests.start, size)
    before = exposures_of(requests, old, plans)
    goals = [Goal(p, int(before[p]), exactly=True) for p in range(plans)]
    parted = partition(requests.mask, before)
    if parted is not None:  # one of them is enough determined by the rest
        goals = [goal for goal in goals if goal.plan != parted]
    empty = PlanTables.idle(plans)
    solved = solve(requests, empty, size, goals, tolerance=tolerance, rounds=rounds)
    new = lists(requests.value, requests.mask, requests.start, ALL, solved.tables, size)[:, 0]
    r, _ = score(requests.value, requests.mask, solved.tables)
    codes = np.zeros(len(requests.value), np.int64) if sources is None else sources
    values = [sums_of(requests.value, rows) for rows in (old, new)]
    return Migration(
        solved,
        (before, exposures_of(requests, new, plans)),
        (float(values[0].sum()), float(values[1].sum())),
        (_by_source(np.abs(lifted), old, codes), _by_source(np.abs(r - requests.value), new, codes)),
        (values[0], values[1]),
    )


def aligned_after(
    score: Floats, boosted: Floats, value: Floats, sources: Ints, *, names: Sequence[str] = ()
) -> tuple[Floats, Floats]:
    """Legacy scores of a system that aligns after boosting, which takes in what the boosts have in common.

    Args:
        score: [rows] raw scores x, above 0.
        boosted: [rows] boosted scores z; not finite for what the old system leaves out.
        value: [rows] y = α x.
        sources: [rows] number of each row's source.
        names: names of the sources, for the error.

    Returns:
        [rows] α' z with α' = α · mean x / mean z of the source, −inf for what is left out; and [rows] boosts
        α z / c − y, with c the factor Σ α z / Σ y that all have in common: to raise every boost alike moves nothing,
        and counts nothing.

    Raises:
        DataError: a source's boosted scores are not above zero in the mean, so that nothing aligns them.
    """
    scale = value / score
    kept = np.isfinite(boosted)
    means = [
        np.bincount(sources[kept], weights=column[kept], minlength=int(sources.max(initial=0)) + 1)
        for column in (score, boosted)
    ]
    lost = np.flatnonzero((np.bincount(sources[kept], minlength=len(means[0])) > 0) & ~(means[1] > 0))
    if len(lost):
        name = names[int(lost[0])] if names else str(int(lost[0]))
        raise DataError(
            "its boosted scores are not above 0 in the mean, so that no unit can be given to them",
            where=f"source {name!r}",
            mend="correct the boosts that hit it",
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        after = scale * (means[0] / means[1])[sources] * boosted
    common = float((scale * boosted)[kept].sum() / value[kept].sum())
    return np.where(kept, after, -np.inf), np.where(kept, scale * boosted / common - value, 0.0)


def partition(mask: NDArray[np.uint64], exposures: Sequence[int] | Ints) -> int | None:
    """The plan with most exposures among plans that together hit every candidate once; None if there are none."""
    plans = len(exposures)
    counts = [int(hits(mask, p).sum()) for p in range(plans)]
    covered = np.zeros(len(mask), np.bool_)
    chosen: list[int] = []
    for plan in sorted(range(plans), key=lambda p: -counts[p]):
        hit = hits(mask, plan)
        if counts[plan] and not (covered & hit).any():
            covered |= hit
            chosen.append(plan)
    if not len(mask) or not covered.all():
        return None
    return max(chosen, key=lambda p: int(exposures[p]))


def exposures_of(requests: Requests, rows: Ints, plans: int) -> Ints:
    """[plans] how many candidates of lists each plan hits."""
    mask = requests.mask[rows[rows >= 0]]
    return np.array([int(hits(mask, p).sum()) for p in range(plans)], np.int64)


def _by_source(amount: Floats, rows: Ints, codes: Ints) -> Floats:
    shown = rows[rows >= 0]
    result = np.bincount(codes[shown], weights=amount[shown], minlength=int(codes.max(initial=0)) + 1)
    return result.astype(np.float64)
