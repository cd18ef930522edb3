"""Scoring of answers, cheapness, and arithmetic that is worked out without being run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noria.core.errors import DataError
from noria.routing.pool.calculator import calculate, fill_in
from noria.routing.tables.answers import Thrift, exact, f1, score


@pytest.mark.parametrize(
    ("rule", "text", "answers", "value"),
    [
        ("exact", "The  Eiffel tower!", ["eiffel Tower"], 1),
        ("exact", "Eiffel", ["eiffel tower"], 0),
        ("f1", "the tall eiffel tower", ["Eiffel Tower"], 0.8),
        ("f1", "yes", ["yes it is"], 0),
        ("f1", "yes", ["Yes."], 1),
        ("f1", "", ["x"], 0),
        ("contains", "I think it is Paris, France.", ["paris"], 1),
        ("contains", "comparison", ["paris"], 0),
        ("number", "so 3*4 = 12, the answer is 1,234.50", ["1234.5"], 1),
        ("number", "#### -7", ["-7"], 1),
        ("number", "none", ["7"], 0),
        ("number", "7 then 8", ["7"], 0),
        ("choice", "Not A. The answer is (B)", ["B"], 1),
        ("number", "it is 5-3", ["3"], 1),
        ("number", "x = −3", ["-3"], 1),
        ("number", "about .5", ["0.5"], 1),
        ("choice", "Because", ["B"], 0),
        ("choice", "(B), I think. I'm sure.", ["B"], 1),
        ("choice", "C. A dog barks", ["C"], 1),
        ("choice", "Not B: A is right", ["A"], 1),
        ("choice", "I", ["I"], 1),
    ],
)
def test_rules(rule: str, text: str, answers: list[str], value: float) -> None:
    assert score(rule, text, answers) == pytest.approx(value)


def test_what_cannot_be_scored_is_told() -> None:
    with pytest.raises(DataError, match="no rule"):
        score("vibes", "a", ["a"])
    with pytest.raises(DataError, match="without an answer"):
        score("exact", "a", [])


@given(st.text(max_size=30), st.text(max_size=30))
def test_f1_is_symmetric_between_zero_and_one_and_one_for_equals(a: str, b: str) -> None:
    assert 0 <= f1(a, [b]) <= 1
    assert f1(a, [b]) == pytest.approx(f1(b, [a]))
    assert exact(a, [b]) <= (f1(a, [b]) if f1(a, [a]) else 1)


def test_thrift_is_router_r1s_with_a_reference_that_stays() -> None:
    costs = np.arange(101.0) ** 2  # their roots are 0 … 100
    thrift = Thrift.of(costs)
    assert (thrift.low, thrift.high) == pytest.approx((5, 95))
    assert float(thrift(50.0**2)) == pytest.approx(1 - 45 / 90)
    assert thrift(np.array([0.0, 1e9])).tolist() == [1.0, 0.0]
    assert math.isnan(float(thrift(math.nan)))
    assert float(Thrift.of([3.0, 3.0])(3.0)) == 0.5
    assert Thrift.of([math.nan, 4.0]) == Thrift.of([4.0])
    with pytest.raises(DataError, match="no cost"):
        Thrift.of([math.nan])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3*(4+5)", "27"),
        ("7/2", "3.5"),
        ("-2**2", "-4"),
        ("2**10", "1024"),
        ("17 // 5 + 17 % 5", "5"),
        ("1e3+1", "1001"),
        ("0.1+0.2", "0.3"),
    ],
)
def test_arithmetic(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "evil",
    ["__import__('os').system('x')", "(1).__class__", "9**9**9**9", "1/0", "[1]*10**9", "a+1", "'a'*3", "1 if 1 else 2",
     "(" * 5000, "True+1", "1e308*10", "lambda: 1", "1;2", "(-8)**0.5", "\0"],
)  # fmt: skip
def test_what_is_no_arithmetic_is_not_run(evil: str) -> None:
    assert calculate(evil) is None


@given(st.text(max_size=40))
def test_any_text_is_arithmetic_or_not(text: str) -> None:
    found = calculate(text)
    assert found is None or math.isfinite(float(found))


def test_calculations_are_filled_in_and_what_has_no_value_stays() -> None:
    assert fill_in("so <calc>2*3</calc>, and <calc>x</calc>") == "so 6, and x"
