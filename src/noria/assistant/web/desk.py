"""The desk: messages that are being answered, and those that wait for a place, each with its number in the queue.

An answer belongs to no connection: a page that is loaded again, or whose network broke, finds it where it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "working", "done", "failed", "stopped"]
KEPT_SECONDS = 300.0
"""Seconds for which an ended message is remembered."""
log = logging.getLogger("noria.serving")


@dataclass(eq=False)
class Pending:
    """A message on its way to an answer.

    Attributes:
        id: name of the form that sent it.
        user: key of the user.
        conversation: name of the conversation.
        text: what was said.
        picture: content of the picture that goes with it, if any.
        fresh: whether the picture was sent with this message.
        address: address that it came from, which may be a proxy's.
        state: where it stands.
        words: text of the answer so far, one for each answer that is asked for.
        steps: tools that were called so far: name, arguments as the model wrote them, how it ended, and the share of it
            that is done, in percent.
        fault: code of why there is no answer.
        version: number that grows with every change.
        watchers: number of streams that tell how far it is.
    """

    id: str
    user: str
    conversation: str
    text: str
    picture: bytes | None = None
    fresh: bool = False
    address: str = ""
    state: State = "waiting"
    words: list[str] = field(default_factory=lambda: [""])
    steps: list[list[str]] = field(default_factory=list)
    fault: str = ""
    version: int = 0
    watchers: int = 0
    ended: float = 0.0
    task: asyncio.Task[None] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        """Whether an answer may still come."""
        return self.state in ("waiting", "working")

    def hear(self, what: str, fields: Mapping[str, Any], answer: int = 0) -> None:
        """Take in what happens on the way: a piece of the text, calls of tools, the end of one."""
        if what == "text":
            self.words[answer] += fields["text"]
        elif answer == 0 and what == "calls":
            self.words[0] = ""  # the model speaks anew once it knows what the tools gave
            self.steps += [[name, arguments, "", ""] for name, arguments in fields["calls"]]
        elif answer == 0 and what in ("working", "called"):
            step = next((one for one in self.steps if one[0] == fields["name"] and not one[2]), None)
            if step is not None and what == "working":
                step[3] = f"{fields['share']:.0%}".removesuffix("%")
            elif step is not None:
                step[2] = "failed" if fields["error"] else "done"
        self.touch()

    def touch(self) -> None:
        """Tell all who watch that something has changed."""
        self.version += 1
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def changed(self, since: int, seconds: float) -> bool:
        """Wait until there is something newer than a version; False where there is not in time."""
        if self.version == since:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        return self.version != since


class QueueFull(Exception):
    """No more messages may wait."""


Work = Callable[[Pending], Awaitable[None]]


class Desk:
    """Messages by name; so many at once, the others in order.

    Args:
        at_once: most messages that are answered at once.
        places: most messages that wait.
    """

    def __init__(self, at_once: int, places: int) -> None:
        self.at_once, self.places = at_once, places
        self._known: dict[str, Pending] = {}
        self._waiting: deque[tuple[Pending, Work]] = deque()
        self._working: set[Pending] = set()

    def submit(self, pending: Pending, work: Work) -> None:
        """Answer a message as soon as there is a place.

        Raises:
            QueueFull: too many wait.
        """
        self._forget()
        if len(self._working) >= self.at_once and self._is_full(pending.address):
            raise QueueFull
        self._known[pending.id] = pending
        self._waiting.append((pending, work))
        self._start()

    def _is_full(self, address: str) -> bool:
        """Whether an address has no more places: one has three quarters of them, so that others find one."""
        mine = sum(one.address == address for one, _ in self._waiting)
        return len(self._waiting) >= self.places or mine >= math.ceil(0.75 * self.places)

    def _next(self) -> tuple[Pending, Work]:
        """The first message that waits, of an address of which the fewest are being answered."""
        busy = Counter(one.address for one in self._working)
        place = min(range(len(self._waiting)), key=lambda n: busy[self._waiting[n][0].address])
        chosen = self._waiting[place]
        del self._waiting[place]
        return chosen

    def find(self, name: str, user: str) -> Pending | None:
        """A user's message by its name."""
        pending = self._known.get(name)
        return pending if pending is not None and pending.user == user else None

    def open_of(self, user: str) -> Pending | None:
        """The message of a user that has no answer yet."""
        return next((one for one in self._known.values() if one.user == user and one.is_open), None)

    def ended_of(self, user: str, conversation: str) -> Pending | None:
        """The last message of a conversation that ended without a trace, to be shown and tried again."""
        ended = [
            one for one in self._known.values()
            if (one.user, one.conversation, one.state) == (user, conversation, "failed")
        ]  # fmt: skip
        return max(ended, key=lambda one: one.ended, default=None)

    def place(self, pending: Pending) -> int:
        """Number in the queue from 1; 0 where it does not wait."""
        return next((n for n, (one, _) in enumerate(self._waiting, 1) if one is pending), 0)

    def stop(self, pending: Pending) -> None:
        """Stop the answer to a message."""
        if not pending.is_open:
            return
        if pending.task is not None:
            pending.task.cancel()
        else:
            self._waiting = deque(one for one in self._waiting if one[0] is not pending)
            self._end(pending, "stopped")
            self._start()

    async def forget_user(self, user: str) -> None:
        """Stop all of a user, and forget it."""
        mine = [one for one in self._known.values() if one.user == user]
        for one in mine:
            self.stop(one)
        await asyncio.gather(*(one.task for one in mine if one.task is not None), return_exceptions=True)
        for one in mine:
            self._known.pop(one.id, None)

    async def close(self, seconds: float = 15.0) -> None:
        """Give what is under way some time to end, then stop it."""
        for pending, _ in self._waiting:
            self._end(pending, "stopped")
        self._waiting.clear()
        tasks = [one.task for one in self._working if one.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        while self._waiting and len(self._working) < self.at_once:
            pending, work = self._next()
            self._working.add(pending)
            pending.state = "working"
            pending.touch()
            pending.task = asyncio.create_task(self._run(pending, work))
        for pending, _ in self._waiting:
            pending.touch()  # it has moved up

    async def _run(self, pending: Pending, work: Work) -> None:
        state: State = "failed"
        try:
            await work(pending)
            state = "failed" if pending.fault else "done"
        except asyncio.CancelledError:
            state = "stopped"
        except Exception:
            log.exception("a message was not answered")
            pending.fault = pending.fault or "other"
        finally:
            self._working.discard(pending)
            self._end(pending, state)
            self._start()

    def _end(self, pending: Pending, state: State) -> None:
        pending.state, pending.ended = state, time.monotonic()
        if state == "done":
            pending.picture = None
        for one in self._known.values():
            if one is not pending and one.conversation == pending.conversation and not one.is_open:
                one.picture = None  # only the last one can be tried again
        pending.touch()

    def _forget(self) -> None:
        old = time.monotonic() - KEPT_SECONDS
        for name in [n for n, one in self._known.items() if not one.is_open and one.ended < old]:
            del self._known[name]
