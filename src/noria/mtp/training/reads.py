"""Values that the losses read of each row of target and draft, from hidden states, with gradients by hand.

With p the target's distribution (always detached) and q = softmax(z) the draft's, four numbers a row are all that any
loss here needs (Bebop, Eq. 10-13):

| read | definition | ∂/∂z_j |
| --- | --- | --- |
| `overlap` α | Σ min(p, q), the chance that rejection sampling accepts; d_TV = 1 − α | q_j (1[q_j ≤ p_j] − S) |
| `kl` | KL(p‖q) = Σ p log(p/q) | q_j − p_j |
| `reverse_kl` | KL(q‖p) = Σ q log(q/p) | q_j (log(q_j/p_j) − KL(q‖p)) |
| `log_draft` | log q(y) of the data's token | 1[j = y] − q_j |

with S = Σ q·1[q ≤ p]. Rows pass through the LM head a chunk at a time, and no more logits than chunk × vocab exist at
once. Logits are computed in the type of the weights, everything behind them in float32 (float64
stays). (Rounding logits to bfloat16 flips 1[q ≤ p] wherever p and q are close, which a TV gradient feels more than
others do.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from noria.core.errors import ConfigError, DataError
from noria.mtp.training.blocks import Block, FusedBlock, block_of, wide

Read = Literal["overlap", "kl", "reverse_kl", "log_draft"]
OVERLAP: tuple[Read, ...] = ("overlap",)

# Logits of one chunk by default; with fewer rows than these, reading W costs more than multiplying by it.
CHUNK_ON_CPU, CHUNK_ON_GPU, FEWEST_ROWS = 2**22, 2**26, 64


@dataclass(frozen=True)
class Reads:
    """Values of each row, float32 or float64 [...]; NaN where `finite` is False, None for values not requested.

    Attributes:
        overlap: α = Σ min(p, q).
        kl: KL(p‖q), nats.
        reverse_kl: KL(q‖p), nats.
        log_draft: log q(y).
        log_target: log p(y), without gradient; read along with `log_draft`.
        finite: the row was read, and nothing that was read of it is NaN or infinite.
    """

    overlap: Tensor
    finite: Tensor
    kl: Tensor | None = None
    reverse_kl: Tensor | None = None
    log_draft: Tensor | None = None
    log_target: Tensor | None = None


@dataclass(frozen=True)
class LMHead:
    """Hidden states to logits: cap·tanh((W h + b)·scale / cap).

    Attributes:
        weight: W [vocab, hidden].
        bias: b [vocab].
        scale: factor of the logits, before a cap; without a cap a temperature T is 1/T.
        softcap: no cap by default.
        vocab_size: rows of W from here on are padding: no probability, no gradient.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    vocab_size: int | None = None

    @property
    def vocab(self) -> int:
        """Number of tokens that there are.

        Raises:
            DataError: `vocab_size` is not positive, or beyond the rows of the weight.
        """
        rows = self.weight.shape[0]
        return _vocab(rows, rows, self.vocab_size)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., hidden] to logits [..., vocab] without the padding, in float32 (float64 stays)."""
        weight, bias = self.weight[: self.vocab], None if self.bias is None else self.bias[: self.vocab]
        logits = wide(torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias))
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def pull(self, slope: Tensor, logits: Tensor | None) -> Tensor:
        """The gradient in `logits(hidden)` to that in W h + b, in the weight's type; `logits` only for a softcap."""
        if self.softcap is not None and logits is not None:
            slope = slope * (1 - (logits / self.softcap).square())
        return (slope if self.scale == 1 else slope * self.scale).to(self.weight.dtype)


def read_hidden(
    student: Tensor,
    head: LMHead,
    *,
    teacher: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    teacher_head: LMHead | None = None,
    teacher_rows: Tensor | None = None,
    tokens: Tensor | None = None,
    valid: Tensor | None = None,
    reads: Collection[Read] = OVERLAP,
    slopes: Collection[Read] | None = None,
    chunk_rows: int | None = None,
    train_head: bool = False,
) -> Reads:
    """Read rows through the LM head, a chunk at a time; differentiable in the student's hidden states.

    While the head is frozen, each row's ∂read/∂hidden, a vector as long as the hidden state, is taken while its logits
    exist, and the backward pass only scales it. A head that trains needs the gradient of the loss first: the backward
    pass then computes each chunk's logits again.

    Args:
        student: hidden states [..., hidden].
        head: the LM head.
        teacher: the teacher's hidden states for the same rows [..., hidden], or, with `teacher_rows`, [any, hidden].
        teacher_logits: instead of `teacher`: [..., vocab], or, with `teacher_rows`, [any, vocab].
        teacher_head: the teacher's own LM head; `head` by default.
        teacher_rows: the row of the teacher that each row of the student belongs to [...], int64. Steps that predict
            the same token share it, and it is then computed once a chunk.
        tokens: y [...] for `log_draft`; the teacher's most probable token by default.
        valid: rows to read [...], all by default; the others are not computed.
        reads: what to read besides `overlap`.
        slopes: which of the reads carry a gradient, all of `reads` by default; each costs one product with W.
        chunk_rows: rows whose logits exist at once; by default those of 4 million logits on a CPU and of 64 million on
            a GPU, but at least 64.
        train_head: let a gradient flow to `head.weight` and `head.bias`; never to the teacher's use of them.

    Raises:
        ConfigError: no teacher or two of them; `chunk_rows` below 1.
        DataError: shapes that do not fit; a token or a row of the teacher out of range.
    """
    if (teacher is None) == (teacher_logits is None):
        raise ConfigError("one teacher is needed", where="teacher", mend="give teacher or teacher_logits")
    if chunk_rows is not None and chunk_rows < 1:
        raise ConfigError(f"chunks of {chunk_rows} rows", where="chunk_rows", mend="take at least 1")
    shape, vocab = student.shape[:-1], head.vocab
    if student.shape[-1] != head.weight.shape[1]:
        raise DataError(f"hidden states of {student.shape[-1]} for an LM head of {head.weight.shape[1]}")
    source = teacher if teacher is not None else teacher_logits
    assert source is not None
    if teacher is not None:
        teacher_head = teacher_head or head
        if teacher.shape[-1] != teacher_head.weight.shape[1]:
            raise DataError(
                f"teacher states of {teacher.shape[-1]} for an LM head of {teacher_head.weight.shape[1]}"
            )
        _vocab(head.weight.shape[0], teacher_head.vocab, vocab if head.vocab_size is not None else None)
    else:
        teacher_head = None
        _vocab(head.weight.shape[0], source.shape[-1], head.vocab_size)
    if teacher_rows is None and source.shape[:-1] != shape:
        raise DataError(f"the student's rows are {list(shape)}, the teacher's {list(source.shape[:-1])}")
    source = source.detach().reshape(-1, source.shape[-1])

    order = _valid_rows(valid, shape, student.device)
    if tokens is not None:
        tokens = _in_range(tokens, order, shape, vocab, "tokens")
    if teacher_rows is not None:
        teacher_rows = _in_range(teacher_rows, order, shape, source.shape[0], "teacher_rows")
        order = order[teacher_rows[order].argsort(stable=True)]  # rows of one teacher row next to each other
    wanted = _wanted(reads)
    carried = wanted if slopes is None else _wanted(slopes, overlap="overlap" in slopes)
    budget = CHUNK_ON_CPU if student.device.type == "cpu" else CHUNK_ON_GPU
    job = _Job(
        head=head if train_head else _frozen(head),
        teacher=source,
        teacher_head=teacher_head,
        teacher_rows=teacher_rows,
        tokens=tokens,
        order=order,
        wanted=wanted,
        slopes=tuple(r for r in carried if r in wanted and r != "log_target"),
        chunk=chunk_rows or max(FEWEST_ROWS, budget // vocab),
        grad=torch.is_grad_enabled(),
    )
    flat = student.reshape(-1, student.shape[-1])
    *values, finite = _ReadHidden.apply(flat, job.head.weight, job.head.bias, job)  # type: ignore[no-untyped-call]
    named = {read: value.reshape(shape) for read, value in zip(wanted, values, strict=True)}
    return Reads(finite=finite.reshape(shape), **named)


@dataclass(frozen=True)
class _Job:
    """Inputs of reading a batch, besides the tensors that gradients flow to."""

    head: LMHead
    teacher: Tensor
    teacher_head: LMHead | None
    teacher_rows: Tensor | None
    tokens: Tensor | None
    order: Tensor
    wanted: tuple[str, ...]
    slopes: tuple[str, ...]
    chunk: int
    grad: bool

    def block(self, student: Tensor, rows: Tensor) -> tuple[Block | FusedBlock, Tensor | None]:
        """Both distributions of some rows, and the student's logits if the head's gradient needs them."""
        z = self.head.logits(student[rows])
        if self.teacher_rows is None:
            source, inverse = self.teacher[rows], None
        else:
            unique, inverse = torch.unique_consecutive(self.teacher_rows[rows], return_inverse=True)
            source = self.teacher[unique]
        t = source[:, : self.head.vocab] if self.teacher_head is None else self.teacher_head.logits(source)
        tokens = None if self.tokens is None else self.tokens[rows]
        block = block_of(z, t[:, : self.head.vocab], tokens, self.wanted, inverse)
        return block, z if self.head.softcap is not None else None


class _ReadHidden(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
    ) -> tuple[Tensor, ...]:
        rows, order = student.shape[0], job.order
        kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
        outputs = {r: torch.full((rows,), torch.nan, dtype=kind, device=student.device) for r in job.wanted}
        finite = torch.zeros(rows, dtype=torch.bool, device=student.device)
        again = job.grad and any(ctx.needs_input_grad[1:3])
        ahead = job.slopes if job.grad and ctx.needs_input_grad[0] and not again else ()
        jacobians = {r: student.new_empty(order.shape[0], student.shape[1]) for r in ahead}

        def read(start: int) -> None:
            here = order[start : start + job.chunk]
            block, z = job.block(student, here)
            good = block.finite
            finite[here] = good
            for name, into in outputs.items():
                into[here] = torch.where(good, block.values[name], torch.nan).to(kind)
            for name, jacobian in jacobians.items():
                slope = job.head.pull(block.pull({name: None}), z) @ weight[: job.head.vocab]
                jacobian[start : start + job.chunk] = slope.masked_fill(~good[:, None], 0)

        for start in range(0, order.shape[0], job.chunk):
            read(start)  # a call of its own, so that a chunk is gone before the next one comes
        kept = (student, weight, bias) if again else (None, None, None)
        ctx.save_for_backward(finite, *kept, *jacobians.values())
        ctx.job, ctx.again, ctx.like = job, again, (student.shape, student.dtype)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(finite, *(v for r, v in outputs.items() if r not in job.slopes))
        return *outputs.values(), finite

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        job: _Job = ctx.job
        finite, student, weight, bias, *saved = ctx.saved_tensors
        pulls = {
            read: torch.where(finite, g, 0.0)  # zero for rows that are not finite
            for read, g in zip(job.wanted, gradients, strict=False)
            if g is not None and read in job.slopes
        }
        if not pulls:
            return None, None, None, None
        if ctx.again:
            return _backward_again(job, finite, pulls, student, weight, bias, ctx.needs_input_grad)
        shape, dtype = ctx.like
        out = torch.zeros(shape, dtype=dtype, device=finite.device)
        jacobians = dict(zip(job.slopes, saved, strict=True))
        total = sum(g[job.order, None] * jacobians[r] for r, g in pulls.items())
        assert isinstance(total, Tensor)
        return out.index_copy_(0, job.order, total.to(dtype)), None, None, None


def _backward_again(
    job: _Job,
    finite: Tensor,
    pulls: Mapping[str, Tensor],
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    needed: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    """The gradients of hidden states and LM head by computing each chunk's logits once more; sums are wide."""
    order = job.order[finite[job.order]]  # one NaN row would spoil every row of the head's gradient
    vocab, kind = job.head.vocab, wide(weight.new_empty(0)).dtype
    to_student = torch.zeros_like(student) if needed[0] else None
    to_weight = torch.zeros_like(weight, dtype=kind) if needed[1] else None
    to_bias = torch.zeros_like(bias, dtype=kind) if needed[2] and bias is not None else None

    def pull(here: Tensor) -> None:
        block, z = job.block(student, here)
        slope = job.head.pull(block.pull({r: g[here] for r, g in pulls.items()}), z)
        if to_student is not None:
            to_student[here] = (slope @ weight[:vocab]).to(student.dtype)
        if to_weight is not None:
            to_weight[:vocab] += slope.T @ student[here].to(slope.dtype)
        if to_bias is not None:
            to_bias[:vocab] += slope.sum(dim=0, dtype=kind)

    for here in torch.split(order, job.chunk):
        pull(here)
    return (
        to_student,
        None if to_weight is None else to_weight.to(weight.dtype),
        None if to_bias is None or bias is None else to_bias.to(bias.dtype),
        None,
    )


# --- checks and shapes -------------------------------------------------------------------------------------------


def _wanted(reads: Collection[Read], *, overlap: bool = True) -> tuple[str, ...]:
    """The reads in their fixed order; the overlap is among them, and log p(y) with log q(y)."""
    if unknown := set(reads) - set(get_args(Read)):
        raise ConfigError(f"there is no read {sorted(unknown)}", where="reads", mend=f"take {get_args(Read)}")
    requested = set(reads) | ({"overlap"} if overlap else set())
    wanted = tuple(read for read in get_args(Read) if read in requested)
    return (*wanted, "log_target") if "log_draft" in wanted else wanted


def _frozen(head: LMHead) -> LMHead:
    bias = None if head.bias is None else head.bias.detach()
    return LMHead(head.weight.detach(), bias, head.scale, head.softcap, head.vocab_size)


def _vocab(student: int, teacher: int, vocab_size: int | None) -> int:
    if vocab_size is None and student != teacher:
        raise DataError(
            f"the student's vocabulary is {student}, the teacher's {teacher}",
            where="vocab",
            mend="if one of them is padded, give vocab_size",
        )
    vocab = student if vocab_size is None else vocab_size
    if not 0 < vocab <= min(student, teacher):
        raise DataError(
            f"a vocabulary of {vocab} in logits that are {min(student, teacher)} wide", where="vocab_size"
        )
    return vocab


def _valid_rows(valid: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor:
    if valid is None:
        return torch.arange(shape.numel(), device=device)
    if valid.shape != shape or valid.dtype != torch.bool:
        raise DataError(
            f"a mask of {valid.dtype} {list(valid.shape)} for rows {list(shape)}",
            where="valid",
            mend="give one bool a row",
        )
    return valid.reshape(-1).nonzero()[:, 0]


def _in_range(index: Tensor, rows: Tensor, shape: torch.Size, size: int, where: str) -> Tensor:
    """The index, flat, after a look at its entries of `rows`."""
    if index.shape != shape:
        raise DataError(f"{list(index.shape)} for rows {list(shape)}", where=where, mend="give one a row")
    flat = index.reshape(-1)
    used = flat[rows]
    if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < size:
        raise DataError(
            f"{int(used.min())} to {int(used.max())} out of {size}",
            where=where,
            mend="mask such rows in valid",
        )
    return flat
