"""From targets to boosts: the dual of the allocation, its prices, and the frontier.

    max Σ_t Σ_{v ∈ A_t} y_v    with   Σ_t |A_t ∩ p| ≥ T_p   and   Σ_t Σ_{v ∈ A_t ∩ q} y_v ≥ G_q

Its Lagrangian falls apart into one sort a request, by y + Σ_p λ_p 1_p + Σ_q μ_q 1_q y: the linear boost with b_p =
λ_p, the price of one more exposure, and w_q = μ_q, the price of one more completion. For whatever shares the sorted
lists reach, no other lists with at least those shares have more value (Everett's theorem), so the only question is to
reach the targets. Each plan's share rises with its own boost; steps grow while the sign of the error stays and shrink
when it turns (RPROP), and a bisection a plan ends the search. The form is Uniboost's (arXiv 2605.26424, Eq. 2); the
problem and its prices are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.attribution import Requests, values_of
from noria.blending.boosting.scoring import ALL, PlanTables, hits, lists
from noria.blending.plans.plans import Plan
from noria.core.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """A target of one plan, over all the requests that it is solved on.

    Attributes:
        plan: bit of the plan.
        amount: exposures, or value where the weight is moved.
        moves: what is solved for.
        exactly: reach it from either side; otherwise a plan that is above it by itself has no boost.
    """

    plan: int
    amount: float
    moves: Literal["bias", "weight"] = "bias"
    exactly: bool = False


@dataclass(frozen=True)
class Solution:
    """Boosts that reach targets.

    Attributes:
        tables: the plans with them.
        price: [goals] λ or μ.
        reached: [goals] exposures or value.
        missed: [goals] how far from the goal, as a share of all exposures (or of all value); 0 where it is reached.
        value: Σ_A y over all lists.
        loss: at most so much less than the best lists for these goals have; None where there are goals to meet exactly
            or guards, for which there is no such bound.
        rounds: number of rankings of all requests.
    """

    tables: PlanTables
    price: Floats
    reached: Floats
    missed: Floats
    value: float
    loss: float | None
    rounds: int


def solve(
    requests: Requests,
    tables: PlanTables,
    size: int,
    goals: Sequence[Goal],
    *,
    tolerance: float = 2e-4,
    rounds: int = 400,
) -> Solution:
    """Find the boosts of the plans that have goals; the other plans stay as they are.

    Args:
        requests: candidates of logged requests.
        tables: numbers of the plans; those with goals start from their own boosts.
        size: number of places K of a list.
        goals: at most one a plan.
        tolerance: largest `missed` that is let pass.
        rounds: most rankings of all requests.
    """
    search = _Search(requests, tables, size, list(goals), rounds)
    best = search.rprop(tolerance)
    best = search.bisect(best, tolerance)
    solved = search.tables_at(best)
    got, value = search.measure(best)
    missed = search.missed(best, got)
    unguarded = np.isinf(tables.cap).all() and np.isinf(tables.total_cap) and np.isinf(tables.floor)
    loss = None
    if unguarded and not any(goal.exactly for goal in goals) and not missed.any():
        # The dual's value less the primal's: multipliers times what is above the goals.
        loss = float((best * (got - search.amount)).sum())
    return Solution(solved, best, got, missed, value, loss, search.used)


def reached(requests: Requests, tables: PlanTables, size: int, goals: Sequence[Goal]) -> tuple[Floats, float]:
    """[goals] exposures or value of the goals' plans, and the value of all lists."""
    rows = lists(requests.value, requests.mask, requests.start, ALL, tables, size)[:, 0]
    rows = rows[rows >= 0]
    y, mask = requests.value[rows], requests.mask[rows]
    result = np.empty(len(goals))
    for number, goal in enumerate(goals):
        hit = hits(mask, goal.plan)
        result[number] = hit.sum() if goal.moves == "bias" else y[hit].sum()
    return result, float(y.sum())


class _Search:
    """The boosts under search, and how often they were tried."""

    def __init__(
        self, requests: Requests, tables: PlanTables, size: int, goals: list[Goal], rounds: int
    ) -> None:
        self.requests, self.tables, self.size, self.goals, self.rounds = requests, tables, size, goals, rounds
        self.amount = np.array([goal.amount for goal in goals])
        self.exactly = np.array([goal.exactly for goal in goals], np.bool_)
        self.weights = np.array([goal.moves == "weight" for goal in goals], np.bool_)
        self.plan = np.array([goal.plan for goal in goals], np.int64)
        places = np.minimum(np.diff(requests.start), size).sum()
        rows = lists(
            requests.value, np.zeros_like(requests.mask), requests.start, np.zeros(1, np.uint64), tables, size
        )[:, 0]
        self.scale = np.where(
            self.weights, max(values_of(requests.value, rows).sum(), 1e-300), max(1, places)
        )
        size_of_value = float(np.abs(requests.value).mean()) if len(requests.value) else 0.0
        self.unit = np.where(self.weights, 1.0, size_of_value or 1.0)
        self.used = 0

    def tables_at(self, boost: Floats) -> PlanTables:
        weight, bias = self.tables.weight.copy(), self.tables.bias.copy()
        weight[self.plan[self.weights]] = boost[self.weights]
        bias[self.plan[~self.weights]] = boost[~self.weights]
        return self.tables.repriced(weight, bias)

    def measure(self, boost: Floats) -> tuple[Floats, float]:
        self.used += 1
        return reached(self.requests, self.tables_at(boost), self.size, self.goals)

    def error(self, boost: Floats, got: Floats) -> Floats:
        """Distance of each plan below its goal, as a share; 0 for one that is above it by itself."""
        result = (self.amount - got) / self.scale
        return np.where(~self.exactly & (result < 0) & (boost <= 0), 0.0, result)

    def missed(self, boost: Floats, got: Floats) -> Floats:
        """Distance that is left; being above a goal by less than one exposure a plan is none."""
        below: Floats = (self.amount - got) / self.scale
        return np.where(self.exactly, np.abs(below), np.maximum(below, 0.0))

    def clipped(self, boost: Floats) -> Floats:
        return np.where(self.exactly, boost, np.maximum(boost, 0.0))

    def rprop(self, tolerance: float) -> Floats:
        boost = np.where(self.weights, self.tables.weight[self.plan], self.tables.bias[self.plan])
        boost = self.clipped(boost)
        step = 0.1 * self.unit
        before = np.zeros(len(boost))
        best, least = boost, np.inf
        while self.used < self.rounds * 2 // 3:
            got, _ = self.measure(boost)
            error = self.error(boost, got)
            worst = float(np.abs(error).max(initial=0.0))
            if worst < least:
                best, least = boost, worst
            if worst <= tolerance / 2 or (step < 1e-9 * self.unit).all():
                break
            turned = np.sign(error) * np.sign(before)
            step = np.clip(
                np.where(turned > 0, step * 1.3, np.where(turned < 0, step * 0.5, step)), 0, self.unit
            )
            boost = self.clipped(boost + np.sign(error) * step)
            before = error
        return best

    def bisect(self, boost: Floats, tolerance: float) -> Floats:
        """Plan by plan, the least boost that reaches its goal, the others as they are; the worst first."""
        best = boost
        got, _ = self.measure(best)
        least = float(np.abs(self.error(best, got)).max(initial=0.0))
        while least > tolerance and self.used < self.rounds:
            error = self.error(best, got)
            number = int(np.abs(error).argmax())
            tried = self._one(best, number)
            got_tried, _ = self.measure(tried)
            after = float(np.abs(self.error(tried, got_tried)).max())
            if after >= least - 1e-12:
                break
            best, got, least = tried, got_tried, after
        for number in np.flatnonzero(self.missed(best, got) > 0).tolist():  # from just below to just above
            if not self.exactly[number] and self.used < self.rounds + 40 * len(best):
                best = self._one(best, number)
        return best

    def _one(self, boost: Floats, number: int) -> Floats:
        unit = float(self.unit[number])

        def enough(value: float) -> bool:
            trial = boost.copy()
            trial[number] = value
            return bool(self.measure(trial)[0][number] >= self.amount[number])

        low = high = float(boost[number])
        width = 0.01 * unit
        if enough(high):
            while enough(low) and width < 1e3 * unit:
                if not self.exactly[number] and low <= 0:
                    break
                high, low, width = low, low - width, width * 2
        else:
            while not enough(high) and width < 1e3 * unit:
                low, high, width = high, high + width, width * 2
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if enough(middle) else (middle, high)
            if high - low < 1e-9 * unit:
                break
        result = boost.copy()
        result[number] = high
        return self.clipped(result)


@dataclass(frozen=True)
class FrontierPoint:
    """A point of the frontier: the cost of one more share of exposures.

    Attributes:
        target, reached: amount of the plan, as a share of all exposures (or of all value).
        price: λ, expected completions an exposure more (or μ, a completion more).
        value: Σ_A y over all lists.
        cost: value that the plan's boost takes.
    """

    target: float
    reached: float
    price: float
    value: float
    cost: float


def frontier(
    requests: Requests,
    tables: PlanTables,
    size: int,
    goal: Goal,
    shares: Sequence[float],
    *,
    others: Sequence[Goal] = (),
    tolerance: float = 2e-4,
) -> list[FrontierPoint]:
    """The price and the cost of one plan's target as it rises, the other goals kept.

    Args:
        requests: candidates of logged requests.
        tables: weights, biases and guards of the plans.
        size: number of places K of a list.
        goal: goal of the plan; its amount is not used.
        shares: shares to try, of all exposures, or of the value of the lists without boosts where the weight is moved.
        others: goals of other plans.
        tolerance: difference of shares that is let pass.
    """
    result = []
    now = tables
    base = _without(tables, [goal.plan])
    if others:
        base = solve(requests, base, size, others, tolerance=tolerance).tables
    _, free = reached(requests, base, size, [goal])
    scale = _Search(requests, tables, size, [goal], 1).scale[0]
    for share in sorted(shares):
        wanted = [replace(goal, amount=share * scale), *others]
        solved = solve(requests, now, size, wanted, tolerance=tolerance)
        now = solved.tables
        result.append(
            FrontierPoint(
                share,
                float(solved.reached[0] / scale),
                float(solved.price[0]),
                solved.value,
                free - solved.value,
            )
        )
    return result


def _without(tables: PlanTables, bits: Sequence[int]) -> PlanTables:
    weight, bias = tables.weight.copy(), tables.bias.copy()
    weight[list(bits)] = bias[list(bits)] = 0.0
    return tables.repriced(weight, bias)


# -- targets of a plan file ------------------------------------------------------------------------------------------


def goal_of(bit: int, plan: Plan, places: int, free: float, daily: float | None) -> Goal:
    """The goal over some requests that a plan's target comes to.

    Args:
        bit: bit of the plan.
        plan: plan that has a target.
        places: exposures of all the requests.
        free: value of their lists without the plans that have targets.
        daily: exposures a day of all traffic, for targets a day.

    Raises:
        ConfigError: a target a day, and no `daily`.
    """
    target = plan.target
    assert target is not None
    if target.is_share:
        return Goal(bit, target.amount * (places if target.moves == "bias" else free), target.moves)
    if daily is None:
        raise ConfigError(
            f"plan {plan.id!r} has a target a day",
            where="--daily-exposures",
            mend="say how many exposures a day there are in all",
        )
    return Goal(bit, target.amount * places / daily, target.moves)


def free_value(requests: Requests, tables: PlanTables, size: int, bits: Sequence[int]) -> float:
    """Σ y of the lists with some plans at no boost."""
    return reached(requests, _without(tables, bits), size, [])[1]
