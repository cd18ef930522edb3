"""AdamW whose small steps are not lost to rounding, with all that a checkpoint of it holds.

A bfloat16 weight has 8 bits: a step below 2⁻⁹ of it is rounded away, and with the learning rates of this field nearly
all steps are. So weights of 16 bits are stepped as float32 copies of themselves, and rounded for the forward pass only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["Updates"]

SLOTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight."""


class Updates:
    """Updates weights in place.

    Args:
        parameters: by name.
        fixed: what goes along in checkpoints and is not updated: buffers, such as those that balance experts.
        lr: of the next steps.
        betas: as of `torch.optim.AdamW`.
        weight_decay: likewise.

    Attributes:
        masters: by name, the float32 copies of weights of 16 bits, and the other weights themselves.
        adam: the optimiser over them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        fixed: Mapping[str, Tensor] | None = None,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self.parameters, self.fixed = dict(parameters), dict(fixed or {})
        self.masters = {
            name: nn.Parameter(p.detach().float()) if p.dtype.itemsize < 4 else p
            for name, p in self.parameters.items()
        }
        self.adam = torch.optim.AdamW(self.masters.values(), lr=lr, betas=betas, weight_decay=weight_decay)

    def zero(self) -> None:
        """Forget all gradients."""
        for parameters in (self.parameters, self.masters):
            for p in parameters.values():
                p.grad = None

    def clip(self, limit: float) -> Tensor:
        """Bring the gradients' norm down to `limit`, where it is above it; the norm before that."""
        for name, p in self.parameters.items():
            if self.masters[name] is not p and p.grad is not None:
                self.masters[name].grad = p.grad.float()
        norm: Tensor = nn.utils.clip_grad_norm_(self.masters.values(), limit)
        return norm

    @torch.no_grad()
    def step(self, lr: float | None = None) -> None:
        """Update along the gradients as :meth:`clip` left them.

        Args:
            lr: from now on.
        """
        if lr is not None:
            for group in self.adam.param_groups:
                group["lr"] = lr
        self.adam.step()
        for name, p in self.parameters.items():
            if self.masters[name] is not p:
                p.copy_(self.masters[name])

    def tensors(self, weights: str, slots: str) -> dict[str, Tensor]:
        """What a checkpoint holds.

        Args:
            weights: what the names of weights begin with.
            slots: what those of the optimiser's numbers begin with, masters among them.
        """
        found = {weights + name: value for name, value in self.fixed.items()}
        for name, p in self.parameters.items():
            master = self.masters[name]
            found[weights + name] = p.detach()
            if master is not p:
                found[f"{slots}{name}.master"] = master.detach()
            for slot, value in self.adam.state.get(master, {}).items():
                found[f"{slots}{name}.{slot}"] = value
        return found

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], weights: str, slots: str) -> str | None:
        """Take in what :meth:`tensors` gave; the first weight that is not among it, or has another shape, else None."""
        everything: dict[str, Tensor] = {**self.parameters, **self.fixed}
        for name, t in everything.items():
            stored = tensors.get(weights + name)
            if stored is None or stored.shape != t.shape:
                return name
            t.copy_(stored)
        for name, p in self.parameters.items():
            stored, master = tensors[weights + name], self.masters[name]
            if master is not p:
                master.copy_(tensors.get(f"{slots}{name}.master", stored))
            kept = {slot: tensors.get(f"{slots}{name}.{slot}") for slot in SLOTS}
            if kept["step"] is not None:
                self.adam.state[master] = {
                    slot: t.clone() if slot == "step" else t.to(master)
                    for slot, t in kept.items()
                    if t is not None
                }
        return None
