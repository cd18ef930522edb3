"""Random numbers of each request: a hash of its seed, the position and the purpose, with no state to carry.

The tokens of a request therefore do not depend on who shares its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Purpose = Literal["draft", "accept", "residual"]


@dataclass(frozen=True)
class Streams:
    """Independent random numbers for each request of a batch, with no state to carry or to restore.

    The number for (seed, position, purpose) is a hash: SplitMix64's finaliser over the three, absorbed one by one. It
    does not depend on the batch, its order, or on how many drafts anyone verifies. Drawing drafts, accepting them and
    drawing the token after them must never share numbers: the result would be biased.

    Attributes:
        seeds: [batch] int64, one a request.
    """

    seeds: Tensor

    @classmethod
    def of(cls, seeds: Iterable[int], device: torch.device | str = "cpu") -> Streams:
        """From plain integers, taken modulo 2⁶⁴."""
        signed = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
        return cls(torch.tensor(signed, dtype=torch.int64, device=device))

    @classmethod
    def derived(
        cls, seed: int, requests: int, device: torch.device | str = "cpu", *, path: Sequence[int] = ()
    ) -> Streams:
        """For several requests that came with one seed: request i has a seed of its own, whatever `requests` is.

        Args:
            seed: seed that all requests came with.
            requests: number of requests.
            device: device of the streams.
            path: further numbers, such as a step and a rank, that tell calls with one seed apart.
        """
        root = _absorb(_mix(cls.of([seed], device).seeds), _DERIVE)
        for word in path:
            root = _absorb(root, word)
        return cls(_absorb(root, torch.arange(requests, device=device)))

    def select(self, rows: Tensor) -> Streams:
        """The streams of some of the requests; rows: indices or a mask."""
        return Streams(self.seeds[rows])

    def uniforms(
        self,
        purpose: Purpose,
        starts: Tensor,
        steps: int,
        *,
        per_round: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Uniform numbers in [0, 1) for the positions starts, …, starts + steps − 1; [batch, steps].

        A position that was drafted, not reached and drafted again gets the same number again. That is right for rules
        that stop at the first rejection: they decided nothing by it. Block verification looks at every draft before it
        decides how many to keep, so its numbers must be fresh each round, or it is biased: `per_round=True`.

        Args:
            purpose: what the numbers are for.
            starts: [batch] int64, the position of the first token of this round in its sequence.
            steps: how many positions.
            per_round: let the numbers depend on `starts` too, not only on the position.
            dtype: float64 has 53 random bits. float32 has 24, which is coarser than a large vocabulary's tail.
        """
        start = starts.to(self.seeds.device, torch.int64)
        key = _absorb(_absorb(_mix(self.seeds), _PURPOSES[purpose]), start + 1 if per_round else 0)
        position = start[:, None] + torch.arange(steps, device=start.device)
        bits = _absorb(key[:, None], position)
        digits = 53 if dtype == torch.float64 else 24
        return _shift(bits, 64 - digits).to(dtype) * 2.0**-digits


# --- the hash -----------------------------------------------------------------------------------------------

_PURPOSES: dict[Purpose, int] = {"draft": 1, "accept": 2, "residual": 3}
_DERIVE = 4
# SplitMix64 (Steele, Lea, Flood 2014), as signed 64-bit integers; their product wraps.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def _shift(z: Tensor, bits: int) -> Tensor:
    """A right shift that brings in zeros; PyTorch's own copies the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _FIRST
    z = (z ^ _shift(z, 27)) * _SECOND
    return z ^ _shift(z, 31)


def _absorb(state: Tensor, word: Tensor | int) -> Tensor:
    return _mix((state ^ word) + _GOLDEN)
