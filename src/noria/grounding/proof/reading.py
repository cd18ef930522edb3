"""A small reader trained from scratch on a benchmark's own records: does what was observed help it answer?

Words are hashed into a table of embeddings. An option, its stem and each observation become vectors; the option with
its stem attends to the observations; a score comes of the two. The same network is trained three times: with the clip's
observations, with those of a clip from another source, and with none. What the first gains over the second is
grounding.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noria.grounding.asking.protocols import strangers
from noria.grounding.audit.adversary import FOLDS, folds_by_source
from noria.grounding.audit.readers import nearness
from noria.grounding.corpus.questions import boxes_in, spans_in, times_in
from noria.grounding.corpus.records import Corpus, Observation, Question, each_question
from noria.grounding.corpus.types import CATEGORIES, SHORT

__all__ = ["ARMS", "read_cross_validated"]

ARMS = ("observations", "another clip's observations", "no observations")
BUCKETS = 8192
DIM = 48
LONGEST = 48
"""Tokens of a text."""


def tokens(text: str) -> list[int]:
    """Hashed words, from 1; numbers lose their decimals' noise: a time is its half second, a share its tenth."""
    numbers = []
    for word in re.findall(r"[a-z]+|\d+\.?\d*", text.lower())[:LONGEST]:
        if word[0].isdigit():
            value = float(word)
            word = f"#{round(value * 2) / 2}" if value > 1 else f"%{round(value * 10)}"
        numbers.append(1 + zlib.crc32(word.encode()) % (BUCKETS - 1))
    return numbers or [0]


def observed(one: Observation) -> str:
    """An observation as a text: its times, its words, its first box."""
    box = "".join(
        f" x={b.x:.2f} y={b.y:.2f} w={b.w:.2f} h={b.h:.2f} {b.frame_time:.1f}" for b in one.bboxes[:2]
    )
    return f"{one.start_time:.1f} {one.end_time:.1f} {one.dimension} {one.description}{box}"


class Reader(nn.Module):
    """[q, 6] scores of options."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, DIM, mode="mean", padding_idx=0)
        self.numbers = nn.Linear(5, DIM)
        self.ask = nn.Linear(2 * DIM, DIM)
        self.key = nn.Linear(DIM, DIM)
        self.out = nn.Sequential(nn.Linear(5 * DIM + 6, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 1))

    def forward(self, batch: Batch) -> Tensor:
        """Scores of every option of every question."""
        q = len(batch.right)
        stem = self.words(batch.stems)
        option = self.words(batch.options).view(q, 6, DIM)
        seen = self.words(batch.seen).view(q, -1, DIM)
        wide = stem[:, None].expand(q, 6, DIM)
        query = self.ask(torch.cat([wide, option], dim=-1))
        weight = (query @ self.key(seen).transpose(1, 2)) / DIM**0.5 + batch.meets * 4.0
        weight = weight.masked_fill(~batch.there[:, None, :], -1e4).softmax(dim=-1)
        attended = weight @ seen
        # How much the best-matching observation is like the words, and is there and then.
        alike = torch.cosine_similarity(option[:, :, None], seen[:, None], dim=-1)
        alike_stem = torch.cosine_similarity(stem[:, None, None], seen[:, None], dim=-1).expand_as(alike)
        meets = batch.meets * batch.there[:, None, :]
        near = torch.stack(
            [
                (alike * meets).amax(-1),
                (alike_stem * meets).amax(-1),
                meets.amax(-1),
                meets.mean(-1),
                (weight * alike).sum(-1),
                (weight * alike_stem).sum(-1),
            ],
            dim=-1,
        )
        scores: Tensor = self.out(
            torch.cat([wide, option, attended, option * attended, wide * attended, near], -1)
        ).squeeze(-1)
        return scores


@dataclass
class Batch:
    """Tensors of some questions.

    Attributes:
        stems: [q, LONGEST]; options: [6 q, LONGEST]; seen: [q m, LONGEST]: token numbers, 0 for none.
        there: [q, m] whether there is such an observation.
        meets: [q, 6, m] how far an observation is at the time and place that the option, or else the stem, names.
        right: [q] place of the right option.
    """

    stems: Tensor
    options: Tensor
    seen: Tensor
    there: Tensor
    meets: Tensor
    right: Tensor


def _padded(texts: Sequence[str]) -> Tensor:
    rows = np.zeros((len(texts), LONGEST), np.int64)
    for n, text in enumerate(texts):
        row = tokens(text)
        rows[n, : len(row)] = row
    return torch.from_numpy(rows)


def _meets(question: Question, observations: Sequence[Observation], most: int) -> NDArray[np.float32]:
    """[6, most] of IoU · exp(−|Δt|), or overlap in time where no box is named."""
    meets = np.zeros((6, most), np.float32)
    for place, option in enumerate(question.options[:6]):
        for text in (option.text, question.question):
            times, boxes, spans = times_in(text), boxes_in(text), spans_in(text)
            if not times:
                continue
            for n, one in enumerate(observations[:most]):
                if spans:
                    a, b = spans[0]
                    meets[place, n] = max(0.0, min(b, one.end_time) - max(a, one.start_time)) / max(
                        b - a, 0.1
                    )
                elif boxes:
                    meets[place, n] = nearness(one, times[0], boxes[0])
                else:
                    meets[place, n] = float(one.start_time <= times[0] <= one.end_time)
            break
    return meets


def read_cross_validated(
    corpus: Corpus,
    *,
    seed: int,
    epochs: int,
    on_step: Callable[[int, int, str], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Accuracy of every arm by category, over folds that keep sources together.

    Args:
        corpus: whole records.
        seed: seed of folds, weights and batches.
        epochs: over the training questions.
        on_step: called with (step, steps, arm).
    """
    torch.set_num_threads(1)
    rows = [(r, q) for r, _, q in each_question(corpus) if len(q.options) == 6 and q.correct is not None]
    other = strangers(corpus, seed)
    records = {r.video_id: r for r in corpus}
    where = folds_by_source([r.source for r, _ in rows], seed)
    category = np.array([CATEGORIES.index(q.category) if q.category in CATEGORIES else -1 for _, q in rows])
    accuracy: dict[str, dict[str, float]] = {}
    step = 0
    for arm in ARMS:
        seen: Mapping[str, Sequence[Observation]] = {
            name: records[other[name]].observations
            if arm == ARMS[1]
            else record.observations
            if arm == ARMS[0]
            else ()
            for name, record in records.items()
        }
        whole = _batch([(q, seen[r.video_id]) for r, q in rows])
        hit = np.zeros(len(rows), bool)
        for k in range(FOLDS):
            train, test = np.flatnonzero(where != k), np.flatnonzero(where == k)
            model = _train(whole, train, seed * FOLDS + k, epochs)
            hit[test] = _right(model, whole, test)
            step += 1
            if on_step:
                on_step(step, len(ARMS) * FOLDS, arm)
        present = [(c, category == n) for n, c in enumerate(CATEGORIES) if (category == n).any()]
        accuracy[arm] = {SHORT[c]: float(hit[mine].mean()) for c, mine in present}
        accuracy[arm]["all"] = float(hit.mean())
        grounded = category >= 4
        accuracy[arm]["grounding"] = float(hit[grounded].mean())
    return accuracy


def _batch(rows: Sequence[tuple[Question, Sequence[Observation]]]) -> Batch:
    most = max(1, *(min(20, len(seen)) for _, seen in rows))
    blank: list[str] = [""] * most
    texts = [text for _, seen in rows for text in [*(observed(o) for o in seen[:most]), *blank][:most]]
    return Batch(
        _padded([q.question for q, _ in rows]),
        _padded([o.text for q, _ in rows for o in q.options]),
        _padded(texts),
        torch.tensor([[n < len(seen) for n in range(most)] for _, seen in rows]),
        torch.from_numpy(np.stack([_meets(q, seen, most) for q, seen in rows])),
        torch.tensor([[o.id for o in q.options].index(q.correct_answer) for q, _ in rows]),
    )


def _part(whole: Batch, places: NDArray[np.int64]) -> Batch:
    at = torch.from_numpy(places)
    most = whole.there.shape[1]
    return Batch(
        whole.stems[at],
        whole.options.view(-1, 6, LONGEST)[at].flatten(0, 1),
        whole.seen.view(-1, most, LONGEST)[at].flatten(0, 1),
        whole.there[at],
        whole.meets[at],
        whole.right[at],
    )


def _train(whole: Batch, places: NDArray[np.int64], seed: int, epochs: int) -> Reader:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Reader()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
        generator = np.random.default_rng(seed)
        model.train()
        for _ in range(epochs):
            mixed = generator.permutation(places)
            for start in range(0, len(mixed), 64):
                part = _part(whole, mixed[start : start + 64])
                loss = nn.functional.cross_entropy(model(part), part.right)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return model.eval()


@torch.inference_mode()
def _right(model: Reader, whole: Batch, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    right = []
    for start in range(0, len(places), 256):
        part = _part(whole, places[start : start + 256])
        right.append((model(part).argmax(1) == part.right).numpy())
    return np.concatenate(right)
