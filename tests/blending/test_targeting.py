from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, strategies as st

from noria.blending.columns import Candidates, NameColumn, NameLists, as_column
from noria.blending.plans.matching import evaluate
from noria.blending.plans.targeting import MAX_DEPTH, MAX_LENGTH, columns_of, parse
from noria.core.errors import ConfigError, DataError

COLUMNS = {
    "source": NameColumn.of(["live", "organic", None, "ads"]),
    "author": NameColumn.of(["ann", "organic", "bob", None]),
    "age": np.array([1.0, 7.0, np.nan, 30.0]),
    "limit": np.array([2.0, 2.0, 2.0, np.nan]),
    "fresh": np.array([True, False, True, False]),
    "tags": NameLists.of([["new", "music"], [], ["music"], ["new"]]),
}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("true", [0, 1, 2, 3]),
        ("false", []),
        ('source == "live"', [0]),
        ('"live" == source', [0]),
        ('source != "live"', [1, 3]),
        ('not source == "live"', [1, 3]),
        ("source is missing", [2]),
        ("source is not missing", [0, 1, 3]),
        ('source in ["live", "ads"]', [0, 3]),
        ('source not in ["live", "ads"]', [1]),
        ("source == author", [1]),
        ("source != author", [0]),
        ("age < 7", [0]),
        ("not age < 7", [1, 3]),
        ("7 > age", [0]),
        ("1 < age <= 30", [1, 3]),
        ("age in [1, 30]", [0, 3]),
        ("age < limit", [0]),
        ("age >= -1.5e2", [0, 1, 3]),
        ("fresh", [0, 2]),
        ("not fresh", [1, 3]),
        ("fresh == false", [1, 3]),
        ('"new" in tags', [0, 3]),
        ('"new" not in tags', [1, 2]),
        ("age < 7 or fresh", [0, 2]),
        ("age < 7 and nowhere > 3", []),
        ("age < 7 or nowhere > 3", [0]),
        ("nowhere is missing", [0, 1, 2, 3]),
        ('not (source == "live" or fresh) and age > 2', [1, 3]),
    ],
)
def test_an_expression_is_true_where_it_says(text: str, rows: list[int]) -> None:
    assert np.flatnonzero(evaluate(parse(text), COLUMNS, 4)).tolist() == rows


def test_what_is_not_known_targets_nobody_by_a_test_or_by_its_negation() -> None:
    for test in ("age < 7", 'source == "live"', "age in [1, 2]", "source == author"):
        either = evaluate(parse(f"{test} or not ({test})"), COLUMNS, 4)
        assert not either.all()


@given(
    st.recursive(
        st.sampled_from(["age < 7", "fresh", 'source == "ads"', "limit > 1"]),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
            inner.map(lambda t: f"not ({t})"),
        ),
        max_leaves=6,
    )
)
def test_nothing_is_both_true_and_false_and_negation_is_an_involution(text: str) -> None:
    yes, no = evaluate(parse(text), COLUMNS, 4), evaluate(parse(f"not ({text})"), COLUMNS, 4)
    assert not (yes & no).any()
    assert (evaluate(parse(f"not not ({text})"), COLUMNS, 4) == yes).all()


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        columns_of(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age <",
        "age < 7 and",
        "(age < 7",
        "age < 7)",
        "3 < 4",
        '"live"',
        "__import__('os').system('true')",
        "age < 7; true",
        "age in []",
        'age in [1, "two"]',
        'source == "live',
        "age is 3",
        "1e999 < age",
        "(" * (MAX_DEPTH + 1) + "fresh" + ")" * (MAX_DEPTH + 1),
        "not " * (MAX_DEPTH + 1) + "fresh",
        "fresh or " * MAX_LENGTH + "fresh",
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        'age == "seven"',
        "source < 3",
        'source < "m"',
        "tags == 3",
        '"new" in source',
        "age",
        "fresh < 3",
        "age == fresh",
    ],
)
def test_a_column_of_another_kind_is_said(text: str) -> None:
    with pytest.raises(DataError, match="column"):
        evaluate(parse(text), COLUMNS, 4)


def test_names_are_columns_and_nothing_else() -> None:
    for text in ("age.__class__ == lambda", "exec == age", "__builtins__ != age"):
        assert not evaluate(parse(text), COLUMNS, 4).any()


def test_the_columns_of_an_expression() -> None:
    text = 'a == "x" and (not b or 3 < c <= d) and e in ["y"] and "z" in f and g is missing and true'
    assert columns_of(parse(text)) == set("abcdefg")


def test_lists_survive_taking_rows() -> None:
    tags = COLUMNS["tags"]
    assert isinstance(tags, NameLists)
    taken = tags.take(np.array([3, 0, 1]))
    assert evaluate(parse('"new" in tags'), {"tags": taken}, 3).tolist() == [True, True, False]
    assert evaluate(parse('"music" in tags'), {"tags": taken}, 3).tolist() == [False, True, False]


@pytest.mark.parametrize("values", [[1, "a"], [2**53 + 1], [{}, {}], [[1]], [10**400], "text", 3])
def test_values_of_no_kind_are_no_column(values: object) -> None:
    with pytest.raises(DataError):
        as_column("c", values)


NAMES = [["a"], None, [], ["b"]]


@pytest.mark.parametrize(
    ("when", "flags"),
    [
        ('"a" in tags', [True, False, False, False]),
        ('"a" not in tags', [False, False, True, True]),
        ('not "a" in tags', [False, False, True, True]),
        ("tags is missing", [False, True, False, False]),
    ],
)
def test_a_missing_list_is_not_the_empty_one(when: str, flags: list[bool]) -> None:
    column = as_column("tags", NAMES)
    assert evaluate(parse(when), {"tags": column}, 4).tolist() == flags
    # Whether a candidate is hit does not depend on the others.
    for row, hit in enumerate(flags):
        one = Candidates.of({"item": [1], "score": [1.0], "source": ["s"], "tags": [NAMES[row]]})
        assert evaluate(parse(when), one.columns, 1).tolist() == [hit]


@pytest.mark.parametrize(
    ("when", "flags"),
    [
        ("new", [True, False, False]),
        ("not new", [False, False, True]),
        ("new == false", [False, False, True]),
        ("new is missing", [False, True, False]),
    ],
)
def test_a_missing_flag_is_neither_true_nor_false(when: str, flags: list[bool]) -> None:
    values = [True, None, False]
    assert evaluate(parse(when), {"new": as_column("new", values)}, 3).tolist() == flags
    for value, hit in zip(values, flags, strict=True):
        one = Candidates.of({"item": [1], "score": [1.0], "source": ["s"], "new": [value]})
        assert evaluate(parse(when), one.columns, 1).tolist() == [hit]


def test_whole_numbers_that_a_float_would_merge_are_refused() -> None:
    for values in ([2**53 + 1], [1, -(2**60)], np.array([2**53 + 1]), np.array([2**64 - 1], np.uint64)):
        with pytest.raises(DataError, match="above 2\\^53"):
            as_column("author", values)
    assert as_column("author", [2**53, 0.5]).tolist() == [2.0**53, 0.5]  # type: ignore[union-attr]
    for when in (f"author == {2**53 + 1}", f"author in [1, {2**60}]", f"{2**53 + 1} < author"):
        with pytest.raises(ConfigError, match="above 2\\^53"):
            parse(when)
