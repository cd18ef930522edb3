"""What happened to a bank, in the order in which it happened: lines that are only added, each naming the one before.

A line holds the SHA-256 of the line before it, so that a line that is changed, moved or taken out in the middle is
found. A line that a crash cut short was never acknowledged; it is set aside when the next one is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.files import disk_errors, fsync_folder, read_bytes, write_all
from noria.core.records import json_record, json_values

FIRST = "0" * 64
_KINDS = {
    "event": str,
    "version": str,
    "stage": str,
    "by": str,
    "reason": str,
    "run": str,
    "at": float,
    "summary": dict,
}


class Ledger:
    """The ledger of a bank."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, event: str, **fields: Any) -> dict[str, Any]:
        """Add a line, which is on the disk when this returns. The caller holds the bank's lock.

        Raises:
            DataError: the ledger was changed. RunError: the disk refuses.
        """
        raw = read_bytes(self.path) if self.path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        lines = list(self._checked(whole))
        last = hashlib.sha256(whole.splitlines(keepends=True)[-1]).hexdigest() if lines else FIRST
        entry = {"number": len(lines) + 1, "at": time.time(), "event": event, "before": last, **fields}
        line = (json.dumps(json_values(entry), sort_keys=True, ensure_ascii=False) + "\n").encode()
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                os.ftruncate(handle, len(whole))
                os.lseek(handle, 0, os.SEEK_END)
                write_all(handle, line)
                os.fsync(handle)
            finally:
                os.close(handle)
            fsync_folder(self.path.parent)
        return entry

    def entries(self) -> list[dict[str, Any]]:
        """Every line, oldest first.

        Raises:
            DataError: a line was changed, moved or removed.
        """
        raw = read_bytes(self.path) if self.path.exists() else b""
        return list(self._checked(raw[: raw.rfind(b"\n") + 1]))

    def _checked(self, raw: bytes) -> Iterator[dict[str, Any]]:
        before = FIRST
        for number, line in enumerate(raw.splitlines(keepends=True), start=1):
            where = f"{self.path}:{number}"
            entry = json_record(line, where)
            if entry.get("before") != before or entry.get("number") != number:
                raise DataError("the ledger was changed before this line", where=where, mend="restore it")
            before = hashlib.sha256(line).hexdigest()
            for name, kind in _KINDS.items():
                if not isinstance(entry.get(name, kind()), kind):
                    raise DataError(f"{name} is no {kind.__name__}", where=where, mend="restore it")
            if not entry.get("event"):
                raise DataError("a line without an event", where=where, mend="restore it")
            yield entry
