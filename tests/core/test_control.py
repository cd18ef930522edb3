"""Control state: one writer wins, every version is kept, a lease has one holder; the same on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noria.core.errors import ConfigError, RunError
from noria.core.storage.control import SQLControl, SQLiteControl, StaleVersion
from noria.core.storage.postgres import PostgresControl, _settings
from tests.postgres import postgres_server


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], SQLControl]]:
    """Opens the same state once more, as another process would."""
    stores: list[SQLiteControl | PostgresControl] = []

    def make() -> SQLControl:
        if request.param == "sqlite":
            stores.append(SQLiteControl(tmp_path / "control.sqlite"))
        else:
            stores.append(PostgresControl(request.getfixturevalue("postgres")))
        return stores[-1]

    if request.param == "postgres":
        first = make()
        first.execute("DELETE FROM documents WHERE kind <> ? RETURNING kind", ("",))
        first.execute("DELETE FROM leases WHERE name <> ? RETURNING name", ("",))
    yield make
    for store in stores:
        store.close()


def test_a_change_rests_on_what_its_writer_saw(opened: Callable[[], SQLControl]) -> None:
    one, other = opened(), opened()
    assert one.read("pointer", "champion") is None
    first = one.write("pointer", "champion", {"bundle": "a", "名": "ä"}, based_on=0, by="ann")
    seen = other.read("pointer", "champion")
    assert seen is not None
    assert (seen.version, seen.value, seen.by) == (1, {"bundle": "a", "名": "ä"}, "ann")
    assert seen.at == pytest.approx(first.at)
    other.write("pointer", "champion", {"bundle": "b"}, based_on=1, by="bob")
    with pytest.raises(
        StaleVersion, match=r"pointer champion: it is at version 2, and the change is based on 1"
    ):
        one.write("pointer", "champion", {"bundle": "c"}, based_on=1, by="ann")
    assert [version.value for version in one.history("pointer", "champion")] == [
        {"bundle": "a", "名": "ä"},
        {"bundle": "b"},
    ]


def test_a_removed_document_keeps_its_history(opened: Callable[[], SQLControl]) -> None:
    store = opened()
    store.write("switch", "learning", {"on": True}, based_on=0, by="ann")
    store.write("switch", "freeze", {"on": False}, based_on=0, by="ann")
    store.write("switch", "learning", None, based_on=1, by="ann")
    assert [document.key for document in store.read_all("switch")] == ["freeze"]
    gone = store.read("switch", "learning")
    assert gone is not None
    assert (gone.version, gone.value) == (2, None)
    store.write("switch", "learning", {"on": True}, based_on=2, by="ann")
    assert len(store.history("switch", "learning")) == 3


def test_of_writers_at_once_one_wins_each_version(opened: Callable[[], SQLControl]) -> None:
    stores = [opened() for _ in range(4)]
    wins: list[tuple[int, int]] = []

    def work(number: int) -> None:
        for _ in range(25):
            seen = stores[number].read("experiment", "e")
            try:
                written = stores[number].write(
                    "experiment", "e", {"by": number}, based_on=seen.version if seen else 0, by=str(number)
                )
                wins.append((written.version, number))
            except StaleVersion:
                pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = stores[0].history("experiment", "e")
    assert sorted(wins) == [(d.version, int(d.by)) for d in history]
    assert [d.version for d in history] == list(range(1, len(history) + 1))


def test_a_thinned_history_keeps_its_ends_and_its_writers(opened: Callable[[], SQLControl]) -> None:
    store = opened()
    for version in range(30):
        store.write("experiment", "thin", {"n": version}, based_on=version, by="ann")
        store.write("experiment", "other", {"n": version}, based_on=version, by="ann")
    assert store.thin("experiment", "thin", keep=5) == 24
    assert [one.version for one in store.history("experiment", "thin")] == [1, 26, 27, 28, 29, 30]
    assert store.thin("experiment", "thin", keep=5) == 0
    assert len(store.history("experiment", "other")) == 30
    store.write("experiment", "other", {}, based_on=30, by="bob")
    assert store.thin("experiment", "other", keep=0, by="bob") == 1, "what ann wrote stays"
    assert len(store.history("experiment", "other")) == 30
    assert store.write("experiment", "thin", {}, based_on=30, by="ann").version == 31


def test_a_lease_has_one_holder_and_a_token_that_grows(opened: Callable[[], SQLControl]) -> None:
    one, other = opened(), opened()
    first = one.acquire("turn", "one", seconds=60)
    assert first is not None
    assert other.acquire("turn", "other", seconds=60) is None
    again = one.acquire("turn", "one", seconds=60)
    assert again is not None
    assert again.token == first.token
    assert again.until >= first.until
    one.release(first)
    second = other.acquire("turn", "other", seconds=60)
    assert second is not None
    assert second.token == first.token + 1
    one.release(first)  # too late: it is another's
    assert one.acquire("turn", "one", seconds=60) is None


def test_a_lease_ends_by_the_clock(tmp_path: Path) -> None:
    now = [100.0]
    store = SQLiteControl(tmp_path / "control.sqlite", clock=lambda: now[0])
    assert store.acquire("turn", "one", seconds=10) is not None
    now[0] = 109.9
    assert store.acquire("turn", "other", seconds=10) is None
    now[0] = 110.0
    assert store.acquire("turn", "other", seconds=10) is not None
    store.close()


def test_a_value_that_is_no_json_or_too_large_is_refused(opened: Callable[[], SQLControl]) -> None:
    store = opened()
    for value, words in (({"x": float("nan")}, "no JSON"), ({"x": object()}, "no JSON"),
                         ({"x": "y" * 2_000_000}, "bytes"), ({"x": "\ud800"}, "no JSON")):  # fmt: skip
        with pytest.raises(RunError, match=words):
            store.write("k", "k", value, based_on=0, by="ann")
    assert store.read("k", "k") is None


def test_a_store_that_is_away_is_one_line_and_comes_back(postgres: str) -> None:
    with pytest.raises(RunError, match="PostgreSQL at"):
        PostgresControl("postgresql://noria@127.0.0.1:1/postgres")
    store = PostgresControl(postgres)
    store.write("k", "away", {"n": 1}, based_on=0, by="ann")
    other = PostgresControl(postgres)
    other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = ?",
        ("noria",),
    )
    with pytest.raises(RunError, match="control state cannot be used"):
        store.read("k", "away")
    found = store.read("k", "away")
    assert found is not None
    assert found.value == {"n": 1}
    store.close()
    other.close()


def test_addresses_are_read_or_refused(tmp_path: Path) -> None:
    assert _settings("postgresql://a:p%40ss@db.example:6543/noria") == {
        "user": "a", "password": "p@ss", "host": "db.example", "port": 6543, "database": "noria",
    }  # fmt: skip
    for url in ("", "mysql://a@b/c", "postgresql://a@b", "postgresql://a@b:x/c"):
        with pytest.raises(ConfigError, match="no address of a database"):
            _settings(url)
    (tmp_path / "text").write_text("not a database" * 100)
    with pytest.raises(RunError, match="cannot be used"):
        SQLiteControl(tmp_path / "text")
