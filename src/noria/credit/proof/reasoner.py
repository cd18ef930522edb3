"""The small reasoner: how it is made and trained anew."""

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
from noria.credit.responses.rollout import answers, sample
from noria.credit.tasks.chains import chains
from noria.credit.tasks.gym import gym
from noria.credit.tasks.questions import Question, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel


__all__ = ["TASKS", "accuracy", "build", "fit", "loosen", "new_model", "train_questions"]

TASKS = ("chains", "chain_sum", "leg_counting")
VOCAB = 400
SLIP = 0.2
"""The chance that a step is wrong in the solutions that teach `start`."""


def new_model(
    vocab: int, *, width: int = 96, layers: int = 6, heads: int = 4, seed: int = 0
) -> PreTrainedModel:
    """An untrained Llama of some hundred thousand parameters; weights begin at 0.06, three times what is usual.

    At this width the usual 0.02 leaves attention flat for a thousand steps.
    """
    transformers = require("transformers", "credit")
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=8 * width // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        initializer_range=0.06,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = transformers.LlamaForCausalLM(config)
    return model


def train_questions(task: str, number: int, *, seed: int) -> list[Question]:
    """Questions as the small models are trained on."""
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
    """Train on worked solutions in place: next tokens of the solution alone, AdamW, rows of like length together.

    Args:
        model: a causal language model.
        tokenizer: its own.
        questions: with solutions.
        steps: of the optimiser.
        batch_size: questions a step.
        lr: peak rate, after 50 steps; from there to zero along a cosine.
        seed: of the batches.
        on_step: called with (step, loss in nats).
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
    """Tokens and labels [rows, longest], padded behind; labels of prompts and padding are −100."""
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
    """The share of questions answered right, decoding greedily; drawn from the seed where there is a temperature."""
    prompts = [prompt_ids(question, tokenizer) for question in questions]
    done = sample(
        model,
        prompts,
        new=new,
        temperature=temperature,
        generator=torch.Generator().manual_seed(seed),
        eos=[tokenizer.eos_token_id],
        pad=tokenizer.pad_token_id,
    )
    given = answers([r.tokens for r in done], tokenizer, "hash")
    return sum(q.score(text) for q, text in zip(questions, given, strict=True)) / len(questions)


def loosen(model: PreTrainedModel, tokenizer: Any, *, steps: int = 400) -> None:
    """Teach a reasoner in place by chains that slip (:data:`SLIP`): it keeps its skill, and draws mistakes."""
    taught = chains(20_000, seed=11, steps=(2, 4), slip=SLIP)
    fit(model, tokenizer, taught, steps=steps, lr=1e-3, seed=3)


def build(
    folder: Path, *, steps: int = 6000, say: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """Train both models and write them to `folder/reasoner` and `folder/start`, in bfloat16.

    Args:
        folder: where they go.
        steps: of 32 questions, of the reasoner.
        say: called with a line now and then.

    Returns:
        Accuracy of the stored weights on questions that were held out, by model and task; greedy, and for `start` at
        temperature 1, too.
    """
    questions = {task: train_questions(task, 20_000, seed=1) for task in TASKS}
    held = {task: train_questions(task, 200, seed=2) for task in TASKS}
    some = [question for part in questions.values() for question in part[:3000]]
    tokenizer = train_tokenizer([f"{question.prompt}{question.solution}" for question in some], VOCAB)
    found: dict[str, float] = {}
    model = new_model(len(tokenizer))

    def told(step: int, loss: float) -> None:
        if step % 100 == 0:
            say(f"reasoner {step}  {loss:.3f} nats")
        if step % 1000 == 0:
            say("  ".join(f"{t} {accuracy(model, tokenizer, q[:50]):.2f}" for t, q in held.items()))
            model.train()

    fit(model, tokenizer, [q for part in questions.values() for q in part], steps=steps, on_step=told)
    save_lm(model.bfloat16(), tokenizer, folder / "reasoner")
    model.float()
    found |= {f"reasoner {task}": accuracy(model, tokenizer, q) for task, q in held.items()}

    loosen(model, tokenizer)
    save_lm(model.bfloat16(), tokenizer, folder / "start")
    model.float()
    found["start chains"] = accuracy(model, tokenizer, held["chains"])
    found["start chains, drawn"] = accuracy(model, tokenizer, held["chains"], temperature=1.0)
    return found


if __name__ == "__main__":
    for name, right in build(
        Path(sys.argv[1]), say=lambda line: print(line, file=sys.stderr, flush=True)
    ).items():
        print(f"{name}: {right:.2f}")
