"""State that a training saves and restores: weights, optimizer, scheduler and step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from noria.core.errors import CheckpointError
from noria.core.runs.checkpoints import Checkpoint, optimizer_tensors, restore_optimizer, restore_rng

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from noria.core.runs.run import Run


_MEMORY = "optimizer_tensors"
"""Key of a checkpoint's state: number of tensors of optimizers in it, 0 where no step was taken yet."""


@dataclass(eq=False)
class TrainState:
    """Weights, optimizer, scheduler and step of one training, written to a run and read back from it.

    Args:
        parameters: trained weights by name.
        optimizer: the optimizer of these weights.
        prefix: name of the network in the checkpoint, such as `policy`; weights are stored as `policy.NAME`.
        scheduler: scheduler of the learning rate, if there is one.
        random: whether resuming restores the global random states. A training that draws from generators seeded by
            its step needs none.
    """

    parameters: Mapping[str, Tensor]
    optimizer: Optimizer
    _: KW_ONLY
    prefix: str
    scheduler: LRScheduler | None = None
    random: bool = False
    step: int = field(default=0, init=False)

    def tensors(self) -> dict[str, Tensor]:
        """Weights as `PREFIX.NAME`, and the optimizer's memory of each as `optimizer.NAME.SLOT`."""
        weights = {f"{self.prefix}.{name}": value.detach() for name, value in self.parameters.items()}
        return weights | optimizer_tensors(self.optimizer, self.parameters)

    def values(self) -> dict[str, Any]:
        """The step, and the scheduler's state, as JSON values."""
        scheduler = {} if self.scheduler is None else {"scheduler": self.scheduler.state_dict()}
        return {"step": self.step} | scheduler

    def save(self, run: Run, tensors: Mapping[str, Tensor] | None = None, **values: Any) -> None:
        """Write a checkpoint of the current step; `tensors` and `values` go beside the training's own.

        Raises:
            RunError: the disk refuses; earlier checkpoints stay as they were.
        """
        stored = self.tensors() | dict(tensors or {})
        memory = sum(name.startswith("optimizer.") for name in stored)
        run.save(self.step, stored, self.values() | {_MEMORY: memory} | values)

    def resume(self, run: Run) -> Checkpoint | None:
        """Restore the run's newest whole checkpoint and return it; None where the run has none.

        Raises:
            CheckpointError: a weight is missing or has another shape: the checkpoint is of another network; or an
                older version wrote it, without the optimizer's memory under the names of this one.
        """
        import torch

        checkpoint = run.latest()
        if checkpoint is None:
            return None
        for name, parameter in self.parameters.items():
            stored = checkpoint.tensors.get(f"{self.prefix}.{name}")
            if stored is None or stored.shape != parameter.shape:
                raise CheckpointError(
                    f"its {name} is not this {self.prefix}'s",
                    where=f"checkpoint {checkpoint.step}",
                    mend="use another output folder",
                )
        self._check_memory(checkpoint)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(checkpoint.tensors[f"{self.prefix}.{name}"])
        restore_optimizer(self.optimizer, self.parameters, checkpoint.tensors)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(checkpoint.state["scheduler"])
            # A scheduler's state does not hold the rates that it has set on the optimizer.
            for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        if self.random:
            restore_rng(checkpoint)
        self.step = int(checkpoint.state["step"])
        return checkpoint

    def _check_memory(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint of an older version whose optimizer this training would silently start anew."""
        if _MEMORY in checkpoint.state or not checkpoint.step:
            return
        names = checkpoint.tensors.keys()
        kept = any(n.startswith(f"optimizer.{name}.") for name in self.parameters for n in names)
        if not kept or any(n.startswith("optimizer.") and n.endswith(".master") for n in names):
            raise CheckpointError(
                f"an older version of Noria wrote it, without the optimizer's memory of this {self.prefix} as it is "
                "stored now",
                where=f"checkpoint {checkpoint.step}",
                mend="finish the run with that version, or train anew in another output folder",
            )
