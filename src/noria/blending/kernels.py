"""The loops of blending, compiled by Numba: the same numbers as the NumPy of `scoring` and `tallies`, to the last bits.

Importing this module needs Numba; `compiled.kernels()` returns it where Numba is installed. Nothing here reorders a
floating-point sum, and nothing is compiled with fast arithmetic.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Masks: TypeAlias = NDArray[np.uint64]
Tables: TypeAlias = tuple[Floats, Floats, Floats, Floats, float, float, float]
"""Plans as numbers: folded, weight, bias, cap, total_cap, floor and mean_value, as `scoring.PlanTables` has them."""

jit = njit(cache=True, nogil=True)

_NONE = np.uint64(0)
_ONE = np.uint64(1)
_BYTE = np.uint64(255)
_EIGHT = np.uint64(8)
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@jit
def scored(y: Floats, mask: Masks, allowed: np.uint64, r: Floats, taken: Floats, tables: Tables) -> None:
    """Write scores and guard terms of candidates; `allowed` says which plans are on.

    One function without inner calls: Numba counts references of every array that is passed on, for each candidate.
    """
    folded, weight, bias, cap, total_cap, floor, mean_value = tables
    for i in range(len(y)):
        value = y[i]
        rest = mask[i] & allowed
        w = 0.0
        b = 0.0
        low = -np.inf
        high = np.inf
        for byte in range(folded.shape[0]):
            at = rest & _BYTE
            w += folded[byte, at, 0]
            b += folded[byte, at, 1]
            edge = folded[byte, at, 2]
            if edge > low:
                low = edge
            edge = folded[byte, at, 3]
            if edge < high:
                high = edge
            rest = rest >> _EIGHT
        boost = w * value + b
        most = total_cap * (value if value > mean_value else mean_value)
        taken[i] = 0.0
        if value < low or value > high or boost > most or value < floor:
            raw = 0.0
            boost = 0.0
            rest = mask[i] & allowed
            plan = 0
            while rest != _NONE:
                if rest & _ONE:
                    s = weight[plan] * value + bias[plan]
                    raw += s
                    if s > cap[plan]:
                        s = cap[plan]
                    elif s < -cap[plan]:
                        s = -cap[plan]
                    if not (value < floor and s > 0):
                        boost += s
                plan += 1
                rest = rest >> _ONE
            if boost > most:
                boost = most
            taken[i] = boost - raw
        r[i] = value + boost


@jit
def _largest(r: Floats, size: int) -> float:
    """The score at place `size` of all, counted from the highest: Hoare's selection.

    NumPy's `partition` is the same number; compiling Numba's own takes longer than all the rest of this module.
    """
    held = r.copy()
    wanted = len(held) - size
    low, high = 0, len(held) - 1
    draw = np.uint64(len(held))
    while low < high:
        # The middle of three drawn places: sorted, equal and organ-pipe scores are no slower than mixed ones.
        draw = draw * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        span = np.uint64(high - low + 1)
        a = held[low + np.int64((draw >> np.uint64(12)) % span)]
        b = held[low + np.int64((draw >> np.uint64(28)) % span)]
        c = held[low + np.int64((draw >> np.uint64(44)) % span)]
        pivot = max(min(a, b), min(max(a, b), c))
        left, right = low, high
        while left <= right:
            while held[left] < pivot:
                left += 1
            while held[right] > pivot:
                right -= 1
            if left <= right:
                held[left], held[right] = held[right], held[left]
                left += 1
                right -= 1
        if wanted <= right:
            high = right
        elif wanted >= left:
            low = left
        else:
            break
    result: float = held[wanted]
    return result


@jit
def chosen(r: Floats, y: Floats, size: int, rows: Ints) -> int:
    """Write the best rows into `rows`, by score, then value, then place; how many there are."""
    n = len(r)
    size = min(size, n)
    if size == 0:
        return 0
    if size < n:
        least = _largest(r, size)
        held = np.empty(n, np.int64)
        count = 0
        for i in range(n):
            if r[i] >= least:
                held[count] = i
                count += 1
    else:
        held = np.arange(n)
        count = n
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:  # Shell's sort: short lists, nothing allocated
        for start in range(gap, count):
            one = held[start]
            at = start
            while at >= gap:
                other = held[at - gap]
                if r[other] > r[one] or (
                    r[other] == r[one] and (y[other] > y[one] or (y[other] == y[one] and other < one))
                ):
                    break
                held[at] = other
                at -= gap
            held[at] = one
        gap //= 3
    for at in range(size):
        rows[at] = held[at]
    return size


@jit
def ranked(y: Floats, mask: Masks, size: int, tables: Tables) -> tuple[Ints, Floats, Floats]:
    """One request: rows [K], and score, value, guard [3, K], and contributions [K, plans] of them."""
    weight, bias = tables[1], tables[2]
    n = len(y)
    plans = len(weight)
    r = np.empty(n)
    taken = np.empty(n)
    scored(y, mask, _ALL, r, taken, tables)
    rows = np.empty(min(size, n), np.int64)
    count = chosen(r, y, size, rows)
    account = np.empty((3, count))
    shares = np.zeros((count, plans))
    for at in range(count):
        i = rows[at]
        account[0, at] = r[i]
        account[1, at] = y[i]
        account[2, at] = taken[i]
        rest = mask[i]
        for plan in range(plans):
            if rest & _ONE:
                shares[at, plan] = weight[plan] * y[i] + bias[plan]
            rest = rest >> _ONE
            if rest == _NONE:
                break
    return rows, account, shares


@jit
def lists(y: Floats, mask: Masks, start: Ints, variants: Masks, size: int, tables: Tables) -> Ints:
    """Lists of many requests under several choices of plans: rows [requests, variants, K], −1 where a list is
    shorter.
    """
    requests = len(start) - 1
    result = np.full((requests, len(variants), size), -1, np.int64)
    for request in range(requests):
        first = start[request]
        n = start[request + 1] - first
        values, masks = y[first : first + n], mask[first : first + n]
        r = np.empty(n)
        taken = np.empty(n)
        for number in range(len(variants)):
            scored(values, masks, variants[number], r, taken, tables)
            count = chosen(r, values, size, result[request, number])
            for at in range(count):
                result[request, number, at] += first
    return result


@jit
def histogram(
    bits: NDArray[np.uint32], outcome: Floats, fold: Ints, which: int, shift: int, sums: Ints
) -> tuple[int, int, int]:
    """Add exposures of weight 1 to dense sums by bin.

    Args:
        bits: [rows] patterns of float32 scores.
        outcome: [rows] outcomes.
        fold: [rows] fold of each, or empty where all are of one.
        which: fold that is counted.
        shift: bits of a pattern that a bin leaves open.
        sums: [3, bins] numbers, outcomes in units of 2^-20, low bits of patterns; added to.

    Returns:
        How many of the fold were left out: score not finite, no outcome, outcome out of range.
    """
    endless = 0
    unknown = 0
    beyond = 0
    low = np.uint32((1 << shift) - 1)
    for i in range(len(bits)):
        if len(fold) > 0 and fold[i] != which:
            continue
        pattern = bits[i]
        a = outcome[i]
        if (pattern & np.uint32(0x7F800000)) == np.uint32(0x7F800000):
            endless += 1
        elif np.isnan(a):
            unknown += 1
        elif abs(a) > 1048576.0:
            beyond += 1
        else:
            if pattern == np.uint32(0x80000000):  # −0 is 0
                pattern = np.uint32(0)
            flipped = ~pattern if pattern >> np.uint32(31) else pattern | np.uint32(0x80000000)
            at = np.int64(flipped >> np.uint32(shift))
            sums[0, at] += 1
            sums[1, at] += np.int64(np.rint(a * 1048576.0))
            sums[2, at] += np.int64(pattern & low)
    return endless, unknown, beyond


@jit
def _parts(number: float) -> tuple[np.int64, np.int64]:
    """Upper and lower part of a number, in units of 2^-20 and 2^-52."""
    scaled = number * 1048576.0
    upper = np.floor(scaled)
    return np.int64(upper), np.int64(np.rint((scaled - upper) * 4294967296.0))


@jit
def book(
    group: Ints, value: Floats, total: Floats, guard: Floats, outcome: Floats, gain: Floats, cells: Ints
) -> int:
    """Add exposures to sums by group, [groups, sums] in the order of `cells.SUMS`; how many rows were left out."""
    lost = 0
    most = 1048576.0
    for i in range(len(group)):
        y = value[i]
        if not (abs(y) <= most and abs(total[i]) <= most and abs(guard[i]) <= most):
            lost += 1
            continue
        at = group[i]
        high, low = _parts(y)
        cells[at, 0] += 1
        cells[at, 3] += high
        cells[at, 4] += low
        if abs(outcome[i]) <= most:
            cells[at, 1] += 1
            cells[at, 5] += high
            cells[at, 6] += low
            high, low = _parts(outcome[i])
            cells[at, 7] += high
            cells[at, 8] += low
        if abs(gain[i]) <= most:
            high, low = _parts(gain[i])
            cells[at, 2] += 1
            cells[at, 9] += high
            cells[at, 10] += low
        if guard[i] != 0.0:
            high, low = _parts(guard[i])
            cells[at, 11] += high
            cells[at, 12] += low
        high, low = _parts(abs(total[i] - y))
        cells[at, 13] += high
        cells[at, 14] += low
    return lost
