"""Models that the proof trains and serves: one that sees what people do, one that reads shirts, one that is blind.

All are small, and learn from the same clips. The seer learns behaviours and places of the head from frames; the
prejudiced model learns levels from the average picture of a clip, in which the shirt is all that tells; the blind one
learns from the questions' words. Who does not see answers questions as the blind classifier does.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noria.grounding.audit.adversary import blind_letters
from noria.grounding.corpus.questions import boxes_in, levels_in, moves_in, spans_in, times_in, traits_in
from noria.grounding.corpus.records import Corpus, each_question
from noria.grounding.corpus.types import LEVELS, TRAITS
from noria.grounding.synth.config import Knobs
from noria.grounding.synth.drawing import draw
from noria.grounding.synth.world import BEHAVIOURS, PAIR_OF, SECONDS, SEGMENTS, Scene, reasons

HEIGHT, WIDTH = 72, 96
Reader = Callable[["Request"], dict[str, Any]]


@dataclass(frozen=True)
class Request:
    """What a request shows and asks.

    Attributes:
        frames: [k, height, width, 3]; k may be 0.
        seconds: [k] time of each frame.
        questions: {number: (stem, options)}.
        rate, reason: whether levels and reasons are asked for.
        text: all words of the request.
    """

    frames: NDArray[np.uint8]
    seconds: tuple[float, ...]
    questions: Mapping[int, tuple[str, tuple[str, ...]]]
    rate: bool
    reason: bool
    text: str


# -- seeing -----------------------------------------------------------------------------------------------------------


class Eye(nn.Module):
    """Frames [n, 3, 72, 96] to logits [n, 12] of behaviours and [n, 2] of places."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, 12, 24, 48, 64)
        layers: list[nn.Module] = []
        for place, (a, b) in enumerate(itertools.pairwise(sizes)):
            kernel = 5 if place == 0 else 3
            layers += [nn.Conv2d(a, b, kernel, stride=2, padding=kernel // 2), nn.GroupNorm(4, b), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 5 * 6, 96), nn.ReLU())
        self.head = nn.Linear(96, len(BEHAVIOURS) + 2)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of behaviours and of places."""
        out = self.head(self.body(frames))
        return out[:, :-2], out[:, -2:]


def as_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """[n, h, w, 3] bytes to [n, 3, h, w] about 0."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def training_frames(scenes: Sequence[Scene], knobs: Knobs) -> tuple[Tensor, Tensor, Tensor]:
    """Frames drawn at the times a runner takes them: bytes [n, h, w, 3], behaviours [n], places [n]."""
    count = 2 * SEGMENTS
    times = (np.arange(count) + 0.5) * SEGMENTS * SECONDS / count
    segment = (times / SECONDS).astype(int)
    frames = [draw(scene, knobs, times) for scene in scenes]
    behaviours = [np.array(scene.behaviours)[segment] for scene in scenes]
    places = [np.array(scene.right, dtype=np.int64)[segment] for scene in scenes]
    return (
        torch.from_numpy(np.concatenate(frames)),
        torch.from_numpy(np.concatenate(behaviours)),
        torch.from_numpy(np.concatenate(places)),
    )


def train_seer(
    scenes: Sequence[Scene],
    knobs: Knobs,
    *,
    epochs: int,
    seed: int,
    rate: float = 4e-3,
    noise: float = 0.05,
    on_step: Callable[[int, int, float], None] | None = None,
) -> Seer:
    """Train the eye on drawn frames, with a little noise of the coder's size; then the rating on what it sees.

    Args:
        scenes: scenes to learn from.
        knobs: knobs of their pictures.
        epochs: over all frames.
        seed: seed of weights and batches.
        rate: largest learning rate.
        noise: spread of the noise that is added to frames.
        on_step: called with (step, steps, loss).
    """
    frames, behaviours, places = training_frames(scenes, knobs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        eye = Eye()
    generator = torch.Generator().manual_seed(seed)
    size = 64
    steps = epochs * (len(frames) // size)
    optimizer = torch.optim.AdamW(eye.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(2, steps), pct_start=0.2)
    eye.train()
    for step in range(steps):
        batch = torch.randint(len(frames), (size,), generator=generator)
        x = as_tensor(frames[batch].numpy())
        x = x + noise * torch.randn(x.shape, generator=generator)
        what, where = eye(x)
        loss = nn.functional.cross_entropy(what, behaviours[batch])
        loss = loss + 0.3 * nn.functional.cross_entropy(where, places[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if on_step:
            on_step(step + 1, steps, float(loss.detach()))
    eye.eval()
    seer = Seer(eye, np.zeros((len(BEHAVIOURS) + 1, 5)))
    # Levels from how much of each behaviour was seen: least squares, as a reader of the ratings would find.
    seen = np.stack(
        [seer.amounts(part) for part in frames.numpy().reshape(len(scenes), -1, *frames.shape[1:])]
    )
    levels = np.array([scene.levels for scene in scenes], dtype=float)
    design = np.hstack([seen, np.ones((len(seen), 1))])
    ridge = design.T @ design + 0.1 * np.eye(design.shape[1])
    seer.weights = np.linalg.solve(ridge, design.T @ levels)
    return seer


class Seer:
    """Answers by what its eye sees in the frames."""

    def __init__(self, eye: Eye, weights: NDArray[np.float64]) -> None:
        self.eye, self.weights = eye, weights

    @torch.inference_mode()
    def look(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-probabilities [k, 12] and [k, 2]."""
        what, where = self.eye(as_tensor(frames))
        return what.log_softmax(1).double().numpy(), where.log_softmax(1).double().numpy()

    def amounts(self, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """[12] segments' worth of each behaviour."""
        segments: NDArray[np.float64] = np.exp(self.look(frames)[0]).mean(axis=0) * SEGMENTS
        return segments

    def __call__(self, request: Request) -> dict[str, Any]:
        """The answers as the reply holds them."""
        reply: dict[str, Any] = {}
        if not len(request.frames):
            raise ValueError("the seer was shown no frame")
        what, where = self.look(request.frames)
        times = np.array(request.seconds)
        if request.rate or request.reason:
            amounts = np.exp(what).mean(axis=0) * SEGMENTS
            raw = np.append(amounts, 1.0) @ self.weights
            levels = np.clip(np.rint(raw), 0, 4).astype(int).tolist()
            if request.rate:
                reply["task1"] = {t: LEVELS[n] for t, n in zip(TRAITS, levels, strict=True)}
            if request.reason:
                reply["task2"] = {t: _reasons(n, what, times, levels[n]) for n, t in enumerate(TRAITS)}
        if request.questions:
            reply["task3"] = [
                {
                    "q_idx": number,
                    "answer": _letter([self._score(stem, o, what, where, times) for o in options]),
                }
                for number, (stem, options) in request.questions.items()
            ]
        return reply

    def _score(
        self,
        stem: str,
        option: str,
        what: NDArray[np.float64],
        where: NDArray[np.float64],
        times: NDArray[np.float64],
    ) -> float:
        """How well an option goes with what is seen."""
        if option.startswith("first "):
            return _in_order(option, what, times)
        boxes, when = boxes_in(option), times_in(option)
        spans = spans_in(option)
        if boxes and when:  # where and when does this happen?
            mine = _about(times, when[0] - SECONDS / 2, when[0] + SECONDS / 2)
            side = int(boxes[0][0] + boxes[0][2] / 2 > 0.5)
            return _mean(what[mine][:, _named(stem)]) + _mean(where[mine][:, [side]])
        if spans:  # when is the cue for this trait?
            mine = _about(times, *spans[0])
            pair = [2 * PAIR_OF[TRAITS.index(t)] + s for t in traits_in(stem) for s in (0, 1)]
            return _mean(_some(what[mine], pair))
        moments = spans_in(stem)
        at = times_in(stem)
        mine = (
            _about(times, *moments[0]) if moments else _about(times, at[0] - SECONDS / 2, at[0] + SECONDS / 2)
        )
        named = traits_in(option)
        if named:  # what does this speak for? what would change without it?
            up = "above" in option or "falls" in option
            sign = 1 if up else -1
            return _mean(
                _some(
                    what[mine],
                    [n for n, b in enumerate(BEHAVIOURS) if _of(b.trait) in named and b.sign == sign],
                )
            )
        felt = [n for n, b in enumerate(BEHAVIOURS) if option.startswith(b.feeling)]
        return _mean(_some(what[mine], felt or _named(option)))


def _of(trait: int | None) -> str:
    return "" if trait is None else TRAITS[trait]


def _about(times: NDArray[np.float64], start: float, end: float) -> NDArray[np.bool_]:
    inside = (times >= start) & (times < end)
    if not inside.any():
        inside[int(np.argmin(np.abs(times - (start + end) / 2)))] = True
    return inside


def _named(text: str) -> list[int]:
    """Behaviours whose words are in a text."""
    return [n for n, b in enumerate(BEHAVIOURS) if b.words in text]


def _some(logs: NDArray[np.float64], columns: Sequence[int]) -> NDArray[np.float64]:
    """Log of the summed probability of some behaviours."""
    if not columns:
        return np.full(len(logs), -20.0)
    summed: NDArray[np.float64] = np.log(np.exp(logs[:, list(columns)]).sum(axis=1) + 1e-9)
    return summed


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else -20.0


def _in_order(option: str, what: NDArray[np.float64], times: NDArray[np.float64]) -> float:
    """How many pairs of `first X, then Y, then Z` come in that order, by the first frame that shows each."""
    places = sorted((option.index(BEHAVIOURS[n].words), n) for n in _named(option))
    first = []
    for _, n in places:
        shown = np.flatnonzero(what[:, n] > np.log(0.5))
        first.append(times[shown[0]] if len(shown) else times[int(np.argmax(what[:, n]))])
    return float(sum(a < b for i, a in enumerate(first) for b in first[i + 1 :]))


def _reasons(trait: int, what: NDArray[np.float64], times: NDArray[np.float64], level: int) -> str:
    """What was seen that bears on a trait, and when."""
    seen = [
        (s, int(np.argmax(what[_about(times, SECONDS * s, SECONDS * (s + 1))].mean(axis=0))))
        for s in range(SEGMENTS)
    ]
    return reasons(trait, level, [(s, n) for s, n in seen if BEHAVIOURS[n].trait == trait])


def _letter(scores: Sequence[float]) -> str:
    return "ABCDEF"[int(np.argmax(scores))]


def _draw(text: str, count: int) -> int:
    """A number below `count` that the words alone decide."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % count


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


# -- the wire ---------------------------------------------------------------------------------------------------------

_QUESTION = re.compile(r"^Question (\d+) \[[^\]]*\]: ", re.MULTILINE)
_OPTION = re.compile(r"^([A-F])\) (.*)$", re.MULTILINE)


def read_request(body: Mapping[str, Any]) -> Request:
    """What a chat request shows and asks; frames come behind their times."""
    from PIL import Image

    content = body["messages"][-1]["content"]
    parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    frames: list[NDArray[np.uint8]] = []
    seconds: list[float] = []
    words: list[str] = []
    for part in parts:
        if part["type"] == "text":
            at = re.fullmatch(r"\[t=([\d.]+)s\]", part["text"])
            if at:
                seconds.append(float(at[1]))
            else:
                words.append(part["text"])
        elif part["type"] == "image_url":
            raw = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            frames.append(np.asarray(Image.open(io.BytesIO(raw)).convert("RGB").resize((WIDTH, HEIGHT))))
    text = "\n".join(words)
    pieces = _QUESTION.split(text)
    questions = {}
    for number, block in zip(pieces[1::2], pieces[2::2], strict=True):
        stem = block.split("\n", 1)[0]
        questions[int(number)] = (stem, tuple(option for _, option in _OPTION.findall(block)))
    shown = np.stack(frames) if frames else np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
    return Request(shown, tuple(seconds), questions, "Task 1." in text, "Task 2." in text, text)


def chat_reply(body: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The protocol's reply of the reader that the request names.

    Raises:
        KeyError: there is no such reader.
    """
    request = read_request(body)
    text = json.dumps(readers[body["model"]](request))
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": len(request.text) // 4, "completion_tokens": len(text) // 4},
    }
