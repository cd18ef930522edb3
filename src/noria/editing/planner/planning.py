"""A trained planner in this process, as the planner of a session: many requests that wait are planned in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from noria.core.service.batching import Batching
from noria.editing.planner.loading import open_policy
from noria.editing.planner.policy import Policy, Request

if TYPE_CHECKING:
    from PIL.Image import Image

TOGETHER = 32
"""Most plans of a batch."""
WAITING = 4096
"""Most requests that may wait; a service lets far fewer in."""


class PolicyPlanner:
    """A policy that writes plans.

    At temperature 0 the likeliest plan is written, and requests that wait share a batch. Else every request draws from
    a generator of its own, so that the same sample number gives the same plan whoever else waits.

    Args:
        policy: policy that writes.
        name: name of the planner.
        temperature: temperature of the draws.
        max_tokens: most tokens of an output.
    """

    def __init__(
        self, policy: Policy, name: str, *, temperature: float = 0.0, max_tokens: int = 2048
    ) -> None:
        self.policy, self.name = policy, name
        self.temperature, self.max_tokens = temperature, max_tokens
        size = TOGETHER if temperature == 0 else 1
        self.batching: Batching[tuple[Request, int], str] = Batching(
            self._written, size=size, waiting=WAITING
        )

    @classmethod
    def open(cls, folder: Path, *, temperature: float = 0.0, max_tokens: int = 2048) -> PolicyPlanner:
        """Load the planner of a folder that `noria editing train` or `sft` wrote, or any other of its families.

        Raises:
            ModelError: the folder holds no such model.
            CheckpointError: a file of weights is damaged.
        """
        precision = "bf16" if torch.cuda.is_available() else "fp32"
        policy = open_policy(folder, precision=precision)
        return cls(policy, Path(folder).name, temperature=temperature, max_tokens=max_tokens)

    async def write(
        self, images: Sequence[Image], instruction: str, *, sample: int = 0, notes: str = ""
    ) -> str:
        """Do what :meth:`Planner.write` says."""
        if notes:
            instruction += f"\n\nAn earlier plan was rendered and checked. What was not right then:\n{notes}"
        (text,) = await self.batching.ask([(Request(tuple(images), instruction), sample)])
        return text

    def running(self) -> AbstractAsyncContextManager[None]:
        """Write plans while the context lasts; outside of it they wait."""
        return self.batching.running()

    def _written(self, wishes: Sequence[tuple[Request, int]]) -> list[str]:
        prompts = self.policy.encode([request for request, _ in wishes])
        generator = torch.Generator(self.policy.device).manual_seed(wishes[0][1])
        drawn = self.policy.sample(
            prompts, each=1, longest=self.max_tokens, generator=generator, temperature=self.temperature
        )
        return list(drawn.texts)
