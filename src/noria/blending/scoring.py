"""Independent linear boosting (Uniboost, Eq. 2), its guards, and the choice of the best K: the reference in NumPy.

    s_pv = 1_p(v) (w_p y_v + b_p)        r_v = y_v + Σ_p s_pv + g_v

Every contribution reads the unboosted value y alone, so no plan's parameters enter another's. g is the guard term:
what caps and the floor take. Since the sum over plans is linear in y for a given set of plans, Σ w and Σ b are kept
in tables over each byte of the mask; with them, the range of y in which no plan's cap binds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PlanTables", "contributions", "guard", "members", "score", "top"]

Floats = NDArray[np.float64]
Masks = NDArray[np.uint64]
_BYTES = 256


@dataclass(frozen=True, eq=False)
class PlanTables:
    """Plans as numbers.

    Attributes:
        weight, bias: [plans].
        cap: [plans] most that |s| may be, in completions; inf without one.
        total_cap: most that all may add, in units of max(y, mean_value); inf without one.
        floor: below this value there is no boost; −inf without one.
        mean_value: ȳ.
        folded: [4, bytes, 256] over each byte of the mask: Σw, Σb, and the lowest and highest y at which no cap binds.
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
        given: Sequence[float | None] = [None] * len(w) if cap is None else cap
        c = np.array([np.inf if one is None else one * mean_value for one in given], np.float64)
        low, high = _unclipped(w, b, c)
        width = max(1, -(-len(w) // 8))
        folded = np.zeros((4, width, _BYTES))
        folded[2], folded[3] = -np.inf, np.inf
        for place in range(len(w)):
            byte, bit = divmod(place, 8)
            has = (np.arange(_BYTES) >> bit & 1).astype(bool)
            folded[0, byte, has] += w[place]
            folded[1, byte, has] += b[place]
            folded[2, byte, has] = np.maximum(folded[2, byte, has], low[place])
            folded[3, byte, has] = np.minimum(folded[3, byte, has], high[place])
        return cls(
            w,
            b,
            c,
            np.inf if total_cap is None else total_cap,
            -np.inf if floor is None else floor,
            mean_value,
            folded,
        )

    def __len__(self) -> int:
        return len(self.weight)


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
        y: [candidates] values.
        mask: [candidates] plans that hit each; bit p is plan p.
        tables: of the plans.

    Returns:
        [candidates] r, and [candidates] g, exactly 0 where no guard binds; r = y + Σ s + g to the last few bits.
    """
    weight, bias = np.zeros(len(y)), np.zeros(len(y))
    low, high = np.full(len(y), -np.inf), np.full(len(y), np.inf)
    for byte in range(tables.folded.shape[1]):
        at = (mask >> np.uint64(8 * byte)).astype(np.uint8)
        weight += tables.folded[0, byte][at]
        bias += tables.folded[1, byte][at]
        low = np.maximum(low, tables.folded[2, byte][at])
        high = np.minimum(high, tables.folded[3, byte][at])
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


def guard(y: Floats, mask: Masks, tables: PlanTables) -> Floats:
    """[candidates] g, what the guards take from (or, of demotions, give back to) each candidate."""
    return score(y, mask, tables)[1]


def _guarded(y: Floats, mask: Masks, tables: PlanTables) -> tuple[Floats, Floats]:
    """Σ s before the guards and after them: a plan's own cap first, then the floor, then the cap on all."""
    raw, allowed = np.zeros(len(y)), np.zeros(len(y))
    for plan in range(len(tables)):
        hit = (mask >> np.uint64(plan) & np.uint64(1)).astype(bool)
        s = np.where(hit, tables.weight[plan] * y + tables.bias[plan], 0.0)
        raw += s
        s = np.clip(s, -tables.cap[plan], tables.cap[plan])
        allowed += np.where((y < tables.floor) & (s > 0), 0.0, s)
    return raw, np.minimum(allowed, tables.total_cap * np.maximum(y, tables.mean_value))


def members(mask: Masks, plans: int) -> NDArray[np.bool_]:
    """[candidates, plans] which plans hit each candidate."""
    found: NDArray[np.bool_] = (mask[:, None] >> np.arange(plans, dtype=np.uint64) & np.uint64(1)).astype(
        bool
    )
    return found


def contributions(y: Floats, mask: Masks, tables: PlanTables) -> Floats:
    """[candidates, plans] s, before the guards."""
    return np.where(members(mask, len(tables)), y[:, None] * tables.weight + tables.bias, 0.0)


def top(r: Floats, y: Floats, size: int) -> NDArray[np.int64]:
    """The best candidates: by score, then by value, then the earlier one.

    Args:
        r: [candidates] scores, without NaN.
        y: [candidates] values.
        size: K.

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
    return rows[np.lexsort((rows, -y[rows], -r[rows]))[:size]]
