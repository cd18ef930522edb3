"""Books of exposures: sums by cell that every plan's account can be read from, without the log.

For one set of plans a score is linear in the value, so that of each cell (day, scene, source, model version,
snapshot, mask) the number of exposures and the sum of values suffice: plan p's spend is Σ over cells with its bit of
w_p Σy + b_p n. No contribution is stored a row, and another price needs no other pass over the log.

Sums are integers: a number is held in units of 2^-52 as an upper and a lower part, so that books merge exactly in any
order and any partition, on any engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.blending.scoring import kernels
from noria.core.errors import DataError

__all__ = ["FIXED", "SUMS", "Account", "BookKey", "Books", "accounts"]

UPPER, LOWER = 2.0**20, 2.0**32
"""Units of the two parts: x = (upper + lower / 2^32) / 2^20."""
LARGEST = 2.0**20
"""Size of a number that is let in."""
DAY = 86_400

FIXED = ("value", "known_value", "outcome", "gain", "guard", "moved")
"""Numbers that are summed: y; y where the outcome is known; the outcome a; the plan's own gain; g; |r − y|."""
COUNTS = ("exposures", "known", "gains")
"""Rows; rows with an outcome; rows with a gain."""
SUMS = (*COUNTS, *(f"{name}_{part}" for name in FIXED for part in ("upper", "lower")))
"""Columns of a cell's sums."""


class BookKey(NamedTuple):
    """What a cell is of; `day` counts days since 1970 UTC."""

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
        scene: Sequence[str],
        source: Sequence[str],
        version: Sequence[str],
        snapshot: Sequence[str],
        control: ArrayLike,
        mask: ArrayLike,
        value: ArrayLike,
        total: ArrayLike,
        guard: ArrayLike,
        outcome: ArrayLike,
        gain: ArrayLike | None = None,
    ) -> None:
        """Book exposures.

        Args:
            day: [rows] days since 1970 UTC.
            scene, source, version, snapshot: [rows] names.
            control: [rows] whether the request was in the control bucket.
            mask: [rows] plans that hit.
            value, total, guard: [rows] y, r, g.
            outcome, gain: [rows] NaN where not known.

        Raises:
            DataError: columns differ in length.
        """
        masks = np.asarray(mask, np.uint64)
        numbers = [np.asarray(column, np.float64) for column in (value, total, guard, outcome)]
        numbers.append(np.full(len(masks), np.nan) if gain is None else np.asarray(gain, np.float64))
        names = [np.asarray(column, dtype=object) for column in (scene, source, version, snapshot)]
        days, controls = np.asarray(day, np.int64), np.asarray(control, np.bool_)
        if any(len(column) != len(masks) for column in (*numbers, *names, days, controls)):
            raise DataError("columns of different lengths", where="exposures")
        parts = [_codes(column) for column in (days, *names, controls, masks)]
        group = np.zeros(len(masks), np.int64)
        for kinds, codes in parts:
            group = group * max(1, len(kinds)) + codes
            _, group = np.unique(group, return_inverse=True)
        first = np.unique(group, return_index=True)[1]
        sums, lost = book_sums(group, len(first), *numbers)
        for reason, count in lost.items():
            if count:
                self.dropped[reason] = self.dropped.get(reason, 0) + count
        for number, row in enumerate(first.tolist()):
            if sums[0, number]:
                key = BookKey(*(kinds[int(codes[row])] for kinds, codes in parts))
                self.put(key, sums[:, number].tolist())

    def merge(self, *others: Books) -> Books:
        """The sum of this and others, as new books. Exact, so order and partition do not matter."""
        merged = Books()
        for books in (self, *others):
            for key, sums in books.cells.items():
                merged.put(key, sums)
            for reason, count in books.dropped.items():
                merged.dropped[reason] = merged.dropped.get(reason, 0) + count
        return merged

    def put(self, key: BookKey, sums: Sequence[int]) -> None:
        """Add a cell's sums."""
        known = self.cells.get(key)
        self.cells[key] = list(sums) if known is None else [a + b for a, b in zip(known, sums, strict=True)]


def _codes(column: NDArray[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """Distinct values as Python's own, and the code of each row."""
    if column.dtype != object:
        kinds, codes = np.unique(column, return_inverse=True)
        return kinds.tolist(), codes
    known: dict[Any, int] = {}
    codes = np.fromiter((known.setdefault(one, len(known)) for one in column), np.int64, len(column))
    return [str(one) for one in known], codes


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
        cells = np.zeros((groups, len(SUMS)), np.int64)
        lost = fast.book(group, value, total, guard, outcome, gain, cells)
        return cells.T, {"value, total or guard not finite, or too large": lost}
    with np.errstate(invalid="ignore"):
        good = (np.abs(value) <= LARGEST) & (np.abs(total) <= LARGEST) & (np.abs(guard) <= LARGEST)
        known, gained = good & (np.abs(outcome) <= LARGEST), good & (np.abs(gain) <= LARGEST)
    columns = {
        "value": (good, value),
        "known_value": (known, value),
        "outcome": (known, outcome),
        "gain": (gained, gain),
        "guard": (good, guard),
        "moved": (good, np.abs(total - value)),
    }
    sums = [np.bincount(group[rows], minlength=groups) for rows in (good, known, gained)]
    for rows, numbers in columns.values():
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
    """What a plan's exposures come to.

    Attributes:
        exposures: of candidates that it hit.
        spend: Σ s, expected effective completions, before the guards.
        value: Σ y.
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
        books: the cells.
        plans: by snapshot's digest: (id, weight, bias) of each plan in the order of the bits.
        keep: the cells to read, such as those of one day; all by default.

    Returns:
        An account a plan, and how many exposures were of snapshots that are not in `plans`.
    """
    totals: dict[str, list[int]] = {}
    spends: dict[str, list[float]] = {}
    unknown: dict[str, int] = {}
    for listed in plans.values():
        for plan, _, _ in listed:
            totals.setdefault(plan, [0] * len(SUMS))
            spends.setdefault(plan, [])
    for key in sorted(books.cells if keep is None else keep):
        sums = books.cells[key]
        if key.snapshot not in plans:
            unknown[key.snapshot] = unknown.get(key.snapshot, 0) + sums[0]
            continue
        for bit, (plan, weight, bias) in enumerate(plans[key.snapshot]):
            if key.mask >> bit & 1:
                spends[plan].append(weight * amount(sums, "value") + bias * sums[0])
                totals[plan] = [a + b for a, b in zip(totals[plan], sums, strict=True)]
    return [_account(plan, sums, spends[plan]) for plan, sums in totals.items()], unknown


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
