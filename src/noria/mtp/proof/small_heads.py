"""The heads that ship, trained anew, and the small model's own text to train and judge them on.

`python -m noria.mtp.proof.small_heads FOLDER` takes about an hour and a half on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.core.models.lm import arithmetic, python_sources, small_lm
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.config import TrainConfig
from noria.mtp.data import Rows
from noria.mtp.decoding.decoder import Decoder, Request
from noria.mtp.heads.checkpoint import head_tensors, load_head
from noria.mtp.heads.head import MTPHead
from noria.mtp.training.evaluate import evaluate_head
from noria.mtp.training.trainer import HeadTrainer
from noria.mtp.types import Rule, SmallHead

RULES: tuple[Rule, ...] = ("rejection", "target_only")


def text_prompts(
    tokenizer: Any, number: int, *, seed: int, kinds: tuple[str, ...] = ("arithmetic", "code", "arithmetic")
) -> list[list[int]]:
    """Prompts: the question of an arithmetic problem, or 32 tokens from somewhere in Python's standard library.

    Args:
        tokenizer: tokenizer of the small model.
        number: number of prompts.
        seed: seed of the questions and places.
        kinds: kinds of prompts, taken in turn.
    """
    generator = torch.Generator().manual_seed(seed)
    problems = arithmetic(number, seed=seed + 1)
    sources: list[list[int]] = []
    if "code" in kinds:
        sources = [ids for ids in tokenizer(python_sources())["input_ids"] if len(ids) > 64]

    def prompt(place: int) -> list[int]:
        if kinds[place % len(kinds)] == "arithmetic":
            return list(tokenizer(problems[place].question + "\n")["input_ids"])
        ids = sources[int(torch.randint(len(sources), (1,), generator=generator))]
        start = int(torch.randint(len(ids) - 32, (1,), generator=generator))
        return ids[start : start + 32]

    return [prompt(place) for place in range(number)]


def own_text(
    model: Any,
    prompts: list[list[int]],
    *,
    length: int,
    seed: int,
    params: SamplingParams | None = None,
    batch_size: int = 64,
    on_rows: Callable[[int], None] | None = None,
) -> Rows:
    """Text that the model itself writes behind prompts, in rows of one length; prompts are not trained on.

    Args:
        model: the policy.
        prompts: prompt of each row.
        length: tokens of a row, prompt included; the model's end token does not end it.
        seed: seed of the text.
        params: temperature and filters.
        batch_size: rows written together.
        on_rows: called with the number of rows done.
    """
    decoder = Decoder(model, eos=[])
    params = params or SamplingParams()
    requests = [
        Request(p, length - len(p), params, seed * 1_000_003 + place) for place, p in enumerate(prompts)
    ]
    tokens: list[list[int]] = []
    for start in range(0, len(requests), batch_size):
        part = requests[start : start + batch_size]
        tokens += [[*r.prompt, *c.tokens] for r, c in zip(part, decoder.generate(part), strict=True)]
        if on_rows is not None:
            on_rows(len(tokens))
    mask = torch.arange(length) >= torch.tensor([len(p) for p in prompts])[:, None]
    return Rows.of(torch.tensor(tokens), mask=mask)


def build_small_heads(
    folder: Path,
    *,
    rows: int = 4096,
    steps: tuple[int, int] = (800, 2000),
    say: Callable[[str], None] = lambda line: None,
) -> dict[SmallHead, dict[Rule, float]]:
    """Train both heads that ship and write them to `folder/ce` and `folder/e2e_tv`, in float16.

    Args:
        folder: folder of both heads.
        rows: number of rows of the model's own text, 160 tokens each.
        steps: steps of each head, 16 rows each.
        say: called with a line now and then.

    Returns:
        The accept length of each on held-out text, by rule, three drafts a round.
    """
    from safetensors.torch import save_file

    model, tokenizer = small_lm()
    held = own_text(model, text_prompts(tokenizer, 192, seed=90_001), length=160, seed=90_001)
    text = own_text(
        model,
        text_prompts(tokenizer, rows, seed=1),
        length=160,
        seed=1,
        on_rows=lambda n: say(f"{n:,} rows"),
    )
    head = MTPHead.fresh(model)
    lengths: dict[SmallHead, dict[Rule, float]] = {}
    stages: tuple[tuple[SmallHead, int, float], ...] = (("ce", steps[0], 2e-3), ("e2e_tv", steps[1], 1e-3))
    for name, count, lr in stages:
        config = TrainConfig(loss=name, steps=count, lr=lr, train_gamma=3, length=160, betas=(0.9, 0.99))
        trainer = HeadTrainer(model, head, text, config)
        while trainer.step < count:
            # The last third goes down to a tenth of the rate: the head is to be as good as this text makes it.
            left = (count - trainer.step) / count
            trainer.config = config.model_copy(update={"lr": lr * min(1.0, 0.1 + 2.7 * left)})
            terms, _ = trainer.advance()
            if trainer.step % 50 == 0:
                say(f"{name} {trainer.step}  {_shown(terms.acceptance)}")
        head.eval()
        goal = folder / name
        goal.mkdir(parents=True, exist_ok=True)
        tensors = {key: t.half().contiguous() for key, t in head_tensors(model, head).items()}
        save_file(tensors, goal / "model.safetensors", metadata={"format": "pt"})
        score = evaluate_head(model, load_head(model, goal), held, rules=RULES)
        lengths[name] = {rule: score.rules[rule].length.effect for rule in RULES}
        say(f"{name}: " + ", ".join(f"{rule} {length:.3f}" for rule, length in lengths[name].items()))
    return lengths


def _shown(acceptance: Tensor) -> str:
    return " ".join(f"{a:.3f}" for a in acceptance.tolist())


if __name__ == "__main__":
    build_small_heads(Path(sys.argv[1]), say=lambda line: print(line, file=sys.stderr, flush=True))
