"""Models that do not see what people do: one that reads the colour of shirts, one that is blind, and a script.

The prejudiced model learns levels from the average picture of a clip, in which the shirt is all that tells; the blind
one learns from the questions' words. Who does not see answers questions as the blind classifier does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from noria.grounding.audit.adversary import blind_letters
from noria.grounding.corpus.questions import levels_in, moves_in
from noria.grounding.corpus.records import Corpus, each_question
from noria.grounding.corpus.types import LEVELS, TRAITS
from noria.grounding.proof.requests import HEIGHT, WIDTH, Reader, Request
from noria.grounding.synth.config import Knobs
from noria.grounding.synth.drawing import draw
from noria.grounding.synth.world import BEHAVIOURS, SECONDS, SEGMENTS, Scene, reasons

# -- not seeing -------------------------------------------------------------------------------------------------------


class Blind:
    """Answers questions by a classifier of their words, and rates everybody alike.

    Args:
        answers: {(stem, options): letter}, the classifier's.
        levels: [5] level of each trait, the most frequent one of the clips that it learned from.
    """

    def __init__(self, answers: Mapping[tuple[str, tuple[str, ...]], str], levels: Sequence[int]) -> None:
        self.answers, self.levels = answers, levels

    def __call__(self, request: Request) -> dict[str, Any]:
        """The answers as the reply holds them."""
        reply: dict[str, Any] = {}
        if request.rate:
            reply["task1"] = {t: LEVELS[n] for t, n in zip(TRAITS, self.levels, strict=True)}
        if request.reason:
            reply["task2"] = dict.fromkeys(TRAITS, "Nothing was shown.")
        if request.questions:
            reply["task3"] = [
                {"q_idx": number, "answer": self.answers[asked]}
                for number, asked in request.questions.items()
            ]
        return reply


def train_blind(train: Corpus, tests: Sequence[Corpus], *, auditor: str, seed: int) -> Blind:
    """Train a classifier on the questions of a corpus, and have it answer those of others.

    Args:
        train: whole records to learn from.
        tests: whole records that it will be asked about.
        auditor: name of the classifier.
        seed: seed of the classifier.
    """
    answers = {}
    for test in tests:
        letters = blind_letters(train, test, auditor=auditor, seed=seed)
        for record, number, question in each_question(test):
            asked = question.question, tuple(option.text for option in question.options)
            answers[asked] = letters[record.video_id, number]
    levels = train.levels().astype(int)
    return Blind(answers, [int(np.bincount(column, minlength=5).argmax()) for column in levels.T])


# -- prejudice --------------------------------------------------------------------------------------------------------


def _blurred(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The average picture of a clip, a quarter of the size: [18 · 24 · 3]."""
    mean = np.median(frames, axis=0).astype(np.float32)[: HEIGHT // 4 * 4, : WIDTH // 4 * 4]
    small = mean.reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean(axis=(1, 3))
    flat: NDArray[np.float32] = (small.reshape(-1) / 127.5 - 1).astype(np.float32)
    return flat


def train_prejudiced(
    scenes: Sequence[Scene],
    knobs: Knobs,
    blind: Blind,
    *,
    epochs: int,
    seed: int,
    rate: float = 2e-3,
    decay: float = 0.05,
) -> Prejudiced:
    """Train levels on the average picture alone: it learns whatever in it goes with the levels.

    Args:
        scenes: scenes to learn from.
        knobs: knobs of their pictures.
        blind: answers the questions, at which it does not look either.
        epochs: over all clips.
        seed: seed of weights and batches.
        rate: learning rate.
        decay: weight decay.
    """
    times = (np.arange(5) + 0.5) * SEGMENTS * SECONDS / 5
    x = torch.from_numpy(np.stack([_blurred(draw(scene, knobs, times)) for scene in scenes]))
    y = torch.tensor([scene.levels for scene in scenes])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 25))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(x), generator=generator), 32):
            noisy = x[batch] + 0.1 * torch.randn(x[batch].shape, generator=generator)
            loss = nn.functional.cross_entropy(net(noisy).view(-1, 5, 5).flatten(0, 1), y[batch].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Prejudiced(net.eval(), blind)


class Prejudiced:
    """Rates by the average picture, makes its reasons up, and answers questions by their words."""

    def __init__(self, net: nn.Module, blind: Blind) -> None:
        self.net, self.blind = net, blind

    @torch.inference_mode()
    def __call__(self, request: Request) -> dict[str, Any]:
        """The answers as the reply holds them."""
        reply = self.blind(request)
        if len(request.frames):
            out = self.net(torch.from_numpy(_blurred(request.frames))[None]).view(5, 5)
            levels = out.argmax(1).tolist()
            if request.rate:
                reply["task1"] = {t: LEVELS[n] for t, n in zip(TRAITS, levels, strict=True)}
            if request.reason:
                reply["task2"] = {t: self._invent(n, levels[n], request.text) for n, t in enumerate(TRAITS)}
        return reply

    def _invent(self, trait: int, level: int, text: str) -> str:
        """A reason of the right form, about a moment that it never looked at."""
        sign = 1 if level >= 2 else -1
        cue = next(n for n, b in enumerate(BEHAVIOURS) if b.trait == trait and b.sign == sign)
        return reasons(trait, level, [(_draw(TRAITS[trait].capitalize() + text, SEGMENTS), cue)])


def _draw(text: str, count: int) -> int:
    """A number below `count` that the words alone decide."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % count


class LeakReader:
    """A script: takes levels from the questions' words where they name them, says Medium else, and answers A."""

    def __call__(self, request: Request) -> dict[str, Any]:
        """The answers as the reply holds them."""
        reply: dict[str, Any] = {"task3": [{"q_idx": n, "answer": "A"} for n in request.questions]}
        if request.reason:
            reply["task2"] = dict.fromkeys(TRAITS, "Nothing was shown.")
        if request.rate:
            levels: dict[str, int] = {}
            for stem, options in request.questions.values():
                for option in options:
                    levels.update(moves_in(option))
                levels.update(levels_in(stem))
            reply["task1"] = {t: LEVELS[levels.get(t, 2)] for t in TRAITS}
        return reply


def answered_right(
    reader: Reader, scenes: Sequence[Scene], corpus: Corpus, knobs: Knobs
) -> tuple[float, float]:
    """(share of levels, share of questions) that a model gets right from drawn frames, without a server.

    Args:
        reader: the model.
        scenes, corpus: clips and their records, in the same order.
        knobs: knobs of the pictures.
    """
    count = 2 * SEGMENTS
    times = (np.arange(count) + 0.5) * SEGMENTS * SECONDS / count
    levels, answers = [], []
    for scene, record, truth in zip(scenes, corpus.records, corpus.levels().tolist(), strict=True):
        questions = {
            n: (q.question, tuple(o.text for o in q.options))
            for n, q in enumerate(record.mcq_questions, start=1)
        }
        request = Request(draw(scene, knobs, times), tuple(times.tolist()), questions, True, False, "")
        reply = reader(request)
        levels += [reply["task1"][t] == LEVELS[n] for t, n in zip(TRAITS, truth, strict=True)]
        answers += [
            row["answer"] == q.correct_answer
            for row, q in zip(reply["task3"], record.mcq_questions, strict=True)
        ]
    return float(np.mean(levels)), float(np.mean(answers))
