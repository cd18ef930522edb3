"""The three networks of distribution matching: frozen teacher, student, critic (fake teacher).

`full` keeps three copies. `lora` keeps one frozen base and two LoRA adapters on it; with both switched off
the base *is* the teacher, to the bit, so a 20-billion-parameter model needs its weights once.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import CheckpointError, require
from noria.distill.adapters import FlowAdapter
from noria.distill.config import DistillConfig
from noria.distill.types import Role

__all__ = ["FullRoles", "LoraRoles", "make_roles"]


class FullRoles:
    """Three separate copies: a frozen teacher, a trainable student and a trainable critic."""

    def __init__(self, adapter: FlowAdapter, *, dtype: torch.dtype | None = None) -> None:
        teacher = adapter.network.eval().requires_grad_(False)
        student, critic = copy.deepcopy(teacher), copy.deepcopy(teacher)
        self.networks: dict[Role, nn.Module] = {"teacher": teacher, "student": student, "critic": critic}
        for trainable in (student, critic):
            trainable.requires_grad_(True)
            if dtype is not None:
                trainable.to(dtype)

    def network(self, role: Role) -> nn.Module:
        """The copy that plays `role`."""
        return self.networks[role]

    def parameters(self, role: Role) -> dict[str, nn.Parameter]:
        """Parameters of the copy, by name."""
        return dict(self.networks[role].named_parameters())


class LoraRoles:
    """Two LoRA adapters, "student" and "critic", over one frozen base; no adapter is the teacher."""

    def __init__(
        self, adapter: FlowAdapter, *, rank: int, alpha: float, dtype: torch.dtype | None = None
    ) -> None:
        peft = require("peft", "distill")
        self.base = adapter.network.eval().requires_grad_(False)
        names = ("student", "critic")
        settings = peft.LoraConfig(
            r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(adapter.lora_targets)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # peft doubts that anybody wants two adapters
            for name in names:
                peft.inject_adapter_in_model(settings, self.base, adapter_name=name)
        self._layers: list[Any] = [
            m for m in self.base.modules() if isinstance(m, peft.tuners.tuners_utils.BaseTunerLayer)
        ]
        self._parameters: dict[str, dict[str, nn.Parameter]] = {
            role: {
                n.replace(f".{role}.", "."): p for n, p in self.base.named_parameters() if f".{role}." in n
            }
            for role in names
        }
        # Two adapters start from the same draw, so that the critic starts as the student does.
        with torch.no_grad():
            for name, p in self._parameters["critic"].items():
                p.copy_(self._parameters["student"][name])
        if dtype is not None:
            for owned in self._parameters.values():
                for p in owned.values():
                    p.data = p.data.to(dtype)
        self._active: Role | None = None
        self.network("teacher")

    def network(self, role: Role) -> nn.Module:
        """The base with `role`'s adapter switched on (none for the teacher): call it right before each use."""
        if role != self._active:
            for layer in self._layers:
                layer.enable_adapters(role != "teacher")
                if role != "teacher":
                    layer.set_adapter(role)
            for name, owned in self._parameters.items():
                for p in owned.values():
                    p.requires_grad_(name == role)
            self._active = role
        return self.base

    def parameters(self, role: Role) -> dict[str, nn.Parameter]:
        """LoRA matrices of `role`; names are the same for both roles."""
        return self._parameters[role]


def make_roles(adapter: FlowAdapter, config: DistillConfig) -> FullRoles | LoraRoles:
    """The roles a config asks for. Trained weights are float32; the frozen base keeps its own type."""
    if config.train == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return LoraRoles(adapter, rank=config.lora.rank, alpha=config.lora.alpha, dtype=torch.float32)
    return FullRoles(adapter, dtype=torch.float32)


@torch.no_grad()
def load_parameters(parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor], *, where: str) -> None:
    """Copy saved tensors into parameters of the same names and shapes.

    Raises:
        CheckpointError: a name or a shape differs; nothing has been copied then.
    """
    for name, p in parameters.items():
        if name not in tensors or tensors[name].shape != p.shape:
            stored = f"shape {tuple(tensors[name].shape)}" if name in tensors else "nothing"
            raise CheckpointError(
                f"{name} has shape {tuple(p.shape)} in this model but the checkpoint holds {stored}",
                where=where,
                mend="the checkpoint is of another model or training mode; use another output folder",
            )
    for name, p in parameters.items():
        p.copy_(like(p, tensors[name]))


def like(target: Tensor, full: Tensor) -> Tensor:
    """`full` on the target's device and type, and sharded like it when it is a DTensor."""
    full = full.to(device=target.device, dtype=target.dtype)
    placements = getattr(target, "placements", None)
    if placements is None:
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full, target.device_mesh, placements)  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a shard (a collective call), on the CPU; a plain tensor as it is."""
    gather = getattr(tensor, "full_tensor", None)
    return (gather() if gather is not None else tensor).detach().cpu()
