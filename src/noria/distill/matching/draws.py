"""All randomness of one training iteration, drawn before anything is computed.

Each sample of the *global* batch owns a stream keyed by (seed, iteration, sample). A draw is therefore a pure function
of its key: it does not depend on how many processes share the batch, on the execution order, or on what ran
before, which makes resume exact and a two-process run equal to a one-process one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noria.core.models.flow import SigmaContract
from noria.distill.config import DistillConfig
from noria.distill.matching.schedules import schedule_lengths, schedule_sigmas

__all__ = ["Draws", "draw", "key"]

_MASK = 2**64 - 1
_SCALARS = 8


def key(*parts: int) -> int:
    """A 63-bit seed out of several integers (SplitMix64 finaliser, chained)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ (part & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


@dataclass
class Draws:
    """Random numbers of this process's share of one iteration.

    Attributes:
        sigmas: true σ of each rollout, [batch, steps + 1], zero-padded.
        lengths: N [batch].
        anchors: anchor index in {0..N−1} [batch].
        last_call: the largest anchor over *all* processes; sharded models must make as many calls everywhere.
        noise: [streams, batch, *latent]; stream 0 starts the rollout, 1 is the critic's, the rest are the student's.
        uniform: U(0, 1), [scalars, batch]: critic τ, CA τ, DM τ, CDM τ, off-trajectory σ′, consistency level.
        rollout_noise: [steps, batch, *latent] for stochastic rollouts, otherwise None.
    """

    sigmas: Tensor
    lengths: Tensor
    anchors: Tensor
    last_call: int
    noise: Tensor
    uniform: Tensor
    rollout_noise: Tensor | None


def draw(
    config: DistillConfig,
    contract: SigmaContract,
    latent_shape: tuple[int, ...],
    iteration: int,
    *,
    rank: int = 0,
    processes: int = 1,
    student: bool = True,
    device: torch.device | str = "cpu",
) -> Draws:
    """The random numbers of `iteration` for process `rank` of `processes`.

    Args:
        config: settings of the run; `batch_size` counts the global batch.
        contract: σ contract of the model.
        latent_shape: shape of one latent.
        iteration: number of the iteration, from 0.
        rank: number of this process.
        processes: number of processes that share the batch.
        student: whether the student's noise is needed, too.
        device: device that draws the noise; scalars are always drawn on the CPU.
    """
    schedule = config.schedule
    share = config.batch_size // processes
    cpu = torch.Generator()
    uniform_batch = torch.rand((), generator=cpu.manual_seed(key(config.seed, iteration, -1)))
    columns = _SCALARS + (schedule.max_steps - 1 if schedule.kind != "fixed" else 0)
    rows = [
        torch.rand(columns, generator=cpu.manual_seed(key(config.seed, iteration, n)))
        for n in range(share * processes)
    ]
    uniform = torch.stack(rows)
    lengths = schedule_lengths(schedule, uniform_batch, uniform[:, 0])
    anchors = torch.minimum((uniform[:, 1] * lengths).long(), lengths - 1)
    sigmas = schedule_sigmas(schedule, contract, lengths, uniform[:, _SCALARS:])

    mine = slice(rank * share, (rank + 1) * share)
    generator = torch.Generator(device)
    steps = sigmas.shape[1] - 2 if schedule.stochastic else 0
    streams = 6 if student else 2
    noise = torch.stack(
        [
            torch.randn(
                (streams + steps, *latent_shape),
                generator=generator.manual_seed(key(config.seed, iteration, n, 1)),
                device=device,
            )
            for n in range(mine.start, mine.stop)
        ],
        dim=1,
    )
    return Draws(
        sigmas=sigmas[mine].to(device),
        lengths=lengths[mine].to(device),
        anchors=anchors[mine].to(device),
        last_call=int(anchors.max()),
        noise=noise[:streams],
        uniform=uniform[mine, 2:_SCALARS].T.contiguous().to(device),
        rollout_noise=noise[streams:] if schedule.stochastic else None,
    )
