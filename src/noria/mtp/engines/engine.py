"""The audit's input: an engine that samples, and the law that its samples should follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from noria.core.errors import ModelError
from noria.mtp.acceptance.sampling import SamplingParams

Tokens = tuple[int, ...]
Sampler = Callable[[Sequence[int], int, SamplingParams, int], Sequence[Sequence[int]]]
"""(prompt, n, params, seed) → n sequences of new tokens, all of one length, without stopping at any token."""
Drawn = tuple[list[int], list[float] | None]
"""New tokens and the log-probability of each, where the engine gives them."""
Draw = Callable[[Sequence[int], int, SamplingParams, int, int, int | None], Sequence[Drawn]]
"""(prompt, n, params, seed, most new tokens, end token) → n sequences."""
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

    @classmethod
    def of(cls, draw: Draw, length: int, **others: Any) -> Engine:
        """The engine of one function that draws sequences.

        Args:
            draw: draws sequences and the log-probability of each of their tokens.
            length: tokens of a sequence that no end token ends.
            others: the attributes that are neither `sample`, `logprobs` nor `stop`.
        """

        def logprobs(
            prompt: Sequence[int], n: int, params: SamplingParams, seed: int
        ) -> tuple[list[list[int]], list[list[float]]]:
            drawn = draw(prompt, n, params, seed, length, None)
            values = [own for _, own in drawn if own is not None]
            if len(values) < len(drawn):
                raise ModelError("it gives no logprobs", where=others.get("name"))
            return [tokens for tokens, _ in drawn], values

        return cls(
            sampler_of(draw, length),
            logprobs=logprobs,
            stop=lambda prompt, n, params, seed, end, most: [
                tokens for tokens, _ in draw(prompt, n, params, seed, most, end)
            ],
            **others,
        )


def sampler_of(draw: Draw, length: int) -> Sampler:
    """The sampler of sequences of one length, which no end token ends."""
    return lambda prompt, n, params, seed: [
        tokens for tokens, _ in draw(prompt, n, params, seed, length, None)
    ]
