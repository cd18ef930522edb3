"""A small neural assistant that is trained here: what its body states causes what it does, as far as it has learned.

A decoder-only transformer of some hundred thousand weights reads the words of a body, the thing that a tool found, and
writes an answer word by word. It is trained on random bodies, obeying what they state as the simulation does; that this
carries over to bodies that the chain writes has to be measured (treatment sensitivity), and is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from noria.skills.bank.bank import Bank
from noria.skills.proof.simulator import RATES
from noria.skills.proof.world import KNOWN, NEEDS, PURPOSES, TOOLS, Need
from noria.skills.traffic.samples import Call, Response, Sample

BODY, LONGEST, CONTEXT = 96, 12, 110
FAULT = "Avoid this fault:"
SPECIAL = ("<pad>", "<unk>", "<answer>", "<end>", "<call>", "<card>")


@dataclass
class Words:
    """The assistant's words by number."""

    index: dict[str, int]

    @classmethod
    def of(cls, things: Sequence[str]) -> Words:
        """Words of the needs, the purposes and the things (one each)."""
        texts = [t for need in NEEDS for t in (need.say, *need.faults)] + [*PURPOSES.values(), FAULT]
        found = {w for text in texts for w in _split(text)} | {n.token for n in NEEDS if n.token}
        names = [*SPECIAL, *sorted(found), *sorted(f"thing:{t}" for t in set(things))]
        return cls({name: number for number, name in enumerate(names)})

    def encode(self, body: str, thing: str) -> list[int]:
        """Numbers of a body's words and of the thing, padded at the left to `BODY` and closed by <answer>."""
        words = [self.index.get(w, 1) for w in _split(body)][-(BODY - 2) :]
        words = [*words, self.index.get(f"thing:{thing}", 1), self.index["<answer>"]]
        return [0] * (BODY - len(words)) + words


def _split(text: str) -> list[str]:
    return [
        w
        for w in text.lower().replace("#", " ").replace("-", " ").replace(".", " ").replace(":", " ").split()
        if w
    ]


def target(met: Sequence[bool], thing: str) -> list[str]:
    """Words of an answer that meets these needs."""
    by_id = {need.id: ok for need, ok in zip(NEEDS, met, strict=True)}
    words = ["<call>"] if by_id["tool"] else []
    words += [f"thing:{thing}"]
    words += ["<card>"] if by_id["cards"] else []
    words += [n.token for n in NEEDS if n.token and by_id[n.id] and n.id != "source"]
    words += ["[source]"] if by_id["source"] else []
    return [*words, "<end>"]


def _line(need: Need, generator: np.random.Generator) -> str:
    if need.faults and generator.random() < 0.5:
        return f"{FAULT} {generator.choice(need.faults)}."
    return need.say


def make_model(size: int, width: int = 64) -> Any:
    """A decoder of two layers."""
    import torch
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(size, width)
            self.places = nn.Embedding(CONTEXT, width)
            layer = nn.TransformerEncoderLayer(
                width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
            self.out = nn.Linear(width, size)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            n = ids.shape[1]
            mask = torch.triu(torch.full((n, n), float("-inf")), 1)
            hidden = self.words(ids) + self.places(torch.arange(n))
            logits: torch.Tensor = self.out(self.layers(hidden, mask=mask, is_causal=True)[:, BODY - 1 :])
            return logits

    return Decoder()


def train_assistant(things: Sequence[str], *, seed: int, steps: int, batch: int = 48) -> NeuralAssistant:
    """Train on random bodies.

    Args:
        things: names of the world's things.
        seed: seed of the weights and of the bodies.
        steps: number of steps.
        batch: bodies a step.
    """
    import torch

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    words = Words.of(things)
    model = make_model(len(words.index))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        ids = np.zeros((batch, BODY + LONGEST), np.int64)
        for row in ids:
            stated = generator.random(len(NEEDS)) < generator.random()
            order = generator.permutation(np.flatnonzero(stated))
            name = str(generator.choice(KNOWN))
            lines = [_line(NEEDS[k], generator) for k in order]
            body = f"# {name}\n{PURPOSES[name]}\n## Rules\n" + "\n".join(f"- {line}" for line in lines)
            thing = str(generator.choice(list(things)))
            met = generator.random(len(NEEDS)) < [RATES[need.stated(body)] for need in NEEDS]
            answer = [words.index[w] for w in target(met.tolist(), thing)]
            row[:BODY] = words.encode(body, thing)
            row[BODY : BODY + len(answer)] = answer
        tokens = torch.from_numpy(ids)
        logits = model(tokens[:, :-1])
        wanted = tokens[:, BODY:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return NeuralAssistant(model.eval(), words, seed)


class NeuralAssistant:
    """Writes answers with the trained decoder, each sampled with a seed of its own.

    Args:
        model: the decoder.
        words: words that the model knows.
        seed: seed of what it draws.
    """

    name = "neural"

    def __init__(self, model: Any, words: Words, seed: int) -> None:
        self.model, self.words, self.seed = model, words, seed

    def answer(self, samples: Sequence[Sample], skills: Sequence[str | None], bank: Bank) -> list[Response]:
        """One response a sample."""
        import torch

        made: list[Response] = []
        names = {number: word for word, number in self.words.index.items()}
        for start in range(0, len(samples), 256):
            part, chosen = samples[start : start + 256], skills[start : start + 256]
            bodies = [bank.skills[k].body if k is not None and k in bank.skills else "" for k in chosen]
            rows = [
                self.words.encode(b, str(s.evidence.get("found"))) for s, b in zip(part, bodies, strict=True)
            ]
            ids = torch.tensor(rows)
            draws = torch.rand((len(part), LONGEST), generator=torch.Generator().manual_seed(self.seed))
            with torch.no_grad():
                for place in range(LONGEST):
                    chances = self.model(ids)[:, -1].softmax(-1).cumsum(-1)
                    new = (chances < draws[:, place : place + 1] * chances[:, -1:]).sum(-1, keepdim=True)
                    ids = torch.cat([ids, new.clamp(max=len(names) - 1)], dim=1)
            for sample, skill, row in zip(part, chosen, ids[:, BODY:].tolist(), strict=True):
                made.append(_response(sample, skill, [names[n] for n in row]))
        return made


def _response(sample: Sample, skill: str | None, words: Sequence[str]) -> Response:
    words = list(words[: words.index("<end>")] if "<end>" in words else words)
    call = (Call(TOOLS[skill], {}),) if "<call>" in words and skill in TOOLS else ()
    cards = ({"title": str(sample.evidence.get("found")), "price": 5},) if "<card>" in words else ()
    text = " ".join(w.removeprefix("thing:") for w in words if not w.startswith("<"))
    return Response(text, call, cards, "", skill)


def sensitivity(assistant: NeuralAssistant, samples: Sequence[Sample], bank_of: Any) -> tuple[float, float]:
    """Share of needs met where a body states them, and where it does not: the causes that stage 3 can work with."""
    stated: list[bool] = []
    unstated: list[bool] = []
    for need in NEEDS:
        for side, hits in ((True, stated), (False, unstated)):
            bank = bank_of([need.id] if side else [])
            answers = assistant.answer(samples, ["encyclopedia"] * len(samples), bank)
            for answer in answers:
                words = answer.text.split()
                met = (
                    bool(answer.calls)
                    if need.id == "tool"
                    else bool(answer.cards)
                    if need.id == "cards"
                    else need.token in words
                )
                hits.append(met)
    return float(np.mean(stated)), float(np.mean(unstated))
