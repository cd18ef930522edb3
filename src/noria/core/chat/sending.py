"""Rules by which requests go to one server: places under way, a rate, a budget, attempts and the waits between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from noria.core.chat.budget import Budget
from noria.core.chat.faults import BusyError, Fault
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal
from noria.core.chat.settings import ChatServer, redacted
from noria.core.errors import ConfigError, needing

logger = logging.getLogger("noria.chat")


class Sender:
    """Base of every client of a server.

    Attempts that fail for a reason that may pass are repeated with exponential backoff and full jitter, or when the
    server says so (Retry-After). The log (`noria.chat`) has models, kinds of failures and times, but no text of
    requests or answers and no key.

    Args:
        server: settings of the server.
        budget: limit on costs, if any; it needs prices.

    Raises:
        ConfigError: the key's variable is not set, or a budget without prices.
    """

    def __init__(self, server: ChatServer, *, budget: Budget | None = None) -> None:
        if budget is not None and not server.prices.known:
            raise ConfigError(
                f"a budget needs the prices of {server.model}",
                where="prices",
                mend="give input and output prices per million tokens, 0 where it is free",
            )
        self.server, self.budget = server, budget
        self._key = server.key()
        self._slots = asyncio.Semaphore(server.in_flight)
        self._logged: set[str] = set()  # kinds of failures that were logged as a warning
        with needing("openai"):
            from aiolimiter import AsyncLimiter
        rate = server.requests_per_minute
        self._rate = None if rate is None else AsyncLimiter(max(1.0, rate / 60), max(1.0, 60 / rate))

    def reserve(self, body: Mapping[str, Any]) -> float | Failure:
        """Reserve the estimated cost of a request's body in the budget; a `Failure` where that is impossible."""
        if self.budget is None:
            return 0.0
        reserved = self.budget.reserve(self.server.prices, body)
        if reserved is None:
            message = (
                f"{self.budget.spent:.4g} of {self.budget.limit:.4g} is spent, and the rest is too little"
            )
            return Failure("budget", message, attempts=0)
        return reserved

    def settle(self, reserved: float, outcome: Outcome | None) -> None:
        """Replace what was reserved by the cost of the outcome; it is kept where that is not known."""
        if self.budget is None:
            return
        # After these four the server may have written an answer, and charged it.
        if isinstance(outcome, Failure) and outcome.kind not in ("timeout", "cut", "too_large", "garbage"):
            self.budget.settle(reserved, 0.0)
        else:
            self.budget.settle(reserved, outcome.cost if isinstance(outcome, Answer | Refusal) else None)

    @contextlib.asynccontextmanager
    async def place(self, within: float | None) -> AsyncGenerator[None]:
        """Hold one of the places of requests under way.

        Raises:
            BusyError: none was free in time.
        """
        if self._slots.locked():
            try:
                async with asyncio.timeout(within):
                    await self._slots.acquire()
            except TimeoutError:
                raise BusyError(f"{self.server.in_flight} requests are under way") from None
        else:
            await self._slots.acquire()  # does not wait
        try:
            yield
        finally:
            self._slots.release()

    async def turn(self, within: float | None) -> None:
        """Wait until the rate allows another request.

        Raises:
            BusyError: it does not in time.
        """
        if self._rate is None:
            return
        try:
            async with asyncio.timeout(within):
                await self._rate.acquire()
        except TimeoutError:
            raise BusyError(f"{self.server.requests_per_minute:g} requests a minute are allowed") from None

    def wait(self, fault: Fault, attempt: int) -> float | None:
        """Seconds to wait before another attempt; None where the request is given up."""
        if not fault.passing or attempt >= self.server.attempts:
            return None
        if not self.server.longest_wait and fault.kind in ("rate_limit", "connection"):
            return None  # without a wait, the next attempt would fail alike
        if fault.wait is not None:
            return None if fault.wait > self.server.longest_wait else fault.wait
        longest = min(self.server.longest_wait, self.server.backoff * 2 ** (attempt - 1))
        return random.uniform(0, longest)

    def failed(self, fault: Fault, attempts: int, seconds: float, partial: str = "") -> Failure | Refusal:
        """Log a fault after which there is no other attempt, and make an outcome of it."""
        message = redacted(fault.message, self._key)
        if fault.filtered:
            logger.info("%s: %s", self.server.model, message)
            return Refusal("a content filter declined the request", seconds=seconds, attempts=attempts)
        # One warning for each kind: thousands of requests may fail alike, and each outcome has its own message.
        level = logging.INFO if fault.kind in self._logged else logging.WARNING
        self._logged.add(fault.kind)
        status = fault.status or "no status"
        logger.log(level, "%s: %s (%s), attempt %d", self.server.model, fault.kind, status, attempts)
        return Failure(fault.kind, message, fault.status, seconds, attempts, partial, fault.wait)
