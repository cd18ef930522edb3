"""The arms of the proof: scores tested on a reasoner's solutions, and policies trained with every credit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.credit.config import MaskSettings
from noria.credit.proof.tuning import SCORE_SETTINGS

if TYPE_CHECKING:
    from noria.credit.config import CreditConfig
    from noria.credit.inspection.masking import MaskTest
    from noria.credit.tasks.questions import Question

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
    "WAAD": {"credit": "waad"},
    "entropy": {"credit": "entropy"},
    "OAR-G": {"credit": "oar_g"},
    "OAR-P": {"credit": "oar_p"},
}
"""Scores that are tested: a named credit, `flow` by default, with its settings."""

RL_ARMS: dict[str, str] = {
    "GRPO": "none",
    "flow": "flow",
    "flow, bottom 40 %": "flow_bottom",
    "random 40 %": "random",
    "answer attention": "attention",
    "rollout": "rollout",
    "attention flow": "attention_flow",
    "entropy 20 %": "entropy",
    "WAAD": "waad",
    "FAI": "fai",
    "FAI and WAAD coupled": "coupled",
    "OAR-G": "oar_g",
    "KTAE": "ktae",
}
"""Credits that policies are trained with. OAR-P is left out: a pass for every token makes a step ten times as long."""

NEAR_HORIZON = (1, 100)
"""Horizon of FAI in trainings: from the next token on, since ten tokens are a whole step of reasoning here."""


@dataclass(frozen=True)
class Scale:
    """The size of a proof.

    Attributes:
        questions: number of questions of a mask test, for each seed and task.
        scores: names of the scores that are tested, from :data:`SCORES`.
        tasks: families of reasoning-gym.
        rl_steps: training steps of each policy; 0 trains none.
        rl_tuning: training steps of each setting that a policy tries; 0 tries none.
        rl_arms: credits that policies are trained with, from :data:`RL_ARMS`.
        rl_questions: number of questions that a policy is judged on.
        real: number of questions for a real model, for each seed; 0 leaves it out.
    """

    questions: int
    scores: tuple[str, ...]
    tasks: tuple[str, ...]
    rl_steps: int
    rl_tuning: int
    rl_arms: tuple[str, ...]
    rl_questions: int
    real: int


def run_audit(seed: int, task: str, questions: int, names: list[str]) -> dict[str, Any]:
    """Score solutions of the reasoner that ships, mask them by each score, and compare scores with known labels.

    Args:
        seed: seed of the questions, the solutions and the random score.
        task: chains, or a family of reasoning-gym.
        questions: number of questions.
        names: scores to test, from :data:`SCORES`.

    Returns:
        `rates`: shares of answers that changed and flipped, by score and end; `flow`: figures of each flow; for chains
        `areas`: by score, the area under the curve of relevant against `dead` tokens and against `filler`.
    """
    import torch

    from noria.credit.tasks.chains import CHAIN_ANSWER

    torch.use_deterministic_algorithms(True)
    policy, tokenizer, rows = _solutions(task, questions, seed)
    config = MaskSettings(answer=CHAIN_ANSWER if task == "chains" else "hash", batch_size=64, seed=seed)
    test = _mask_test(policy, tokenizer, rows, names, config, SCORE_SETTINGS)
    return _outcomes(test) | (_areas(test, tokenizer, seed) if task == "chains" else {})


def run_separation(seed: int, questions: int, name: str, tried: list[dict[str, Any]]) -> list[float]:
    """Measure how well a score tells relevant from dead tokens of chains, under each of several settings.

    Args:
        seed: seed of the questions and the solutions.
        questions: number of questions.
        name: name of the score, from :data:`SCORES`.
        tried: settings of the score to try.

    Returns:
        Area under the curve for each of the settings.
    """
    import torch

    from noria.credit.credit import TokenCredit
    from noria.credit.inspection.masking import answered_responses, area, reasoning_of, traces_of_rows
    from noria.credit.tasks.chains import CHAIN_ANSWER

    torch.use_deterministic_algorithms(True)
    policy, tokenizer, rows = _solutions("chains", questions, seed)
    answered, _ = answered_responses(*rows, tokenizer, CHAIN_ANSWER)
    traces = traces_of_rows(answered)
    reasoning = reasoning_of(answered, traces)
    masks = _kinds(answered, reasoning.shape, tokenizer)
    areas = []
    for settings in tried:
        scored = TokenCredit(_credit(name, settings)).score(policy, traces)
        by_row = area(scored.scores, masks["relevant"] & reasoning, masks["dead"] & reasoning)
        kept = [value for value in by_row if not math.isnan(value)]
        areas.append(sum(kept) / len(kept) if kept else math.nan)
    return areas


def judged_questions(task: str, number: int, seed: int) -> list[Question]:
    """Questions of a seed, none of them a question of another seed or of the reasoner's training.

    reasoning-gym draws question i of a set from seed + i, so sets of neighbouring seeds would be nearly one set.
    """
    from noria.credit.proof.reasoner import train_questions

    return train_questions(task, number, seed=7_000 + seed * (1 if task == "chains" else 10_000))


def _credit(name: str, more: Mapping[str, Any]) -> CreditConfig:
    """Settings of a score of :data:`SCORES`, with others over them."""
    from noria.credit.config import named_credit

    settings = {**SCORES[name], **more}
    return named_credit(settings.pop("credit", "flow"), **settings)


def _solutions(
    task: str, questions: int, seed: int
) -> tuple[Any, Any, tuple[list[Any], list[Any], list[Any]]]:
    """The reasoner that ships, its tokenizer, and questions, prompts and responses that it drew."""
    import torch

    from noria.credit.responses.rollout import end_and_pad, sample
    from noria.credit.tasks.questions import prompt_ids
    from noria.credit.tasks.small import small_model

    policy, tokenizer = small_model("reasoner")
    entries = judged_questions(task, questions, seed)
    prompts = [prompt_ids(question, tokenizer) for question in entries]
    eos, pad = end_and_pad(tokenizer)
    # Drawn, not greedy: the likeliest solution has no fillers.
    generator = torch.Generator().manual_seed(seed)
    written = sample(policy, prompts, new=160, generator=generator, eos=eos, pad=pad)
    return policy, tokenizer, (entries, prompts, [rollout.tokens for rollout in written])


def _mask_test(
    model: Any,
    tokenizer: Any,
    rows: tuple[list[Any], list[Any], list[Any]],
    names: list[str],
    config: MaskSettings,
    settings: Mapping[str, Mapping[str, Any]],
) -> MaskTest:
    """Test named scores, each with its settings, on questions, prompts and responses."""
    from noria.credit.inspection.masking import answered_responses, mask_test

    questions, prompts, responses = rows
    answered, _ = answered_responses(questions, prompts, responses, tokenizer, config.answer)
    credits = {name: _credit(name, settings.get(name, {})) for name in names}
    return mask_test(model, tokenizer, answered, credits, config)


def _outcomes(test: MaskTest) -> dict[str, Any]:
    """Rates by score and end, and the figures of each flow."""
    rates: dict[str, Any] = {}
    for row in test.rows:
        size = len(row.changed)
        rates.setdefault(row.name, {})[row.end] = {
            "changed": sum(row.changed) / size,
            "flipped": sum(row.flipped) / size,
        }
    keys = ("conservation", "fallback", "path_length")
    flow = {
        name: {key: scored.metrics[key] for key in keys}
        for name, scored in test.scored.items()
        if "conservation" in scored.metrics
    }
    return {"rates": rates, "flow": flow, "right": test.right, "rows": test.questions, "tokens": test.tokens}


def _areas(test: MaskTest, tokenizer: Any, seed: int) -> dict[str, Any]:
    """For chains: how well each score separates tokens that lead to the answer from a dead branch and from fillers."""
    import torch

    from noria.credit.inspection.masking import area, reasoning_of, traces_of_rows

    reasoning = reasoning_of(test.responses, traces_of_rows(test.responses))
    masks = _kinds(test.responses, reasoning.shape, tokenizer)
    scores = {name: scored.scores for name, scored in test.scored.items()}
    scores["random"] = torch.rand(reasoning.shape, generator=torch.Generator().manual_seed(seed))
    areas: dict[str, dict[str, float]] = {}
    for name, values in scores.items():
        for kind in ("dead", "filler"):
            by_row = area(values, masks["relevant"] & reasoning, masks[kind] & reasoning)
            kept = [value for value in by_row if not math.isnan(value)]
            areas.setdefault(name, {})[kind] = sum(kept) / len(kept) if kept else math.nan
    return {"areas": areas}


def _kinds(rows: Any, shape: Any, tokenizer: Any) -> dict[str, Any]:
    """The tokens of chain solutions that lead to the answer, that belong to the dead branch, and that are fillers."""
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
    """Measure the accuracy of the model that every policy starts from."""
    from noria.credit.tasks.small import small_model

    return {"accuracy": _judged(*small_model("start"), questions)}


def _judged(model: Any, tokenizer: Any, questions: int) -> float:
    """Accuracy at the training temperature of 1: the mean of four answers to each question."""
    from noria.credit.proof.reasoner import accuracy, train_questions

    held = train_questions("chains", questions, seed=80_000)
    return sum(accuracy(model, tokenizer, held, temperature=1.0, seed=n) for n in range(4)) / 4


def run_policy(
    arm: str, seed: int, steps: int, questions: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Train the model that draws mistakes on chains by GRPO with a credit.

    Args:
        arm: name of the credit, from :data:`RL_ARMS`.
        seed: seed of questions and rollouts, the same for every arm.
        steps: number of steps, each of 8 questions with 8 rollouts.
        questions: number of questions to judge the policy on, the same for every arm and seed; 0 judges none.
        settings: the arm's own settings: `lr`, and those of its credit.

    Returns:
        `after`: accuracy; `area`: mean reward over training; `reward`, `entropy`: one value a step; `fallback`: mean
        share of rollouts that share credit evenly; `seconds`: mean seconds of a step.
    """
    model, tokenizer, log = _train(RL_ARMS[arm], seed, steps, settings)
    parts = ("rollout_seconds", "score_seconds", "learn_seconds")
    fallback = [row["credit/fallback"] for row in log if "credit/fallback" in row]
    return {
        "after": _judged(model, tokenizer, questions) if questions else None,
        "area": sum(row["reward"] for row in log) / steps,
        "reward": [row["reward"] for row in log],
        "entropy": [row["entropy"] for row in log],
        "fallback": sum(fallback) / len(fallback) if fallback else 0.0,
        "seconds": sum(row[part] for row in log for part in parts) / steps,
    }


def run_even(seed: int, steps: int) -> float:
    """Train with even credit of 1 and of 1.2: the distance of the two policies, as a share of the way that one went.

    Args:
        seed: seed of questions and rollouts.
        steps: number of steps, each of 8 questions with 8 rollouts.
    """
    import torch

    from noria.credit.tasks.small import small_model

    def weights(model: Any) -> Any:
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    even, larger = (weights(_train(name, seed, steps, {"lr": 1e-4})[0]) for name in ("none", "uniform"))
    return float((larger - even).norm() / (even - weights(small_model("start")[0])).norm())


def _train(
    credit: str, seed: int, steps: int, settings: Mapping[str, Any]
) -> tuple[Any, Any, list[dict[str, float]]]:
    """The policy, its tokenizer, and the figures of every step."""
    import torch

    from noria.core.runs.workers import report
    from noria.credit.proof.reasoner import train_questions
    from noria.credit.tasks.chains import CHAIN_ANSWER
    from noria.credit.tasks.small import small_model
    from noria.credit.training.config import TrainConfig
    from noria.credit.training.trainer import CreditTrainer

    torch.use_deterministic_algorithms(True)
    model, tokenizer = small_model("start")
    more = {"horizon": NEAR_HORIZON} if credit in ("fai", "coupled") else {}
    config = TrainConfig(
        credit=credit,
        credit_settings=more | {key: value for key, value in settings.items() if key != "lr"},
        answer=CHAIN_ANSWER,
        steps=steps,
        prompts=8,
        group=8,
        max_new_tokens=112,  # the longest solutions have about 95
        lr=settings["lr"],
        micro_batch=8,  # one group, so that groups without a signal are not even read
        seed=seed,
    )
    trainer = CreditTrainer(model, tokenizer, train_questions("chains", 2048, seed=500 + seed), config)
    log: list[dict[str, float]] = []
    while trainer.step < steps:
        log.append(trainer.advance().figures)
        report(trainer.step, steps, f"reward {log[-1]['reward']:.2f}")
    return model, tokenizer, log


def run_real_model(seed: int, questions: int, names: list[str], data: str) -> dict[str, Any]:
    """Mask worked solutions of GSM8K as SmolLM2-135M reads them.

    Args:
        seed: number of the set of questions.
        questions: number of questions in a set.
        names: scores to test, from :data:`SCORES`.
        data: folder of public data.

    Returns:
        `rates` and `flow`, as :func:`run_audit` returns them.
    """
    import torch

    from noria.core.models.loading import open_language_model
    from noria.core.proofs.proof import smollm2
    from noria.credit.tasks.files import read_questions
    from noria.credit.tasks.questions import prompt_ids

    torch.use_deterministic_algorithms(True)
    file = smollm2()
    assert file is not None
    policy = open_language_model(file)
    source = str(Path(data) / "gsm8k" / "train.jsonl")
    candidates = read_questions(source, number=(seed + 1) * 10 * questions)[seed * 10 * questions :]
    short = [question for question in candidates if len(question.solution) < 400][:questions]
    tokenizer = policy.tokenizer
    prompts = [prompt_ids(question, tokenizer) for question in short]
    responses = [list(tokenizer(q.solution, add_special_tokens=False)["input_ids"]) for q in short]
    config = MaskSettings(answer="hash", batch_size=8, seed=seed)
    return _outcomes(_mask_test(policy.model, tokenizer, (short, prompts, responses), names, config, {}))
