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
| `noria.core.experiments.off_policy`, `.reading` | outcomes under another policy; A/B tests |
| `pricing.solving`, `.control` | targets to prices, offline by the dual and online by feedback |
| `migration.legacy`, `.migrate` | another system's boosts, and the plans that keep their shares |
| `logs`, `integrations` | logs of any size on DuckDB or Spark; logged requests ranked again |
| `service`, `.wire`, `.journal`, `.loop` | the service with its console; its formats; its log; its learning |
| `world` | a feed whose truth is known, its history, and logs to try things on |
| `verbs`, `proof` | a file a verb of `noria blending`; the paper's claims, tested, and the benchmarks |

Importing this package is light; a name below brings its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.core.lazy import lazily

if TYPE_CHECKING:
    from noria.blending.accounting.attribution import (
        Requests as Requests,
        displace as displace,
        shapley as shapley,
    )
    from noria.blending.accounting.cells import accounts as accounts
    from noria.blending.accounting.returns import plan_returns as plan_returns
    from noria.blending.alignment.alignment import Alignment as Alignment
    from noria.blending.alignment.anchors import EffectiveCompletion as EffectiveCompletion
    from noria.blending.alignment.config import FitConfig as FitConfig
    from noria.blending.alignment.fitting import fit_alignment as fit_alignment
    from noria.blending.alignment.tallies import Tallies as Tallies
    from noria.blending.blender import Blender as Blender, RankedList as RankedList
    from noria.blending.columns import (
        Candidates as Candidates,
        NameColumn as NameColumn,
        NameLists as NameLists,
    )
    from noria.blending.logs.candidates import (
        CandidateLog as CandidateLog,
        read_candidates as read_candidates,
    )
    from noria.blending.migration.legacy import read_legacy as read_legacy
    from noria.blending.migration.migrate import migrate as migrate
    from noria.blending.plans.plans import Plan as Plan, Plans as Plans, load_plans as load_plans
    from noria.blending.pricing.control import Gains as Gains, PidState as PidState, pid_step as pid_step
    from noria.blending.pricing.solving import Goal as Goal, frontier as frontier, solve as solve
    from noria.blending.snapshot import Setting as Setting, Snapshot as Snapshot
    from noria.core.experiments.off_policy import off_policy as off_policy

__getattr__, __dir__, __all__ = lazily(__name__)
