"""Rollouts of one training step: a group of completions of every prompt, with their rewards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from noria.core.errors import DataError, DivergenceError
from noria.mtp.acceptance.sampling import SamplingParams
from noria.mtp.acceptance.streams import Streams
from noria.mtp.decoding.decoder import Completion, Decoder, Request
from noria.mtp.rl.config import RLConfig

Reward = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Sequence[float]]
"""(prompts, completions), as tokens and in pairs → a number for each."""


@dataclass(frozen=True)
class Batch:
    """Completions of one step, with their rewards.

    Attributes:
        version: number of updates that the policy had had when it wrote them.
        prompts: prompt of each completion.
        completions: completions in groups of one prompt.
        rewards: reward of each completion.
        seconds: time of `rollout` and `score`.
    """

    version: int
    prompts: Sequence[Sequence[int]]
    completions: Sequence[Completion]
    rewards: Sequence[float]
    seconds: Mapping[str, float]


def roll_out(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    reward: Reward,
    config: RLConfig,
    *,
    number: int,
    version: int,
) -> Batch:
    """Write a group of completions of every prompt, and score them.

    Args:
        decoder: decoder of the policy.
        prompts: prompt of each group.
        reward: scores completions.
        config: group, length, temperature and seed.
        number: number of the batch; random numbers depend on it and on the seed alone.
        version: number of updates that the policy has had.

    Raises:
        DataError: a reward is missing or not finite, or the model's logits were not.
    """
    began = time.perf_counter()
    copies = [list(prompt) for prompt in prompts for _ in range(config.group)]
    seeds = Streams.derived((config.seed << 24) + number, len(copies)).seeds.tolist()
    params = SamplingParams(temperature=config.temperature)
    done = decoder.generate(
        [Request(p, config.max_new_tokens, params, seed) for p, seed in zip(copies, seeds, strict=True)]
    )
    if any(c.finish == "invalid" for c in done):
        raise DivergenceError("the policy's logits are not finite", where=f"rollout {number}")
    middle = time.perf_counter()
    rewards = [float(value) for value in reward(copies, [c.tokens for c in done])]
    if len(rewards) != len(copies) or not all(torch.tensor(rewards).isfinite()):
        raise DataError(
            f"{len(rewards)} rewards for {len(copies)} completions, or one that is not finite",
            where=f"rollout {number}",
            mend="let the reward give a finite number for each",
        )
    seconds = {"rollout": middle - began, "score": time.perf_counter() - middle}
    return Batch(version, copies, done, rewards, seconds)
