"""The claims of FlowTracer (arXiv 2606.10646) at a scale that fits a laptop.

A small model that reasons in steps writes solutions of which it is known what leads to the answer. Scores are tested by
masking, as in the paper's table 2, and by whether they separate tokens that lead to the answer from a dead branch;
policies are trained by GRPO with every credit and control.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from noria.core.proofs.proof import smollm2
from noria.credit.proof.arms import RL_ARMS, SCORES, Scale, run_audit, run_policy, run_real_model, run_start
from noria.credit.proof.figures import figures, notes, place

if TYPE_CHECKING:
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

__all__ = ["SCALES", "claims", "prove", "rl_claims"]

SCALES = {
    "quick": Scale(
        questions=48,
        scores=("flow", "flow, all layers", "answer attention", "rollout", "FAI", "entropy"),
        tasks=("chain_sum",),
        rl_steps=5,
        rl_arms=("GRPO", "flow"),
        rl_questions=64,
        real=0,
    ),
    "full": Scale(
        questions=160,
        scores=tuple(SCORES),
        tasks=("chain_sum", "leg_counting"),
        rl_steps=40,
        rl_arms=tuple(RL_ARMS),
        rl_questions=256,
        real=24,
    ),
}
SEEDS = {"quick": [1, 2, 3], "full": [1, 2, 3, 4, 5]}
SOURCE = "arXiv 2606.10646"
FAR = 0.164
"""The paper's gap between masking the top fifth and masking at random: 45.9 % − 29.5 % of answers change."""
GYM_SCORES = ("flow", "answer attention", "rollout", "FAI", "entropy")
"""Scores tested on families of reasoning-gym, whose dead branches are not known."""
REAL_SCORES = ("flow", "answer attention")
POINTWISE = (
    "rollout",
    "answer attention",
    "FAI",
    "FAI, from the next token",
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
    seeds = [1 + seed for seed in context.seeds] if context.seeds else SEEDS[context.scale]
    by_task = _audits(context, scale, seeds)
    trained = _policies(context, scale, seeds)
    real: Results = []
    if scale.real and smollm2() and (context.data / "gsm8k" / "train.jsonl").exists():
        sets = {
            f"SmolLM2, set {n}": (n, scale.real, list(REAL_SCORES), str(context.data))
            for n in range(len(seeds))
        }
        real = context.map(run_real_model, sets, label="SmolLM2 on GSM8K")
    judged = claims(by_task, real)
    if real:
        judged += mask_claims(real, "smollm2-", "SmolLM2-135M on GSM8K")
    if trained:
        judged += rl_claims(trained, compared=context.scale == "full")
    return Evidence(
        system="credit",
        claims=judged,
        seconds=time.perf_counter() - began,
        versions=versions("torch", "transformers"),
        figures=figures(by_task, trained, real),
        notes=notes(context.scale, scale, by_task, trained, real),
        config=asdict(scale) | {"seeds": seeds},
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


def _policies(context: ProofContext, scale: Scale, seeds: Sequence[int]) -> dict[str, Results]:
    if not scale.rl_steps:
        return {}
    # Seed by seed, so that arms that are compared run beside each other.
    jobs = {
        f"{arm}, seed {seed}": (arm, seed, scale.rl_steps, scale.rl_questions)
        for seed in seeds
        for arm in scale.rl_arms
    }
    (start,) = context.map(run_start, {"start": (scale.rl_questions,)}, label="the policy's start")
    logs = context.map(run_policy, jobs, label="policies")
    trained: dict[str, Results] = {}
    for (arm, *_), log in zip(jobs.values(), logs, strict=True):
        trained.setdefault(arm, []).append(log | {"before": start["accuracy"]})
    return trained


def claims(by_task: dict[str, Results], real: Sequence[dict[str, Any]] = ()) -> list[Claim]:
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
        )
        for identity, statement, subject, baseline, source in _separations()
        if {subject, baseline} <= areas.keys()
    ]
    errors = [
        max(result["flow"]["flow"]["conservation"] for result in results)
        for results in zip(*by_task.values(), *([real] if real else []), strict=True)
    ]
    conserved = Claim(
        id="conservation",
        statement="What leaves the question arrives at the answer, in single precision",
        metric="largest |mass at the answer − 1| of any response",
        better="lower",
        subject="flow",
        baseline="1e-5",
        arms={"flow": errors, "1e-5": [1e-5] * len(errors)},
        source=SOURCE,
    )
    return [*masked, *separated, conserved]


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


def rl_claims(trained: dict[str, Results], *, compared: bool = True) -> list[Claim]:
    """The claims that GRPO learns and, where credits are `compared`, that flow credit beats every other.

    In a handful of steps credits differ by a rollout or two, and seeds that agree on that by chance have no spread.
    """
    from noria.core.proofs.proof import Claim

    ends = {arm: [log["after"] for log in logs] for arm, logs in trained.items()}
    areas = {arm: [log["area"] for log in logs] for arm, logs in trained.items()}
    ends_higher = partial(
        Claim, metric="accuracy after training (avg@4), questions held out", better="higher"
    )
    earns_more = partial(Claim, metric="mean reward over training", better="higher", arms=areas)
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
        if arm != "flow"
    ]
    return result


def _in_words(name: str) -> str:
    return {
        "answer attention": "the answer's attention",
        "rollout": "attention rollout",
        "FAI": "future attention",
        "FAI, from the next token": "future attention from the next token on",
        "GRPO": "even credit",
        "random 40 %": "a random 40 %",
        "uniform 1.2": "longer steps (uniform 1.2)",
    }.get(name, name)


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
