"""Kill −9 at random moments of the gateway, its companion and a turn: what was acknowledged is there, once.

Processes are the ones that users run. Callers ask, rate and promote while they are killed; each notes what was
acknowledged to it. At the end the folder is read: every trace, feedback and promotion that somebody was told of must be
in it, and no feedback twice. A turn that was killed must end with the receipt of the turn that was not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.proof.bench_serve import PEER_TOKEN
from noria.core.files import write_atomic
from noria.core.runs.workers import report
from noria.core.service.hosting import Launched, launched
from noria.core.storage.control import SQLiteControl
from noria.core.traces.store import read_views

CALLERS = 8
"""Callers that ask at once."""
ALIVE = (0.05, 0.8)
"""Seconds for which a process lives after it has begun to answer."""
ASKED = 240
"""Requests of the traffic that the killed turns learn from."""
THINGS = ("boats", "cats", "rain", "gold", "tea", "snow", "iron", "figs", "owls", "wool", "salt", "maps")
"""Words of the requests, so that they are not near duplicates."""
_NOISY = ("spent", "seconds")
"""Fields of a receipt that a kill may change: what it may have paid counts, and the work is paid again."""


@dataclass
class Acknowledged:
    """What callers were told.

    Attributes:
        traces: ids of answers.
        feedback: ids of feedback.
        moves: versions of the champion that a promotion made.
    """

    traces: set[str] = field(default_factory=set)
    feedback: set[str] = field(default_factory=set)
    moves: set[int] = field(default_factory=set)


def settings(url: str) -> dict[str, Any]:
    """Settings of the gateway that is killed: two routes, of which the second one pleases its judge."""
    checklist = [{"id": "complete", "question": "Is it complete?"}]
    experiment = {"shadow_requests": 0, "canary_units": 0, "planned": 400, "least": 30}
    return {
        "backends": {name: {"url": f"{url}/v1", "model": name} for name in ("m", "n")},
        "routes": {"a": {"backend": "m", "system": "brief"}, "b": {"backend": "m", "system": "thorough"}},
        "begin": "a",
        "judging": {"checklist": checklist, "backends": ["m"], "share": 1.0},
        "learning": {"judge": "m", "gate_judge": "n", "least_rated": 40, "experiment": experiment},
    }


def run_service_kills(kills: int, seed: int) -> dict[str, float]:
    """Kill a gateway or its companion that many times, while callers ask, rate and promote.

    Returns:
        Numbers of kills, of what was acknowledged, and of what of it was lost or is there twice.
    """
    rng, told = np.random.default_rng(seed), Acknowledged()
    with _backend() as (home, url):
        folder = home / "data"
        for kill in range(kills):
            whole = bool(rng.random() < 0.7)
            with _gateway(home, url) as process:
                asyncio.run(_callers(process, told, whole, float(rng.uniform(*ALIVE))))
            report(kill + 1, kills)
        with _gateway(home, url) as process:
            process.stop()
        return {"kills": float(kills), **_counted(folder, told)}


@contextmanager
def _backend() -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        command = [sys.executable, "-m", "noria.assistant.proof.bench_peer", "echo"]
        url = stack.enter_context(launched(command, Path(home))).url
        write_atomic(Path(home) / "noria.yaml", json.dumps(settings(url)))
        yield Path(home), url


@contextmanager
def _gateway(home: Path, url: str) -> Iterator[Launched]:
    places = ["--config", str(home / "noria.yaml"), "--folder", str(home / "data"), "--port", "0"]
    command = [sys.executable, "-m", "noria.cli", "serve", *places, "--no-access-log"]
    with launched(command, home, env={"NORIA_TOKEN": PEER_TOKEN}) as process:
        yield process


async def _callers(process: Launched, told: Acknowledged, whole: bool, seconds: float) -> None:
    """Let callers at a gateway until it is killed, or its companion is and some time has passed."""
    import aiohttp

    headers = {"authorization": f"Bearer {PEER_TOKEN}"}
    stop = asyncio.Event()

    async def caller(session: aiohttp.ClientSession, number: int) -> None:
        while not stop.is_set():
            with suppress(aiohttp.ClientError, OSError, ValueError, KeyError):
                await _call(session, number, told)

    async with aiohttp.ClientSession(process.url, headers=headers) as session:
        callers = [asyncio.create_task(caller(session, number)) for number in range(CALLERS)]
        await asyncio.sleep(seconds)
        pids = [process.process.pid] if whole else _children(process.process.pid)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not whole:
            await asyncio.sleep(seconds)
        stop.set()
        await asyncio.gather(*callers)


async def _call(session: Any, number: int, told: Acknowledged) -> None:
    """One round of a caller: ask and rate; the first caller promotes, too."""

    async def post(path: str, content: Mapping[str, Any]) -> tuple[int, Any]:
        async with session.post(path, json=content) as answer:
            return answer.status, json.loads(await answer.read())

    body = {"user": f"user {number}", "messages": [{"role": "user", "content": "x"}]}
    status, answer = await post("/v1/chat/completions", body)
    if status == 200:
        told.traces.add(answer["id"])
        status, given = await post("/v1/feedback", {"target": answer["id"], "value": 1, "client_key": "1"})
        if status == 202:
            told.feedback.add(given["id"])
    if number == 0:
        async with session.get("/v1/champion") as answered:
            present = json.loads(await answered.read())["present"]["version"]
        wish = {"bundle": "ab"[present % 2], "based_on": present, "reason": "to and fro"}
        status, move = await post("/v1/promote", wish)
        if status == 200:
            told.moves.add(int(move["version"]))


def _children(pid: int) -> list[int]:
    """Processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _counted(folder: Path, told: Acknowledged) -> dict[str, float]:
    """What was acknowledged, and what of it the folder does not hold, or holds twice."""
    views = {view.trace.id: view for view in read_views(folder)}
    feedback = [one.id for view in views.values() for one in view.feedback]
    judged = [one.id for view in views.values() for one in view.judgements]
    control = SQLiteControl(folder / "control.sqlite")
    try:
        moves = {document.version for document in control.history("pointer", "champion")}
    finally:
        control.close()
    return {
        "traces": float(len(told.traces)),
        "feedback": float(len(told.feedback)),
        "promotions": float(len(told.moves)),
        "lost": float(
            len(told.traces - views.keys()) + len(told.feedback - set(feedback)) + len(told.moves - moves)
        ),
        "twice": float(len(feedback) - len(set(feedback)) + len(judged) - len(set(judged))),
    }


def run_turn_kills(kills: int, seed: int) -> dict[str, float]:
    """Kill a turn of the wheel that many times, each in a copy of the folder, and let it end.

    Returns:
        Numbers of kills, and of turns whose receipt is that of the turn that was not killed.
    """
    rng = np.random.default_rng(seed)
    with _backend() as (home, url):
        with _gateway(home, url) as process:
            asyncio.run(ask_many(process.url, ASKED))
            wait_for_judgements(home / "data", 2 * ASKED)
            process.stop()
        _plan(home, home / "data")
        shutil.copytree(home / "data", home / "whole")
        began = time.perf_counter()
        _learn(home, home / "whole")
        seconds = time.perf_counter() - began
        expected, same = _receipt(home / "whole"), 0
        for kill in range(kills):
            folder = home / "killed"
            shutil.copytree(home / "data", folder)
            with suppress(subprocess.TimeoutExpired):
                _learn(home, folder, seconds=float(rng.uniform(0.1, seconds)))
            _learn(home, folder)
            same += _receipt(folder) == expected
            shutil.rmtree(folder)
            report(kill + 1, kills)
    return {
        "kills": float(kills),
        "same": float(same),
        "handed over": float(expected["outcome"] == "handed over"),
    }


async def ask_many(url: str, number: int, *, token: str | None = None) -> None:
    """Ask that many questions, each of another user, of which few are near duplicates.

    Args:
        url: address of a gateway.
        number: number of questions.
        token: token of the caller; none by default.
    """
    import aiohttp

    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:

        async def ask(number: int) -> None:
            things = f"{THINGS[number % 12]} {THINGS[number // 12 % 12]}"
            unlike = hashlib.sha256(
                str(number).encode()
            ).hexdigest()  # near duplicates would be one leakage group
            words = f"Tell me of {things} {unlike[:8]} {unlike[8:16]} {unlike[16:24]}."
            body = {"user": f"user {number}", "messages": [{"role": "user", "content": words}]}
            async with session.post("/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()

        for first in range(0, number, CALLERS):
            await asyncio.gather(*(ask(n) for n in range(first, min(number, first + CALLERS))))


def wait_for_judgements(folder: Path, number: int, *, seconds: float = 120.0) -> None:
    """Wait until the companion has judged that often.

    Raises:
        RuntimeError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while sum(len(view.judgements) for view in read_views(folder)) < number:
        if time.monotonic() > deadline:
            raise RuntimeError("the companion did not judge the traffic in time")
        time.sleep(0.5)


def _plan(home: Path, folder: Path) -> None:
    """Begin a turn, and kill it as soon as its plan is made, so that every copy of the folder has the same one."""
    process = subprocess.Popen(_command(home, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (folder / "turns" / "000001").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()


def _command(home: Path, folder: Path) -> list[str]:
    places = ["--config", str(home / "noria.yaml"), "--folder", str(folder)]
    return [sys.executable, "-m", "noria.cli", "assistant", "learn", *places]


def _learn(home: Path, folder: Path, *, seconds: float | None = None) -> None:
    """Run the turn of a folder; after `seconds` it is killed, and TimeoutExpired is raised."""
    command = _command(home, folder)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"a turn ended with {done.returncode}: {done.stderr[-500:]}")


def _receipt(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "turns" / "000001" / "receipt.json").read_text())
    return {name: value for name, value in content.items() if name not in _NOISY}


if __name__ == "__main__":
    print(run_service_kills(int(sys.argv[1]), 0))
    print(run_turn_kills(int(sys.argv[2]), 0))
