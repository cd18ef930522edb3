"""Asking an engine for samples, each request once, and comparing them with the law."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.engines.engine import Engine, Sampler, Tokens
from noria.mtp.engines.evidence import MOST_PROBABILITIES, Cells, Check, GTest, LawTables, split_cells


class BadAnswer(Exception):
    """The engine answered, with something that is not what was asked for."""


class NoAnswer(Exception):
    """The engine could not be asked."""


@dataclass
class Desk:
    """The engine under audit, the law and the prompts, and samples that several checks share."""

    engine: Engine
    tables: LawTables
    prompts: list[Tokens]
    samples: int  # a prompt
    depth: int
    seed: int
    tolerance: float
    prefixes: int
    beat: Callable[[], None] = lambda: None  # called between pieces of work of some seconds
    _main: list[list[Tokens]] | None = None

    def main(self) -> list[list[Tokens]]:
        """The plain samples that several checks share, by prompt."""
        if self._main is None:
            self._main = self.ask(self.engine.sample, SamplingParams(), self.seed)
        return self._main

    def ask(
        self, sampler: Sampler, params: SamplingParams, seed: int, samples: int | None = None
    ) -> list[list[Tokens]]:
        """Samples by prompt, each with a seed of its own."""
        n = samples or self.samples
        drawn = []
        for i, prompt in enumerate(self.prompts):
            drawn.append(sequences_of(call(sampler, prompt, n, params, seed + i), n))
            self.beat()
        return drawn

    def compare(
        self,
        name: str,
        drawn: Sequence[Sequence[Tokens]],
        params: SamplingParams,
        depth: int,
        clear: Callable[[Tokens], bool] | None = None,
    ) -> Check:
        """The joint law of the first `depth` tokens, behind prefixes that are clear."""
        evidence = GTest()
        for prompt, sequences in zip(self.prompts, drawn, strict=True):
            if clear is None or clear(prompt):
                cells = split_cells(self.tables, prompt, params, depth, len(sequences), clear=clear)
                count_cells(evidence, cells, sequences)
        return evidence.check(name)

    def places(self, drawn: Sequence[Sequence[Tokens]], params: SamplingParams) -> Iterator[Place]:
        """Every token of as many sequences as `prefixes` allows, with the law it should follow."""
        for i, (prompt, sequences) in enumerate(zip(self.prompts, drawn, strict=True)):
            length = max(len(sequence) for sequence in sequences)
            kept = sequences[: max(1, self.prefixes // (length * len(drawn)))]
            for t in range(length):
                here = [row for row in range(len(kept)) if len(kept[row]) > t]
                block = max(1, MOST_PROBABILITIES // 8 // self.tables.vocab)
                for start in range(0, len(here), block):
                    rows = here[start : start + block]
                    laws = self.tables.look_up([prompt + kept[row][:t] for row in rows], params)
                    self.beat()
                    for row in rows:
                        prefix = prompt + kept[row][:t]
                        yield Place(i, row, t, prefix, kept[row][t], laws[prefix])


class Place(NamedTuple):
    """A token that was drawn: its prompt, row and step, the prefix before it, and the law it came from."""

    prompt: int
    row: int
    t: int
    prefix: Tokens
    token: int
    p: NDArray[np.float64]

    @property
    def probability(self) -> float:
        """Probability of the token, 0 if there is none such."""
        return float(self.p[self.token]) if 0 <= self.token < len(self.p) else 0.0

    def __str__(self) -> str:
        return f"token {self.token} after {list(self.prefix)}"


def call(function: Callable[..., object], *arguments: object) -> object:
    """Call a function of the engine; whatever it raises becomes a :class:`NoAnswer`."""
    try:
        return function(*arguments)
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise NoAnswer(f"the engine raised {type(error).__name__}: {words}") from error


def sequences_of(answer: object, n: int, *, even: bool = True) -> list[Tokens]:
    """The engine's answer as n sequences of tokens, all of one length if they are `even`; else a :class:`BadAnswer`."""
    try:
        answer = answer.tolist() if isinstance(answer, Tensor) else answer
        sequences = [tuple(int(t) for t in sequence) for sequence in answer]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise BadAnswer("it did not return sequences of tokens") from None
    if len(sequences) != n:
        raise BadAnswer(f"{len(sequences)} sequences came where {n} were asked for")
    lengths = {len(sequence) for sequence in sequences}
    if 0 in lengths:
        raise BadAnswer("a sequence is empty")
    if even and len(lengths) > 1:
        raise BadAnswer(f"lengths from {min(lengths)} to {max(lengths)} where one was asked for")
    return sequences


def count_cells(evidence: GTest, cells: Cells, sequences: Sequence[Tokens]) -> None:
    """Add to a test how many sequences fell in each cell."""
    observed = Counter(cells.of(sequence) for sequence in sequences)
    evidence.add(observed, {leaf: cells.mass[leaf] * len(sequences) for leaf in cells.leaves})
