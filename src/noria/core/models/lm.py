"""The small causal language model of the proofs: its text, tokenizer, training and files.

The text is the source code of Python's own standard library, which is on every machine that runs this, and arithmetic
whose answers can be checked. The model has a standard Qwen3 configuration: what works on it works on a full-size one.
"""

from __future__ import annotations

import hashlib
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from noria.core.errors import DataError, require
from noria.core.models.loading import SMALL_FOLDER, open_language_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config

END, PAD = "<|endoftext|>", "<|pad|>"
SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "__pycache__",
    "ensurepip",
    "encodings",
    "pydoc_data",
}
"""Folders left out: other people's packages, tests, and files that are tables rather than code."""


def python_sources(*, held_out: bool = False, folder: Path | None = None) -> list[str]:
    """Source files of Python's standard library, in order of their paths.

    One file in ten, by a hash of its path, is held out of training. Files that are not ASCII, tests, and tables (of
    character sets, of help topics) are left out.

    Args:
        held_out: whether to read the held-out files instead of the others.
        folder: folder of the library; that of this Python by default.

    Raises:
        DataError: there are no sources (some distributions ship byte code only).
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if SKIPPED & set(name.parts):
            continue
        is_held_out = hashlib.sha256(name.as_posix().encode()).digest()[0] % 10 == 0
        content = path.read_bytes()
        if is_held_out == held_out and content and content.isascii():
            texts.append(content.decode())
    if not texts:
        raise DataError("no Python sources", where=str(root), mend="install the standard library's sources")
    return texts


@dataclass(frozen=True)
class Problem:
    """An arithmetic question, its worked solution, and the answer."""

    question: str
    solution: str
    answer: int

    @property
    def text(self) -> str:
        """Question and solution as the model reads them."""
        return f"{self.question}\n{self.solution}"


def arithmetic(
    number: int, *, seed: int, terms: tuple[int, int] = (2, 4), largest: int = 30
) -> list[Problem]:
    """Sums and products of small numbers, worked from left to right, such as `Q: 3+4*2` / `4*2=8 3+8=11 #### 11`.

    Args:
        number: number of problems.
        seed: seed of the questions.
        terms: least and greatest number of terms.
        largest: largest number in a question.
    """
    generator = np.random.default_rng(seed)
    problems = []
    for _ in range(number):
        count = int(generator.integers(terms[0], terms[1] + 1))
        values = [int(v) for v in generator.integers(1, largest + 1, size=count)]
        signs = [str(s) for s in generator.choice(["+", "-", "*"], size=count - 1, p=[0.4, 0.35, 0.25])]
        question = str(values[0]) + "".join(f"{s}{v}" for s, v in zip(signs, values[1:], strict=True))
        steps, answer = _worked(values, signs)
        problems.append(Problem(f"Q: {question}", " ".join([*steps, f"#### {answer}"]), answer))
    return problems


def _worked(values: Sequence[int], signs: Sequence[str]) -> tuple[list[str], int]:
    """Steps of the solution, products first, and the answer."""
    values, signs, steps = list(values), list(signs), []
    while signs:
        at = signs.index("*") if "*" in signs else 0
        left, sign, right = values[at], signs.pop(at), values.pop(at + 1)
        values[at] = left * right if sign == "*" else left + right if sign == "+" else left - right
        steps.append(f"{left}{sign}{right}={values[at]}")
    return steps, values[0]


def answer_of(text: str) -> int | None:
    """The number after the last `####`, or None if there is none."""
    answers = re.findall(r"####\s*(-?\d{1,18})(?!\d)", text)
    return int(answers[-1]) if answers else None


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of `vocab_size` entries: end token 0, pad token 1, one token a digit."""
    tokenizers, transformers = require("tokenizers", "mtp"), require("transformers", "mtp")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped: PreTrainedTokenizerFast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    return wrapped


def small_config(
    vocab_size: int, *, width: int = 144, layers: int = 12, heads: int = 6, length: int = 1024, **more: Any
) -> Qwen3Config:
    """Qwen3 configuration of a few million parameters with tied embeddings; `more` overrides its settings."""
    transformers = require("transformers", "mtp")
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": 8 * width // 3 // 32 * 32,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "head_dim": width // heads,
        "max_position_embeddings": length,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "bos_token_id": None,
    }
    config: Qwen3Config = transformers.Qwen3Config(**settings | more)
    return config


def pack(documents: Iterable[Sequence[int]], length: int, *, end: int = 0) -> Tensor:
    """Concatenate documents, `end` behind each, and cut them into rows [n, length]; a partial last row is dropped."""
    flat = np.concatenate([np.asarray([*document, end], dtype=np.int64) for document in documents])
    rows = len(flat) // length
    if not rows:
        raise DataError(
            f"{len(flat)} tokens do not fill a row of {length}", where="pack", mend="give more text"
        )
    return torch.from_numpy(flat[: rows * length].reshape(rows, length))


def train_lm(
    model: PreTrainedModel,
    rows: Tensor,
    *,
    steps: int,
    batch_size: int = 16,
    lr: float = 2e-3,
    seed: int = 0,
    learnt: Tensor | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train a model in place on next tokens: AdamW, warm-up and cosine decay, gradients clipped at 1.

    Args:
        model: causal language model to train.
        rows: token numbers [n, length].
        steps: number of optimizer steps.
        batch_size: number of rows of a step.
        lr: peak learning rate.
        seed: seed of the batches.
        learnt: [n, length] whether each token counts in the loss, such as those of answers; all by default.
        on_step: called with (step, loss in nats) after every step.
    """
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    total = max(3, steps)
    warm = max(0.05, min(0.5, 2 / total))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=total, pct_start=warm)
    model.train()
    for step in range(steps):
        drawn = torch.randint(len(rows), (batch_size,), generator=generator)
        batch = rows[drawn].to(model.device)
        logits, targets = model(batch[:, :-1]).logits, batch[:, 1:]
        if learnt is not None:
            counts = learnt[drawn, 1:].to(model.device)
            logits, targets = logits[counts][None], targets[counts][None]
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step:
            on_step(step + 1, float(loss.detach()))
    model.eval()


def save_lm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save model and tokenizer for `from_pretrained`, in safetensors."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_lm(
    folder: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a folder that :func:`save_lm` wrote, or any local causal language model in safetensors, on the CPU.

    Raises:
        ModelError: the folder holds no such model.
    """
    loaded = open_language_model(str(folder), device="cpu")
    return loaded.model.to(dtype), loaded.tokenizer


# -- the model that ships ---------------------------------------------------------------------------------------------


def small_lm(*, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the model of 3 million parameters that ships with the package, and its tokenizer.

    `python -m noria.core.models.lm FOLDER` trains it anew, in about half an hour on two cores: 3.36 nats a token on
    held-out code and 0.50 on held-out arithmetic.
    """
    return load_lm(SMALL_FOLDER, dtype=dtype)


def build_small_lm(
    folder: Path, *, steps: int = 1800, on_step: Callable[[int, float], None] | None = None
) -> dict[str, float]:
    """Train the model that ships, from the standard library's sources and 60,000 arithmetic problems.

    Weights are stored in bfloat16. Another version of Python has other sources, and so another model.

    Args:
        folder: folder of the model.
        steps: number of steps, each of 16 rows of 256 tokens.
        on_step: called with (step, loss in nats) after every step.

    Returns:
        Nats per token, of the stored weights, on the held-out `code` and `arithmetic`.
    """
    transformers = require("transformers", "mtp")
    sources, problems = python_sources(), [p.text for p in arithmetic(60_000, seed=0)]
    tokenizer = train_tokenizer([*sources, *problems[:4000]])
    documents = [*sources, *_sheets(problems)]
    random.Random(0).shuffle(documents)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Qwen3ForCausalLM(small_config(len(tokenizer)))
    train_lm(model, pack(tokenizer(documents)["input_ids"], 257), steps=steps, on_step=on_step)
    save_lm(model.bfloat16(), tokenizer, folder)
    tests = {
        "code": python_sources(held_out=True),
        "arithmetic": _sheets([p.text for p in arithmetic(1000, seed=99)]),
    }
    model.float()
    return {
        name: _nats(model, pack(tokenizer(texts)["input_ids"], 257)[:64]) for name, texts in tests.items()
    }


def _sheets(problems: Sequence[str]) -> list[str]:
    """Documents of eight problems each."""
    return ["\n".join(problems[i : i + 8]) for i in range(0, len(problems), 8)]


@torch.no_grad()
def _nats(model: PreTrainedModel, rows: Tensor) -> float:
    """Mean -log p per token of rows [n, length]."""
    parts = [model(part, labels=part).loss * len(part) for part in torch.split(rows, 16)]
    return float(torch.stack(parts).sum()) / len(rows)


if __name__ == "__main__":
    held_out = build_small_lm(
        Path(sys.argv[1]), on_step=lambda step, loss: print(f"step {step}  {loss:.3f} nats", file=sys.stderr)
    )
    print("held out: " + ", ".join(f"{name} {nats:.2f} nats" for name, nats in held_out.items()))
