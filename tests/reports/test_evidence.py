"""Quantities, facts, derived numbers and support: what follows from what, decided in decimal arithmetic."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from noria.core.errors import DataError
from noria.reports.evidence.derivation import compute, derive, recompute
from noria.reports.evidence.facts import field_facts
from noria.reports.evidence.quantities import agrees, plain_number, quantities
from noria.reports.evidence.records import Book, Derived, Fact, Passage, Source, decode
from noria.reports.evidence.support import check_sentence
from noria.reports.evidence.tables import Table, cell_fact, cell_number, column_kind, read_csv, table_kinds


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("$3.732 trillion", "3732000000000", "$"),
        ("68,512,806 people", "68512806", ""),
        ("-36.3%", "-36.3", "%"),
        ("3.5 万亿元", "3500000000000", "元"),
        ("1.2亿", "120000000", ""),
        ("１２３％", "123", "%"),
        ("151.463 million kW", "151463000", "kW"),
        ("80,000 bbl/day", "80000", "bbl/day"),
        ("14.5 percentage points", "14.5", "percentage points"),
    ],
)
def test_a_number_keeps_its_scale_and_unit(text: str, value: str, unit: str) -> None:
    first = next(quantities(text))
    assert (first.value, first.unit) == (Decimal(value), unit)


@pytest.mark.parametrize(
    ("text", "value", "step"),
    [("3.4e30 J.", "3.4e30", "1e29"), ("-1.50E-7", "-1.50e-7", "1e-9"), ("2e5x", "2", "1"), ("1" * 40, "1" * 40, "1")],
)  # fmt: skip
def test_a_power_of_ten_is_part_of_its_number_and_no_digit_is_lost(text: str, value: str, step: str) -> None:
    first = next(quantities(text))
    assert (first.value, first.step) == (Decimal(value), Decimal(step))


@pytest.mark.parametrize("text", ["1" * 302, "1e301", "1" * 2_000_000, "0." + "1" * 301, "1e-301"])
def test_a_number_beyond_every_float_is_none(text: str) -> None:
    assert list(quantities(text)) == []
    assert cell_number(text) is None


@pytest.mark.parametrize(
    "text", ["1e999999", "1e9999999999999999999999", "1e-999999", "0e999999", "NaN", "Infinity"]
)
def test_a_cell_whose_exponent_is_out_of_bounds_is_no_number(text: str) -> None:
    assert cell_number(text) is None


def test_numbers_of_more_digits_than_a_decimal_context_has_are_written_and_compared() -> None:
    assert plain_number(Decimal("1.2e30")) == "1,200,000,000,000,000,000,000,000,000,000"
    assert plain_number(Decimal("9" * 30 + ".5")) == "1" + ",000" * 10
    large = 10**30 + 1
    assert agrees(next(quantities(f"{large:,}")), Decimal(large), "")
    assert not agrees(next(quantities(f"{large:,}")), Decimal(large + 1), "")
    for value in ("1e999999", "-1e999999", "1e-999999", "NaN", "sNaN", "Infinity"):
        assert not agrees(next(quantities("about 5 km")), Decimal(value), "km")


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "1e999999", "1e-999999"])
def test_a_ledger_holds_no_value_that_cannot_be_printed(value: str) -> None:
    fact = {
        "id": "S1#f0",
        "entity": "a",
        "measure": "b",
        "value": value,
        "unit": "",
        "period": "",
        "raw": "1",
    }
    derived = {"id": "D1", "operation": "sum", "operands": ["S1#f0"], "value": value}
    for book in ({"facts": {"S1#f0": fact}}, {"derived": {"D1": derived}}):
        with pytest.raises(DataError, match="a value that is no number"):
            decode(json.dumps(book), Book, "ledger.json")


def test_digits_inside_of_words_are_no_numbers() -> None:
    assert [q.raw for q in quantities("CO2 from S12#p3, ISO9001 and 2020–2025 with v1.2")] == ["2020", "2025"]


@pytest.mark.parametrize(
    ("printed", "value", "unit", "right"),
    [
        ("149 million t", "149", "million t", True),
        ("149", "149", "million t", True),
        ("149 billion t", "149", "million t", False),
        ("$1.5 trillion", "1500", "billion USD", True),
        ("$1500", "1500", "billion USD", False),
        ("3.2亿", "32000", "万人", True),
        ("3.2亿", "3.2", "万人", False),
        ("20 million", "20", "millions", True),
        ("5 kW", "5", "千瓦", True),
        ("12 thousand", "12", "in thousands", True),
        ("7 million", "7", "millimetres", False),
    ],
)
def test_a_head_of_a_table_scales_its_unit(printed: str, value: str, unit: str, right: bool) -> None:
    assert agrees(next(quantities(printed)), Decimal(value), unit) == right


@given(st.decimals(min_value="0.001", max_value="1e9", places=3), st.integers(0, 3))
def test_a_rounded_number_agrees_with_what_it_was_rounded_from(value: Decimal, places: int) -> None:
    printed = next(quantities(f"{round(value, places):.{places}f}"))
    assert agrees(printed, value, "")
    assert not agrees(printed, value + 2 * printed.step, "")


def test_units_convert_within_a_dimension_only() -> None:
    printed = next(quantities("1.5 GW"))
    assert agrees(printed, Decimal("1500"), "MW")
    assert not agrees(printed, Decimal("1.5"), "MW")
    assert not agrees(printed, Decimal("1.5"), "GWh")


def test_about_is_wider_and_nothing_else_is() -> None:
    assert agrees(
        next(quantities("about 100")) if False else next(iter(quantities("about 100"))), Decimal("103"), ""
    )
    assert not agrees(next(quantities("100")), Decimal("103"), "")


@given(st.decimals(min_value="0.0001", max_value="1e12", places=4))
def test_a_printed_number_is_read_back_to_its_digits(value: Decimal) -> None:
    printed = next(quantities(plain_number(value)))
    assert agrees(printed, value, "")


def test_formulas_by_hand() -> None:
    d = Decimal
    assert compute("growth", [d(80), d(100)]) == d(25)
    assert compute("share", [d(1), d(1), d(3)]) == d(25)
    assert compute("rank", [d(2), d(1), d(3), d(5)]) == d(3)
    assert compute("gap to median", [d(9), d(1), d(2), d(6)]) == d(7)
    assert compute("correlation", [d(1), d(2), d(3), d(-2), d(-4), d(-6)]) == d(-1)
    assert compute("ratio", [d(1), d(0)]) is None
    with pytest.raises(DataError, match="no formula"):
        compute("guess", [d(1)])


@given(
    st.lists(st.decimals(min_value=1, max_value=1000, places=2), min_size=4, max_size=12).filter(
        lambda v: len(set(v)) > 3
    )
)
def test_correlation_is_numpys(values: list[Decimal]) -> None:
    import numpy as np

    half = len(values) // 2
    a, b = values[:half], values[half : 2 * half]
    if half < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return
    ours = compute("correlation", [*a, *b])
    assert ours is not None
    assert float(ours) == pytest.approx(
        float(np.corrcoef(np.array(a, float), np.array(b, float))[0, 1]), abs=1e-9
    )


def _book() -> Book:
    book = Book()
    book.add(
        Source("S1", "text", "a", "A"),
        Passage("S1#p0", "S1", 0, 30, "Output was 1,234 MW in 2023.", "h"),
        Fact("S1#f0", "A", "output", Decimal(1234), "MW", "2023", "1,234 MW", "S1#p0"),
        Fact("S1#f1", "A", "output", Decimal(1000), "MW", "2022", "1,000 MW", "S1#p0"),
    )
    return book


def test_every_number_of_a_sentence_needs_what_it_cites() -> None:
    book = _book()
    assert check_sentence("In 2023 output was 1.2 GW.", ["S1#f0"], book).verdict == "supported"
    half = check_sentence("In 2023 output was 1,234 MW, and 99% of it wind.", ["S1#p0"], book)
    assert half.verdict == "partial"
    assert [link.target for link in half.links] == ["S1#p0", "S1#p0", None]
    assert check_sentence("Output was 7 MW.", ["S1#p0"], book).verdict == "unsupported"
    assert check_sentence("Output was 7 MW.", ["S9#p0"], book).verdict == "unknown"


def test_a_derived_number_is_supported_and_computed_again() -> None:
    book = _book()
    entry = derive(book, "growth", ["S1#f1", "S1#f0"])
    assert entry is not None
    assert entry.value == Decimal("23.4")
    assert check_sentence("It rose by 23.4%.", [entry.id], book).verdict == "supported"
    assert recompute(book, entry) == entry.value
    forged = Derived("D9", "growth", entry.operands, Decimal(99))
    assert recompute(book, forged) != forged.value


def test_numbers_of_markers_and_figures_need_no_support() -> None:
    text = 'As <a href="#fig3">Figure 3</a> shows, output was 1,234 MW [[S1#p0]] [7].'
    assert check_sentence(text, ["S1#p0"], _book()).verdict == "supported"


def test_numbers_of_a_name_are_no_figures_of_their_own() -> None:
    """The World Factbook has a youth unemployment rate (ages 15-24); naming it states no 15 and no 24."""
    measure = "youth unemployment rate (ages 15-24)"
    book = Book()
    book.add(Fact("S1#f0", "Hungary", measure, Decimal("12.8"), "%", "2023", "12.8%"))
    book.add(Fact("S1#f1", "24", "7", Decimal(3), "", "", "3"))
    said = f"In 2023, {measure.capitalize()} was 12.8%."
    assert check_sentence(said, ["S1#f0"], book).verdict == "supported"
    other = said.replace("24", "29")
    missing = check_sentence(other, ["S1#f0"], book).missing
    assert [other[one.start : one.end] for one in missing] == ["15", "29"], "another name is none"
    assert check_sentence("It was 24 of 7.", ["S1#f1"], book).verdict == "unsupported", "nor is a bare number"


def test_a_field_gives_value_period_and_unit() -> None:
    (fact,) = field_facts(
        "France", "Unemployment rate 2023", "7.4% (2023 est.)", source="S1", passage="S1#p0", first=5
    )
    assert (fact.id, fact.measure, fact.value, fact.period, fact.estimate) == (
        "S1#f5",
        "Unemployment rate",
        Decimal("7.4"),
        "2023",
        True,
    )
    parts = list(
        field_facts("X", "Religions", "Muslim 61.5%, Catholic 30% (2020)", source="S1", passage="p", first=0)
    )
    assert [(p.measure, p.value) for p in parts] == [
        ("Religions: Muslim", Decimal("61.5")),
        ("Religions: Catholic", Decimal(30)),
    ]


def test_columns_are_what_people_put_in_them() -> None:
    table = read_csv('year,GDP [tn.],a.b,month\n2020,"1,200",x,Mar\n2021,-,y,Jan\n2022,"1,400",z,Feb\n', "t")
    assert table_kinds(table) == ("year", "number", "name", "month")
    assert cell_number("1,200") == 1200
    assert cell_number("-") is None
    fact = cell_fact("S1", table, 0, 1)
    assert fact is not None
    assert (fact.value, fact.period, fact.unit, fact.entity) == (1200, "2020", "tn.", "x")
    assert cell_fact("S1", table, 1, 1) is None
    assert column_kind("zip", ["20601", "10001"]) == "number"


def test_signs_that_only_look_like_digits_are_no_years() -> None:
    assert column_kind("year", ["²²²²", "²²²³"]) == "name"


def test_columns_of_one_name_are_told_apart() -> None:
    assert Table.of(["a", "a", ""], [[1, 2, 3]]).columns == ("a", "a (2)", "column 3")


@given(
    st.lists(st.lists(st.text("abc ,\"'\n1.", max_size=8), min_size=2, max_size=2), min_size=1, max_size=6)
)
def test_a_table_survives_csv(rows: list[list[str]]) -> None:
    table = Table.of(["x", "y"], rows)
    kept = [row for row in table.rows if any(row)]
    assert list(read_csv(table.csv(), "t", delimiter=",").rows) == kept
