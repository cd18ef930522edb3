"""The state folder of what served: snapshots by version, the plan file, switches, who changed what.

```
<folder>/snapshots/00000012.json    what served, by version
         base.json                  the plan file as it was adopted, before any switch; and what file it is from
         switches.json              plans that are switched off by hand
         audit.jsonl                who changed what, when
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noria.blending.plans.plans import Plans
from noria.blending.snapshot import Snapshot
from noria.core.errors import DataError
from noria.core.files import disk_errors, write_all, write_atomic
from noria.core.records import read_json

KEPT = 5_000
"""Snapshots that stay on the disk."""


class Versions:
    """Snapshots by version, as the service writes them and the loop beside it reads them.

    Args:
        state: the service's folder.
    """

    def __init__(self, state: Path) -> None:
        self.folder = state / "snapshots"

    def file(self, version: int) -> Path:
        """Path of a version's snapshot, whether or not it is there."""
        return self.folder / f"{version:08d}.json"

    def load(self, version: int) -> Snapshot:
        """Read a version.

        Raises:
            DataError: it is not there any more, or damaged.
        """
        return Snapshot.load(self.file(version))

    def numbers(self) -> list[int]:
        """Versions on the disk, the newest first."""
        names = [path.stem for path in self.folder.glob("*.json")]
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def newest(self) -> tuple[Snapshot | None, list[DataError]]:
        """The newest good snapshot, and why newer ones were passed over."""
        errors: list[DataError] = []
        for version in self.numbers():
            try:
                return self.load(version), errors
            except DataError as error:
                errors.append(error)
        return None, errors

    def keep(self, snapshot: Snapshot) -> None:
        """Write a snapshot under its version, and remove the oldest beyond those that stay.

        Raises:
            RunError: the disk refuses.
        """
        snapshot.save(self.file(snapshot.version))
        for version in self.numbers()[KEPT:]:
            self.file(version).unlink(missing_ok=True)


class StateFolder:
    """The folder of a service's publications."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions = Versions(folder)

    def base(self) -> tuple[Plans, str] | None:
        """The plan file as it was adopted, and the digest of the snapshot it came with; None if none is kept.

        Raises:
            DataError: the file is damaged.
        """
        values = self._read("base.json")
        try:
            return None if values is None else (Plans.model_validate(values["plans"]), str(values["source"]))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged("base.json", error) from None

    def keep_base(self, plans: Plans, source: str) -> None:
        """Write the plan file and the digest of the snapshot it came with."""
        values = {"plans": plans.model_dump(mode="json", exclude_defaults=True), "source": source}
        write_atomic(self.folder / "base.json", json.dumps(values))

    def switches(self) -> tuple[bool, frozenset[str]] | None:
        """Whether everything is switched off, and which plans are; None if nothing is kept.

        Raises:
            DataError: the file is damaged.
        """
        values = self._read("switches.json")
        try:
            if values is None:
                return None
            return bool(values["everything"]), frozenset(map(str, values["off"]))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged("switches.json", error) from None

    def keep_switches(self, everything: bool, off: frozenset[str]) -> None:
        """Write what is switched off."""
        values = {"everything": everything, "off": sorted(off)}
        write_atomic(self.folder / "switches.json", json.dumps(values))

    def note(self, line: Mapping[str, Any]) -> None:
        """Append a line to the audit.

        Raises:
            RunError: the disk refuses.
        """
        path = self.folder / "audit.jsonl"
        with disk_errors(path):
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                write_all(handle, (json.dumps(line) + "\n").encode())
                os.fsync(handle)
            finally:
                os.close(handle)

    def audit(self, last: int) -> list[dict[str, Any]]:
        """The last good lines of the audit, the newest first."""
        try:
            lines = (self.folder / "audit.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        result: list[dict[str, Any]] = []
        for line in reversed(lines[:-1]):
            if len(result) == last:
                break
            try:
                result.append(json.loads(line))
            except ValueError:
                continue
        return result

    def _read(self, name: str) -> Any:
        try:
            return read_json(self.folder / name) if (self.folder / name).exists() else None
        except DataError as error:
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: Exception) -> DataError:
        return DataError(f"damaged ({error})", where=str(self.folder / name))
