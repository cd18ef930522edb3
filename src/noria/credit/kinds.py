"""The words of a configuration, apart from what they do: bad input is told without loading PyTorch."""

from __future__ import annotations

from typing import Literal

__all__ = ["HORIZON", "AnswerNodes", "Mass", "Rule", "Signal"]

AnswerNodes = Literal["predictor", "token"]
"""Where the flow ends: at the rows that predict the answer's tokens, or at their own."""

Signal = Literal[
    "flow",
    "attention",
    "rollout",
    "attention_flow",
    "entropy",
    "waad",
    "fai",
    "coupled",
    "oar_g",
    "oar_p",
    "ktae",
    "random",
    "none",
]
"""What tokens are scored by."""

Rule = Literal["top", "bottom", "soft", "bilevel", "all", "add"]
"""
top      γ for the highest scores, `rest` for the others (the paper's)
bottom   γ for the lowest
soft     1 + (γ − 1) × rank, from 0 for the lowest score to 1 for the highest
bilevel  OAR's: below a quantile down to 0.1, above it up to 1 + β, the sum kept (arXiv 2601.07408)
all      γ for every token: the control that only makes steps longer
add      the score is added to the advantage (KTAE, arXiv 2505.16826)
"""

Mass = Literal["free", "preserve"]
"""Whether weights may change the mean step of a response."""

HORIZON = (10, 100)
"""Least and greatest distance of the later tokens that FAI looks from."""
