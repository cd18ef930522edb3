"""The protocol between the trainer and a model family, and the adapter for the proof's small transformer.

An adapter knows *how* to call a velocity network: how its prompts become tensors, which timestep scale it wants, what
shape its latents have. It does not know *which* weights are called: the network comes as an argument, so the frozen
teacher, the student and the critic share one adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from noria.core.errors import ConfigError, DataError
from noria.core.models.flow import SigmaContract, SmallTransformer, euler
from noria.distill.types import Role

__all__ = ["Condition", "FlowAdapter", "Sampler", "SmallAdapter", "concat", "no_source_sigma", "select"]

Condition = dict[str, Tensor]
"""Named conditioning tensors, each with the batch as its first axis."""


def select(condition: Condition, index: Tensor | slice) -> Condition:
    """Rows of a condition."""
    return {name: value[index] for name, value in condition.items()}


def concat(conditions: Sequence[Condition]) -> Condition:
    """Conditions stacked along the batch."""
    return {name: torch.cat([c[name] for c in conditions]) for name in conditions[0]}


def no_source_sigma(family: str) -> ConfigError:
    """The error of a critic that is told its sample's anchor, where the family's network cannot take it."""
    return ConfigError(
        f"an anchor-conditioned critic needs a network that takes the anchor's σ, and {family} does not",
        where="critic.source",
        mend="use anchor_x0, final_x0 or mix",
    )


@runtime_checkable
class FlowAdapter(Protocol):
    """The calls of one family of flow-matching velocity networks.

    Attributes:
        name: name of the family in reports.
        contract: pre-shift to true σ, agreed with the family's scheduler.
        latent_shape: shape of one latent, without the batch.
        lora_targets: module name endings that LoRA adapts.
        network: the frozen pretrained network.
    """

    name: str
    contract: SigmaContract
    latent_shape: tuple[int, ...]
    lora_targets: list[str]
    network: nn.Module

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Conditioning tensors of `prompts`."""
        ...

    def null(self, batch: int) -> Condition:
        """The unconditional (empty prompt) conditioning, for any batch size."""
        ...

    def velocity(
        self,
        network: nn.Module,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        source_sigma: Tensor | None = None,
    ) -> Tensor:
        """Velocity [batch, *latent_shape] in float32 at `x` (float32) and true `sigma` [batch]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images [batch, 1 or 3, height, width] in [0, 1]."""
        ...


class Sampler:
    """A model that draws latents in a role: the networks of a training, or a student loaded from disk."""

    adapter: FlowAdapter

    def playing(self, role: Role) -> AbstractContextManager[Callable[[Tensor, Tensor, Condition], Tensor]]:
        """The velocity (x, sigma, condition) of `role`, for as long as the context lasts."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        noise: Tensor,
        sigmas: Tensor,
        *,
        role: Role = "student",
        guidance: float = 1.0,
    ) -> Tensor:
        """Latents by Euler steps on true σ `sigmas` [steps + 1], with classifier-free guidance where it is not 1."""
        condition = self.adapter.encode(prompts)
        null = self.adapter.null(len(prompts)) if guidance != 1 else None

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            v = velocity(x, sigma, condition)
            if null is None:
                return v
            free = velocity(x, sigma, null)
            return free + guidance * (v - free)

        with self.playing(role) as velocity:
            return euler(guided, noise.to(next(iter(condition.values())).device), sigmas)


class SmallAdapter:
    """Adapter of :class:`~noria.core.models.flow.SmallTransformer`; a prompt is a class number such as "7"."""

    def __init__(self, network: SmallTransformer, *, shift: float = 1.0) -> None:
        c = network.config
        self.name = "small"
        self.lora_targets = ["to_qkv", "to_out", "up", "down"]
        self.network: nn.Module = network
        self.classes = c.classes
        self.contract = SigmaContract(shift)
        self.latent_shape: tuple[int, ...] = (c.channels, c.image_size, c.image_size)

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Class labels [batch] of prompts that are class numbers.

        Raises:
            DataError: a prompt is not a class number.
        """
        labels = []
        for number, prompt in enumerate(prompts, start=1):
            if not prompt.strip().isdecimal() or int(prompt) >= self.classes:
                raise DataError(
                    f"prompt {prompt!r} is not a class",
                    where=f"prompt {number}",
                    mend=f"this model takes a class number, 0 to {self.classes - 1}",
                )
            labels.append(int(prompt))
        return {"labels": torch.tensor(labels, device=self._device)}

    def null(self, batch: int) -> Condition:
        """The null class, `batch` times."""
        return {"labels": torch.full((batch,), self.classes, device=self._device)}

    def velocity(
        self,
        network: nn.Module,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        source_sigma: Tensor | None = None,
    ) -> Tensor:
        """The network's velocity, in float32."""
        out: Tensor = network(x, sigma, condition["labels"], source_sigma)
        return out.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels from [−1, 1] to [0, 1]."""
        return (latents.clamp(-1, 1) + 1) / 2

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device
