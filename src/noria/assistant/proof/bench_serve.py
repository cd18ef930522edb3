"""What a request costs through the gateway, against LiteLLM's proxy and a pass-through of FastAPI and httpx.

All sides pass the same requests to the same backend, in processes of their own, in alternation. The gateway has all of
its work on: callers with tokens and rates, redaction, the assignment of an experiment, and a trace that is synced
before the answer. The figure is CPU time of the side's own process, which another process on the machine disturbs
least. LiteLLM lives in an environment of its own, since it pins what others need otherwise:

    python3.11 -m venv ~/.cache/noria/assets/peers/litellm
    ~/.cache/noria/assets/peers/litellm/bin/pip install -r litellm.txt        (beside this module)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.assets import cache_folder
from noria.core.errors import RunError, needing
from noria.core.progress import Progress
from noria.core.proofs.bench import Benchmark, Row
from noria.core.service.hosting import launched

PEER_TOKEN = "sk-bench-0123456789abcdef"
CALLERS = 8
TRACES = 1_000_000
"""Traces of the index whose pages are timed."""
PAGE = 200.0
"""Most milliseconds of a page of the console."""
FLAT = 200_000
"""Requests over which memory has to stay."""
REQUESTS = 1500
"""Requests of a turn with small bodies; a fifth of them with pictures."""


@dataclass(frozen=True)
class Side:
    """A process that passes requests on.

    Attributes:
        name: name of the side.
        url: address of the side.
        pids: processes of the side.
    """

    name: str
    url: str
    pids: tuple[int, ...]

    def cpu(self) -> float:
        """CPU seconds that its processes have used."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / ticks

    def memory(self) -> float:
        """Resident bytes of its first process."""
        pages = int(Path(f"/proc/{self.pids[0]}/statm").read_text().split()[1])
        return float(pages * os.sysconf("SC_PAGE_SIZE"))


def benchmarks(rounds: int = 5, *, progress: Progress | None = None) -> Benchmark:
    """Measure every figure.

    Args:
        rounds: timed turns of each side.
        progress: where to report.
    """
    with progress or Progress() as shown, tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        folder = Path(home)
        backend = stack.enter_context(launched([sys.executable, "-m", PEER, "backend"], folder)).url + "/v1"
        ours = stack.enter_context(_gateway(folder, backend))
        sides = [stack.enter_context(_fastapi(folder, backend))]
        litellm = cache_folder() / "peers" / "litellm" / "bin" / "litellm"
        if litellm.is_file():
            sides.append(stack.enter_context(_litellm(folder, backend, litellm)))
        else:
            shown.say(f"LiteLLM is left out: there is no {litellm}, made as this module says")
        rows = []
        for size, body, requests in (
            (".6 kB", small_body(), REQUESTS),
            ("a picture of 200 kB", picture_body(), REQUESTS // 5),
        ):
            for peer in sides:
                goal = 10.0 if peer.name.startswith("litellm") else 2.0
                shown.say(f"{size}, against {peer.name}")
                rows.append(_cost(ours, peer, size, body, requests, rounds, goal))
        rows.append(_tail(ours, rounds, shown))
        rows.append(_feedback(ours, folder, rounds, shown))
        rows.append(_memory(ours, shown))
        rows += console_pages(folder, rounds, shown)
    return Benchmark("serve", rows)


# -- the sides --------------------------------------------------------------------------------------------------------

PEER = "noria.assistant.proof.bench_peer"
"""Module of the processes that stand beside the gateway."""


@contextlib.contextmanager
def _gateway(folder: Path, backend: str) -> Iterator[Side]:
    """The gateway as a user starts it, with a caller and an open experiment."""
    config = {
        "backends": {
            "m": {"url": backend, "model": "m", "in_flight": 256, "prices": {"input": 1, "output": 2}}
        },
        "routes": {
            "brief": {"backend": "m", "system": "Be brief."},
            "kind": {"backend": "m", "system": "Be kind."},
        },
        "begin": "brief",
        "callers": [
            {
                "name": "bench",
                "token_env": "BENCH_TOKEN",
                "requests_per_minute": 1_000_000,
                "budget_per_day": 1e9,
            }
        ],
    }
    file = folder / "noria.yaml"
    file.write_text(json.dumps(config))
    command = [
        sys.executable,
        "-m",
        "noria.cli",
        "serve",
        "--config",
        str(file),
        "--port",
        "0",
        "--no-access-log",
    ]
    env = {"BENCH_TOKEN": PEER_TOKEN, "NORIA_TOKEN": PEER_TOKEN + "-operator"}
    with launched([*command, "--folder", str(folder / "data")], folder, env=env) as process:
        side = Side("noria serve", process.url, (process.process.pid,))
        wish = {"name": "bench", "challenger": "kind", "shadow_requests": 0, "planned": 10_000_000}
        post(f"{side.url}/v1/experiments", wish, token=PEER_TOKEN + "-operator")
        yield side


@contextlib.contextmanager
def _fastapi(folder: Path, backend: str) -> Iterator[Side]:
    with needing("proof"):
        import fastapi
    with launched([sys.executable, "-m", PEER, "fastapi", backend], folder) as process:
        yield Side(f"fastapi {fastapi.__version__} + httpx", process.url, (process.process.pid,))


@contextlib.contextmanager
def _litellm(folder: Path, backend: str, program: Path) -> Iterator[Side]:
    """LiteLLM's proxy with one worker and no database, as its own benchmarks run it."""
    model = {"model": "openai/m", "api_base": backend, "api_key": "none"}
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": [{"model_name": "noria", "litellm_params": model}]}))
    port = _free_port()
    environment = os.environ | {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_MASTER_KEY": PEER_TOKEN,
    }
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(OSError):
                    post(f"{url}/v1/chat/completions", json.loads(small_body()))
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RunError("LiteLLM did not start", where=str(program))
                time.sleep(0.5)
            version = subprocess.run(
                [str(program.parent / "pip"), "show", "litellm"], capture_output=True, text=True, check=True
            ).stdout.partition("Version: ")[2].partition("\n")[0]  # fmt: skip
            yield Side(f"litellm {version}", url, (process.pid,))
        finally:
            process.kill()
            process.wait()


# -- the figures ------------------------------------------------------------------------------------------------------


def small_body() -> bytes:
    """A request of .6 kB with personal data in it."""
    text = "Please write to ann@example.com and say that the parcel of order 4711 will come on Tuesday. " * 5
    return json.dumps(
        {"model": "noria", "user": "ann", "messages": [{"role": "user", "content": text}]}
    ).encode()


def picture_body() -> bytes:
    """A request with a picture of 200 kB, a JPEG by its first bytes."""
    content = b"\xff\xd8\xff\xdb" + os.urandom(200_000)
    url = "data:image/jpeg;base64," + base64.b64encode(content).decode()
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    return json.dumps(
        {"model": "noria", "user": "ann", "messages": [{"role": "user", "content": parts}]}
    ).encode()


def _cost(ours: Side, peer: Side, size: str, body: bytes, requests: int, rounds: int, goal: float) -> Row:
    """CPU milliseconds of a request, turn by turn in alternation."""
    spent: dict[str, list[float]] = {ours.name: [], peer.name: []}
    for turn in range(-1, rounds):
        for side in (ours, peer) if turn % 2 == 0 else (peer, ours):
            before = side.cpu()
            asyncio.run(load(side.url, body, requests, CALLERS))
            if turn >= 0:
                spent[side.name].append(1e3 * (side.cpu() - before) / requests)
    return Row.of(
        f"CPU of a request, {size}, {CALLERS} callers", peer.name, "ms", spent[ours.name], spent[peer.name],
        better="lower", goal=goal,
    )  # fmt: skip


def _tail(ours: Side, rounds: int, shown: Progress) -> Row:
    """The slowest hundredth of requests while a process of learning works beside, against three medians."""
    shown.say("latency beside a turn of learning")
    burner = subprocess.Popen(["nice", "-n", "10", sys.executable, "-c", "while True: sum(range(10**6))"])
    try:
        tails, medians = [], []
        for _ in range(rounds):
            seconds = sorted(asyncio.run(load(ours.url, small_body(), REQUESTS, 1)))
            tails.append(1e3 * seconds[int(0.99 * len(seconds))])
            medians.append(3e3 * statistics.median(seconds))
    finally:
        burner.kill()
        burner.wait()
    return Row.of(
        "p99 of a request beside a turn, one caller",
        "3 x its own p50",
        "ms",
        tails,
        medians,
        better="lower",
        goal=1.0,
    )


def _feedback(ours: Side, folder: Path, rounds: int, shown: Progress) -> Row:
    """Feedback acknowledged by 16 callers, against a loop that appends and syncs the same bytes."""
    shown.say("feedback that is acknowledged, 16 callers")
    operator = PEER_TOKEN + "-operator"
    trace = post(f"{ours.url}/v1/chat/completions", json.loads(small_body()), token=operator)["id"]
    body = json.dumps({"target": trace, "value": 1}).encode()
    acknowledged, synced = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        asyncio.run(load(ours.url, body, 640, 16, path="/v1/feedback", token=operator, status=202))
        acknowledged.append(640 / (time.perf_counter() - began))
        synced.append(_sync_rate(folder / "syncs"))
    return Row.of(
        "feedback acknowledged, 16 callers", "append and fdatasync, alone", "1/s", acknowledged, synced,
        better="higher", goal=0.5,
    )  # fmt: skip


def _sync_rate(path: Path, number: int = 200) -> float:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        began = time.perf_counter()
        for _ in range(number):
            os.write(handle, b"x" * 400)
            os.fdatasync(handle)
        return number / (time.perf_counter() - began)
    finally:
        os.close(handle)


def _memory(ours: Side, shown: Progress) -> Row:
    """Memory after many requests, against memory after the first of them."""
    shown.say(f"memory over {FLAT:,} requests; some minutes")
    asyncio.run(load(ours.url, small_body(), 2000, CALLERS))
    before = ours.memory()
    asyncio.run(load(ours.url, small_body(), FLAT, CALLERS))
    return Row.of(
        f"memory after {FLAT:,} requests more", "itself before", "MB", [ours.memory() / 1e6], [before / 1e6],
        better="lower", goal=0.95,
    )  # fmt: skip


def console_pages(folder: Path, rounds: int, shown: Progress) -> list[Row]:
    """Milliseconds of whole pages of the console over an index of a million traces.

    Args:
        folder: folder for the gateway's.
        rounds: times that each page is asked for.
        shown: where to report.
    """
    shown.say(f"an index of {TRACES:,} traces is written")
    data = folder / "many"
    data.mkdir()
    _many_traces(data / "index.sqlite")
    config = {
        "backends": {"m": {"url": "http://127.0.0.1:9/v1", "model": "m"}},
        "routes": {"brief": {"backend": "m"}},
        "begin": "brief",
    }
    file = folder / "many.yaml"
    file.write_text(json.dumps(config))
    places = [
        "--config",
        str(file),
        "--folder",
        str(data),
        "--port",
        "0",
        "--no-access-log",
        "--no-companion",
    ]
    command = [sys.executable, "-m", "noria.cli", "serve", *places]
    rows = []
    with launched(command, folder, env={"NORIA_TOKEN": PEER_TOKEN}) as process:
        shown.say("pages of the console")
        for page in ("/", "/traces", "/skills", "/experiments", "/data"):
            took = []
            for _ in range(rounds + 1):
                began = time.perf_counter()
                with urllib.request.urlopen(process.url + page, timeout=60) as answer:
                    answer.read()
                took.append(1e3 * (time.perf_counter() - began))
            rows.append(
                Row.of(f"console page {page} at {TRACES:,} traces", f"bound of {PAGE:g} ms", "ms", took[1:],
                       [PAGE] * rounds, better="lower", goal=1.0)
            )  # fmt: skip
    return rows


def _many_traces(path: Path) -> None:
    """An index of many traces of the last days, each with a judgement, and a tenth of them with a rating."""
    import sqlite3

    from noria.core.traces.ids import new_id
    from noria.core.traces.index.index import TraceIndex

    TraceIndex(path).close()
    now, step = time.time_ns(), 10**9
    database = sqlite3.connect(path)
    database.execute("PRAGMA synchronous = OFF")
    width = len(database.execute("PRAGMA table_info(judgements)").fetchall())
    ids = [new_id(now - (TRACES - n) * step) for n in range(TRACES)]
    database.executemany(
        "INSERT INTO traces VALUES (?, ?, .5, 'ok', 'b', 'shop', ?, NULL, 30, .001, '{\"skill\": \"tea\"}', '{}', 1)",
        ((one, now - (TRACES - n) * step, f"user {n % 50_000}") for n, one in enumerate(ids)),
    )
    database.executemany(
        "INSERT INTO feedback VALUES (?, ?, 'rating', 'helpful', 0, 1.0, 'user', 'x', NULL, 0)",
        ((new_id(now - n), one) for n, one in enumerate(ids[::10])),
    )
    more = ", NULL" * (width - 9)
    judgement = f"INSERT INTO judgements VALUES (?, ?, 0, 'j', 'rule', .5, 0, 3, NULL{more})"
    database.executemany(judgement, ((new_id(now - n), one) for n, one in enumerate(ids)))
    database.commit()
    database.close()


# -- load -------------------------------------------------------------------------------------------------------------


async def load(
    url: str, body: bytes, requests: int, callers: int, *, path: str = "/v1/chat/completions",
    token: str = PEER_TOKEN, status: int = 200,
) -> list[float]:  # fmt: skip
    """Send a body again and again; the seconds of each request.

    Raises:
        RunError: a request was not answered as it should be.
    """
    with needing("serve"):
        import aiohttp
    seconds: list[float] = []
    left = iter(range(requests))
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def work() -> None:
            for _ in left:
                began = time.perf_counter()
                async with session.post(url + path, data=body) as answer:
                    content = await answer.read()
                    if answer.status != status:
                        raise RunError(f"answered {answer.status}: {content[:200]!r}", where=url)
                seconds.append(time.perf_counter() - began)

        await asyncio.gather(*(work() for _ in range(callers)))
    return seconds


def post(url: str, content: Any, *, token: str = PEER_TOKEN) -> Any:
    """The JSON that a call is answered with."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(content).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
