"""Verification of drafted tokens: which are kept, and what comes after them, without changing the target's law.

One call verifies a ragged batch by one of four lossless rules (p target, q draft, ŷ the drafted token):

- `rejection`: accept with probability min(1, p(ŷ)/q(ŷ)); on rejection draw from (p − q)₊ (Leviathan et al. 2023).
- `target_only`: accept with probability p(ŷ); on rejection draw from p without ŷ. That is rejection with q = δ(ŷ).
- `match`: draw y ~ p at every position and keep drafts as long as they equal it.
- `block`: decide over the whole chain (Sun et al. 2025). It never keeps fewer tokens on average than `rejection`.

Whatever the rule, after the last of a row's drafts the next token is drawn from the target distribution *behind* it,
p_{γ+1}. (Algorithms 3 and 4 of Bebop's appendix G print p_γ there, which is biased.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from noria.mtp.acceptance.sampling import sample
from noria.mtp.types import Rule


@dataclass(frozen=True)
class Verification:
    """The outcome of one round, row by row.

    Attributes:
        accepted: [batch] drafts that the rule accepted, before any truncation: what acceptance is measured by.
        next_token: [batch] the token drawn after them; −1 where there was no distribution to draw it from.
        tokens: [batch, steps + 1] what is emitted, −1 beyond `lengths`.
        lengths: [batch] how many tokens are emitted, after truncation at the end token and at the remaining length.
        logprobs: [batch, steps + 1] log p of each emitted token, the behaviour policy's; NaN beyond `lengths`.
        finished: [batch] the row has emitted an end token or all that remained of its length.
        valid: [batch] False where the target distribution of a token that was needed has no mass or is not finite; the
            tokens before it are emitted and sound.
    """

    accepted: Tensor
    next_token: Tensor
    tokens: Tensor
    lengths: Tensor
    logprobs: Tensor
    finished: Tensor
    valid: Tensor


@torch.no_grad()
def verify(
    drafts: Tensor,
    target: Tensor,
    draft: Tensor | None,
    *,
    rule: Rule,
    accept: Tensor,
    residual: Tensor,
    counts: Tensor | None = None,
    remaining: Tensor | None = None,
    eos: Sequence[int] = (),
) -> Verification:
    """Verify one round of drafts.

    A greedy request needs no rule of its own: its p is one-hot, so a draft is kept if and only if it is the argmax.

    Args:
        drafts: ŷ [batch, steps] int64, drawn from `draft`; for `target_only` and `match` in any way, and the argmax
            of q serves best. A negative token ends the drafts of its row.
        target: p [batch, steps + 1, vocab]; position i is the distribution after i drafts.
        draft: q [batch, steps, vocab], the very probabilities the drafts were drawn from; not read by `target_only` and
            `match`, where it may be None.
        rule: how to verify.
        accept: coins [batch, steps] in [0, 1). Not read by `match`.
        residual: [batch, steps + 1] in [0, 1), what draws the token of each position, if one is drawn there. `match`
            uses all of them, so it emits what plain sampling with these numbers would.
        counts: [batch] how many drafts each row has, 0 … steps; all by default. What lies beyond is not read.
        remaining: [batch] how many tokens each row may still emit; 0 for a row that is done.
        eos: end tokens; nothing is emitted after one.

    Raises:
        ValueError: shapes that do not fit, an unknown rule, or no `draft` for a rule that needs it.
    """
    _check(drafts, target, draft, rule, accept, residual)
    batch, steps = drafts.shape
    present = drafts >= 0
    if counts is not None:
        present &= torch.arange(steps, device=drafts.device) < counts[:, None]
    present = present.cumprod(1).bool()
    guesses = drafts.where(present, 0)

    if rule == "match":
        drawn = sample(target, residual)
        accepted = _leading(present & (drawn[:, :steps] == guesses))
        next_token = _at(drawn, accepted)
    else:
        p = target[:, :steps].gather(2, guesses[..., None])[..., 0]
        if rule == "target_only":
            accepted = _leading(present & (accept < p))
            rest = _at(target, accepted)
            left = rest.scatter(1, _at(_padded(guesses), accepted)[:, None], 0.0)
        else:
            assert draft is not None
            q = draft.gather(2, guesses[..., None])[..., 0]
            if rule == "rejection":
                # Not u < p/q: a q that underflowed to 0 would divide by it.
                accepted, weight = _leading(present & (accept * q < p)), target.new_ones(batch)
            else:
                accepted, weight = _block(p, q, target, draft, present, accept)
            rest = _at(target, accepted)
            left = rest
            if steps:
                left = (weight[:, None] * rest - _at(draft, accepted.clamp(max=steps - 1))).clamp(min=0)
        # Where p and q agree, a rejection is round-off and nothing is left of p − q.
        refused = (accepted < present.sum(1)) & (left.sum(1) > 0)
        next_token = sample(torch.where(refused[:, None], left, rest), _at(residual, accepted))
    return _emit(guesses, accepted, next_token, target, remaining, eos)


# --- rules --------------------------------------------------------------------------------------------------


def _block(
    p: Tensor, q: Tensor, target: Tensor, draft: Tensor, present: Tensor, coins: Tensor
) -> tuple[Tensor, Tensor]:
    """Number of drafts of the chain that are kept, and the weight of the target in the residual behind them.

    With w_0 = 1, w_i = min(1, w_{i−1} p_i/q_i) and R_i = Σ (w_i p_{i+1} − q_{i+1})₊, a prefix of i drafts is a
    candidate with probability h_i = R_i / (R_i + 1 − w_i), the whole chain with h = w; the longest candidate wins. As
    E[w_{i+1} | w_i] = w_i − R_i, this makes P(at least i kept | drafts) = w_i, and the residual ∝ (w_i p − q)₊ is
    what is missing of w_i p.

    Args:
        p: target probabilities of the drafts [batch, steps].
        q: draft probabilities of the drafts [batch, steps].
        target: [batch, steps + 1, vocab].
        draft: [batch, steps, vocab].
        present: [batch, steps] bool, which drafts there are.
        coins: [batch, steps].

    Returns:
        kept: [batch] int64.
        weight: w of the kept prefix, [batch], in the target's dtype.
    """
    batch, steps = p.shape
    # The chain ends before a draft whose p or q is no distribution, as if it had not been drafted.
    sound = [(x.sum(2) > 0) & x.sum(2).isfinite() for x in (target[:, :steps], draft)]
    present = (present & sound[0] & sound[1]).cumprod(1).bool()
    counts = present.sum(1)
    kept = torch.zeros_like(counts)
    weight = torch.ones(batch, dtype=torch.float64, device=p.device)
    kept_weight = weight
    for i in range(1, steps + 1):
        p_i, q_i = p[:, i - 1].double(), q[:, i - 1].double()
        # q = 0 cannot have been drawn, but can have underflowed: u·q < p then accepts any p > 0.
        ratio = torch.where(q_i > 0, p_i / q_i, torch.where(p_i > 0, torch.inf, 0.0))
        weight = torch.where(weight > 0, weight * ratio, 0.0).clamp(max=1.0)
        chance = weight
        if i < steps:
            left = (weight[:, None] * target[:, i] - draft[:, i]).clamp(min=0).sum(1)
            gap = left + (1 - weight)
            # 0/0: the rest of the chain agrees with the target, so nothing here is ever refused.
            partial = torch.where(gap > 0, left / gap, 1.0)
            chance = torch.where(counts == i, weight, partial)
        wins = present[:, i - 1] & (coins[:, i - 1] < chance)
        kept = torch.where(wins, i, kept)
        kept_weight = torch.where(wins, weight, kept_weight)
    return kept, kept_weight.to(target.dtype)


def _padded(values: Tensor) -> Tensor:
    """One more step, so that the index behind the last draft exists; [batch, steps + 1]."""
    return torch.nn.functional.pad(values, (0, 1))


def _leading(flags: Tensor) -> Tensor:
    """Number of leading flags that hold, [batch]."""
    return flags.cumprod(1).sum(1)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """The value of each row at its index, values[b, index[b]]."""
    return values[torch.arange(len(index), device=index.device), index]


# --- emission -----------------------------------------------------------------------------------------------


def _emit(
    guesses: Tensor,
    accepted: Tensor,
    next_token: Tensor,
    target: Tensor,
    remaining: Tensor | None,
    eos: Sequence[int],
) -> Verification:
    steps = guesses.shape[1]
    index = torch.arange(steps + 1, device=guesses.device)
    tokens = torch.where(index == accepted[:, None], next_token[:, None], _padded(guesses))
    valid = next_token >= 0
    lengths = accepted + valid
    ends = torch.zeros_like(tokens, dtype=torch.bool)
    for token in eos:
        ends |= tokens == token
    first_end = torch.where(ends.any(1), ends.to(torch.uint8).argmax(1) + 1, steps + 2)
    finished = first_end <= lengths
    reach = torch.minimum(lengths, first_end)
    if remaining is not None:
        room = remaining.to(reach).clamp(min=0)
        finished |= reach >= room
        reach = torch.minimum(reach, room)
    emitted = index < reach[:, None]
    p = target.gather(2, tokens.clamp(min=0)[..., None])[..., 0]
    return Verification(
        accepted=accepted,
        next_token=next_token,
        tokens=tokens.where(emitted, -1),
        lengths=reach,
        logprobs=torch.where(emitted, p.log(), torch.nan),
        finished=finished,
        valid=valid | finished,  # a row that ended before it needs no next token
    )


def _check(
    drafts: Tensor, target: Tensor, draft: Tensor | None, rule: str, accept: Tensor, residual: Tensor
) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}: one of {', '.join(get_args(Rule))}")
    batch, steps = drafts.shape
    if target.ndim != 3 or target.shape[:2] != (batch, steps + 1):
        raise ValueError(
            f"target {list(target.shape)} for drafts {[batch, steps]}: needs [batch, steps + 1, vocab]"
        )
    if rule in ("rejection", "block"):
        if draft is None:
            raise ValueError(f"{rule} needs the draft's probabilities")
        if draft.shape != (batch, steps, target.shape[2]):
            raise ValueError(
                f"draft {list(draft.shape)} for target {list(target.shape)}: vocabularies must agree"
            )
    if rule != "match" and accept.shape != (batch, steps):
        raise ValueError(f"accept {list(accept.shape)}: needs {[batch, steps]}")
    if residual.shape != (batch, steps + 1):
        raise ValueError(f"residual {list(residual.shape)}: needs {[batch, steps + 1]}")
