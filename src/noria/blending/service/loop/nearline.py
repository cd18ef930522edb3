"""The loop beside the service: reads its log, refreshes alignment and controllers, and proposes what to serve next.

```
<state>/nearline/learnt.msgpack     tallies, books and today's sums, with the place in the log up to which they count
                 controllers.json   what the controllers remember, after every tick
                 proposal.json      alignment and settings, for the service to publish
                 status.json        figures for people and for Prometheus
```

It is a process of its own, so that the service's requests do not wait for it. After a stop it reads the log from its
checkpoint on and resumes with the controllers as they were. When a tick fails nothing is proposed: what serves stays
as it is, and no controller winds up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from noria.blending.accounting.cells import DAY, accounts
from noria.blending.accounting.returns import PlanReturn
from noria.blending.service.config import NearlineConfig
from noria.blending.service.journal.events import Event, unpack
from noria.blending.service.journal.journal import Position, Scan, read_journal
from noria.blending.service.loop.aligning import calibration, proposed_alignment
from noria.blending.service.loop.checkpoint import Checkpoint
from noria.blending.service.loop.controllers import Controllers, Progress, day_share
from noria.blending.service.loop.learning import Learner
from noria.blending.service.loop.sampled import sampled_returns
from noria.blending.service.loop.sums import Prices, Totals, totals
from noria.blending.service.versions import KEPT, Versions
from noria.blending.snapshot import Setting, Snapshot
from noria.core.errors import DataError, NoriaError
from noria.core.files import lock, write_atomic
from noria.core.records import json_values

log = logging.getLogger("noria.serving")

SLACK = 5.0
"""Seconds that an event may take from the service's clock into the log."""
HISTORY = 500
"""Ticks of history kept for charts; older ones are thinned out."""


class Loop:
    """One reader of a service's log.

    Args:
        state: the service's folder.
        config: settings of the loop.
        clock: seconds since 1970.
    """

    def __init__(
        self, state: Path, config: NearlineConfig, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Take up what was learnt before.

        Raises:
            RunError: the log cannot be read.
        """
        self.state = state
        self.folder = state / "nearline"
        self.config = config
        self.clock = clock
        self.learner = Learner(config)
        self.versions = PricedVersions(state)
        self.position = Position(0, 0)
        self.scan = Scan()
        self.ticks = 0
        self.history: deque[dict[str, Any]] = deque()
        self.returns: list[PlanReturn] = []
        self._checkpointed = -math.inf
        self._last: float | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._restore()
        self.controllers = Controllers(self.folder / "controllers.json", config, self.learner.count)

    def tick(self) -> None:
        """Read what is new, learn from it, and propose.

        Raises:
            NoriaError: there is no snapshot, or the disk refuses.
        """
        now, learner = self.clock(), self.learner
        for events, place, end in self._frames(self.position):
            learner.feed(events, place)
            self.position = end
        learner.close(now - SLACK)
        learner.drop_old(keep=self.config.keep_days * DAY, days=self.config.keep_days)
        snapshot = self.versions.serving()
        ticks = 1.0 if self._last is None else max(0.1, min(10.0, (now - self._last) / self.config.tick))
        self._last = now
        self.ticks += 1
        alignment, held = proposed_alignment(learner.tallies, snapshot, self.config, now)
        learner.count("aligners held back", held)
        today = self._today(now, control=True)
        recent = totals(learner.take_window(), self.versions.prices)
        progress = Progress(recent, self._today(now), today, day_share(learner.hours, now), now, ticks)
        settings = self.controllers.settings(snapshot, alignment, progress)
        if self.config.returns and self.ticks % self.config.returns == 1 % self.config.returns:
            self.returns = sampled_returns(list(learner.closed), snapshot)
        proposal = {
            "based_on": snapshot.version,
            "at": now,
            "alignment": alignment.to_json(),
            "settings": {plan: vars(setting) for plan, setting in settings.items()},
        }
        status = self._status(snapshot, settings, today, now)
        if now - self._checkpointed >= self.config.checkpoint:
            self.checkpoint(now)
        write_atomic(self.folder / "proposal.json", json.dumps(proposal))
        write_atomic(self.folder / "status.json", json.dumps(status))

    def _frames(self, start: Position) -> Iterator[tuple[list[Event], Position, Position]]:
        """Events of each frame from a place on, with where it begins and ends."""
        place = start
        for frame in read_journal(self.state / "log", start, scan=self.scan):
            try:
                events = unpack(frame.payload)
            except DataError:
                self.learner.count("frames not understood")
                events = []
            yield events, place, frame.end
            place = frame.end

    def _today(self, now: float, *, control: bool = False) -> Totals:
        """Sums since midnight UTC."""
        learner = self.learner
        shown = learner.today if int(now // DAY) == learner.day else {}
        return totals(shown, self.versions.prices, control=control)

    # -- status -------------------------------------------------------------------------------------------------------

    def _status(
        self, snapshot: Snapshot, settings: Mapping[str, Setting], today: Totals, now: float
    ) -> dict[str, Any]:
        learner = self.learner
        booked, unknown = accounts(
            learner.books, self.versions.by_digest({key.snapshot for key in learner.books.cells})
        )
        closed = {account.plan: account for account in booked}
        returns = {one.plan: one for one in self.returns}
        kept = self.controllers.remembered()
        plans = {}
        for plan in snapshot.plans.plans:
            sums, account, returned = today.of(plan.id), closed.get(plan.id), returns.get(plan.id)
            plans[plan.id] = {
                "exposures": sums.exposures,
                "share": sums.exposures / today.exposures if today.exposures else None,
                "value": sums.value,
                "spend": sums.spend,
                "price": 1000 * sums.spend / sums.exposures if sums.exposures else None,
                "budget": plan.budget.spend_per_day if plan.budget else None,
                "resting": plan.id in settings and settings[plan.id].resting,
                "controller": kept.get(plan.id),
                "closed": None
                if account is None
                else {
                    name: getattr(account, name)
                    for name in ("exposures", "known", "outcomes", "surplus", "spend", "price")
                },
                "returns": None if returned is None else json_values(asdict(returned)),
            }
        self._remember(now, snapshot, plans)
        return {
            "at": now,
            "ticks": self.ticks,
            "tick": self.config.tick,
            "version": snapshot.version,
            "position": list(self.position),
            "oldest": list(learner.oldest or self.position),
            "open": learner.open,
            "counts": dict(learner.counts),
            "log": {"damaged": self.scan.damaged, "lost": self.scan.lost},
            "exposures": today.exposures,
            "value": today.value,
            "unpriced": today.lost + sum(unknown.values()),
            "sampled": len(learner.closed),
            "plans": plans,
            "sources": calibration(learner.tallies, snapshot.alignment),
            "history": list(self.history),
        }

    def _remember(self, now: float, snapshot: Snapshot, plans: Mapping[str, Mapping[str, Any]]) -> None:
        """Add a line of history; of the older half every other line goes when there are too many."""
        lines = {}
        for plan, figures in plans.items():
            weight, bias = snapshot.weight_and_bias(plan)
            lines[plan] = {
                "share": figures["share"],
                "spend": figures["spend"],
                "bias": bias,
                "weight": weight,
            }
        self.history.append({"at": now, "version": snapshot.version, "plans": lines})
        if len(self.history) > HISTORY:
            whole = list(self.history)
            half = len(whole) // 2
            self.history = deque(whole[:half:2] + whole[half:])

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoint(self, now: float) -> None:
        """Write down what was learnt, so that a start need not read the whole log.

        Raises:
            RunError: the disk refuses; the last checkpoint stays.
        """
        state = Checkpoint.of(self.learner, self.position, list(self.history), self.ticks)
        state.save(self.folder / "learnt.msgpack")
        self._checkpointed = now

    def _restore(self) -> None:
        """Take up what the checkpoint holds, and the lists that were open then. A damaged one is as good as none."""
        try:
            state = Checkpoint.load(self.folder / "learnt.msgpack")
            if state is None:
                return
            if state.learnt.tick != self.learner.tick:
                log.warning("the tick of the tallies was changed: they start again")
                return
            state.learnt.restore(self.learner)
        except DataError as error:
            log.warning("the checkpoint is %s: the whole log is read again", error.what)
            return
        self.history, self.ticks = deque(state.history), state.ticks
        frames = self._frames(state.oldest)
        counted = ((events, place) for events, place, end in frames if end <= state.position)
        self.learner.again(counted, state.learnt.now)
        self.position = state.position
        self.scan = Scan()


class PricedVersions(Versions):
    """Snapshots on the disk with the prices of their plans, each read once."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._prices: dict[int, Prices] = {}

    def serving(self) -> Snapshot:
        """The newest good snapshot.

        Raises:
            DataError: there is none.
        """
        snapshot, _ = self.newest()
        if snapshot is None:
            raise DataError("no snapshot", where=str(self.folder))
        return snapshot

    def prices(self, version: int) -> Prices | None:
        """Prices of a version; None if it is gone."""
        if version not in self._prices:
            try:
                snapshot = self.load(version)
            except DataError:
                return None
            if len(self._prices) > KEPT:
                self._prices.clear()
            self._prices[version] = {
                plan: (bit, *snapshot.weight_and_bias(plan)) for bit, plan in enumerate(snapshot.plans.ids)
            }
        return self._prices[version]

    def by_digest(self, digests: set[str]) -> dict[str, list[tuple[str, float, float]]]:
        """(plan, weight, bias) of the snapshots with these digests, as the books name them."""
        known: dict[str, list[tuple[str, float, float]]] = {}
        for version, move in self.moves().items():
            digest = (move.receipt or {})["snapshot"]
            if digest in digests and (plans := self.prices(version)) is not None:
                known[digest] = [(plan, weight, bias) for plan, (_, weight, bias) in plans.items()]
        return known


# -- the process ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run beside a service: its folder is the argument; the settings are the first line of stdin, which then stays
    open for as long as the service lives.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s nearline: %(message)s")
    state = Path(sys.argv[1])
    config = NearlineConfig.model_validate_json(sys.stdin.readline())
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    with lock(state / "nearline"):
        run(state, config, stop)


def run(state: Path, config: NearlineConfig, stop: threading.Event) -> None:
    """Tick until `stop` is set; after a tick that failed, start over from the checkpoint."""
    loop: Loop | None = None
    while not stop.is_set():
        began = time.monotonic()
        try:
            loop = loop or Loop(state, config)
            loop.tick()
        except Exception as error:
            loop = None
            line = str(error) if isinstance(error, NoriaError) else f"{type(error).__name__}: {error}"
            log.warning("a tick failed, everything stays as it is: %s", line)
            if not isinstance(error, NoriaError):
                log.exception("the fault")
            with contextlib.suppress(NoriaError):
                write_atomic(
                    state / "nearline" / "failing.json", json.dumps({"at": time.time(), "why": line})
                )
        else:
            (state / "nearline" / "failing.json").unlink(missing_ok=True)
        stop.wait(max(0.0, config.tick - (time.monotonic() - began)))
    if loop is not None:
        with contextlib.suppress(NoriaError):
            loop.checkpoint(time.time())


if __name__ == "__main__":
    main()
