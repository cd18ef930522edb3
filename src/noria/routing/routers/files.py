"""Routers as folders of JSON and safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from noria.core.config import Config
from noria.core.digests import check_digests, write_digests
from noria.core.errors import CheckpointError, DataError
from noria.core.files import appearing, check_input, decoding, write_atomic
from noria.core.records import json_object, json_values
from noria.routing.routers.baselines import BestPerTask, BestSingle, Factors, Fixed, Neighbours, Random
from noria.routing.routers.features import TextFeatures
from noria.routing.routers.network import NetworkRouter, PolicyNetwork
from noria.routing.routers.router import Router
from noria.routing.tables.table import Route

_ROUTER, _TENSORS = "router.json", "router.safetensors"


def open_router(folder: Path, *, trade: float | None = None) -> Router:
    """Open a saved router by its own folder, or by that of the run that trained it.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    inner = folder / "router"
    router = load_router(inner if inner.is_dir() else folder)
    router.trade = router.trade if trade is None else trade
    return router


def save_router(router: Router, folder: Path) -> None:
    """Write a router as a folder of JSON and safetensors, whole or not at all.

    Raises:
        DataError: it cannot be saved: an oracle knows answers, not questions.
        RunError: the disk refuses.
    """
    from safetensors.torch import save_file

    if router.kind == "oracle":
        raise DataError("an oracle cannot be saved", where=str(folder), mend="save another router")
    content = {
        "kind": router.kind,
        "routes": [{"model": r.model, "strategy": r.strategy} for r in router.routes],
        "cost": json_values(router.cost),
        "trade": router.trade,
        **router.settings(),
    }
    with appearing(folder) as inside:
        write_atomic(inside / _ROUTER, json.dumps(content, indent=1, allow_nan=False) + "\n")
        tensors = router.tensors()
        if tensors:
            save_file({name: t.contiguous() for name, t in tensors.items()}, inside / _TENSORS)
        write_digests(inside, [file for name in (_ROUTER, _TENSORS) if (file := inside / name).exists()])


def load_router(folder: Path) -> Router:
    """Open what `save_router` wrote.

    Raises:
        CheckpointError: it is no router, or damaged.
    """
    from safetensors.torch import load_file

    check_digests(folder)
    if not (folder / _ROUTER).exists():
        raise CheckpointError(
            "no router here", where=str(folder), mend="give a folder that noria routing train wrote"
        )
    with decoding(folder, "a router", mend="train it again", error=CheckpointError):
        try:
            saved = SavedRouter.model_validate(json_object(folder / _ROUTER, "a router"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "it"
            message = first["msg"].removeprefix("Value error, ")
            raise CheckpointError(
                f"{field}: {message}", where=str(folder / _ROUTER), mend="train it again"
            ) from error
        except DataError as error:
            raise CheckpointError(error.what, where=error.where, mend="train it again") from error
        tensors = {}
        if (folder / _TENSORS).exists():
            check_input(folder / _TENSORS)
            tensors = load_file(folder / _TENSORS)
        if any(name != "score" and not t.isfinite().all() for name, t in tensors.items()):
            raise CheckpointError("numbers that are not finite", mend="train it again")
        router = _router(saved, tensors)
        if router.quality(["a question"]).shape != (1, len(router.routes)):
            raise CheckpointError("tensors of the wrong shape", mend="train it again")
        return router


class SavedRoute(Config):
    """A route in a router's file."""

    model: str = Field(min_length=1)
    strategy: str = Field(min_length=1)


Column: TypeAlias = tuple[Annotated[float, Field(ge=0)] | None, ...]
"""A number for each route; null where one is not known."""


class SavedRouter(Config):
    """Content of a router's file: what all have, and the settings of each kind."""

    kind: Literal["fixed", "random", "best_single", "best_per_task", "knn", "mf", "policy"]
    routes: tuple[SavedRoute, ...] = Field(min_length=1)
    cost: Column
    trade: float
    route: int = Field(0, ge=0)
    seed: int = 0
    mean: Column = ()
    by_task: dict[str, Column] = Field(default_factory=dict)
    k: int = Field(20, ge=1)
    hidden: int = Field(64, ge=1, le=2**16)

    @model_validator(mode="after")
    def _fits(self) -> SavedRouter:
        columns = [self.cost, *self.by_task.values()]
        if self.kind in ("best_single", "best_per_task"):
            columns.append(self.mean)
        if any(len(column) != len(self.routes) for column in columns) or self.route >= len(self.routes):
            raise ValueError("another number of routes")
        if len(set(self.routes)) < len(self.routes):
            raise ValueError("a route is there twice")
        return self


def _router(saved: SavedRouter, tensors: Mapping[str, Tensor]) -> Router:
    routes = [Route(route.model, route.strategy) for route in saved.routes]
    cost, trade, kind = _column(saved.cost), saved.trade, saved.kind
    if kind == "fixed":
        return Fixed(routes, cost, route=saved.route, trade=trade)
    if kind == "random":
        return Random(routes, cost, seed=saved.seed, trade=trade)
    if kind == "best_single":
        return BestSingle(routes, cost, mean=_column(saved.mean), trade=trade)
    if kind == "best_per_task":
        by_task = {name: _column(values) for name, values in saved.by_task.items()}
        return BestPerTask(routes, cost, mean=_column(saved.mean), by_task=by_task, trade=trade)
    features = TextFeatures.from_tensors(tensors)
    more: dict[str, Any] = {"features": features, "trade": trade}
    if kind == "knn":
        known, score = tensors["known"].numpy(), tensors["score"].double().numpy()
        if known.ndim != 2 or score.shape != (len(known), len(routes)) or not len(known):
            raise CheckpointError("tensors of the wrong shape")
        return Neighbours(routes, cost, known=known, score=score, k=saved.k, **more)
    if kind == "mf":
        more |= {name: tensors[name].numpy() for name in ("project", "model", "bias")}
        return Factors(routes, cost, **more)
    network = PolicyNetwork(features.width, len(routes), hidden=saved.hidden)
    weights = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
    network.load_state_dict(weights)
    return NetworkRouter(routes, cost, network=network, **more)


def _column(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if v is None else float(v) for v in values])
