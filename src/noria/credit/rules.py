"""The rules by name: each turns scores of tokens into weights of their advantages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from noria.core.errors import ConfigError
from noria.credit.config import CreditConfig
from noria.credit.responses.traces import Traces
from noria.credit.scores.weights import bilevel, soft, top
from noria.credit.signals import TokenScores
from noria.credit.types import Rule

__all__ = ["RULES", "RuleInput"]

Weighting: TypeAlias = tuple[Tensor, Tensor]
"""Weights and chosen tokens, [batch, tokens] each."""


@dataclass(frozen=True)
class RuleInput:
    """Everything that a rule may look at.

    Attributes:
        config: settings of the credit.
        scored: scores of the batch.
        traces: the batch.
        advantages: [sequences]; None where a caller has none.
    """

    config: CreditConfig
    scored: TokenScores
    traces: Traces
    advantages: Tensor | None

    @property
    def unit(self) -> Tensor:
        """Number of the set that each token is ranked in, [batch, tokens]."""
        index, group = self.traces.index, self.traces.group
        if self.config.within == "batch":
            return torch.zeros_like(index)
        return group[index] if self.config.within == "group" and group is not None else index

    def top(self, *, lowest: bool = False) -> Tensor:
        """The chosen share of the tokens: those with the highest scores, or the lowest."""
        scored, fraction = self.scored, self.config.fraction
        return top(scored.scores, scored.counted, self.unit, fraction=fraction, lowest=lowest)


def _top(inputs: RuleInput) -> Weighting:
    config, counted, shares = inputs.config, inputs.scored.counted, inputs.scored.shares
    if shares is not None:
        return 1 + (config.gamma - 1) * shares.where(counted, 0.0), shares > 0
    chosen = inputs.top(lowest=config.rule == "bottom")
    return torch.where(chosen, config.gamma, torch.where(counted, config.rest, 1.0)), chosen


def _soft(inputs: RuleInput) -> Weighting:
    share = soft(inputs.scored.scores, inputs.scored.counted, inputs.unit)
    return 1 + (inputs.config.gamma - 1) * share, inputs.top()


def _bilevel(inputs: RuleInput) -> Weighting:
    config, counted = inputs.config, inputs.scored.counted
    weights = bilevel(
        inputs.scored.scores, counted, inputs.traces.index, quantile=config.quantile, beta=config.beta
    )
    return weights, counted & (weights > 1)


def _all(inputs: RuleInput) -> Weighting:
    counted = inputs.scored.counted
    return torch.where(counted, inputs.config.gamma, 1.0), counted


def _add(inputs: RuleInput) -> Weighting:
    if inputs.advantages is None:
        raise ConfigError("it is added to the advantages, and there are none", where="credit ktae")
    scores, counted = inputs.scored.scores, inputs.scored.counted
    own = inputs.advantages[inputs.traces.index]
    weighted = counted & (own.abs() > 1e-6)  # a weight cannot move an advantage of zero
    weights = torch.where(weighted, 1 + scores / own.where(weighted, 1.0), 1.0)
    return weights, counted & (scores.abs() > 0)


RULES: Mapping[Rule, Callable[[RuleInput], Weighting]] = {
    "top": _top,
    "bottom": _top,
    "soft": _soft,
    "bilevel": _bilevel,
    "all": _all,
    "add": _add,
}
