"""Learning from the log: lists joined with their impressions and outcomes, each exposure counted once.

A list is open from its decision on. Impressions mark its items as shown, outcomes are kept with it; the first of each
counts, whatever order they come in. A list that somebody has seen closes `maturity` seconds after the first
impression, and its exposures go into the tallies and the books, with the outcomes that are known by then; one that
nobody has seen is forgotten after `show_within`. What comes for a list that is closed is late, what comes for none is
unknown; both are counted and change nothing. All of this follows from the events alone, in their order, so that
reading them again after a restart gives the same.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.cells import DAY, Books
from noria.blending.alignment.tallies import Tallies
from noria.blending.logs.gathering import GatherConfig, partial
from noria.blending.service.config import NearlineConfig
from noria.blending.service.journal.events import Decision, Event, Impression, Outcome, Sample
from noria.blending.service.journal.journal import Position
from noria.blending.service.loop.sums import ShownSums, Sums

SAMPLES = 1_000
"""Sampled requests kept with their outcomes."""


@dataclass
class _List:
    """A decision and what is known of it; places by item."""

    decision: Decision
    place: Position
    places: dict[str, int]
    shown: dict[int, float] = field(default_factory=dict)  # place: when
    first: float | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ClosedRequest:
    """A sampled request whose outcomes are in: its candidates as an Arrow stream, and the outcome of what was shown."""

    decision: Decision
    candidates: bytes
    outcomes: Mapping[str, tuple[float, float]]  # item: effective completion, gain; NaN where not known


class Learner:
    """The state that the log leads to.

    Args:
        config: settings of the loop.

    Attributes:
        tallies, books: sums of closed exposures.
        counts: numbers of events and of what became of them.
        today: day since 1970; exposures and values since its midnight by (version, control, mask).
        window: counts since `take_window` was called.
        closed: sampled requests with outcomes, the newest last.
    """

    def __init__(self, config: NearlineConfig) -> None:
        self.config = config
        self.tick = config.fit.tick
        # A list closes when its outcomes are in: none is too young here, and none too late.
        self._gathering = GatherConfig(
            anchor=config.anchor, tick=config.fit.tick, absent=config.absent, maturity=0.0
        )
        self.tallies = Tallies()
        self.books = Books()
        self.counts: Counter[str] = Counter()
        self.day = 0
        self.today: Sums = {}
        self.window: Sums = {}
        self.hours: dict[int, int] = {}
        self.closed: deque[ClosedRequest] = deque(maxlen=SAMPLES)
        self.now = 0.0
        self._lists: dict[str, _List] = {}
        self._seen: deque[tuple[float, str]] = deque()  # (first impression, request), in order
        self._done: dict[int, None] = {}
        self._samples: dict[str, Sample] = {}
        self._counting = True

    # -- taking in ----------------------------------------------------------------------------------------------------

    def feed(self, events: Iterable[Event], place: Position) -> None:
        """Take in the events of one frame, which begins at a place of the log."""
        for event in events:
            self.close(event.at)
            if isinstance(event, Decision):
                self._decide(event, place)
            elif isinstance(event, Impression):
                self._show(event)
            elif isinstance(event, Outcome):
                self._come(event)
            else:
                self._keep(event)

    def again(self, frames: Iterable[tuple[list[Event], Position]], until: float) -> None:
        """Read once more what was counted before, for the lists that were open then.

        Args:
            frames: from `oldest` of that time on, up to where it was.
            until: the time up to which lists had been closed.
        """
        self._counting = False
        try:
            for events, place in frames:
                self.feed(events, place)
            self.close(until)
        finally:
            self._counting = True

    @property
    def oldest(self) -> Position | None:
        """Where the decision of the oldest open list begins; None if none is open."""
        return next((one.place for one in self._lists.values()), None)

    @property
    def open(self) -> int:
        """Number of open lists."""
        return len(self._lists)

    def take_window(self) -> Sums:
        """Exposures since this was called last."""
        result, self.window = self.window, {}
        return result

    def count(self, what: str, number: int = 1) -> None:
        """Something happened; what is read again is not counted again."""
        if self._counting and number:
            self.counts[what] += number

    def _decide(self, event: Decision, place: Position) -> None:
        self.count("decisions")
        known = self._lists.get(event.request)
        if known is not None:
            if known.shown:
                self.count("requests decided again after they were shown")
                return
            self.count("requests decided again before they were shown")
            del self._lists[event.request]
        places: dict[str, int] = {}
        for number, item in enumerate(event.items):
            places.setdefault(item, number)
        result = self._lists[event.request] = _List(event, place, places)
        if event.shown:
            self._mark(result, range(event.shown), event.at)
        while len(self._lists) > self.config.most_open:
            self._forget(next(iter(self._lists)), "lists forgotten: too many are open")

    def _show(self, event: Impression) -> None:
        result = self._lists.get(event.request)
        if result is None:
            self._strange("impressions", event.request, len(event.items))
            return
        places = []
        for item in event.items:
            place = result.places.get(item)
            if place is None:
                self.count("impressions of items not in the list")
            elif place in result.shown or place in places:
                self.count("impressions twice")
            else:
                places.append(place)
        self._mark(result, places, event.at)

    def _mark(self, result: _List, places: Iterable[int], at: float) -> None:
        fresh = list(places)
        if not fresh:
            return
        result.shown.update(dict.fromkeys(fresh, at))
        if result.first is None:
            result.first = at
            self._seen.append((at, result.decision.request))
        self.count("exposures", len(fresh))
        if not self._counting:
            return
        day = int(at // DAY)
        if day != self.day:
            self.day, self.today = day, {}
        hour = int(at // 3600)
        self.hours[hour] = self.hours.get(hour, 0) + len(fresh)
        decision = result.decision
        masks, values = decision.masks[fresh].tolist(), decision.column("value")[fresh].tolist()
        for mask, value in zip(masks, values, strict=True):
            key = (decision.version, decision.control, mask)
            for sums in (self.today, self.window):
                old = sums.get(key)
                sums[key] = (
                    ShownSums(1, value) if old is None else ShownSums(old.exposures + 1, old.value + value)
                )

    def _keep(self, event: Sample) -> None:
        result = self._lists.get(event.request)
        if (
            result is not None and result.decision.at == event.at
        ):  # else it is of a decision that did not count
            self._samples[event.request] = event
            self.count("samples")

    def _come(self, event: Outcome) -> None:
        result = self._lists.get(event.request)
        if result is None:
            self._strange("outcomes", event.request, 1)
            return
        place = result.places.get(event.item)
        if place is None:
            self.count("outcomes of items not in the list")
        elif place in result.outcomes:
            self.count("outcomes twice")
        else:
            result.outcomes[place] = event
            self.count("outcomes")

    def _strange(self, what: str, request: str, number: int) -> None:
        late = hash(request) in self._done
        self.count(f"{what} too late" if late else f"{what} of unknown requests", number)

    # -- closing ------------------------------------------------------------------------------------------------------

    def close(self, now: float) -> None:
        """Close what is due at a time, and forget what nobody has seen."""
        self.now = max(self.now, now)
        due = []
        while self._seen and self._seen[0][0] + self.config.fit.maturity <= self.now:
            first, request = self._seen.popleft()
            result = self._lists.get(request)
            if result is not None and result.first == first:  # else it was forgotten, and its id used again
                del self._lists[request]
                due.append(result)
                self._finished(request)
        if due and self._counting:
            self._book(due)
        while self._lists:
            request, oldest = next(iter(self._lists.items()))
            if oldest.shown or oldest.decision.at + self.config.show_within > self.now:
                break  # a list that was seen stands before younger ones until it closes
            self._forget(request, "lists forgotten: nobody saw them")

    def _forget(self, request: str, why: str) -> None:
        del self._lists[request]
        self._finished(request)
        self._samples.pop(request, None)
        self.count(why)

    def _finished(self, request: str) -> None:
        self._done[hash(request)] = None
        if len(self._done) > self.config.most_open:
            del self._done[next(iter(self._done))]

    def _book(self, due: list[_List]) -> None:
        """Exposures of closed lists into the tallies and the books, by the same rules as those of an exported log."""
        columns = _joined(due)
        outcome, reasons = self.config.anchor.outcome(columns["watch"], columns["duration"])
        gathered = partial(columns, self._gathering, now=math.inf)
        for cell, histogram in gathered.tallies.cells.items():
            self.tallies.put(cell, histogram)
        for key, sums in gathered.books.cells.items():
            self.books.put(key, sums)
        dropped = self.tallies.dropped
        for reason, number in gathered.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + number
        self.count("exposures without outcome", reasons.pop("watch missing", 0))
        for reason, number in reasons.items():
            self.count(f"outcomes not valid: {reason}", number)
        self.count("exposures closed", len(outcome))
        if self.config.absent == "zero":
            outcome[np.isnan(columns["watch"])] = 0.0
        self._sample(due, outcome, columns["gain"])

    def _sample(self, due: list[_List], outcome: NDArray[np.float64], gain: NDArray[np.float64]) -> None:
        """Keep the sampled lists outside the control bucket; outcomes are of all due lists, in order."""
        figures = zip(outcome.tolist(), gain.tolist(), strict=True)
        for one in due:
            decision = one.decision
            outcomes = {decision.items[place]: next(figures) for place in one.shown}
            sample = self._samples.pop(decision.request, None)
            if sample is not None and not decision.control:
                self.closed.append(ClosedRequest(decision, sample.candidates, outcomes))

    # -- forgetting ---------------------------------------------------------------------------------------------------

    def drop_old(self, *, keep: float, days: int) -> None:
        """Let tallies older than `keep` seconds go, and books older than some days."""
        tick = int((self.now - keep) // self.tick)
        for cell in [cell for cell in self.tallies.cells if cell.tick < tick]:
            del self.tallies.cells[cell]
        day = int(self.now // DAY) - days
        for key in [key for key in self.books.cells if key.day < day]:
            del self.books.cells[key]
        hour = int(self.now // 3600) - 24 * 15
        for old in [one for one in self.hours if one < hour]:
            del self.hours[old]


def _joined(due: list[_List]) -> dict[str, Any]:
    """Exposures of lists with their outcomes, as columns of `gathering.JOINED`."""
    rows = [(one, place) for one in due for place in one.shown]
    columns: dict[str, Any] = {
        name: np.concatenate([one.decision.column(name)[list(one.shown)] for one in due])
        for name in ("score", "value", "total", "guard")
    }
    columns["mask"] = np.concatenate([one.decision.masks[list(one.shown)] for one in due]).view(np.int64)
    for name, kind in (("source", "source"), ("version", "model")):
        by_place = [one.decision.names(kind) for one in due]
        columns[name] = [
            names[place] for one, names in zip(due, by_place, strict=True) for place in one.shown
        ]
    for name in ("request", "scene", "snapshot", "control"):
        columns[name] = [getattr(one.decision, name) for one, _ in rows]
    columns["time"] = np.array([one.shown[place] for one, place in rows])
    for name in ("watch", "duration", "gain"):
        values = (getattr(one.outcomes.get(place), name, None) for one, place in rows)
        columns[name] = np.array([math.nan if value is None else value for value in values])
    # An outcome that says nothing of the watch is none.
    columns["outcome_time"] = np.where(np.isnan(columns["watch"]), math.nan, columns["time"])
    return columns | dict.fromkeys(("account", "copy", "user_rows"), np.ones(len(rows)))
