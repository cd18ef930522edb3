"""Rollouts of a step: which prompts, which outputs in which stream, and the rewards that they got."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from noria.editing.planner.policy import Encoded, Policy, Request, Sampled
from noria.editing.planner.settings import GrpoSettings
from noria.editing.rewards.streams import Stream, StreamSettings


@dataclass(frozen=True)
class Attempt:
    """One output that is to be rewarded.

    Attributes:
        prompt: number of the prompt.
        output: text that the policy wrote.
        stream: stream whose reward counts for the attempt.
        seed: seed of the editor, shared by the attempts of a prompt in a step (common random numbers).
    """

    prompt: int
    output: str
    stream: Stream
    seed: int


class Rewarder(Protocol):
    """Rewards attempts. Renders are counted by who makes them."""

    @property
    def renders(self) -> int:
        """Calls of the editor so far."""
        ...

    def __call__(self, attempts: Sequence[Attempt]) -> Sequence[tuple[float | None, float | None]]:
        """r_cog and r_vis of each attempt; None where a reward is missing or its stream does not ask for it."""
        ...


class TokenCredit(Protocol):
    """Shares the advantage of an output out to its tokens, such as by the flow of attention to the plan."""

    def __call__(self, policy: Policy, rollouts: Rollouts, advantages: Tensor, step: int) -> Tensor:
        """[rows, T] weight of each token of the outputs; 1 gives it the whole advantage.

        Args:
            policy: policy that wrote the outputs.
            rollouts: the rollouts of a step.
            advantages: [rows] advantage of each output.
            step: number of the step.
        """
        ...


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of a step.

    Attributes:
        prompts: requests, one a row.
        sampled: outputs.
        attempts: rewarded outputs, one a row.
        group: [rows] group of each row.
    """

    prompts: Encoded
    sampled: Sampled
    attempts: tuple[Attempt, ...]
    group: Tensor


def groups_of(settings: GrpoSettings) -> list[tuple[Stream, int]]:
    """Groups that are drawn for a prompt; a stream of no rollouts is left out, which trains on the other one alone."""
    if settings.rule == "split":
        sizes: list[tuple[Stream, int]] = [
            ("cognitive", settings.cognitive_group),
            ("visual", settings.visual_group),
        ]
        return [(stream, size) for stream, size in sizes if size]
    return [("both", settings.cognitive_group + settings.visual_group)]


def stream_settings(settings: GrpoSettings) -> StreamSettings:
    """The rule of a training as the rewards' room knows it."""
    return StreamSettings(
        settings.rule,
        settings.cognitive_weight,
        settings.visual_weight,
        max(1, settings.cognitive_group),
        max(1, settings.visual_group),
    )


def chosen_prompts(step: int, count: int, settings: GrpoSettings) -> list[int]:
    """Numbers of the prompts of a step, out of `count`: a new shuffle each time that all were seen."""
    numbers: list[int] = []
    for place in range(step * settings.prompts, (step + 1) * settings.prompts):
        order = np.random.default_rng([settings.seed, 11, place // count]).permutation(count)
        numbers.append(int(order[place % count]))
    return numbers


def roll_out(policy: Policy, requests: Sequence[Request], step: int, settings: GrpoSettings) -> Rollouts:
    """Draw the outputs of a step; they follow from the weights, the seed and the step alone."""
    numbers = chosen_prompts(step, len(requests), settings)
    groups = groups_of(settings)
    each = sum(size for _, size in groups)
    generator = torch.Generator().manual_seed(_seed(settings.seed, "draw", step))
    prompts = policy.encode([requests[n] for n in numbers])
    sampled = policy.sample(
        prompts, each=each, longest=settings.longest, generator=generator, temperature=settings.temperature
    )
    attempts, group = [], []
    texts = iter(sampled.texts)
    for place, number in enumerate(numbers):
        seed = _seed(settings.seed, "editor", step, place) % 2**31
        for which, (stream, size) in enumerate(groups):
            for _ in range(size):
                attempts.append(Attempt(number, next(texts), stream, seed))
                group.append(place * len(groups) + which)
    return Rollouts(prompts.repeated(each), sampled, tuple(attempts), torch.tensor(group))


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7])
