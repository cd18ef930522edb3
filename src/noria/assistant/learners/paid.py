"""Asking for a system that asks in a thread of its own: every request is paid once, within the budget of the turn."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from noria.assistant.learners.working import Halt
from noria.core.chat import Answer, ChatRequest, Failure, Outcome, Refusal
from noria.core.learning.routes.backends import Backend, cost_of
from noria.core.learning.spending import Spending, TurnStopped, all_of


class PaidModel:
    """A backend as a chat model of any thread, asked on the turn's event loop; what was answered is not paid again.

    Args:
        backend: backend to ask.
        name: name of the backend, by which its outcomes are kept.
        spending: what pays.
        loop: event loop of the turn.
        halt: hears that the budget is spent: a judge makes of that a verdict which is not there.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        spending: Spending,
        loop: asyncio.AbstractEventLoop,
        halt: Halt | None = None,
    ) -> None:
        self.backend, self.name, self.spending, self.loop = backend, name, spending, loop
        self.halt = halt or Halt()

    async def ask(self, request: ChatRequest) -> Outcome:
        """Ask the backend, or give the outcome that was paid for before.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        self.halt.check()
        if asyncio.get_running_loop() is self.loop:
            return await self._ask(request)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(request), self.loop))

    async def _ask(self, request: ChatRequest) -> Outcome:
        async def make() -> tuple[Any, float | None]:
            outcome = await self.backend.model.ask(request)
            return _kept(outcome), cost_of(outcome)

        digest = hashlib.sha256(request.encoded(self.name)).hexdigest()
        key = f"asked {self.name} {request.sample} {digest}"
        try:
            return _outcome(await self.spending.once(key, self.backend.most_cost(request), make))
        except TurnStopped as stop:
            self.halt.why = self.halt.why or stop
            raise


class PaidAsker:
    """Sends requests to a backend from a thread beside the turn's event loop.

    Args:
        model: backend to ask.
        at_once: requests under way at once.
    """

    def __init__(self, model: PaidModel, *, at_once: int = 8) -> None:
        self.model, self.at_once = model, at_once

    def __call__(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        """One outcome a request, in order.

        Raises:
            TurnStopped: the budget or the time is spent.
        """
        asked = all_of(
            [lambda one=one: self.model.ask(one) for one in requests],  # type: ignore[misc]
            at_once=self.at_once,
        )
        return asyncio.run_coroutine_threadsafe(asked, self.model.loop).result()


def _kept(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failure):
        return {"failure": outcome.kind, "text": outcome.message}
    return {"refused": isinstance(outcome, Refusal), "text": outcome.text, "cost": outcome.cost}


def _outcome(kept: dict[str, Any]) -> Outcome:
    if "failure" in kept:
        return Failure(kept["failure"], kept["text"])
    made = Refusal if kept["refused"] else Answer
    return made(kept["text"], cost=kept["cost"])
