"""Routers: who answers a question best, and is worth the price. All are one thing, a guess of quality by route.

    utility[r] = quality[r] − trade · cost[r] / cost of the dearest route

`trade` is how much quality the dearest route must be better by to be taken over a free one; sweeping it draws a
router's curve of quality against cost. A quality that nobody can guess is NaN, and that route is not chosen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import ConfigError
from noria.routing.routers.features import TextFeatures
from noria.routing.routers.router import Floats, Router
from noria.routing.tables.table import Route, Table
from noria.routing.types import BASELINES

__all__ = [
    "BestPerTask",
    "BestSingle",
    "Factors",
    "Fixed",
    "Neighbours",
    "Oracle",
    "Random",
    "fit_router",
    "mean_cost",
]


class Fixed(Router):
    """Always the same route."""

    kind = "fixed"

    def __init__(self, routes: Sequence[Route], cost: Floats, *, route: int, trade: float = 0.0) -> None:
        super().__init__(routes, cost, trade=trade)
        self.route = route

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """1 for it, 0 for the others, which remain to fall back on."""
        row = np.zeros(len(self.routes))
        row[self.route] = 1.0
        return np.tile(row, (len(texts), 1))

    def settings(self) -> dict[str, Any]:
        """Which."""
        return {"route": self.route}


class Random(Router):
    """Any route, by a hash of seed and question: the same question always goes the same way."""

    kind = "random"

    def __init__(self, routes: Sequence[Route], cost: Floats, *, seed: int = 0, trade: float = 0.0) -> None:
        super().__init__(routes, cost, trade=trade)
        self.seed = seed

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """Uniform numbers."""
        found = np.empty((len(texts), len(self.routes)))
        for n, text in enumerate(texts):
            key = hashlib.sha256(f"{self.seed}:{text}".encode(errors="surrogatepass")).digest()[:8]
            found[n] = np.random.default_rng(int.from_bytes(key, "big")).random(len(self.routes))
        return found

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """There is no reason."""
        return "random: drawn by the question's hash"

    def settings(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}


class BestSingle(Router):
    """The route with the best mean over all training questions."""

    kind = "best_single"

    def __init__(self, routes: Sequence[Route], cost: Floats, *, mean: Floats, trade: float = 0.0) -> None:
        super().__init__(routes, cost, trade=trade)
        self.mean = np.asarray(mean, dtype=float)

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """The means."""
        return np.tile(self.mean, (len(texts), 1))

    def settings(self) -> dict[str, Any]:
        """The means."""
        return {"mean": _plain(self.mean)}


class BestPerTask(Router):
    """The route with the best mean over the questions of the same data set; of all where that is not known."""

    kind = "best_per_task"

    def __init__(
        self,
        routes: Sequence[Route],
        cost: Floats,
        *,
        mean: Floats,
        by_task: Mapping[str, Sequence[float]],
        trade: float = 0.0,
    ) -> None:
        super().__init__(routes, cost, trade=trade)
        self.mean = np.asarray(mean, dtype=float)
        self.by_task = {name: np.asarray(values, dtype=float) for name, values in by_task.items()}

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """The means of each question's data set."""
        names: Sequence[str | None] = [None] * len(texts) if datasets is None else datasets
        rows = [self.by_task.get(name or "", self.mean) for name in names]
        return np.array(rows, dtype=float).reshape(len(texts), len(self.routes))

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """Of which data set."""
        known = dataset if dataset in self.by_task else None
        return f"best_per_task: mean quality {quality:.3f} on {known or 'all questions (no known task)'}"

    def settings(self) -> dict[str, Any]:
        """The means."""
        return {
            "mean": _plain(self.mean),
            "by_task": {name: _plain(values) for name, values in self.by_task.items()},
        }


class Neighbours(Router):
    """The mean over the `k` training questions most like this one, by cosine."""

    kind = "knn"

    def __init__(
        self,
        routes: Sequence[Route],
        cost: Floats,
        *,
        features: TextFeatures,
        known: NDArray[np.float32],
        score: Floats,
        k: int = 20,
        trade: float = 0.0,
    ) -> None:
        super().__init__(routes, cost, trade=trade)
        self.features, self.known, self.score, self.k = features, known, score, k

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """Means over the neighbours whose score is known; NaN where none is."""
        near = self._near(texts)
        rows = self.score[near]  # [questions, k, routes]
        given = ~np.isnan(rows)
        count = given.sum(1)
        total = np.where(given, rows, 0.0).sum(1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """How like this question the nearest was."""
        like = float((self.features([text]) @ self.known.T).max())
        return (
            f"knn: mean quality {quality:.3f} over the {self.k} nearest questions, the nearest at {like:.2f}"
        )

    def settings(self) -> dict[str, Any]:
        """K."""
        return {"k": self.k}

    def tensors(self) -> dict[str, Any]:
        """The known questions and their scores."""
        import torch

        own = {
            "known": torch.from_numpy(self.known),
            "score": torch.from_numpy(self.score.astype(np.float32)),
        }
        return {**self.features.tensors(), **own}

    def _near(self, texts: Sequence[str]) -> NDArray[np.int64]:
        like = self.features(texts) @ self.known.T
        k = min(self.k, like.shape[1])
        return np.argpartition(-like, k - 1, axis=1)[:, :k]


class Factors(Router):
    """Matrix factorisation: quality = sigmoid(bias_r + a_r · W x); RouteLLM's (arXiv 2406.18665) for many routes."""

    kind = "mf"

    def __init__(
        self,
        routes: Sequence[Route],
        cost: Floats,
        *,
        features: TextFeatures,
        project: NDArray[np.float32],
        model: NDArray[np.float32],
        bias: NDArray[np.float32],
        trade: float = 0.0,
    ) -> None:
        super().__init__(routes, cost, trade=trade)
        self.features, self.project, self.model, self.bias = features, project, model, bias

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """The model's."""
        logits = self.features(texts) @ self.project @ self.model.T + self.bias
        found: Floats = 1 / (1 + np.exp(-np.clip(logits.astype(float), -60, 60)))
        return found

    def tensors(self) -> dict[str, Any]:
        """Its matrices."""
        import torch

        own = {name: torch.from_numpy(getattr(self, name)) for name in ("project", "model", "bias")}
        return {**self.features.tensors(), **own}

    @classmethod
    def fit(
        cls, table: Table, features: TextFeatures, cost: Floats, *, rank: int, seed: int, steps: int = 600
    ) -> Factors:
        """Squared error over the known scores, with a little decay; deterministic."""
        import torch
        from torch import nn

        generator = torch.Generator().manual_seed(seed)
        x = torch.from_numpy(features(table.texts))
        target = torch.from_numpy(table.score).float()
        given = ~target.isnan()
        target = torch.where(given, target, 0.0)
        project = nn.Parameter(torch.randn(features.width, rank, generator=generator) / rank**0.5)
        model = nn.Parameter(torch.randn(len(table.routes), rank, generator=generator) / rank**0.5)
        mean = target.sum(0) / given.sum(0).clamp(min=1)
        bias = nn.Parameter(torch.logit(mean.clamp(0.02, 0.98)))
        optimizer = torch.optim.AdamW([project, model, bias], lr=0.02, weight_decay=0.02)
        for _ in range(steps):
            rows = torch.randint(len(x), (min(256, len(x)),), generator=generator)
            guess = torch.sigmoid(x[rows] @ project @ model.T + bias)
            loss = (((guess - target[rows]) ** 2) * given[rows]).sum() / given[rows].sum().clamp(min=1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        arrays = [p.detach().numpy().copy() for p in (project, model, bias)]
        return cls(table.routes, cost, features=features, project=arrays[0], model=arrays[1], bias=arrays[2])


class Oracle(Router):
    """Knows the score of every route on every question of a table: the ceiling. Of equals it takes the cheapest."""

    kind = "oracle"

    def __init__(self, table: Table, *, trade: float = 0.0) -> None:
        super().__init__(table.routes, mean_cost(table), trade=trade)
        self._score = dict(zip(table.texts, table.score, strict=True))

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """The scores themselves; NaN for a question that is not in the table."""
        nothing = np.full(len(self.routes), np.nan)
        return np.array([self._score.get(text, nothing) for text in texts]).reshape(len(texts), -1)


def fit_router(
    kind: str,
    table: Table,
    *,
    features: TextFeatures | None = None,
    seed: int = 0,
    trade: float = 0.0,
    k: int = 20,
    rank: int = 16,
) -> Router:
    """A baseline from a training table; the oracle from the table that it is judged on.

    Args:
        kind: of `BASELINES`, or the label of a route for always that one.
        table: what is known.
        features: of questions, for `knn` and `mf`; learned from the table by default.
        seed: of what is random in it.
        trade: how much cost matters.
        k: neighbours of `knn`.
        rank: of `mf`.

    Raises:
        ConfigError: there is no such router.
    """
    cost, score = mean_cost(table), table.score
    mean = _means(score)
    labels = [route.label for route in table.routes]
    router: Router
    if kind in labels:
        router = Fixed(table.routes, cost, route=labels.index(kind))
    elif kind == "random":
        router = Random(table.routes, cost, seed=seed)
    elif kind == "best_single":
        router = BestSingle(table.routes, cost, mean=mean)
    elif kind == "best_per_task":
        names = np.array(table.dataset)
        by_task = {name: _plain(_means(score[names == name])) for name in dict.fromkeys(table.dataset)}
        nan_means = {n: [math.nan if v is None else v for v in values] for n, values in by_task.items()}
        router = BestPerTask(table.routes, cost, mean=mean, by_task=nan_means)
    elif kind == "knn":
        features = features or TextFeatures.fit(table.texts, seed=seed)
        known = features(table.texts)
        router = Neighbours(table.routes, cost, features=features, known=known, score=score, k=k)
    elif kind == "mf":
        features = features or TextFeatures.fit(table.texts, seed=seed)
        router = Factors.fit(table, features, cost, rank=rank, seed=seed)
    elif kind == "oracle":
        router = Oracle(table)
    else:
        raise ConfigError(
            f"no router {kind!r}", where="router", mend=f"choose from {', '.join([*BASELINES, *labels])}"
        )
    router.trade = trade
    return router


def mean_cost(table: Table) -> Floats:
    """Of a question by each route: [routes], NaN where no cost is known."""
    return _means(table.cost)


def _means(values: Floats) -> Floats:
    """Of the columns, over what is known; NaN where nothing is."""
    given = ~np.isnan(values)
    count = given.sum(0)
    total = np.where(given, values, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _plain(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
