"""Traffic allocation where every boost is priced and accounted for (Uniboost, arXiv 2605.26424).

At the blending stage one ranked list serves many business goals, each a plan that edits the score. Where plans
multiply, they depend on each other, inflate, and nobody can say what one costs. Here a raw score is first aligned to
one unit, expected effective completions; every plan then adds its own linear term of that value alone, so that each
score is an account that closes, and what a plan spends and brings is known to the exposure.

Read in this order:

| room | module: what it holds |
| --- | --- |
| top | `columns`: candidates as columns; `compiled`, `kernels`: hot loops in Numba |
| `alignment` | y = α x: `tallies`: outcomes against scores, exactly mergeable; `aligners`, `curves`: the kinds and their fits; `config`, `fitting`, `diagnosis`: which kind, on which exposures; `alignment`: the fitted values by key; `anchors`: the effective completion |
| `boosting` | s = 1 (w y + b), r = y + Σ s: `scoring`: the linear boost, its guards, the best K; `slots`: rules on places |
| `plans` | `plans`: the plan file; `targeting`, `matching`: who a plan is for, read and evaluated |
| top | `snapshot`: all that a ranking depends on, as one file; `blender`: the ranking |
| `accounting` | `attribution`: spend, regret and its bound, lift, Shapley values; `returns`: gain over regret, and advice; `cells`: books that accounts are read from; `estimators`, `experiments`: off-policy estimates, A/B tests |
| `pricing` | `solving`: targets to prices by the dual; `control`: the same online by feedback |
| `migration` | `legacy`: another system's boosts; `migrate`: the plans that keep their shares |
| `logs` | `schema`: columns; `gathering`: logs to tallies and books; `replay`: logged requests ranked again; `arrow` |
| `integrations` | logs of any size on `duckdb` or `spark` |
| `service` | `service`: endpoints; `process`: start; `config`; `wire`, `streams`, `answers`: what goes over HTTP; `publishing`: what serves; `whatif`, `console`; `companion` |
| `service.journal` | the log: frames on the disk, their `events`, `exporting` |
| `service.loop` | the nearline loop: `learning` from the log, `nearline`: what it proposes |
| `world` | `world`: a feed whose truth is known; `history`: its outcomes, aligned; `simulate`: logs to try things on |
| `verbs` | a file a verb of `noria blending` |
| `proof` | `claims`, `arms`, `films`, `bandit`: the paper's claims, tested; `bench` |

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
    from noria.blending.blender import Blender, Ranked
    from noria.blending.columns import Candidates, Coded, Listed
    from noria.blending.logs.replay import CandidateLog, read_candidates
    from noria.blending.migration.legacy import read_legacy
    from noria.blending.migration.migrate import migrate
    from noria.blending.plans.plans import Plan, Plans, load_plans
    from noria.blending.pricing.control import Gains, PidState, pid_step
    from noria.blending.pricing.solving import Goal, frontier, solve
    from noria.blending.snapshot import Setting, Snapshot

_HOMES = {
    "Alignment": "alignment.alignment",
    "Blender": "blender",
    "CandidateLog": "logs.replay",
    "Candidates": "columns",
    "Coded": "columns",
    "EffectiveCompletion": "alignment.anchors",
    "FitConfig": "alignment.config",
    "Gains": "pricing.control",
    "Goal": "pricing.solving",
    "Listed": "columns",
    "PidState": "pricing.control",
    "Plan": "plans.plans",
    "Plans": "plans.plans",
    "Ranked": "blender",
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
    "read_candidates": "logs.replay",
    "read_legacy": "migration.legacy",
    "shapley": "accounting.attribution",
    "solve": "pricing.solving",
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
