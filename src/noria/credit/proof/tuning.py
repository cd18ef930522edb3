"""The search for each arm's own best settings, on seeds that no claim is judged on.

Scores are searched by how well they tell what leads to the answer from a dead branch, policies by their reward while
they learn. Every arm with a free setting tries six. `SCORE_SETTINGS` keeps what the search over scores found; the full
proof makes it again and says where it differs. The search over policies runs in the full proof only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from noria.core.proofs.arms import TRIES, candidates

TUNING_SEEDS = (11, 12)
"""Seeds that settings are chosen on."""
SEARCHED = 24
"""Number of questions that each setting of a score is tried on, for each seed."""

_LAYERS = ("mid", "all", "early", "late", "1-4", "2")
_NODES = ("predictor", "token")
SCORE_SPACES: dict[str, dict[str, Sequence[Any]]] = {
    "flow": {"layers": _LAYERS, "answer_nodes": _NODES, "absorbing": (True, False)},
    "answer attention": {"layers": _LAYERS, "answer_nodes": _NODES},
    "rollout": {"layers": ("all", "mid", "early", "late", "1-4", "2"), "answer_nodes": _NODES},
    "attention flow": {"layers": _LAYERS, "answer_nodes": _NODES},
    "FAI": {"layers": _LAYERS, "horizon": ((10, 100), (1, 100), (5, 50))},
    "WAAD": {"layers": _LAYERS},
}
"""Free settings of each score, the usual value first. Entropy and OAR have none."""

SCORE_SETTINGS: dict[str, dict[str, Any]] = {
    "flow": {"layers": "mid", "answer_nodes": "predictor", "absorbing": True},
    "answer attention": {"layers": "1-4", "answer_nodes": "predictor"},
    "rollout": {"layers": "1-4", "answer_nodes": "predictor"},
    "attention flow": {"layers": "1-4", "answer_nodes": "predictor"},
    "FAI": {"layers": "late", "horizon": (5, 50)},
    "WAAD": {"layers": "1-4"},
}
"""The best of the six that each score tried, on the reasoner that ships: its layers are 0 to 5."""

_RATES = (1e-4, 2e-4, 5e-5)
_CHOOSING: dict[str, Sequence[Any]] = {"lr": _RATES, "gamma": (1.5, 2.0)}
_EVEN: dict[str, Sequence[Any]] = {"lr": (1e-4, 2e-4, 5e-5, 1.4e-4, 7e-5, 2.8e-4)}
POLICY_SPACES: dict[str, dict[str, Sequence[Any]]] = {
    "GRPO": _EVEN,
    "flow": _CHOOSING,
    "flow, bottom 40 %": _CHOOSING,
    "random 40 %": _CHOOSING,
    "answer attention": _CHOOSING,
    "rollout": _CHOOSING,
    "attention flow": _CHOOSING,
    "entropy 20 %": {"lr": _RATES, "fraction": (0.2, 0.4)},
    "WAAD": _CHOOSING,
    "FAI": _CHOOSING,
    "FAI and WAAD coupled": _CHOOSING,
    "OAR-G": {"lr": _RATES, "beta": (0.5, 1.0)},
    "KTAE": _EVEN,
}
"""Free settings of each policy, the usual value first. Even credit of another size is another rate."""


def tries_of(spaces: Mapping[str, Mapping[str, Sequence[Any]]], name: str) -> list[dict[str, Any]]:
    """Settings that an arm tries; none where it has no free setting."""
    if name not in spaces:
        return []
    return candidates(spaces[name], generator=np.random.default_rng(0), tries=TRIES)
