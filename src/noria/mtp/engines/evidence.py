"""The statistics of the audit: G-tests over cells that the law fixes before the samples are seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from noria.core.errors import DataError
from noria.mtp.acceptance.sampling import SamplingParams, processed
from noria.mtp.engines.engine import Law, Tokens


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: the question.
        passed: whether the engine conforms; None if it could not be checked, and `detail` says why.
        statistic: statistic of the test; None where the answer needs none, ∞ where the law excludes what was seen.
        p_value: p value of the test, before the correction for the number of tests.
        detail: what was seen, in one line.
        effect: total variation between what was sampled and the law, over the test's cells.
    """

    name: str
    passed: bool | None
    statistic: float | None
    p_value: float | None
    detail: str
    effect: float | None = None


# --- the law ------------------------------------------------------------------------------------------------


MOST_PROBABILITIES = 1 << 25  # probabilities held at once


class LawTables:
    """Next-token distributions by prefix, looked up once and in batches."""

    def __init__(self, law: Law) -> None:
        self._law = law
        self._raw: dict[Tokens, Tensor] = {}
        self._done: dict[tuple[SamplingParams, Tokens], NDArray[np.float64]] = {}
        self.vocab = 1

    def look_up(
        self, prefixes: Iterable[Tokens], params: SamplingParams
    ) -> dict[Tokens, NDArray[np.float64]]:
        """Law of the next token after each prefix, [vocab] float64."""
        wanted = dict.fromkeys(prefixes)
        if self._done and len(self._done) * self.vocab > MOST_PROBABILITIES:
            self._raw.clear()
            self._done.clear()
        missing = [prefix for prefix in wanted if (params, prefix) not in self._done]
        if missing:
            probs = processed(self._ask(missing).log(), params).probs.double()
            rows = (probs / probs.sum(-1, keepdim=True)).numpy()
            self._done.update(zip(((params, prefix) for prefix in missing), rows, strict=True))
        return {prefix: self._done[params, prefix] for prefix in wanted}

    def one(self, prefix: Tokens, params: SamplingParams) -> NDArray[np.float64]:
        """Law of the next token after one prefix, [vocab] float64."""
        return self.look_up([prefix], params)[prefix]

    def _ask(self, prefixes: Sequence[Tokens]) -> Tensor:
        new = [prefix for prefix in prefixes if prefix not in self._raw]
        if new:
            rows = torch.as_tensor(self._law(new)).detach().double().cpu()
            if rows.ndim != 2 or len(rows) != len(new):
                raise DataError(f"shape {list(rows.shape)} for {len(new)} prefixes", where="law")
            wrong = ~((rows >= 0).all(1) & ((rows.sum(1) - 1).abs() < 1e-3))
            if wrong.any():
                prefix = new[int(wrong.int().argmax())]
                raise DataError(f"after {list(prefix)} it is no distribution", where="law")
            self._raw.update(zip(new, rows, strict=True))
            self.vocab = rows.shape[1]
        return torch.stack([self._raw[prefix] for prefix in prefixes])


_REST = -1  # in a cell's name: any token that has no cell of its own
_EXCLUDED: Tokens = (-2,)


@dataclass(frozen=True)
class Cells:
    """A partition of all continuations into cells, each with its exact probability.

    Attributes:
        inner: the next-token law behind each prefix that was split further.
        mass: the probability of each cell and of each prefix that was split.
        leaves: the cells.
    """

    inner: Mapping[Tokens, NDArray[np.float64]]
    mass: Mapping[Tokens, float]
    leaves: Sequence[Tokens]

    def of(self, sequence: Sequence[int]) -> Tokens:
        """The cell a continuation falls in; `_EXCLUDED` if the law has none for it."""
        node: Tokens = ()
        while (p := self.inner.get(node)) is not None:
            token = sequence[len(node)]
            if not 0 <= token < len(p) or p[token] == 0:
                return _EXCLUDED
            node = (*node, token) if (*node, token) in self.mass else (*node, _REST)
        return node


def split_cells(
    tables: LawTables,
    prompt: Tokens,
    params: SamplingParams,
    depth: int,
    samples: int,
    end: int | None = None,
    clear: Callable[[Tokens], bool] | None = None,
) -> Cells:
    """Split prefixes while five samples are expected in them; the rest of a prefix's tokens share a cell.

    Prefixes that are not `clear`, behind which the law is not known for certain, are not split.
    """
    inner: dict[Tokens, NDArray[np.float64]] = {}
    mass: dict[Tokens, float] = {(): 1.0}
    leaves: list[Tokens] = []
    frontier: list[Tokens] = [()]
    for level in range(depth):
        # Of a large vocabulary only the most probable prefixes are split, for the memory that a law takes.
        room = max(1, MOST_PROBABILITIES // 8 // tables.vocab) - len(inner)
        frontier.sort(key=lambda node: -mass[node])
        leaves.extend(frontier[max(0, room) :])
        frontier = frontier[: max(0, room)]
        after = tables.look_up([prompt + node for node in frontier], params)
        if clear is not None:
            leaves.extend(node for node in frontier if not clear(prompt + node))
            frontier = [node for node in frontier if clear(prompt + node)]
        following: list[Tokens] = []
        for node in frontier:
            p = after[prompt + node]
            inner[node] = p
            big = np.flatnonzero(mass[node] * p * samples >= 5)
            for token in big.tolist():
                child = (*node, token)
                mass[child] = mass[node] * float(p[token])
                (leaves if level == depth - 1 or token == end else following).append(child)
            small = np.ones(len(p), dtype=bool)
            small[big] = False
            if (rest := mass[node] * float(p[small].sum())) > 0:
                mass[*node, _REST] = rest
                leaves.append((*node, _REST))
        frontier = following
    return Cells(inner, mass, leaves)


# --- statistics ---------------------------------------------------------------------------------------------


@dataclass
class GTest:
    """Test statistics that add up, and the total variation that goes with them."""

    g: float = 0.0
    freedom: int = 0
    distance: float = 0.0
    noise: float = 0.0
    samples: int = 0
    excluded: int = 0

    def add(self, observed: Mapping[Tokens, int], expected: Mapping[Tokens, float]) -> None:
        """A G-test of counts against expectations that have the same sum; small cells are pooled."""
        n = sum(observed.values())
        o = np.array([observed.get(cell, 0) for cell in expected], dtype=float)
        e = np.array(list(expected.values()))
        small = e < 5
        if small.any():
            o, e = np.append(o[~small], o[small].sum()), np.append(e[~small], e[small].sum())
            if e[-1] < 5 and len(e) > 1:
                least = int(e[:-1].argmin())
                o[least] += o[-1]
                e[least] += e[-1]
                o, e = o[:-1], e[:-1]
        outside = n - int(o.sum())
        self.samples += n
        self.excluded += outside
        self.distance += (float(np.abs(o - e).sum()) + outside) / 2
        self.noise += float(np.sqrt(2 / math.pi * e * (1 - e / n).clip(0)).sum()) / 2
        if outside:
            self.g = math.inf
            self.freedom += len(e)
            return
        if len(e) < 2:
            return
        positive = o > 0
        g = 2 * float((o[positive] * np.log(o[positive] / e[positive])).sum())
        # Williams (1976): brings the statistic's mean to its degrees of freedom.
        self.g += g / (1 + (float((n / e).sum()) - 1) / (6 * n * (len(e) - 1)))
        self.freedom += len(e) - 1

    def check(self, name: str) -> Check:
        """The check that this evidence makes; it passes until Holm's correction judges it."""
        if not self.freedom:
            return unknown(name, f"{self.samples} samples are too few, or the law leaves nothing to chance")
        p = float(stats.chi2.sf(self.g, self.freedom))
        effect = self.distance / max(self.samples, 1)
        seen = math.sqrt(_noticed(self.freedom) / (4 * self.samples))
        detail = (
            f"{self.samples} samples, {self.freedom} degrees of freedom, "
            f"TV by chance {self.noise / self.samples:.3f}, would notice {seen:.3f}"
        )
        if self.excluded:
            detail = f"{self.excluded} of {self.samples} samples are impossible under the law"
        return Check(name, True, self.g, p, detail, effect)


@lru_cache
def _noticed(freedom: int) -> float:
    """The non-centrality that a test at 1e-4 notices nine times in ten. It is ≈ 2 n KL ≥ 4 n TV² (Pinsker)."""
    threshold = stats.chi2.isf(1e-4, freedom)
    high = 100.0 + 20 * math.sqrt(freedom)
    return float(optimize.brentq(lambda x: stats.ncx2.sf(threshold, freedom, x) - 0.9, 1e-6, high))


def unknown(name: str, reason: str) -> Check:
    """A check that could not be made."""
    return Check(name, None, None, None, reason)


def exact(name: str, problem: str | None, detail: str = "") -> Check:
    """A check that needs no statistics: it passes where there is no problem."""
    return Check(name, problem is None, None, None, detail if problem is None else problem)
