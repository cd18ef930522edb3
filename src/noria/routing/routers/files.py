"""Routers as folders of JSON and safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
        content = json_object(folder / _ROUTER, "a router")
        tensors = {}
        if (folder / _TENSORS).exists():
            check_input(folder / _TENSORS)
            tensors = load_file(folder / _TENSORS)
        return _router(content, tensors)


def _router(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Router:
    routes = [Route(str(r["model"]), str(r["strategy"])) for r in content["routes"]]
    cost, trade = _column(content["cost"]), float(content["trade"])
    if len(cost) != len(routes) or not routes:
        raise CheckpointError("routes and costs differ in number")
    kind = content["kind"]
    if kind == "fixed":
        return Fixed(routes, cost, route=int(content["route"]), trade=trade)
    if kind == "random":
        return Random(routes, cost, seed=int(content["seed"]), trade=trade)
    if kind == "best_single":
        return BestSingle(routes, cost, mean=_column(content["mean"]), trade=trade)
    if kind == "best_per_task":
        by_task = {name: _column(values) for name, values in content["by_task"].items()}
        return BestPerTask(routes, cost, mean=_column(content["mean"]), by_task=by_task, trade=trade)
    features = TextFeatures.from_tensors(tensors)
    more: dict[str, Any] = {"features": features, "trade": trade}
    if kind == "knn":
        score = tensors["score"].double().numpy()
        k = int(content["k"])
        return Neighbours(routes, cost, known=tensors["known"].numpy(), score=score, k=k, **more)
    if kind == "mf":
        more |= {name: tensors[name].numpy() for name in ("project", "model", "bias")}
        return Factors(routes, cost, **more)
    if kind != "policy":
        raise CheckpointError(f"no router {kind!r}")
    network = PolicyNetwork(features.width, len(routes), hidden=int(content["hidden"]))
    weights = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
    network.load_state_dict(weights)
    return NetworkRouter(routes, cost, network=network, **more)


def _column(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if v is None else float(v) for v in values])
