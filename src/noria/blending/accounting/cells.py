"""Books of exposures: sums by cell that every plan's account can be read from, without the log.

For one set of plans a score is linear in the value, so that of each cell (day, scene, source, model version,
snapshot, mask) the number of exposures and the sum of values suffice: plan p's spend is Σ over cells with its bit of
w_p Σy + b_p n. No contribution is stored a row, and another price needs no other pass over the log.

Sums are integers: a number is held in units of 2^-52 as an upper and a lower part, so that books merge exactly in any
order and any partition, on any engine.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.blending.columns import NameColumn, grouped
from noria.blending.compiled import kernels
from noria.core.errors import DataError

Names: TypeAlias = "NameColumn | Sequence[str | None]"

__all__ = ["FIXED", "SUMS", "Account", "BookKey", "Books", "accounts"]

UPPER, LOWER = 2.0**20, 2.0**32
"""Inverse units of the two parts: x = (upper + lower / 2^32) / 2^20."""
_FEW = 16  # bits of a mask that are a number of their own
_A_THREAD = 250_000
"""Rows that are worth a thread of their own, or four a group where there are many groups."""
LARGEST = 2.0**20
"""Largest number that is booked."""
DAY = 86_400

FIXED = ("value", "known_value", "outcome", "gain", "guard", "moved")
"""Numbers that are summed: y; y where the outcome is known; the outcome a; the plan's own gain; g; |r − y|."""
COUNTS = ("exposures", "known", "gains")
"""Rows; rows with an outcome; rows with a gain."""
SUMS = (*COUNTS, *(f"{name}_{part}" for name in FIXED for part in ("upper", "lower")))
"""Columns of a cell's sums."""


class BookKey(NamedTuple):
    """Identity of a cell; `day` counts days since 1970 UTC."""

    day: int
    scene: str
    source: str
    version: str
    snapshot: str
    control: bool
    mask: int


@dataclass
class Books:
    """Sums by cell, [len(SUMS)] Python integers each, and rows left out by reason."""

    cells: dict[BookKey, list[int]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        *,
        day: ArrayLike,
        scene: Names,
        source: Names,
        version: Names,
        snapshot: Names,
        control: ArrayLike,
        mask: ArrayLike,
        value: ArrayLike,
        total: ArrayLike,
        guard: ArrayLike,
        outcome: ArrayLike,
        gain: ArrayLike | None = None,
    ) -> None:
        """Add exposures to the books.

        Args:
            day: [rows] days since 1970 UTC.
            scene, source, version, snapshot: [rows] names; a missing one is the empty name.
            control: [rows] whether the request was in the control bucket.
            mask: [rows] plans that hit.
            value, total, guard: [rows] y, r, g.
            outcome, gain: [rows] NaN where not known.

        Raises:
            DataError: columns differ in length.
        """
        masks = np.asarray(mask, np.uint64)
        numbers = [np.asarray(column, np.float64) for column in (value, total, guard, outcome)]
        numbers.append(np.broadcast_to(np.nan, len(masks)) if gain is None else np.asarray(gain, np.float64))
        days, controls = np.asarray(day, np.int64), np.asarray(control, np.bool_)
        names = [
            column if isinstance(column, NameColumn) else NameColumn.of(list(column))
            for column in (scene, source, version, snapshot)
        ]
        lengths = [*map(len, numbers), *map(len, names)]
        if {*lengths, len(days), len(controls)} != {len(masks)}:
            raise DataError("columns of different lengths", where="exposures")
        if not len(masks):
            return
        first = int(days.min())
        parts: list[tuple[Sequence[Any], NDArray[Any]]] = [(range(first, int(days.max()) + 1), days - first)]
        parts += [column.parted() for column in names]
        parts.append(((False, True), controls.view(np.int8)))
        bits = int(masks.max()).bit_length()
        if bits <= _FEW:
            parts.append((range(1 << bits), masks.view(np.int64)))
        else:
            distinct, place = np.unique(masks, return_inverse=True)
            parts.append((distinct.tolist(), place))
        group, size, values = grouped(parts)
        sums, lost = book_sums(group, size, *numbers)
        for reason, count in lost.items():
            if count:
                self.dropped[reason] = self.dropped.get(reason, 0) + count
        for number in np.flatnonzero(sums[0]).tolist():
            self.put(BookKey(*values(number)), sums[:, number].tolist())

    def merge(self, *others: Books) -> Books:
        """The sum of this and others, as new books. Exact, so order and partition do not matter."""
        merged, dropped = Books(), Counter[str]()
        for books in (self, *others):
            for key, sums in books.cells.items():
                merged.put(key, sums)
            dropped.update(books.dropped)
        merged.dropped = dropped
        return merged

    def put(self, key: BookKey, sums: Sequence[int]) -> None:
        """Add a cell's sums."""
        known = self.cells.get(key)
        self.cells[key] = list(sums) if known is None else [a + b for a, b in zip(known, sums, strict=True)]


def book_sums(
    group: NDArray[np.int64],
    groups: int,
    value: NDArray[np.float64],
    total: NDArray[np.float64],
    guard: NDArray[np.float64],
    outcome: NDArray[np.float64],
    gain: NDArray[np.float64],
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """[len(SUMS), groups] sums of rows by group, and rows left out by reason."""
    fast = kernels()
    if fast is not None:
        columns = (group, value, total, guard, outcome, gain)
        threads = max(1, min(len(os.sched_getaffinity(0)), len(group) // max(_A_THREAD, 4 * groups)))
        ends = np.linspace(0, len(group), threads + 1).astype(int).tolist()

        def book(begin: int, end: int) -> tuple[int, NDArray[np.int64]]:
            cells = np.zeros((groups, len(SUMS)), np.int64)
            return fast.book(*(column[begin:end] for column in columns), cells), cells

        with ThreadPoolExecutor(threads) as pool:  # whole numbers: the sums are those of one thread
            parts = list(pool.map(book, ends[:-1], ends[1:]))
        cells = np.sum([cells for _, cells in parts], axis=0)
        return cells.T, {"value, total or guard not finite, or too large": sum(lost for lost, _ in parts)}
    with np.errstate(invalid="ignore"):
        good = (np.abs(value) <= LARGEST) & (np.abs(total) <= LARGEST) & (np.abs(guard) <= LARGEST)
        known, gained = good & (np.abs(outcome) <= LARGEST), good & (np.abs(gain) <= LARGEST)
    summed = {
        "value": (good, value),
        "known_value": (known, value),
        "outcome": (known, outcome),
        "gain": (gained, gain),
        "guard": (good, guard),
        "moved": (good, np.abs(total - value)),
    }
    sums = [np.bincount(group[rows], minlength=groups) for rows in (good, known, gained)]
    for rows, numbers in summed.values():
        upper, lower = _parts(numbers[rows])
        for part in (upper, lower):
            whole = np.zeros(groups, np.int64)
            np.add.at(whole, group[rows], part)
            sums.append(whole)
    return np.stack(sums).astype(np.int64), {
        "value, total or guard not finite, or too large": int((~good).sum())
    }


def _parts(numbers: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    scaled = numbers * UPPER
    upper = np.floor(scaled)
    return upper.astype(np.int64), np.rint((scaled - upper) * LOWER).astype(np.int64)


def amount(sums: Sequence[int], name: str) -> float:
    """A summed number of one cell, or of several added up; exact until the last rounding."""
    at = SUMS.index(f"{name}_upper")
    return (sums[at] * 2**32 + sums[at + 1]) / 2**52


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """Sums over the exposures of a plan.

    Attributes:
        exposures: number of shown candidates that it hit.
        spend: Σ s, expected effective completions, before the guards.
        value: Σ y over them.
        known: exposures whose outcome is known.
        outcomes: effective completions among them.
        surplus: Σ (a − y) over them: how much better they did than priced.
        gain: Σ of the plan's own figure, where it is known; None where it never is.
    """

    plan: str
    exposures: int
    spend: float
    value: float
    known: int
    outcomes: float
    surplus: float
    gain: float | None

    @property
    def price(self) -> float | None:
        """Expected completions spent on 1,000 exposures; None without exposures."""
        return 1000 * self.spend / self.exposures if self.exposures else None


def accounts(
    books: Books,
    plans: Mapping[str, Sequence[tuple[str, float, float]]],
    *,
    keep: Iterable[BookKey] | None = None,
) -> tuple[list[Account], dict[str, int]]:
    """Every plan's account, from cells alone.

    Args:
        books: cells of exposures.
        plans: (id, weight, bias) of each plan in the order of the bits, by the snapshot's digest.
        keep: the cells to read, such as those of one day; all by default.

    Returns:
        An account a plan, and how many exposures were of snapshots that are not in `plans`.
    """
    by_snapshot: dict[str, list[BookKey]] = {}
    for key in books.cells if keep is None else keep:
        by_snapshot.setdefault(key.snapshot, []).append(key)
    totals = {plan: [0] * len(SUMS) for listed in plans.values() for plan, _, _ in listed}
    spends: dict[str, list[float]] = {plan: [] for plan in totals}
    unknown: dict[str, int] = {}
    for snapshot, keys in sorted(by_snapshot.items()):
        if snapshot not in plans:
            unknown[snapshot] = sum(books.cells[key][0] for key in keys)
            continue
        for (plan, weight, bias), sums in zip(
            plans[snapshot], _by_plan(books, keys, len(plans[snapshot])), strict=True
        ):
            spends[plan].append(weight * amount(sums, "value") + bias * sums[0])
            totals[plan] = [one + other for one, other in zip(totals[plan], sums, strict=True)]
    return [_account(plan, sums, spends[plan]) for plan, sums in totals.items()], unknown


def _by_plan(books: Books, keys: Sequence[BookKey], plans: int) -> list[list[int]]:
    """Sums of the cells that each plan hit, exact."""
    mask = np.array([key.mask for key in keys], np.uint64)
    hit = (mask >> np.arange(plans, dtype=np.uint64)[:, None] & np.uint64(1)).astype(np.int64)
    rows = [books.cells[key] for key in keys]
    try:
        table = np.array(rows, np.int64)
    except OverflowError:  # more rows in one cell than 2^31
        result: list[list[int]] = (hit.astype(object) @ np.array(rows, object)).tolist()
        return result
    for lower in range(len(COUNTS) + 1, len(SUMS), 2):  # carry, so that no lower part is above 2^32
        table[:, lower - 1] += table[:, lower] >> 32
        table[:, lower] &= 0xFFFF_FFFF
    result = (hit @ table).tolist()
    return result


def _account(plan: str, sums: Sequence[int], spends: Sequence[float]) -> Account:
    exposures, known, gains = sums[:3]
    return Account(
        plan=plan,
        exposures=exposures,
        spend=math.fsum(spends),
        value=amount(sums, "value"),
        known=known,
        outcomes=amount(sums, "outcome"),
        surplus=amount(sums, "outcome") - amount(sums, "known_value"),
        gain=amount(sums, "gain") if gains else None,
    )
