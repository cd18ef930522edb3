"""Number of drafts of a chain that are accepted, exactly and as estimates from one teacher-forced pass.

A step's joint probability a(v) of drafting and keeping the token v is in :mod:`noria.mtp.acceptance.rates`.

Two rates of a chain must not be mixed up. The *prefix* rate A_j = P(the first j drafts are all accepted) falls with j
and is what engines report by position; the *conditional* rate α_j = A_j / A_{j−1} is that of step j once the ones
before it were accepted. The accept length is L = 1 + Σ A_j, which counts the token that every round ends with.

A_j sums Π a_i over all prefixes, M_j = M_{j−1} a_j with M_0 = 1. Block verification (Sun et al. 2025) has a sum as
simple: U_j = min(U_{j−1} p_j, Q_j) with U_0 = 1 and Q_j = Π_{i≤j} q_i. (It keeps at least j of drafts y with
probability w_j = min(1, w_{j−1} p_j/q_j), so A_j = E_q[w_j], and U_j = w_j Q_j.) Since M_j ≤ U_j ≤ P_j, its A_j is
never smaller.

Two averages of A_j must not be mixed up either. Over the *positions* of a text every token counts the same, as in a
loss. A decoder does not visit all positions: where much is accepted it takes long steps, so its *rounds* stand where
less is. What engines report is the average over rounds; on text of easy and hard stretches it is the smaller one.
`round_starts` gives the weight of each position that turns the first into the second.

What cannot be had is NaN: the rate of a row that is no distribution, of a step behind one that is masked out, or
of text that cannot be the target's own. It is never 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from noria.core.errors import ConfigError, DataError
from noria.mtp.acceptance.rates import acceptance_rate, at_tokens, check_rule, checked_pair, is_distribution
from noria.mtp.types import Rule

Writer = Literal["target", "draft"]
"""Whose text a chain was forced along."""


# --- a chain -------------------------------------------------------------------------------------------------


def prefix_rates(conditional: Tensor) -> Tensor:
    """A_j = Π_{i≤j} α_i, [..., steps]. Behind a rate of 0 it is 0, whatever is undefined there."""
    product = conditional.cumprod(-1)
    return product.masked_fill((product == 0).cumsum(-1) > 0, 0.0)


def conditional_rates(prefix: Tensor) -> Tensor:
    """α_j = A_j / A_{j−1} with A_0 = 1, [..., steps]; NaN behind a prefix that is never accepted."""
    before = torch.cat([torch.ones_like(prefix[..., :1]), prefix[..., :-1]], -1)
    return torch.where(before == 0, torch.nan, prefix / before)


def accept_length(prefix: Tensor) -> Tensor:
    """L = 1 + Σ_j A_j, tokens emitted a round, in [1, γ + 1]; [..., steps] to [...] (Bebop, Eq. 12)."""
    return 1 + prefix.sum(-1)


# --- estimates from one pass along text ------------------------------------------------------------------------


def unbiased_prefix_rates(
    target: Tensor,
    draft: Tensor,
    tokens: Tensor,
    rule: Rule,
    *,
    valid: Tensor | None = None,
    written_by: Writer = "target",
) -> Tensor:
    """Â_j of each chain, whose mean over chains is the exact A_j: for metrics.

    Along the target's own text y ~ p, Â_j = Π_{i<j} a_i(y_i)/p_i(y_i) · Σ_v a_j(v): each step weighs the ones behind
    it by the chance that an accepted prefix reads like this. The weights are min(1, q/p), 1[y = argmax q] and q(y),
    by rule, and never above 1. For `block`, Â_j = Σ_v min(ℓ q_j(v), u p_j(v)) with ℓ = Π_{i<j} q_i/p_i and u = min
    over k < j of Π_{i≤k} q_i/p_i.

    Along drafts x ~ q (what a decoder has at hand), p in the denominator becomes q: the weights are min(1, p/q) and
    p(x), and for `block` Â_j = Σ_v min(q_j(v), w_{j−1} p_j(v)).

    A single chain's Â_j need not fall with j; the mean does.

    Args:
        target: p [..., steps, vocab], processed as in decoding (temperature, filters), after the prefix of `tokens`.
        draft: q [..., steps, vocab], alike.
        tokens: [..., steps] int64, what the chain was forced along. The last is not read; a negative one ends the
            chain.
        rule: how drafts would be verified.
        valid: which steps may be read [..., steps] bool, all by default.
        written_by: who drew `tokens`: the target, or the draft (for `target_only` these are the argmax of q).

    Returns:
        [..., steps] in float32, or float64 if p or q is. NaN from the first step on that is masked out or where p or q
        is no distribution, and behind a token that its writer cannot have drawn (probability 0, or no argmax).

    Raises:
        ConfigError: an unknown rule or writer.
        DataError: shapes that do not fit, or tokens outside the vocabulary.
    """
    check_rule(rule)
    if written_by not in get_args(Writer):
        raise ConfigError(f"unknown writer {written_by!r}", mend="it is target or draft")
    p, q = checked_pair(target, draft)
    readable = _readable(p, q, valid)
    taken = _checked_tokens(tokens, p)
    p_y, q_y = at_tokens(p, taken), at_tokens(q, taken)
    best = taken == q.argmax(-1)
    drawn = p_y > 0 if written_by == "target" else best if rule == "target_only" else q_y > 0
    reached = _before(((tokens >= 0) & drawn).long()).bool() & readable

    if rule == "block":
        rates = _block_rates(p, q, p_y, q_y, written_by)
    else:
        if written_by == "target":
            weight = _kept(p_y, q_y, best, rule)
        else:
            weight = {"rejection": (p_y / q_y).clamp(max=1), "target_only": p_y, "match": p_y}[rule]
        rates = _before(weight) * acceptance_rate(p, q, rule)
    return rates.where(reached, torch.nan)


def kept_rates(
    target: Tensor, draft: Tensor, tokens: Tensor, rule: Rule, *, valid: Tensor | None = None
) -> Tensor:
    """K_j = P(a round keeps at least j drafts | the text that came of it), along the target's own text.

    A round that leaves the text y behind has kept draft i with probability a_i(y_i)/p_i(y_i), so K_j = Π_{i≤j} a_i/p_i:
    of min(1, q/p), 1[y = argmax q] and q(y), by rule. For `block`, U_j/P_j = min(1, min_{k≤j} Π_{i≤k} q_i/p_i).

    Args:
        target: p [..., steps, vocab], as in `unbiased_prefix_rates`.
        draft: q [..., steps, vocab].
        tokens: y [..., steps] int64, what the target wrote; a negative one ends the chain.
        rule: how drafts would be verified.
        valid: which steps may be read [..., steps] bool, all by default.

    Returns:
        [..., steps]; NaN from the first step on that cannot be read, or whose token the target cannot have drawn.

    Raises:
        ConfigError: an unknown rule.
        DataError: shapes that do not fit, or tokens outside the vocabulary.
    """
    check_rule(rule)
    p, q = checked_pair(target, draft)
    readable = _readable(p, q, valid)
    taken = _checked_tokens(tokens, p)
    p_y, q_y = at_tokens(p, taken), at_tokens(q, taken)
    if rule == "block":
        kept = (q_y.log() - p_y.log()).cumsum(-1).clamp(max=0)
        kept = kept.cummin(-1).values.exp() if kept.shape[-1] else kept
    else:
        kept = _kept(p_y, q_y, taken == q.argmax(-1), rule).cumprod(-1)
    known = readable & ((tokens >= 0) & (p_y > 0)).long().cumprod(-1).bool()
    return kept.where(known, torch.nan)


def round_starts(kept: Tensor, roots: Tensor) -> Tensor:
    """s_t = P(a round of drafts begins behind token t | the text), the weight of position t in a decoder's averages.

    A round that keeps m drafts emits m + 1 tokens, so s_t = Σ_{m ≤ γ} s_{t−m−1} (K_m − K_{m+1}) with the K of
    t − m − 1, K_0 = 1 and K_{γ+1} = 0; s = 1 where a text begins. Then Σ_t s_t Â_{t,j} / Σ_t s_t is the share of
    rounds whose first j drafts are all accepted.

    Args:
        kept: K [rows, n, γ] of each root, from `kept_rates`.
        roots: which positions are roots of whole chains [rows, n] bool. The first of a stretch of roots begins a text.

    Returns:
        [rows, n] float64; 0 where there is no root, NaN behind a root whose K is NaN.

    Raises:
        DataError: shapes that do not fit.
    """
    if kept.ndim != 3 or kept.shape[:2] != roots.shape:
        raise DataError(
            f"rates {list(kept.shape)} for roots {list(roots.shape)}", mend="give [rows, n, steps]"
        )
    k = torch.nn.functional.pad(kept.double(), (0, 1))
    ends = torch.cat([1 - k[..., :1], k[..., :-1] - k[..., 1:]], -1)  # P(m are kept), m = 0 … γ
    ends = ends.where(roots[..., None], 0.0)
    starts = torch.zeros(roots.shape, dtype=torch.float64, device=kept.device)
    begins = roots.clone()
    begins[:, 1:] &= ~roots[:, :-1]
    text = begins.cumsum(1)
    for t in range(roots.shape[1]):
        window = slice(max(0, t - ends.shape[-1]), t)
        came = starts[:, window].flip(1) * ends[:, window].flip(1).diagonal(dim1=1, dim2=2)
        came = came.where(text[:, window].flip(1) == text[:, t : t + 1], 0.0).sum(1)
        starts[:, t] = came.where(roots[:, t], 0.0).masked_fill(begins[:, t], 1.0)
    return starts


def factorised_prefix_rates(
    target: Tensor, draft: Tensor, rule: Rule, *, valid: Tensor | None = None
) -> Tensor:
    """Π_{i≤j} α_i(y_{<i}) of each chain, the paper's product (Bebop, Eq. 12 and 13): biased, for comparison only.

    Its mean over the target's text is not A_j from j = 2 on: prefixes that get accepted are distributed as a, not as
    p. The error has either sign. `unbiased_prefix_rates` has none.

    Args:
        target: p [..., steps, vocab] after the prefixes of the text.
        draft: q [..., steps, vocab] after the same.
        rule: how drafts would be verified; not `block`, whose decision has no factors.
        valid: which steps may be read [..., steps] bool, all by default.

    Returns:
        [..., steps]; NaN from the first step on that is masked out or where p or q is no distribution.

    Raises:
        ConfigError: an unknown rule, or `block`.
        DataError: shapes that do not fit.
    """
    check_rule(rule)
    if rule == "block":
        raise ConfigError(
            "block verification decides over the chain, so its rates are no product of steps",
            where="rule",
            mend="use unbiased_prefix_rates",
        )
    p, q = checked_pair(target, draft)
    return acceptance_rate(p, q, rule).cumprod(-1).where(_readable(p, q, valid), torch.nan)


@dataclass(frozen=True)
class ChainAcceptance:
    """The acceptance of many chains.

    Attributes:
        prefix: A_j [steps], float64; NaN where no chain counts.
        count: chains that count: those known to their last step.
        excluded: chains that do not.
    """

    prefix: Tensor
    count: int
    excluded: int

    @property
    def conditional(self) -> Tensor:
        """α_j [steps], the ratio of means (the mean of ratios would be biased)."""
        return conditional_rates(self.prefix)

    @property
    def length(self) -> float:
        """The accept length L."""
        return float(accept_length(self.prefix))

    @property
    def rate(self) -> float:
        """The accept rate (L − 1) / γ, the share of drafts that are accepted; NaN without drafts."""
        return float(self.prefix.mean(-1))


def summarise(chains: Tensor, weights: Tensor | None = None) -> ChainAcceptance:
    """The mean over all chains that are known to their last step.

    A chain cut short (the end of a text, a masked step) counts at no step, so that all A_j are of one set of chains.
    For the interval of L, hand `accept_length(chains)` to
    `noria.core.statistics.bootstrap.cluster_bootstrap_mean`, a text a cluster.

    Args:
        chains: [..., steps], of `unbiased_prefix_rates` or `factorised_prefix_rates`.
        weights: weight of each chain [...]: those of `round_starts` make it the mean over a decoder's rounds; equal by
            default. A chain whose weight is NaN is not known.
    """
    rows = chains.reshape(-1, chains.shape[-1]).double()
    weigh = torch.ones_like(rows[:, 0]) if weights is None else weights.reshape(-1).to(rows)
    there = ~(rows.isnan().any(-1) | weigh.isnan())
    known, weigh = rows[there], weigh[there]
    prefix = (known * weigh[:, None]).sum(0) / weigh.sum()
    return ChainAcceptance(prefix, len(known), len(rows) - len(known))


def _kept(p_y: Tensor, q_y: Tensor, best: Tensor, rule: Rule) -> Tensor:
    """a(y)/p(y) of the target's own tokens, by every rule but `block`."""
    return {"rejection": (q_y / p_y).clamp(max=1), "target_only": best.to(p_y), "match": q_y}[rule]


def _block_rates(p: Tensor, q: Tensor, p_y: Tensor, q_y: Tensor, written_by: Writer) -> Tensor:
    """Â_j of block verification along text, [..., steps].

    In logarithms, so that no product of ratios overflows: a ratio is infinite only where the text is not its writer's.
    """
    log_ratio = q_y.log() - p_y.log()  # NaN for 0/0, which its writer cannot have drawn
    ends = torch.zeros_like(log_ratio[..., :1])
    joint = torch.cat([ends, log_ratio.cumsum(-1)[..., :-1]], -1)[..., : p.shape[-2]]
    least = joint.cummin(-1).values if joint.shape[-1] else joint
    if written_by == "draft":
        joint, least = torch.zeros_like(joint), least - joint  # w = u/ℓ, 0 behind a draft with p = 0
    most = math.log(torch.finfo(p.dtype).max) - 1
    scale, weight = joint.clamp(max=most).exp()[..., None], least.exp()[..., None]
    rates = torch.minimum(scale * q, weight * p).sum(-1)
    return rates.where(is_distribution(p) & is_distribution(q), torch.nan)


def _before(weight: Tensor) -> Tensor:
    """Π_{i<j} weight_i, [..., steps]."""
    product = torch.cat([torch.ones_like(weight[..., :1]), weight[..., :-1]], -1).cumprod(-1)
    return product[..., : weight.shape[-1]]


def _readable(p: Tensor, q: Tensor, valid: Tensor | None) -> Tensor:
    """Mask of the steps that are read: all up to them are valid and distributions, bool [..., steps]."""
    if p.ndim < 2:
        raise DataError(f"probabilities {list(p.shape)}", mend="give [..., steps, vocab]")
    sound = is_distribution(p) & is_distribution(q)
    if valid is not None:
        if valid.shape != sound.shape:
            raise DataError(f"the mask is {list(valid.shape)}, the chains {list(sound.shape)}", where="valid")
        sound = sound & valid.bool()
    return sound.long().cumprod(-1).bool()


def _checked_tokens(tokens: Tensor, p: Tensor) -> Tensor:
    """The tokens, negative ones as 0."""
    if tokens.shape != p.shape[:-1]:
        raise DataError(f"tokens {list(tokens.shape)} for chains {list(p.shape[:-1])}", where="tokens")
    if tokens.numel() and int(tokens.max()) >= p.shape[-1]:
        raise DataError(
            f"token {int(tokens.max())} in a vocabulary of {p.shape[-1]}",
            where="tokens",
            mend="take probabilities and text of one tokenizer",
        )
    return tokens.clamp(min=0)
