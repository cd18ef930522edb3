"""Processes beside a service: kept running, given their settings as a line of stdin, ended by its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before a process is started again: after its first end, and at most."""
log = logging.getLogger("noria.serving")
Process = asyncio.subprocess.Process


async def keep_running(
    name: str,
    arguments: list[str],
    settings: Callable[[], str],
    *,
    started: Callable[[], object] = lambda: None,
    read: Callable[[Process], Awaitable[Any]] | None = None,
    farewell: float = 10.0,
) -> None:
    """Keep a module of Python running until cancelled; one that ends is started again, each time later.

    Args:
        name: name of the process, for the log.
        arguments: module and arguments, as after `python -m`.
        settings: makes the line of settings.
        started: hears of each start.
        read: reads what the process writes, until it ends; None leaves its stdout to it.
        farewell: seconds that it has to end by itself.
    """
    clock = asyncio.get_running_loop().time
    wait = FIRST_WAIT
    while True:
        began = clock()
        try:
            started()
            end = f"ended with {await _run(arguments, settings(), read, farewell)}"
        except OSError as error:
            end = f"cannot be started: {error}"
        wait = FIRST_WAIT if clock() - began > LONGEST_WAIT else wait
        log.warning("%s %s; it is started again in %.0f s", name, end, wait)
        await asyncio.sleep(wait)
        wait = min(LONGEST_WAIT, 2 * wait)


async def _run(
    arguments: list[str], settings: str, read: Callable[[Process], Awaitable[Any]] | None, farewell: float
) -> int:
    """Run a process once, and return its exit code; cancelled, have it end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, limit=1 << 24,
        stdin=asyncio.subprocess.PIPE, stdout=None if read is None else asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await give_settings(process, settings)
        if read is not None:
            await read(process)
        return await process.wait()
    finally:
        await end_child(process, farewell)


async def give_settings(process: Process, settings: str) -> None:
    """Give a process a line of settings; one that has ended already shows in its exit code."""
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(settings.encode() + b"\n")
        await process.stdin.drain()


async def end_child(process: Process, seconds: float) -> None:
    """End a process by the end of its stdin, and wait; one that takes longer is killed."""
    assert process.stdin is not None
    process.stdin.close()
    await wait_or_kill(process, seconds)


async def wait_or_kill(process: Process, seconds: float) -> None:
    """Wait for a process that was sent a signal to end; kill it if it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
