"""AdamW whose small steps are not lost to rounding, and its state in checkpoints.

A bfloat16 weight has 8 bits: a step below 2⁻⁹ of it is rounded away, and with the learning rates of this field nearly
all steps are. So weights of 16 bits are stepped as float32 copies of themselves, and rounded for the forward pass only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from noria.core.runs.checkpoints import Checkpoint
from noria.core.runs.run import Run
from noria.core.training.state import TrainState


class Updates:
    """Updates weights in place.

    Args:
        parameters: weights by name.
        prefix: name of the network in checkpoints.
        fixed: tensors that checkpoints hold and no step updates: buffers, such as those that balance experts.
        lr: learning rate of the next steps.
        betas: decay rates of AdamW's two moments.
        weight_decay: weight decay of AdamW.

    Attributes:
        masters: by name, the float32 copies of weights of 16 bits, and the other weights themselves.
        adam: the optimiser over the masters.
        state: masters, fixed tensors, optimiser and step, as checkpoints hold them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        prefix: str,
        fixed: Mapping[str, Tensor] | None = None,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self.parameters = dict(parameters)
        self.masters = {
            name: nn.Parameter(p.detach().float()) if p.dtype.itemsize < 4 else p
            for name, p in self.parameters.items()
        }
        self.adam = torch.optim.AdamW(self.masters.values(), lr=lr, betas=betas, weight_decay=weight_decay)
        self.state = TrainState({**self.masters, **dict(fixed or {})}, self.adam, prefix=prefix)

    def zero(self) -> None:
        """Forget all gradients."""
        for parameters in (self.parameters, self.masters):
            for p in parameters.values():
                p.grad = None

    def clip(self, limit: float) -> Tensor:
        """Bring the gradients' norm down to `limit`, where it is above, and return the norm before."""
        for name, p in self.parameters.items():
            if self.masters[name] is not p and p.grad is not None:
                self.masters[name].grad = p.grad.float()
        norm: Tensor = nn.utils.clip_grad_norm_(self.masters.values(), limit)
        return norm

    @torch.no_grad()
    def step(self, lr: float | None = None) -> None:
        """Update along the gradients as :meth:`clip` left them; the state's step is counted by the training.

        Args:
            lr: learning rate from this step on.
        """
        if lr is not None:
            for group in self.adam.param_groups:
                group["lr"] = lr
        self.adam.step()
        self._round()

    def resume(self, run: Run) -> Checkpoint | None:
        """Restore the run's newest whole checkpoint and return it; None where the run has none.

        Raises:
            CheckpointError: a weight is missing or has another shape: the checkpoint is of another network.
        """
        checkpoint = self.state.resume(run)
        if checkpoint is not None:
            self._round()
        return checkpoint

    @torch.no_grad()
    def _round(self) -> None:
        """Give weights of 16 bits the values of their masters."""
        for name, p in self.parameters.items():
            if self.masters[name] is not p:
                p.copy_(self.masters[name])
