"""The policy of a router that chooses once: a small network from a question's features to a chance for every route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noria.routing.routers.features import TextFeatures
from noria.routing.routers.router import Router


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
        """Logits of the routes."""
        logits: Tensor = self.outer(torch.tanh(self.inner(features)))
        return logits


@dataclass(eq=False, repr=False)
class NetworkRouter(Router):
    """A trained policy as a router: its quality is π(route | question), so that a trade is a difference of chances."""

    kind = "policy"
    features: TextFeatures = field(kw_only=True)
    network: PolicyNetwork = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.network.eval()

    def quality(self, texts: Sequence[str], datasets: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Probabilities of the routes."""
        return self.chances(self.features(texts))

    def chances(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities of the routes, by the questions' features."""
        with torch.no_grad():
            logits = self.network(torch.from_numpy(features))
            return np.asarray(logits.double().softmax(-1).numpy())

    def explain(self, text: str, dataset: str | None, route: int, quality: float) -> str:
        """Probability of the route."""
        return f"policy: chosen with probability {quality:.3f}"

    def settings(self) -> dict[str, Any]:
        """The size of the hidden layer."""
        return {"hidden": self.network.inner.out_features}

    def tensors(self) -> dict[str, Any]:
        """The features' tensors and the network's weights."""
        own = {f"network.{name}": p.detach().clone() for name, p in self.network.state_dict().items()}
        return {**self.features.tensors(), **own}
