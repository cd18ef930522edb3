"""The training of the two small models that ship.

`python -m noria.credit.proof.reasoner FOLDER` trains them again, in about forty minutes on two quiet cores.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noria.core.errors import require
from noria.core.models.lm import save_lm, train_tokenizer
from noria.credit.responses.answers import answer_texts
from noria.credit.responses.rollout import end_and_pad, sample
from noria.credit.tasks.chains import chains
from noria.credit.tasks.gym import gym
from noria.credit.tasks.questions import Question, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel


__all__ = ["TASKS", "accuracy", "build", "fit", "loosen", "new_model", "train_questions"]

TASKS = ("chains", "chain_sum", "leg_counting")
VOCAB = 400
SLIP = 0.2
"""The chance that a step is wrong in the solutions that `start` is trained on."""


def new_model(vocab: int) -> PreTrainedModel:
    """An untrained Llama of some hundred thousand parameters.

    Weights begin at 0.06: at this width the usual 0.02 leaves attention flat for a thousand steps.
    """
    transformers = require("transformers", "credit")
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.06,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = transformers.LlamaForCausalLM(config)
    return model


def train_questions(task: str, number: int, *, seed: int) -> list[Question]:
    """Questions of the kind that the small models are trained on."""
    return chains(number, seed=seed, steps=(2, 4)) if task == "chains" else gym(task, number, seed=seed)


def fit(
    model: PreTrainedModel,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    steps: int,
    batch_size: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place on the tokens of worked solutions, with AdamW and rows of similar length in a batch.

    Args:
        model: causal language model.
        tokenizer: tokenizer of the model.
        questions: questions with solutions.
        steps: number of optimiser steps.
        batch_size: number of questions in a step.
        lr: peak learning rate, after 50 steps; it falls to zero along a cosine.
        seed: seed of the batches.
        on_step: called with the step and the loss in nats.
    """
    prompts = [prompt_ids(question, tokenizer) for question in questions]
    solutions = tokenizer([question.solution for question in questions])["input_ids"]
    rows = [[*p, *s, tokenizer.eos_token_id] for p, s in zip(prompts, solutions, strict=True)]
    by_length = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.99))

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / 50)
        return warm * (0.5 + 0.5 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator, window = random.Random(seed), min(len(rows), 8 * batch_size)
    model.train()
    for step in range(1, steps + 1):
        first = generator.randrange(len(rows) - window + 1)
        chosen = generator.sample(by_length[first : first + window], min(batch_size, window))
        tokens, labels = _padded(
            [rows[n] for n in chosen], [len(prompts[n]) for n in chosen], tokenizer.pad_token_id
        )
        logits = model(tokens[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, float(loss.detach()))
    model.eval()


def _padded(rows: Sequence[Sequence[int]], starts: Sequence[int], pad: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels, [rows, longest], padded behind; labels of prompts and padding are −100."""
    width = max(map(len, rows))
    tokens, labels = torch.full((len(rows), width), pad), torch.full((len(rows), width), -100)
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        tokens[number, : len(row)] = torch.tensor(row)
        labels[number, start : len(row)] = tokens[number, start : len(row)]
    return tokens, labels


def accuracy(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    new: int = 160,
    temperature: float = 0.0,
    seed: int = 0,
) -> float:
    """The share of questions answered right: greedily at temperature 0, drawn from the seed otherwise."""
    eos, pad = end_and_pad(tokenizer)
    rollouts = sample(
        model,
        [prompt_ids(question, tokenizer) for question in questions],
        new=new,
        temperature=temperature,
        generator=torch.Generator().manual_seed(seed),
        eos=eos,
        pad=pad,
    )
    texts = answer_texts([rollout.tokens for rollout in rollouts], tokenizer, "hash")
    return sum(q.score(text) for q, text in zip(questions, texts, strict=True)) / len(questions)


def loosen(model: PreTrainedModel, tokenizer: Any, *, steps: int = 400) -> None:
    """Train a reasoner in place on chains that slip (:data:`SLIP`), so that it keeps its skill and draws mistakes."""
    questions = chains(20_000, seed=11, steps=(2, 4), slip=SLIP)
    fit(model, tokenizer, questions, steps=steps, lr=1e-3, seed=3)


def build(
    folder: Path, *, steps: int = 6000, say: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """Train both models and write them to `folder/reasoner` and `folder/start`, in bfloat16.

    Args:
        folder: folder of both models.
        steps: training steps of the reasoner, 32 questions each.
        say: called with lines of progress.

    Returns:
        Accuracy of the stored weights on questions held out, by model and task; greedy, and for `start` at temperature
        1, too.
    """
    questions = {task: train_questions(task, 20_000, seed=1) for task in TASKS}
    held = {task: train_questions(task, 200, seed=2) for task in TASKS}
    texts = [f"{q.prompt}{q.solution}" for part in questions.values() for q in part[:3000]]
    tokenizer = train_tokenizer(texts, VOCAB)
    model = new_model(len(tokenizer))

    def show(step: int, loss: float) -> None:
        if step % 100 == 0:
            say(f"reasoner {step}  {loss:.3f} nats")

    fit(model, tokenizer, [q for part in questions.values() for q in part], steps=steps, on_step=show)
    save_lm(model.bfloat16(), tokenizer, folder / "reasoner")
    model.float()
    rates = {f"reasoner {task}": accuracy(model, tokenizer, q) for task, q in held.items()}

    loosen(model, tokenizer)
    save_lm(model.bfloat16(), tokenizer, folder / "start")
    model.float()
    rates["start chains"] = accuracy(model, tokenizer, held["chains"])
    rates["start chains, drawn"] = accuracy(model, tokenizer, held["chains"], temperature=1.0)
    return rates


if __name__ == "__main__":
    results = build(Path(sys.argv[1]), say=lambda line: print(line, file=sys.stderr, flush=True))
    for name, right in results.items():
        print(f"{name}: {right:.2f}")
