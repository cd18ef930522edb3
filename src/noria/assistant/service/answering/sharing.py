"""Limits of callers that gateways share through the control state: each gateway holds a part, and claims more.

A request is checked against the part that this gateway holds, without asking anybody. Where that is used up a larger
part is claimed, and what is not needed is given back at the next beat.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from noria.assistant.service.answering.money import Allowance
from noria.core.chat.budget import Budget
from noria.core.errors import RunError
from noria.core.service.callers import Caller
from noria.core.storage.shares import Claim, Part, Shares

BEAT = 2.0
"""Seconds between two reports of what was spent, at which parts that are not needed are given back."""
MONEY_CHUNK = 0.02
"""Part of a day's budget that is held beside what is reserved for requests under way."""
RATE_CHUNK = 0.1
"""Part of a rate that is held beside the requests of the last minute."""
_MINUTE = 60.0
_PAUSE = 0.5  # seconds after a claim that gave nothing in which none is made: a caller above its limit costs little
log = logging.getLogger("noria.serving")


class _Claims:
    """The claims on one limit, one at a time.

    Attributes:
        error: why the last one could not be made; None where it was.
    """

    def __init__(self, shares: Shares, name: str, limit: float, cooling: float = 0.0) -> None:
        self._shares, self._name, self._limit, self._cooling = shares, name, limit, cooling
        self.one_at_a_time = asyncio.Lock()
        self.error: RunError | None = None
        self._again = 0.0

    @property
    def pausing(self) -> bool:
        """Whether a claim gave nothing just now."""
        return asyncio.get_running_loop().time() < self._again

    def pause(self) -> None:
        """Make no claim for a while."""
        self._again = asyncio.get_running_loop().time() + _PAUSE

    def make(self, want: float, spent: float = 0.0, period: str = "") -> Part:
        """Make a claim, and wait for the control state.

        Raises:
            RunError: the control state refuses.
        """
        claim = Claim(limit=self._limit, want=want, spent=spent, period=period, cooling=self._cooling)
        return self._shares.claim(self._name, claim)

    async def try_to_make(self, want: float, spent: float = 0.0, period: str = "") -> Part | None:
        """Make a claim; None where the control state refuses."""
        try:
            part = await asyncio.to_thread(self.make, want, spent, period)
        except RunError as error:
            if self.error is None:
                log.warning("%s: this gateway keeps to the part that it holds: %s", self._name, error)
            self.error = error
            return None
        self.error = None
        return part


class SharedAllowance(Allowance):
    """The money of a caller in a day, shared: the limit of `budget` is what was spent here and the part held beside it.

    Args:
        shares: parts of this gateway.
        caller: name of the caller.
        limit: most money in a day, of all gateways together.
        spent: what was spent here today before.
        today: gives the day.

    Raises:
        RunError: the control state refuses.
    """

    def __init__(
        self, shares: Shares, caller: str, limit: float, spent: float = 0.0, *, today: Any = None
    ) -> None:
        super().__init__(limit, spent, today=today)
        self._claims = _Claims(shares, f"money/{caller}", limit)
        part = self._claims.make(0.0, spent, str(self._day))
        self.budget = Budget(part.spent, spent=part.spent)
        self._reported = part.spent

    def _fresh(self) -> Budget:
        self._reported = 0.0
        return Budget(0.0)

    @property
    def error(self) -> RunError | None:
        """Why no more can be claimed now; None where it can."""
        return self._claims.error

    async def more(self, amount: float) -> bool:
        """Do what :meth:`Allowance.more` says."""
        async with self._claims.one_at_a_time:
            budget = self.present()
            while not budget.allows(amount):  # also where more was spent while the control state was asked
                needed = budget.aside + amount
                want = max(needed, budget.aside + MONEY_CHUNK * self._limit)
                if self._claims.pausing or await self._hold(budget, want) < needed - 1e-12:
                    self._claims.pause()
                    return False
            return True

    async def beat(self, *, end: bool = False) -> None:
        """Report what was spent, and give back what is not needed.

        Args:
            end: whether nothing will be spent any more.
        """
        async with self._claims.one_at_a_time:
            budget = self.present()
            used = not end and (budget.aside > 0 or budget.spent > self._reported)
            want = budget.aside + (MONEY_CHUNK * self._limit if used else 0.0)
            held = max(0.0, budget.limit - budget.spent)
            if held or used or budget.spent > self._reported:
                await self._hold(budget, min(want, held))

    async def _hold(self, budget: Budget, want: float) -> float:
        """Claim a part, and return it; 0 where the control state refuses."""
        spent = budget.spent
        budget.limit = min(budget.limit, spent + want)  # before anybody else may have it
        part = await self._claims.try_to_make(want, spent, str(self._day))
        if part is None:
            return 0.0
        budget.limit = spent + part.held
        self._reported = spent
        return part.held


class SharedRate:
    """The rate of a caller, shared: its requests of any minute here stay within the part that is held.

    Args:
        shares: parts of this gateway.
        caller: a caller with a rate.
    """

    def __init__(self, shares: Shares, caller: Caller) -> None:
        self.caller, self._limit = caller, caller.requests_per_minute or 0
        self._chunk = max(1, int(RATE_CHUNK * self._limit))
        self._claims = _Claims(shares, f"rate/{caller.name}", self._limit, _MINUTE)
        caller.share, caller.more = 0, self.more

    @property
    def _share(self) -> int:
        return self.caller.share or 0

    async def more(self) -> bool:
        """Claim a larger part; True where there is one."""
        before = self._share
        async with self._claims.one_at_a_time:
            if self._share <= before < self._limit and not self._claims.pausing:
                await self._hold(min(self._limit, before + self._chunk))
                if self._share <= before:
                    self._claims.pause()
            return self._share > before

    async def beat(self, *, end: bool = False) -> None:
        """Give back what the last minute did not need.

        Args:
            end: whether no request will come any more.
        """
        async with self._claims.one_at_a_time:
            recent = self.caller.recent
            if self._share:
                await self._hold(0 if end else min(self._share, recent + self._chunk if recent else 0))

    async def _hold(self, want: int) -> None:
        self.caller.share = min(self._share, want)
        part = await self._claims.try_to_make(want)
        if part is not None:
            self.caller.share = int(part.held + 1e-9)


class Sharing:
    """The limits that this gateway shares with others; none where it is alone.

    Args:
        shares: parts of this gateway; None where it is alone.
        callers: callers, of whom some may have a rate.
    """

    def __init__(self, shares: Shares | None = None, callers: Iterable[Caller] = ()) -> None:
        self._shares = shares
        limited = [one for one in callers if one.requests_per_minute is not None]
        self._limits: list[SharedAllowance | SharedRate] = (
            [] if shares is None else [SharedRate(shares, one) for one in limited]
        )

    def allowance(self, caller: str, limit: float, spent: float) -> Allowance:
        """The money of a caller.

        Args:
            caller: name of the caller.
            limit: most money in a day.
            spent: what was spent here today before.

        Raises:
            RunError: the control state refuses.
        """
        if self._shares is None:
            return Allowance(limit, spent)
        shared = SharedAllowance(self._shares, caller, limit, spent)
        self._limits.append(shared)
        return shared

    async def run(self) -> None:
        """Report, and give back what is not needed, until cancelled; then give back all of it."""
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(BEAT)
                for one in self._limits:
                    await one.beat()
        for one in self._limits:
            await one.beat(end=True)
