"""Probes of a judge: an estimate of what it gives for empty sentences, and for the place of an answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from noria.core.judging.probes import length_rule, length_slope, lengthened, position_rate


@given(st.text(min_size=1, max_size=3000).filter(lambda text: bool(text.strip())))
def test_a_lengthened_answer_is_the_answer_and_about_twice_as_long(answer: str) -> None:
    longer = lengthened(answer)
    assert longer.startswith(answer.rstrip())
    assert 2 * len(answer) <= len(longer) <= 2 * len(answer) + 100


def test_the_slope_of_a_judge_that_pays_by_length_is_what_it_pays() -> None:
    rng = np.random.default_rng(0)
    answers = ["word " * int(n) for n in rng.integers(40, 400, 60)]
    groups = [f"g{n // 2}" for n in range(60)]

    def judge(answer: str, pay: float) -> float:
        return pay * math.log2(len(answer)) + float(rng.normal(0, 0.05))

    before = [judge(one, 0.2) for one in answers]
    after = [judge(lengthened(one), 0.2) for one in answers]
    slope = length_slope(answers, before, after, groups)
    assert slope.low < 0.2 < slope.high
    assert slope.n == 30, "by group"
    assert length_rule(slope, 60, 60, 0.05).outcome == "failed"
    fair = length_slope(
        answers, [judge(one, 0) for one in answers], [judge(one, 0) for one in answers], groups
    )
    assert fair.low < 0 < fair.high
    rule = length_rule(fair, 60, 60, 0.05)
    assert rule.outcome == "passed"
    assert "+0.050 allowed" in rule.found


def test_scores_that_are_missing_are_left_out_and_too_few_decide_nothing() -> None:
    answers, groups = ["a word"] * 4, ["a", "b", "c", "d"]
    slope = length_slope(answers, [0.0, 1.0, math.nan, 0.0], [0.0, 1.0, 1.0, math.nan], groups)
    assert (slope.effect, slope.n) == (0.0, 2)
    assert length_rule(slope, 4, 2, 0.05).outcome == "passed"
    assert length_rule(slope, 5, 2, 0.05).outcome == "missing"
    nothing = length_slope([], [], [], [])
    assert length_rule(nothing, 0, 0, 0.05).outcome == "missing"


def test_the_position_rate_is_the_share_of_pairs_that_change() -> None:
    first = ["yes", "no", "yes", None, "no"]
    rate = position_rate(first, ["yes", "yes", "yes", "yes", None])
    assert (rate.effect, rate.n) == (pytest.approx(1 / 3), 3)
    assert rate.low < 1 / 3 < rate.high
    assert math.isnan(position_rate([], []).effect)
