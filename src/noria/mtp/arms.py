"""The arms of the proof: one head, trained on by every loss with one budget, and scored at several temperatures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from noria.mtp.names import LossName, Rule

SmallHead = Literal["ce", "e2e_tv"]

__all__ = ["ARMS", "RL_ARMS", "RLArm", "Scale", "run_arm", "run_rl", "run_text"]

ARMS: dict[str, LossName | None] = {
    "warm head": None,
    "CE": "ce",
    "KL": "kl_div",
    "reverse KL": "rkl",
    "TV": "tv",
    "e2e TV": "e2e_tv",
    "e2e TV, exact": "e2e_tv_exact",
    "LK": "lk_hybrid",
}
"""Every loss, and the head that all of them start from."""


@dataclass(frozen=True)
class RLArm:
    """Rollouts of a reinforcement-learning arm.

    Attributes:
        head: which of the heads that ship; None decodes plainly.
        online: whether it is trained along.
        entropy_bonus: what moves the policy's entropy.
    """

    head: SmallHead | None
    online: bool = False
    entropy_bonus: float = 0.0


RL_ARMS = {
    "no drafts": RLArm(None),
    "frozen e2e TV": RLArm("e2e_tv"),
    "frozen CE": RLArm("ce"),
    "online e2e TV": RLArm("e2e_tv", online=True),
    "frozen e2e TV, entropy up": RLArm("e2e_tv", entropy_bonus=0.02),
    "frozen CE, entropy up": RLArm("ce", entropy_bonus=0.02),
    "frozen e2e TV, entropy down": RLArm("e2e_tv", entropy_bonus=-0.02),
    "frozen CE, entropy down": RLArm("ce", entropy_bonus=-0.02),
}
"""GRPO on arithmetic: what drafts, and where entropy is pushed."""
GAMMA = 3
RULES: tuple[Rule, ...] = ("rejection", "target_only")


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        rows: of text to train on.
        held: of text to be scored on, at each temperature.
        length: of a row.
        steps: of training.
        batch_size: rows a step.
        lr: of all losses.
        temperatures: of the text that is scored; the head is trained at 1.
        rl_steps: of policy optimisation; 0 leaves it out.
    """

    rows: int
    held: int
    length: int
    steps: int
    batch_size: int
    lr: float
    temperatures: tuple[float, ...]
    rl_steps: int = 0


def run_text(seed: int, rows: int, length: int, temperature: float, path: str) -> dict[str, Any]:
    """Text that the small model writes, kept at `path`.

    Args:
        seed: of prompts and text.
        rows: of it.
        length: of a row.
        temperature: that it is drawn at.
        path: of the file.
    """
    import torch
    from safetensors.torch import save_file

    from noria.core.jobs import report
    from noria.core.lm import small_lm
    from noria.mtp.sampling import SamplingParams
    from noria.mtp.small import own_text, text_prompts

    torch.use_deterministic_algorithms(True)
    model, tokenizer = small_lm()
    text = own_text(
        model,
        text_prompts(tokenizer, rows, seed=seed),
        length=length,
        seed=seed,
        params=SamplingParams(temperature=temperature),
        batch_size=128,
        on_rows=lambda done: report(done, rows),
    )
    save_file({"tokens": text.tokens, "mask": text.mask.to(torch.uint8)}, path)
    return {"rows": len(text)}


def run_arm(arm: str, seed: int, scale: dict[str, Any], train: str, held: dict[str, str]) -> dict[str, Any]:
    """Train the warm head on by one loss, and score it.

    Args:
        arm: whose loss.
        seed: of the order of batches.
        scale: the fields of :class:`Scale`.
        train: the file of text to train on.
        held: that to be scored on, by temperature.

    Returns:
        By temperature: entropies, accept length and prefix rates by each rule; and the acceptance of every logged step.
    """
    import torch

    from noria.core.jobs import report
    from noria.core.lm import small_lm
    from noria.mtp.config import TrainConfig
    from noria.mtp.evaluate import evaluate_head
    from noria.mtp.sampling import SamplingParams
    from noria.mtp.small import small_head
    from noria.mtp.trainer import HeadTrainer

    torch.use_deterministic_algorithms(True)
    s = Scale(**scale)
    model, _ = small_lm()
    head, loss = small_head(model, "ce"), ARMS[arm]
    curve: list[list[float]] = []
    if loss is not None:
        config = TrainConfig(
            loss=loss,
            steps=s.steps,
            batch_size=s.batch_size,
            lr=s.lr,
            train_gamma=GAMMA,
            seed=seed,
            length=s.length,
        )
        trainer = HeadTrainer(model, head, _read(train), config)
        while trainer.step < s.steps:
            terms, _norm = trainer.advance()
            curve.append([trainer.step, float(terms.acceptance.mean())])
            report(trainer.step, s.steps)
    scores = {}
    for temperature, path in held.items():
        params = SamplingParams(temperature=float(temperature))
        score = evaluate_head(model, head, _read(path), gamma=GAMMA, rules=RULES, params=params)
        scores[temperature] = {
            "entropy": score.target_entropy,
            "draft_entropy": score.draft_entropy,
            "factorised": score.factorised,
            "length": {rule: score.rules[rule].length.effect for rule in RULES},
            "prefix": {rule: [rate.effect for rate in score.rules[rule].rates] for rule in RULES},
        }
    return {"scores": scores, "curve": curve[:: max(1, len(curve) // 40)]}


def run_rl(arm: str, seed: int, steps: int) -> dict[str, Any]:
    """Train the small model on checkable arithmetic by GRPO, with rollouts as the arm says.

    Args:
        arm: of :data:`RL_ARMS`.
        seed: of prompts and rollouts.
        steps: of the policy.

    Returns:
        By figure, one value a step: reward, entropy, accept length (null without drafts), and the seconds of each part.
    """
    import torch

    from noria.core.jobs import report
    from noria.core.lm import answer_of, arithmetic, small_lm
    from noria.mtp.rl import PolicyTrainer, RLConfig
    from noria.mtp.small import small_head

    torch.use_deterministic_algorithms(True)
    how = RL_ARMS[arm]
    model, tokenizer = small_lm()
    head = None if how.head is None else small_head(model, how.head)
    problems = arithmetic(32, seed=7_000 + seed)
    prompts = [list(tokenizer(p.question + "\n")["input_ids"]) for p in problems]
    answers = {tuple(ids): p.answer for ids, p in zip(prompts, problems, strict=True)}

    def right(asked: Any, written: Any) -> list[float]:
        texts = tokenizer.batch_decode([list(tokens) for tokens in written])
        return [float(answer_of(text) == answers[tuple(ids)]) for ids, text in zip(asked, texts, strict=True)]

    config = RLConfig(
        steps=steps,
        prompts=4,
        group=8,
        max_new_tokens=48,
        gamma=GAMMA if head is not None else 0,
        lr=3e-5,
        entropy_bonus=how.entropy_bonus,
        head="online" if how.online else "frozen",
        head_lr=3e-4,
        seed=seed,
    )
    newline = tokenizer("\n")["input_ids"][-1]
    trainer = PolicyTrainer(model, head, prompts, right, config, eos=[newline])
    names = (
        "reward",
        "entropy",
        "accept_length",
        "tokens",
        "rollout_seconds",
        "score_seconds",
        "learn_seconds",
    )
    logged: dict[str, list[float | None]] = {name: [] for name in names}
    while trainer.step < steps:
        figures = trainer.advance().figures
        for name in names:
            logged[name].append(figures.get(name))
        report(trainer.step, steps)
    return logged


def _read(path: str) -> Any:
    from safetensors.torch import load_file

    from noria.mtp.data import Rows

    tensors = load_file(Path(path))
    return Rows.of(tensors["tokens"], mask=tensors["mask"].bool())
