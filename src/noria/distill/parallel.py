"""One process or many: the few distributed operations the trainer needs, applied from outside the mathematics.

Launch with `accelerate launch`; DDP wraps full copies, LoRA gradients (small) are averaged in one call, and
with an FSDP2 config the networks are sharded in place, block by block.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError, require

if TYPE_CHECKING:
    from noria.distill.roles import FullRoles, LoraRoles, Role

__all__ = ["Parallel"]


class Parallel:
    """What this process is among its peers.

    Attributes:
        rank, processes: position and number.
        device: where this process computes.
        sharded: FSDP2 is on.
    """

    def __init__(self) -> None:
        self.accelerator: Any = None
        self.rank, self.processes, self.sharded = 0, 1, False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            accelerate = require("accelerate", "distill")
            self.accelerator = accelerate.Accelerator()
            if self.accelerator.gradient_accumulation_steps != 1:
                raise ConfigError(
                    "gradient accumulation is on, but two optimisers would share its one counter",
                    where="accelerate config",
                    mend="set gradient_accumulation_steps to 1 and raise batch_size",
                )
            self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
            self.device = self.accelerator.device
            self.sharded = bool(getattr(self.accelerator, "is_fsdp2", False))

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def place(self, roles: FullRoles | LoraRoles) -> None:
        """Wrap or shard the networks, once, before optimisers are made.

        Raises:
            ConfigError: LoRA with FSDP2 (two adapters on one sharded base cannot be switched safely).
        """
        from noria.distill.roles import FullRoles

        if not isinstance(roles, FullRoles):
            if self.sharded:
                raise ConfigError(
                    "LoRA and FSDP2 do not combine", where="train", mend="use train=full or plain DDP"
                )
            roles.base.to(self.device)
            return
        everyone: tuple[Role, ...] = ("teacher", "student", "critic")
        for role in everyone:
            network = roles.network(role).to(self.device)
            if self.sharded:
                _shard(network)
            elif self.processes > 1 and role != "teacher":
                ids = [self.device.index] if self.device.type == "cuda" else None
                network = nn.parallel.DistributedDataParallel(
                    network, device_ids=ids, find_unused_parameters=False, gradient_as_bucket_view=True
                )
            roles.replace(role, network)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean of gradients over processes, in one flat call (for LoRA; DDP and FSDP do their own)."""
        if self.processes == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.processes
        for g, piece in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            g.copy_(piece.view_as(g))

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over processes."""
        if self.processes == 1:
            return value
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value / self.processes

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.processes > 1:
            torch.distributed.barrier()


def _shard(network: nn.Module) -> None:
    """Fully shard each repeated block, then the rest."""
    from torch.distributed.fsdp import fully_shard

    for child in network.modules():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block)
    fully_shard(network)
