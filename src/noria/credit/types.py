"""Names and enumerations of a configuration, apart from the code behind them, so that checking needs no PyTorch."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

AnswerNodes = Literal["predictor", "token"]
"""Where the flow ends: at the rows that predict the answer's tokens, or at the tokens' own rows."""

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
"""The score of a token: `noria.credit.signals` holds a function for each name."""

ATTENTION_SIGNALS: tuple[Signal, ...] = (
    "flow",
    "attention",
    "rollout",
    "attention_flow",
    "waad",
    "fai",
    "coupled",
)
"""Signals that read attention."""

ANSWER_SIGNALS: tuple[Signal, ...] = ("flow", "attention", "rollout", "attention_flow", "oar_g", "oar_p")
"""Signals about an answer: a sequence without one falls back to even credit."""

Rule = Literal["top", "bottom", "soft", "bilevel", "all", "add"]
"""The way from scores to weights: `noria.credit.rules` holds a function for each name.

top      γ for the highest scores, `rest` for the others (the paper)
bottom   γ for the lowest scores
soft     1 + (γ − 1) × rank, from 0 for the lowest score to 1 for the highest
bilevel  down to 0.1 below a quantile, up to 1 + β above it, the sum kept (OAR, arXiv 2601.07408)
all      γ for every token: the control that only makes steps longer
add      the score is added to the advantage (KTAE, arXiv 2505.16826)
"""

Mass = Literal["free", "preserve"]
"""Whether weights may change the mean step of a response."""

Operator = Literal["hide", "replace", "delete"]
"""The way in which the mask test masks a token."""

HORIZON = (10, 100)
"""Least and greatest distance of the later tokens whose attention makes FAI."""


class Fallback(IntEnum):
    """The reason why a sequence has no scores; its tokens then share credit evenly."""

    NONE = 0
    NO_ANSWER = 1
    """The response has no answer, or the answer is empty."""
    NO_QUESTION = 2
    """The prompt is empty, or none of its tokens is a source."""
    NOT_FINITE = 3
    """Attention holds NaN or infinity."""
    UNREACHABLE = 4
    """The answer attends to nothing that goes back to the question."""
    DOUBT = 5
    """The mass that arrived at the answer is not the mass that left the question."""
    BAD_ANSWER = 6
    """The answer's span is out of range, or overlaps the prompt."""
    LONG_ANSWER = 7
    """The answer is most of the response, so that there is no reasoning to weigh."""
    NO_RESPONSE = 8
    """The policy wrote no token of it; it may be all padding."""
