"""Backward simulation: the student's own Euler rollout, stopped for each sample where its anchor is read.

Nothing after a sample's anchor is used by CA, DM, CDM or an anchor-trained critic, so the anchor is drawn first and the
sample leaves the batch once it is reached: (N + 1) / 2 network evaluations a sample instead of N, with
identical results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from noria.core.models.flow import clean_estimate, expand_like
from noria.distill.adapters import Condition, select

__all__ = ["Rollout", "simulate"]

Velocity = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass
class Rollout:
    """The part of a rollout that training reads; the batch axis comes first.

    Attributes:
        x: the student's point at its anchor.
        sigma: the anchor's σ [batch].
        velocity: the student's velocity there (no gradient).
        clean: x̂₀ there.
        final: x̂₀ at the end of the rollout, where it was simulated to its end; NaN elsewhere.
        complete: which samples were, [batch] bool.
        forwards: network evaluations, counted a sample.
    """

    x: Tensor
    sigma: Tensor
    velocity: Tensor
    clean: Tensor
    final: Tensor
    complete: Tensor
    forwards: int


@torch.no_grad()
def simulate(
    velocity: Velocity,
    noise: Tensor,
    sigmas: Tensor,
    lengths: Tensor,
    anchors: Tensor,
    condition: Condition,
    *,
    complete: Tensor | None = None,
    ragged: bool = True,
    step_noise: Tensor | None = None,
    calls: int = 0,
) -> Rollout:
    """Simulate from noise and read each sample at its anchor.

    Args:
        velocity: the student, (x, sigma [rows], condition) to a velocity.
        noise: x at σ = 1, [batch, ...].
        sigmas: true σ [batch, steps + 1], zero-padded.
        lengths: N [batch].
        anchors: [batch], each below its length.
        condition: conditioning of the batch.
        complete: samples whose rollout must reach its end, [batch] bool; none by default.
        ragged: let samples leave as soon as nothing more is read of them; else everybody runs to the end.
        step_noise: [steps − 1, batch, ...] to step by re-noising x̂₀ (SDE) instead of along the ODE.
        calls: make at least this many network calls (sharded models must agree on the number).
    """
    batch = noise.shape[0]
    needed = torch.zeros_like(anchors, dtype=torch.bool) if complete is None else complete
    if not ragged:
        needed = torch.ones_like(anchors, dtype=torch.bool)
    last = torch.where(needed, lengths - 1, anchors)
    # Longest first: whoever is still in is then a prefix, a view instead of a gather.
    order = last.argsort(descending=True, stable=True)
    last, anchors, sigmas = last[order], anchors[order], sigmas[order]
    ends = (lengths - 1)[order]
    condition = select(condition, order)
    x = noise[order].clone()
    stops = last.tolist()
    at_x, at_velocity, at_clean = (torch.empty_like(x) for _ in range(3))
    final = torch.full_like(x, torch.nan)
    forwards = 0
    for step in range(max(max(stops) + 1, calls)):
        alive = sum(stop >= step for stop in stops)
        rows = slice(0, max(alive, 1))
        now = sigmas[rows, step] if alive else sigmas[rows, 0]
        v = velocity(x[rows], now, select(condition, rows))
        if not alive:
            continue
        forwards += alive
        clean = clean_estimate(x[rows], v, now)
        here = expand_like(anchors[rows] == step, v)
        at_x[rows] = torch.where(here, x[rows], at_x[rows])
        at_velocity[rows] = torch.where(here, v, at_velocity[rows])
        at_clean[rows] = torch.where(here, clean, at_clean[rows])
        final[rows] = torch.where(expand_like(ends[rows] == step, v), clean, final[rows])
        then = sigmas[rows, step + 1]
        if step_noise is None:
            x[rows] += expand_like(then - now, v) * v
        elif step < step_noise.shape[0]:
            fresh = step_noise[step][order][rows]
            x[rows] = (1 - expand_like(then, v)) * clean + expand_like(then, v) * fresh
    back = torch.empty_like(order)
    back[order] = torch.arange(batch, device=order.device)
    sigma = sigmas.gather(1, anchors[:, None])[:, 0]
    return Rollout(at_x[back], sigma[back], at_velocity[back], at_clean[back], final[back], needed, forwards)
