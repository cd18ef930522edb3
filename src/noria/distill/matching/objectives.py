"""The loss algebra of distribution-matching distillation, as pure functions of tensors.

Every student term is one *push*: the clean estimate is asked to move by a direction Δ, scaled by how far the
guidance-free teacher read is from it. CA, DM and CDM differ only in Δ and in where the estimate was made (CDM, arXiv
2605.06376, Eq. 3-8; `push` as in its released code). Shapes: clean images and directions [batch, ...]; σ and τ [batch].
"""

from __future__ import annotations

import torch
from torch import Tensor

from noria.core.models.flow import expand_like, interpolate


def push_scale(clean: Tensor, reference: Tensor, min_norm: float = 0.1) -> Tensor:
    """The normaliser n = max(mean |r − x̂| + 1e-8, min_norm), [batch, 1, ...], in float32.

    The mean runs over all but the batch axis. DMD2 has no lower clamp; `min_norm=0` is DMD2's.
    """
    distance = (reference.float() - clean.detach().float()).abs().flatten(1).mean(dim=1)
    return expand_like((distance + 1e-8).clamp(min=min_norm), clean)


def push(clean: Tensor, direction: Tensor, reference: Tensor, min_norm: float = 0.1) -> Tensor:
    """L = mean((x̂ − sg[x̂ + Δ / n])²), so that ∂L/∂x̂ = −(2 / D) Δ / n with D the number of elements averaged.

    There is no factor ½ (DMD2 and others have one), as in the release.

    Args:
        clean: x̂ [batch, ...], the only input a gradient flows through.
        direction: Δ [batch, ...]; its non-finite entries push nowhere.
        reference: r [batch, ...], the guidance-free teacher read that sets the scale.
        min_norm: lower clamp of n.
    """
    n = push_scale(clean, reference, min_norm)
    step = torch.nan_to_num(direction.float() / n, nan=0.0, posinf=0.0, neginf=0.0)
    x = clean.float()
    return (x - (x + step).detach()).square().mean()


def ca_direction(
    conditional: Tensor, unconditional: Tensor, scale: float, *, convention: str = "difference"
) -> Tensor:
    """CFG augmentation, Δ = α (R_c − R_∅) (CDM Eq. 3); `guidance` takes a CFG scale and uses α − 1 (Decoupled-DMD)."""
    factor = scale - 1 if convention == "guidance" else scale
    return factor * (conditional - unconditional)


def dm_direction(real: Tensor, fake: Tensor) -> Tensor:
    """Distribution matching, Δ = R_c − R_φ: guidance-free real read minus the critic's (CDM Eq. 4).

    In score terms R_c − R_φ = (τ² / (1 − τ)) (s_real − s_fake), the descent direction of KL(student ‖ teacher) at τ.
    """
    return real - fake


def extrapolate(x: Tensor, velocity: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """x′ = x_σ + (σ′ − σ) v̄: the straight line of the rollout's own velocity, either way (CDM Eq. 7)."""
    return x + expand_like(to - sigma, x) * velocity


def flow_matching_loss(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean ‖v − (ε − x₀)‖², the critic's loss."""
    return (velocity.float() - (noise - clean).float()).square().mean()


def consistency_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean ‖x̂₀(x_σ) − sg x̂₀(x_σ′)‖² between neighbours of one teacher ODE step (consistency, arXiv 2303.01469)."""
    return (estimate.float() - target.detach().float()).square().mean()


def renoise(clean: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
    """z(x̂; τ) = (1 − τ) sg[x̂] + τ ε′, where the teachers read."""
    return interpolate(clean.detach(), noise, tau)
