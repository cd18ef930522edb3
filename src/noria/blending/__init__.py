"""Traffic allocation where every boost is priced and accounted for (Uniboost, arXiv 2605.26424).

At the blending stage one ranked list serves many business goals, each a plan that edits the score. Where plans
multiply, they depend on each other, inflate, and nobody can say what one costs. Here a raw score is first aligned to
one unit, expected effective completions; every plan then adds its own linear term of that value alone, so that each
score is an account that closes, and what a plan spends and brings is known to the exposure.

Read in this order:

| module | holds |
| --- | --- |
| `columns`, `compiled`, `kernels` | candidates as columns; hot loops in Numba, and whether they are there |
| `alignment.tallies` | outcomes against scores, exactly mergeable |
| `alignment.aligners`, `.curves` | kinds of aligners, y = α x first; each fitted |
| `alignment.fitting`, `.config`, `.diagnosis` | which kind, on which exposures, and what stands in |
| `alignment.alignment`, `.anchors` | values by key; the effective completion, and an audit of what could be one |
| `boosting.scoring`, `.slots` | s = 1 (w y + b), r = y + Σ s, guards, the best K; rules on places |
| `plans.plans`, `.targeting`, `.matching` | the plan file; who a plan is for, read and evaluated |
| `snapshot`, `blender` | all that a ranking depends on, as one file; the ranking |
| `accounting.attribution`, `.returns` | spend, regret and its bound, lift, Shapley values; gain over regret |
| `accounting.cells` | books that accounts are read from |
| `accounting.estimators`, `.experiments` | outcomes under another policy; A/B tests |
| `pricing.solving`, `.control` | targets to prices, offline by the dual and online by feedback |
| `migration.legacy`, `.migrate` | another system's boosts, and the plans that keep their shares |
| `logs`, `integrations` | logs of any size on DuckDB or Spark; logged requests ranked again |
| `service`, `.journal`, `.loop` | the service with its console; its log; the loop that learns from it |
| `world` | a feed whose truth is known, its history, and logs to try things on |
| `verbs`, `proof` | a file a verb of `noria blending`; the paper's claims, tested, and the benchmarks |

Importing this package is light; a name below brings its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.blending.accounting.attribution import Requests, displace, shapley
    from noria.blending.accounting.cells import accounts
    from noria.blending.accounting.estimators import off_policy
    from noria.blending.accounting.returns import plan_returns
    from noria.blending.alignment.alignment import Alignment
    from noria.blending.alignment.anchors import EffectiveCompletion
    from noria.blending.alignment.config import FitConfig
    from noria.blending.alignment.fitting import fit_alignment
    from noria.blending.alignment.tallies import Tallies
    from noria.blending.blender import Blender, RankedList
    from noria.blending.columns import Candidates, NameColumn, NameLists
    from noria.blending.logs.candidates import CandidateLog, read_candidates
    from noria.blending.migration.legacy import read_legacy
    from noria.blending.migration.migrate import migrate
    from noria.blending.plans.plans import Plan, Plans, load_plans
    from noria.blending.pricing.control import Gains, PidState, pid_step
    from noria.blending.pricing.solving import Goal, frontier, solve
    from noria.blending.snapshot import Setting, Snapshot

_HOMES = {
    "Alignment": "alignment.alignment",
    "Blender": "blender",
    "CandidateLog": "logs.candidates",
    "Candidates": "columns",
    "NameColumn": "columns",
    "EffectiveCompletion": "alignment.anchors",
    "FitConfig": "alignment.config",
    "Gains": "pricing.control",
    "Goal": "pricing.solving",
    "NameLists": "columns",
    "PidState": "pricing.control",
    "Plan": "plans.plans",
    "Plans": "plans.plans",
    "RankedList": "blender",
    "Requests": "accounting.attribution",
    "Setting": "snapshot",
    "Snapshot": "snapshot",
    "Tallies": "alignment.tallies",
    "accounts": "accounting.cells",
    "displace": "accounting.attribution",
    "fit_alignment": "alignment.fitting",
    "frontier": "pricing.solving",
    "load_plans": "plans.plans",
    "migrate": "migration.migrate",
    "off_policy": "accounting.estimators",
    "pid_step": "pricing.control",
    "plan_returns": "accounting.returns",
    "read_candidates": "logs.candidates",
    "read_legacy": "migration.legacy",
    "shapley": "accounting.attribution",
    "solve": "pricing.solving",
}

__all__ = [
    "Alignment",
    "Blender",
    "CandidateLog",
    "Candidates",
    "EffectiveCompletion",
    "FitConfig",
    "Gains",
    "Goal",
    "NameColumn",
    "NameLists",
    "PidState",
    "Plan",
    "Plans",
    "RankedList",
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
