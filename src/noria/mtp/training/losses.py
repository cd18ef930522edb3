"""The losses a draft head is trained with, straight from hidden states.

Each is a function of the few numbers that `noria.mtp.training.reads` takes of every row, with gradients in closed
form; so the losses, the chain's product among them, are plain autograd over scalars.

Names are those of vLLM's speculators. With α = Σ min(p, q) of a row, the losses of single rows are `ce` −log q(y),
`kl_div` KL(p‖q), `rkl` KL(q‖p), `tv` 1 − α (Bebop, arXiv 2606.12370, Eq. 10), and from LK (arXiv 2602.23881) `nla` −log
α and `lk_hybrid` λ KL(p‖q) + (1 − λ)(1 − α) with λ = exp(−η α), η = 3 and no gradient through λ. Two more are of the
whole chain: `e2e_tv` (Eq. 13), and `e2e_tv_exact`, which over the target's own text is an unbiased estimate of the
share of drafts that are not accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError
from noria.mtp.training.reads import LMHead, Read, Reads, read_hidden
from noria.mtp.types import LossName

LOSSES: tuple[LossName, ...] = get_args(LossName)
CHAIN_LOSSES: tuple[LossName, ...] = ("e2e_tv", "e2e_tv_exact")
PURE_TV: tuple[LossName, ...] = ("tv", "e2e_tv", "e2e_tv_exact")
COLD = 0.2

NEEDS: dict[LossName, tuple[Read, ...]] = {
    "ce": ("log_draft",),
    "kl_div": ("kl",),
    "rkl": ("reverse_kl",),
    "tv": ("overlap",),
    "nla": ("overlap",),
    "lk_hybrid": ("overlap", "kl"),
    "e2e_tv": ("overlap",),
    "e2e_tv_exact": ("overlap", "log_draft"),
}


@dataclass(frozen=True)
class LossTerms:
    """A loss, and the terms that it was made of.

    Attributes:
        name: name of the loss.
        loss: mean over the rows (or, for a loss over the chain, the positions) that count. Without any it is 0
            and so is its gradient: every process of a distributed run can call backward.
        weight: the sum of weights that `loss` was divided by; `loss * weight` adds up over processes.
        count: how many rows (positions) count.
        excluded: how many valid rows were not finite and were left out.
        acceptance: α of each step [steps], the mean over what counts; NaN where nothing does. No gradient.
        overlap: α of each row [..., steps]; NaN where it does not count. No gradient.
    """

    name: LossName
    loss: Tensor
    weight: Tensor
    count: Tensor
    excluded: Tensor
    acceptance: Tensor
    overlap: Tensor

    @property
    def warning(self) -> str | None:
        """The remark of `cold_head` on these rows; reading it waits for the accelerator."""
        return cold_head(self.name, float(self.overlap.nanmean()))


def cold_head(name: LossName, acceptance: float) -> str | None:
    """Say so if a head accepts too little for a pure TV loss to train it, else None.

    The gradient of d_TV vanishes where p and q are disjoint (‖g‖₁ = 2S(1 − S) with S → 0), which is where a head
    starts. `nla` and `lk_hybrid` are made for that.

    Args:
        name: name of the loss.
        acceptance: the mean of α over rows; NaN says nothing.
    """
    _known(name)
    if name not in PURE_TV or not acceptance < COLD:
        return None
    return (
        f"the head accepts {acceptance:.3f} < {COLD} on average and {name} has hardly any gradient there; "
        "train it with kl_div, ce or lk_hybrid first"
    )


def chain_tv(overlap: Tensor) -> Tensor:
    """1 − (1/γ) Σ_j Π_{i≤j} α_i of each position (Bebop, Eq. 13), [..., steps] to [...].

    Its gradient in α_k is −w_k / γ with w_k = Π_{i<k} α_i · (1 + α_{k+1} + α_{k+1}α_{k+2} + … + Π_{i>k} α_i): how much
    longer the accepted prefix gets on average by α_k, as an early step stands in more of the terms.
    """
    return 1 - overlap.cumprod(dim=-1).mean(dim=-1)


def chain_tv_exact(overlap: Tensor, log_ratio: Tensor) -> Tensor:
    """1 − (1/γ) Σ_j Â_j with Â_j = Π_{i<j} min(1, q_i(y_i)/p_i(y_i)) · α_j, [..., steps] to [...].

    Over text that p itself wrote, Â_j has the expectation A_j, the exact probability that the first j drafts are all
    accepted, and its gradient that of A_j. The product of Eq. 13 has not: accepted prefixes are distributed as
    min(p, q), not as p.

    Args:
        overlap: α [..., steps] after the data's prefix.
        log_ratio: log q(y) − log p(y) of the data's tokens [..., steps]; the last is not used.
    """
    return 1 - (_before(log_ratio.clamp(max=0).exp()) * overlap).mean(dim=-1)


def loss_terms(
    name: LossName,
    reads: Reads,
    valid: Tensor | None = None,
    *,
    eta: float = 3.0,
    step_weights: Sequence[float] | None = None,
) -> LossTerms:
    """The mean loss over rows that were read, with its parts.

    Args:
        name: name of the loss.
        reads: values of the rows [..., steps], the last axis along the chain.
        valid: which rows may count [..., steps], all by default. A loss over the chain leaves out every position that
            has a row which may not, or which is not finite.
        eta: η of `lk_hybrid`.
        step_weights: a weight for each step [steps], equal by default; for losses of single rows.

    Raises:
        ConfigError: the loss is unknown, needs what was not read, or takes no `step_weights`.
        DataError: shapes that do not fit.
    """
    shape = reads.overlap.shape
    if not shape:
        raise DataError("rows without an axis of steps", mend="give them as [positions, steps]")
    valid = torch.ones_like(reads.finite) if valid is None else valid
    if valid.shape != shape:
        raise DataError(f"the mask is {list(valid.shape)}, the rows are {list(shape)}", where="valid")
    counts, chained = valid & reads.finite, name in CHAIN_LOSSES
    if chained and step_weights is not None:
        raise ConfigError(f"{name} has weights of its own", where="step_weights", mend="leave them out")
    if chained:
        counts = counts.all(dim=-1, keepdim=True).expand(shape)
    rows = _losses(name, _safe(reads, counts), eta)
    use, weights = (counts[..., 0] if chained else counts), _step_weights(step_weights, rows)
    weight = torch.where(use, weights, 0.0).sum()
    loss = torch.where(use, rows * weights, 0.0).sum() / torch.where(weight > 0, weight, 1.0)
    overlap = reads.overlap.detach()
    steps = overlap.masked_fill(~counts, 0).reshape(-1, shape[-1]).sum(dim=0)
    return LossTerms(
        name,
        loss,
        weight,
        use.sum(),
        (valid & ~reads.finite).sum(),
        steps / counts.reshape(-1, shape[-1]).sum(dim=0),
        overlap.masked_fill(~counts, torch.nan),
    )


def loss_from_hidden(
    name: LossName,
    student: Tensor,
    head: LMHead,
    *,
    tokens: Tensor | None = None,
    valid: Tensor | None = None,
    eta: float = 3.0,
    step_weights: Sequence[float] | None = None,
    **rows: Any,
) -> LossTerms:
    """A loss and its parts from the hidden states of every step of a chain.

    Args:
        name: name of the loss.
        student: hidden states [..., steps, hidden], as the LM head takes them; step k (from 1) of position t predicts
            the token at t + k + 1.
        head: the LM head they share with the teacher.
        tokens: the data's token that each row predicts [..., steps]; `e2e_tv_exact` needs them, and text that the
            teacher itself wrote. For `ce` the teacher's most probable token by default.
        valid: which rows may count [..., steps], all by default; the others are not computed.
        eta: η of `lk_hybrid`.
        step_weights: a weight for each step [steps], equal by default.
        rows: the teacher, and how rows are read: keywords of `read_hidden`.

    Raises:
        ConfigError: the loss is unknown or takes no `step_weights`; no teacher or two of them.
        DataError: shapes that do not fit; a token out of the vocabulary; `e2e_tv_exact` without tokens.
    """
    valid = _whole_chains(name, tokens, valid)
    needs = NEEDS[name]
    reads = read_hidden(student, head, tokens=tokens, valid=valid, reads=needs, slopes=needs, **rows)
    return loss_terms(name, reads, valid, eta=eta, step_weights=step_weights)


# --- helpers -----------------------------------------------------------------------------------------------------


def _losses(name: LossName, reads: Reads, eta: float) -> Tensor:
    """The loss of each row [..., steps]; of each position [...], if it is over the chain."""
    alpha = reads.overlap
    match _known(name):
        case "ce":
            return -_read(reads.log_draft, "log_draft", name)
        case "kl_div":
            return _read(reads.kl, "kl", name)
        case "rkl":
            return _read(reads.reverse_kl, "reverse_kl", name)
        case "tv":
            return 1 - alpha
        case "nla":
            return -alpha.clamp(min=torch.finfo(alpha.dtype).tiny).log()
        case "lk_hybrid":
            share = (-eta * alpha.detach()).exp()
            return share * _read(reads.kl, "kl", name) + (1 - share) * (1 - alpha)
        case "e2e_tv":
            return chain_tv(alpha)
        case "e2e_tv_exact":
            log_draft = _read(reads.log_draft, "log_draft", name)
            return chain_tv_exact(alpha, log_draft - _read(reads.log_target, "log_target", name))


def _safe(reads: Reads, counts: Tensor) -> Reads:
    """The reads with a harmless number where a row does not count: NaN · 0 in a backward pass would be NaN."""
    others = {k: v for k, v in vars(reads).items() if k not in ("overlap", "finite") and v is not None}
    others = {k: torch.where(counts, v, 0.0) for k, v in others.items()}
    return Reads(torch.where(counts, reads.overlap, 1.0), reads.finite, **others)


def _step_weights(step_weights: Sequence[float] | None, rows: Tensor) -> Tensor:
    if step_weights is None:
        return torch.ones_like(rows)
    if len(step_weights) != rows.shape[-1] or min(step_weights) < 0:
        raise ConfigError(
            f"{list(step_weights)} for {rows.shape[-1]} steps",
            where="step_weights",
            mend="give one number that is not negative for each step",
        )
    return torch.tensor(step_weights, dtype=rows.dtype, device=rows.device).expand(rows.shape)


def _before(x: Tensor) -> Tensor:
    """Π_{i<k} x_i, which is 1 at the first step."""
    return torch.cat([torch.ones_like(x[..., :1]), x[..., :-1].cumprod(dim=-1)], dim=-1)


def _read(value: Tensor | None, read: str, name: str) -> Tensor:
    if value is None:
        raise ConfigError(f"{name} needs {read}, which was not read", where="reads", mend=f"read {read} too")
    return value


def _known(name: LossName) -> LossName:
    if name not in LOSSES:
        raise ConfigError(f"there is no loss {name!r}", where="loss", mend=f"take one of {', '.join(LOSSES)}")
    return name


def _whole_chains(name: LossName, tokens: Tensor | None, valid: Tensor | None) -> Tensor | None:
    if _known(name) == "e2e_tv_exact" and tokens is None:
        raise DataError(f"{name} needs the tokens of the data", where="tokens", mend="or take e2e_tv")
    if valid is None or name not in CHAIN_LOSSES:
        return valid
    return valid & valid.all(dim=-1, keepdim=True)
