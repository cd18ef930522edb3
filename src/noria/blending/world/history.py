"""The history of a world: outcomes of its control bucket, and the alignment fitted on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from noria.blending.alignment.alignment import Alignment
from noria.blending.alignment.config import FitConfig
from noria.blending.alignment.fitting import fit_alignment
from noria.blending.alignment.tallies import Tallies, folds
from noria.blending.world.world import SOURCES, World

# -- the pieces -------------------------------------------------------------------------------------------------------


def outcomes(past: World, rng: np.random.Generator, share: float = 0.04) -> Tallies:
    """Outcomes of randomly shown candidates of an earlier time: the control bucket."""
    rows = np.flatnonzero(rng.random(len(past.truth)) < share)
    seen = (rng.random(len(rows)) < past.truth[rows]).astype(float)
    tallies = Tallies()
    for code, source in enumerate(SOURCES):
        mine = past.source.codes[rows] == code
        tallies.add(
            past.score[rows][mine],
            seen[mine],
            source=source,
            control=True,
            fold=folds(rows[mine] // past.candidates),
        )
    return tallies


def aligned(tallies: Tallies, kind: Any, *, shrink: float = 200.0) -> Alignment:
    """The alignment of one kind, shrunk by so many pseudo-exposures."""
    config = FitConfig(aligner=kind, half_life=None, least_control=0, shrink=shrink)
    return fit_alignment(tallies, config, now=0.0)[0]
