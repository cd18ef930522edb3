"""What callers may spend in a day: reserved before a request is sent, and settled when its outcome is there."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.config.parts import PartsConfig
from noria.assistant.parts.loop import Ask
from noria.assistant.service.answering.asking import composed
from noria.assistant.service.answering.backends import Backends
from noria.assistant.service.recording import Recording
from noria.core.chat.budget import Budget, estimated_cost
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import RunError, needing
from noria.core.learning.routes.route import Route
from noria.core.service.responses import HttpError

with needing("serve"):
    import msgspec

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


@dataclass
class Reservation:
    """Money that is set aside for one request; it is settled in the budget of the day on which it was set aside.

    Attributes:
        allowance: money of the caller; None where it has no limit.
        budget: budget in which it is set aside.
        amount: what is set aside.
        used: what the rounds so far cost, or were estimated to where that is not known.
        tools: part of the amount that is for tools; None where nothing is set aside.
    """

    allowance: Allowance | None = None
    budget: Budget | None = None
    amount: float = 0.0
    used: float = 0.0
    tools: float | None = None

    async def add(self, amount: float) -> None:
        """Set more aside.

        Raises:
            HttpError: 429, too little is left; 503, what is left cannot be looked up.
        """
        allowance = self.allowance
        if allowance is None or (self.budget is not None and amount <= 0):
            return
        while True:
            present = allowance.present()
            budget = present if self.budget is None or not self.amount else self.budget
            if budget.set_aside(amount):
                self.budget, self.amount = budget, self.amount + amount
                return
            if budget is present and await allowance.more(amount):
                continue
            if allowance.error is not None:
                why = "the budget that this caller has at all gateways cannot be looked up"
                raise HttpError(503, "control_down", why, headers={"retry-after": "2"})
            raise HttpError(429, "budget_spent", "the budget of this caller for today is spent")

    def settle(self, cost: float | None) -> None:
        """Replace what was set aside by what was spent; where that is not known, the whole of it was."""
        if self.budget is not None:
            self.budget.settle(self.amount, cost)
            self.amount = 0.0


class CallersMoney:
    """The money of the callers; one without an allowance may spend what it likes.

    Args:
        config: settings of the gateway.
        backends: the backends, which have the prices.

    Attributes:
        allowances: money of the callers that have a limit, by name.
        hidden: money for what challengers answer to their requests in the shadow, likewise.
    """

    def __init__(self, config: AssistantConfig, backends: Backends) -> None:
        self._config, self._backends = config, backends
        self.allowances: dict[str, Allowance] = {}
        self.hidden: dict[str, Allowance] = {}

    async def set_aside(self, caller: str, amount: float) -> Reservation:
        """Reserve an amount in a caller's money, where that has a limit.

        Raises:
            HttpError: 429, too little is left; 503, what is left cannot be looked up.
        """
        reservation = Reservation(self.allowances.get(caller))
        await reservation.add(amount)
        return reservation

    async def reserve_answer(self, recording: Recording, *, tools: bool) -> Reservation:
        """Reserve the estimated cost of an answer in the caller's money, where that has a limit.

        Rounds of tools are reserved as long as the first one; `asking` reserves what a later one is longer.

        Args:
            recording: the request.
            tools: whether the gateway's tools are on offer, whose rounds ask the backend again.

        Raises:
            HttpError: as `set_aside`.
        """
        reservation = Reservation(self.allowances.get(recording.identity.caller))
        if reservation.allowance is None:
            return reservation
        amount = self._estimate(recording.route, recording.query)
        if tools:
            parts = self._config.parts
            dearest = max((tool.cost for tool in parts.tools.values()), default=0.0)
            reservation.tools = parts.tool_rounds * dearest if parts.tool_money is None else parts.tool_money
            amount = amount * (1 + parts.tool_rounds) + reservation.tools
        await reservation.add(amount)
        return reservation

    async def reserve_hidden(self, recording: Recording) -> Reservation:
        """Reserve the estimated cost of an answer in the shadow in the money that the caller's requests have for such.

        Raises:
            HttpError: as `set_aside`.
        """
        reservation = Reservation(self.hidden.get(recording.identity.caller))
        if reservation.allowance is not None:
            await reservation.add(self._estimate(recording.route, recording.query))
        return reservation

    def parts(self, reservation: Reservation) -> PartsConfig:
        """Settings of the pipeline, whose tools may cost what is reserved for them, where something is."""
        parts = self._config.parts
        if reservation.tools is None:
            return parts
        return parts.model_copy(update={"tool_money": reservation.tools})

    def asking(self, recording: Recording, reservation: Reservation) -> Ask:
        """What asks the backend for one round of an answer, once what the round may cost is reserved.

        A round that does not fit in the caller's money is a failure of the kind `budget`, and the recording has the
        error by which the caller is answered.

        Args:
            recording: the request.
            reservation: what `reserve_answer` gave.
        """

        async def ask(query: CompletionRequest) -> tuple[Outcome, dict[str, Any] | None]:
            estimate = 0.0
            if reservation.allowance is not None:
                estimate = self._estimate(recording.route, query)
                needed = reservation.used + estimate + (reservation.tools or 0.0)
                try:
                    await reservation.add(max(0.0, needed - reservation.amount))
                except HttpError as error:
                    recording.unpaid = error
                    return Failure("budget", error.message, attempts=0), None
            outcome, reply = await self._backends.ask(recording.route, query, recording.heard)
            cost = outcome.cost if isinstance(outcome, Answer | Refusal) else None
            reservation.used += estimate if cost is None else cost
            return outcome, reply

        return ask

    def settle_answer(self, recording: Recording, reservation: Reservation, outcome: Outcome | None) -> None:
        """Replace what was reserved for an answer by its cost; where it was not sent, by what tools took before.

        Args:
            recording: the request.
            reservation: what was reserved for it.
            outcome: what came of it; None where the caller left before.
        """
        unsent = isinstance(outcome, Failure) and outcome.kind not in _MAY_COST
        cost = outcome.cost if isinstance(outcome, Answer | Refusal) else None
        reservation.settle(recording.spent if unsent else cost)

    def _estimate(self, route: Route, query: CompletionRequest) -> float:
        """Estimated cost of a request as the route's backend gets it.

        Raises:
            HttpError: 503, the longest answer of the route is no number.
        """
        forwarder = self._backends.forwarder(route)
        body = msgspec.json.decode(composed(query, route, forwarder))
        try:
            return estimated_cost(forwarder.server.prices, body)
        except ValueError:
            why = "the sampling of this route has a max_tokens that is no number: its cost cannot be reserved"
            raise HttpError(503, "no_estimate", why) from None
