"""Independent linear boosting (Uniboost, Eq. 2), its guards, and the choice of the best K: the reference in NumPy.

    s_pv = 1_p(v) (w_p y_v + b_p)        r_v = y_v + Σ_p s_pv + g_v

Every contribution reads the unboosted value y alone, so no plan's parameters enter another's. g is the guard term:
what caps and the floor take. Since the sum over plans is linear in y for a given set of plans, Σ w and Σ b are kept
in tables over each byte of the mask; with them, the range of y in which no plan's cap binds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.compiled import kernels

Floats = NDArray[np.float64]
Masks = NDArray[np.uint64]

ALL = np.array([2**64 - 1], np.uint64)
"""One choice of plans: all of them."""
_BYTES = 256


@dataclass(frozen=True, eq=False)
class PlanTables:
    """Plans as numbers.

    Attributes:
        weight, bias: [plans] w and b.
        cap: [plans] most that |s| may be, in completions; inf without one.
        total_cap: most that all may add, in units of max(y, mean_value); inf without one.
        floor: below this value there is no boost; −inf without one.
        mean_value: ȳ, mean value of an exposure.
        folded: [bytes, 256, 4] over each byte of the mask: Σw, Σb, and the lowest and highest y at which no cap binds.
    """

    weight: Floats
    bias: Floats
    cap: Floats
    total_cap: float
    floor: float
    mean_value: float
    folded: Floats

    @classmethod
    def of(
        cls,
        weight: Sequence[float],
        bias: Sequence[float],
        cap: Sequence[float | None] | None = None,
        *,
        total_cap: float | None = None,
        floor: float | None = None,
        mean_value: float = 1.0,
    ) -> PlanTables:
        """Fold plans into tables; caps are given in mean values."""
        w, b = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
        values: Sequence[float | None] = [None] * len(w) if cap is None else cap
        c = np.array([np.inf if one is None else one * mean_value for one in values], np.float64)
        return cls(
            w,
            b,
            c,
            np.inf if total_cap is None else total_cap,
            -np.inf if floor is None else floor,
            mean_value,
            _folded(w, b, c),
        )

    def __len__(self) -> int:
        return len(self.weight)

    @classmethod
    def idle(cls, plans: int) -> PlanTables:
        """Plans without boosts."""
        return cls.of([0.0] * plans, [0.0] * plans)

    def repriced(self, weight: Floats, bias: Floats) -> PlanTables:
        """These plans and guards with other weights and biases."""
        return replace(self, weight=weight, bias=bias, folded=_folded(weight, bias, self.cap))

    @functools.cached_property
    def arguments(self) -> tuple[Any, ...]:
        """The tables as the compiled kernels take them."""
        bounds = (float(self.total_cap), float(self.floor), float(self.mean_value))
        return self.folded, self.weight, self.bias, self.cap, *bounds


def _folded(w: Floats, b: Floats, cap: Floats) -> Floats:
    low, high = _unclipped(w, b, cap)
    folded = np.zeros((max(1, -(-len(w) // 8)), _BYTES, 4))
    folded[..., 2], folded[..., 3] = -np.inf, np.inf
    for place in range(len(w)):
        byte, bit = divmod(place, 8)
        has = (np.arange(_BYTES) >> bit & 1).astype(bool)
        folded[byte, has, 0] += w[place]
        folded[byte, has, 1] += b[place]
        folded[byte, has, 2] = np.maximum(folded[byte, has, 2], low[place])
        folded[byte, has, 3] = np.minimum(folded[byte, has, 3], high[place])
    return folded


def _unclipped(w: Floats, b: Floats, cap: Floats) -> tuple[Floats, Floats]:
    """The values y with |w y + b| ≤ cap, as [low, high] of each plan; low > high where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (-cap - b) / w, (cap - b) / w
    low, high = np.minimum(one, other), np.maximum(one, other)
    flat = w == 0
    fits = np.abs(b) <= cap
    low = np.where(flat, np.where(fits, -np.inf, np.inf), low)
    high = np.where(flat, np.where(fits, np.inf, -np.inf), high)
    free = np.isinf(cap)
    return np.where(free, -np.inf, low), np.where(free, np.inf, high)


def score(y: Floats, mask: Masks, tables: PlanTables) -> tuple[Floats, Floats]:
    """Scores and guard terms of candidates.

    Args:
        y: [candidates] values y.
        mask: [candidates] plans that hit each; bit p is plan p.
        tables: weights, biases and guards of the plans.

    Returns:
        [candidates] r, and [candidates] g, exactly 0 where no guard binds; r = y + Σ s + g to the last few bits.
    """
    weight, bias = np.zeros(len(y)), np.zeros(len(y))
    low, high = np.full(len(y), -np.inf), np.full(len(y), np.inf)
    for byte in range(tables.folded.shape[0]):
        at = (mask >> np.uint64(8 * byte)).astype(np.uint8)
        weight += tables.folded[byte, at, 0]
        bias += tables.folded[byte, at, 1]
        low = np.maximum(low, tables.folded[byte, at, 2])
        high = np.minimum(high, tables.folded[byte, at, 3])
    boost = weight * y + bias
    most = tables.total_cap * np.maximum(y, tables.mean_value)
    bound = (y < low) | (y > high) | (boost > most) | (y < tables.floor)
    taken = np.zeros(len(y))
    if bound.any():
        rows = np.flatnonzero(bound)
        raw, allowed = _guarded(y[rows], mask[rows], tables)
        boost[rows] = allowed
        taken[rows] = allowed - raw
    return y + boost, taken


def _guarded(y: Floats, mask: Masks, tables: PlanTables) -> tuple[Floats, Floats]:
    """Σ s before the guards and after them: a plan's own cap first, then the floor, then the cap on all."""
    raw, allowed = np.zeros(len(y)), np.zeros(len(y))
    for plan in range(len(tables)):
        hit = hits(mask, plan)
        s = np.where(hit, tables.weight[plan] * y + tables.bias[plan], 0.0)
        raw += s
        s = np.clip(s, -tables.cap[plan], tables.cap[plan])
        allowed += np.where((y < tables.floor) & (s > 0), 0.0, s)
    return raw, np.minimum(allowed, tables.total_cap * np.maximum(y, tables.mean_value))


def hits(mask: Masks, plan: int) -> NDArray[np.bool_]:
    """[candidates] whether a plan hits each."""
    result: NDArray[np.bool_] = (mask >> np.uint64(plan) & np.uint64(1)).astype(bool)
    return result


def members(mask: Masks, plans: int) -> NDArray[np.bool_]:
    """[candidates, plans] which plans hit each candidate."""
    result: NDArray[np.bool_] = (mask[:, None] >> np.arange(plans, dtype=np.uint64) & np.uint64(1)).astype(
        bool
    )
    return result


def contributions(y: Floats, mask: Masks, tables: PlanTables) -> Floats:
    """[candidates, plans] s, before the guards."""
    return np.where(members(mask, len(tables)), y[:, None] * tables.weight + tables.bias, 0.0)


def top(r: Floats, y: Floats, size: int) -> NDArray[np.int64]:
    """The best candidates: by score, then by value, then the earlier one.

    Args:
        r: [candidates] scores, without NaN.
        y: [candidates] values y.
        size: number of places K of a list.

    Returns:
        [min(K, candidates)] indices, the best first.
    """
    if size >= len(r):
        rows = np.arange(len(r))
    elif size <= 0:
        return np.empty(0, np.int64)
    else:
        least = np.partition(r, len(r) - size)[len(r) - size]
        rows = np.flatnonzero(r >= least)
    return rows[np.lexsort((-y[rows], -r[rows]))[:size]]


def ranked(
    y: Floats, mask: Masks, tables: PlanTables, size: int
) -> tuple[NDArray[np.int64], Floats, Floats, Floats, Floats]:
    """The best candidates of one request with the account of each.

    Returns:
        [K] rows, score, value, guard term, and [K, plans] contributions.
    """
    fast = kernels()
    if fast is not None:
        rows, account, shares = fast.ranked(y, mask, size, tables.arguments)
        return rows, account[0], account[1], account[2], shares
    r, taken = score(y, mask, tables)
    rows = top(r, y, size)
    return rows, r[rows], y[rows], taken[rows], contributions(y[rows], mask[rows], tables)


def lists(
    y: Floats, mask: Masks, start: NDArray[np.int64], variants: Masks, tables: PlanTables, size: int
) -> NDArray[np.int64]:
    """The lists of many requests under several choices of plans.

    Args:
        y: [rows] values of all candidates, request after request.
        mask: [rows] plans that hit each.
        start: [requests + 1] the first row of each request, and the end.
        variants: [variants] which plans are on, a bit each.
        tables: weights, biases and guards of the plans.
        size: number of places K of a list.

    Returns:
        [requests, variants, K] rows, the best first; −1 where a list is shorter.
    """
    fast = kernels()
    if fast is not None:
        result: NDArray[np.int64] = fast.lists(y, mask, start, variants, size, tables.arguments)
        return result
    result = np.full((len(start) - 1, len(variants), size), -1, np.int64)
    for request, (first, end) in enumerate(zip(start[:-1].tolist(), start[1:].tolist(), strict=True)):
        values = y[first:end]
        for number, allowed in enumerate(variants):
            rows = top(score(values, mask[first:end] & allowed, tables)[0], values, size)
            result[request, number, : len(rows)] = rows + first
    return result
