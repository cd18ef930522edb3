"""The claims of DDA-Thinker (arXiv 2604.25477) in a world of pictures with exact answers.

A planner that sees pixels starts from noisy demonstrations and is trained by GRPO over a frozen editor with planted
quirks; arms differ in the reward. Settings are searched on seed 0; the seeds that are judged start at 1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from noria.core.proofs.arms import Arm
from noria.editing.proof.arms import ARMS, CHOSEN, QUICK, UNIT, Scale
from noria.editing.proof.measures import MEASURES
from noria.editing.proof.running import run_arm, run_filter
from noria.editing.proof.tuning import TRIES, TUNING_SEEDS, tune

if TYPE_CHECKING:
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

SCALES = {
    "quick": Scale(steps=24, pool=120, tests=72, every=8),
    "full": Scale(steps=48, tests=144, every=8),
}
SEEDS = {"quick": [1, 2, 3], "full": [1, 2, 3, 4, 5]}
SOURCE = "arXiv 2604.25477"
Results = Mapping[str, list[dict[str, Any]]]
"""Results of arms by name, one for each seed."""

CLAIMS: dict[str, tuple[str, str, str, str]] = {
    "blind-spot": (
        "split",
        "visual only",
        "blind",
        "Both rewards leave fewer right images of wrong plans than the picture's reward alone (blind spot)",
    ),
    "executability": (
        "split",
        "cognitive only",
        "gap",
        "Both rewards leave fewer wrong images of right plans than the plan's reward alone (executability gap)",
    ),
    "both-visual": (
        "split",
        "visual only",
        "strict",
        "Both rewards reach more than the picture's reward alone",
    ),
    "both-cognitive": (
        "split",
        "cognitive only",
        "strict",
        "Both rewards reach more than the plan's reward alone",
    ),
    "trained": ("split", "SFT", "strict", "Training over the frozen editor improves on its start"),
    "renders": ("split", "sum", "renders", "Split groups reach what the sum reaches with fewer renders"),
    "split-sum": ("split", "sum", "strict", "At equal rollouts split groups reach more than the sum"),
    "noisy-split": (
        "split, noisy visual",
        "sum, noisy visual",
        "strict",
        "With a noisy visual judge split groups reach more than the sum",
    ),
    "noisy-gdpo": (
        "gdpo, noisy visual",
        "sum, noisy visual",
        "strict",
        "With a noisy visual judge GDPO reaches more than the sum",
    ),
    "grounded": (
        "split",
        "split, ungrounded",
        "strict",
        "Checklists from the reference beat those without it",
    ),
    "scalar": (
        "checklist",
        "scalar judge",
        "loss",
        "Under judge noise a checklist loses less strict accuracy than a scalar judge",
    ),
    "filter": (
        "split",
        "split, no filter",
        "collapsed",
        "The filter by difficulty raises the two families that the start solves least",
    ),
}
"""By id: the arm that a claim is about, the arm that it beats, the measure, and its words."""


def prove(context: ProofContext) -> Evidence:
    """Train and measure all arms and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions
    from noria.editing.proof.checking import checks
    from noria.editing.proof.figures import figures

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + s for s in context.seeds] if context.seeds else SEEDS[context.scale]
    arms = list(ARMS) if context.scale == "full" else list(QUICK)
    chosen: Mapping[str, Mapping[str, Any]] = CHOSEN
    searched: list[list[Any]] = []
    if context.scale == "full":
        chosen, searched = tune(context, SCALES["quick"])
    kept = _kept(context, scale, seeds)
    table = _trained(context, scale, arms, kept, chosen)
    return Evidence(
        system="editing",
        claims=claims(table, chosen),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "transformers"),
        figures=figures(table, searched),
        notes=notes(table, kept),
        checks=checks(table),
        config=asdict(scale)
        | {"seeds": seeds, "arms": {n: asdict(ARMS[n]) | {"chosen": settings(n, chosen)} for n in arms}},
    )


def settings(arm: str, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The free settings of an arm: its own, or those of the arm that it is a variant of."""
    return dict(chosen.get(ARMS[arm].tuned_as or arm, {}))


def _kept(context: ProofContext, scale: Scale, seeds: list[int]) -> dict[int, dict[str, Any]]:
    """What the filter by difficulty keeps, by seed."""
    jobs = {f"filter, seed {seed}": (seed, asdict(scale)) for seed in seeds}
    return dict(zip(seeds, context.map(run_filter, jobs, label="difficulty"), strict=True))


def _trained(
    context: ProofContext,
    scale: Scale,
    arms: list[str],
    kept: Mapping[int, dict[str, Any]],
    chosen: Mapping[str, Mapping[str, Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Results of all arms on all seeds."""
    whole = context.scale == "full"
    jobs = {
        f"{arm}, seed {seed}": (
            arm, seed, settings(arm, chosen), asdict(scale), one["kept"], whole,
        )
        for arm in arms
        for seed, one in kept.items()
    }  # fmt: skip
    results = context.map(run_arm, jobs, label="arms")
    return {arm: results[n * len(kept) : (n + 1) * len(kept)] for n, arm in enumerate(arms)}


def claims(table: Results, chosen: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """The claims whose arms are in `table`."""
    from noria.core.proofs.proof import Claim

    found = []
    for name, (subject, baseline, measure, statement) in CLAIMS.items():
        values = MEASURES[measure].values(table, subject, baseline)
        if values is None:
            continue
        found.append(
            Claim(
                id=name,
                statement=statement,
                metric=MEASURES[measure].words,
                better=MEASURES[measure].better,
                comparison=MEASURES[measure].comparison,
                subject=subject,
                baseline=baseline,
                arms=dict(zip((subject, baseline), values, strict=True)),
                source=SOURCE,
                paid={side: _paid(side, table, chosen) for side in (subject, baseline)},
            )
        )
    return found


def _paid(side: str, table: Results, chosen: Mapping[str, Mapping[str, Any]]) -> Arm:
    """What an arm was paid and how it was tuned; a variant has the settings of the arm that it varies."""
    arm = {"checklist": "checklist, noise 0.3", "scalar judge": "scalar, noise 0.3"}.get(side, side)
    spent = statistics.fmean(result["rollouts"] for result in table[arm])
    if ARMS[arm].rule is None:
        return Arm(side, UNIT, 0)
    return Arm(side, UNIT, spent, TRIES, TUNING_SEEDS, settings(arm, chosen))


def notes(table: Results, kept: Mapping[int, dict[str, Any]]) -> list[str]:
    """What a reader should know beside the claims."""
    shares = [len(one["kept"]) / len(one["strict"]) for one in kept.values()]
    found = [
        "The editor's quirks are planted, and demonstrations fall for them on purpose: that a quirk can do what it is "
        "made for is a check. The claims are about what training makes of it.",
        "The scalar judge and the checklist without a reference are scripted.",
        f"The filter kept {statistics.fmean(shares):.0%} of the tasks; its own rollouts "
        f"({next(iter(kept.values()))['rollouts']:,} a seed) are paid once for all arms.",
        "Renders are calls of the editor, without a cache; an output without a plan is not rendered.",
    ]
    if "split" in table and "sum" in table:
        split, whole = (statistics.fmean(r["renders"] for r in table[arm]) for arm in ("split", "sum"))
        found.append(f"Renders of a training: split {split:,.0f}, sum {whole:,.0f}.")
    return found
