"""Reinforcement learning of sequences in pure functions: group-relative advantages, credit of tokens, the policy loss.

A rollout is a row. Its rewards are `[rows]`, or `[rows, components]` where several things are rewarded; rows of one
prompt share a number in `group: [rows]`. A reward that is NaN or infinite is missing: it is left out of every mean and
its advantage is 0. A row that is alone in its group has an advantage of 0, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noria.core.training.types import Aggregation, Scale


@dataclass(frozen=True)
class Moments:
    """Number, mean and deviation of the rewards of each group, each [groups, components]; missing ones do not count.

    Attributes:
        count: number of rewards.
        mean: mean; NaN where there are none.
        std: standard deviation of a sample (n − 1); 0 where there are fewer than two.
    """

    count: Tensor
    mean: Tensor
    std: Tensor


def group_numbers(group: Tensor) -> tuple[Tensor, int]:
    """Renumber groups [rows] as 0 … groups − 1, in the order of their numbers; the new numbers and their count."""
    names, index = torch.unique(group, return_inverse=True)
    return index, len(names)


def group_moments(rewards: Tensor, group: Tensor, groups: int, mask: Tensor) -> Moments:
    """Count, mean and deviation of each group, in double precision.

    Args:
        rewards: [rows, components]; values outside of `mask` may be anything.
        group: [rows], 0 … groups − 1.
        groups: number of groups.
        mask: [rows, components] bool: rewards that count.
    """
    kept = torch.where(mask, rewards, 0.0).to(_precise(rewards))
    shape = (groups, rewards.shape[1])
    count = torch.zeros(shape, dtype=kept.dtype, device=kept.device).index_add_(0, group, mask.to(kept))
    mean = torch.zeros_like(count).index_add_(0, group, kept) / count
    gap = torch.where(mask, kept - mean[group], 0.0)
    squares = torch.zeros_like(count).index_add_(0, group, gap * gap)
    std = torch.where(count > 1, (squares / (count - 1).clamp(min=1)).sqrt(), 0.0)
    return Moments(count, mean, std)


def group_advantages(
    rewards: Tensor,
    group: Tensor,
    *,
    mask: Tensor | None = None,
    scale: Scale = "group",
    epsilon: float = 1e-4,
    flat: float = 1e-8,
) -> Tensor:
    """Group-relative advantages: (r − mean) / (std + ε) within each group and component, over the rewards present.

    Source: GRPO (Shao et al. 2024, arXiv 2402.03300); without the divisor, Dr.GRPO (arXiv 2503.20783).

    Args:
        rewards: [rows] or [rows, components], of any real type.
        group: [rows] group of each row; rows of a group are compared.
        mask: rewards that count, of the shape of `rewards`; all by default. Those not finite never do.
        scale: divisor of the centred rewards.
        epsilon: ε; TRL has 1e-4, verl 1e-6.
        flat: largest std of a group that counts as flat: it has no signal, and its advantages are 0.

    Returns:
        Advantages of the shape of `rewards`, in single precision; 0 where there is nothing to compare.
    """
    table = rewards if rewards.ndim == 2 else rewards[:, None]
    present = table.isfinite()
    if mask is not None:
        present &= mask.reshape(table.shape)
    index, groups = group_numbers(group)
    moments = group_moments(table, index, groups, present)
    gap = torch.where(present, table.to(moments.mean) - moments.mean[index], 0.0)
    has_signal = present & (moments.std > flat)[index]
    if scale == "group":
        gap = gap / (moments.std[index] + epsilon)
    elif scale == "batch":
        whole = group_moments(table, torch.zeros_like(index), 1, present)
        gap = gap / (whole.std + epsilon)
    return torch.where(has_signal, gap, 0.0).float().reshape(rewards.shape)


def credited(advantages: Tensor, credit: Tensor | None = None) -> Tensor:
    """Give the advantages of rows to their tokens.

    Args:
        advantages: [rows] or [rows, components].
        credit: share of each token: [rows, tokens], or [rows, tokens, components] to give each component to tokens of
            its own. None gives every token the whole advantage.

    Returns:
        [rows, tokens], or [rows] without credit; components are added up.

    Raises:
        ValueError: the shapes do not go together.
    """
    if credit is None:
        return advantages.sum(-1) if advantages.ndim == 2 else advantages
    if credit.ndim == 3:
        if advantages.ndim != 2 or advantages.shape[1] != credit.shape[2]:
            raise ValueError(f"advantages {list(advantages.shape)} and credit {list(credit.shape)}")
        return torch.einsum("bk,btk->bt", advantages, credit.to(advantages))
    whole = advantages.sum(-1) if advantages.ndim == 2 else advantages
    return whole[:, None] * credit.to(whole)


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of a policy, with figures for the log.

    Attributes:
        loss: differentiable loss.
        clipped: share of tokens whose ratio was clipped.
        ratio: mean ratio of the tokens.
    """

    loss: Tensor
    clipped: Tensor
    ratio: Tensor


def clipped_objective(
    log_ratio: Tensor, advantages: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tensor:
    """min(ρA, clip(ρ, 1 − low, 1 + high) A) of each token (Schulman et al. 2017), to be maximised.

    Args:
        log_ratio: log π(token) − log π_old(token), [rows, tokens].
        advantages: [rows] or [rows, tokens].
        clip_low, clip_high: bounds of the ratio; DAPO's are 0.2 and 0.28.
    """
    ratio = log_ratio.exp()
    gain = (advantages[:, None] if advantages.ndim == 1 else advantages).to(ratio)
    return torch.minimum(ratio * gain, ratio.clamp(1 - clip_low, 1 + clip_high) * gain)


def clipped_tokens(
    log_ratio: Tensor, advantages: Tensor, *, clip_low: float = 0.2, clip_high: float = 0.2
) -> Tensor:
    """Tokens whose gradient the clip of `clipped_objective` stops: [rows, tokens] bool."""
    ratio = log_ratio.exp()
    gain = advantages[:, None] if advantages.ndim == 1 else advantages
    return ((ratio < 1 - clip_low) & (gain < 0)) | ((ratio > 1 + clip_high) & (gain > 0))


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    aggregation: Aggregation = "dapo",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    normalizer: float | None = None,
    reference_logprobs: Tensor | None = None,
    beta: float = 0.0,
) -> PolicyLoss:
    """The clipped loss of a policy.

    Args:
        logprobs: [rows, tokens] log-probabilities under the policy that is trained.
        old_logprobs: [rows, tokens] log-probabilities under the policy that wrote the tokens.
        advantages: [rows] or [rows, tokens].
        mask: [rows, tokens]: the policy's own tokens.
        aggregation: how tokens are averaged.
        clip_low, clip_high: bounds of the ratio.
        normalizer: divisor of the sum: rows for `grpo`, tokens for `dapo`, rows × longest length for `dr_grpo`, which
            needs it. By default it is that of the batch; parts of a batch that needs several passes share one.
        reference_logprobs: [rows, tokens] log-probabilities under the reference policy.
        beta: weight of the divergence from the reference.
    """
    kept = mask.to(logprobs)
    log_ratio = torch.where(kept > 0, logprobs - old_logprobs, 0.0)
    loss = -clipped_objective(log_ratio, advantages, clip_low=clip_low, clip_high=clip_high)
    if reference_logprobs is not None and beta:
        loss = loss + beta * kl_estimate(torch.where(kept > 0, logprobs - reference_logprobs, 0.0))
    loss = loss * kept
    if aggregation == "grpo":
        rows = loss.sum(1) / kept.sum(1).clamp(min=1)
        total = rows.sum() / (len(rows) if normalizer is None else normalizer)
    elif aggregation == "dapo":
        total = loss.sum() / (kept.sum().clamp(min=1) if normalizer is None else normalizer)
    else:
        if normalizer is None:
            raise ValueError("dr_grpo divides by rows × the longest length allowed: give it as normalizer")
        total = loss.sum() / normalizer
    with torch.no_grad():
        tokens = kept.sum().clamp(min=1)
        clipped = clipped_tokens(log_ratio, advantages, clip_low=clip_low, clip_high=clip_high)
        share, ratio = (clipped * kept).sum() / tokens, (log_ratio.exp() * kept).sum() / tokens
    return PolicyLoss(total, share, ratio)


def kl_estimate(log_ratio: Tensor) -> Tensor:
    """KL(π ‖ reference) of each token, e^−x − 1 + x for x = log π − log π_ref: never negative (Schulman's k3)."""
    return torch.expm1(-log_ratio) + log_ratio


def _precise(values: Tensor) -> torch.dtype:
    """Double precision where the device has it, so that sums of thousands of rows do not depend on their order."""
    return torch.float32 if values.device.type == "mps" else torch.float64
