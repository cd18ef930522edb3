"""The words of a configuration, apart from what they do: bad input is told without loading PyTorch."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

__all__ = ["HORIZON", "AnswerNodes", "Fallback", "Mass", "Operator", "Rule", "Signal"]

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

Operator = Literal["hide", "replace", "delete"]
"""How the mask test masks a token."""

HORIZON = (10, 100)
"""Least and greatest distance of the later tokens that FAI looks from."""


class Fallback(IntEnum):
    """Why a sequence has no flow; its tokens then share credit evenly."""

    NONE = 0
    NO_ANSWER = 1
    """No answer was found in it, or nothing was left of it."""
    NO_QUESTION = 2
    """Its prompt is empty, or nothing of it is a source."""
    NOT_FINITE = 3
    """Attention holds NaN or infinity."""
    UNREACHABLE = 4
    """The answer attends to nothing that goes back to the question."""
    DOUBT = 5
    """What arrived at the answer is not what left the question."""
    BAD_ANSWER = 6
    """The answer's span is out of range, or overlaps the prompt."""
    LONG_ANSWER = 7
    """The answer is most of the response, so that there is no reasoning to weigh."""
    NO_RESPONSE = 8
    """No token of it was written by the policy: all padding, say."""
