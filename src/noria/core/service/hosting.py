"""The process of a service: where it listens, its token, how it stops.

It listens on loopback; any other host needs a token. On SIGTERM or SIGINT it takes no more connections, finishes the
requests under way and exits with 0; a second signal ends it at once.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol, cast

from noria.core.errors import ConfigError, DataError, RunError, needing
from noria.core.files import disk_errors, read_text
from noria.core.service.serving import Limits, Route, Service

with needing("serve"):
    import prometheus_client
    import uvicorn

    from noria.core.service.protocol import BoundedProtocol, raise_file_limit

TOKEN = "NORIA_TOKEN"
"""The environment variable that holds a service's token."""
ANNOUNCEMENT = "serving on "
"""Words before the address, in the line by which a service says that it listens."""
_DRAIN_SECONDS = 20


def read_token(file: Path | None = None, *, variable: str = TOKEN) -> str | None:
    """Read the token of a service: from the file, else from the environment, else None.

    It is never an argument of a command, which every user of the machine could read.

    Raises:
        ConfigError: the file cannot be read, or the token is too short or not a single word.
    """
    if file is not None:
        try:
            text, where = read_text(file, limit=4096), str(file)
        except DataError as error:
            raise ConfigError(
                f"cannot read the token: {error.what}", where=error.where, mend=error.mend
            ) from None
    elif variable in os.environ:
        text, where = os.environ[variable], f"environment variable {variable}"
    else:
        return None
    token = text.strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            "a token is one word of at least 16 ASCII characters",
            where=where,
            mend="make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return token


def serve(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Run a service until a signal stops it. Once it listens, it announces its address in one line.

    Args:
        service: service to run.
        host: host to listen on.
        port: port to listen on; 0 for any that is free.
        announce: takes the line; by default it is printed.

    Raises:
        ConfigError: no such host, a port in use, or a host beyond loopback without a token.
        NoriaError: what kept the service from starting, or from ending cleanly.
    """
    listening = _listen(service, host, port)
    server = _Server(service, listening, announce or functools.partial(print, flush=True), alone=True)
    _log_to_stderr()
    raise_file_limit()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        server.run(sockets=[listening])
    except SystemExit:
        if service.failure is None:
            raise RunError(f"{service.name} could not start", where=f"{host}:{port}") from None
    finally:
        listening.close()
    if service.failure is not None:
        raise service.failure


class Place(Protocol):
    """Where a service listens, and the file of its token: what `noria.verbs.options.ListenOptions` declares."""

    @property
    def host(self) -> str:
        """Address to listen on."""

    @property
    def port(self) -> int:
        """Port to listen on; 0 takes a free one."""

    @property
    def token_file(self) -> Path | None:
        """File of the token; None takes the environment variable."""


def serve_routes(
    name: str,
    routes: Sequence[Route],
    place: Place,
    *,
    limits: Limits | None = None,
    around: Callable[[Service], AbstractAsyncContextManager[Any]] | None = None,
    folder: Path | None = None,
) -> None:
    """Make a service of routes, and run it until a signal stops it.

    Args:
        name: name of the service.
        routes: routes of the service.
        place: where it listens.
        limits: sizes and times of its requests.
        around: what is open while it runs.
        folder: folder that it writes to, made once the token is known to be good.

    Raises:
        NoriaError: what keeps it from starting.
    """
    token = read_token(place.token_file)
    if folder is not None:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    service = Service(name, routes, token=token, limits=limits, around=around)
    serve(service, host=place.host, port=place.port)


@contextlib.contextmanager
def running(service: Service, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Run a service on a thread of this process, for tests and measurements; gives its address.

    Raises:
        NoriaError: what kept the service from starting.
    """
    listening = _listen(service, host, port)
    settled = threading.Event()  # it listens, or it has failed
    announced: list[str] = []

    def announce(line: str) -> None:
        announced.append(line)
        settled.set()

    server = _Server(service, listening, announce)

    def run() -> None:
        with contextlib.suppress(SystemExit):
            server.run(sockets=[listening])
        settled.set()

    thread = threading.Thread(target=run, name=f"{service.name} service", daemon=True)
    thread.start()
    settled.wait()
    try:
        if not announced:
            thread.join()
            raise service.failure or RunError(f"{service.name} could not start")
        yield announced[0].removeprefix(ANNOUNCEMENT)
    finally:
        service.draining = server.should_exit = True
        thread.join()
        listening.close()


@dataclass
class Launched:
    """A service in a process of its own.

    Attributes:
        url: address of the service.
        process: process of the service.
        errors: file that holds its stderr.
    """

    url: str
    process: subprocess.Popen[str]
    errors: Path

    def stop(self, *, seconds: float = 30.0) -> int:
        """Ask the process to end, wait, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextlib.contextmanager
def launched(
    command: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    seconds: float = 60.0,
    leash: bool = False,
) -> Iterator[Launched]:
    """Start a command that serves, and wait until it announces its address. It is killed at the end of the block.

    Args:
        command: program and arguments of a process that calls `serve`.
        folder: folder for the file of its stderr.
        env: variables to add to the environment.
        seconds: longest time until it announces its address.
        leash: whether its stdin is a pipe of this process's, for a command that ends with its stdin; at the end of the
            block the pipe is closed, and the command is killed where it does not end within fifteen seconds.

    Raises:
        RunError: it ended, or did not announce an address in time.
    """
    errors = Path(folder) / f"stderr-{time.monotonic_ns()}.txt"
    with errors.open("wb") as sink:
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE if leash else None, stdout=subprocess.PIPE, stderr=sink, text=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    try:
        yield Launched(_await_line(process, seconds, errors), process, errors)
    finally:
        if process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _await_line(process: subprocess.Popen[str], seconds: float, errors: Path) -> str:
    addresses: list[str] = []

    def read(stream: IO[str]) -> None:
        for line in stream:
            if line.startswith(ANNOUNCEMENT):
                addresses.append(line.removeprefix(ANNOUNCEMENT).strip())
                return

    assert process.stdout is not None
    reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
    reader.start()
    reader.join(seconds)
    if not addresses:
        process.kill()
        process.wait()
        lines = errors.read_text(errors="replace").strip().splitlines()
        raise RunError(f"it did not start to serve: {lines[-1] if lines else 'its stderr is empty'}")
    return addresses[0]


# -- the server -------------------------------------------------------------------------------------------------------


def _listen(service: Service, host: str, port: int) -> socket.socket:
    """Open a socket on the host, and set whether the service can be reached from other machines."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ConfigError(f"there is no host {host!r}", where="--host") from None
    family, kind, protocol, _, address = addresses[0]
    service.private = not ipaddress.ip_address(address[0]).is_loopback
    if service.private and service.token is None:
        raise ConfigError(
            f"{host} can be reached from other machines, and there is no token",
            where="--host",
            mend=f"set the environment variable {TOKEN}, or give --token-file",
        )
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}", where="--port", mend="give another port"
        ) from None
    return listening


def _log_to_stderr() -> None:
    """Send the log of the service to stderr, unless the program has configured logging itself."""
    logger = logging.getLogger("noria.serving")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


class _Server(uvicorn.Server):
    """Uvicorn's server, which announces its address, marks the service as draining, and exits with 0 after a signal."""

    def __init__(
        self,
        service: Service,
        listening: socket.socket,
        announce: Callable[[str], None],
        *,
        alone: bool = False,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                service,
                http=BoundedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_DRAIN_SECONDS,
            )
        )
        self.service = service
        self.listening = listening
        self.announce = announce
        self.alone = alone

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.alone:  # the objects of startup live on: a collection that scans them would delay a request
            gc.collect()
            gc.freeze()
        host, port = self.listening.getsockname()[:2]
        self.announce(f"{ANNOUNCEMENT}http://{f'[{host}]' if ':' in host else host}:{port}")

    async def on_tick(self, counter: int) -> bool:
        if not counter % 10:  # once a second
            for connection in list(self.server_state.connections):
                cast(BoundedProtocol, connection).end_unread()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.service.draining = self.should_exit = True
