"""Routers side by side on the same questions: quality against cost, and how steady their choices are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from noria.routing.routers.metrics import Score, agreement, aiq
from noria.routing.routers.router import Router
from noria.routing.routers.scores import judge_router
from noria.routing.tables.table import Table

__all__ = ["RouterComparison", "compare_routers"]

TRADES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)
"""Trades at which a curve of quality against cost is drawn."""


@dataclass(frozen=True)
class RouterComparison:
    """One router among others.

    Attributes:
        name: unique among them.
        curve: (trade, score), the first without a trade.
        aiq: mean height of its envelope over the costs that all routers span; NaN where no cost is known.
        stability: how often its choice stays when one word of ten is left out; NaN for the oracle, which knows
            questions by heart.
    """

    name: str
    curve: list[tuple[float, Score]]
    aiq: float
    stability: float

    @property
    def score(self) -> Score:
        """The score without a trade."""
        return self.curve[0][1]


def compare_routers(
    routers: Iterable[tuple[str, Router]],
    held: Table,
    *,
    seed: int = 0,
    on_router: Callable[[str], None] = lambda name: None,
) -> list[RouterComparison]:
    """Judge routers on the questions of a table, at every trade of `TRADES`.

    Args:
        routers: names and routers; a name that comes again gets a number.
        held: the table that all are judged on.
        seed: seed of the words that are left out.
        on_router: called with the name of each router that is judged.

    Raises:
        ConfigError: one of a router's routes is not in the table.
    """
    reworded = thinned(held.texts, seed=seed)
    rows: list[RouterComparison] = []
    for name, router in routers:
        names = [row.name for row in rows]
        again = sum(other.startswith(name) for other in names) + 1
        label = f"{name} ({again})" if name in names else name
        curve = [(trade, judge_router(router, held, trade)) for trade in TRADES]
        stability = math.nan
        if router.kind != "oracle":
            stability = agreement([router.choose(texts, held.dataset) for texts in (held.texts, reworded)])
        rows.append(RouterComparison(label, curve, math.nan, stability))
        on_router(name)
    costs = [score.cost for row in rows for _, score in row.curve if not math.isnan(score.cost)]
    return [replace(row, aiq=_shared_aiq(row.curve, costs)) for row in rows]


def thinned(texts: Sequence[str], *, seed: int, share: float = 0.1) -> list[str]:
    """Questions with a share of their words left out, at least one where there are two."""
    generator = np.random.default_rng(seed)
    shorter = []
    for text in texts:
        words = text.split()
        out = set(generator.permutation(len(words))[: max(1, round(share * len(words)))].tolist())
        kept = [word for n, word in enumerate(words) if n not in out]
        shorter.append(" ".join(kept) if len(words) > 1 else text)
    return shorter


def _shared_aiq(curve: Sequence[tuple[float, Score]], costs: Sequence[float]) -> float:
    """AIQ over the costs from the cheapest point of all routers to the dearest."""
    points = [(s.cost, s.micro) for _, s in curve if not (math.isnan(s.cost) or math.isnan(s.micro))]
    if not points or not costs:
        return math.nan
    return aiq([c for c, _ in points], [q for _, q in points], low=min(costs), high=max(costs))
