"""Training of the shop's chat models: `python -m noria.assistant.world.training FOLDER` remakes what ships.

It trains two sizes of one family on drawn dialogues, and prints how often each writes held-out dialogues exactly.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.assistant.world.chat_model import ChatModel, Turn, Writer
from noria.assistant.world.dialogues import Dialogue, Grammar
from noria.core.errors import require
from noria.core.files import write_atomic
from noria.core.models.lm import save_lm, small_config, train_lm, train_tokenizer
from noria.core.pictures import things
from noria.editing.world.instructions import WORDINGS
from noria.editing.world.vocabulary import NAMES

SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 48, "layers": 2, "heads": 4},
    "large": {"width": 64, "layers": 2, "heads": 4},
}
"""Sizes of the two models."""
STEPS = {"small": (800, 0), "large": (4000, 1500)}
"""Optimizer steps of each: on dialogues with set phrases around, then with small talk strung together at random."""
DIALOGUES = {"small": (19_200, 0), "large": (60_000, 40_000)}
"""Dialogues of each phase."""
RATES = (3e-3, 2e-3)
"""Peak learning rate of each phase."""
ROW = 160
"""Tokens of a row: one dialogue, padded; longer ones are left out."""
BATCH = 24
TOPICS = (
    "life expectancy", "population", "child mortality", "co2 emissions", "energy use", "rainfall", "temperature",
    "earthquakes", "unemployment", "wheat", "fish catch", "forests", "literacy", "internet users", "income", "trade",
    "vaccination", "hunger", "tourism", "airports", "penguins", "cars", "birth rate", "fertility", "schooling", "water",
    "sea level", "electricity", "coal", "solar power", "wind power", "nuclear power", "military spending", "homicides",
    "road deaths", "smoking", "alcohol", "obesity", "sugar", "meat", "coffee", "rice", "cocoa", "working hours", "rent",
)  # fmt: skip
"""Topics of reports in the training's dialogues, alone or in a country."""
COUNTRIES = ("spain", "italy", "poland", "india", "china", "mexico", "egypt", "ghana", "peru", "chile", "cuba",
             "greece", "turkey", "vietnam", "iceland", "malta", "jordan", "nepal", "fiji", "uganda")  # fmt: skip
"""Countries of reports in the training's dialogues; the shop's users ask about others."""


def is_held_out(name: str) -> bool:
    """Whether a thing's name is kept from training: one in ten, by its hash."""
    return hashlib.sha256(name.encode()).digest()[0] % 10 == 0


def wishes() -> list[str]:
    """Instructions of edits, without the wording that the packaged planner has not seen."""
    fixed = [words for kind, wordings in WORDINGS.items() if kind != "swap" for words in wordings[:-1]]
    pairs = [(a, b) for n, a in enumerate(NAMES) for b in NAMES[n + 1 :: 7]]
    swaps = [words.format(a, b) for a, b in pairs[::3] for words in WORDINGS["swap"][:-1]]
    return fixed * 8 + swaps[:200]


def grammar(seed: int, *, held_out: bool = False, talk: bool = True) -> Grammar:
    """The dialogues of a seed; those for tests are about things that no training dialogue names."""
    names = [one.name for one in things() if is_held_out(one.name) == held_out]
    places = [f"{topic} {word} {name}" for topic in TOPICS for name in COUNTRIES for word in ("in", "of")]
    topics = [*TOPICS * 10, *places]
    if talk:  # so many that they must be copied, and cannot be known
        topics = [*topics[:: len(topics) // 500], *_strung(names, seed)]
    return Grammar(names, wishes(), topics, seed=seed, talk=talk)


def _strung(names: Sequence[str], seed: int, number: int = 4000) -> list[str]:
    """Topics strung together from words of topics and of things."""
    chance = random.Random(seed)
    words = sorted({word for text in (*TOPICS, *names) for word in text.split()})
    return [
        f"{' '.join(chance.choices(words, k=chance.randint(1, 3)))} {chance.choice(('in', 'of'))} "
        f"{chance.choice((*COUNTRIES, *words))}"
        for _ in range(number)
    ]


def rows_of(writer: Writer, dialogues: Sequence[Dialogue]) -> tuple[Tensor, Tensor]:
    """[at most dialogues, ROW] tokens, and which of them the model says."""
    rows = torch.full((len(dialogues), ROW), 1)
    said = torch.zeros(rows.shape, dtype=torch.bool)
    number = 0
    for one in dialogues:
        turn = Turn(
            one.system, one.tools, one.user.removesuffix(" [picture]"), one.user.endswith("[picture]")
        )
        tokens = writer.before(turn)
        own = [False] * len(tokens)
        if one.call:
            call = [*writer.tokens(f" CALL {one.call}"), 0]
            both = writer.before(Turn(**(turn.__dict__ | {"call": one.call, "result": one.result})))
            tokens, own = both, [*own, *[True] * len(call), *[False] * (len(both) - len(own) - len(call))]
        answer = [*writer.tokens(" " + one.answer), 0]
        tokens, own = [*tokens, *answer], [*own, *[True] * len(answer)]
        if len(tokens) <= ROW:
            rows[number, : len(tokens)] = torch.tensor(tokens)
            said[number, : len(own)] = torch.tensor(own)
            number += 1
    return rows[:number], said[:number]


def build(
    folder: Path,
    size: str,
    *,
    steps: tuple[int, int],
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train a model into a folder, in two phases; weights are stored in bfloat16.

    Returns:
        Shares of held-out dialogues whose call and whose answer are written exactly, and the number of parameters.
    """
    transformers = require("transformers", "mtp")
    numbers = DIALOGUES[size]
    drawn = _drawn(0, numbers[0], talk=False)
    tokenizer = train_tokenizer(map(_text, drawn[:8000]), 1536)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Qwen3ForCausalLM(small_config(len(tokenizer), length=512, **SIZES[size]))
    for phase, number in enumerate(steps):
        if not number:
            continue
        drawn = drawn if phase == 0 else _drawn(2, numbers[phase], talk=True)
        rows, said = rows_of(Writer(tokenizer), drawn)
        rate = RATES[phase]
        train_lm(
            model, rows, learnt=said, steps=number, batch_size=BATCH, lr=rate, seed=phase, on_step=on_step
        )
    save_lm(model.bfloat16(), tokenizer, folder)
    return exactness(ChatModel(folder))


def _drawn(seed: int, number: int, *, talk: bool) -> list[Dialogue]:
    source = grammar(seed, talk=talk)
    return [source.draw() for _ in range(number)]


def _text(one: Dialogue) -> str:
    """A dialogue with all the words that part it, for the tokenizer."""
    head = f" BODY {one.system} TOOLS {' '.join(one.tools)} USER {one.user} SAY CALL {one.call} LIMIT"
    return f"{head} RESULT {one.result} SAY {one.answer}"


def exactness(model: ChatModel, number: int = 400) -> dict[str, Any]:
    """Shares of held-out dialogues whose call and whose answer are written exactly."""
    source = grammar(1, held_out=True)
    right: dict[str, list[bool]] = {"call": [], "answer": []}
    drawn = [source.draw() for _ in range(number)]
    for first in range(0, number, 50):
        part = drawn[first : first + 50]
        turns = [
            Turn(d.system, d.tools, d.user.removesuffix(" [picture]"), d.user.endswith("[picture]"))
            for d in part
        ]
        for one, (text, _, _) in zip(part, model.speak(turns), strict=True):
            right["call"].append(text == (f"CALL {one.call}" if one.call else one.answer))
        later = [(one, Turn(**(turn.__dict__ | {"call": one.call, "result": one.result})))
                 for one, turn in zip(part, turns, strict=True) if one.call]  # fmt: skip
        for (one, _), (text, _, _) in zip(later, model.speak([turn for _, turn in later]), strict=True):
            right["answer"].append(text == one.answer)
    return {name: sum(values) / len(values) for name, values in right.items()} | {
        "parameters": model.parameters
    }


def main() -> None:
    """Train both sizes into FOLDER/small and FOLDER/large."""
    home = Path(sys.argv[1])
    sizes = sys.argv[2:] or list(SIZES)
    for size in sizes:

        def told(step: int, loss: float, size: str = size) -> None:
            if step % 50 == 0:
                print(f"{size}  step {step} of {STEPS[size]}  {loss:.3f} nats", file=sys.stderr, flush=True)

        figures = build(home / size, size, steps=STEPS[size], on_step=told)
        write_atomic(home / size / "figures.json", json.dumps(figures, indent=1) + "\n")
        print(f"{size}: {figures['parameters']:,} parameters; exactly as wanted on held-out things: "
              f"{figures['call']:.3f} of calls, {figures['answer']:.3f} of answers")  # fmt: skip


if __name__ == "__main__":
    main()
