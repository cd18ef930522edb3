"""The total-variation loss of a row of logits in two passes over the vocabulary, as a Triton kernel.

The first pass keeps the running maximum m and D = Σ exp(z − m) of both rows; the second sums the overlap Σ min(p, q)
and S = Σ q·1[q ≤ p]. The backward pass rebuilds q and p from m and D: ∂(1 − overlap)/∂z = q·(S − 1 + 1[q > p])
(Bebop, appendix F). No softmax is ever stored, and all sums are in float32.

It needs a GPU, or Triton's interpreter; without, `noria.mtp.training.blocks` has a way in PyTorch. The tests hold the
kernel against the same two passes in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noria.core.errors import DataError

FLOOR = -3.0e38  # finite, so that a block without any mass gives exp(−∞ − FLOOR) = 0 and not a NaN
BLOCK = 4096

# Typed as Any: Triton is not installed where there is no GPU, and need not be for type checking.
triton: Any = import_module("triton") if find_spec("triton") else None
tl: Any = import_module("triton.language") if triton else None
if TYPE_CHECKING:
    constexpr = Any
else:
    constexpr = tl.constexpr if triton else None


def available() -> bool:
    """Whether the compiled kernels can run: Triton is installed and PyTorch sees an accelerator."""
    return triton is not None and torch.cuda.is_available()


@dataclass(frozen=True)
class TVStats:
    """Statistics that the forward pass keeps of each row, float32 [rows].

    Attributes:
        student_max: m of the student's logits.
        student_sum: D of the student's logits.
        teacher_max: m of the teacher's.
        teacher_sum: D of the teacher's.
        overlap: Σ min(p, q), the probability that rejection sampling accepts.
        below: S = Σ q·1[q ≤ p].
    """

    student_max: Tensor
    student_sum: Tensor
    teacher_max: Tensor
    teacher_sum: Tensor
    overlap: Tensor
    below: Tensor

    @property
    def finite(self) -> Tensor:
        """Rows [rows] that had neither a NaN nor +∞ nor only −∞ on either side."""
        sums = torch.stack([self.student_sum, self.teacher_sum])
        return ((sums > 0) & sums.isfinite()).all(dim=0)


def tv_forward(
    student: Tensor,
    teacher: Tensor,
    *,
    vocab_size: int | None = None,
    block: int = BLOCK,
) -> TVStats:
    """The statistics of each row, by both passes of the forward direction.

    A row with a logit that is NaN or +∞ is not finite; −∞ is a token of probability zero.

    Args:
        student: logits [rows, vocab] of any float type; the last axis is contiguous.
        teacher: logits [rows, vocab].
        vocab_size: entries from here on are padding and have no probability.
        block: the width of a tile, a power of two.

    Raises:
        DataError: the shapes do not fit.
    """
    vocab = _check(student, teacher, vocab_size)
    rows = student.shape[0]
    stats = torch.empty(6, rows, device=student.device, dtype=torch.float32)
    if rows:
        _forward_jit[(rows,)](
            student, teacher, stats, rows, vocab, student.stride(0), teacher.stride(0), FLOOR, BLOCK=block
        )
    return TVStats(*stats)


def tv_backward(
    student: Tensor,
    teacher: Tensor,
    stats: TVStats,
    gradient: Tensor,
    *,
    vocab_size: int | None = None,
    block: int = BLOCK,
) -> Tensor:
    """The loss's gradient ∂(1 − overlap)/∂z times `gradient`, of the student's shape and type.

    It is zero in padding and in rows that are not finite.

    Args:
        student: the student's logits of the forward pass.
        teacher: the teacher's logits of the forward pass.
        stats: statistics that the forward pass returned.
        gradient: gradient in the loss of each row [rows].
        vocab_size: width of the vocabulary that the forward pass was given.
        block: the width of a tile, a power of two.

    Raises:
        DataError: the shapes do not fit.
    """
    vocab = _check(student, teacher, vocab_size)
    finite = stats.finite
    out = torch.zeros_like(student, memory_format=torch.contiguous_format)
    if rows := student.shape[0]:
        _backward_jit[(rows,)](
            student,
            teacher,
            out,
            torch.stack([stats.student_max, stats.student_sum, stats.teacher_max, stats.teacher_sum]),
            stats.below.contiguous(),
            gradient.float().contiguous(),
            finite.to(torch.int32),
            rows,
            vocab,
            student.stride(0),
            teacher.stride(0),
            out.stride(0),
            BLOCK=block,
        )
    return out


def _check(student: Tensor, teacher: Tensor, vocab_size: int | None) -> int:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise DataError(
            f"the student's logits are {list(student.shape)}, the teacher's {list(teacher.shape)}",
            mend="give both as [rows, vocab]",
        )
    if student.stride(1) != 1 or teacher.stride(1) != 1:
        raise DataError("the logits of a row do not lie side by side", mend="call .contiguous() on them")
    vocab = student.shape[1] if vocab_size is None else vocab_size
    if not 0 < vocab <= student.shape[1]:
        raise DataError(f"a vocabulary of {vocab} in logits that are {student.shape[1]} wide")
    return vocab


# --- in Triton: one program a row ----------------------------------------------------------------------------


def _forward_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    stats,
    rows,
    vocab,
    student_stride,
    teacher_stride,
    floor,
    BLOCK: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    student += row * student_stride
    teacher += row * teacher_stride
    columns = tl.arange(0, BLOCK)
    max_q = tl.full((), floor, tl.float32)
    max_p = tl.full((), floor, tl.float32)
    sum_q = tl.full((), 0.0, tl.float32)
    sum_p = tl.full((), 0.0, tl.float32)
    for start in range(0, vocab, BLOCK):
        inside = start + columns < vocab
        z = tl.load(student + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        t = tl.load(teacher + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        new = tl.maximum(max_q, tl.max(z, 0))
        sum_q = sum_q * tl.exp(max_q - new) + tl.sum(tl.exp(z - new), 0)
        max_q = new
        new = tl.maximum(max_p, tl.max(t, 0))
        sum_p = sum_p * tl.exp(max_p - new) + tl.sum(tl.exp(t - new), 0)
        max_p = new
    overlap = tl.full((), 0.0, tl.float32)
    below = tl.full((), 0.0, tl.float32)
    for start in range(0, vocab, BLOCK):
        inside = start + columns < vocab
        z = tl.load(student + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        t = tl.load(teacher + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        q = tl.exp(z - max_q) / sum_q
        p = tl.exp(t - max_p) / sum_p
        overlap += tl.sum(tl.minimum(q, p), 0)
        below += tl.sum(tl.where(q <= p, q, 0.0), 0)
    tl.store(stats + row, max_q)
    tl.store(stats + rows + row, sum_q)
    tl.store(stats + 2 * rows + row, max_p)
    tl.store(stats + 3 * rows + row, sum_p)
    tl.store(stats + 4 * rows + row, overlap)
    tl.store(stats + 5 * rows + row, below)


def _backward_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    out,
    stats,
    below,
    gradient,
    finite,
    rows,
    vocab,
    student_stride,
    teacher_stride,
    out_stride,
    BLOCK: constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    max_q = tl.load(stats + row)
    sum_q = tl.load(stats + rows + row)
    max_p = tl.load(stats + 2 * rows + row)
    sum_p = tl.load(stats + 3 * rows + row)
    s = tl.load(below + row)
    scale = tl.load(gradient + row)
    keep = tl.load(finite + row) != 0
    student += row * student_stride
    teacher += row * teacher_stride
    out += row * out_stride
    columns = tl.arange(0, BLOCK)
    for start in range(0, vocab, BLOCK):
        inside = start + columns < vocab
        z = tl.load(student + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        t = tl.load(teacher + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        q = tl.exp(z - max_q) / sum_q
        p = tl.exp(t - max_p) / sum_p
        slope = scale * q * (s - 1.0 + tl.where(q > p, 1.0, 0.0))
        slope = tl.where(keep, slope, 0.0)
        tl.store(out + start + columns, slope.to(out.dtype.element_ty), mask=inside)


_forward_jit: Any = triton.jit(_forward_kernel) if triton else None
_backward_jit: Any = triton.jit(_backward_kernel) if triton else None
