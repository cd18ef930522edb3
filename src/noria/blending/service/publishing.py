"""Which snapshot serves: adopted, changed, switched, rolled back, each time as the next version and never half.

A snapshot that cannot be read or does not fit is refused, and the last good one serves on. Everything here is called
from one place at a time; a ranking takes `blender` once and keeps it to its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from noria.blending.alignment.alignment import Alignment
from noria.blending.blender import Blender
from noria.blending.columns import Candidates
from noria.blending.plans.plans import Plans
from noria.blending.service.versions import LOOP, Switches, Versions, take_over
from noria.blending.snapshot import Setting, Snapshot
from noria.core.errors import ConfigError, DataError, NoriaError

_GIVEN = (["snapshot"], ["rollback"])
"""Kinds of changes that older news of the loop do not overrule."""


@dataclass
class Publisher:
    """Holds the snapshot that serves.

    Attributes:
        state: what served before; None keeps it nowhere.
        source: a snapshot file that is watched for a new one.
        clock: seconds since 1970.
        rejected: snapshots that were refused.
        trouble: why the last one was; None once one was taken.
        base: the plan file before the switches.
        switches: what is switched off by hand.
    """

    state: Versions | None
    source: Path | None
    clock: Callable[[], float]
    rejected: int = 0
    trouble: str | None = None
    base: Plans = field(default_factory=Plans)
    switches: Switches = field(default_factory=Switches)
    _blender: Blender | None = None
    _from: str = ""
    _given: int = 0
    _seen: tuple[int, ...] = ()
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def open(cls, folder: Path | None, source: Path | None, clock: Callable[[], float]) -> Publisher:
        """Take up what served last, or the source if it is another than then.

        Raises:
            DataError: there is no good snapshot anywhere.
        """
        self = cls(None if folder is None else Versions(folder, clock), source, clock)
        try:
            return self._opened()
        except BaseException:
            self.close()
            raise

    def _opened(self) -> Publisher:
        last, source = self._restore(), self.source
        result: Snapshot | None = None
        if source is not None:
            try:
                result = Snapshot.load(source)
                self._seen = _stamp(source)
            except DataError as error:
                if last is None:
                    raise
                self._refuse(error)
        if last is not None and (result is None or result.digest == self._from):
            if not self._from:  # the state beside it was lost
                self.base = last.plans
            self._blender = _ready(last)
        elif result is not None:
            self.adopt(result)
        else:
            raise DataError(
                "no snapshot to serve",
                where=None if self.state is None else str(self.state.folder),
                mend="give one; noria blending fit writes it",
            )
        return self

    def close(self) -> None:
        """Let the folder go."""
        if self.state is not None:
            self.state.close()

    @property
    def blender(self) -> Blender:
        """The blender that ranks now."""
        assert self._blender is not None
        return self._blender

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that serves now."""
        return self.blender.snapshot

    @property
    def age(self) -> float:
        """Seconds since the snapshot was made."""
        return max(0.0, self.clock() - self.snapshot.created)

    @property
    def stale(self) -> bool:
        """Whether the snapshot is older than its plan file allows. It still serves."""
        limit = self.snapshot.plans.guards.max_age
        return limit is not None and self.age > limit

    # changes

    def poll(self) -> bool:
        """Look whether the source has changed, and adopt it; return whether something was published."""
        with self._lock:
            if self.source is None:
                return False
            stamp = _stamp(self.source)
            if stamp == self._seen:
                return False
            try:
                result = Snapshot.load(self.source)
            except DataError as error:  # half-written, perhaps: look again when it has changed again
                self._seen = stamp
                self._refuse(error)
                return False
            self._seen = stamp
            if result.digest == self._from:
                self.trouble = None
                return False
            self.adopt(result)
            return True

    def adopt(self, result: Snapshot, *, who: str = "") -> Snapshot:
        """Serve a whole snapshot that somebody gave; its version is kept if it is a later one.

        Raises:
            NoriaError: it does not rank, or the disk refuses; the last good one stays.
        """
        with self._lock:
            try:
                return self._publish("snapshot", result, who=who, adopted=True)
            except NoriaError as error:
                self._refuse(error)
                raise

    def change_plans(self, plans: Plans, *, who: str = "") -> Snapshot:
        """Serve another plan file with the same alignment; what controllers set for plans that stay is kept."""
        with self._lock:
            settings = self.snapshot.settings_for(plans)
            return self._publish("plans", self._with(plans=plans, settings=settings), who=who)

    def refresh(
        self, alignment: Alignment, settings: Mapping[str, Setting], *, based_on: int
    ) -> Snapshot | None:
        """Serve a new alignment and what controllers set, for plans that are still there.

        Args:
            alignment: alignment of the loop beside the service.
            settings: settings of the controllers, by plan.
            based_on: the version that these started from. Older than the last snapshot that somebody gave or rolled
                back to, they are no news.

        Returns:
            None if nothing changed.
        """
        with self._lock:
            now = self.snapshot
            if based_on < self._given:
                return None
            kept = {plan: one for plan, one in settings.items() if plan in self.base.ids}
            if now.alignment.to_json() == alignment.to_json() and dict(now.settings) == kept:
                return None
            return self._publish("nearline", self._with(alignment=alignment, settings=kept))

    def switch(self, plan: str | None, on: bool, *, who: str = "") -> Snapshot:
        """Switch one plan, or with None all of them, off or on again. It is on the disk before it serves.

        Raises:
            ConfigError: there is no such plan.
        """
        with self._lock:
            if plan is None:
                changed = Switches(not on, self.switches.off)
            else:
                self.base.place(plan)
                off = self.switches.off - {plan} if on else self.switches.off | {plan}
                changed = Switches(self.switches.everything, off)
            before, self.switches = self.switches, changed
            try:
                if self.state is not None:
                    self.state.keep_switches(changed, by=who)
                note = f"{'on' if on else 'off'} {plan or 'all plans'}"
                return self._publish("switch", self._with(), who=who, note=note)
            except BaseException:
                self.switches = before
                raise

    def roll_back(self, version: int, *, who: str = "") -> Snapshot:
        """Serve what an earlier version held, as the next version. Switches stay as they are.

        Raises:
            DataError: it is not there any more, or damaged.
        """
        with self._lock:
            if self.state is None:
                raise DataError("versions are kept nowhere", mend="start the service with --state")
            return self._publish("rollback", self.state.load(version), who=who, note=f"to {version}")

    def versions(self) -> list[int]:
        """Versions on the disk, the newest first."""
        return [] if self.state is None else self.state.numbers()

    def audit(self, last: int = 50) -> list[dict[str, Any]]:
        """Who changed what, the newest first."""
        return [] if self.state is None else self.state.audit(last)

    # within

    def _with(self, **changes: Any) -> Snapshot:
        """What serves, before the switches, with changes."""
        return replace(self.snapshot, **({"plans": self.base} | changes))

    def _publish(
        self, kind: str, draft: Snapshot, *, who: str = "", note: str = "", adopted: bool = False
    ) -> Snapshot:
        """Make the next snapshot of a draft, try it, write it down, and only then serve it.

        Args:
            kind: kind of the change.
            draft: plans before the switches, alignment and settings.
            who: whoever changed it.
            note: more of what changed, for the audit.
            adopted: the draft is a whole snapshot that somebody gave; its age and a later version are kept.
        """
        known = [number + 1 for number in self.versions()[:1]]
        known += [self.snapshot.version + 1] if self._blender is not None else []
        version = max(1, *known, draft.version if adopted else 1)
        base = draft.plans
        snapshot = Snapshot.of(
            draft.alignment,
            self.switches.applied(base),
            settings=draft.settings,
            version=version,
            created=draft.created if adopted else self.clock(),
        )
        blender = _ready(snapshot)
        source = draft.digest if adopted else self._from
        if self.state is not None:
            who = LOOP if kind == "nearline" else who.replace(LOOP, "")
            what = f"{kind} {note}".strip()
            self.state.publish(snapshot, base, source=source, by=who, what=what)
        self.base, self._from = base, source
        self._blender = blender
        if [kind] in _GIVEN:
            self._given = version
        self.trouble = None
        return snapshot

    def _refuse(self, error: NoriaError) -> None:
        self.rejected += 1
        self.trouble = str(error)

    def _restore(self) -> Snapshot | None:
        """Take up the plan file and the switches, and return the newest good snapshot.

        Raises:
            NoriaError: a folder of before cannot be taken over.
        """
        if self.state is None:
            return None
        take_over(self.state)
        last, errors = self.state.newest()
        for error in errors:
            self._refuse(error)
        self.switches = self.state.switches()
        given = [v for v, move in self.state.moves().items() if move.reason.split()[:1] in _GIVEN]
        self._given = max(given, default=0)
        if last is not None:
            try:
                self.base, self._from = self.state.base(last.version)
            except DataError as error:
                self._refuse(error)
        return last


def _ready(snapshot: Snapshot) -> Blender:
    """A blender that has ranked once, so that what is wrong shows before it serves.

    Raises:
        NoriaError: it does not rank.
    """
    blender = Blender(snapshot)
    sources = sorted({key.source for key in snapshot.alignment.entries})
    columns = {"item": list(range(len(sources))), "score": np.ones(len(sources)), "source": sources}
    try:
        ranked = blender.rank(Candidates.of(columns), len(sources), at=snapshot.created)
    except NoriaError:
        raise
    except Exception as error:
        raise ConfigError(f"a snapshot that does not rank ({type(error).__name__}: {error})") from error
    total = ranked.value + ranked.contributions.sum(axis=1) + ranked.guard
    if not np.allclose(total, ranked.score, rtol=1e-9, atol=1e-9):
        raise DataError("a snapshot whose accounts do not close")
    return blender


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        result = path.stat()
    except OSError:
        return ()
    return result.st_mtime_ns, result.st_size, result.st_ino
