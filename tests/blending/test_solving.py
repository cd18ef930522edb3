from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noria.blending.accounting.attribution import Requests
from noria.blending.boosting.scoring import PlanTables, lists
from noria.blending.pricing.solving import Goal, frontier, reached, solve


def world(seed: int, *, requests: int = 150, candidates: int = 60, plans: int = 3) -> Requests:
    rng = np.random.default_rng(seed)
    rows = requests * candidates
    mask = np.zeros(rows, np.uint64)
    for plan in range(plans):
        mask |= (rng.random(rows) < 0.2).astype(np.uint64) << np.uint64(plan)
    return Requests(rng.beta(2, 3, size=rows), mask, np.arange(requests + 1) * candidates)


def no_boost(plans: int = 3) -> PlanTables:
    return PlanTables.of([0.0] * plans, [0.0] * plans)


def test_targets_are_reached_by_exposures_and_by_value() -> None:
    requests = world(0)
    goals = [Goal(0, 600), Goal(1, 500), Goal(2, 350.0, "weight")]
    found = solve(requests, no_boost(), 10, goals)
    assert not found.missed.any()
    assert (found.reached >= [600, 500, 350.0]).all()
    assert (found.reached <= np.array([600, 500, 350.0]) * 1.02).all()
    assert (found.price > 0).all()
    assert reached(requests, found.tables, 10, goals)[0].tolist() == found.reached.tolist()


def test_a_target_that_is_met_by_itself_has_no_price() -> None:
    requests = world(1)
    free, value = reached(requests, no_boost(), 10, [Goal(0, 1)])
    found = solve(requests, no_boost(), 10, [Goal(0, float(free[0]) * 0.8)])
    assert found.price.tolist() == [0.0]
    assert found.value == value
    assert found.loss == 0.0
    boosted = PlanTables.of([0.0] * 3, [0.01, 0.0, 0.0])
    assert solve(requests, boosted, 10, [Goal(0, float(free[0]) * 0.8)]).price.tolist() == [0.0]


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_no_other_lists_with_these_shares_have_more_value(seed: int) -> None:
    """Everett's theorem, against lists of the product form and of random boosts."""
    requests = world(seed, requests=20, candidates=30)
    rng = np.random.default_rng(seed)
    goals = [Goal(p, 70) for p in range(3)]
    found = solve(requests, no_boost(), 6, goals, rounds=120)
    ours, best = reached(requests, found.tables, 6, goals)
    for _ in range(10):
        factor = np.exp(rng.uniform(0, 1.5, size=3))
        product = np.ones(len(requests.value))
        for plan in range(3):
            product *= np.where(requests.mask >> np.uint64(plan) & np.uint64(1), factor[plan], 1.0)
        others = product * requests.value
        total, counts = 0.0, np.zeros(3)
        for start, end in zip(requests.start[:-1], requests.start[1:], strict=True):
            rows = start + np.argsort(-others[start:end], kind="stable")[:6]
            total += requests.value[rows].sum()
            counts += [(requests.mask[rows] >> np.uint64(p) & np.uint64(1)).sum() for p in range(3)]
        if (counts >= ours)[found.price > 0].all():
            assert total <= best + 1e-9


def test_the_certificate_bounds_what_is_lost() -> None:
    requests = world(2)
    found = solve(requests, no_boost(), 10, [Goal(0, 600), Goal(1, 500)])
    assert found.loss is not None
    assert 0 <= found.loss < 0.002 * found.value


def test_shares_are_met_exactly_from_either_side() -> None:
    requests = world(3)
    free, _ = reached(requests, no_boost(), 10, [Goal(0, 1), Goal(1, 1)])
    goals = [Goal(0, float(free[0]) * 0.5, exactly=True), Goal(1, float(free[1]) * 2, exactly=True)]
    found = solve(requests, no_boost(), 10, goals)
    assert found.missed.max() <= 5e-4
    assert found.price[0] < 0 < found.price[1]
    assert found.loss is None


def test_a_goal_beyond_reach_is_told() -> None:
    requests = world(4, requests=30)
    everything = Goal(0, 30 * 10 + 1)
    found = solve(requests, no_boost(), 10, [everything], rounds=60)
    assert found.missed[0] > 0
    assert found.loss is None


def test_other_plans_stay_as_they_are_and_a_warm_start_is_quick() -> None:
    requests = world(5)
    tables = PlanTables.of([0.0, 0.3, 0.0], [0.0, 0.0, 0.05])
    cold = solve(requests, tables, 10, [Goal(0, 600)])
    assert cold.tables.weight.tolist() == [0.0, 0.3, 0.0]
    assert cold.tables.bias[2] == 0.05
    warm = solve(requests, cold.tables, 10, [Goal(0, 600)])
    assert warm.rounds <= 5
    assert warm.price == pytest.approx(cold.price, rel=0.01)


def test_the_frontier_rises_in_price_and_cost() -> None:
    requests = world(6)
    points = frontier(requests, no_boost(), 10, Goal(0, 0), [0.2, 0.3, 0.4, 0.5], others=[Goal(1, 450)])
    assert all(point.reached >= point.target for point in points)
    for column in ("price", "cost"):
        assert (np.diff([getattr(point, column) for point in points]) > 0).all()
    assert points[0].cost >= 0
    steps = np.diff([p.cost for p in points]) / np.diff([p.reached * 1500 for p in points])
    prices = [p.price for p in points]
    assert all(
        low - 0.01 <= step <= high + 0.01 for low, step, high in zip(prices, steps, prices[1:], strict=False)
    )


def test_the_lists_behind_a_solution_are_those_that_serve() -> None:
    requests = world(7)
    found = solve(requests, no_boost(), 10, [Goal(0, 600)])
    rows = lists(requests.value, requests.mask, requests.start, np.array([7], np.uint64), found.tables, 10)
    assert (requests.mask[rows] & np.uint64(1)).sum() == found.reached[0]
