"""The arms of the proof: one head, trained on by every loss with one budget, and scored at several temperatures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.mtp.names import LossName, Rule

__all__ = ["ARMS", "Scale", "run_arm", "run_text"]

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
    """

    rows: int
    held: int
    length: int
    steps: int
    batch_size: int
    lr: float
    temperatures: tuple[float, ...]


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


def _read(path: str) -> Any:
    from safetensors.torch import load_file

    from noria.mtp.data import Rows

    tensors = load_file(Path(path))
    return Rows.of(tensors["tokens"], mask=tensors["mask"].bool())
