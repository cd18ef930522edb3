"""A limit on what requests may cost in all, shared by any number of clients of one process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from noria.core.chat.settings import Prices
from noria.core.errors import ConfigError
from noria.core.files import encoded

UNKNOWN_LENGTH = 1024
"""Tokens that are reserved for an answer whose length the request does not limit."""
MEDIA_TOKENS = 1500
"""Tokens that are reserved for an image, a clip or a sound."""


class Budget:
    """A sum of money that requests may cost, and how much of it is spent.

    Before a request is sent, an estimate of its cost is reserved; the request is not sent where that would exceed the
    limit. When its outcome is there, the true cost replaces the estimate. A request whose cost stays unknown (timed
    out, cut, no token counts) costs its estimate, since the server may have charged it.

    Args:
        limit: most that requests may cost, in the currency of the prices.
        spent: cost of earlier processes of the same work.
    """

    def __init__(self, limit: float, *, spent: float = 0.0) -> None:
        if not 0 <= limit < math.inf:
            raise ConfigError(f"a budget of {limit}", where="budget", mend="give a number of at least 0")
        self.limit = limit
        self.spent = spent
        self.aside = 0.0

    @property
    def left(self) -> float:
        """The part of the limit that is neither spent nor reserved."""
        return self.limit - self.spent - self.aside

    def reserve(self, prices: Prices, body: Mapping[str, Any]) -> float | None:
        """Reserve the estimated cost of a request and return it; None where that would exceed the limit."""
        estimate = estimated_cost(prices, body)
        return estimate if self.set_aside(estimate) else None

    def allows(self, amount: float) -> bool:
        """Whether an amount can be reserved."""
        # The slack forgives rounding: sums of many costs need not meet the limit to the last bit.
        return amount <= self.left + 1e-12 and (self.left > 0 or amount <= 0)

    def set_aside(self, amount: float) -> bool:
        """Reserve an amount; False where it would exceed the limit."""
        if not self.allows(amount):
            return False
        self.aside += amount
        return True

    def settle(self, estimate: float, cost: float | None) -> None:
        """Replace a reserved estimate by the true cost, or keep it where the cost is None."""
        self.aside = max(0.0, self.aside - estimate)
        self.spent += estimate if cost is None else cost


def estimated_cost(prices: Prices, body: Mapping[str, Any]) -> float:
    """Estimate the cost of a request.

    It counts a token for three bytes of text and of tools, `MEDIA_TOKENS` for each other part, and the longest answer
    allowed.

    Raises:
        ConfigError: a price is missing.
    """
    if prices.input is None or prices.output is None:
        raise ConfigError("a budget needs prices", where="prices", mend="give those for input and output")
    tokens = len(encoded(str(body.get("tools") or ""))) / 3
    for message in body["messages"]:
        content = message.get("content") or ""
        tokens += len(encoded(str(message.get("tool_calls") or ""))) / 3
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            tokens += len(encoded(part["text"])) / 3 + 8 if part["type"] == "text" else MEDIA_TOKENS
    answer = float(body.get("max_tokens", body.get("max_completion_tokens", UNKNOWN_LENGTH)))
    return (prices.input * tokens + prices.output * answer) / 1e6
