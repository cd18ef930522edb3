"""The rules by name: each turns scores of tokens into weights of their advantages.

`RULES[name](config, scored, traces, advantages)` returns weights and chosen tokens, [batch, tokens] each; `advantages`
[sequences] is None where a caller has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.credit.config import CreditConfig
from noria.credit.responses.traces import Traces
from noria.credit.scores.weights import bilevel, soft, top
from noria.credit.signals import TokenScores
from noria.credit.types import Rule

Weighting: TypeAlias = tuple[Tensor, Tensor]
Gains: TypeAlias = Tensor | None


def _top(config: CreditConfig, scored: TokenScores, traces: Traces, advantages: Gains) -> Weighting:
    counted, shares = scored.counted, scored.shares
    if shares is not None:
        return 1 + (config.gamma - 1) * shares.where(counted, 0.0), shares > 0
    chosen = _chosen(config, scored, traces, lowest=config.rule == "bottom")
    return torch.where(chosen, config.gamma, torch.where(counted, config.rest, 1.0)), chosen


def _soft(config: CreditConfig, scored: TokenScores, traces: Traces, advantages: Gains) -> Weighting:
    share = soft(scored.scores, scored.counted, _unit(config, traces))
    return 1 + (config.gamma - 1) * share, _chosen(config, scored, traces)


def _bilevel(config: CreditConfig, scored: TokenScores, traces: Traces, advantages: Gains) -> Weighting:
    scores, counted, unit = scored.scores, scored.counted, traces.index
    weights = bilevel(scores, counted, unit, quantile=config.quantile, beta=config.beta)
    return weights, counted & (weights > 1)


def _all(config: CreditConfig, scored: TokenScores, traces: Traces, advantages: Gains) -> Weighting:
    return torch.where(scored.counted, config.gamma, 1.0), scored.counted


def _add(config: CreditConfig, scored: TokenScores, traces: Traces, advantages: Gains) -> Weighting:
    if advantages is None:
        raise ConfigError("it is added to the advantages, and there are none", where="credit ktae")
    own = advantages[traces.index]
    weighted = scored.counted & (own.abs() > 1e-6)  # a weight cannot move an advantage of zero
    weights = torch.where(weighted, 1 + scored.scores / own.where(weighted, 1.0), 1.0)
    return weights, scored.counted & (scored.scores.abs() > 0)


RULES: Mapping[Rule, Callable[[CreditConfig, TokenScores, Traces, Gains], Weighting]] = {
    "top": _top,
    "bottom": _top,
    "soft": _soft,
    "bilevel": _bilevel,
    "all": _all,
    "add": _add,
}


def _unit(config: CreditConfig, traces: Traces) -> Tensor:
    """Number of the set that each token is ranked in, [batch, tokens]."""
    if config.within == "batch":
        return torch.zeros_like(traces.index)
    if config.within == "group":
        if traces.group is None:
            raise ConfigError(
                "tokens are ranked within groups, and the traces have none",
                where="within",
                mend="give group with the traces, or rank within the response",
            )
        return traces.group[traces.index]
    return traces.index


def _chosen(config: CreditConfig, scored: TokenScores, traces: Traces, *, lowest: bool = False) -> Tensor:
    """The configured share of the tokens with the highest scores, or the lowest."""
    unit = _unit(config, traces)
    return top(scored.scores, scored.counted, unit, fraction=config.fraction, lowest=lowest)
