"""Is a text the policy's own? Each token's law is known, so a few hundred tokens tell, however few documents they are.

A token y ~ p surprises its policy by s = −log p(y), whose mean is the entropy H(p) and whose variance is known. Under
the hypothesis that the policy drew the text, Σ (s − H) is a martingale, and so is the likelihood ratio

    Π p_T(y) / p(y),    p_T ∝ p^(1/T),

of a text that was drawn at another temperature T: its mean is 1. The mean of several such ratios exceeds 1/α with
probability α at most (Ville 1939), for any number of tokens and documents; no resampling and no limit is needed. Text
of another model is more surprising, or less, than the policy's own, as text of another temperature is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from noria.core.statistics.intervals import Interval

TEMPERATURES = (0.5, 0.8, 1.25, 2.0)
"""Temperatures, of the policy's own as 1, that the text is held against."""
SURPRISE, ALPHA = 0.05, 1e-3
"""Nats a token up to which text passes for the policy's own, since engines round; chance of a false alarm."""


@dataclass
class OwnText:
    """Tokens of a text, held against the policy's law.

    Attributes:
        tokens: how many were read; those of probability 0 are not.
        excess: Σ (−log p(y) − H(p)), nats.
        variance: variance of the excess if the policy drew the text.
        ratios: log of each temperature's likelihood ratio.
    """

    tokens: int = 0
    excess: float = 0.0
    variance: float = 0.0
    ratios: list[float] = field(default_factory=lambda: [0.0] * len(TEMPERATURES))

    def add(self, probs: Tensor, tokens: Tensor) -> None:
        """Read tokens y [n], and the distributions p [n, vocab] that they should be drawn from."""
        p = probs.double()
        own = p.gather(-1, tokens[:, None])[:, 0]
        p, tokens, own = p[own > 0], tokens[own > 0], own[own > 0].log()
        nats = -torch.special.xlogy(p, p).sum(-1)
        squares = torch.special.xlogy(torch.special.xlogy(p, p), p).sum(-1)  # Σ p log² p
        self.tokens += len(own)
        self.excess += float((-own - nats).sum())
        self.variance += float((squares - nats.square()).clamp(min=0).sum())
        logs = p.log()
        for number, temperature in enumerate(TEMPERATURES):
            other = own / temperature - (logs / temperature).logsumexp(-1)
            self.ratios[number] += float((other - own).sum())

    @property
    def surprise(self) -> Interval:
        """Mean of −log p(y) − H(p), nats a token, with the 95 % interval of the known variance."""
        if not self.tokens:
            return Interval(math.nan, math.nan, math.nan, 0)
        mean, width = self.excess / self.tokens, 1.96 * math.sqrt(self.variance) / self.tokens
        return Interval(mean, mean - width, mean + width, self.tokens)

    @property
    def evidence(self) -> float:
        """Log of the mean likelihood ratio: above log(1/α) with probability α at most if the text is the policy's."""
        return float(torch.tensor(self.ratios, dtype=torch.float64).logsumexp(0)) - math.log(
            len(TEMPERATURES)
        )

    @property
    def foreign(self) -> bool:
        """Whether the text cannot be the policy's own."""
        return self.evidence > -math.log(ALPHA) and abs(self.excess) > SURPRISE * self.tokens
