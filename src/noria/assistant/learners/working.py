"""Long work of a learner on a thread: it ends where the turn may not go on, at its next step that reports progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from noria.core.learning.spending import Spending, TurnStopped
from noria.core.progress import Progress, Task

T = TypeVar("T")
LOOK = 0.5
"""Seconds between two looks at the budget of the turn."""


class Halt:
    """Why work has to end; what finds out sets it, and the work reads it at each of its steps.

    Attributes:
        why: the reason; None while the work may go on.
    """

    def __init__(self) -> None:
        self.why: TurnStopped | None = None

    def check(self) -> None:
        """End the work where it has to.

        Raises:
            TurnStopped: it has to end.
        """
        if self.why is not None:
            raise self.why


class HaltedProgress(Progress):
    """A silent progress whose tasks end the work that reports to them.

    Args:
        halt: why it has to end.
    """

    def __init__(self, halt: Halt) -> None:
        super().__init__(quiet=True)
        self.halt = halt

    def task(self, name: str, total: int | None = None, *, start: int = 0) -> Task:
        """Start a task whose steps look whether the work may go on."""
        return _HaltedTask(self, name, total, start)


class _HaltedTask(Task):
    def at(self, step: int, note: str | None = None) -> None:
        progress = self.progress
        assert isinstance(progress, HaltedProgress)
        progress.halt.check()
        super().at(step, note)


async def worked(spending: Spending, work: Callable[[Progress], T], halt: Halt | None = None) -> T:
    """The result of work on a thread, within the time of the turn.

    Args:
        spending: budget of the turn.
        work: does it, and reports its steps.
        halt: what else may end it, such as a judge whose money is spent.

    Raises:
        TurnStopped: the turn may not go on.
    """
    halt = halt or Halt()
    spending.check()
    task = asyncio.create_task(asyncio.to_thread(work, HaltedProgress(halt)))
    try:
        while not (await asyncio.wait([task], timeout=LOOK))[0]:
            try:
                spending.check()
            except TurnStopped as stop:
                halt.why = halt.why or stop
    except asyncio.CancelledError:
        halt.why = halt.why or TurnStopped("the turn was cancelled")
        raise
    failed = task.exception()
    halt.check()  # also where the work took the refusals of a spent budget for faults of a judge
    if failed is not None:
        raise failed
    return task.result()
