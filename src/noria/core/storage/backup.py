"""Backup of a service's folder while it runs, and its restoration.

```
<backup>/backup.json    format, time, and size and SHA-256 of every file
         files/…        the folder as it was: databases by SQLite's online copy, the other files beside
```

Databases are copied before the other files: what a pointer or a trace names is written before it and is never
removed, so that a copy of the pointers always finds its artefacts among the files. What is made again from the
journal is left out. A backup holds users that were erased later: remove the backups that are older than the promise
given to them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from noria.core.errors import DataError, RunError
from noria.core.files import appearing, disk_errors, inside, read_bytes

FORMAT = 1
"""Version of a backup."""
REMADE = ("index.sqlite", "segments")
"""Names right in the folder that are made again from the journal."""
_SQLITE = b"SQLite format 3\0"
_BESIDE = ("-wal", "-shm", "-journal")


class BackupFile(Struct, frozen=True):
    """A file of a backup: its path within the folder, its size in bytes and its SHA-256."""

    path: str
    size: int
    digest: str


class Backup(Struct, frozen=True):
    """What a backup holds.

    Attributes:
        format: version of the backup.
        at: second since 1970 at which it was begun.
        files: files by path.
    """

    format: int
    at: float
    files: tuple[BackupFile, ...]


def back_up(folder: Path, target: Path, *, without: Sequence[str] = REMADE) -> Backup:
    """Copy a service's folder while its processes are at work; the copy appears whole or not at all.

    Every database is copied as of one moment, with all that was acknowledged before.

    Args:
        folder: folder of the service.
        target: folder of the backup, which must not be there.
        without: names right in the folder that are left out.

    Raises:
        RunError: there is no such folder, the target is there or inside of it, or the disk refuses.
        DataError: a database is damaged.
    """
    folder, target = Path(folder), Path(target)
    if not folder.is_dir():
        raise RunError("there is no such folder", where=str(folder), mend="name the folder of a service")
    if target.exists() or target.resolve().is_relative_to(folder.resolve()):
        raise RunError(
            "it is there already, or within the folder", where=str(target), mend="choose another folder"
        )
    at = time.time()
    with appearing(target) as partial:
        names = [name for name in _names(folder) if name.partition("/")[0] not in without]
        databases = [name for name in names if _is_database(folder / name)]
        for name in databases:
            _copy_database(folder / name, partial / "files" / name)
        # Read again: what a database names was there before it was copied, and is on this list.
        skipped = {f"{name}{suffix}" for name in databases for suffix in ("", *_BESIDE)}
        for name in _names(folder):
            if name.partition("/")[0] not in without and name not in skipped:
                _copy_file(folder / name, partial / "files" / name)
        copied = tuple(_described(partial / "files", name) for name in _names(partial / "files"))
        backup = Backup(FORMAT, at, copied)
        (partial / "backup.json").write_bytes(msgspec.json.format(msgspec.json.encode(backup), indent=1))
    return backup


def verify(source: Path) -> Backup:
    """Check every file of a backup by its digest, and every database by SQLite.

    Raises:
        DataError: it is no backup, of a later version, or a file is missing, superfluous or damaged.
    """
    source = Path(source)
    try:
        backup = msgspec.json.decode(read_bytes(source / "backup.json"), type=Backup)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"it is no backup: {error}", where=str(source)) from error
    if backup.format != FORMAT:
        raise DataError(
            f"it has format {backup.format}, and this Noria reads {FORMAT}",
            where=str(source),
            mend="use the version that wrote it",
        )
    root = source / "files"
    if {file.path for file in backup.files} != set(_names(root)):
        raise DataError("files are missing or superfluous", where=str(source), mend="use another backup")
    for file in backup.files:
        if _described(root, file.path) != file:
            raise DataError("it is damaged", where=str(root / file.path), mend="use another backup")
        if _is_database(root / file.path):
            with _database(root / file.path) as database:
                said = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if said != "ok":
                raise DataError(
                    f"it is damaged: {said}", where=str(root / file.path), mend="use another backup"
                )
    return backup


def restore(source: Path, folder: Path) -> Backup:
    """Make the folder of a service from a backup that was verified; it appears whole or not at all.

    Args:
        source: folder of the backup.
        folder: folder to make, which must not be there.

    Raises:
        DataError: the backup is damaged (:func:`verify`).
        RunError: the folder is there, or the disk refuses.
    """
    folder = Path(folder)
    if folder.exists():
        raise RunError("it is there already", where=str(folder), mend="move it away first")
    backup = verify(source)
    with appearing(folder) as partial:
        for file in backup.files:
            _copy_file(Path(source) / "files" / file.path, inside(partial, file.path))
        copied = [_described(partial, file.path) for file in backup.files]
        if copied != list(backup.files):
            raise RunError("the copy differs from the backup", where=str(folder), mend="check the disk")
    return backup


def _names(folder: Path) -> list[str]:
    """Paths of the files within a folder, without locks and what is half-written, in order."""
    names = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if ".partial-" not in name and ".old-" not in name]
        for name in files:
            path = Path(root) / name
            if name != ".lock" and ".tmp-" not in name and path.is_file() and not path.is_symlink():
                names.append(path.relative_to(folder).as_posix())
    return sorted(names)


def _described(root: Path, name: str) -> BackupFile:
    with disk_errors(root / name), (root / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return BackupFile(name, os.fstat(file.fileno()).st_size, digest)


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # it was removed while the backup ran
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except FileNotFoundError:
        return False


def _copy_database(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _database(source) as database, _database(target) as copy:
        database.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file; it is set anew when the service opens it


@contextlib.contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
            yield database
    except sqlite3.DatabaseError as error:
        raise DataError(f"the database cannot be read: {error}", where=str(path)) from error
