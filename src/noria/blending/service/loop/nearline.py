"""The loop beside the service: reads its log, refreshes alignment and controllers, and proposes what to serve next.

```
<state>/nearline/learnt.msgpack     tallies, books and today's sums, with the place in the log up to which they count
                 controllers.json   what the controllers remember, after every tick
                 proposal.json      alignment and settings, for the service to publish
                 status.json        figures for people and for Prometheus
```

It is a process of its own, so that the service's requests do not wait for it. After a stop it reads the log from its
checkpoint on and goes on with the controllers where they were. When a tick fails nothing is proposed: what serves stays
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
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from noria.blending.accounting.attribution import Requests, displace, lift
from noria.blending.accounting.cells import DAY, BookKey, Books, accounts
from noria.blending.accounting.returns import PlanReturn, plan_returns
from noria.blending.alignment.alignment import ANY, Alignment, Entry
from noria.blending.alignment.diagnosis import tenths
from noria.blending.alignment.fitting import fit_alignment
from noria.blending.alignment.tallies import Cell, Histogram, Key, Tallies
from noria.blending.blender import Blender
from noria.blending.plans.plans import Plan
from noria.blending.pricing.control import PidState, pid_step
from noria.blending.service.config import NearlineConfig
from noria.blending.service.journal.events import Event, unpack
from noria.blending.service.journal.journal import Position, Scan, read_journal
from noria.blending.service.loop.learning import Learner, Shown, by_plan
from noria.blending.service.streams import candidates_of_arrow
from noria.blending.snapshot import Setting, Snapshot
from noria.core.errors import DataError, NoriaError
from noria.core.files import lock, write_atomic
from noria.core.records import json_values

__all__ = ["Loop", "day_share", "main"]

log = logging.getLogger("noria.serving")

SLACK = 5.0
"""Seconds that an event may take from the service's clock into the log."""
HISTORY = 500
"""Ticks of history kept for charts; older ones are thinned out."""


class Loop:
    """One reader of a service's log.

    Args:
        state: the service's folder.
        config: settings.
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
        self.learner = self._fresh()
        self.position = Position(0, 0)
        self.scan = Scan()
        self.ticks = 0
        self.history: deque[dict[str, Any]] = deque()
        self.returns: list[PlanReturn] = []
        self._versions: dict[int, Mapping[str, tuple[int, float, float]] | None] = {}
        self._digests: dict[str, str] = {}
        self._checkpointed = -math.inf
        self._last: float | None = None
        self._restore()

    def _fresh(self) -> Learner:
        config = self.config
        return Learner(
            anchor=config.anchor,
            maturity=config.fit.maturity,
            show_within=config.show_within,
            absent_is_zero=config.absent == "zero",
            most_open=config.most_open,
            tick=config.fit.tick,
        )

    # -- a tick -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Read what is new, learn from it, and propose.

        Raises:
            NoriaError: there is no snapshot, or the disk refuses.
        """
        now = self.clock()
        for events, place, end in self._frames(self.position):
            self.learner.feed(events, place)
            self.position = end
        self.learner.close(now - SLACK)
        self.learner.drop_old(keep=self.config.keep_days * DAY, days=self.config.keep_days)
        snapshot = self._newest()
        ticks = 1.0 if self._last is None else max(0.1, min(10.0, (now - self._last) / self.config.tick))
        self._last = now
        self.ticks += 1
        alignment = self._align(snapshot, now)
        settings = self._settings(snapshot, alignment, now, ticks)
        if self.config.returns and self.ticks % self.config.returns == 1 % self.config.returns:
            self.returns = self._returns(snapshot)
        proposal = {
            "based_on": snapshot.version,
            "at": now,
            "alignment": alignment.to_json(),
            "settings": {plan: vars(setting) for plan, setting in settings.items()},
        }
        status = self._status(snapshot, settings, now)
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

    def _newest(self) -> Snapshot:
        for path in sorted((self.state / "snapshots").glob("*.json"), reverse=True):
            with contextlib.suppress(DataError):
                return Snapshot.load(path)
        raise DataError("no snapshot", where=str(self.state / "snapshots"))

    def _plans(self, version: int) -> Mapping[str, tuple[int, float, float]] | None:
        """(bit, weight, bias) of each plan of a version."""
        if version not in self._versions:
            try:
                found = Snapshot.load(self.state / "snapshots" / f"{version:08d}.json")
            except DataError:
                return None
            if len(self._versions) > 5000:
                self._versions.clear()
            self._versions[version] = {
                plan: (bit, *found.weight_and_bias(plan)) for bit, plan in enumerate(found.plans.ids)
            }
        return self._versions[version]

    # -- alignment ----------------------------------------------------------------------------------------------------

    def _align(self, snapshot: Snapshot, now: float) -> Alignment:
        """A new alignment; what rests on too few exposures stays as it was."""
        before = snapshot.alignment
        jump = snapshot.plans.guards.jump
        try:
            fitted, _ = fit_alignment(
                self.learner.tallies, self.config.fit, now=now, previous=self._served(before), jump=jump
            )
        except DataError:
            return before
        entries: dict[Any, Entry] = dict(before.entries)
        held = 0
        for key, entry in fitted.entries.items():
            if entry.exposures >= self.config.least_fit and entry.origin in ("own", "held"):
                entries[key] = entry
                held += entry.origin == "held"
        if entries == dict(before.entries):
            return before
        self.learner.count("aligners held back", held)
        step = math.log(fitted.mean_value / before.mean_value)
        return Alignment(entries, before.mean_value * math.exp(max(-jump, min(jump, step))), now)

    def _served(self, before: Alignment) -> Alignment:
        """The alignment that serves, with an entry for every key that has exposures: what serves it now. So a key that
        gets an aligner of its own is held to that, and does not jump either.
        """
        entries = dict(before.entries)
        for cell in self.learner.tallies.cells:
            for key in (cell.key, Key(cell.scene, cell.source, ANY), Key(ANY, cell.source, ANY)):
                found = before.find(*(("" if part == ANY else part) for part in key))
                if key not in entries and found is not None:
                    entries[key] = before.entries[found[0]]
        return Alignment(entries, before.mean_value, before.fitted_at)

    # -- controllers --------------------------------------------------------------------------------------------------

    def _settings(
        self, snapshot: Snapshot, alignment: Alignment, now: float, ticks: float
    ) -> dict[str, Setting]:
        """What controllers and budgets make of the plans."""
        window = self.learner.take_window()
        today = self.learner.today if int(now // DAY) == self.learner.day else {}
        state = self._steer(snapshot, alignment, window, today, now, ticks)
        spent, *_ = by_plan(today, self._plans)
        settings = {}
        for plan in snapshot.plans.plans:
            weight, bias = plan.weight, plan.bias
            resting = (
                plan.budget is not None and spent.get(plan.id, (0, 0.0, 0.0))[2] >= plan.budget.spend_per_day
            )
            if plan.target is not None:
                output = state[plan.id]["output"]
                if plan.target.moves == "bias":
                    bias = output * alignment.mean_value
                else:
                    weight = output
            if resting or plan.target is not None:
                settings[plan.id] = Setting(weight, bias, resting)
        return settings

    def _steer(
        self,
        snapshot: Snapshot,
        alignment: Alignment,
        window: Mapping[tuple[int, bool, int], Shown],
        today: Mapping[tuple[int, bool, int], Shown],
        now: float,
        ticks: float,
    ) -> dict[str, dict[str, Any]]:
        """One step of every plan's controller; what it remembers is on the disk before it is acted on."""
        steered = [(plan, plan.target) for plan in snapshot.plans.plans if plan.target is not None]
        kept = self._controllers()
        known: dict[str, dict[str, Any]] = {}
        for plan, target in steered:
            old = kept.get(plan.id)
            unit = alignment.mean_value if target.moves == "bias" else 1.0
            if old is None or old["moves"] != target.moves:  # it begins where the plan stands
                weight, bias = snapshot.weight_and_bias(plan.id)
                output = bias / unit if target.moves == "bias" else weight
                old = _json_of(PidState.resting([output], self.config.gains.gains())) | {"unit": unit}
            # The mean value is the unit of a bias: when it moves, the bias stays.
            factor = old["unit"] / unit
            known[plan.id] = (
                old | {name: factor * old[name] for name in ("integral", "output")} | {"unit": unit}
            )
        recent, exposures, value, _ = by_plan(window, self._plans)
        so_far, _, _, _ = by_plan(today, self._plans, control=True)
        share = day_share(self.learner.hours, now)
        active = dict(zip(snapshot.plans.ids, snapshot.plans.active(now), strict=True))
        targets, reached = [], []
        for plan, _ in steered:
            goal, got = _measured(plan, recent, so_far, exposures, value, share)
            setting = snapshot.settings.get(plan.id)
            still = (
                exposures < self.config.least
                or not active[plan.id]
                or (setting is not None and setting.resting)
            )
            targets.append(goal)
            reached.append(math.nan if still else got)
        state = {}
        if steered:
            names = ("integral", "error", "output")
            joined = PidState.from_json(
                {name: [known[plan.id][name] for plan, _ in steered] for name in names}
            )
            after = pid_step(joined, targets, reached, self.config.gains.gains(), ticks=ticks).to_json()
            for number, (plan, target) in enumerate(steered):
                state[plan.id] = {name: after[name][number] for name in names} | {
                    "moves": target.moves,
                    "unit": known[plan.id]["unit"],
                    "target": targets[number],
                    "reached": None if math.isnan(reached[number]) else reached[number],
                }
        write_atomic(self.folder / "controllers.json", json.dumps(state))
        return state

    def _controllers(self) -> dict[str, dict[str, Any]]:
        """What they remembered; of a file that is damaged, nothing: they start again from what serves."""
        try:
            kept = json.loads((self.folder / "controllers.json").read_bytes())
            for state in kept.values():
                PidState.from_json({name: [state[name]] for name in ("integral", "error", "output")})
                if not (state["moves"] in ("bias", "weight") and state["unit"] > 0):
                    raise ValueError("no controller's state")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
            self.learner.count("controller states lost")
            return {}
        return dict(kept)

    # -- returns ------------------------------------------------------------------------------------------------------

    def _returns(self, snapshot: Snapshot) -> list[PlanReturn]:
        """What plans return on the sampled requests whose outcomes are in."""
        awake = {plan: replace(one, resting=False) for plan, one in snapshot.settings.items()}
        blender = Blender(snapshot.next(created=snapshot.created, settings=awake))
        values, masks, gains, start = [], [], [], [0]
        users, days = [], []
        sizes: Counter[int] = Counter()
        for one in list(self.learner.closed):
            candidates = candidates_of_arrow(one.candidates, scene=one.scene)
            value = snapshot.alignment.align(candidates).value
            mask = blender.masks(candidates.columns, len(candidates), at=one.at)
            told = [one.outcomes.get(str(item), (math.nan, math.nan)) for item in candidates.item]
            gain = np.array([g if not math.isnan(g) else a for a, g in told])
            good = np.isfinite(value)
            values.append(value[good])
            masks.append(mask[good])
            gains.append(np.where(np.isnan(gain), value, gain)[good])
            start.append(start[-1] + int(good.sum()))
            users.append(one.user or one.request)
            days.append(int(one.at // DAY))
            sizes[one.size] += 1
        if len(users) < 2:
            return []
        requests = Requests(np.concatenate(values), np.concatenate(masks), np.array(start, np.int64))
        displaced = displace(requests, blender.tables, sizes.most_common(1)[0][0])
        brought, lost = lift(requests, displaced, np.concatenate(gains))
        return plan_returns(
            displaced,
            blender.plans,
            brought,
            generator=np.random.default_rng(0),
            unknown=lost.tolist(),
            clusters=users,
            resamples=500,
        )

    # -- status -------------------------------------------------------------------------------------------------------

    def _status(self, snapshot: Snapshot, settings: Mapping[str, Setting], now: float) -> dict[str, Any]:
        learner = self.learner
        today = learner.today if int(now // DAY) == learner.day else {}
        spent, exposures, value, lost = by_plan(today, self._plans, control=True)
        digests = {key.snapshot for key in learner.books.cells}
        known = self._of_digests(digests)
        booked, unknown = accounts(learner.books, known)
        closed = {account.plan: account for account in booked}
        returns = {one.plan: one for one in self.returns}
        kept = self._controllers()
        plans = {}
        for plan in snapshot.plans.plans:
            n, y, spend = spent.get(plan.id, (0, 0.0, 0.0))
            account, found = closed.get(plan.id), returns.get(plan.id)
            plans[plan.id] = {
                "exposures": n,
                "share": n / exposures if exposures else None,
                "value": y,
                "spend": spend,
                "price": 1000 * spend / n if n else None,
                "budget": plan.budget.spend_per_day if plan.budget else None,
                "resting": plan.id in settings and settings[plan.id].resting,
                "controller": kept.get(plan.id),
                "closed": None
                if account is None
                else {
                    "exposures": account.exposures,
                    "known": account.known,
                    "outcomes": account.outcomes,
                    "surplus": account.surplus,
                    "spend": account.spend,
                    "price": account.price,
                },
                "returns": None if found is None else json_values(asdict(found)),
            }
        self._remember(now, snapshot, plans)
        oldest = learner.oldest or self.position
        return {
            "at": now,
            "ticks": self.ticks,
            "tick": self.config.tick,
            "version": snapshot.version,
            "position": list(self.position),
            "oldest": list(oldest),
            "open": learner.open,
            "counts": dict(learner.counts),
            "log": {"damaged": self.scan.damaged, "lost": self.scan.lost},
            "exposures": exposures,
            "value": value,
            "unpriced": lost + sum(unknown.values()),
            "sampled": len(learner.closed),
            "plans": plans,
            "sources": self._sources(snapshot),
            "history": list(self.history),
        }

    def _of_digests(self, digests: set[str]) -> dict[str, list[tuple[str, float, float]]]:
        """Plans of snapshots by digest, as the books name them."""
        known: dict[str, list[tuple[str, float, float]]] = {}
        for path in sorted((self.state / "snapshots").glob("*.json"), reverse=True):
            if len(known) == len(digests):
                break
            digest = self._digest(path)
            if digest in digests:
                plans = self._plans(int(path.stem))
                if plans is not None:
                    known[digest] = [(plan, w, b) for plan, (_, w, b) in plans.items()]
        return known

    def _digest(self, path: Path) -> str:
        found = self._digests.get(path.name)
        if found is None:
            try:
                found = str(json.loads(path.read_bytes())["digest"])
            except (OSError, ValueError, KeyError, TypeError):
                found = ""
            self._digests[path.name] = found
        return found

    def _sources(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        """Each source's calibration under what serves: outcomes against expected ones, by tenths of the value."""
        groups: dict[str, list[Cell]] = {}
        for cell in self.learner.tallies.cells:
            groups.setdefault(cell.source, []).append(cell)
        found = []
        for source, cells in sorted(groups.items()):
            key = snapshot.alignment.find("", source, "")
            if key is None:
                continue
            data = self.learner.tallies.binned(None, cells)
            if not len(data.n) or data.n.sum() <= 0:
                continue
            entry = snapshot.alignment.entries[key[0]]
            found.append(
                {
                    "source": source,
                    "aligner": type(entry.aligner).__name__.lower(),
                    "scale": getattr(entry.aligner, "scale", None),
                    "origin": entry.origin,
                    "exposures": float(data.n.sum()),
                    "rate": float(data.a.sum() / data.n.sum()),
                    "tenths": [json_values(asdict(one)) for one in tenths(data, entry.aligner)],
                }
            )
        return found

    def _remember(self, now: float, snapshot: Snapshot, plans: Mapping[str, Mapping[str, Any]]) -> None:
        """A line of history; of the older half every other line goes when there are too many."""
        self.history.append(
            {
                "at": now,
                "version": snapshot.version,
                "plans": {
                    plan: {
                        "share": told["share"],
                        "spend": told["spend"],
                        "bias": snapshot.weight_and_bias(plan)[1],
                        "weight": snapshot.weight_and_bias(plan)[0],
                    }
                    for plan, told in plans.items()
                },
            }
        )
        if len(self.history) > HISTORY:
            lines = list(self.history)
            half = len(lines) // 2
            self.history = deque(lines[:half:2] + lines[half:])

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoint(self, now: float) -> None:
        """Write down what was learnt, so that a start need not read the whole log.

        Raises:
            RunError: the disk refuses; the last checkpoint stays.
        """
        learner = self.learner
        state = {
            "tick": learner.tick,
            "position": list(self.position),
            "oldest": list(learner.oldest or self.position),
            "now": learner.now,
            "tallies": [
                [*cell, *(getattr(one, name).tobytes() for name in ("code", "n", "a", "m"))]
                for cell, one in learner.tallies.cells.items()
            ],
            "books": [[list(key), sums] for key, sums in learner.books.cells.items()],
            "dropped": [learner.tallies.dropped, learner.books.dropped],
            "counts": dict(learner.counts),
            "day": learner.day,
            "today": [[list(key), shown.exposures, shown.value] for key, shown in learner.today.items()],
            "window": [[list(key), shown.exposures, shown.value] for key, shown in learner.window.items()],
            "hours": learner.hours,
            "history": list(self.history),
            "ticks": self.ticks,
        }
        write_atomic(self.folder / "learnt.msgpack", msgspec.msgpack.encode(state))
        self._checkpointed = now

    def _restore(self) -> None:
        """What the checkpoint holds, and the lists that were open then. A damaged one is as good as none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        learner = self.learner
        try:
            state = msgspec.msgpack.decode((self.folder / "learnt.msgpack").read_bytes())
            if state["tick"] != learner.tick:
                log.warning("the tick of the tallies was changed: they start again")
                return
            learner.tallies = Tallies(
                {
                    Cell(*cell[:6]): Histogram(*(np.frombuffer(part, np.int64).copy() for part in cell[6:]))
                    for cell in state["tallies"]
                },
                dict(state["dropped"][0]),
            )
            learner.books = Books(
                {BookKey(*key): list(sums) for key, sums in state["books"]}, dict(state["dropped"][1])
            )
            learner.counts.update(state["counts"])
            learner.day = int(state["day"])
            for name in ("today", "window"):
                sums = {tuple(key): Shown(int(n), float(y)) for key, n, y in state[name]}
                setattr(learner, name, sums)
            learner.hours = {int(hour): int(n) for hour, n in state["hours"].items()}
            self.history = deque(state["history"])
            self.ticks = int(state["ticks"])
            position, oldest = Position(*state["position"]), Position(*state["oldest"])
            now = float(state["now"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, IndexError, msgspec.DecodeError) as error:
            log.warning("the checkpoint is damaged (%s): the whole log is read again", error)
            self.learner = self._fresh()
            self.history.clear()
            return
        frames = ((events, place) for events, place, end in self._frames(oldest) if end <= position)
        learner.again(frames, now)
        self.position = position
        self.scan = Scan()


def _json_of(state: PidState) -> dict[str, Any]:
    """Of one controller."""
    return {name: values[0] for name, values in state.to_json().items()}


def _measured(
    plan: Plan,
    recent: Mapping[str, tuple[int, float, float]],
    today: Mapping[str, tuple[int, float, float]],
    exposures: int,
    value: float,
    share: float,
) -> tuple[float, float]:
    """A plan's target and how far it is, in one unit; NaN where nothing can be said."""
    assert plan.target is not None
    target = plan.target
    by_exposures = target.moves == "bias"
    if target.is_share:
        n, y, _ = recent.get(plan.id, (0, 0.0, 0.0))
        whole = exposures if by_exposures else value
        return target.amount, (n if by_exposures else y) / whole if whole > 0 else math.nan
    n, y, _ = today.get(plan.id, (0, 0.0, 0.0))
    goal = target.amount * share
    return goal, float(n if by_exposures else y) if share >= 0.01 else math.nan


def day_share(hours: Mapping[int, int], now: float) -> float:
    """The share of a day's exposures that is over by now (UTC), along the traffic of earlier whole days; along the
    clock where there is none.

    Args:
        hours: exposures by hour since 1970.
        now: seconds since 1970.
    """
    day, rest = divmod(now, DAY)
    hour, part = divmod(rest, 3600)
    by_hour = np.zeros(24)
    for number, count in hours.items():
        if number // 24 != int(day):
            by_hour[number % 24] += count
    if not by_hour.sum():
        return rest / DAY
    before = by_hour[: int(hour)].sum() + by_hour[int(hour)] * part / 3600
    return float(before / by_hour.sum())


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
    """Tick until told to stop; after a tick that failed, start over from the checkpoint."""
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
