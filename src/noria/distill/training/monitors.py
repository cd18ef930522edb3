"""Health figures of a distillation run: what to look at when a student saturates, collapses or lags.

All are cheap by-products of tensors a step has anyway; each function returns plain numbers for `metrics.jsonl`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noria.core.errors import DivergenceError
from noria.distill.types import SIGMA_BINS

__all__ = ["binned_norms", "check_health", "cosine", "std_ratio"]


def cosine(a: Tensor, b: Tensor) -> float | None:
    """Mean over the batch of cos(a, b), both [batch, ...]; None when some direction is zero."""
    value = torch.nn.functional.cosine_similarity(
        a.flatten(1).float(), b.flatten(1).float(), dim=1, eps=1e-12
    )
    lengths = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
    return float(value[lengths > 0].mean()) if bool((lengths > 0).any()) else None


def std_ratio(student: Tensor, teacher: Tensor) -> float:
    """Standard deviation of the student's clean estimates over the teacher's reads: saturation drifts above 1."""
    return float(student.float().std() / teacher.float().std().clamp_min(1e-12))


def binned_norms(direction: Tensor, scale: Tensor, sigma: Tensor) -> dict[str, float]:
    """Mean RMS of the push Δ / n by σ bin of the estimate; bins with no sample are left out."""
    rms = (direction.float() / scale).flatten(1).square().mean(dim=1).sqrt()
    bins = torch.bucketize(sigma.cpu(), torch.tensor(SIGMA_BINS[1:-1]), right=True)
    rms = rms.cpu()
    return {
        f"push_bin{b}": float(rms[bins == b].mean())
        for b in range(len(SIGMA_BINS) - 1)
        if bool((bins == b).any())
    }


def check_health(
    iteration: int, values: dict[str, float], *, max_std_ratio: float, last_good: str | None
) -> None:
    """Stop a run that has blown up.

    Raises:
        DivergenceError: a loss or gradient norm is not finite, or the student's spread left the allowed band.
    """
    resume = f"the last good checkpoint is {last_good}" if last_good else "no checkpoint was written yet"
    for name, value in values.items():
        if name.startswith(("loss", "grad_norm")) and not math.isfinite(value):
            raise DivergenceError(
                f"{name} is {value}",
                where=f"iteration {iteration}",
                mend=f"{resume}; lower student.lr or critic.lr",
            )
    ratio = values.get("std_ratio", 1.0)
    if not 1 / max_std_ratio < ratio < max_std_ratio:
        raise DivergenceError(
            f"the student's spread is {ratio:.3g} times the teacher's (limit {max_std_ratio:g} either way)",
            where=f"iteration {iteration}",
            mend=f"{resume}; lower student.lr, objective.ca_scale, or raise update_ratio",
        )
