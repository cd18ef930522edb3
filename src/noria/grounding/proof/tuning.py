"""The free settings of the proof's models, each chosen among six on worlds that no claim is judged on.

`TUNED` holds what the search found at quick scale. A full proof searches again at its own, and notes where it finds
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from noria.core.proofs.arms import best_candidate, candidates
from noria.grounding.audit.adversary import AUDITORS
from noria.grounding.synth.config import Knobs

SPACES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "seer": {"rate": (4e-3, 2e-3, 8e-3), "noise": (0.05, 0.0)},
    "prejudiced": {"rate": (2e-3, 5e-4, 8e-3), "decay": (0.05, 0.5)},
    "blind": {"auditor": tuple(reversed(AUDITORS))},
}
"""Values of each model's free settings, the usual one first; six settings each."""
SEEDS = (101, 102)
"""Seeds of the worlds that settings are chosen on."""
TUNED: Mapping[str, Mapping[str, Any]] = {
    "seer": {"rate": 4e-3, "noise": 0.05},
    "prejudiced": {"rate": 2e-3, "decay": 0.05},
    "blind": {"auditor": "numbers"},
}
"""The settings chosen."""


def tries(model: str) -> list[dict[str, Any]]:
    """The settings of a model that are tried."""
    return candidates(SPACES[model], generator=np.random.default_rng(0))


def run_try(model: str, number: int, seed: int, scale: dict[str, int]) -> float:
    """Score of a model with one of its settings, on a world of its own.

    Args:
        model: name of the model.
        number: place of the settings in `tries`.
        seed: seed of the world.
        scale: sizes, as the proof has them.

    Returns:
        Share of questions right; of levels, for the prejudiced model, which is free in nothing else.
    """
    import torch

    from noria.grounding.proof.arms import SEEN, Scale, share_right
    from noria.grounding.proof.perceiver import train_seer
    from noria.grounding.proof.unseeing import answered_right, train_blind, train_prejudiced
    from noria.grounding.synth.world import make_corpus

    torch.set_num_threads(1)
    size, settings = Scale(**scale), tries(model)[number]
    knobs = Knobs(**SEEN, confounder=0.9)
    scenes, learned = make_corpus(size.train, knobs, seed=1000 + seed, prefix="train")
    if model == "blind":
        asked = make_corpus(size.words, knobs, seed=2000 + seed)[1]
        return share_right(train_blind(learned, [asked], seed=seed, **settings), asked)
    shown, asked = make_corpus(size.test, knobs, seed=3000 + seed)
    if model == "seer":
        seer = train_seer(scenes, knobs, epochs=size.epochs, seed=seed, **settings)
        return answered_right(seer, shown, asked, knobs)[1]
    blind = train_blind(learned, [asked], seed=seed, **TUNED["blind"])
    prejudiced = train_prejudiced(scenes, knobs, blind, epochs=30, seed=seed, **settings)
    return answered_right(prejudiced, shown, asked, knobs)[0]


def chosen(model: str, scores: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """The best settings of a model, by their scores: one list a setting, one value a seed."""
    return tries(model)[best_candidate(scores, "higher")]
