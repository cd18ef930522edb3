"""Quality against cost, regret and stability, against brute force and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from noria.routing.routers.metrics import (
    agreement,
    aiq,
    collapsed,
    drawdown,
    envelope,
    gradient_shares,
    judge,
    spread_at_end,
)

points_of = st.lists(
    st.tuples(st.integers(0, 60).map(float), st.integers(0, 40).map(float)), min_size=1, max_size=25
)


def by_pairs(x: float, points: list[tuple[float, float]]) -> float:
    """The envelope's height at x: the best of every point at most as dear and every line between two."""
    best = max((q for c, q in points if c <= x), default=-math.inf)
    for c1, q1 in points:
        for c2, q2 in points:
            if c1 < x < c2:
                best = max(best, q1 + (q2 - q1) * (x - c1) / (c2 - c1))
    return best


@given(points_of)
def test_the_envelope_is_what_pairs_of_routers_offer(points: list[tuple[float, float]]) -> None:
    cost, quality = zip(*points, strict=True)
    x, y = envelope(cost, quality)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    slopes = np.diff(y) / np.diff(x)
    assert (np.diff(slopes) < 1e-9).all()
    for at in np.linspace(min(cost), max(cost), 9):
        assert float(np.interp(at, x, y)) == pytest.approx(by_pairs(at, points), abs=1e-9)


@given(points_of)
def test_aiq_is_the_mean_height(points: list[tuple[float, float]]) -> None:
    cost, quality = zip(*points, strict=True)
    found = aiq(cost, quality)
    if min(cost) == max(cost):
        assert math.isnan(found)
        return
    grid = np.linspace(min(cost), max(cost), 2001)
    assert found == pytest.approx(np.mean([np.interp(g, *envelope(cost, quality)) for g in grid]), abs=0.05)


def test_aiq_by_hand() -> None:
    cost, quality = [1.0, 2.0, 3.0, 2.0], [0.2, 0.6, 0.5, 0.1]
    # 1 → 2 rises from .2 to .6, then it stays at .6.
    assert aiq(cost, quality) == pytest.approx((0.4 * 1 + 0.6 * 1) / 2)
    assert aiq(cost, quality, high=5) == pytest.approx((0.4 + 0.6 * 3) / 4)
    assert aiq(cost, quality, low=0) == pytest.approx((0 + 0.4 + 0.6) / 3)
    assert aiq(cost, quality, low=1.5, high=2) == pytest.approx(0.5)
    assert aiq(cost, quality, low=0, high=0.5) == 0
    assert aiq([2.0], [0.7], low=2, high=4) == pytest.approx(0.7)
    # RouterBench's published code divides the same area by the highest cost.
    assert aiq(cost, quality) * (3 - 1) / 3 == pytest.approx(1.0 / 3)


def test_points_that_are_none() -> None:
    for bad in (([], []), ([1.0], [math.nan]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="point"):
            envelope(*bad)


def test_choices_are_judged_by_data_set() -> None:
    score = np.array([[1.0, 0.0], [0.0, 1.0], [math.nan, 0.5], [0.0, math.nan]])
    cost = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, math.nan], [1.0, 2.0]])
    found = judge([0, 0, 1, 1], score, cost, ["a", "a", "b", "b"])
    assert found.accuracy == {"a": 0.5, "b": 0.5}
    assert (found.macro, found.micro) == (0.5, 0.5)
    assert found.cost == pytest.approx((1 + 1 + 2) / 3)
    assert found.regret == pytest.approx((1 + 1 + 0.5) / 3 - (1 + 0 + 0.5) / 3)
    assert (found.scored, found.questions, found.costed) == (3, 4, 3)
    unscored = judge([0, 0], np.full((2, 2), math.nan), cost[:2], ["a", "a"])
    assert math.isnan(unscored.macro)
    assert unscored.scored == 0


def test_who_serves_nobody_earns_nothing() -> None:
    """A failure, and a router that chooses none, count as 0 where others could be scored."""
    quality = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [math.nan, math.nan]])
    available = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, math.nan]])
    cost = np.ones((4, 2))
    found = judge([1, 0, -1, 0], quality, cost, ["a", "a", "b", "b"], available)
    assert found.accuracy == {"a": 0.5, "b": 0.0}
    assert found.regret == pytest.approx(1 - 1 / 3)
    assert (found.scored, found.failed, found.availability) == (3, 2, 0.5)
    nobody = judge([-1, -1, -1, -1], quality, cost, ["a", "a", "b", "b"], available)
    assert (nobody.macro, nobody.micro, nobody.regret) == (0, 0, 1)
    assert (nobody.availability, nobody.failed, nobody.scored) == (0, 4, 3)
    assert math.isnan(nobody.cost)


def test_stability() -> None:
    assert agreement([[0, 1, 2], [0, 1, 0], [0, 1, 2]]) == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert math.isnan(agreement([[0]]))
    assert drawdown([0.1, 0.5, 0.2, 0.6]) == pytest.approx(0.3)
    assert drawdown([1, 2, 3]) == 0
    assert spread_at_end([9, 9, 9, 9, 9, 9, 9, 9, 1, 3]) == pytest.approx(math.sqrt(2))
    assert math.isnan(spread_at_end([1]))
    assert collapsed([0.5, 0.6, 0.6, 0.5, 0.2, 0.1, 0.1, 0.1])
    assert not collapsed([0.1, 0.2, 0.4, 0.5, 0.2, 0.5, 0.5, 0.5])  # it recovered
    assert not collapsed([0.5, 0.1])


def test_shares_of_energy() -> None:
    shares, even = gradient_shares({"a": 3.0, "b": 1.0})
    assert shares == {"a": 0.75, "b": 0.25}
    assert even == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))) / 2)
    assert gradient_shares({"a": 1.0, "b": 1.0, "c": 1.0})[1] == pytest.approx(1)
    assert gradient_shares({"a": 1.0, "b": 0.0})[1] == pytest.approx(0.5)
    assert math.isnan(gradient_shares({"a": 0.0})[1])
