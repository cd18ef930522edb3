"""A log of JSON lines that only grows and resumes: what was written before a kill is there, a torn last line is not."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from noria.core.errors import DataError
from noria.core.files import disk_errors, lock, read_bytes, write_all
from noria.core.records import json_record, json_values


class Lines:
    """Records by key in a file, open for writing by one process. Use it as a context.

    Args:
        path: file of the lines; its folder is made and locked.
        key: field of a record that names it; a later record of a name replaces the earlier.

    Raises:
        DataError: a line before the last is damaged.
        RunError: another process writes there, or the disk refuses.
    """

    def __init__(self, path: Path, *, key: str = "id") -> None:
        self.path, self.key = path, key
        self.records: dict[str, dict[str, Any]] = {}
        self._lock = lock(path.parent)
        self._handle = -1

    def __enter__(self) -> Lines:
        self._lock.__enter__()
        try:
            with disk_errors(self.path):
                self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self._read()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._lock.__exit__(kind, error, trace)

    def _read(self) -> None:
        content = read_bytes(self.path)
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            record = json_record(
                line, f"{self.path}:{number}", mend="remove the line, and run the command again"
            )
            if not isinstance(record.get(self.key), str):
                raise DataError(f"no {self.key}", where=f"{self.path}:{number}")
            self.records[record[self.key]] = record
        if len(whole) < len(content):
            with disk_errors(self.path):
                os.ftruncate(self._handle, len(whole))

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; it is on the disk when this returns.

        Raises:
            RunError: the disk refuses.
        """
        values = json_values(record)
        line = json.dumps(values, ensure_ascii=True) + "\n"
        with disk_errors(self.path):
            write_all(self._handle, line.encode())
            os.fsync(self._handle)
        self.records[values[self.key]] = values
