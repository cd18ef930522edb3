"""Traffic allocation where every boost is priced and accounted for (Uniboost, arXiv 2605.26424).

At the blending stage one ranked list serves many business goals, each a plan that edits the score. Where plans
multiply, they depend on each other, inflate, and nobody can say what one costs. Here a raw score is first aligned to
one unit, expected effective completions; every plan then adds its own linear term of that value alone, so that each
score is an account that closes, and what a plan spends and brings is known to the exposure.

Read in this order:

| module | holds |
| --- | --- |
| `columns`, `targeting`, `plans` | candidates as columns; who a plan is for; the plan file |
| `tallies`, `aligners`, `alignment` | outcomes against scores, exactly mergeable; from a score to a value |
| `scoring`, `slots` | the linear boost, its guards, the best K; hard rules on places |
| `snapshot`, `blender` | all that a ranking depends on, as one file; the ranking |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.blending.alignment import Alignment
    from noria.blending.blender import Blender, Ranked
    from noria.blending.columns import Candidates, Coded, Listed
    from noria.blending.plans import Plan, Plans, load_plans
    from noria.blending.snapshot import Setting, Snapshot
    from noria.blending.tallies import Tallies

_HOMES = {
    "Alignment": "alignment",
    "Blender": "blender",
    "Candidates": "columns",
    "Coded": "columns",
    "Listed": "columns",
    "Plan": "plans",
    "Plans": "plans",
    "Ranked": "blender",
    "Setting": "snapshot",
    "Snapshot": "snapshot",
    "Tallies": "tallies",
    "load_plans": "plans",
}

__all__ = [
    "Alignment",
    "Blender",
    "Candidates",
    "Coded",
    "Listed",
    "Plan",
    "Plans",
    "Ranked",
    "Setting",
    "Snapshot",
    "Tallies",
    "load_plans",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
