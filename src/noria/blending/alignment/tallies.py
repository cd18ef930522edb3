"""Outcomes against scores, kept as integers, so that merging is exact in any order and any partition.

A score is rounded to float32 and filed under the first 19 bits of its pattern, which for IEEE numbers rise with the
number itself: a bin is about a thousandth wide, relatively. Its scores share sign, exponent and the upper bits of the
mantissa, so that the sum of the 13 lower bits, an integer, gives their sum exactly. Weights are counted in units of
2^-12 and outcomes in units of 2^-20. Decay is not applied when something is added, but by the tick it was added in,
when the tally is read.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noria.blending.compiled import kernels
from noria.core.errors import DataError

SHIFT = 13
"""Bits of a float32 pattern that a bin leaves open."""
BINS = 1 << (32 - SHIFT)
WEIGHT_UNIT = 2.0**-12
LABEL_UNIT = 2.0**-20
FOLDS = 4
"""Parts that exposures are dealt into by their request, so that a fit can be judged on what it has not seen."""
MOST_WEIGHT = 2.0**10
_SIGN, _LOW, _ENDLESS = np.uint32(0x8000_0000), np.uint32((1 << SHIFT) - 1), np.uint32(0x7F80_0000)
_MANY = 50_000  # rows from which the compiled pass over all bins pays


class Key(NamedTuple):
    """Scores on one scale: those of one model version of one source, shown in one scene."""

    scene: str
    source: str
    version: str


class Cell(NamedTuple):
    """A key, split by who was asked (the control bucket or not), fold and tick."""

    scene: str
    source: str
    version: str
    control: bool
    fold: int
    tick: int

    @property
    def key(self) -> Key:
        """Scene, source and version of this tally, without its split."""
        return Key(self.scene, self.source, self.version)


@dataclass(frozen=True, eq=False)
class Bins:
    """Exposures by bin of score: [bins] mean score `x`, rising; weight `n`; weighted outcomes `a`."""

    x: NDArray[np.float64]
    n: NDArray[np.float64]
    a: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Sums by bin, all [bins] int64.

    Attributes:
        code: code of the bin, rising.
        n: weights, in units of 2^-12.
        a: weighted outcomes, in units of 2^-20.
        m: weighted lower bits of patterns, in units of 2^-12.
    """

    code: NDArray[np.int64]
    n: NDArray[np.int64]
    a: NDArray[np.int64]
    m: NDArray[np.int64]

    def merged(self, others: Iterable[Histogram]) -> Histogram:
        """The sum of all."""
        parts = [self, *others]
        if len(parts) == 1:
            return self
        names = ("code", "n", "a", "m")
        return Histogram.of_rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @classmethod
    def of_rows(cls, code: NDArray[np.int64], *numbers: NDArray[np.int64]) -> Histogram:
        """The sums of rows that may share a code."""
        distinct, place = np.unique(code, return_inverse=True)
        sums = np.zeros((len(numbers), len(distinct)), np.int64)
        for total, column in zip(sums, numbers, strict=True):
            np.add.at(total, place, column)
        return cls(distinct, *sums)

    def score_sums(self) -> NDArray[np.float64]:
        """[bins] weighted sums of scores."""
        flipped = (self.code << SHIFT).astype(np.uint32)
        negative = flipped < _SIGN
        bits = np.where(negative, ~(flipped | _LOW), flipped ^ _SIGN)  # of the bin's number nearest to 0
        exponent = (bits >> 23 & 0xFF).astype(np.int64)
        upper = (bits & np.uint32(0x7F_FFFF)).astype(np.int64) + np.where(exponent > 0, 0x80_0000, 0)
        sums = np.ldexp(self.n.astype(np.float64) * upper + self.m, np.maximum(exponent, 1) - 150)
        signed: NDArray[np.float64] = np.where(negative, -sums, sums) * WEIGHT_UNIT
        return signed


def bin_codes(bits: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bin of each score, and the lower bits that it leaves open.

    Args:
        bits: [rows] patterns of finite float32 numbers.

    Returns:
        [rows] codes in 0 … BINS − 1, rising with the score, and [rows] lower bits.
    """
    plain = np.where(bits == _SIGN, np.uint32(0), bits)  # −0 is 0
    flipped = np.where(plain >> 31, ~plain, plain | _SIGN)
    return (flipped >> SHIFT).astype(np.int64), (plain & _LOW).astype(np.int64)


def _patterns(score: NDArray[np.float64]) -> NDArray[np.uint32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return score.astype(np.float32).view(np.uint32)


def folds(requests: ArrayLike | Sequence[Any]) -> NDArray[np.int64]:
    """The fold of each request's exposures: a hash of the id, the same on every machine."""
    array = np.asarray(requests)
    if array.dtype.kind in "iu":
        z = array.astype(np.uint64) + np.uint64(0x9E37_79B9_7F4A_7C15)  # splitmix64
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
        return ((z ^ (z >> np.uint64(31))) % np.uint64(FOLDS)).astype(np.int64)
    return np.array([zlib.crc32(str(one).encode()) % FOLDS for one in array.tolist()], np.int64)


@dataclass
class Tallies:
    """Outcomes of exposures by cell, and how many rows were left out and why."""

    cells: dict[Cell, Histogram] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        score: ArrayLike,
        outcome: ArrayLike,
        *,
        source: str,
        scene: str = "",
        version: str = "",
        control: bool = False,
        tick: int = 0,
        fold: ArrayLike | int = 0,
        weight: ArrayLike | float = 1.0,
    ) -> None:
        """Count exposures of one key.

        Args:
            score: [rows] raw scores x.
            outcome: [rows] the anchor's outcome a, 0 or 1 for effective completion; NaN is not known yet, and left out.
            source, scene, version: parts of the key.
            control: whether nobody was boosted in their requests.
            tick: time in whole units of the decay's clock.
            fold: [rows] fold of each exposure's request, as `folds` gives it, or one for all.
            weight: [rows] weight of each exposure, from 0.

        Raises:
            DataError: columns differ in length, or a weight is negative or not finite.
        """
        x = np.asarray(score, np.float64)
        a = np.asarray(outcome, np.float64)
        if x.ndim != 1 or x.shape != a.shape:
            raise DataError(f"{x.size:,} scores and {a.size:,} outcomes do not pair", where="exposures")
        part = np.asarray(fold, np.int64)
        numbers = np.unique(part)
        cells = [Cell(scene, source, version, control, int(number), tick) for number in numbers]
        plain = np.ndim(weight) == 0 and weight == 1.0
        if plain and len(x) >= _MANY and (fast := kernels()) is not None:
            bits = _patterns(x)
            for cell in cells:
                histogram, lost = _dense(fast, bits, a, part, cell.fold)
                self.put(cell, histogram, lost)
        else:
            group = np.broadcast_to(np.searchsorted(numbers, part), x.shape)
            self.add_rows(x, a, group, cells.__getitem__, weight)

    def add_rows(
        self,
        score: NDArray[np.float64],
        outcome: NDArray[np.float64],
        group: NDArray[np.int64],
        cell_of: Callable[[int], Cell],
        weight: ArrayLike | float = 1.0,
    ) -> None:
        """Count exposures of many cells at once.

        Args:
            score, outcome, weight: columns as in `add`.
            group: [rows] a number below 2^43 for each cell.
            cell_of: the cell of a number.

        Raises:
            DataError: a weight is negative or not finite.
        """
        w = np.broadcast_to(np.asarray(weight, np.float64), score.shape)
        if not np.all((w >= 0) & (w <= MOST_WEIGHT)):
            raise DataError("a weight that is negative, above 1,024 or not a number", where="exposures")
        bits = _patterns(score)
        endless = (bits & _ENDLESS) == _ENDLESS
        unknown = ~endless & np.isnan(outcome)
        beyond = ~endless & (np.abs(outcome) > 2.0**20)
        good = np.flatnonzero(~(endless | unknown | beyond))
        self._lose((int(endless.sum()), int(unknown.sum()), int(beyond.sum())))
        if not len(good):
            return
        code, low = bin_codes(bits[good])
        key = group[good] * BINS + code
        order = np.argsort(key)
        key = key[order]
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        n = np.rint(w[good] / WEIGHT_UNIT).astype(np.int64)
        columns = (n, np.rint(w[good] * outcome[good] / LABEL_UNIT).astype(np.int64), n * low)
        sums = [np.add.reduceat(column[order], starts) for column in columns]
        owner, codes = np.divmod(key[starts], BINS)
        heads = np.flatnonzero(np.diff(owner, prepend=-1))
        for first, end in itertools.pairwise([*heads.tolist(), len(owner)]):
            histogram = Histogram(codes[first:end], *(column[first:end] for column in sums))
            self.put(cell_of(int(owner[first])), histogram)

    def put(self, cell: Cell, histogram: Histogram, lost: Sequence[int] = (0, 0, 0)) -> None:
        """Add a cell's sums, and rows of it that were left out."""
        self._lose(lost)
        if len(histogram.code):
            known = self.cells.get(cell)
            self.cells[cell] = histogram if known is None else known.merged([histogram])

    def _lose(self, lost: Sequence[int]) -> None:
        for reason, count in zip(
            ("score not finite", "no outcome", "outcome out of range"), lost, strict=True
        ):
            if count:
                self.dropped[reason] = self.dropped.get(reason, 0) + count

    def merge(self, *others: Tallies) -> Tallies:
        """The sum of this and others, as a new one. Exact, so order and partition do not matter."""
        merged: dict[Cell, list[Histogram]] = {}
        dropped: Counter[str] = Counter()
        for part in (self, *others):
            for cell, histogram in part.cells.items():
                merged.setdefault(cell, []).append(histogram)
            dropped.update(part.dropped)
        return Tallies({cell: first.merged(rest) for cell, (first, *rest) in merged.items()}, dropped)

    def binned(self, decay: Mapping[int, float] | None, cells: Iterable[Cell]) -> Bins:
        """Some cells as one, each tick with its weight.

        Args:
            decay: weight of each tick in [0, 1]; None weighs all alike.
            cells: cells of this tally.
        """
        by_tick: dict[int, list[Histogram]] = {}
        for cell in sorted(cells):
            by_tick.setdefault(cell.tick if decay is not None else 0, []).append(self.cells[cell])
        parts = [(tick, first.merged(rest)) for tick, (first, *rest) in sorted(by_tick.items())]
        if not parts:
            return Bins(np.empty(0), np.empty(0), np.empty(0))
        codes, place = np.unique(np.concatenate([part.code for _, part in parts]), return_inverse=True)
        factor = np.concatenate(
            [np.full(len(part.code), 1.0 if decay is None else decay[tick]) for tick, part in parts]
        )
        sums = []
        for values in (
            np.concatenate([part.n * WEIGHT_UNIT for _, part in parts]),
            np.concatenate([part.a * LABEL_UNIT for _, part in parts]),
            np.concatenate([part.score_sums() for _, part in parts]),
        ):
            total = np.zeros(len(codes))
            np.add.at(total, place, values * factor)  # in the order of ticks, whatever was merged when
            sums.append(total)
        n, a, x = sums
        kept = n > 0
        return Bins(x[kept] / n[kept], n[kept], a[kept])


def _dense(
    fast: Any, bits: NDArray[np.uint32], a: NDArray[np.float64], fold: NDArray[np.int64], which: int
) -> tuple[Histogram, tuple[int, int, int]]:
    """The histogram of many exposures of weight 1, compiled."""
    sums = np.zeros((3, BINS), np.int64)
    lost = fast.histogram(bits, a, fold if fold.ndim else np.empty(0, np.int64), which, SHIFT, sums)
    code = np.flatnonzero(sums[0])
    n, outcomes, low = sums[:, code]
    whole = round(1 / WEIGHT_UNIT)
    return Histogram(code, n * whole, outcomes, low * whole), lost
