"""The losses on logits, for tests that have no hidden states: the same arithmetic without an LM head and its chunks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from noria.mtp.training.blocks import block_of
from noria.mtp.training.losses import CHAIN_LOSSES, NEEDS, LossTerms, _losses as losses_of, loss_terms
from noria.mtp.training.reads import Read, Reads
from noria.mtp.types import LossName


def read_logits(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor | None = None,
    *,
    reads: Collection[Read] = (),
    valid: Tensor | None = None,
    vocab_size: int | None = None,
) -> Reads:
    """Reads of logits [..., vocab], differentiable in the student's."""
    names = [name for name in ("kl", "reverse_kl", "log_draft") if name in reads]
    wanted = ("overlap", *names, *(["log_target"] if "log_draft" in names else []))
    shape, vocab = student.shape[:-1], vocab_size or student.shape[-1]
    rows = slice(None) if valid is None else valid.reshape(-1)
    z, t = (x[..., :vocab].reshape(-1, vocab)[rows] for x in (student, teacher.detach()))
    flat = None if tokens is None else tokens.reshape(-1)[rows]
    *values, finite = _Read.apply(z, t, flat, wanted)  # type: ignore[no-untyped-call]
    found = [torch.full(shape, torch.nan, dtype=v.dtype, device=v.device).reshape(-1) for v in values]
    whole = torch.zeros(shape, dtype=torch.bool, device=z.device).reshape(-1)
    for into, value in zip([*found, whole], [*values, finite], strict=True):
        into[rows] = value
    named = {read: value.reshape(shape) for read, value in zip(wanted, found, strict=True)}
    return Reads(finite=whole.reshape(shape), **named)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, tokens: Tensor | None, wanted: tuple[str, ...]
    ) -> tuple[Tensor, ...]:
        block = block_of(student, teacher, tokens, wanted)
        ctx.save_for_backward(student, teacher, tokens, block.finite)
        ctx.wanted = wanted
        ctx.set_materialize_grads(False)
        values = [torch.where(block.finite, block.values[read], torch.nan) for read in wanted]
        ctx.mark_non_differentiable(
            block.finite, *(v for r, v in zip(wanted, values, strict=True) if r == "log_target")
        )
        return *values, block.finite

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        student, teacher, tokens, finite = ctx.saved_tensors
        pulls = {
            read: torch.where(finite, g, 0.0)
            for read, g in zip(ctx.wanted, gradients, strict=False)
            if g is not None and read != "log_target"
        }
        if not pulls:
            return None, None, None, None
        slope = block_of(student, teacher, tokens, ctx.wanted).pull(pulls)
        return slope.masked_fill(~finite[:, None], 0).to(student.dtype), None, None, None


def row_losses(name: LossName, student: Tensor, teacher: Tensor, tokens: Tensor | None = None) -> Tensor:
    """A loss of single rows, [..., vocab] to [...]; NaN, and without gradient, for a row that is not finite."""
    reads = read_logits(student, teacher, tokens, reads=NEEDS[name])
    return losses_of(name, reads, 3.0)


def loss_from_logits(
    name: LossName,
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    vocab_size: int | None = None,
) -> LossTerms:
    """`loss_from_hidden` where the logits [..., steps, vocab] are at hand."""
    if valid is not None and name in CHAIN_LOSSES:
        valid = valid & valid.all(dim=-1, keepdim=True)
    reads = read_logits(student, teacher, tokens, reads=NEEDS[name], valid=valid, vocab_size=vocab_size)
    return loss_terms(name, reads, valid)
