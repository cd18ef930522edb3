"""Parts of a limit that several processes share, such as the money that a caller may spend in a day.

Each process holds a part, uses it without asking anybody, and asks the control state only for more. The parts and what
was spent of them never exceed the limit together. A process that does not come back loses its part when its lease is
over; what it spent after its last report is not known then, so that the limit can be passed by that part, once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field

from noria.core.config import Config
from noria.core.storage.control import SQLControl, StaleVersion

KIND = "share"
LEASE = 15.0
"""Seconds after which the part of a process that does not report is free for others."""
_TRIES = 20
_KEPT_EVERY = 64  # versions of a document between two removals of the older ones


class Claim(Config):
    """A claim of one process on a limit."""

    limit: float = Field(ge=0, description="Limit that all processes share.")
    want: float = Field(ge=0, description="Part of the limit that the process wants to hold from now on.")
    spent: float = Field(0.0, ge=0, description="Part of the limit that the process has spent for good.")
    period: str = Field(
        "", description="Period of the limit, such as a day; what was before it is forgotten."
    )
    cooling: float = Field(
        0.0, ge=0, description="Seconds for which a part that was given back stays taken for others."
    )


class Part(NamedTuple):
    """The part of a limit that a process holds, and what it has spent beside it, also before a restart."""

    held: float
    spent: float


class Shares:
    """The parts of one process.

    Args:
        control: control state that the processes share.
        holder: name of the process, the same after each start.
    """

    def __init__(self, control: SQLControl, holder: str) -> None:
        self._control, self.holder = control, holder

    def claim(self, name: str, claim: Claim) -> Part:
        """Hold as much of what is wanted as is free, and report what was spent.

        A process lowers its own use before it claims less, and raises it after it was given more.

        Raises:
            RunError: the control state refuses.
        """
        for number in range(_TRIES):
            document = self._control.read(KIND, name)
            value = {} if document is None else document.value or {}
            version = 0 if document is None else document.version
            new, part = claimed(value, self.holder, self._control.now(), claim)
            if new == value:
                return part
            try:
                self._control.write(KIND, name, new, based_on=version, by=self.holder)
            except StaleVersion:
                if number == _TRIES - 1:
                    raise
                time.sleep(random.uniform(0.0, 0.002 * (number + 1)))
                continue
            if version % _KEPT_EVERY == 0:
                self._control.thin(KIND, name, keep=1)
            return part
        raise AssertionError  # the last try returns or raises


def claimed(value: Mapping[str, Any], holder: str, now: float, claim: Claim) -> tuple[dict[str, Any], Part]:
    """The document after a claim, and the part that its process holds.

    A pure function. The document has the `period`, and for each process, in `holders`, what it has `spent`, what it
    holds (`held`) and `until` when, and parts that stay taken for a while (`cooling`: `[[part, until], …]`).

    Args:
        value: the document before.
        holder: name of the process.
        now: second since 1970, by the clock of the document's store.
        claim: what the process wants.
    """
    if value.get("period", "") > claim.period:  # the others are in the next period already
        return dict(value), Part(0.0, claim.spent)
    holders = dict(value["holders"]) if value.get("period") == claim.period else {}
    own = holders.pop(holder, {"held": 0.0, "spent": 0.0, "until": 0.0, "cooling": []})
    cooling = _cooling(own, now, claim.cooling)
    spent = max(claim.spent, own["spent"])
    free = claim.limit - spent - sum(_taken(one, now, claim.cooling) for one in holders.values())
    held = max(0.0, min(claim.want, free))
    before = own["held"] if own["until"] > now else 0.0
    if claim.cooling and held < before:
        cooling = [*cooling, [before - held, now + claim.cooling]]
    else:  # what this process gave back before is its own to take again
        cooling = _reduced(cooling, held - before)
    entry = {"held": held, "spent": spent, "until": now + LEASE, "cooling": cooling}
    unchanged = held == before and spent == own["spent"]
    if unchanged and (own["until"] > now + LEASE / 2 or not (held or spent or cooling)):
        return dict(value), Part(held, spent)
    holders[holder] = entry
    kept = {
        name: one for name, one in holders.items() if name == holder or _taken(one, now, claim.cooling) > 0
    }
    return {"period": claim.period, "holders": kept}, Part(held, spent)


def _taken(one: Mapping[str, Any], now: float, seconds: float) -> float:
    """The part of a limit that is not free because of a process."""
    held = one["held"] if one["until"] > now else 0.0
    return float(one["spent"] + held + sum(part for part, _ in _cooling(one, now, seconds)))


def _cooling(one: Mapping[str, Any], now: float, seconds: float) -> list[list[float]]:
    """Parts that a process gave back, or lost with its lease, and that stay taken for a while."""
    parts = [[part, until] for part, until in one["cooling"] if until > now]
    if one["held"] and one["until"] <= now < one["until"] + seconds:
        parts.append([one["held"], one["until"] + seconds])
    return parts


def _reduced(parts: list[list[float]], amount: float) -> list[list[float]]:
    """Parts without an amount, taken from those that would stay longest."""
    left = []
    for part, until in sorted(parts, key=lambda one: -one[1]):
        used = min(part, amount)
        amount -= used
        if part > used:
            left.append([part - used, until])
    return sorted(left, key=lambda one: one[1])
