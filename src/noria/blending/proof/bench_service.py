"""Speed of the service against what a team would otherwise write: FastAPI, with a pydantic model a row.

Both sides are processes of their own under uvicorn with httptools and uvloop, without an access log, and rank with the
same `Blender.rank`; the answers are compared before anything is timed. What differs is the wire and the frame around
it, which is what is measured. Client and server share the machine, so that beside rates and latencies the server's CPU
time is given. The open loop sends at fixed times whether or not earlier requests were answered, and counts a latency
from the time at which the request was due.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np

from noria.blending.alignment.alignment import Alignment
from noria.blending.plans.plans import Plans
from noria.blending.snapshot import Snapshot
from noria.core.errors import RunError

if TYPE_CHECKING:
    from noria.core.proofs.bench import Row
    from noria.core.service.hosting import Launched

__all__ = ["service_rows"]

CANDIDATES, PLANS, SIZE = 500, 10, 50
RATE = 500.0
"""Rate of the open loop, in requests a second."""
SECONDS = 2.0
"""Length of each turn of the open loop."""
LATE = 1.0
"""Seconds after which an answer is as good as none."""
SOURCES = ("organic", "live", "ads")
TOPICS = ("sport", "news", "food", "music", "travel", "games", "film", "tech")


def service_rows(rounds: int) -> list[Row]:
    """Requests a second, CPU a request, and the open loop's p99 and share answered.

    Args:
        rounds: timed turns of each side.
    """
    from noria.core.proofs.bench import Row

    columns_given = _candidates(np.random.default_rng(0))
    rows, columns = _as_rows(columns_given), _as_columns(columns_given)
    with _sides() as (ours, logging, theirs):
        _agree(ours, theirs, rows, columns)
        logged = json.dumps(json.loads(columns) | {"shown": 10}).encode()
        sides = {
            "columns": (ours, columns),
            "rows": (ours, rows),
            "peer": (theirs, rows),
            "logged": (logging, logged),
        }
        closed: dict[str, list[_ClosedLoop]] = {"columns": [], "rows": [], "peer": []}
        opened: dict[str, list[_OpenLoop]] = {"columns": [], "logged": [], "peer": []}
        for server, body in sides.values():
            _closed_loop(server, body, 50)
        for turn in range(rounds):
            for name in list(closed) if turn % 2 == 0 else reversed(closed):
                server, body = sides[name]
                closed[name].append(_closed_loop(server, body, 60 if name == "peer" else 250))
        for turn in range(rounds):
            for name in list(opened) if turn % 2 == 0 else reversed(opened):
                server, body = sides[name]
                opened[name].append(asyncio.run(_open_loop(server, body)))
                _settle(server)
    what = f"{CANDIDATES} candidates x {PLANS} plans"
    peer = "FastAPI + pydantic rows"

    def pair(field: str, ours: str = "columns", results: Any = closed) -> list[list[float]]:
        return [[getattr(one, field) for one in results[name]] for name in (ours, "peer")]

    late = f"open loop, {RATE:.0f} requests/s"
    figures: tuple[tuple[str, str, list[list[float]], Literal["lower", "higher"], float], ...] = (
        (f"service, {what}, JSON columns", "requests/s", pair("rate"), "higher", 5.0),
        ("  the same by the server's CPU", "ms/request", pair("cpu"), "lower", 5.0),
        ("service, JSON rows, the same body", "requests/s", pair("rate", "rows"), "higher", 2.0),
        ("  the same by the server's CPU", "ms/request", pair("cpu", "rows"), "lower", 2.0),
        (f"{late}, p99", "ms", pair("p99", results=opened), "lower", 5.0),
        (f"{late}, answered within {LATE:g} s", "%", pair("answered", results=opened), "higher", 1.0),
        ("  p99 with each list logged and synced", "ms", pair("p99", "logged", opened), "lower", 1.0),
        (
            "  answered with each list logged and synced",
            "%",
            pair("answered", "logged", opened),
            "higher",
            1.0,
        ),
    )
    return [
        Row.of(name, peer, unit, *values, better=better, goal=goal)
        for name, unit, values, better, goal in figures
    ]


# -- the work ---------------------------------------------------------------------------------------------------------


def _snapshot() -> Snapshot:
    plans = [
        {"id": f"p{n}", "when": _when(n), "weight": round(0.03 * n, 2), "bias": round(0.01 * (n % 4), 2)}
        for n in range(PLANS)
    ]
    scales = dict(zip(SOURCES, (1.0, 0.01, 2.0), strict=True))
    return Snapshot.of(
        Alignment.of_scales(scales, mean_value=0.5),
        Plans.model_validate({"plans": plans, "guards": {"total_cap": 1.0}}),
    )


def _when(number: int) -> str:
    if number < len(SOURCES):
        return f'source == "{SOURCES[number]}"'
    if number < 6:
        return f"age < {10 * number}"
    return f'topic == "{TOPICS[number - 6]}" and age < 80'


def _candidates(rng: np.random.Generator) -> dict[str, list[Any]]:
    source = rng.integers(len(SOURCES), size=CANDIDATES)
    scale = np.array([1.0, 100.0, 0.5])[source]
    return {
        "item": [f"item-{n:06d}" for n in rng.permutation(10 * CANDIDATES)[:CANDIDATES].tolist()],
        "score": (rng.random(CANDIDATES) * scale).tolist(),
        "source": [SOURCES[code] for code in source.tolist()],
        "age": (rng.random(CANDIDATES) * 100).round(2).tolist(),
        "topic": [TOPICS[code] for code in rng.integers(len(TOPICS), size=CANDIDATES).tolist()],
    }


def _as_rows(columns_given: dict[str, list[Any]]) -> bytes:
    items = [
        {"id": item, "score": score, "source": source, "fields": {"age": age, "topic": topic}}
        for item, score, source, age, topic in zip(*columns_given.values(), strict=True)
    ]
    return json.dumps({"id": "r", "size": SIZE, "items": items}).encode()


def _as_columns(values: dict[str, list[Any]]) -> bytes:
    columns: dict[str, Any] = dict(values)
    for name, names in (("source", SOURCES), ("topic", TOPICS)):
        columns[name] = {"names": names, "codes": [names.index(one) for one in values[name]]}
    return json.dumps({"id": "r", "size": SIZE, "columns": columns}).encode()


# -- both sides -------------------------------------------------------------------------------------------------------

_OURS = """
import sys
from pathlib import Path
from noria.blending.service.process import serve_feed
from noria.blending.service.config import NearlineConfig, ServeConfig
state = Path(sys.argv[2]) if len(sys.argv) > 2 else None
config = ServeConfig(control=0.0, sample=0.01, nearline=NearlineConfig(tick=5.0), port=0, access_log=False)
serve_feed(Path(sys.argv[1]), state, config)
"""
_TOKEN = "only-for-this-benchmark"


@contextlib.contextmanager
def _sides() -> Iterator[tuple[Launched, Launched, Launched]]:
    """Our service, the same with its log and its loop, and the peer."""
    from noria.core.service.hosting import launched

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        path = Path(scratch) / "snapshot.json"
        _snapshot().save(path)
        commands = (
            [sys.executable, "-c", _OURS, str(path)],
            [sys.executable, "-c", _OURS, str(path), str(Path(scratch) / "state")],
            [sys.executable, "-m", "noria.blending.proof.bench_peer", str(path)],
        )
        env = {"OMP_NUM_THREADS": "1", "NORIA_TOKEN": _TOKEN}
        ours, logging, theirs = (
            stack.enter_context(launched(command, Path(scratch), env=env)) for command in commands
        )
        yield ours, logging, theirs
        logging.stop()


def _agree(ours: Launched, theirs: Launched, rows: bytes, columns: bytes) -> None:
    """All three answers are the same list.

    Raises:
        RunError: they are not.
    """
    lists = []
    for server, body in ((ours, columns), (ours, rows), (theirs, rows)):
        with _connected(server) as exchange:
            record = json.loads(exchange(_request(body))[1])
        if isinstance(record["items"][0], dict):
            lists.append([(one["item"], one["score"]) for one in record["items"]])
        else:
            lists.append(list(zip(record["items"], record["score"], strict=True)))
    if not lists[0] == lists[1] == lists[2] or len(lists[0]) != SIZE:
        raise RunError("the two services rank differently", where="bench blending")


# -- the clients ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ClosedLoop:
    """One connection, one request after the other: requests a second, and the server's CPU, ms a request."""

    rate: float
    cpu: float


@dataclass(frozen=True)
class _OpenLoop:
    """The open loop: 99th percentile of latency, ms, and % answered well and in time."""

    p99: float
    answered: float


def _request(body: bytes) -> bytes:
    head = (
        "POST /rank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {_TOKEN}\r\n"
    )
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@contextlib.contextmanager
def _connected(server: Launched) -> Iterator[Callable[[bytes], tuple[int, bytes]]]:
    import socket

    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port or 80), timeout=60) as line:

        def exchange(data: bytes) -> tuple[int, bytes]:
            line.sendall(data)
            got = b""
            while (result := _answer(got)) is None:
                part = line.recv(1 << 18)
                if not part:
                    raise RunError("the service hung up", where="bench blending")
                got += part
            return result

        yield exchange


def _answer(got: bytes) -> tuple[int, bytes] | None:
    """Status and body of a whole answer; None if it is not whole yet."""
    end = got.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = got[:end].lower()
    at = head.find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0])
    return (int(head[9:12]), got[end + 4 :]) if len(got) >= end + 4 + length else None


def _closed_loop(server: Launched, body: bytes, requests: int) -> _ClosedLoop:
    data = _request(body)
    with _connected(server) as exchange:
        cpu, began = _cpu(server), time.perf_counter()
        for _ in range(requests):
            exchange(data)
        seconds = time.perf_counter() - began
        used = _cpu(server) - cpu
    return _ClosedLoop(requests / seconds, 1e3 * used / requests)


def _cpu(server: Launched) -> float:
    """Seconds that all threads of the server have run."""
    total = 0
    for path in Path(f"/proc/{server.process.pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(path.read_text().split()[0])
    return total / 1e9


def _settle(server: Launched) -> None:
    """Wait until a server has worked off what an open loop left behind, so that the next turn is not charged for it."""
    until = time.perf_counter() + 10
    before = _cpu(server)
    while time.perf_counter() < until:
        time.sleep(0.1)
        now = _cpu(server)
        if now - before < 0.01:
            return
        before = now


async def _open_loop(server: Launched, body: bytes, *, connections: int = 32) -> _OpenLoop:
    data, place = _request(body), urlsplit(server.url)
    loop = asyncio.get_running_loop()
    due: asyncio.Queue[float] = asyncio.Queue()
    latencies: list[float] = []
    failed = 0

    async def work() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 20)
        try:
            while True:
                at = await due.get()
                if loop.time() - at > LATE:
                    failed += 1
                    continue
                writer.write(data)
                got = b""
                while (result := _answer(got)) is None:
                    part = await reader.read(1 << 18)
                    if not part:
                        raise ConnectionError
                    got += part
                seconds = loop.time() - at
                if result[0] == 200 and seconds <= LATE:
                    latencies.append(seconds)
                else:
                    failed += 1
        except ConnectionError:
            failed += 1
        finally:
            writer.close()

    tasks = [asyncio.create_task(work()) for _ in range(connections)]
    await asyncio.sleep(0.05)
    count, began = round(RATE * SECONDS), loop.time()
    for number in range(count):
        at = began + number / RATE
        if (rest := at - loop.time()) > 0:
            await asyncio.sleep(rest)
        due.put_nowait(at)
    until = loop.time() + LATE + 0.5
    while len(latencies) + failed < count and loop.time() < until:
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    whole: Sequence[float] = [*latencies, *[LATE] * (count - len(latencies))]
    return _OpenLoop(1e3 * float(np.quantile(whole, 0.99)), 100 * len(latencies) / count)
