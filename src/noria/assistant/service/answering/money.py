"""What callers may spend in a day: reserved before a request is sent, and settled when its outcome is there."""

from __future__ import annotations

import datetime
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.service.recording import Recording
from noria.core.chat.budget import Budget, estimated_cost
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal
from noria.core.errors import RunError
from noria.core.service.responses import HttpError

_MAY_COST = ("timeout", "cut", "too_large", "garbage")
"""Kinds of failures whose request was sent, so that the server may have charged it."""


class Allowance:
    """What a caller may spend in a day (UTC): reserved before a request is sent, and settled after.

    Args:
        limit: most money in a day.
        spent: what was spent today before.
        today: gives the day.
    """

    def __init__(self, limit: float, spent: float = 0.0, *, today: Any = None) -> None:
        self._today = today or (lambda: datetime.datetime.now(datetime.UTC).date())
        self._limit, self._day = limit, self._today()
        self.budget = Budget(limit, spent=spent)

    def present(self) -> Budget:
        """The budget of this day."""
        if self._today() != self._day:
            self._day, self.budget = self._today(), self._fresh()
        return self.budget

    def _fresh(self) -> Budget:
        """The budget of a day that begins."""
        return Budget(self._limit)

    @property
    def error(self) -> RunError | None:
        """Why nobody knows whether there is more; None where it is known."""
        return None

    async def more(self, amount: float) -> bool:
        """Look for more money; True where an amount can be set aside now."""
        return False


class CallersMoney:
    """The money of the callers; one without an allowance may spend what it likes.

    Args:
        config: settings of the gateway, which hold the prices.

    Attributes:
        allowances: money of the callers that have a limit, by name.
    """

    def __init__(self, config: AssistantConfig) -> None:
        self._config = config
        self.allowances: dict[str, Allowance] = {}

    async def set_aside(self, caller: str, amount: float) -> None:
        """Reserve an amount in a caller's money, where that has a limit.

        Raises:
            HttpError: 429, too little is left; 503, what is left cannot be looked up.
        """
        allowance = self.allowances.get(caller)
        while allowance is not None and not allowance.present().set_aside(amount):
            if await allowance.more(amount):
                continue
            if allowance.error is not None:
                why = "the budget that this caller has at all gateways cannot be looked up"
                raise HttpError(503, "control_down", why, headers={"retry-after": "2"})
            raise HttpError(429, "budget_spent", "the budget of this caller for today is spent")

    def settle(self, caller: str, reserved: float, cost: float | None) -> None:
        """Replace what was reserved by what was spent; where that is not known, the whole of it was."""
        allowance = self.allowances.get(caller)
        if allowance is not None:
            allowance.budget.settle(reserved, cost)  # that of the day on which it was reserved

    async def reserve_answer(self, recording: Recording, *, tools: bool) -> float:
        """Reserve the estimated cost of an answer in the caller's money, and return it; 0 without a limit.

        Args:
            recording: the request.
            tools: whether the gateway's tools are on offer, whose rounds ask the backend again.

        Raises:
            HttpError: as `set_aside`.
        """
        caller = recording.identity.caller
        if caller not in self.allowances:
            return 0.0
        prices = self._config.backends[recording.route.backend].prices
        amounts = [estimated_cost(prices, recording.query.content)]
        if tools:
            parts = self._config.parts
            dearest = max((tool.cost for tool in parts.tools.values()), default=0.0)
            amounts *= 1 + parts.tool_rounds
            amounts.append(parts.tool_rounds * dearest if parts.tool_money is None else parts.tool_money)
        await self.set_aside(caller, sum(amounts))
        return sum(amounts)

    def settle_answer(self, recording: Recording, reserved: float, outcome: Outcome | None) -> None:
        """Replace what was reserved for an answer by its cost; where it was not sent, by what tools took before.

        Args:
            recording: the request.
            reserved: what `reserve_answer` gave.
            outcome: what came of it; None where the caller left before.
        """
        unsent = isinstance(outcome, Failure) and outcome.kind not in _MAY_COST
        cost = outcome.cost if isinstance(outcome, Answer | Refusal) else None
        self.settle(recording.identity.caller, reserved, recording.spent if unsent else cost)
