"""The arithmetic behind `reads`: both distributions of some rows, the values read of them, and their gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Block:
    """Both distributions of some rows [rows, vocab], what is read of them, and the gradients of that."""

    def __init__(
        self, z: Tensor, t: Tensor, tokens: Tensor | None, wanted: tuple[str, ...], inverse: Tensor | None
    ) -> None:
        z, t = wide(z), wide(t)
        self.q, total_q = _softmax(z)
        self.p, total_p = _softmax(t)
        if inverse is not None:
            self.p, total_p = self.p[inverse], total_p[inverse]
        self.values = {"overlap": torch.minimum(self.q, self.p).sum(dim=-1).clamp_(max=1)}
        self.tokens: Tensor | None = None
        if "log_draft" in wanted:
            self.tokens = (self.p.argmax(dim=-1) if tokens is None else tokens)[:, None]
            self.values["log_draft"] = z.gather(1, self.tokens)[:, 0] - total_q
            teacher_rows = torch.arange(len(z), device=z.device) if inverse is None else inverse
            self.values["log_target"] = t[teacher_rows, self.tokens[:, 0]] - total_p
        self.gap: Tensor | None = None  # log p − log q
        if "kl" in wanted or "reverse_kl" in wanted:
            self.gap = (t if inverse is None else t[inverse]) - z
            self.gap -= (total_p - total_q)[:, None]
            if "kl" in wanted:
                self.values["kl"] = self._mean(self.p, self.gap)
            if "reverse_kl" in wanted:
                self.values["reverse_kl"] = -self._mean(self.q, self.gap)
        self.finite = torch.stack(list(self.values.values())).isfinite().all(dim=0)

    @staticmethod
    def _mean(weights: Tensor, x: Tensor) -> Tensor:
        """Σ weights · x, where no weight counts for nothing even if x is infinite."""
        return (weights * x).masked_fill_(weights == 0, 0).sum(dim=-1)

    def pull(self, gradients: Mapping[str, Tensor | None]) -> Tensor:
        """Σ over reads of gradient · ∂read/∂z [rows, vocab]; None is a gradient of one."""
        total: Tensor | None = None
        for read, gradient in gradients.items():
            slope = self._slope(read)
            if gradient is not None:
                slope *= gradient[:, None]
            total = slope if total is None else total.add_(slope)
        assert total is not None
        return total

    def _slope(self, read: str) -> Tensor:
        if read == "overlap":
            slope = self.q * (self.q <= self.p)
            return slope.addcmul_(self.q, slope.sum(dim=-1, keepdim=True), value=-1)
        if read == "kl":
            return self.q - self.p
        if read == "log_draft":
            assert self.tokens is not None
            return (-self.q).scatter_add_(1, self.tokens, torch.ones_like(self.q[:, :1]))
        assert self.gap is not None
        slope = (self.gap + self.values["reverse_kl"][:, None]).mul_(self.q).neg_()
        return slope.masked_fill_(self.q == 0, 0)


class FusedBlock:
    """`Block` for the overlap alone, by the Triton kernel: no softmax is stored."""

    def __init__(self, z: Tensor, t: Tensor, inverse: Tensor | None) -> None:
        from noria.mtp.training import kernels

        self.logits = z, t if inverse is None else t[inverse]
        self.stats = kernels.tv_forward(*self.logits)
        self.values = {"overlap": self.stats.overlap.clamp(max=1)}
        self.finite = self.stats.finite

    def pull(self, gradients: Mapping[str, Tensor | None]) -> Tensor:
        """The gradient in the logits, of :meth:`Block.pull`."""
        from noria.mtp.training import kernels

        gradient = gradients["overlap"]
        gradient = torch.ones_like(self.stats.overlap) if gradient is None else gradient
        return kernels.tv_backward(*self.logits, self.stats, -gradient)


def block_of(
    z: Tensor, t: Tensor, tokens: Tensor | None, wanted: tuple[str, ...], inverse: Tensor | None = None
) -> Block | FusedBlock:
    """Both distributions of some rows, by the Triton kernel where it can."""
    return FusedBlock(z, t, inverse) if _fusible(z, wanted) else Block(z, t, tokens, wanted, inverse)


def _fusible(z: Tensor, wanted: tuple[str, ...]) -> bool:
    if not z.is_cuda or wanted != ("overlap",) or z.dtype == torch.float64:
        return False
    from noria.mtp.training import kernels  # brings Triton with it

    return kernels.available()


def _softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax of each row and log Σ exp(x) = m + log D: m is the largest logit, 1/D the largest probability."""
    probabilities = x.softmax(dim=-1)
    return probabilities, x.amax(dim=-1) - probabilities.amax(dim=-1).log()


def wide(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it is that already."""
    return x if x.dtype == torch.float64 else x.float()
