from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noria.blending.accounting import cells
from noria.blending.accounting.cells import SUMS, BookKey, Books, accounts, amount
from noria.blending.boosting.scoring import PlanTables, contributions, score
from noria.core.errors import DataError

PLANS = {"s1": [("a", 0.5, 0.1), ("b", 0.0, -0.2)], "s2": [("b", 1.0, 0.0), ("a", 0.0, 0.3)]}


def log(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    snapshot = rng.integers(2, size=count)
    mask = rng.integers(4, size=count).astype(np.uint64)
    value = rng.random(count)
    total = np.empty(count)
    for number, plans in enumerate(PLANS.values()):
        rows = snapshot == number
        tables = PlanTables.of([w for _, w, _ in plans], [b for _, _, b in plans])
        total[rows] = score(value[rows], mask[rows], tables)[0]
    outcome = (rng.random(count) < value).astype(float)
    outcome[rng.random(count) < 0.2] = np.nan
    return {
        "day": rng.integers(20_000, 20_003, size=count),
        "scene": ["home"] * count,
        "source": [("live", "organic")[n] for n in rng.integers(2, size=count)],
        "version": ["v1"] * count,
        "snapshot": [("s1", "s2")[n] for n in snapshot],
        "control": rng.random(count) < 0.1,
        "mask": mask,
        "value": value,
        "total": total,
        "guard": np.zeros(count),
        "outcome": outcome,
        "gain": rng.random(count),
    }


def taken(columns: dict[str, Any], rows: Any) -> dict[str, Any]:
    return {name: np.asarray(column)[rows] for name, column in columns.items()}


def booked(columns: dict[str, Any]) -> Books:
    books = Books()
    books.add(**columns)
    return books


def test_accounts_from_cells_are_those_of_every_row() -> None:
    columns = log(3000)
    found, unknown = accounts(booked(columns), PLANS)
    assert unknown == {}
    by_plan = {account.plan: account for account in found}
    for plan in "ab":
        spend, value, exposures, surplus, known = [], [], 0, [], 0
        for row in range(3000):
            listed = PLANS[columns["snapshot"][row]]
            bit = next(n for n, (name, _, _) in enumerate(listed) if name == plan)
            if int(columns["mask"][row]) >> bit & 1:
                _, w, b = listed[bit]
                exposures += 1
                spend.append(w * columns["value"][row] + b)
                value.append(columns["value"][row])
                if not math.isnan(columns["outcome"][row]):
                    known += 1
                    surplus.append(columns["outcome"][row] - columns["value"][row])
        account = by_plan[plan]
        assert (account.exposures, account.known) == (exposures, known)
        assert account.spend == pytest.approx(math.fsum(spend), rel=1e-13)
        assert account.value == pytest.approx(math.fsum(value), rel=1e-13)
        assert account.surplus == pytest.approx(math.fsum(surplus), abs=1e-10)
        assert account.price == pytest.approx(1000 * account.spend / exposures)


def test_what_lists_hold_above_their_value_is_what_plans_spent() -> None:
    columns = log(2000)
    books = booked(columns)
    spent = sum(account.spend for account in accounts(books, PLANS)[0])
    s = 0.0
    for number, plans in enumerate(PLANS.values()):
        rows = np.array(columns["snapshot"]) == f"s{number + 1}"
        tables = PlanTables.of([w for _, w, _ in plans], [b for _, _, b in plans])
        s += contributions(columns["value"][rows], columns["mask"][rows], tables).sum()
    assert spent == pytest.approx(s, rel=1e-12)
    assert spent == pytest.approx((columns["total"] - columns["value"]).sum(), rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_any_partition_gives_the_same_books(seed: int, parts: int) -> None:
    columns = log(120, seed)
    owner = np.random.default_rng(seed).integers(parts, size=120)
    pieces = [booked(taken(columns, owner == part)) for part in range(parts)]
    assert Books().merge(*reversed(pieces)).cells == booked(columns).cells


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_a_sum_is_exact_to_a_unit_a_row(values: list[float]) -> None:
    columns = taken(log(1), np.zeros(len(values), int)) | {
        "value": np.array(values),
        "total": np.array(values),
    }
    (sums,) = booked(columns).cells.values()
    assert (
        abs(amount(sums, "value") - math.fsum(values))
        <= len(values) * 2.0**-52 + abs(math.fsum(values)) * 2.0**-52
    )


def test_with_and_without_numba_the_books_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    columns = log(500)
    columns["value"][3] = np.nan
    columns["total"][4] = np.inf
    columns["gain"][5] = np.nan
    columns["guard"][6] = -0.25
    compiled = booked(columns)
    monkeypatch.setattr(cells, "kernels", lambda: None)
    plain = booked(columns)
    assert compiled.cells == plain.cells
    assert compiled.dropped == plain.dropped == {"value, total or guard not finite, or too large": 2}
    assert sum(sums[0] for sums in plain.cells.values()) == 498


def test_exposures_of_a_snapshot_that_nobody_has_are_counted_and_not_guessed() -> None:
    found, unknown = accounts(booked(log(100)), {"s1": PLANS["s1"]})
    assert list(unknown) == ["s2"]
    assert unknown["s2"] + sum(s[0] for k, s in booked(log(100)).cells.items() if k.snapshot == "s1") == 100
    assert {account.plan for account in found} == {"a", "b"}


def test_a_cell_of_more_rows_than_a_machines_number_holds_is_still_exact() -> None:
    key = BookKey(1, "", "s", "", "s1", False, 0b01)
    sums = [3, 0, 0, 2, 2**70, *[0] * (len(SUMS) - 5)]
    plain = [3, 0, 0, 2 + 2**38, 0, *[0] * (len(SUMS) - 5)]
    one, two = (accounts(Books({key: cell}), PLANS)[0][0] for cell in (sums, plain))
    assert one.value == two.value == (2 + 2**38) / 2**20


def test_masks_and_names_of_any_number_are_booked_alike() -> None:
    """Groups kept dense, found by sorting, and found by sorting tables give the same books."""
    columns = log(400)
    rng = np.random.default_rng(1)
    wide = rng.integers(2**63, size=400, dtype=np.uint64) | np.uint64(1 << 63)
    for more in ({}, {"mask": wide}, {"day": rng.integers(-(2**61), 2**61, size=400)}):
        given = columns | more
        books = booked(given)
        assert sum(sums[0] for sums in books.cells.values()) == 400
        rows = zip(
            given["day"].tolist(),
            given["source"],
            given["snapshot"],
            given["control"].tolist(),
            given["mask"].tolist(),
            strict=True,
        )
        assert {(k.day, k.source, k.snapshot, k.control, k.mask) for k in books.cells} == set(rows)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="different lengths"):
        Books().add(**(log(3) | {"value": [1.0]}))


def test_a_key_is_plain_python_and_no_exposure_is_booked_twice() -> None:
    (key, *_) = booked(log(5)).cells
    assert isinstance(key, BookKey)
    assert [type(part) for part in key] == [int, str, str, str, str, bool, int]
    assert len(set(SUMS)) == len(SUMS)


def test_books_of_many_rows_are_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(5)
    n, groups = 10_007, 9
    group = rng.integers(groups, size=n)
    numbers = [rng.normal(size=n) for _ in range(5)]
    numbers[0][::97] = np.nan
    whole, lost = cells.book_sums(group, groups, *numbers)
    monkeypatch.setattr("noria.blending.accounting.cells._A_THREAD", 100)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(7))
    parted, again = cells.book_sums(group, groups, *numbers)
    np.testing.assert_array_equal(parted, whole)
    assert again == lost
    assert sum(lost.values()) == len(range(0, n, 97))
