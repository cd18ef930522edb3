"""A PostgreSQL server of this machine, started as an ordinary user on a socket; for the tests of shared control."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def as_user(*command: object) -> list[str]:
    """The command as an ordinary user: PostgreSQL refuses to run as root."""
    start = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
    return [*start, *map(str, command)]


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Address of a fresh database; the test is skipped where the server is not installed."""
    if not SERVERS:
        pytest.skip("PostgreSQL's server is not installed")
    home = Path(tempfile.mkdtemp(prefix="noria-pg-", dir="/tmp"))  # sockets need a short path
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
    binaries = SERVERS[-1].parent
    log = home / "log"
    run = {"check": True, "capture_output": True, "cwd": home}
    try:
        subprocess.run(
            as_user(binaries / "initdb", "-D", home / "data", "-U", "noria", "-A", "trust"),
            **run,  # type: ignore[call-overload]
        )
        options = f"-c listen_addresses= -c unix_socket_directories={home} -c fsync=off"
        subprocess.run(
            as_user(binaries / "pg_ctl", "-D", home / "data", "-l", log, "-w", "-o", options, "start"),
            **run,  # type: ignore[call-overload]
        )
        yield f"postgresql://noria@/postgres?host={home}"
    finally:
        subprocess.run(
            as_user(binaries / "pg_ctl", "-D", home / "data", "-m", "immediate", "stop"),
            check=False,
            capture_output=True,
            cwd="/",
        )
        shutil.rmtree(home, ignore_errors=True)
