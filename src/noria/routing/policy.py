"""The policy of a router that chooses once: a small network from a question's features to a chance for every route."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noria.core.errors import CheckpointError, DataError
from noria.core.files import appearing, write_atomic
from noria.routing.features import TextFeatures
from noria.routing.routers import (
    BestPerTask,
    BestSingle,
    Factors,
    Fixed,
    Neighbours,
    Random,
    Router,
)
from noria.routing.table import Route

__all__ = ["NetworkRouter", "PolicyNetwork", "load_router", "save_router"]


class PolicyNetwork(nn.Module):
    """features [questions, width] → logits [questions, routes]; uniform where it is untrained."""

    def __init__(self, width: int, routes: int, *, hidden: int = 64, seed: int = 0) -> None:
        super().__init__()
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        try:
            self.inner = nn.Linear(width, hidden)
            self.outer = nn.Linear(hidden, routes)
        finally:
            torch.random.set_rng_state(state)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.outer(torch.tanh(self.inner(features)))
        return logits


class NetworkRouter(Router):
    """A trained policy as a router: its quality is log π(route | question)."""

    kind = "policy"

    def __init__(
        self,
        routes: Sequence[Route],
        cost: NDArray[np.float64],
        *,
        features: TextFeatures,
        network: PolicyNetwork,
        trade: float = 0.0,
    ) -> None:
        super().__init__(routes, cost, trade=trade)
        self.features, self.network = features, network.eval()

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Log-probabilities."""
        with torch.no_grad():
            logits = self.network(torch.from_numpy(self.features(texts)))
            return np.asarray(logits.log_softmax(-1).double().numpy())

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """With which probability."""
        return f"policy: chosen with probability {math.exp(quality):.3f}"

    def settings(self) -> dict[str, Any]:
        """Its size."""
        return {"hidden": self.network.inner.out_features}

    def tensors(self) -> dict[str, Any]:
        """Its weights."""
        own = {f"network.{name}": p.detach().clone() for name, p in self.network.state_dict().items()}
        return {**self.features.tensors(), **own}


# -- files ------------------------------------------------------------------------------------------------------------

_ROUTER, _TENSORS = "router.json", "router.safetensors"


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
        "cost": [None if math.isnan(c) else float(c) for c in router.cost],
        "trade": router.trade,
        **router.settings(),
    }
    with appearing(folder) as inside:
        write_atomic(inside / _ROUTER, json.dumps(content, indent=1, allow_nan=False) + "\n")
        tensors = router.tensors()
        if tensors:
            save_file({name: t.contiguous() for name, t in tensors.items()}, inside / _TENSORS)


def load_router(folder: Path) -> Router:
    """Open what `save_router` wrote.

    Raises:
        CheckpointError: it is no router, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content = json.loads((folder / _ROUTER).read_text())
        tensors = load_file(folder / _TENSORS) if (folder / _TENSORS).is_file() else {}
        return _router(content, tensors)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=str(folder)) from error
    except FileNotFoundError as error:
        raise CheckpointError(
            "no router here", where=str(folder), mend="give a folder that noria routing train wrote"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"not a router that opens ({type(error).__name__})", where=str(folder), mend="train it again"
        ) from error


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
        by_task = {name: _column(values).tolist() for name, values in content["by_task"].items()}
        return BestPerTask(routes, cost, mean=_column(content["mean"]), by_task=by_task, trade=trade)
    features = TextFeatures.from_tensors(tensors)
    if kind == "knn":
        return Neighbours(
            routes,
            cost,
            features=features,
            known=tensors["known"].numpy(),
            score=tensors["score"].double().numpy(),
            k=int(content["k"]),
            trade=trade,
        )
    if kind == "mf":
        arrays = {name: tensors[name].numpy() for name in ("project", "model", "bias")}
        return Factors(routes, cost, features=features, trade=trade, **arrays)
    if kind != "policy":
        raise CheckpointError(f"no router {kind!r}")
    network = PolicyNetwork(features.width, len(routes), hidden=int(content["hidden"]))
    own = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
    network.load_state_dict(own)
    return NetworkRouter(routes, cost, features=features, network=network, trade=trade)


def _column(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if v is None else float(v) for v in values])
