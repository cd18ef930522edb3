"""Advice by hand: the formula, the best γ, and a plain no."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from noria.core.errors import ConfigError, DataError
from noria.core.statistics.intervals import Interval
from noria.mtp.acceptance.advice import Timing, advise, advise_rule, break_even_length, speed_up

TIMES = Timing(step=10.0, verify={1: 11.0, 2: 12.0, 3: 14.0, 4: 20.0}, draft=1.0)


def test_the_speed_up_is_tokens_over_cost() -> None:
    assert break_even_length(TIMES, 3) == pytest.approx(1.7)
    assert speed_up(3.4, TIMES, 3) == pytest.approx(2.0)
    advice = advise([0.8, 0.6, 0.5], TIMES)
    assert [o.gamma for o in advice.options] == [1, 2, 3]
    assert [o.length.effect for o in advice.options] == pytest.approx([1.8, 2.4, 2.9])
    assert [o.speed_up.effect for o in advice.options] == pytest.approx([1.8 / 1.2, 2.4 / 1.4, 2.9 / 1.7])
    assert advice.gamma == 2
    assert "use MTP with γ = 2" in advice.verdict
    assert "1.71×" in advice.verdict


def test_the_best_gamma_moves_with_acceptance() -> None:
    assert advise([0.4, 0.1, 0.02, 0.01], TIMES).gamma == 1
    best = advise(torch.tensor([0.98, 0.96, 0.95, 0.94]), TIMES)
    assert best.gamma == 3
    longest = advise([0.99] * 3, Timing(10.0, {1: 10.0, 2: 10.0, 3: 10.0}, 0.1))
    assert longest.gamma == 3
    assert "a larger one may be faster" in longest.verdict


def test_it_says_no_where_drafting_does_not_pay() -> None:
    dear = Timing(step=10.0, verify={1: 19.0, 3: 34.0}, draft=2.0)
    advice = advise([0.7, 0.4, 0.2], dear)
    assert advice.gamma is None
    assert advice.verdict.startswith("do not use MTP here")
    assert advise([0.8, 0.6, 0.5], TIMES, least=1.8).gamma is None
    assert "1.8× was asked for" in advise([0.8, 0.6, 0.5], TIMES, least=1.8).verdict


def test_intervals_go_from_all_lower_to_all_upper_ends_and_decide() -> None:
    rates = [Interval(0.3, 0.1, 0.5, 40), Interval(0.1, 0.0, 0.2, 30)]
    advice = advise(rates, Timing(10.0, {2: 11.0}, 0.0))
    option = advice.options[0]
    assert (option.length.low, option.length.effect, option.length.high) == pytest.approx((1.1, 1.4, 1.7))
    assert option.speed_up.low == pytest.approx(1.0)
    assert option.length.n == 30
    assert advice.gamma is None
    assert "measure more chains" in advice.verdict
    sure = [Interval(0.3, 0.25, 0.35, 40), Interval(0.1, 0.08, 0.12, 30)]
    assert advise(sure, Timing(10.0, {2: 11.0}, 0.0)).gamma == 2


def test_what_is_unknown_is_not_used() -> None:
    assert [o.gamma for o in advise([0.8, math.nan, 0.5], TIMES).options] == [1]
    with pytest.raises(DataError, match="known up to step 0"):
        advise([math.nan], TIMES)


def test_each_number_of_drafts_may_have_rates_of_its_own() -> None:
    own = {1: [0.8], 3: [0.7, 0.5, 0.4]}
    apart = advise(own, Timing(10.0, {1: 11.0, 2: 12.0, 3: 13.0}, 1.0))
    assert [(o.gamma, o.length.effect) for o in apart.options] == [(1, 1.8), (3, pytest.approx(2.6))]


def test_rules_are_compared_each_at_its_best() -> None:
    rates: Any = {"target_only": [0.5, 0.3, 0.1], "rejection": [0.8, 0.6, 0.5]}
    advice = advise_rule(rates, TIMES)
    assert advice.rule == "rejection"
    assert "against 1.29× by target_only" in advice.verdict
    slow = Timing(10.0, {1: 30.0}, 5.0)
    other = advise_rule(rates, {"target_only": TIMES, "rejection": slow})
    assert other.rule == "target_only"
    assert "trained on TV it would gain by rejection" in other.verdict
    nothing = advise_rule(rates, slow)
    assert nothing.rule is None
    assert nothing.verdict.startswith("do not use MTP here")
    wide = {
        "rejection": [Interval(0.8, 0.7, 0.9, 9)],
        "target_only": [Interval(0.75, 0.65, 0.85, 9)],
    }
    assert "(their intervals overlap)" in advise_rule(wide, TIMES).verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Timing(0.0, {1: 1.0}, 0.1), DataError, "step"),
        (lambda: Timing(1.0, {1: math.nan}, 0.1), DataError, r"verify\[1\]"),
        (lambda: Timing(1.0, {1: 1.0}, -1.0), DataError, "draft"),
        (lambda: Timing(1.0, {40: 1.0}, 0.1), DataError, "1 … 32"),
        (lambda: advise([1.2], TIMES), DataError, "no probability"),
        (lambda: advise([0.5, 0.8], TIMES), DataError, "cannot rise"),
        (lambda: advise([0.5], TIMES, least=0), ConfigError, "least"),
        (lambda: advise_rule({}, TIMES), DataError, "no rule"),
        (lambda: advise_rule({"match": [0.5]}, {}), DataError, "no times for match"),
    ],
)
def test_errors_say_what_is_wrong(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
