"""One process or many: the few distributed operations that trainers need, applied from outside the mathematics.

Launch with `accelerate launch` or `torchrun`. Gradients are averaged in buckets once a backward pass is done:
overlapping the exchange with backward, as DistributedDataParallel does, would buy little where an update follows a
whole rollout or where few parameters train, and its hooks forbid layers without gradient and several forwards before
one backward. With an FSDP2 config networks are sharded in place, block by block.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError, require

__all__ = ["Parallel"]


class Parallel:
    """What this process is among its peers.

    Every process loads or draws the same weights, so nothing is broadcast.

    Args:
        extra: the extra that brings accelerate.

    Attributes:
        rank, processes: position and number.
        device: where this process computes.
        sharded: FSDP2 is on.
    """

    def __init__(self, extra: str) -> None:
        self.accelerator: Any = None
        self.rank, self.processes, self.sharded = 0, 1, False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            accelerate = require("accelerate", extra)
            self.accelerator = accelerate.Accelerator(cpu=not torch.accelerator.is_available())
            if self.accelerator.gradient_accumulation_steps != 1:
                raise ConfigError(
                    "gradient accumulation is on, but our trainers do not accumulate",
                    where="accelerate config",
                    mend="set gradient_accumulation_steps to 1 and raise batch_size",
                )
            self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
            self.device = self.accelerator.device
            self.sharded = _fsdp2_wanted()

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def place(self, network: nn.Module, *, rest: bool = True) -> None:
        """Put a network where this process computes, or shard it; once, before its optimiser is made.

        Args:
            network: moved or sharded in place.
            rest: whether what is outside its repeated blocks is sharded, too. Without, others may read it: a head reads
                its backbone's embedding and output layer.
        """
        network.to(self.device)
        if self.sharded:
            _shard(network, rest)

    def share(self, batch_size: int) -> slice:
        """Which of a batch's rows are this process's.

        Raises:
            ConfigError: they do not divide over the processes.
        """
        if batch_size % self.processes:
            raise ConfigError(
                f"batch_size {batch_size} does not divide over {self.processes} processes",
                where="batch_size",
                mend=f"use a multiple of {self.processes}",
            )
        part = batch_size // self.processes
        return slice(self.rank * part, (self.rank + 1) * part)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean of gradients over processes, a bucket at a time; those of sharded parameters are that already."""
        if self.processes == 1:
            return
        from torch.distributed.tensor import DTensor

        whole = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        for bucket in _buckets(whole):
            flat = torch.cat([g.flatten() for g in bucket])
            torch.distributed.all_reduce(flat)
            flat /= self.processes
            for g, piece in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                g.copy_(piece.view_as(g))

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over processes."""
        if self.processes == 1:
            return value
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over processes."""
        return self.sum(value) / self.processes

    def mean_of(self, figures: dict[str, float]) -> dict[str, float]:
        """Mean of named figures over the processes that have them; all must call."""
        if self.processes == 1:
            return figures
        everyone: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(everyone, figures)
        names = dict.fromkeys(name for one in everyone for name in one)
        return {n: statistics.fmean(one[n] for one in everyone if n in one) for n in names}

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.processes > 1:
            torch.distributed.barrier()


def _buckets(tensors: list[Tensor], size: int = 2**25) -> Iterator[list[Tensor]]:
    """Runs of tensors of about `size` elements together, so that a flat copy of one stays small."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and held + tensor.numel() > size:
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel()
    if bucket:
        yield bucket


def _fsdp2_wanted() -> bool:
    """Whether the launcher's config asks for FSDP2; accelerate itself would drop the wish on CPUs, where it works too.

    Raises:
        ConfigError: it asks for the first FSDP.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "FSDP 1 is not supported", where="accelerate config", mend="set fsdp_version to 2 in fsdp_config"
        )
    return True


def _shard(network: nn.Module, rest: bool) -> None:
    """Fully shard each repeated block, then the rest if that is wanted.

    The rest too is resharded after each forward: between calls the merge, the EMA and the optimisers see shards only.
    """
    from torch.distributed.fsdp import fully_shard

    for child in network.modules():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block, reshard_after_forward=True)
    if rest:
        fully_shard(network, reshard_after_forward=True)
