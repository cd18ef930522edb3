"""Servers that the gateway starts itself: kept running, ended with it, each with a log in the folder.

A command is a list of words and no shell reads it. It announces its address in a line (`serving on http://…`), as all
servers of Noria do, unless the configuration says where it listens. One that ends is started again, each time later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from noria.assistant.config import AssistantConfig
from noria.core.errors import RunError
from noria.core.service.children import wait_or_kill
from noria.core.service.hosting import ANNOUNCEMENT, TOKEN

KEEPER = Path(__file__).with_name("keeper.py")
LARGEST_LOG = 8 << 20
"""Bytes of a log above which it is kept aside, once, and begun anew."""
SLOWEST_START = 900.0
"""Seconds after which a server that announced no address is started again."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
State = Literal["starting", "serving", "down"]
log = logging.getLogger("noria.serving")


@dataclass
class StartedServer:
    """One server, and how it is.

    Attributes:
        name: name of the tool or backend that it is for.
        command: program and arguments.
        home: folder of the log.
        url: address that the configuration gives; None where the server announces it.
        hidden: environment variables that the server does not get.
        token: secret that the server gets as its own, and that its calls carry.
        state: state of the server, such as starting or serving.
        address: address at which it serves.
        why: last line of its log where it is down.
        starts: number of times that it was started.
        since: second since 1970 of the last change of its state.
    """

    name: str
    command: Sequence[str]
    home: Path
    url: str | None = None
    hidden: Collection[str] = ()
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    state: State = field(default="starting", init=False)
    address: str | None = field(default=None, init=False)
    why: str = field(default="", init=False)
    starts: int = field(default=0, init=False)
    since: float = field(default_factory=time.time, init=False)

    @property
    def log_file(self) -> Path:
        """File of what the server writes."""
        return self.home / f"{self.name}.log"

    def locate(self) -> tuple[str, Mapping[str, str]]:
        """Address of the server, and the headers of a call.

        Raises:
            RunError: it does not serve now.
        """
        if self.state != "serving" or self.address is None:
            raise RunError(f"its server is {self.state}", where=self.name, mend=f"see {self.log_file.name}")
        return self.address, {"authorization": f"Bearer {self.token}"}

    async def run(self) -> None:
        """Keep it running until the task is cancelled."""
        wait, clock = FIRST_WAIT, asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                code = await self._once()
            except OSError as error:
                code, self.why = 127, str(error)
            self._become("down")
            wait = FIRST_WAIT if clock() - began > LONGEST_WAIT else wait
            log.warning(
                "the server %s ended with %d (%s); started again in %.0f s", self.name, code, self.why, wait
            )
            await asyncio.sleep(wait)
            wait = min(LONGEST_WAIT, 2 * wait)

    async def _once(self) -> int:
        """Run the command once; its exit code."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._set_log_aside()
        self.starts += 1
        self._become("starting")
        environment = {k: v for k, v in os.environ.items() if k not in self.hidden} | {TOKEN: self.token}
        with self.log_file.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", str(KEEPER), *resolved(self.command, self.url), env=environment,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=sink, limit=1 << 20,
            )  # fmt: skip
            listening = asyncio.create_task(self._listen(process, sink))
            try:
                code = await process.wait()
                await asyncio.wait([listening], timeout=1.0)
                self.why = _last_line(self.log_file)
                return code
            finally:
                listening.cancel()
                assert process.stdin is not None
                process.stdin.close()  # the keeper ends with its stdin
                if process.returncode is None:
                    await asyncio.shield(wait_or_kill(process, 15))

    async def _listen(self, process: asyncio.subprocess.Process, sink: IO[bytes]) -> None:
        """Read the address that is announced, and keep whatever else is written; the log stays within its size."""
        assert process.stdout is not None
        assert process.stdin is not None
        stuck: asyncio.TimerHandle | None = None
        if self.url is not None and self.command[0] != "noria":  # it need not announce anything
            self.address = self.url
            self._become("serving")
        else:
            stuck = asyncio.get_running_loop().call_later(SLOWEST_START, process.stdin.close)
        try:
            while line := await _line(process.stdout):
                text = line.decode("utf-8", "replace")
                if self.state == "starting" and text.startswith(ANNOUNCEMENT):
                    self.address = self.url or text.removeprefix(ANNOUNCEMENT).strip()
                    self._become("serving")
                    if stuck is not None:
                        stuck.cancel()
                sink.write(line)
                sink.flush()
                self._set_log_aside()
        finally:
            if stuck is not None:
                stuck.cancel()

    def _set_log_aside(self) -> None:
        """Copy a log that is too large aside, and empty it: who writes has it open to append."""
        with contextlib.suppress(OSError):
            if self.log_file.stat().st_size > LARGEST_LOG:
                shutil.copyfile(self.log_file, self.log_file.with_suffix(".log.1"))
                os.truncate(self.log_file, 0)

    def _become(self, state: State) -> None:
        if state != "serving":
            self.address = None
        if state == "serving":
            self.why = ""
        self.state, self.since = state, time.time()


class StartedServers:
    """All servers that a gateway starts.

    Args:
        commands: command and configured address of each, by its name.
        hidden: environment variables that each does not get, by its name.
        folder: folder of the gateway.
    """

    def __init__(
        self,
        commands: Mapping[str, tuple[Sequence[str], str | None]],
        hidden: Mapping[str, Collection[str]],
        folder: Path,
    ) -> None:
        self.servers = {
            name: StartedServer(name, command, Path(folder) / "servers", url, hidden[name])
            for name, (command, url) in commands.items()
        }
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all of them, in the running event loop."""
        self._tasks = [asyncio.create_task(one.run()) for one in self.servers.values()]

    def listed(self) -> list[dict[str, Any]]:
        """Each server as JSON values, without its secret."""
        return [
            {"name": one.name, "state": one.state, "address": one.address, "why": one.why, "starts": one.starts,
             "since": one.since, "command": list(one.command), "log": str(one.log_file)}
            for one in self.servers.values()
        ]  # fmt: skip

    async def close(self) -> None:
        """End all of them, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def started_by(
    config: AssistantConfig,
) -> tuple[dict[str, tuple[Sequence[str], str | None]], dict[str, set[str]]]:
    """The commands of a configuration by their name, and the environment variables that each does not get.

    None gets the secrets of the gateway. A server of Noria's keeps the keys of models, which it may ask, too; another
    program gets no key but its own.
    """
    commands: dict[str, tuple[Sequence[str], str | None]] = {
        name: (one.start, one.url) for name, one in config.parts.tools.items() if one.start
    }
    commands |= {name: (words, config.backends[name].url) for name, words in config.start.items()}
    clickhouse = config.clickhouse.password_env if config.clickhouse else None
    secret = {*(one.token_env for one in config.callers), config.control_env, clickhouse}
    feeds = config.products.feeds.values() if config.products else ()
    # no backend that is started has the name of a tool
    owned = {name: one.key_env for name, one in config.backends.items()}
    owned |= {name: one.key_env for name, one in config.parts.tools.items()}
    keys = {*owned.values(), *(one.key_env for one in feeds)}
    hidden = {
        name: secret if words[0] == "noria" else secret | keys - {owned[name]}
        for name, (words, _) in commands.items()
    }
    return commands, {name: {one for one in names if one} for name, names in hidden.items()}


def resolved(command: Sequence[str], url: str | None = None) -> list[str]:
    """The words of a command: `noria` is this environment's, on the port of its address, else on any free one."""
    if command[0] != "noria":
        return list(command)
    port = ["--port", str((urlsplit(url).port if url else None) or 0)]
    if any(word.partition("=")[0] == "--port" for word in command):
        port = []
    return [sys.executable, "-m", "noria.cli", *command[1:], *port]


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line of a stream; one that is too long is cut into pieces."""
    try:
        return await stream.readuntil()
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.readexactly(error.consumed)


def _last_line(path: Path) -> str:
    """The last line of a log, for a person; empty where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return " ".join(lines[-1].split())[:300] if lines else ""
    return ""
