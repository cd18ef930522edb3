"""Turns that start by themselves: the companion asks the schedule, and runs a turn in a process of its own."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from noria.assistant.config import AssistantConfig
from noria.assistant.folder import TURNS_FOLDER
from noria.assistant.service.bundles import EXPERIMENT
from noria.core.errors import RunError
from noria.core.experiments.lifecycle import OPEN
from noria.core.files import disk_errors, lock
from noria.core.learning.plan import Outcome
from noria.core.learning.scheduling.schedule import Due, next_turn
from noria.core.learning.scheduling.signals import read_signals
from noria.core.service.children import end_child, give_settings
from noria.core.storage.control import Control
from noria.core.traces.index.index import TraceIndex

EVERY = 10.0
"""Seconds between two questions to the schedule."""
_ENDS = tuple(f"{outcome}: " for outcome in get_args(Outcome))
RETRY = 60.0
"""Seconds after which a turn that failed is tried again; twice as long each time, up to an hour."""


class Turns:
    """Starts turns when they are due, one at a time, and resumes what was interrupted.

    Args:
        folder: folder of the gateway.
        config: settings of the gateway, whose `learning.schedule` says when a turn is due.
        control: turns, experiments and switches.
        tell: hears what begins, ends and fails.
    """

    def __init__(
        self, folder: Path, config: AssistantConfig, control: Control, tell: Callable[..., None]
    ) -> None:
        self.folder, self.config, self.control, self.tell = Path(folder), config, control, tell
        self._process: asyncio.subprocess.Process | None = None
        self._next, self._wait = 0.0, RETRY
        path = self.folder / TURNS_FOLDER / "log.txt"
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            self._log = path.open("a+b")  # what turns print, kept for whoever asks why one failed
        self._began = 0

    async def step(self, index: TraceIndex) -> None:
        """Look whether the turn that runs has ended, and start one that is due."""
        if self._process is not None:
            if self._process.returncode is None:
                return
            await self._end(self._process)
        if self.config.learning.schedule is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        due = await asyncio.to_thread(self.due, index)
        if due.action != "wait":
            self.tell("turn", action=due.action, reason=due.reason)
            await self._start(due.reason)

    def due(self, index: TraceIndex) -> Due:
        """Ask the schedule whether a turn is due. A new turn waits while an experiment is open."""
        schedule = self.config.learning.schedule
        if schedule is None:
            return Due("wait", "there is no schedule")
        signals = read_signals(index, self.control, time.time())
        due = next_turn(schedule, signals)
        if due.action == "resume" and not self._is_ours(signals.open or 0):
            return Due("wait", f"turn {signals.open} is another process's")
        if due.action == "start":
            for document in self.control.read_all(EXPERIMENT):
                if (document.value or {}).get("stage") in OPEN:
                    return Due("wait", f"the experiment {document.key} is open")
        return due

    def _is_ours(self, number: int) -> bool:
        """Whether a turn that is open belongs to this folder, and no process works at it."""
        folder = self.folder / TURNS_FOLDER / f"{number:06d}"
        if not folder.is_dir():  # it was killed before it had one, or it is another gateway's
            return self.config.control_env is None
        try:
            with lock(folder):
                return True
        except RunError:
            return False

    async def _start(self, reason: str) -> None:
        self._began = self._log.seek(0, 2)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "noria.assistant.learning", str(self.folder), reason,
            stdin=asyncio.subprocess.PIPE, stdout=self._log, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        await give_settings(self._process, self.config.model_dump_json())

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._process = None
        self._log.seek(self._began)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        if process.returncode == 0:
            self._wait = RETRY
            for line in said:
                if line.startswith("turn "):  # an earlier one that could not resume
                    self.tell("turn stopped", reason=line)
            self.tell("turn ended", outcome=next((line for line in said if line.startswith(_ENDS)), ""))
            return
        self._next = time.monotonic() + self._wait
        self._wait = min(3600.0, 2 * self._wait)
        self.tell("turn failed", code=process.returncode, error=said[-1][:500] if said else "")

    async def close(self) -> None:
        """End the process of a turn; it resumes when it is started again."""
        self._log.close()
        process = self._process
        if process is None or process.returncode is not None:
            return
        await end_child(process, 5)
