"""The audit's input: an engine that samples, and the law that its samples should follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from noria.mtp.acceptance.sampling import SamplingParams

Tokens = tuple[int, ...]
Sampler = Callable[[Sequence[int], int, SamplingParams, int], Sequence[Sequence[int]]]
"""(prompt, n, params, seed) → n sequences of new tokens, all of one length, without stopping at any token."""
Law = Callable[[Sequence[Tokens]], Tensor]
"""Prefixes (prompt and new tokens) → next-token probabilities at temperature 1 [prefixes, vocab]."""


class AuditRequest(NamedTuple):
    """A request for one sequence."""

    prompt: Tokens
    params: SamplingParams
    seed: int


@dataclass(frozen=True)
class Engine:
    """An engine under audit. Only `sample` is needed; a check whose callable is missing is reported as not made.

    Attributes:
        sample: (prompt, n, params, seed) to n independent sequences of new tokens, all of one length.
        name: name of the engine in the report.
        logprobs: `sample` that returns, beside the sequences, the log-probability of each of their tokens.
        batch: requests to one sequence each, decoded together.
        stop: `sample` with an end token and a length behind the seed: each sequence ends with the first end token
            or at that length.
        stale: `sample` with a draft that has fallen behind the target, or any other poor one.
        disjoint: `sample` with a draft that only proposes what the target never says.
    """

    sample: Sampler
    name: str = "engine"
    logprobs: (
        Callable[
            [Sequence[int], int, SamplingParams, int],
            tuple[Sequence[Sequence[int]], Sequence[Sequence[float]]],
        ]
        | None
    ) = None
    batch: Callable[[Sequence[AuditRequest]], Sequence[Sequence[int]]] | None = None
    stop: Callable[[Sequence[int], int, SamplingParams, int, int, int], Sequence[Sequence[int]]] | None = None
    stale: Sampler | None = None
    disjoint: Sampler | None = None
