"""Probability that one draft is accepted, by every rule, and the law of the token after a rejection.

Every rule of verification but `block` accepts the drafted token v of a step with a joint probability a(v) ≤ p(v), the
chance that v is drafted and kept; Σ a is the rate of the step (Bebop, sec. 3 and app. E):

| rule | a(v) | Σ a |
| --- | --- | --- |
| `rejection` | min(p, q) | 1 − d_TV(p, q) |
| `target_only` | p · 1[v = argmax q] | p(argmax q) |
| `match` | p q | Σ p q ≤ min(Σ min(p, q), max p) |

The rate of a row that is no distribution is NaN, never 0.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError
from noria.mtp.types import Rule

MASS_TOLERANCE = 1e-2  # of a row's sum: probabilities rounded to bfloat16 pass, logits do not


def is_distribution(probs: Tensor) -> Tensor:
    """Whether each row is finite, not negative, and sums to 1 within 1 %; [..., vocab] to bool [...]."""
    wide = _wide(probs)
    mass = wide.sum(-1)  # not finite if any of it is not
    return (wide.amin(-1) >= 0) & ((mass - 1).abs() <= MASS_TOLERANCE)


def overlap(target: Tensor, draft: Tensor) -> Tensor:
    """Σ_v min(p, q) = 1 − d_TV(p, q), the rate of rejection sampling.

    Args:
        target: p [..., vocab].
        draft: q [..., vocab].

    Returns:
        [...] in float32, or float64 if p or q is; NaN where p or q is no distribution.

    Raises:
        DataError: the two do not have one shape.
    """
    return acceptance_rate(target, draft, "rejection")


def acceptance_rate(target: Tensor, draft: Tensor, rule: Rule) -> Tensor:
    """The probability that one draft is accepted, Σ_v a(v), after which nothing else is drafted.

    `block` with one draft is `rejection`. `match` is read as drafting from q; on an argmax draft it is `target_only`.

    Args:
        target: p [..., vocab].
        draft: q [..., vocab].
        rule: how drafts are verified.

    Returns:
        [...] in float32, or float64 if p or q is; NaN where p or q is no distribution.

    Raises:
        ConfigError: an unknown rule.
        DataError: the two do not have one shape.
    """
    p, q = checked_pair(target, draft)
    check_rule(rule)
    if rule == "target_only":
        rate = at_tokens(p, q.argmax(-1))
    else:
        rate = (p * q if rule == "match" else torch.minimum(p, q)).sum(-1)
    return rate.where(is_distribution(p) & is_distribution(q), torch.nan)


def rejection_gain(target: Tensor, draft: Tensor) -> Tensor:
    """Σ min(p, q) − p(argmax q): how much more rejection accepts than target-only does, [...] in [−1, 1]; or NaN.

    It is (1 − p(argmax q)) − d_TV(p, q), positive inside the boundary of Bebop's appendix E. It is negative for a head
    that ranks well and is under-confident: p = (.9, .1), q = (.55, .45) gives .65 − .90.
    """
    return overlap(target, draft) - acceptance_rate(target, draft, "target_only")


def residual(target: Tensor, draft: Tensor) -> Tensor:
    """The law of the token after a rejection, (p − q)₊ / Σ (p − q)₊, with Σ (p − q)₊ = d_TV(p, q).

    With it, min(p, q) + (1 − Σ min(p, q)) · residual = p: rejection sampling does not change the target's law.

    Args:
        target: p [..., vocab].
        draft: q [..., vocab].

    Returns:
        [..., vocab]; p itself where p and q differ by no more than round-off, as a rejection there is round-off too.
        NaN where p or q is no distribution.

    Raises:
        DataError: the two do not have one shape.
    """
    p, q = checked_pair(target, draft)
    left = (p - q).clamp(min=0)
    mass = left.sum(-1, keepdim=True)
    law = torch.where(mass > torch.finfo(p.dtype).eps, left / mass, p)
    return law.where((is_distribution(p) & is_distribution(q))[..., None], torch.nan)


# --- helpers -------------------------------------------------------------------------------------------------


def at_tokens(probs: Tensor, tokens: Tensor) -> Tensor:
    """The probability of each token, probs[..., tokens[...]]."""
    return probs.gather(-1, tokens[..., None])[..., 0]


def checked_pair(target: Tensor, draft: Tensor) -> tuple[Tensor, Tensor]:
    """Both distributions, of one shape, in float32, or float64 if one of them is."""
    if target.shape != draft.shape or not target.ndim:
        raise DataError(
            f"target {list(target.shape)} and draft {list(draft.shape)}",
            mend="give both one shape, [..., vocab]",
        )
    p, q = _wide(target), _wide(draft)
    dtype = torch.promote_types(p.dtype, q.dtype)
    return p.to(dtype), q.to(dtype)


def _wide(probs: Tensor) -> Tensor:
    return probs if probs.dtype == torch.float64 else probs.float()


def check_rule(rule: str) -> None:
    """Raise a ConfigError unless the rule is one of :data:`noria.mtp.types.Rule`."""
    if rule not in get_args(Rule):
        raise ConfigError(
            f"unknown rule {rule!r}", where="rule", mend=f"it is one of {', '.join(get_args(Rule))}"
        )
