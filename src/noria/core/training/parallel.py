"""Training on one process or many: the few distributed operations that trainers need.

Launch with `accelerate launch` or `torchrun`. Gradients are averaged in buckets after a backward pass. Overlapping the
exchange with it, as DistributedDataParallel does, would save little where an update follows a whole rollout or where
few parameters are trained, and its hooks forbid layers without gradient and several forward passes before one backward
pass. With an FSDP2 config networks are sharded in place, block by block.
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
    """This process among those of a training. Every process loads or draws the same weights, so none are broadcast.

    Args:
        extra: extra that brings accelerate, for the error where it is missing.

    Attributes:
        rank, processes: number of this process, and number of processes.
        device: device of this process.
        sharded: whether FSDP2 is on.
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
        """Move a network to this process's device, or shard it. Call it once, before the optimizer is made.

        Args:
            network: network to move or shard in place.
            rest: whether to shard what is outside the repeated blocks, too. A network that others read must keep it
                whole: a head reads the embedding and the output layer of its backbone.
        """
        network.to(self.device)
        if self.sharded:
            _shard(network, rest)

    def share(self, batch_size: int) -> slice:
        """Rows of a batch that belong to this process.

        Raises:
            ConfigError: the batch does not divide over the processes.
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
        """Average gradients over processes, a bucket at a time; FSDP2 already averages those of sharded parameters."""
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
        """Mean of named figures over the processes that have them. All processes must call it."""
        if self.processes == 1:
            return figures
        gathered: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(gathered, figures)
        names = dict.fromkeys(name for part in gathered for name in part)
        return {n: statistics.fmean(part[n] for part in gathered if n in part) for n in names}

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.processes > 1:
            torch.distributed.barrier()


def _buckets(tensors: list[Tensor], size: int = 2**25) -> Iterator[list[Tensor]]:
    """Split tensors into runs of about `size` elements, so that the flat copy of a run stays small."""
    bucket: list[Tensor] = []
    elements = 0
    for tensor in tensors:
        if bucket and elements + tensor.numel() > size:
            yield bucket
            bucket, elements = [], 0
        bucket.append(tensor)
        elements += tensor.numel()
    if bucket:
        yield bucket


def _fsdp2_wanted() -> bool:
    """Whether the launcher's config turns FSDP2 on.

    Raises:
        ConfigError: it turns FSDP 1 on.
    """
    # Read from the environment: accelerate ignores FSDP2 on CPUs, where it works, too.
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "FSDP 1 is not supported", where="accelerate config", mend="set fsdp_version to 2 in fsdp_config"
        )
    return True


def _shard(network: nn.Module, rest: bool) -> None:
    """Shard each repeated block, then the rest if `rest` is set.

    The rest is resharded after each forward pass, too, so that the EMA and the optimizers see shards only.
    """
    from torch.distributed.fsdp import fully_shard

    for child in network.modules():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block, reshard_after_forward=True)
    if rest:
        fully_shard(network, reshard_after_forward=True)
