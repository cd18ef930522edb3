"""What served: each publication moves a pointer to a bundle of the snapshot and of the plan file before the switches.

```
<folder>/versions/…        snapshots and plan files by content (`noria.core.versions`)
         control.sqlite    who published what and when; what is switched off by hand
```

A folder of before, with `snapshots/`, `base.json` and `switches.json`, is taken over when the service opens it.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.blending.plans.plans import Plans
from noria.blending.snapshot import Snapshot
from noria.core.errors import DataError
from noria.core.files import disk_errors, write_atomic
from noria.core.records import read_json
from noria.core.storage.control import SQLiteControl
from noria.core.versions.artefacts import ArtefactStore, Lineage
from noria.core.versions.pointers import KIND as POINTER, Move, Pointers
from noria.core.versions.retention import prune

CHANNEL = "serving"
"""Name of the pointer to what serves."""
LOOP = "(nearline)"
"""Author of what the loop publishes every minute; its oldest versions are removed, those of people are not."""
KEPT = 5_000
"""Publications after which what the loop published is removed."""
_PRUNE_EVERY = 100
_SNAPSHOT, _PLANS = "snapshot.json", "plans.json"
_SWITCHES = ("switch", "plans")
log = logging.getLogger("noria.serving")


@dataclass(frozen=True)
class Switches:
    """The plans that are switched off by hand: all, or some."""

    everything: bool = False
    off: frozenset[str] = frozenset()

    def applied(self, plans: Plans) -> Plans:
        """The plan file with these switched off."""
        changed = tuple(
            plan.model_copy(update={"enabled": False}) if plan.id in self.off else plan
            for plan in plans.plans
        )
        guards = plans.guards
        if self.everything:
            guards = guards.model_copy(update={"only_value": True})
        return Plans(plans=changed, guards=guards, slots=plans.slots)


class Versions:
    """Publications by the version of their snapshot, as the service makes them and the loop beside it reads them.

    Args:
        state: folder of the service.
        clock: seconds since 1970.
    """

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = Path(state)
        self.store = ArtefactStore(self.folder / "versions")
        self.control = SQLiteControl(self.folder / "control.sqlite", clock=clock)
        self.pointers = Pointers(self.control, self.store)
        self._moves: dict[int, Move] = {}
        self._seen = 0

    # -- reading ------------------------------------------------------------------------------------------------------

    def moves(self) -> Mapping[int, Move]:
        """Publications by the version of their snapshot, oldest first."""
        present = self.pointers.present(CHANNEL)
        if present is not None and present.version != self._seen:
            self._moves = {_receipt(move, "version"): move for move in self.pointers.history(CHANNEL)}
            self._seen = present.version
        return self._moves

    def numbers(self) -> list[int]:
        """Versions that are kept, the newest first."""
        return sorted(self.moves(), reverse=True)

    def file(self, version: int) -> Path:
        """Path of a version's snapshot.

        Raises:
            DataError: it is not there any more, or damaged.
        """
        return self._path(version, "snapshot", _SNAPSHOT)

    def load(self, version: int) -> Snapshot:
        """Read a version.

        Raises:
            DataError: it is not there any more, or damaged.
        """
        return Snapshot.load(self.file(version))

    def newest(self) -> tuple[Snapshot | None, list[DataError]]:
        """The newest good snapshot, and why newer ones were passed over."""
        errors: list[DataError] = []
        for version in self.numbers():
            try:
                return self.load(version), errors
            except DataError as error:
                errors.append(error)
        return None, errors

    def base(self, version: int) -> tuple[Plans, str]:
        """The plan file of a version before the switches, and the digest of the adopted snapshot that it came with.

        Raises:
            DataError: it is not there any more, or damaged.
        """
        path = self._path(version, "plans", _PLANS)
        try:
            return Plans.model_validate(read_json(path)), _receipt(self.moves()[version], "source")
        except ValueError as error:
            raise DataError(f"damaged ({error})", where=str(path)) from None

    def switches(self) -> Switches:
        """The plans that are switched off by hand."""
        document = self.control.read(*_SWITCHES)
        value = {} if document is None else document.value or {}
        return Switches(bool(value.get("everything")), frozenset(value.get("off", ())))

    def audit(self, last: int) -> list[dict[str, Any]]:
        """The last changes by people, the newest first."""
        changes = [move for move in self.moves().values() if move.by != LOOP]
        return [
            {
                "at": move.at,
                "who": move.by,
                "what": move.reason,
                "version": _receipt(move, "version"),
                "digest": _receipt(move, "snapshot"),
            }
            for move in reversed(changes[-last:])
        ]

    def _path(self, version: int, kind: str, name: str) -> Path:
        move = self.moves().get(version)
        if move is None:
            raise DataError(f"version {version} is not kept", where=str(self.folder))
        artefacts = self.store.load_bundle(move.bundle).artefacts
        return self.store.path(self.store.artefact(artefacts[kind]), name)

    # -- writing ------------------------------------------------------------------------------------------------------

    def publish(self, snapshot: Snapshot, base: Plans, *, source: str, by: str, what: str) -> None:
        """Keep a snapshot, and point to it, in one step: a process killed meanwhile leaves what served before.

        Args:
            snapshot: what is to serve.
            base: plan file of the snapshot before the switches.
            source: digest of the adopted snapshot that the plan file came with.
            by: who publishes it; `LOOP` for the loop.
            what: what changed.

        Raises:
            RunError: the disk refuses.
        """
        self.moves()  # up to date, so that what is published here need not be read again
        lineage = Lineage(by=by, at=snapshot.created)
        with disk_errors(self.folder), tempfile.TemporaryDirectory() as folder:
            snapshot.save(Path(folder) / _SNAPSHOT)
            write_atomic(
                Path(folder) / _PLANS, json.dumps(base.model_dump(mode="json", exclude_defaults=True))
            )
            kept = [
                self.store.add(kind, Path(folder) / name, lineage=lineage).digest
                for kind, name in (("snapshot", _SNAPSHOT), ("plans", _PLANS))
            ]
        receipt = {"version": snapshot.version, "snapshot": snapshot.digest, "source": source}
        move = self.pointers.promote(
            CHANNEL,
            self.store.bundle(kept).digest,
            based_on=self._seen,
            by=by,
            reason=what,
            receipt=receipt,
        )
        self._moves[snapshot.version], self._seen = move, move.version
        if move.version % _PRUNE_EVERY == 0:
            self.control.thin(POINTER, CHANNEL, keep=KEPT, by=LOOP)
            self._seen = 0
            prune(self.store, {one.bundle for one in self.moves().values()})

    def keep_switches(self, switches: Switches, *, by: str) -> None:
        """Write what is switched off."""
        document = self.control.read(*_SWITCHES)
        value = {"everything": switches.everything, "off": sorted(switches.off)}
        self.control.write(*_SWITCHES, value, based_on=0 if document is None else document.version, by=by)

    def close(self) -> None:
        """Let the files go."""
        self.control.close()


def _receipt(move: Move, name: str) -> Any:
    return (move.receipt or {})[name]


# -- folders of before ------------------------------------------------------------------------------------------------


def take_over(versions: Versions) -> None:
    """Take over the files of a folder of before, once; one that was killed meanwhile resumes where it was.

    Damaged snapshots are left out. The old `audit.jsonl` stays as it is.

    Raises:
        DataError: the plan file or the switches are damaged.
        RunError: the disk refuses.
    """
    state = versions.folder
    old = state / "snapshots"
    if not old.is_dir():
        return
    switches, base = (_old_values(state / name) for name in ("switches.json", "base.json"))
    changes = {line.get("version"): line for line in _old_audit(state / "audit.jsonl")}
    numbered = sorted((int(path.stem), path) for path in old.glob("*.json") if path.stem.isdigit())
    log.warning("%s: %d versions of before are taken over", state, len(numbered))
    newest = next((number for number, path in reversed(numbered) if _loaded(path)), 0)
    now, done = versions.control.now, max(versions.moves(), default=0)
    try:
        for number, path in numbered:
            if number <= done or (snapshot := _loaded(path)) is None:
                continue
            last, line = number == newest, changes.get(number, {})
            versions.control.now = lambda at=snapshot.created: at  # type: ignore[method-assign, misc]
            versions.publish(
                snapshot,
                Plans.model_validate(base["plans"]) if last and base else snapshot.plans,
                source=str(base.get("source", "")) if last else "",
                by=str(line.get("who", "")) if line else LOOP,
                what=str(line.get("what", "nearline")),
            )
    except ValueError as error:
        raise DataError(f"damaged ({error})", where=str(state / "base.json"), mend="remove it") from None
    finally:
        versions.control.now = now  # type: ignore[method-assign]
    if switches:
        off = frozenset(map(str, switches["off"]))
        versions.keep_switches(Switches(bool(switches["everything"]), off), by="")
    with disk_errors(old):
        for name in ("switches.json", "base.json"):
            (state / name).unlink(missing_ok=True)
        shutil.rmtree(old)


def _loaded(path: Path) -> Snapshot | None:
    try:
        return Snapshot.load(path)
    except DataError as error:
        log.warning("left out: %s", error)
        return None


def _old_values(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    values = read_json(path)
    wanted = {"switches.json": ("everything", "off"), "base.json": ("plans",)}[path.name]
    if not isinstance(values, dict) or not all(name in values for name in wanted):
        raise DataError("damaged", where=str(path), mend="mend it, or remove it and switch again")
    return values


def _old_audit(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # torn by a kill
            continue
    return [line for line in lines if isinstance(line, dict)]
