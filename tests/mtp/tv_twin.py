"""The arithmetic of the Triton kernels in PyTorch, tile by tile: what the tests hold the kernels against."""

from __future__ import annotations

import torch
from torch import Tensor

from noria.mtp.training.kernels import BLOCK, FLOOR, TVStats


def tv_forward(
    student: Tensor, teacher: Tensor, *, vocab_size: int | None = None, block: int = BLOCK
) -> TVStats:
    """What `noria.mtp.training.kernels.tv_forward` gives."""
    student, teacher = student[:, :vocab_size], teacher[:, :vocab_size]
    zero = torch.zeros(student.shape[0], device=student.device)
    max_q, sum_q, max_p, sum_p = zero + FLOOR, zero, zero + FLOOR, zero
    for z, t in zip(torch.split(student, block, dim=1), torch.split(teacher, block, dim=1), strict=True):
        max_q, sum_q = _running(z.float(), max_q, sum_q)
        max_p, sum_p = _running(t.float(), max_p, sum_p)
    overlap, below = zero, zero
    for z, t in zip(torch.split(student, block, dim=1), torch.split(teacher, block, dim=1), strict=True):
        q = (z.float() - max_q[:, None]).exp() / sum_q[:, None]
        p = (t.float() - max_p[:, None]).exp() / sum_p[:, None]
        overlap = overlap + torch.minimum(q, p).sum(dim=1)
        below = below + torch.where(q <= p, q, 0.0).sum(dim=1)
    return TVStats(max_q, sum_q, max_p, sum_p, overlap, below)


def _running(x: Tensor, maximum: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    new = torch.maximum(maximum, x.amax(dim=1))
    return new, total * (maximum - new).exp() + (x - new[:, None]).exp().sum(dim=1)


def tv_backward(
    student: Tensor,
    teacher: Tensor,
    stats: TVStats,
    gradient: Tensor,
    *,
    vocab_size: int | None = None,
    block: int = BLOCK,
) -> Tensor:
    """What `noria.mtp.training.kernels.tv_backward` gives."""
    out = torch.zeros_like(student, memory_format=torch.contiguous_format)
    scale, below = gradient.float()[:, None], stats.below[:, None]
    blocks = (torch.split(x[:, :vocab_size], block, dim=1) for x in (student, teacher, out))
    for z, t, to in zip(*blocks, strict=True):
        q = (z.float() - stats.student_max[:, None]).exp() / stats.student_sum[:, None]
        p = (t.float() - stats.teacher_max[:, None]).exp() / stats.teacher_sum[:, None]
        to.copy_(scale * q * (below - 1 + (q > p)))
    return out.masked_fill_(~stats.finite[:, None], 0)
