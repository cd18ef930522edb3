"""Control state in PostgreSQL, shared by the services of several machines."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from noria.core.errors import ConfigError, RunError, needing
from noria.core.storage.control import TABLES, SQLControl

if TYPE_CHECKING:
    import pg8000.dbapi


class PostgresControl(SQLControl):
    """Control state in a database of PostgreSQL 12 or later; the server's clock is the one that counts.

    A connection that was lost is made anew for the next statement.
    """

    def __init__(self, url: str) -> None:
        """Connect, and make the tables where they are not there.

        Args:
            url: address as in `postgresql://user:password@host:5432/database`; `?host=/folder` names a Unix socket.

        Raises:
            ConfigError: the address cannot be read.
            RunError: the server refuses.
            MissingExtra: `pg8000` is not installed.
        """
        self._settings = _settings(url)
        self._where = f"PostgreSQL at {self._settings.get('unix_sock') or self._settings['host']}"
        self._one_at_a_time = threading.Lock()
        self._database: pg8000.dbapi.Connection | None = None
        self._run(TABLES, ())

    def execute(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Do what :meth:`SQLControl.execute` says."""
        return self._run(query.replace("?", "%s"), values)

    def now(self) -> float:
        """Do what :meth:`SQLControl.now` says."""
        return float(self._run("SELECT extract(epoch FROM clock_timestamp())", ())[0][0])

    def close(self) -> None:
        """Close the connection."""
        if self._database is not None:
            with contextlib.suppress(Exception):
                self._database.close()
            self._database = None

    def _run(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._one_at_a_time, self._errors():
            if self._database is None:
                with needing("postgres"):
                    import pg8000.dbapi
                self._database = pg8000.dbapi.connect(timeout=10, **self._settings)
                self._database.autocommit = True
            cursor = self._database.cursor()
            cursor.execute(query, tuple(values))
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what the server or the network refuses as one line; a lost connection is made anew next time."""
        with needing("postgres"):
            import pg8000.exceptions
        try:
            yield
        except (pg8000.exceptions.DatabaseError, pg8000.exceptions.InterfaceError, OSError) as error:
            said = error.args[0] if error.args else error
            text = said.get("M", said) if isinstance(said, dict) else said
            if not isinstance(error, pg8000.exceptions.DatabaseError):
                self.close()
            raise RunError(f"the control state cannot be used: {text}", where=self._where) from error


def _settings(url: str) -> dict[str, Any]:
    """Arguments of a connection from its address.

    Raises:
        ConfigError: it is no address of PostgreSQL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        parts, port = urlsplit(""), 0
    name = parts.path.removeprefix("/")
    if parts.scheme not in ("postgresql", "postgres") or not name:
        raise ConfigError(
            "it is no address of a database",
            where="control",
            mend="write postgresql://user:password@host:5432/database",
        )
    settings: dict[str, Any] = {"user": unquote(parts.username or ""), "database": unquote(name)}
    if parts.password:
        settings["password"] = unquote(parts.password)
    folder = dict(pair.partition("=")[::2] for pair in parts.query.split("&")).get("host")
    if folder:
        return settings | {"unix_sock": f"{unquote(folder)}/.s.PGSQL.{port}"}
    return settings | {"host": parts.hostname or "localhost", "port": port}
