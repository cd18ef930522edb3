"""Assignment is sticky and fair; readings hold at every look; power is what simulation finds."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from noria.core.errors import ConfigError
from noria.core.experiments.assignment import Arms, assign, check_layer, position
from noria.core.experiments.power import (
    fixed_power,
    fixed_units,
    proportion_variance,
    sequential_power,
    sequential_units,
)
from noria.core.experiments.sequential import (
    always_valid_p,
    confidence_sequence,
    decide,
    mixture_ratio,
    sequence_width,
    split_evidence,
)
from noria.core.statistics.intervals import Interval

# -- assignment -------------------------------------------------------------------------------------------------------


def test_a_unit_keeps_its_arm_and_shares_are_kept() -> None:
    arms = Arms("model", "salt", {"champion": 0.5, "challenger": 0.2})
    given_out = [assign(arms, f"user {n}") for n in range(20_000)]
    assert given_out == [assign(arms, f"user {n}") for n in range(20_000)]
    counts = Counter("none" if one is None else one.arm for one in given_out)
    expected = [10_000, 4_000, 6_000]
    assert stats.chisquare([counts["champion"], counts["challenger"], counts["none"]], expected).pvalue > 1e-3
    assert {one.propensity for one in given_out if one and one.arm == "challenger"} == {0.2}


def test_layers_are_independent() -> None:
    table = np.zeros((2, 2))
    for n in range(20_000):
        table[int(position("one", str(n)) < 0.5), int(position("two", str(n)) < 0.5)] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert position("ab", "c") != position("a", "bc")


def test_growing_the_last_arm_moves_nobody_else() -> None:
    small, large = (Arms("m", "s", {"champion": 0.5, "challenger": share}) for share in (0.05, 0.5))
    for n in range(2000):
        before, after = assign(small, str(n)), assign(large, str(n))
        assert before is None or (after is not None and after.arm == before.arm)


def test_experiments_of_a_layer_exclude_each_other() -> None:
    first, second = Arms("a", "s", {"x": 0.3, "y": 0.3}), Arms("b", "s", {"z": 0.4}, start=0.6)
    check_layer([second, first])
    for n in range(2000):
        assert (assign(first, str(n)) is None) or (assign(second, str(n)) is None)
    with pytest.raises(ConfigError, match=r"begins at 0\.5"):
        check_layer([first, Arms("b", "s", {"z": 0.4}, start=0.5)])
    with pytest.raises(ConfigError, match="salt"):
        check_layer([first, Arms("b", "other", {"z": 0.4}, start=0.6)])


@pytest.mark.parametrize("shares", [{}, {"a": -0.1}, {"a": 0.0}, {"a": 0.7, "b": 0.7}, {"a": math.nan}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Arms("model", "salt", shares)


# -- confidence sequences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_the_interval_is_narrowest_where_it_was_planned(alpha: float) -> None:
    def width(log_ratio: float) -> float:
        ratio = math.exp(log_ratio)
        return math.sqrt((1 + ratio) * math.log((1 + ratio) / (ratio * alpha**2)))

    best = optimize.minimize_scalar(width, bounds=(-8, 2), method="bounded", options={"xatol": 1e-10})
    assert mixture_ratio(alpha) == pytest.approx(math.exp(best.x), rel=1e-4)
    assert float(sequence_width(7, 7, alpha=alpha)) == pytest.approx(best.fun, rel=1e-9)


def test_the_closed_form_is_robbins_boundary() -> None:
    """sqrt((V + ρ) ln((V + ρ)/(ρ α²))) / V in intrinsic time V = 1/s², Howard et al. (2021), equation 14."""
    alpha, planned, sd = 0.05, 400, 3.0
    rho = mixture_ratio(alpha) * planned / sd**2
    for units in (10, 400, 9000):
        time = units / sd**2
        boundary = math.sqrt((time + rho) * math.log((time + rho) / (rho * alpha**2))) / time
        interval = confidence_sequence(1.0, sd / math.sqrt(units), units, planned=planned, alpha=alpha)
        assert interval.high - interval.effect == pytest.approx(boundary, rel=1e-12)


def test_it_ever_misses_the_truth_at_most_alpha_of_the_time() -> None:
    generator = np.random.default_rng(0)
    runs, steps = 4000, 3000
    units = np.arange(1, steps + 1)
    width = sequence_width(units, 1000) / np.sqrt(units)
    missed = fixed = 0
    for _ in range(runs // 500):
        means = generator.standard_normal((500, steps)).cumsum(1) / units
        missed += int((np.abs(means) > width).any(1).sum())
        fixed += int((np.abs(means[:, 99::100]) > 1.96 / np.sqrt(units[99::100])).any(1).sum())
    assert missed / runs < 0.05
    assert fixed / runs > 0.2  # looking thirty times at an interval that holds once


@given(st.floats(-8, 8), st.integers(1, 10**6), st.integers(1, 10**6))
def test_p_is_below_alpha_just_where_zero_is_outside(z: float, units: int, planned: int) -> None:
    interval = confidence_sequence(z, 1.0, units, planned=planned)
    p = always_valid_p(z, 1.0, units, planned=planned)
    assert 0 < p <= 1 or z != 0
    if abs(abs(z) - (interval.high - interval.effect)) > 1e-9:
        assert (p < 0.05) == (interval.low > 0 or interval.high < 0)


def test_what_is_not_known_is_no_number() -> None:
    assert math.isnan(confidence_sequence(math.nan, 1.0, 10, planned=10).low)
    assert math.isnan(always_valid_p(1.0, 0.0, 10, planned=10))


@pytest.mark.parametrize(
    ("low", "high", "units", "smaller", "decision"),
    [
        (0.1, 0.3, 500, 200, "promote"),
        (-0.3, -0.1, 500, 200, "roll back"),
        (-0.1, 0.1, 500, 200, "continue"),
        (-0.1, 0.1, 1000, 500, "futile"),
        (0.1, 0.3, 150, 60, "continue"),
        (math.nan, math.nan, 500, 200, "continue"),
    ],
)
def test_a_reading_decides(low: float, high: float, units: int, smaller: int, decision: str) -> None:
    interval = Interval((low + high) / 2, low, high, units)
    assert decide(interval, planned=1000, smaller_arm=smaller) == decision


# -- the split --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 60), min_size=2, max_size=4))
def test_evidence_is_a_martingale_under_the_planned_split(counts: list[int]) -> None:
    shares = {str(n): share for n, share in enumerate((0.5, 0.3, 0.15, 0.05)[: len(counts)])}
    total = sum(shares.values())
    now = {str(n): count for n, count in enumerate(counts)}
    expected = 0.0
    for arm, share in shares.items():
        after = {**now, arm: now[arm] + 1}
        expected += share / total * math.exp(split_evidence(after, shares) - split_evidence(now, shares))
    assert expected == pytest.approx(1, rel=1e-9)


def test_a_split_that_is_right_is_hardly_ever_refuted_and_a_wrong_one_is() -> None:
    generator = np.random.default_rng(1)
    shares = {"a": 0.5, "b": 0.5}
    limit = -math.log(0.01)

    def refuted(rate: float, runs: int) -> int:
        count = 0
        for _ in range(runs):
            b = generator.random(3000) < rate
            seen = b.cumsum()
            count += any(
                split_evidence({"a": n - int(seen[n - 1]), "b": int(seen[n - 1])}, shares) > limit
                for n in range(50, 3001, 50)
            )
        return count

    assert refuted(0.5, 400) <= 8  # at most 4 expected
    assert refuted(0.57, 60) >= 57


# -- power ------------------------------------------------------------------------------------------------------------


def test_sample_sizes_are_the_textbooks() -> None:
    """Comparing .60 with .64: 2,308 units an arm at α = .05 and a power of .8 (normal, unpooled)."""
    variances = proportion_variance(0.60), proportion_variance(0.64)
    units = fixed_units(0.04, variances)
    assert units == math.ceil(2 * (1.959964 + 0.841621) ** 2 * sum(variances) / 0.04**2)
    assert fixed_power(units, 0.04, variances) == pytest.approx(0.8, abs=1e-3)
    assert sequential_power(sequential_units(0.04, variances), 0.04, variances) == pytest.approx(
        0.8, abs=1e-3
    )
    assert 1.85 < sequential_units(0.04, variances) / units < 2  # the price of looking at any time


def test_power_is_what_simulation_finds() -> None:
    generator = np.random.default_rng(2)
    units, effect, variances = 600, 0.3, (1.0, 2.0)
    runs, half = 6000, 300
    control = generator.standard_normal((runs, half)).mean(1)
    treatment = effect + math.sqrt(2) * generator.standard_normal((runs, half)).mean(1)
    z = (treatment - control) / math.sqrt(1 / half + 2 / half)
    assert (z > 1.959964).mean() == pytest.approx(fixed_power(units, effect, variances), abs=0.02)


@pytest.mark.parametrize(
    "call", [lambda: fixed_units(0.0, (1, 1)), lambda: fixed_units(1, (1, 1), share=1.0)]
)
def test_what_has_no_answer_is_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"effect of 0|share"):
        call()
