"""A limit on what requests may cost in all, shared by any number of clients of one process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from noria.core.chat.settings import Prices
from noria.core.errors import ConfigError

__all__ = ["Budget"]

UNKNOWN_LENGTH = 1024
"""Tokens that are set aside for an answer whose length the request does not limit."""
MEDIA_TOKENS = 1500
"""Tokens that are set aside for an image, a clip or a sound."""


class Budget:
    """Money, and what of it is spent.

    Before a request is sent, an estimate of its cost is set aside, and the request is not sent where spent and set
    aside would pass the limit. When it is answered, the true cost takes the estimate's place. A request whose cost
    stays unknown (timed out, cut, no token counts) is counted at its estimate, since the server may have charged it.

    Args:
        limit: in the currency of the prices.
        spent: what is spent of it already, by earlier processes of the same work.
    """

    def __init__(self, limit: float, *, spent: float = 0.0) -> None:
        if not 0 <= limit < math.inf:
            raise ConfigError(f"a budget of {limit}", where="budget", mend="give a number of at least 0")
        self.limit = limit
        self.spent = spent
        self.aside = 0.0

    @property
    def left(self) -> float:
        """What is neither spent nor set aside."""
        return self.limit - self.spent - self.aside

    def reserve(self, prices: Prices, body: Mapping[str, Any]) -> float | None:
        """Set the estimate for a request aside; None where that would pass the limit."""
        estimate = estimated_cost(prices, body)
        if estimate > self.left + 1e-12 or (self.left <= 0 and estimate > 0):
            return None
        self.aside += estimate
        return estimate

    def settle(self, estimate: float, cost: float | None) -> None:
        """Put the true cost in the place of what was set aside; the estimate where it is unknown."""
        self.aside = max(0.0, self.aside - estimate)
        self.spent += estimate if cost is None else cost


def estimated_cost(prices: Prices, body: Mapping[str, Any]) -> float:
    """Estimated cost of a request.

    Its tokens are one for three bytes of its words, `MEDIA_TOKENS` for each other part, and its longest answer.

    Raises:
        ConfigError: a price is missing.
    """
    if prices.input is None or prices.output is None:
        raise ConfigError("a budget needs prices", where="prices", mend="give those for input and output")
    tokens = 0.0
    for message in body["messages"]:
        content = message.get("content") or ""
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            tokens += len(part["text"].encode()) / 3 + 8 if part["type"] == "text" else MEDIA_TOKENS
    longest = float(body.get("max_tokens", body.get("max_completion_tokens", UNKNOWN_LENGTH)))
    return (prices.input * tokens + prices.output * longest) / 1e6
