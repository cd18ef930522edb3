"""What a router is: a guess of quality by route, and what quality is worth in cost.

    utility[r] = quality[r] − trade · cost[r] / cost of the dearest route

`trade` is how much quality the dearest route must be better by to be taken over a free one; sweeping it draws a
router's curve of quality against cost. A quality that nobody can guess is NaN, and that route is not chosen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError
from noria.routing.tables.table import Route

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """Whom to ask, and why.

    Attributes:
        route: the chosen route.
        ranking: all routes that can be chosen, the best first; the rest are what to fall back on.
        utility: utility of each route in the ranking.
        reason: the reason in words.
    """

    route: Route
    ranking: tuple[Route, ...]
    utility: tuple[float, ...]
    reason: str


def utilities(quality: Floats, cost: Floats, trade: float) -> Floats:
    """Quality − trade · cost / max cost; an unknown cost counts as the highest, an unknown quality stays NaN.

    Args:
        quality: [questions, routes].
        cost: [routes], the mean cost of a question.
        trade: quality by which the dearest route must be better.
    """
    known = cost[~np.isnan(cost)]
    top = float(known.max()) if len(known) else 0.0
    share = np.where(np.isnan(cost), 1.0, cost / top) if 0 < top < math.inf else np.zeros_like(cost)
    return quality - trade * share if trade else quality


@dataclass(eq=False, repr=False)
class Router(ABC):
    """A guess of quality by route.

    Args:
        routes: routes that there are.
        cost: [routes], mean cost of a question; NaN where it is not known.
        trade: quality by which the dearest route must be better.
    """

    kind: ClassVar[str]

    routes: Sequence[Route]
    cost: Floats
    trade: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        self.routes, self.cost = tuple(self.routes), np.asarray(self.cost, dtype=float)

    @abstractmethod
    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """[questions, routes]. `datasets` names the data set of each question where that is known."""

    def choose(
        self, texts: Sequence[str], datasets: Sequence[str] | None = None, *, trade: float | None = None
    ) -> NDArray[np.int64]:
        """[questions], the route of the highest utility; of equals the cheapest, then the first. −1 for none."""
        return self.best(self.quality(texts, datasets), trade)

    def best(self, quality: Floats, trade: float | None = None) -> NDArray[np.int64]:
        """[questions], what `choose` chooses by qualities [questions, routes] that are there already."""
        value = utilities(quality, self.cost, self.trade if trade is None else trade)
        return np.array([order[0] if len(order) else -1 for order in map(self._ranked, value)], dtype=int)

    def decide(
        self, text: str, dataset: str | None = None, *, among: Sequence[Route] | None = None
    ) -> Decision:
        """Decide about one question, with the reasons.

        Args:
            text: the question.
            dataset: data set of the question, where that is known.
            among: routes that can be had now; all by default.

        Raises:
            DataError: no route can be chosen.
        """
        quality = self.quality([text], None if dataset is None else [dataset])
        value = utilities(quality, self.cost, self.trade)[0]
        order = [n for n in self._ranked(value) if among is None or self.routes[n] in among]
        if not order:
            raise DataError("no route can be chosen", where=self.kind, mend="check the pool and the table")
        best = order[0]
        reason = self.explain(text, dataset, best, float(quality[0, best]))
        if self.trade and not math.isnan(self.cost[best]):
            reason += f"; it costs {self.cost[best]:.3g} a question"
        ranking = tuple(self.routes[n] for n in order)
        return Decision(ranking[0], ranking, tuple(float(value[n]) for n in order), reason)

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """Reason for a route, in words."""
        return f"{self.kind}: expected quality {quality:.3f}"

    def settings(self) -> dict[str, Any]:
        """JSON values that are saved beside routes, costs and trade."""
        return {}

    def tensors(self) -> dict[str, Any]:
        """Tensors that are saved."""
        return {}

    def _ranked(self, value: Floats) -> list[int]:
        cost = np.nan_to_num(self.cost, nan=np.inf)
        known = [n for n in range(len(value)) if not math.isnan(value[n])]
        return sorted(known, key=lambda n: (-value[n], cost[n], n))
