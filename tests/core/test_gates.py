"""A gate accepts what is better, refuses what is not, and blocks where it cannot tell."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from noria.core.errors import DataError
from noria.core.experiments.gates import (
    GateConfig,
    PairedScores,
    equivalence_gate,
    grouped_gain,
    improvement_gate,
    monotone_gate,
    round_alpha,
)

PLAIN = GateConfig()


def scores(gain: Any, *, seed: int = 0, n: int = 400, sd: float = 0.2, **more: Any) -> PairedScores:
    generator = np.random.default_rng(seed)
    parent = generator.random(n)
    names = [str(i) for i in range(n)]
    candidate = parent + gain + sd * generator.standard_normal(n)
    return PairedScores(names, more.pop("groups", names), parent, candidate, **more)


def test_without_groups_the_interval_is_students() -> None:
    gains = np.random.default_rng(0).standard_normal(50)
    interval = grouped_gain(gains, [str(i) for i in range(50)], level=0.9)
    low, high = stats.t.interval(0.9, 49, gains.mean(), stats.sem(gains))
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-12)


@given(st.integers(2, 6))
def test_items_copied_within_their_group_say_nothing_more(copies: int) -> None:
    gains = np.random.default_rng(1).standard_normal(40)
    groups = [str(i) for i in range(40)]
    once = grouped_gain(gains, groups)
    often = grouped_gain(np.repeat(gains, copies), list(np.repeat(groups, copies)))
    assert (often.effect, often.low, often.n) == pytest.approx((once.effect, once.low, once.n), rel=1e-9)


def test_people_who_ask_the_same_are_no_evidence_of_their_own() -> None:
    """With one request from all the interval is that over requests, however many people sent it."""
    rng = np.random.default_rng(0)
    people = [str(n) for n in range(400)]
    requests = [str(n % 20) for n in range(400)]
    gains = rng.normal(0.1, 0.2, 20)[np.arange(400) % 20]
    alone, both = grouped_gain(gains, people), grouped_gain(gains, people, requests)
    by_request = grouped_gain(gains, requests)
    assert both.effect == pytest.approx(alone.effect)
    assert both.n == by_request.n == 20
    assert both.high - both.low == pytest.approx(by_request.high - by_request.low)
    assert both.high - both.low > 3 * (alone.high - alone.low)
    apart = grouped_gain(gains, people, people)
    assert (apart.low, apart.high) == pytest.approx((alone.low, alone.high))
    assert math.isnan(grouped_gain(gains, people, ["one"] * 400).low)


def test_intervals_over_people_and_requests_hold_what_they_say() -> None:
    """Effects of a person and of a request on 40 × 40 drawn pairs: intervals over people alone hold too seldom."""
    rng = np.random.default_rng(1)
    held = np.zeros(2)
    for _ in range(300):
        person, request = rng.integers(0, 40, 200), rng.integers(0, 40, 200)
        gains = rng.normal(0, 1, 40)[person] + rng.normal(0, 1, 40)[request] + rng.normal(0, 1, 200)
        names = [str(n) for n in person], [str(n) for n in request]
        for way, contents in enumerate(((), names[1])):
            interval = grouped_gain(gains, names[0], contents, level=0.9)
            held[way] += interval.low < 0 < interval.high
    assert held[0] / 300 < 0.85 < held[1] / 300


def test_pure_noise_passes_at_alpha_and_half_of_it_passes_the_monotone_gate() -> None:
    paired = monotone = 0
    for seed in range(1000):
        noise = scores(0.0, seed=seed, n=100)
        paired += improvement_gate(noise, PLAIN).accepted
        monotone += monotone_gate(noise, PLAIN).accepted
    assert paired <= 70  # 50 expected at most; 70 is past three standard deviations
    assert 430 <= monotone <= 570


def test_what_is_better_passes_and_what_is_worse_does_not() -> None:
    assert improvement_gate(scores(0.05), PLAIN).accepted
    assert not improvement_gate(scores(-0.05), PLAIN).accepted
    assert not monotone_gate(scores(-0.05), PLAIN).accepted


def test_a_slice_that_falls_blocks_a_gain_elsewhere() -> None:
    n = 400
    slices = ["rare" if i % 5 == 0 else "usual" for i in range(n)]
    gain = np.where(np.array(slices) == "rare", -0.2, 0.2)
    receipt = improvement_gate(scores(gain, slices=slices), PLAIN)
    assert not receipt.accepted
    assert "floor of rare" in receipt.reason
    assert improvement_gate(scores(gain, slices=slices), GateConfig(floors={"rare": 0.5})).accepted


def test_one_more_hard_error_blocks_at_any_size() -> None:
    errors = np.zeros(400, dtype=bool)
    worse = errors.copy()
    worse[3] = True
    receipt = improvement_gate(scores(0.1, parent_errors=errors, candidate_errors=worse), PLAIN)
    assert not receipt.accepted
    assert receipt.reason == "hard errors: 0 before, 1 after"
    assert improvement_gate(scores(0.1, parent_errors=worse, candidate_errors=errors), PLAIN).accepted


def test_missing_evidence_blocks() -> None:
    few = improvement_gate(scores(0.3, n=20), PLAIN)
    assert not few.accepted
    assert few.rules[0].outcome == "missing"
    gone = scores(0.3)
    gone.candidate[:40] = math.nan
    assert "10.0% of items lack a score" in improvement_gate(gone, PLAIN).reason
    empty = PairedScores([], [], np.zeros(0), np.zeros(0))
    for gate in (improvement_gate, equivalence_gate, monotone_gate):
        receipt = gate(empty, PLAIN)
        assert not receipt.accepted
        json.dumps(receipt.to_json(), allow_nan=False)


def test_equal_is_within_the_bound_on_both_sides() -> None:
    config = GateConfig(bound=0.03)
    assert equivalence_gate(scores(0.0), config).accepted
    assert not equivalence_gate(scores(0.04), config).accepted
    assert not equivalence_gate(scores(-0.04), config).accepted
    assert not equivalence_gate(scores(0.0, n=40), config).accepted  # nothing is shown to be equal by too few


def test_rounds_together_spend_no_more_than_alpha() -> None:
    assert math.fsum(round_alpha(0.05, k) for k in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)


def test_a_receipt_names_its_data() -> None:
    one, other = scores(0.05), scores(0.05, seed=1)
    receipt = improvement_gate(one, PLAIN)
    assert receipt.data == one.digest() != other.digest()
    assert receipt.to_json()["config"]["alpha"] == 0.05


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": ["a"]}, "different lengths"),
        ({"items": ["x"] * 3}, "twice"),
        ({"parent_errors": np.zeros(3, dtype=bool)}, "one side only"),
    ],
)
def test_scores_that_do_not_pair_are_refused(change: dict[str, Any], words: str) -> None:
    plain = {
        "items": ["a", "b", "c"],
        "groups": ["a", "b", "c"],
        "parent": np.ones(3),
        "candidate": np.ones(3),
    }
    with pytest.raises(DataError, match=words):
        PairedScores(**plain | change)
