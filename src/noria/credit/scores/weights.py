"""From scores of tokens to how much of the advantage each of them gets.

FlowTracer (arXiv 2606.10646, sec. 3.4) gives γ to the top share of a response's tokens and 1 to the others. A weight
multiplies the advantage, and so the token's policy gradient: inside min and clip it is homogeneous of degree one. With
the paper's γ = 1.5 for 40 % the mean weight is 1.2, so a part of any gain could be a longer step; `preserve` divides
by the mean. No gradient flows through weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noria.credit.scores.flow import per_sequence
from noria.credit.types import Mass


def ranks(scores: Tensor, counted: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of each token among those of its unit, 0 for the highest score; ties by position.

    Args:
        scores: [batch, tokens]; NaN is lowest.
        counted: tokens that are ranked.
        unit: [batch, tokens] number of the set that each is ranked in: its response, or its whole group.

    Returns:
        Ranks, and the number of counted tokens in each token's unit; 0 where not counted.
    """
    places = counted.flatten().nonzero()[:, 0]
    values = scores.flatten()[places]
    values = values.masked_fill(values.isnan(), -torch.inf)
    units = unit.flatten()[places]
    by_score = torch.argsort(values, descending=True, stable=True)
    order = by_score[torch.argsort(units[by_score], stable=True)]
    _, inverse, sizes = torch.unique_consecutive(units[order], return_inverse=True, return_counts=True)
    first = sizes.cumsum(0) - sizes
    rank, total = torch.zeros_like(scores, dtype=torch.long), torch.zeros_like(scores, dtype=torch.long)
    rank.view(-1)[places[order]] = torch.arange(len(order), device=scores.device) - first[inverse]
    total.view(-1)[places[order]] = sizes[inverse]
    return rank, total


def top(scores: Tensor, counted: Tensor, unit: Tensor, *, fraction: float, lowest: bool = False) -> Tensor:
    """The top share of each unit's tokens: round(fraction × n) of its n, [batch, tokens] of truth values."""
    place, number = ranks(-scores if lowest else scores, counted, unit)
    return counted & (place < torch.floor(fraction * number + 0.5))


def soft(scores: Tensor, counted: Tensor, unit: Tensor) -> Tensor:
    """Rank as a share: 1 for the highest score of a unit, 0 for the lowest, ½ for a unit of one token."""
    place, number = ranks(scores, counted, unit)
    share = 1 - place / (number - 1).clamp(min=1)
    return torch.where(counted, share.where(number > 1, 0.5), 0.0)


def bilevel(
    scores: Tensor, counted: Tensor, unit: Tensor, *, quantile: float, beta: float, least: float = 0.1
) -> Tensor:
    """OAR's weights: u/u_q below the quantile of u, 1 + β (u − u_q)/(1 − u_q) above, u the min-max of log1p(score).

    Args:
        scores: [batch, tokens], not negative.
        counted: tokens that are weighed.
        unit: number of each token's response.
        quantile: q, the quantile below which tokens are suppressed.
        beta: weight beyond 1 of the highest score.
        least: lowest weight.

    Returns:
        Weights, 1 where not counted; those of a response sum to the number of its counted tokens.
    """
    weights = torch.ones_like(scores)
    for number in torch.unique(unit[counted]):
        own = counted & (unit == number)
        level = torch.log1p(scores[own].clamp(min=0))
        span = level.max() - level.min()
        level = (level - level.min()) / span.where(span > 0, 1.0)
        edge = torch.quantile(level, quantile)
        low = (level / edge.clamp(min=1e-8)).clamp(min=least)
        high = 1 + beta * (level - edge) / (1 - edge).clamp(min=1e-8)
        own_weights = torch.where(level < edge, low, high)
        weights[own] = own_weights * (len(own_weights) / own_weights.sum())
    return weights


def with_mass(weights: Tensor, response: Tensor, sequence: Tensor, number: int, mass: Mass) -> Tensor:
    """Weights whose mean over each response is 1 if mass is preserved; 1 outside of responses in any case."""
    weights = torch.where(response, weights, 1.0)
    if mass == "free":
        return weights
    sums = per_sequence(torch.where(response, weights, 0.0), sequence, number)
    counts = per_sequence(response, sequence, number)
    mean = torch.where((counts > 0) & (sums > 0), sums / counts.clamp(min=1), 1.0)
    return torch.where(response, weights / mean[sequence.clamp(min=0)], 1.0)


def chosen_share(chosen: Tensor, advantages: Tensor, response: Tensor) -> float:
    """The share of Σ|advantage| that lies on chosen tokens; NaN where the sum is 0.

    Args:
        chosen: [batch, tokens] chosen tokens.
        advantages: [batch, tokens] weighted advantages.
        response: [batch, tokens] tokens that count.
    """
    size = torch.where(response, advantages.abs(), 0.0)
    total = float(size.sum())
    return float(torch.where(chosen, size, 0.0).sum()) / total if total > 0 else float("nan")
