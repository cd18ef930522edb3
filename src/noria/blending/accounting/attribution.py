"""Costs and returns of each plan: accounts, leave-one-out with its certified bound, Shapley values, lift.

With A the list under all plans, r^{-p} the scores without plan p, and B_p the list under them:

    spend          C_p = Σ_A s_p                            expected completions; sums over plans to Σ_A (r − y − g)
    displacement   E_p = |A ∩ p| − |B_p ∩ p|                exposures that the plan alone accounts for
    value cost     D_p = Σ_{B_p} y − Σ_A y                  of either sign
    regret         R_p = Σ_{B_p} r^{-p} − Σ_A r^{-p} ≥ 0
    bound          R_p ≤ Σ_A Δ_p − Σ_{B_p} Δ_p,   Δ_p = r − r^{-p}

B_p is the best list under r^{-p}, which gives the left end, and A under r = r^{-p} + Δ_p, which gives the right one;
without guards Δ_p = s_p, and where s_p ≥ 0 the bound is at most C_p. So the number that the log alone gives bounds
the harm. Scores add up over plans; exposures do not: of the numbers above only spend sums, and Shapley values do.
Uniboost (arXiv 2605.26424) promises costs that add up; these definitions are ours.

All lists are those before slot rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from noria.blending.boosting.scoring import ALL, PlanTables, hits, lists, members, score

Floats = NDArray[np.float64]
Masks = NDArray[np.uint64]
Ints = NDArray[np.int64]

EXACT_PLANS = 12
"""Plans of one request up to which Shapley values are exact: 4,096 lists."""


@dataclass(frozen=True, eq=False)
class Requests:
    """Candidates of many requests, one request after the other.

    Attributes:
        value: [rows] values y.
        mask: [rows] plans that hit each.
        start: [requests + 1] the first row of each request, and the end.
    """

    value: Floats
    mask: Masks
    start: Ints

    def __len__(self) -> int:
        return len(self.start) - 1

    def take(self, requests: Ints) -> Requests:
        """Some of the requests."""
        sizes = self.start[requests + 1] - self.start[requests]
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.repeat(self.start[requests] - start[:-1], sizes) + np.arange(start[-1])
        return Requests(self.value[rows], self.mask[rows], start)


def values_of(column: Floats, rows: Ints) -> Floats:
    """A column's numbers at the rows of lists, 0 at the places that a shorter list leaves open (row −1)."""
    if not len(column):
        return np.zeros(rows.shape)
    return np.where(rows >= 0, column[rows], 0.0)


def sums_of(column: Floats, rows: Ints) -> Floats:
    """[requests] sums of a column over lists, [requests, K] rows."""
    result: Floats = values_of(column, rows).sum(axis=-1)
    return result


def _bit(plan: int) -> np.uint64:
    return np.uint64(1 << plan)


@dataclass(frozen=True, eq=False)
class Displacement:
    """Each plan's account of each request; arrays are [requests, plans] unless noted.

    Attributes:
        lists: [requests, K] rows of A, −1 where a list is shorter.
        without: [requests, plans, K] rows of B_p.
        spend: Σ_A s of each plan, C.
        exposures: |A ∩ p|.
        exposures_without: |B_p ∩ p|.
        value: [requests] Σ_A y.
        value_cost: value that the plan costs the list, D.
        regret: score that the plan costs the list, R.
        bound: upper bound of the regret.
        moved: [requests] Σ_A |r − y|.
        guard: [requests] Σ_A g.
    """

    lists: Ints
    without: Ints
    spend: Floats
    exposures: Floats
    exposures_without: Floats
    value: Floats
    value_cost: Floats
    regret: Floats
    bound: Floats
    moved: Floats
    guard: Floats

    def take(self, requests: Ints) -> Displacement:
        """Some of the requests; rows stay those of all of them."""
        return Displacement(*(getattr(self, one.name)[requests] for one in fields(self)))

    @property
    def inflation(self) -> float | None:
        """Σ_A |r − y| / Σ_A y: how much of the scores is boost; None where nothing has a value."""
        total = float(self.value.sum())
        return float(self.moved.sum()) / total if total > 0 else None


def displace(requests: Requests, tables: PlanTables, size: int) -> Displacement:
    """Leave each plan out of each request in turn.

    Args:
        requests: candidates of all requests.
        tables: weights, biases and guards of the plans.
        size: number of places K of a list.
    """
    y, mask, plans = requests.value, requests.mask, len(tables)
    r, taken = score(y, mask, tables)
    without = np.array([~_bit(plan) for plan in range(plans)], np.uint64)
    result = lists(y, mask, requests.start, np.concatenate([ALL, without]), tables, size)
    shown, others = result[:, 0], result[:, 1:]
    accounts = np.zeros((6, len(requests), plans))
    for plan in range(plans):
        hit = hits(mask, plan)
        bare = np.where(hit, score(y, mask & ~_bit(plan), tables)[0], r)
        spent = np.where(hit, tables.weight[plan] * y + tables.bias[plan], 0.0)
        there, here = (
            [sums_of(column, rows) for column in (hit.astype(float), y, bare, r - bare)]
            for rows in (others[:, plan], shown)
        )
        cost, regret, bound = (out - now for out, now in zip(there[1:], here[1:], strict=True))
        accounts[:, :, plan] = sums_of(spent, shown), here[0], there[0], cost, regret, -bound
    spend, exposures, outside, cost, regret, bound = accounts
    return Displacement(
        lists=shown,
        without=others,
        spend=spend,
        exposures=exposures,
        exposures_without=outside,
        value=sums_of(y, shown),
        value_cost=cost,
        regret=regret,
        bound=bound,
        moved=sums_of(np.abs(r - y), shown),
        guard=sums_of(taken, shown),
    )


def lift(requests: Requests, displaced: Displacement, gain: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The lift of each plan: Σ_{A ∩ p} g − Σ_{B_p ∩ p} g.

    Args:
        requests: the requests that were displaced.
        displaced: lists with and without each plan.
        gain: [rows] g, the plan's own figure of each candidate: observed where it was shown, predicted elsewhere; NaN
            where there is neither.

    Returns:
        [requests, plans] lift; and [plans] how many candidates had no gain, and are left out of it.
    """
    plans = displaced.without.shape[1]
    total, lost = np.zeros((len(requests), plans)), np.zeros(plans, np.int64)
    known = np.isfinite(gain)
    filled = np.where(known, gain, 0.0)
    for plan in range(plans):
        hit = hits(requests.mask, plan)
        ours = np.where(hit, filled, 0.0)
        unknown = (hit & ~known).astype(float)
        shown, rows = displaced.lists, displaced.without[:, plan]
        total[:, plan] = sums_of(ours, shown) - sums_of(ours, rows)
        lost[plan] = round(values_of(unknown, shown).sum() + values_of(unknown, rows).sum())
    return total, lost


@dataclass(frozen=True, eq=False)
class Shapley:
    """Shapley values of the game V(S) = Σ y over the list under the plans S.

    Attributes:
        value: [requests, plans]; each request sums to V(all) − V(∅).
        error: [requests, plans] standard error; 0 where it is exact.
        total: [requests] V(all) − V(∅).
    """

    value: Floats
    error: Floats
    total: Floats


def shapley(
    requests: Requests,
    tables: PlanTables,
    size: int,
    *,
    generator: np.random.Generator,
    permutations: int = 64,
    exact: int = EXACT_PLANS,
) -> Shapley:
    """Shares of the plans in the value of each list, which sum to what all of them change.

    Exact where at most `exact` plans hit a request's candidates; above that, the mean over random orders of the plans
    and their reverses.

    Args:
        requests: candidates of all requests.
        tables: weights, biases and guards of the plans.
        size: number of places K of a list.
        generator: draws the orders.
        permutations: number of random orders, even.
        exact: 2^exact lists are made of a request at most.
    """
    plans = len(tables)
    value, error = np.zeros((len(requests), plans)), np.zeros((len(requests), plans))
    total = np.zeros(len(requests))
    for number in range(len(requests)):
        one = requests.take(np.array([number]))
        present = int(np.bitwise_or.reduce(one.mask)) if len(one.mask) else 0
        active = [plan for plan in range(plans) if present >> plan & 1]
        if not active:
            continue
        if len(active) <= exact:
            coalitions = _subsets(active)
            worth = _worth(one, tables, size, coalitions)
            value[number, active] = _exact(worth, len(active))
            total[number] = worth[-1] - worth[0]
        else:
            half = max(1, permutations // 2)
            orders = np.array([generator.permutation(active) for _ in range(half)])
            orders = np.concatenate([orders, orders[:, ::-1]])
            steps = np.array([[1 << int(plan) for plan in order] for order in orders], np.uint64)
            prefixes = np.bitwise_or.accumulate(steps, axis=1)
            worth = _worth(one, tables, size, np.concatenate([[np.uint64(0)], prefixes.ravel()]))
            along = np.column_stack([np.full(len(orders), worth[0]), worth[1:].reshape(prefixes.shape)])
            gains = np.diff(along, axis=1)
            ordered = np.take_along_axis(gains, np.argsort(orders, axis=1), axis=1)
            pairs = (ordered[:half] + ordered[half:]) / 2
            value[number, active] = pairs.mean(axis=0)
            if half > 1:
                error[number, active] = pairs.std(axis=0, ddof=1) / math.sqrt(half)
            total[number] = along[0, -1] - along[0, 0]
    return Shapley(value, error, total)


def _subsets(active: Sequence[int]) -> Masks:
    """Every choice of the plans, [2^n]; entry k has those whose bits are set in k."""
    result = np.zeros(1, np.uint64)
    for plan in active:
        result = np.concatenate([result, result | _bit(plan)])
    return result


def _worth(one: Requests, tables: PlanTables, size: int, coalitions: Masks) -> Floats:
    return sums_of(one.value, lists(one.value, one.mask, one.start, coalitions, tables, size)[0])


def _exact(worth: Floats, plans: int) -> Floats:
    """Σ over coalitions without p of |S|! (n − |S| − 1)! / n! (V(S ∪ p) − V(S))."""
    index = np.arange(len(worth))
    sizes = members(index.astype(np.uint64), plans).sum(axis=1)
    share = np.array(
        [math.factorial(s) * math.factorial(plans - s - 1) / math.factorial(plans) for s in range(plans)]
    )
    result = np.empty(plans)
    for plan in range(plans):
        bare = index[(index >> plan & 1) == 0]
        result[plan] = (share[sizes[bare]] * (worth[bare | 1 << plan] - worth[bare])).sum()
    return result
