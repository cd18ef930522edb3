from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noria.blending.accounting.attribution import Requests, displace, lift, shapley, values_of
from noria.blending.boosting.scoring import PlanTables, contributions, score, top

Case = tuple[Requests, PlanTables]


def case(
    seed: int, *, requests: int = 4, plans: int = 5, guards: bool = False, demotions: bool = False
) -> Case:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 30, size=requests)
    start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    rows = int(start[-1])
    mask = rng.integers(1 << plans, size=rows).astype(np.uint64)
    low = -0.5 if demotions else 0.0
    tables = PlanTables.of(
        rng.uniform(low, 0.5, size=plans),
        rng.uniform(low, 0.5, size=plans),
        [0.3] * plans if guards else None,
        total_cap=0.6 if guards else None,
        floor=0.1 if guards else None,
        mean_value=0.5,
    )
    return Requests(rng.random(rows), mask, start), tables


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(1, 12))
def test_the_bound_on_regret_holds_on_every_request(
    seed: int, guards: bool, demotions: bool, size: int
) -> None:
    requests, tables = case(seed, guards=guards, demotions=demotions)
    found = displace(requests, tables, size)
    assert (found.regret >= -1e-12).all()
    assert (found.regret <= found.bound + 1e-12).all()
    if not guards and not demotions:
        assert (found.bound <= found.spend + 1e-12).all()


@given(st.integers(0, 2**32 - 1))
def test_spend_of_all_plans_is_what_lists_hold_above_their_value(seed: int) -> None:
    requests, tables = case(seed, guards=True, demotions=True)
    found = displace(requests, tables, 5)
    r, taken = score(requests.value, requests.mask, tables)
    above = values_of(r - requests.value - taken, found.lists).sum(axis=1)
    np.testing.assert_allclose(found.spend.sum(axis=1), above, atol=1e-12)
    np.testing.assert_allclose(values_of(taken, found.lists).sum(axis=1), found.guard, atol=1e-12)


def test_leaving_a_plan_out_is_ranking_without_it() -> None:
    requests, tables = case(3, requests=6)
    found = displace(requests, tables, 4)
    for number, plan in itertools.product(range(6), range(5)):
        rows = slice(*requests.start[number : number + 2].tolist())
        y, mask = requests.value[rows], requests.mask[rows]
        weight, bias = tables.weight.copy(), tables.bias.copy()
        weight[plan] = bias[plan] = 0
        r = y + contributions(y, mask, PlanTables.of(weight, bias)).sum(axis=1)
        wanted = top(r, y, 4) + requests.start[number]
        got = found.without[number, plan]
        assert got[got >= 0].tolist() == wanted.tolist()
        without = ((requests.mask[wanted] >> np.uint64(plan)) & np.uint64(1)).sum()
        assert found.exposures_without[number, plan] == without


def brute(requests: Requests, tables: PlanTables, size: int, plans: int) -> Any:
    """Shapley values of the first request from all orders of the plans."""
    end = int(requests.start[1])
    y, mask = requests.value[:end], requests.mask[:end]

    def worth(chosen: tuple[int, ...]) -> float:
        allowed = np.uint64(sum(1 << plan for plan in chosen))
        r = score(y, mask & allowed, tables)[0]
        return float(y[top(r, y, size)].sum())

    total = np.zeros(plans)
    for order in itertools.permutations(range(plans)):
        for place, plan in enumerate(order):
            total[plan] += worth(order[: place + 1]) - worth(order[:place])
    return total / math.factorial(plans)


@pytest.mark.parametrize("seed", [2, 5, 9])
def test_shapley_values_are_the_mean_over_all_orders_and_sum_to_the_whole(seed: int) -> None:
    requests, tables = case(seed, guards=True)
    found = shapley(requests, tables, 4, generator=np.random.default_rng(0))
    np.testing.assert_allclose(found.value[0], brute(requests, tables, 4, 5), atol=1e-12)
    np.testing.assert_allclose(found.value.sum(axis=1), found.total, atol=1e-12)
    assert (found.error == 0).all()


def test_sampled_shapley_values_sum_too_and_come_near_the_exact_ones() -> None:
    requests, tables = case(5)
    exact = shapley(requests, tables, 4, generator=np.random.default_rng(0))
    drawn = shapley(requests, tables, 4, generator=np.random.default_rng(1), permutations=400, exact=0)
    np.testing.assert_allclose(drawn.value.sum(axis=1), drawn.total, atol=1e-12)
    np.testing.assert_allclose(drawn.total, exact.total, atol=1e-12)
    assert (np.abs(drawn.value - exact.value) <= 5 * drawn.error + 1e-12).all()
    assert drawn.error.max() > 0


def test_a_plan_that_hits_nobody_costs_brings_and_is_worth_nothing() -> None:
    requests, tables = case(1)
    bare = Requests(requests.value, requests.mask & np.uint64(0b11110), requests.start)
    found = displace(bare, tables, 5)
    for column in (found.spend, found.exposures, found.value_cost, found.regret, found.bound):
        assert (column[:, 0] == 0).all()
    assert (lift(bare, found, bare.value)[0][:, 0] == 0).all()
    assert (shapley(bare, tables, 5, generator=np.random.default_rng(0)).value[:, 0] == 0).all()


def test_lift_counts_the_plans_own_gains_on_what_it_added_and_says_what_is_missing() -> None:
    y, mask = np.array([0.9, 0.8, 0.3]), np.array([0, 0, 1], np.uint64)
    requests = Requests(y, mask, np.array([0, 3]))
    tables = PlanTables.of([0.0], [1.0])
    found = displace(requests, tables, 2)
    assert found.lists.tolist() == [[2, 0]]
    gains, lost = lift(requests, found, np.array([5.0, 5.0, 7.0]))
    assert gains.tolist() == [[7.0]]
    assert lost.tolist() == [0]
    assert found.value_cost[0, 0] == pytest.approx(0.5)
    assert found.regret[0, 0] == pytest.approx(0.5)
    assert found.bound[0, 0] == 1.0
    gains, lost = lift(requests, found, np.array([5.0, 5.0, np.nan]))
    assert gains.tolist() == [[0.0]]
    assert lost.tolist() == [1]


def test_empty_requests_and_no_plans_have_empty_accounts() -> None:
    nothing = Requests(np.empty(0), np.empty(0, np.uint64), np.array([0, 0]))
    found = displace(nothing, PlanTables.of([1.0], [0.0]), 5)
    assert found.spend.tolist() == [[0.0]]
    assert found.inflation is None
    requests, _ = case(0)
    none = displace(requests, PlanTables.of([], []), 5)
    assert none.spend.shape == (4, 0)
    assert none.inflation == 0
