"""When a turn is due: volume, drift beyond chance, a person; closed forms of stability and cumulative sums."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from noria.core.learning.scheduling.drift import (
    Stability,
    cusum,
    cusum_run_length,
    embedding_stability,
    share_stability,
    stability,
)
from noria.core.learning.scheduling.schedule import ScheduleConfig, Signals, next_turn, switched_on
from noria.core.storage.control import SQLiteControl

CONFIG = ScheduleConfig()
DRIFT = {"queries": Stability(0.5, 0.1, 10)}


# -- drift ------------------------------------------------------------------------------------------------------------


def test_stability_is_the_symmetric_divergence() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    big = 10**9
    found = stability(p * big, q * big)
    assert found.value == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), rel=1e-6)
    assert found.value == pytest.approx(0.6 * math.log(2.5), rel=1e-6)
    assert stability(q * big, p * big).value == pytest.approx(found.value, rel=1e-9)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12), st.integers(1, 5))
def test_stability_of_the_same_shares_is_zero_and_of_others_is_finite(counts: list[int], times: int) -> None:
    if not sum(counts):
        assert math.isnan(stability(counts, counts).value)
        return
    assert stability(counts, counts).value == pytest.approx(0, abs=1e-12)
    other = stability(counts, list(reversed(counts)))
    assert 0 <= other.value < math.inf
    assert stability(np.array(counts) * times, counts).value >= 0


def test_without_drift_it_exceeds_what_chance_explains_at_alpha() -> None:
    generator = np.random.default_rng(0)
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    draws = [
        stability(generator.multinomial(800, shares), generator.multinomial(400, shares), alpha=0.05)
        for _ in range(4000)
    ]
    share = np.mean([one.value > one.chance for one in draws])
    assert share == pytest.approx(0.05, abs=0.011)  # three standard deviations
    mean = np.mean([one.value for one in draws])
    assert mean == pytest.approx(3 * (1 / 800 + 1 / 400), rel=0.05)  # B − 1 degrees of freedom


def test_a_small_sample_drifts_only_beyond_chance() -> None:
    few = stability([5, 5, 5, 5], [0, 2, 3, 5])
    assert few.value > 0.2
    assert not few.drifted(0.2)
    assert stability([500, 500, 500, 500], [100, 200, 300, 400]).drifted(0.2)


def test_categories_that_are_new_or_gone_count() -> None:
    found = share_stability({"tea": 500, "cake": 500}, {"tea": 500, "coffee": 500})
    assert found.bins == 3
    assert found.drifted(0.2)
    assert not share_stability({"tea": 500}, {"tea": 20}).drifted(0.0)
    assert math.isnan(share_stability({}, {"tea": 3}).value)


def test_a_shift_along_an_axis_has_the_stability_of_its_normal_shares() -> None:
    generator = np.random.default_rng(1)
    scale = np.array([3.0, 1.0, 0.5])
    known = generator.standard_normal((40_000, 3)) * scale
    now = generator.standard_normal((40_000, 3)) * scale + [3.0, 0, 0]  # one deviation of the first axis
    found = embedding_stability(known, now, axes=3, bins=10)
    edges = stats.norm.ppf(np.linspace(0, 1, 11))
    q = np.diff(stats.norm.cdf(edges - 1.0))
    assert found.value == pytest.approx(((q - 0.1) * np.log(q / 0.1)).sum(), rel=0.05)
    assert found.drifted(0.2)
    same = embedding_stability(known[:20_000], known[20_000:])
    assert not same.drifted(0.0)
    assert math.isnan(embedding_stability(known[:5], now).value)


@given(st.lists(st.floats(-5, 5) | st.just(math.nan), min_size=1, max_size=40), st.floats(0, 2))
def test_cumulative_sums_are_the_recursion(values: list[float], allowance: float) -> None:
    total, sums = 0.0, []
    for value in values:
        if not math.isnan(value):
            total = max(0.0, total + (1.0 - value) / 2.0 - allowance)
        sums.append(total)
    assert cusum(values, 1.0, 2.0, allowance=allowance) == pytest.approx(sums, abs=1e-9)


def test_run_lengths_are_those_of_the_tables_and_of_a_simulation() -> None:
    # Montgomery, Introduction to Statistical Quality Control: k = .5, h = 5, one side.
    assert cusum_run_length(0.0) == pytest.approx(938.2, abs=0.1)
    assert cusum_run_length(1.0) == pytest.approx(10.34, abs=0.01)
    assert cusum_run_length(0.5) == pytest.approx((5 + 1.166) ** 2)
    generator = np.random.default_rng(2)
    lengths = []
    for _ in range(600):
        sums = cusum(-1.0 + generator.standard_normal(200), 0.0, 1.0)
        lengths.append(int(np.argmax(sums > 5.0)) + 1)
    assert np.mean(lengths) == pytest.approx(10.34, rel=0.08)


# -- decisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signals", "action", "words"),
    [(Signals(0), "wait", "0 of 500"), (Signals(0, judged=499), "wait", "499 of 500"),
     (Signals(0, judged=500), "start", "volume"), (Signals(5000, 0.0, judged=500), "start", "volume"),
     (Signals(3599, 0.0, judged=5000), "wait", "ended 3599 s ago"),
     (Signals(9, 0.0, asked="ann"), "start", "by hand: ann"),
     (Signals(0, judged=100, stability=DRIFT), "start", "drift: queries"),
     (Signals(0, judged=99, stability=DRIFT), "wait", "too few"),
     (Signals(0, judged=100, stability={"a": Stability(math.nan, math.nan, 3)}), "wait", "100 of 500"),
     (Signals(0, judged=100, fall=5.1), "start", "cumulative fall"),
     (Signals(0, judged=100, fall=5.0), "wait", "100 of"),
     (Signals(0, judged=100, fall=math.nan), "wait", "100 of"),
     (Signals(0, open=7), "resume", "turn 7"), (Signals(0, open=7, asked="ann"), "resume", "turn 7"),
     (Signals(0, judged=5000, asked="ann", open=7, learning=False), "wait", "switched off")],
    ids=["nothing", "few", "volume", "after-pause", "pause", "hand", "drift", "drift-few", "unknown", "fall", "no-fall",
         "nan", "open", "open-hand", "off"],
)  # fmt: skip
def test_decisions(signals: Signals, action: str, words: str) -> None:
    due = next_turn(CONFIG, signals)
    assert due.action == action
    assert words in due.reason


def test_a_switch_is_on_until_somebody_throws_it(tmp_path: Path) -> None:
    control = SQLiteControl(tmp_path / "control.sqlite")
    assert switched_on(control, "learning")
    control.write("switch", "learning", {"on": False}, based_on=0, by="ann")
    assert not switched_on(control, "learning")
    assert switched_on(control, "experiments")
    control.write("switch", "learning", {"on": True}, based_on=1, by="ann")
    assert switched_on(control, "learning")
    control.write("switch", "learning", {"state": "on"}, based_on=2, by="ann")
    assert not switched_on(control, "learning")
    control.write("switch", "learning", None, based_on=3, by="ann")
    assert switched_on(control, "learning")
