"""Noise schedules: the law of the dynamic schedule and the samplers of the teacher's read level τ.

Pure functions of uniforms in [0, 1), so that a schedule is exactly what its random numbers say (CDM §3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from noria.core.models.flow import SigmaContract
from noria.distill.config import ScheduleConfig
from noria.distill.types import TauSampler

TAU_LOW, TAU_HIGH = 0.02, 0.98
"""Read levels are clamped here (release): a teacher says nothing at either end."""


def schedule_lengths(config: ScheduleConfig, uniform_batch: Tensor, uniform: Tensor) -> Tensor:
    """Number of steps N of each sample, [batch] int64.

    Args:
        config: settings of the schedule.
        uniform_batch: one U(0, 1) shared by the whole batch, [].
        uniform: one U(0, 1) a sample, [batch]; decides only for `dynamic_per_sample`.
    """
    if config.kind == "fixed":
        return torch.full(uniform.shape, len(config.steps), dtype=torch.int64)
    u = uniform if config.kind == "dynamic_per_sample" else uniform_batch.expand(uniform.shape)
    return 1 + (u * config.max_steps).long().clamp(max=config.max_steps - 1)


def schedule_sigmas(
    config: ScheduleConfig, contract: SigmaContract, lengths: Tensor, uniform: Tensor
) -> Tensor:
    """True σ of each sample's rollout, [batch, max(lengths) + 1]: 1, falling inner levels, then zeros.

    σ_0 = 1; the N − 1 inner levels are U(low, high), sorted to fall. In the pre-shift space the contract's shift is
    applied to them afterwards (so U(.25, .95) under SD3's shift of 3 spans [.50, .983]).

    Args:
        config: settings of the schedule.
        contract: σ contract of the model.
        lengths: N [batch].
        uniform: [batch, ≥ max(lengths) − 1]; a sample's first N − 1 are used. For `dynamic` all rows take row 0.
    """
    steps = int(lengths.max())
    if config.kind == "fixed":
        grid = contract.grid(config.steps)
        return grid.expand(lengths.shape[0], -1).clone()
    u = uniform[:, : steps - 1]
    if config.kind == "dynamic":
        u = u[:1].expand(lengths.shape[0], -1)
    inner = config.low + (config.high - config.low) * u.float()
    unused = torch.arange(steps - 1)[None] >= (lengths - 1)[:, None]
    inner = inner.masked_fill(unused, 0.0).sort(dim=1, descending=True).values
    if config.space == "pre_shift":
        inner = contract.shifted(inner)
    ones, zeros = torch.ones(lengths.shape[0], 1), torch.zeros(lengths.shape[0], 1)
    return torch.cat([ones, inner, zeros], dim=1)


def sample_tau(
    sampler: TauSampler,
    uniform: Tensor,
    anchor_sigma: Tensor,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    before: SigmaContract | None = None,
) -> Tensor:
    """True read levels τ [batch] in [0.02, 0.98] from U(0, 1) `uniform` [batch].

    `uniform`: U(0, 1); `capped`: U(0, σ_anchor); `above`: U(σ_anchor, 1); `logit_normal`: sigmoid of N(mean, std²).

    Args:
        sampler: law of the level.
        uniform: a U(0, 1) a sample, [batch].
        anchor_sigma: true σ of the anchor, [batch].
        mean: mean of the logit of `logit_normal`.
        std: standard deviation of that logit.
        before: contract whose shift is applied after the draw, to levels before it; None draws true levels.
    """
    if before is not None:
        anchor_sigma = before.unshifted(anchor_sigma)
    if sampler == "capped":
        tau = uniform * anchor_sigma
    elif sampler == "above":
        tau = anchor_sigma + uniform * (1 - anchor_sigma)
    elif sampler == "logit_normal":
        tau = torch.sigmoid(mean + std * torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)))
    else:
        tau = uniform
    if before is not None:
        tau = before.shifted(tau)
    return tau.clamp(TAU_LOW, TAU_HIGH)
