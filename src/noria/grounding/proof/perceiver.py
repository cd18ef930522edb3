"""The model that sees what people do: a small network that learned behaviours and places of the head from frames."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noria.grounding.corpus.questions import boxes_in, spans_in, times_in, traits_in
from noria.grounding.corpus.types import LEVELS, TRAITS
from noria.grounding.proof.requests import Request
from noria.grounding.synth.config import Knobs
from noria.grounding.synth.drawing import draw
from noria.grounding.synth.world import BEHAVIOURS, PAIR_OF, SECONDS, SEGMENTS, Scene, reasons


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
        """Fit of an option to what is seen."""
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
    """Number of pairs of `first X, then Y, then Z` that come in that order, by the first frame of each."""
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
