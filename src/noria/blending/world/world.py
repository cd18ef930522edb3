"""A blending world whose truth is known: three sources on scales of their own, ten plans that overlap, two of them bad.

A candidate's chance of an effective completion is drawn first; its source's model sees it through noise and reports
it on the source's scale, raised to a power where the model is distorted. Plans hit candidates by their columns. What
the two bad plans push is worse than its score says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.alignment.alignment import Alignment
from noria.blending.alignment.config import FitConfig
from noria.blending.alignment.fitting import fit_alignment
from noria.blending.alignment.tallies import Tallies, folds
from noria.blending.columns import NameColumn
from noria.blending.plans.plans import Plans

Floats = NDArray[np.float64]

SOURCES = ("organic", "live", "ads")
SCALES = {"organic": 12.0, "live": 0.7, "ads": 300.0}
"""Scales of raw scores, before anything is aligned."""
CATEGORIES = ("music", "food", "sport", "travel", "games", "news", "reposts", "pets")
REGIONS = ("north", "south", "east", "west")

PLANS = (
    ("cold-start", 'source == "organic" and age_hours < 12'),
    ("new-authors", 'source == "organic" and followers < 300'),
    ("live-music", 'source == "live" and category == "music"'),
    ("live-food", 'source == "live" and category == "food"'),
    ("guaranteed-ads", 'source == "ads" and tier == "guaranteed"'),
    ("brand-ads", 'source == "ads" and category in ["sport", "travel"]'),
    ("festival", 'festival and category != "reposts"'),
    ("local", 'region == "north" and source != "ads"'),
    ("repost-push", 'category == "reposts"'),
    ("old-live", 'source == "live" and age_hours > 40'),
)
"""(id, when); the last two are bad."""
BAD = ("repost-push", "old-live")


def world_plans() -> Plans:
    """The plan file of the world, without boosts."""
    plans = [{"id": name, "when": when, "owner": name.split("-")[0]} for name, when in PLANS]
    return Plans.model_validate({"plans": plans})


@dataclass(frozen=True, eq=False)
class World:
    """Candidates of many requests, as many in each.

    Attributes:
        requests, candidates: number of requests, and of candidates in each.
        truth: [rows] chance of an effective completion.
        score: [rows] raw scores x.
        gain: [rows] what the plans' owners earn by an exposure; a tenth where it is of what bad plans push.
        source: source by row.
        columns: what plans are targeted on.
    """

    requests: int
    candidates: int
    truth: Floats
    score: Floats
    gain: Floats
    source: NameColumn
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def start(self) -> NDArray[np.int64]:
        """[requests + 1] the first row of each request, and the end."""
        return np.arange(self.requests + 1, dtype=np.int64) * self.candidates


def make_world(
    generator: np.random.Generator,
    *,
    requests: int = 600,
    candidates: int = 500,
    noise: float = 0.5,
    powers: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> World:
    """Draw a world.

    Args:
        generator: draws the world.
        requests, candidates: number of requests, and of candidates in each.
        noise: spread of the models' errors, on the logit.
        powers: that each source's model raises its score to; 1 keeps scores in proportion to what the model believes.
    """
    n = requests * candidates
    source = generator.choice(3, size=n, p=[0.6, 0.2, 0.2])
    category = generator.integers(len(CATEGORIES), size=n)
    columns: dict[str, Any] = {
        "source": NameColumn(SOURCES, source.astype(np.int32)),
        "category": NameColumn(CATEGORIES, category.astype(np.int32)),
        "region": NameColumn(REGIONS, generator.integers(4, size=n).astype(np.int32)),
        "tier": NameColumn(("guaranteed", "auction"), (generator.random(n) < 0.6).astype(np.int32)),
        "age_hours": generator.exponential(24.0, size=n).round(2),
        "followers": np.exp(generator.normal(7.5, 1.6, size=n)).round(),
        "festival": generator.random(n) < 0.12,
    }
    bad = (category == CATEGORIES.index("reposts")) | ((source == 1) & (columns["age_hours"] > 40))
    belief = np.array([-0.6, -0.9, -1.1])[source] + generator.normal(0, 0.9, size=n)
    hidden = noise * generator.normal(size=n) - np.where(bad, 0.9, 0.0)
    truth = 1 / (1 + np.exp(-(belief + hidden)))
    # What the model believes is the mean of the truth given what it sees: calibrated but for what it does not know.
    seen = 1 / (1 + np.exp(-belief / np.sqrt(1 + 0.346 * noise**2)))
    power, unit = np.array(powers)[source], np.array([SCALES[name] for name in SOURCES])[source]
    gain = np.where(bad, 0.1, 1.0) * generator.gamma(4.0, 0.1, size=n)
    return World(requests, candidates, truth, unit * seen**power, gain, columns["source"], columns)


# -- history ---------------------------------------------------------------------------------------------------------


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
