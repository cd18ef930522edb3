"""The arms of the proof: scores tested on what a reasoner wrote, and policies trained with every credit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "RL_ARMS",
    "SCORES",
    "Scale",
    "run_audit",
    "run_policy",
    "run_real_model",
    "run_start",
]

SCORES: dict[str, dict[str, Any]] = {
    "flow": {},
    "flow, emission edge": {"emission": 0.25},
    "flow, value norms": {"values": True},
    "flow, all layers": {"layers": "all"},
    "flow, early layers": {"layers": "early"},
    "flow, late layers": {"layers": "late"},
    "flow, answer tokens": {"answer_nodes": "token"},
    "answer attention": {"credit": "attention"},
    "rollout": {"credit": "rollout"},
    "attention flow": {"credit": "attention_flow"},
    "FAI": {"credit": "fai"},
    "FAI, from the next token": {"credit": "fai", "horizon": (1, 100)},
    "WAAD": {"credit": "waad"},
    "entropy": {"credit": "entropy"},
    "OAR-G": {"credit": "oar_g"},
    "OAR-P": {"credit": "oar_p"},
}
"""Scores that are tested: credit by name (`flow` unless it says another) with its settings."""

RL_ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "GRPO": ("none", {}),
    "flow": ("flow", {}),
    "flow, bottom 40 %": ("flow_bottom", {}),
    "flow, mass kept": ("flow_mass", {}),
    "uniform 1.2": ("uniform", {}),
    "random 40 %": ("random", {}),
    "answer attention": ("attention", {}),
    "rollout": ("rollout", {}),
    "attention flow": ("attention_flow", {}),
    "entropy 20 %": ("entropy", {}),
    "WAAD": ("waad", {}),
    "FAI": ("fai", {"horizon": (1, 100)}),
    "FAI and WAAD coupled": ("coupled", {"horizon": (1, 100)}),
    "OAR-G": ("oar_g", {}),
    "KTAE": ("ktae", {}),
}
"""What GRPO is trained with. OAR-P is not: a pass for every token makes its step ten times as long."""


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        questions: tested by masking, for each seed and task.
        scores: which are tested.
        tasks: of reasoning-gym.
        rl_steps: of each policy; 0 trains none.
        rl_arms: what they are trained with.
        rl_questions: that a policy is judged on.
        real: questions for a real model, for each seed; 0 leaves it out.
    """

    questions: int
    scores: tuple[str, ...]
    tasks: tuple[str, ...]
    rl_steps: int
    rl_arms: tuple[str, ...]
    rl_questions: int
    real: int


def run_audit(seed: int, task: str, questions: int, names: list[str]) -> dict[str, Any]:
    """Score solutions that the reasoner that ships writes, mask by each score, and see what scores find.

    Args:
        seed: of the questions and of what is random.
        task: chains, or a family of reasoning-gym.
        questions: how many.
        names: of :data:`SCORES`.

    Returns:
        `rates`: by score and end, how many answers changed and flipped; `flow`: what each flow says of itself; for
        chains `areas`: by score, the area under the curve of relevant against `dead` tokens and against `filler`.
    """
    import torch

    from noria.credit.inspection.masking import mask_test, reasoned
    from noria.credit.proof.reasoner import train_questions
    from noria.credit.responses.rollout import sample
    from noria.credit.tasks.chains import CHAIN_ANSWER
    from noria.credit.tasks.questions import prompt_ids
    from noria.credit.tasks.small import small_model

    torch.use_deterministic_algorithms(True)
    policy, tokenizer = small_model("reasoner")
    asked = train_questions(task, questions, seed=7_000 + seed)
    prompts = [prompt_ids(question, tokenizer) for question in asked]
    eos, pad = [int(tokenizer.eos_token_id)], int(tokenizer.pad_token_id)
    # Drawn, not greedy: the likeliest solution has none of the words that say nothing.
    generator = torch.Generator().manual_seed(seed)
    written = sample(policy, prompts, new=160, generator=generator, eos=eos, pad=pad)
    find = CHAIN_ANSWER if task == "chains" else "hash"
    rows, _ = reasoned(asked, prompts, [r.tokens for r in written], tokenizer, find)
    test = mask_test(policy, tokenizer, rows, _credits(names), find=find, batch_size=64, seed=seed)
    return _outcomes(test) | (_areas(test, tokenizer, seed) if task == "chains" else {})


def _credits(names: list[str]) -> dict[str, Any]:
    from noria.credit.config import named_credit

    found = {}
    for name in names:
        settings = dict(SCORES[name])
        found[name] = named_credit(settings.pop("credit", "flow"), **settings)
    return found


def _outcomes(test: Any) -> dict[str, Any]:
    """Rates by score and end, and what the flow says of itself."""
    rates: dict[str, Any] = {}
    for row in test.rows:
        size = len(row.changed)
        rates.setdefault(row.name, {})[row.end] = {
            "changed": sum(row.changed) / size,
            "flipped": sum(row.flipped) / size,
        }
    told = ("conservation", "fallback", "path_length")
    flow = {
        name: {key: scored.metrics[key] for key in told}
        for name, scored in test.scored.items()
        if "conservation" in scored.metrics
    }
    return {
        "rates": rates,
        "flow": flow,
        "right": test.right,
        "rows": len(test.reasoned),
        "tokens": test.tokens,
    }


def _areas(test: Any, tokenizer: Any, seed: int) -> dict[str, Any]:
    """For chains: how well each score tells tokens that lead to the answer from a dead branch, and from fillers."""
    import torch

    from noria.credit.inspection.masking import area, reasoning_of, traces_of_rows

    reasoning = reasoning_of(test.reasoned, traces_of_rows(test.reasoned))
    masks = _kinds(test.reasoned, reasoning.shape, tokenizer)
    scores = {name: scored.scores for name, scored in test.scored.items()}
    scores["random"] = torch.rand(reasoning.shape, generator=torch.Generator().manual_seed(seed))
    found: dict[str, dict[str, float]] = {}
    for name, values in scores.items():
        for kind in ("dead", "filler"):
            areas = area(values, masks["relevant"] & reasoning, masks[kind] & reasoning)
            kept = [value for value in areas if value == value]
            found.setdefault(name, {})[kind] = sum(kept) / len(kept) if kept else float("nan")
    return {"areas": found}


def _kinds(rows: Any, shape: Any, tokenizer: Any) -> dict[str, Any]:
    """Which tokens of solutions of chains lead to the answer, are of the dead branch, and of no meaning."""
    import torch

    from noria.credit.inspection.trace import pieces
    from noria.credit.tasks.chains import labels_of_chain

    masks = {name: torch.zeros(shape, dtype=torch.bool) for name in ("relevant", "dead", "filler")}
    for number, row in enumerate(rows):
        parts = pieces(row.response, tokenizer)
        labels = labels_of_chain("".join(parts), row.question.asked)
        place = 0
        for offset, part in enumerate(parts):
            inside = labels[place : place + len(part)]
            place += len(part)
            for name, mask in masks.items():
                mask[number, len(row.prompt) + offset] = name in inside
    return masks


def run_start(questions: int) -> dict[str, Any]:
    """The accuracy of the model that every policy starts from."""
    from noria.credit.tasks.small import small_model

    return {"accuracy": _judged(*small_model("start"), questions)}


def _judged(model: Any, tokenizer: Any, questions: int) -> float:
    """Accuracy at temperature 1, at which policies are trained, too: the mean of four answers to each question."""
    from noria.credit.proof.reasoner import accuracy, train_questions

    held = train_questions("chains", questions, seed=80_000)
    return sum(accuracy(model, tokenizer, held, temperature=1.0, seed=n) for n in range(4)) / 4


def run_policy(arm: str, seed: int, steps: int, questions: int) -> dict[str, Any]:
    """Train the model that draws mistakes on chains by GRPO with a credit.

    Args:
        arm: of :data:`RL_ARMS`.
        seed: of questions and rollouts, the same for every arm.
        steps: of 8 questions, 8 rollouts each.
        questions: to be judged on, the same for every arm and seed.

    Returns:
        `after`: accuracy; `area`: mean reward over training; `reward`, `entropy`: one value a step;
        `fallback`: mean share of rollouts without credit; seconds of a step.
    """
    import torch

    from noria.core.runs.workers import report
    from noria.credit.proof.reasoner import train_questions
    from noria.credit.tasks.chains import CHAIN_ANSWER
    from noria.credit.tasks.small import small_model
    from noria.credit.training.config import TrainConfig
    from noria.credit.training.trainer import CreditTrainer

    torch.use_deterministic_algorithms(True)
    model, tokenizer = small_model("start")
    name, more = RL_ARMS[arm]
    config = TrainConfig(
        credit=name,
        credit_settings=more,
        answer=CHAIN_ANSWER,
        steps=steps,
        prompts=8,
        group=8,
        max_new_tokens=112,  # the longest solutions have about 95
        lr=1e-4,
        micro_batch=8,  # a group: those without a signal are not even read
        seed=seed,
    )
    trainer = CreditTrainer(model, tokenizer, train_questions("chains", 2048, seed=500 + seed), config)
    log: list[dict[str, float]] = []
    while trainer.step < steps:
        log.append(trainer.advance().figures)
        report(trainer.step, steps, f"reward {log[-1]['reward']:.2f}")
    parts = ("rollout_seconds", "score_seconds", "learn_seconds")
    fallback = [row["credit/fallback"] for row in log if "credit/fallback" in row]
    return {
        "after": _judged(model, tokenizer, questions),
        "area": sum(row["reward"] for row in log) / steps,
        "reward": [row["reward"] for row in log],
        "entropy": [row["entropy"] for row in log],
        "fallback": sum(fallback) / len(fallback) if fallback else 0.0,
        "seconds": sum(row[part] for row in log for part in parts) / steps,
    }


def run_real_model(seed: int, questions: int, names: list[str], data: str) -> dict[str, Any]:
    """Mask worked solutions of GSM8K as SmolLM2-135M reads them.

    Args:
        seed: which questions.
        questions: how many.
        names: of :data:`SCORES`.
        data: the folder of public data.

    Returns:
        As of :func:`run_audit`.
    """
    import torch

    from noria.core.models.loading import open_language_model
    from noria.core.proofs.proof import smollm2
    from noria.credit.inspection.masking import mask_test, reasoned
    from noria.credit.tasks.files import read_questions
    from noria.credit.tasks.questions import prompt_ids

    torch.use_deterministic_algorithms(True)
    file = smollm2()
    assert file is not None
    policy = open_language_model(file)
    everything = read_questions(str(Path(data) / "gsm8k" / "train.jsonl"), number=(seed + 1) * 10 * questions)
    short = [q for q in everything[seed * 10 * questions :] if len(q.solution) < 400][:questions]
    tokenizer = policy.tokenizer
    prompts = [prompt_ids(question, tokenizer) for question in short]
    responses = [list(tokenizer(q.solution, add_special_tokens=False)["input_ids"]) for q in short]
    rows, _ = reasoned(short, prompts, responses, tokenizer, "hash")
    return _outcomes(
        mask_test(policy.model, tokenizer, rows, _credits(names), find="hash", batch_size=8, seed=seed)
    )
