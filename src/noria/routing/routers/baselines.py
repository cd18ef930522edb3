"""Baselines: the same route always, any route, the best on average, nearest neighbours, factors, and the oracle."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.core.errors import ConfigError
from noria.core.records import json_values
from noria.routing.routers.features import TextFeatures
from noria.routing.routers.router import Floats, Router
from noria.routing.tables.table import Table
from noria.routing.types import BASELINES

ALMOST_NOTHING = 1e-9
"""Quality by which a wrong answer is better than none, to an oracle that must take one of the two."""
TOGETHER = 512
"""Questions whose neighbours are looked for at once."""


@dataclass(eq=False, repr=False)
class Fixed(Router):
    """One route for every question: the column `route`."""

    kind = "fixed"
    route: int = field(kw_only=True)

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """1 for the route, 0 for the others, which remain to fall back on."""
        row = np.zeros(len(self.routes))
        row[self.route] = 1.0
        return np.tile(row, (len(texts), 1))

    def settings(self) -> dict[str, Any]:
        """The route's column."""
        return {"route": self.route}


@dataclass(eq=False, repr=False)
class Random(Router):
    """Any route, by a hash of seed and question: the same question always goes the same way."""

    kind = "random"
    seed: int = field(default=0, kw_only=True)

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """Uniform numbers, drawn by the hash of each question."""
        drawn = np.empty((len(texts), len(self.routes)))
        for n, text in enumerate(texts):
            key = hashlib.sha256(f"{self.seed}:{text}".encode(errors="surrogatepass")).digest()[:8]
            drawn[n] = np.random.default_rng(int.from_bytes(key, "big")).random(len(self.routes))
        return drawn

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """There is no reason."""
        return "random: drawn by the question's hash"

    def settings(self) -> dict[str, Any]:
        """The seed alone."""
        return {"seed": self.seed}


@dataclass(eq=False, repr=False)
class BestSingle(Router):
    """The route with the best mean over all training questions; `mean` is [routes]."""

    kind = "best_single"
    mean: Floats = field(kw_only=True)

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """The means of all routes, for every question."""
        return np.tile(self.mean, (len(texts), 1))

    def settings(self) -> dict[str, Any]:
        """Means by route."""
        return {"mean": json_values(self.mean)}


@dataclass(eq=False, repr=False)
class BestPerTask(BestSingle):
    """The route with the best mean over the questions of the same data set; of all where that is not known."""

    kind = "best_per_task"
    by_task: Mapping[str, Sequence[float] | Floats] = field(kw_only=True)

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """The means of each question's data set."""
        names: Sequence[str | None] = [None] * len(texts) if datasets is None else datasets
        rows = [self.by_task.get(name or "", self.mean) for name in names]
        return np.array(rows, dtype=float).reshape(len(texts), len(self.routes))

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """Mean quality, and the data set that it is a mean of."""
        known = dataset if dataset in self.by_task else None
        return f"best_per_task: mean quality {quality:.3f} on {known or 'all questions (no known task)'}"

    def settings(self) -> dict[str, Any]:
        """Means by route, of all questions and of each data set."""
        return super().settings() | {"by_task": json_values(self.by_task)}


@dataclass(eq=False, repr=False)
class Neighbours(Router):
    """The mean over the `k` training questions most like this one, by cosine.

    Args:
        features: features of the questions.
        known: [training questions, width], their features.
        score: [training questions, routes], what each route was worth.
        k: number of neighbours.
    """

    kind = "knn"
    features: TextFeatures = field(kw_only=True)
    known: NDArray[np.float32] = field(kw_only=True)
    score: Floats = field(kw_only=True)
    k: int = field(default=20, kw_only=True)

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """Means over the neighbours whose score is known; NaN where none is."""
        k = min(self.k, len(self.known))
        quality = np.empty((len(texts), len(self.routes)))
        for start in range(0, len(texts), TOGETHER):  # all at once would be questions × training questions
            like = self.features(texts[start : start + TOGETHER]) @ self.known.T
            near = np.argpartition(-like, k - 1, axis=1)[:, :k]
            quality[start : start + TOGETHER] = column_means(self.score[near], axis=1)
        return quality

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """Mean quality, and how like this question the nearest was."""
        like = float((self.features([text]) @ self.known.T).max())
        return (
            f"knn: mean quality {quality:.3f} over the {self.k} nearest questions, the nearest at {like:.2f}"
        )

    def settings(self) -> dict[str, Any]:
        """The number of neighbours."""
        return {"k": self.k}

    def tensors(self) -> dict[str, Any]:
        """The known questions and their scores."""
        import torch

        score = torch.from_numpy(self.score.astype(np.float32))
        return {**self.features.tensors(), "known": torch.from_numpy(self.known), "score": score}


@dataclass(eq=False, repr=False)
class Factors(Router):
    """Matrix factorisation: quality = sigmoid(bias_r + a_r · W x); RouteLLM's (arXiv 2406.18665) for many routes.

    Args:
        features: features x of the questions.
        project: W, [width, rank].
        model: a, [routes, rank].
        bias: [routes].
    """

    kind = "mf"
    features: TextFeatures = field(kw_only=True)
    project: NDArray[np.float32] = field(kw_only=True)
    model: NDArray[np.float32] = field(kw_only=True)
    bias: NDArray[np.float32] = field(kw_only=True)

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """The sigmoid of the factors' product."""
        logits = self.features(texts) @ self.project @ self.model.T + self.bias
        quality: Floats = 1 / (1 + np.exp(-np.clip(logits.astype(float), -60, 60)))
        return quality

    def tensors(self) -> dict[str, Any]:
        """The features' tensors and the three matrices."""
        import torch

        own = {name: torch.from_numpy(getattr(self, name)) for name in ("project", "model", "bias")}
        return {**self.features.tensors(), **own}

    @classmethod
    def fit(
        cls, table: Table, features: TextFeatures, cost: Floats, *, rank: int, seed: int, steps: int = 600
    ) -> Factors:
        """Minimise the squared error over the known scores, with a little decay; deterministic."""
        import torch
        from torch import nn

        generator = torch.Generator().manual_seed(seed)
        x = torch.from_numpy(features(table.texts))
        target = torch.from_numpy(table.quality).float()
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
    """Knows what every route is worth on every question of a table: the ceiling.

    Of equals it takes one that answers, and then the cheapest.
    Several questions may have one text: when that is asked for the n-th time in a call, it is the n-th of them.
    """

    kind = "oracle"

    def __init__(self, table: Table, *, trade: float = 0.0) -> None:
        super().__init__(table.routes, mean_cost(table), trade=trade)
        self._known: dict[str, list[Floats]] = {}
        worth = table.quality - ALMOST_NOTHING * (table.available == 0)
        for text, row in zip(table.texts, worth, strict=True):
            self._known.setdefault(text, []).append(row)

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> Floats:
        """The qualities themselves; NaN for a question that is not in the table."""
        quality = np.full((len(texts), len(self.routes)), np.nan)
        asked: Counter[str] = Counter()
        for n, text in enumerate(texts):
            if known := self._known.get(text):
                quality[n] = known[min(asked[text], len(known) - 1)]
                asked[text] += 1
        return quality


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
    """Fit a baseline on a training table; the oracle on the table that it is judged on.

    Args:
        kind: one of `BASELINES`, or the label of a route for always that one.
        table: questions with scores, failures and costs.
        features: features of questions, for `knn` and `mf`; learned from the table by default.
        seed: seed of the random generators.
        trade: quality by which the dearest route must be better.
        k: number of neighbours of `knn`.
        rank: rank of `mf`.

    Raises:
        ConfigError: there is no such router.
    """
    routes, quality, cost = table.routes, table.quality, mean_cost(table)
    labels = [route.label for route in routes]
    router: Router
    if kind in labels:
        router = Fixed(routes, cost, route=labels.index(kind))
    elif kind == "random":
        router = Random(routes, cost, seed=seed)
    elif kind == "best_single":
        router = BestSingle(routes, cost, mean=column_means(quality))
    elif kind == "best_per_task":
        by_task = {name: column_means(quality[rows]) for name, rows in table.rows_by_dataset.items()}
        router = BestPerTask(routes, cost, mean=column_means(quality), by_task=by_task)
    elif kind in ("knn", "mf"):
        features = features or TextFeatures.fit(table.texts, seed=seed)
        if kind == "mf":
            router = Factors.fit(table, features, cost, rank=rank, seed=seed)
        else:
            known = features(table.texts)
            router = Neighbours(routes, cost, features=features, known=known, score=quality, k=k)
    elif kind == "oracle":
        router = Oracle(table)
    else:
        raise ConfigError(
            f"no router {kind!r}", where="router", mend=f"choose from {', '.join([*BASELINES, *labels])}"
        )
    router.trade = trade
    return router


def mean_cost(table: Table) -> Floats:
    """Mean cost of a question by each route: [routes], NaN where no cost is known."""
    return column_means(table.cost)


def column_means(values: Floats, axis: int = 0) -> Floats:
    """Means along an axis over what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
