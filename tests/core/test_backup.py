"""A backup of a folder at work holds what was acknowledged, and becomes a service; older formats are migrated."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from noria.core.errors import DataError, NoriaError, RunError
from noria.core.storage.backup import back_up, restore, verify
from noria.core.storage.control import SQLiteControl
from noria.core.storage.journal import Journal
from noria.core.storage.journal_file import FORMAT, NAME, JournalReader, blob_digest
from noria.core.versions.artefacts import ArtefactStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def bodies(folder: Path) -> list[bytes]:
    with JournalReader(folder) as reader:
        return [frame.body for frame in reader.frames()]


async def test_a_backup_under_load_holds_everything_acknowledged_and_restores(tmp_path: Path) -> None:
    folder = tmp_path / "service"
    picture = b"pixels" * 9000
    control = SQLiteControl(folder / "control.sqlite")
    (folder / "index.sqlite").write_bytes(b"made again")
    (folder / "jobs" / "one").mkdir(parents=True)
    (folder / "jobs" / "one" / "state.json").write_text("{}")
    acknowledged: list[bytes] = []
    with Journal(folder) as journal:
        stop = False

        async def caller(name: int) -> None:
            n = 0
            while not stop:
                body = b"%d %d" % (name, n)
                await journal.append(body, blobs={blob_digest(picture): picture})
                acknowledged.append(body)
                n += 1
                # A pointer never names what is not there: the artefact is written first.
                (folder / "versions").mkdir(exist_ok=True)
                (folder / "versions" / f"{name}-{n}").write_bytes(body)
                control.write("pointer", f"{name}", {"to": f"{name}-{n}"}, based_on=n - 1, by="test")

        callers = [asyncio.ensure_future(caller(name)) for name in range(4)]
        while len(acknowledged) < 50:
            await asyncio.sleep(0.01)
        before = list(acknowledged)
        await asyncio.to_thread(back_up, folder, tmp_path / "backup")
        assert len(acknowledged) > len(before)  # nobody waited
        stop = True
        await asyncio.gather(*callers)
    control.close()
    backup = verify(tmp_path / "backup")
    names = {file.path for file in backup.files}
    assert {"journal.sqlite", "control.sqlite", "jobs/one/state.json"} <= names
    assert not any("wal" in name or "lock" in name or "index" in name for name in names)
    restore(tmp_path / "backup", tmp_path / "again")
    kept = bodies(tmp_path / "again")
    assert set(before) <= set(kept)
    assert kept == bodies(folder)[: len(kept)]
    again = SQLiteControl(tmp_path / "again" / "control.sqlite")
    for document in again.read_all("pointer"):
        assert (tmp_path / "again" / "versions" / (document.value or {})["to"]).is_file()
    again.close()
    with Journal(tmp_path / "again") as journal, JournalReader(tmp_path / "again") as reader:
        assert await journal.append(b"after") == len(kept) + 1
        assert reader.blob(blob_digest(picture)) == picture


def test_a_damaged_backup_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "service"
    with Journal(folder):
        pass
    (folder / "versions").mkdir()
    (folder / "versions" / "weights").write_bytes(bytes(1000))
    back_up(folder, tmp_path / "backup")
    weights = tmp_path / "backup" / "files" / "versions" / "weights"
    for content in (bytes(999) + b"\1", bytes(999), None):
        if content is None:
            weights.unlink()
        else:
            weights.write_bytes(content)
        with pytest.raises(DataError, match=r"damaged|missing"):
            restore(tmp_path / "backup", tmp_path / "again")
        assert not (tmp_path / "again").exists()
    weights.write_bytes(bytes(1000))
    (weights.parent / "foreign").write_bytes(b"")
    with pytest.raises(DataError, match="superfluous"):
        verify(tmp_path / "backup")
    (weights.parent / "foreign").unlink()
    manifest = tmp_path / "backup" / "backup.json"
    text = manifest.read_text()
    for changed in (
        text.replace('"format": 1', '"format": 9'),
        "{",
        text.replace("versions/weights", "../../weights"),
    ):
        manifest.write_text(changed)
        with pytest.raises(DataError):
            restore(tmp_path / "backup", tmp_path / "again")
    manifest.write_text(text)
    restore(tmp_path / "backup", tmp_path / "again")
    with pytest.raises(RunError, match="already"):
        restore(tmp_path / "backup", tmp_path / "again")


def test_places_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        back_up(tmp_path / "nothing", tmp_path / "backup")
    with Journal(tmp_path / "service"):
        pass
    for target in (tmp_path / "service", tmp_path / "service" / "backup"):
        with pytest.raises(RunError, match="already, or within"):
            back_up(tmp_path / "service", target)
    with pytest.raises(NoriaError):
        verify(tmp_path / "service")
    assert not (tmp_path / "service" / "backup").exists()


def test_a_backup_of_the_real_artefact_store_restores_byte_for_byte(tmp_path: Path) -> None:
    folder = tmp_path / "service"
    ArtefactStore(folder / "versions")
    (folder / "versions" / "artefacts").mkdir(parents=True, exist_ok=True)
    (folder / "versions" / "artefacts" / "a").write_bytes(b"\0\1\2")
    back_up(folder, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "again")
    assert (tmp_path / "again" / "versions" / "artefacts" / "a").read_bytes() == b"\0\1\2"


# -- older formats ----------------------------------------------------------------------------------------------------

VERSION_1 = """
PRAGMA page_size = 16384; PRAGMA journal_mode = WAL;
CREATE TABLE frames (sequence INTEGER PRIMARY KEY, subject TEXT, body BLOB, digest INTEGER);
CREATE INDEX frames_subject ON frames (subject) WHERE subject IS NOT NULL;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, body BLOB NOT NULL, expires INTEGER) WITHOUT ROWID;
CREATE INDEX blobs_expires ON blobs (expires) WHERE expires IS NOT NULL;
INSERT INTO frames VALUES (1, 'a', 'first', 4243013880), (2, NULL, NULL, NULL), (3, 'b', 'third', 1);
PRAGMA application_id = 1313821257; PRAGMA user_version = 1;
"""


async def test_a_journal_of_version_one_is_read_as_it_is_and_migrated_by_its_writer(tmp_path: Path) -> None:
    import zlib

    database = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    database.executescript(VERSION_1)
    for sequence, body in ((1, b"first"), (3, b"third")):
        database.execute(
            "UPDATE frames SET body = ?, digest = ? WHERE sequence = ?", (body, zlib.crc32(body), sequence)
        )
    with JournalReader(tmp_path) as reader:  # before any writer of this version
        assert [frame.body for frame in reader.frames()] == [b"first", b"third"]
        assert reader.removed(16) == {0: 1}
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    with Journal(tmp_path) as journal, JournalReader(tmp_path) as reader:
        assert journal._database.execute("PRAGMA user_version").fetchone()[0] == FORMAT == 2
        plan = journal._database.execute(
            "EXPLAIN QUERY PLAN SELECT count(*) FROM frames WHERE body IS NULL"
        ).fetchall()
        assert "frames_removed" in str(plan)
        assert await journal.append(b"fourth") == 4
        assert reader.removed(2) == {0: 1}
    assert bodies(tmp_path) == [b"first", b"third", b"fourth"]
    with Journal(tmp_path):  # a second start finds nothing to do
        pass


def test_a_migration_killed_midway_leaves_the_old_format(tmp_path: Path) -> None:
    from noria.core.storage.journal_file import migrate

    database = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    database.executescript(VERSION_1)
    with pytest.raises(sqlite3.OperationalError):
        migrate(database, 3, {1: "CREATE INDEX x ON frames (digest);", 2: "CREATE TABLE y (z); BROKEN;"})
    database.close()
    database = sqlite3.connect(tmp_path / NAME)
    assert database.execute("PRAGMA user_version").fetchone()[0] == 2
    names = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    assert "x" in names
    assert "y" not in names
    database.close()


def test_control_without_a_version_gets_one_and_a_later_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE documents (kind TEXT NOT NULL, key TEXT NOT NULL, version BIGINT NOT NULL, value TEXT,"
        " author TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, PRIMARY KEY (kind, key, version));"
        "INSERT INTO documents VALUES ('pointer', 'champion', 1, '{\"to\": 1}', 'ann', 5.0);"
    )
    database.close()
    control = SQLiteControl(path)
    document = control.read("pointer", "champion")
    assert document is not None
    assert document.value == {"to": 1}
    assert control.execute("PRAGMA user_version", ()) == [(1,)]
    control.execute("PRAGMA user_version = 7", ())
    control.close()
    with pytest.raises(RunError, match="format 7"):
        SQLiteControl(path)
