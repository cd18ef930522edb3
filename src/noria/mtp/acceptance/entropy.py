"""Entropy and acceptance: what a target's entropy allows.

With p_max = max_v p(v), entropy and p_max bound each other, but neither is a function of the other:

    −log p_max ≤ H ≤ h(p_max) + (1 − p_max) log(|V| − 1),    h(m) = −m log m − (1 − m) log(1 − m)

(H_∞ ≤ H, and Fano's inequality, which a peak over a flat rest attains). Target-only verification accepts p(argmax q) ≤
p_max, so its rate falls with entropy however good the head; the rate of rejection sampling need not (Bebop, sec. 3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from noria.core.errors import DataError
from noria.mtp.acceptance.rates import is_distribution

BISECTIONS = 60  # halves [1/|V|, 1] below float64's round-off


def entropy(probs: Tensor) -> Tensor:
    """H = −Σ p log p in nats, [..., vocab] to [...] in float32 or p's float64; NaN where p is no distribution."""
    p = probs if probs.dtype == torch.float64 else probs.float()
    nats: Tensor = -torch.special.xlogy(p, p).sum(-1)
    return nats.where(is_distribution(p), torch.nan)


def entropy_bounds(top: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """The least and the largest entropy, in nats, of distributions whose largest probability is `top`.

    −log p_max is attained when 1/p_max is whole, h(p_max) + (1 − p_max) log(|V| − 1) always.

    Args:
        top: p_max [...], in [1/vocab, 1]; NaN elsewhere.
        vocab: |V|.

    Raises:
        DataError: an empty vocabulary.
    """
    _counted(vocab)
    m = top if top.dtype == torch.float64 else top.float()
    possible = (m >= (1 - 1e-6) / vocab) & (m <= 1)
    low = -m.log()
    return low.where(possible, torch.nan), _fano(m, vocab).where(possible, torch.nan)


def top_bounds(nats: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """The least and the largest p_max of distributions of entropy H: exp(−H), and the p_max Fano's inequality leaves.

    The largest is what target-only verification accepts at best, with any head, and it is attained.

    Args:
        nats: H [...], in [0, log vocab]; NaN elsewhere.
        vocab: |V|.

    Returns:
        Both [...], float64.

    Raises:
        DataError: an empty vocabulary.
    """
    _counted(vocab)
    h = nats.double()
    possible = (h >= 0) & (h <= math.log(vocab) + 1e-6)
    low, high = torch.full_like(h, 1 / vocab), torch.ones_like(h)
    for _ in range(BISECTIONS):  # the bound falls in m from log |V| to 0
        middle = (low + high) / 2
        reaches = _fano(middle, vocab) >= h
        low, high = torch.where(reaches, middle, low), torch.where(reaches, high, middle)
    return (-h).exp().where(possible, torch.nan), high.where(possible, torch.nan)


def _fano(m: Tensor, vocab: int) -> Tensor:
    rest = 1 - m
    spread: Tensor = torch.special.xlogy(rest, torch.full_like(m, vocab - 1))
    fano: Tensor = spread - torch.special.xlogy(m, m) - torch.special.xlogy(rest, rest)
    return fano


def _counted(vocab: int) -> None:
    if vocab < 1:
        raise DataError(f"a vocabulary of {vocab}", where="vocab")
