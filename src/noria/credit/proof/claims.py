"""The claims of FlowTracer (arXiv 2606.10646) at a scale that fits a laptop.

A small model that reasons in steps writes solutions of which it is known what leads to the answer. Scores are tested by
masking, as in the paper's table 2, and by whether they separate tokens that lead to the answer from a dead branch;
policies are trained by GRPO with every credit and control.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from noria.core.proofs.arms import best_candidate
from noria.core.proofs.proof import smollm2
from noria.credit.proof.arms import (
    RL_ARMS,
    SCORES,
    Scale,
    run_audit,
    run_even,
    run_policy,
    run_real_model,
    run_separation,
    run_start,
)
from noria.credit.proof.figures import figures, notes, place
from noria.credit.proof.tuning import (
    POLICY_SPACES,
    SCORE_SETTINGS,
    SCORE_SPACES,
    SEARCHED,
    TUNING_SEEDS,
    tries_of,
)

if TYPE_CHECKING:
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext

SCALES = {
    "quick": Scale(
        questions=48,
        scores=("flow", "flow, all layers", "answer attention", "rollout", "FAI", "entropy"),
        tasks=("chain_sum",),
        rl_steps=5,
        rl_tuning=0,
        rl_arms=("GRPO", "flow"),
        rl_questions=64,
        real=0,
    ),
    "full": Scale(
        questions=160,
        scores=tuple(SCORES),
        tasks=("chain_sum", "leg_counting"),
        rl_steps=40,
        rl_tuning=10,
        rl_arms=tuple(RL_ARMS),
        rl_questions=256,
        real=24,
    ),
}
SEEDS = {"quick": [21, 22, 23], "full": list(range(21, 27))}
"""Seeds that claims are judged on; earlier ones chose the start of the policies and its rate."""
EXACT = 1e-5
"""Largest distance from 1 of the mass that arrives."""
EVEN = 1e-2
"""Largest distance of two policies that should be one, as a share of the way that they went."""
SOURCE = "arXiv 2606.10646"
FAR = 0.164
"""The paper's gap between masking the top fifth and masking at random: 45.9 % − 29.5 % of answers change."""
GYM_SCORES = ("flow", "answer attention", "rollout", "FAI", "entropy")
"""Scores tested on families of reasoning-gym, whose dead branches are not known."""
REAL_SCORES = ("flow", "answer attention")
POINTWISE = (
    "random",
    "rollout",
    "answer attention",
    "FAI",
    "entropy",
    "WAAD",
    "attention flow",
    "OAR-G",
    "OAR-P",
)

DEAD_BRANCH = "Flow tells what leads to the answer from a dead branch"
ADDITIONS = (
    (
        "flow",
        "flow, answer tokens",
        "Rows that predict the answer are better ends of flow than the answer's own rows",
    ),
    (
        "flow, emission edge",
        "flow",
        "An edge from the position that wrote a token makes flow tell them apart better",
    ),
    ("flow, value norms", "flow", "Weighing heads by what they write makes flow tell them apart better"),
)
"""Additions of ours to the paper: subject, baseline, statement."""

Results: TypeAlias = list[dict[str, Any]]
"""The results of an arm, one a seed."""


def prove(context: ProofContext) -> Evidence:
    """Test scores on a reasoner's solutions, train policies, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [21 + seed for seed in context.seeds] if context.seeds else SEEDS[context.scale]
    if context.scale == "full":
        _check_search(context, scale)
    by_task = _audits(context, scale, seeds)
    chosen = _tuned_policies(context, scale)
    trained = _policies(context, scale, seeds, chosen)
    (apart,) = context.map(run_even, {"even credit": (TUNING_SEEDS[0], 3)}, label="even credit")
    real: Results = []
    if scale.real and smollm2() and (context.data / "gsm8k" / "train.jsonl").exists():
        sets = {
            f"SmolLM2, set {n}": (n, scale.real, list(REAL_SCORES), str(context.data))
            for n in range(len(seeds))
        }
        real = context.map(run_real_model, sets, label="SmolLM2 on GSM8K")
    judged = claims(by_task)
    if real:
        judged += mask_claims(real, "smollm2-", "SmolLM2-135M on GSM8K")
    if trained:
        judged += rl_claims(trained, paid_policies(scale, chosen), compared=context.scale == "full")
    return Evidence(
        system="credit",
        claims=judged,
        checks=checks(by_task, real, apart),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "transformers"),
        figures=figures(by_task, trained, real),
        notes=notes(context.scale, scale, by_task, trained, real),
        config=asdict(scale) | {"seeds": seeds, "policies": chosen},
    )


def _audits(context: ProofContext, scale: Scale, seeds: Sequence[int]) -> dict[str, Results]:
    names = {"chains": list(scale.scores)}
    names |= {task: [name for name in scale.scores if name in GYM_SCORES] for task in scale.tasks}
    jobs = {
        f"{task}, seed {seed}": (seed, task, scale.questions, scores)
        for task, scores in names.items()
        for seed in seeds
    }
    results = iter(context.map(run_audit, jobs, label="scores"))
    return {task: [next(results) for _ in seeds] for task in names}


def _check_search(context: ProofContext, scale: Scale) -> None:
    """Search the settings of the scores again, and say where they are not those of the table."""
    tried = {name: tries_of(SCORE_SPACES, name) for name in scale.scores if name in SCORE_SPACES}
    jobs = {
        f"{name}, seed {seed}": (seed, SEARCHED, name, settings)
        for name, settings in tried.items()
        for seed in TUNING_SEEDS
    }
    results = iter(context.map(run_separation, jobs, label="search over scores"))
    for name, settings in tried.items():
        by_seed = [next(results) for _ in TUNING_SEEDS]
        best = settings[best_candidate(list(zip(*by_seed, strict=True)), "higher")]
        if best != SCORE_SETTINGS[name]:
            context.progress.say(f"{name}: the search now finds {best}, the table has {SCORE_SETTINGS[name]}")


def _tuned_policies(context: ProofContext, scale: Scale) -> dict[str, dict[str, Any]]:
    """Settings of each policy: the best of the six that it tried, or the usual ones where nothing is searched."""
    tried = {arm: tries_of(POLICY_SPACES, arm) for arm in scale.rl_arms}
    if not scale.rl_tuning:
        return {arm: settings[0] for arm, settings in tried.items()}
    jobs = {
        f"{arm}, try {number + 1}, seed {seed}": (arm, seed, scale.rl_tuning, 0, settings)
        for arm, each in tried.items()
        for number, settings in enumerate(each)
        for seed in TUNING_SEEDS
    }
    results = iter(context.map(run_policy, jobs, label="search over policies"))
    areas = {
        arm: [[next(results)["area"] for _ in TUNING_SEEDS] for _ in each] for arm, each in tried.items()
    }
    return {arm: tried[arm][best_candidate(areas[arm], "higher")] for arm in tried}


def _policies(
    context: ProofContext, scale: Scale, seeds: Sequence[int], chosen: Mapping[str, Mapping[str, Any]]
) -> dict[str, Results]:
    if not scale.rl_steps:
        return {}
    # Seed by seed, so that arms that are compared run beside each other.
    jobs = {
        f"{arm}, seed {seed}": (arm, seed, scale.rl_steps, scale.rl_questions, chosen[arm])
        for seed in seeds
        for arm in scale.rl_arms
    }
    (start,) = context.map(run_start, {"start": (scale.rl_questions,)}, label="the policy's start")
    logs = context.map(run_policy, jobs, label="policies")
    trained: dict[str, Results] = {}
    for (arm, *_), log in zip(jobs.values(), logs, strict=True):
        trained.setdefault(arm, []).append(log | {"before": start["accuracy"]})
    return trained


def claims(by_task: dict[str, Results]) -> list[Claim]:
    """The claims about scores whose arms were run."""
    from noria.core.proofs.proof import Claim

    masked = [
        claim
        for task, results in by_task.items()
        for claim in mask_claims(results, "" if task == "chains" else f"{task}-", place(task))
    ]
    chains = by_task["chains"]
    areas = {name: [result["areas"][name]["dead"] for result in chains] for name in chains[0]["areas"]}
    separated = [
        Claim(
            id=identity,
            statement=statement,
            metric="area under the curve, relevant against dead-branch numbers of a chain's solution",
            better="higher",
            arms=areas,
            subject=subject,
            baseline=baseline,
            source=source,
            paid={name: _paid_score(name, chains) for name in (subject, baseline)},
        )
        for identity, statement, subject, baseline, source in _separations()
        if {subject, baseline} <= areas.keys()
    ]
    return [*masked, *separated]


def checks(by_task: dict[str, Results], real: Results, apart: float) -> list[Check]:
    """What must hold: the flow's mass is kept, and AdamW takes even credit of any size for even credit."""
    from noria.core.proofs.proof import Check

    lost = max(
        figures["conservation"]
        for results in [*by_task.values(), real]
        for result in results
        for figures in result["flow"].values()
    )
    return [
        Check(
            "conservation",
            "What leaves the question arrives at the answer, in single precision",
            lost <= EXACT,
            f"largest |mass at the answer − 1| of any response {lost:.1e}",
            SOURCE,
        ),
        Check(
            "uniform-is-grpo",
            "Even credit of 1.2 for all tokens is GRPO again under AdamW, which divides a gradient by its own size",
            apart <= EVEN,
            f"after three steps the two policies are {apart:.1e} of the way apart",
            "ours",
        ),
    ]


def _paid_score(name: str, results: Results) -> Arm:
    """What a score was paid, the responses that it scored, and how it was tuned."""
    from noria.core.proofs.arms import Arm

    tries = len(tries_of(SCORE_SPACES, name))
    return Arm(
        name,
        "responses scored",
        results[0]["rows"],
        tries=tries,
        tuning_seeds=TUNING_SEEDS if tries else (),
        settings={**SCORES.get(name, {}), **SCORE_SETTINGS.get(name, {})},
    )


def paid_policies(scale: Scale, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Arm]:
    """What each policy was paid, the rollouts that it learned from, and how it was tuned."""
    from noria.core.proofs.arms import Arm

    tries = {arm: len(tries_of(POLICY_SPACES, arm)) if scale.rl_tuning else 0 for arm in chosen}
    arms = {
        arm: Arm(
            arm,
            "rollouts",
            scale.rl_steps * 64,
            tries=tries[arm],
            tuning_seeds=TUNING_SEEDS if tries[arm] else (),
            settings=settings,
        )
        for arm, settings in chosen.items()
    }
    return arms | {"start": Arm("start", "rollouts", 0)}


def _separations() -> list[tuple[str, str, str, str, str]]:
    """Claims that one score separates better than another: id, statement, subject, baseline, source."""
    rivals = [
        (f"dead-branch-over-{_slug(name)}", name, f"{DEAD_BRANCH} better than {_in_words(name)}")
        for name in POINTWISE
    ]
    rivals += [
        (
            f"middle-over-{_slug(name)}",
            f"flow, {name}",
            f"Flow through the middle layers tells them apart better than through {name}",
        )
        for name in ("all layers", "early layers", "late layers")
    ]
    ours = [
        (_slug(f"{subject} over {baseline}"), statement, subject, baseline, "ours")
        for subject, baseline, statement in ADDITIONS
    ]
    return [(identity, statement, "flow", name, SOURCE) for identity, name, statement in rivals] + ours


def mask_claims(results: Results, prefix: str, where: str) -> list[Claim]:
    """The paper's causal table: the top fifth by flow far above random, random above the bottom fifth."""
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim

    top, random, bottom = "top fifth by flow", "random fifth", "bottom fifth by flow"
    claim = partial(
        Claim,
        metric=f"share of answers that change when a fifth of the reasoning is masked, {where}",
        better="higher",
        arms={
            top: [result["rates"]["flow"]["top"]["changed"] for result in results],
            random: [result["rates"]["random"]["top"]["changed"] for result in results],
            bottom: [result["rates"]["flow"]["bottom"]["changed"] for result in results],
        },
        source=SOURCE,
        paid={
            name: Arm(name, "masked tokens a response", round(results[0]["tokens"] / 5, 1))
            for name in (top, random, bottom)
        },
    )
    return [
        claim(
            id=f"{prefix}mask-top-over-random",
            statement=f"Masking the top fifth by flow changes far more answers than masking at random ({where})",
            subject=top,
            baseline=random,
            margin=FAR,
        ),
        claim(
            id=f"{prefix}mask-random-over-bottom",
            statement=f"Masking at random changes more answers than masking the bottom fifth by flow ({where})",
            subject=random,
            baseline=bottom,
        ),
    ]


def rl_claims(trained: dict[str, Results], paid: Mapping[str, Arm], *, compared: bool = True) -> list[Claim]:
    """The claims that GRPO learns and, where credits are `compared`, that flow credit beats every other.

    In a handful of steps credits differ by a rollout or two, and seeds that agree on that by chance have no spread.
    """
    from noria.core.proofs.proof import Claim

    ends = {arm: [log["after"] for log in logs] for arm, logs in trained.items()}
    areas = {arm: [log["area"] for log in logs] for arm, logs in trained.items()}
    ends_higher = partial(
        Claim, metric="accuracy after training (avg@4), questions held out", better="higher", paid=paid
    )
    earns_more = partial(Claim, metric="mean reward over training", better="higher", arms=areas, paid=paid)
    learns = ends_higher(
        id="rl-learns",
        statement="GRPO itself learns something here, without which its credits could not differ",
        subject="GRPO",
        baseline="start",
        arms={"GRPO": ends["GRPO"], "start": [log["before"] for log in trained["GRPO"]]},
        source="ours",
    )
    if not compared:
        return [learns]
    over_grpo = ends_higher(
        id="rl-ends-over-grpo",
        statement="GRPO with flow credit ends better than with even credit",
        subject="flow",
        baseline="GRPO",
        arms=ends,
        source=SOURCE,
    )
    result = [learns, over_grpo]
    if "flow, bottom 40 %" in trained:
        result.append(
            earns_more(
                id="rl-grpo-over-flow-bottom-40",
                statement="GRPO with even credit earns more reward while it learns than with the flow's lowest 40 %",
                subject="GRPO",
                baseline="flow, bottom 40 %",
                source=SOURCE,
            )
        )
    result += [
        earns_more(
            id=f"rl-flow-over-{_slug(arm)}",
            statement=f"GRPO with flow credit earns more reward while it learns than with {_in_words(arm)}",
            subject="flow",
            baseline=arm,
            source=SOURCE if arm in ("GRPO", "flow, bottom 40 %") else "ours",
        )
        for arm in trained
        if arm not in ("flow", "flow, bottom 40 %")  # the latter would follow from two others
    ]
    return result


def _in_words(name: str) -> str:
    return {
        "answer attention": "the answer's attention",
        "rollout": "attention rollout",
        "FAI": "future attention",
        "GRPO": "even credit",
        "random 40 %": "a random 40 %",
        "random": "chance",
    }.get(name, name)


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
