"""Traffic allocation where every boost is priced and accounted for (Uniboost, arXiv 2605.26424).

At the blending stage one ranked list serves many business goals, each a plan that edits the score. Where plans
multiply, they depend on each other, inflate, and nobody can say what one costs. Here a raw score is first aligned to
one unit, expected effective completions; every plan then adds its own linear term of that value alone, so that each
score is an account that closes, and what a plan spends and brings is known to the exposure.

Read in this order:

| module | holds |
| --- | --- |
| `columns`, `targeting`, `plans` | candidates as columns; who a plan is for; the plan file |
| `tallies`, `aligners`, `fitting`, `alignment` | outcomes against scores, exactly mergeable; from a score to a value |
| `anchors` | effective completion, the unit, and an audit of what could be one |
| `scoring`, `kernels`, `slots` | the linear boost, its guards, the best K; the same compiled; hard rules on places |
| `snapshot`, `blender` | all that a ranking depends on, as one file; the ranking |
| `attribution`, `returns`, `cells` | what a plan costs and brings; advice; books that accounts are read from |
| `solving`, `control` | targets to prices, offline by the dual and online by feedback |
| `legacy`, `migration` | another system's boosts, and the plans that keep their shares |
| `estimators`, `experiments` | what outcomes under another policy would be; A/B read-outs |
| `logs`, `gathering`, `integrations`, `replay` | logs of any size on DuckDB or Spark; logged requests ranked again |
| `journal`, `events`, `wire`, `service`, … | the service, its log, its nearline loop and console |
| `settings`, `jobs`, `fit_job`, `attribute_job`, `plan_jobs`, `pages`, `cli` | the verbs of `noria blending` |
| `world`, `data`, `arms`, `proof`, `bench`, `simulate` | the paper's claims, tested; logs to try things on |

Importing this package is light; a name below brings its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.blending.alignment import Alignment
    from noria.blending.anchors import EffectiveCompletion
    from noria.blending.attribution import Requests, displace, shapley
    from noria.blending.blender import Blender, Ranked
    from noria.blending.cells import accounts
    from noria.blending.columns import Candidates, Coded, Listed
    from noria.blending.control import Gains, PidState, pid_step
    from noria.blending.estimators import off_policy
    from noria.blending.fitting import FitConfig, fit_alignment
    from noria.blending.legacy import read_legacy
    from noria.blending.migration import migrate
    from noria.blending.plans import Plan, Plans, load_plans
    from noria.blending.replay import CandidateLog, read_candidates
    from noria.blending.returns import plan_returns
    from noria.blending.snapshot import Setting, Snapshot
    from noria.blending.solving import Goal, frontier, solve
    from noria.blending.tallies import Tallies

_HOMES = {
    "Alignment": "alignment",
    "Blender": "blender",
    "CandidateLog": "replay",
    "Candidates": "columns",
    "Coded": "columns",
    "EffectiveCompletion": "anchors",
    "FitConfig": "fitting",
    "Gains": "control",
    "Goal": "solving",
    "Listed": "columns",
    "PidState": "control",
    "Plan": "plans",
    "Plans": "plans",
    "Ranked": "blender",
    "Requests": "attribution",
    "Setting": "snapshot",
    "Snapshot": "snapshot",
    "Tallies": "tallies",
    "accounts": "cells",
    "displace": "attribution",
    "fit_alignment": "fitting",
    "frontier": "solving",
    "load_plans": "plans",
    "migrate": "migration",
    "off_policy": "estimators",
    "pid_step": "control",
    "plan_returns": "returns",
    "read_candidates": "replay",
    "read_legacy": "legacy",
    "shapley": "attribution",
    "solve": "solving",
}

__all__ = [
    "Alignment",
    "Blender",
    "CandidateLog",
    "Candidates",
    "Coded",
    "EffectiveCompletion",
    "FitConfig",
    "Gains",
    "Goal",
    "Listed",
    "PidState",
    "Plan",
    "Plans",
    "Ranked",
    "Requests",
    "Setting",
    "Snapshot",
    "Tallies",
    "accounts",
    "displace",
    "fit_alignment",
    "frontier",
    "load_plans",
    "migrate",
    "off_policy",
    "pid_step",
    "plan_returns",
    "read_candidates",
    "read_legacy",
    "shapley",
    "solve",
]

__getattr__, __dir__ = lazily(__name__, _HOMES)
