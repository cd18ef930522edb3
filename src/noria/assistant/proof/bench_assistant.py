"""What the parts of the pipeline add to a request, what a turn costs by stage, and what a turn beside costs answers.

The gateway runs as a user starts it, in processes of its own: bare, with skills, with a model router, and with both and
a catalogue of products. All of them ask the same backend. The figure of a part is the CPU time that the gateway's
process takes more than the bare one in the same round.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from noria.assistant.proof.bench_serve import CALLERS, PEER, PEER_TOKEN, Side, load
from noria.assistant.proof.kills import THINGS, ask_many, wait_for_judgements
from noria.core.errors import RunError
from noria.core.files import write_atomic
from noria.core.progress import Progress
from noria.core.proofs.bench import Benchmark, Row
from noria.core.service.hosting import launched

REQUESTS = 1000
"""Requests of a round of each side."""
LEARNED = 700
"""Requests of the traffic that the timed turn learns from."""
BOUND = 1.0
"""Most CPU milliseconds that a part may add to a request."""


def benchmarks(rounds: int = 5, *, progress: Progress | None = None) -> Benchmark:
    """Measure every figure.

    Args:
        rounds: timed rounds of each side.
        progress: where to report.
    """
    with progress or Progress() as shown, tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        folder = Path(home)
        backend = stack.enter_context(launched([sys.executable, "-m", PEER, "echo"], folder)).url + "/v1"
        parts = _parts(folder, shown)
        sides = {
            name: stack.enter_context(_gateway(folder, backend, name, changes))
            for name, changes in parts.items()
        }
        rows = _added(sides, rounds, shown)
        rows += _turn(folder, backend, rounds, shown)
    return Benchmark("assistant", rows)


# -- what is served ---------------------------------------------------------------------------------------------------


def _parts(folder: Path, shown: Progress) -> dict[str, dict[str, Any]]:
    """Settings of each gateway beside the bare one's: the shop's six skills, a trained router, a catalogue."""
    shown.say("a router is trained, a feed is written")
    skills = {"bank": str(files("noria.assistant") / "assets" / "skills")}
    router = str(_router(folder))
    feed = folder / "feed.csv"
    rows = [f"p{n},{THINGS[n % 12]} {THINGS[n // 12 % 12]} {n},{n % 90 + 1} EUR" for n in range(5000)]
    feed.write_text("id,title,price\n" + "\n".join(rows) + "\n")
    return {
        "bare": {},
        "skills": {"parts": {"skills": skills}},
        "router": {"parts": {"router": router}},
        "whole": {
            "parts": {"skills": skills, "router": router},
            "products": {"feeds": {"feed": {"path": str(feed)}}},
        },
    }


def _router(folder: Path) -> Path:
    """A network of `noria routing train` that chooses between two backends, for sums and for words."""
    from noria.routing.tables.table import Cell, Question, Route, table_of, write_table

    rows = []
    for n in range(200):
        sums = n % 2 == 0
        text = f"add {n} to {7 * n}" if sums else f"tell me of {THINGS[n % 12]} and {THINGS[n // 12 % 12]}"
        question = Question(f"q{n}", "sums" if sums else "words", text)
        for name in ("m", "n"):
            right = float((name == "m") == sums)
            rows.append((question, Route(name), Cell(score=right, cost=0.1), "bench"))
    write_table(folder / "table.jsonl", table_of(rows))
    target = folder / "router"
    command = [
        "routing",
        "train",
        "--table",
        str(folder / "table.jsonl"),
        "--steps",
        "40",
        "-o",
        str(target),
        "-q",
    ]
    subprocess.run([sys.executable, "-m", "noria.cli", *command], check=True, capture_output=True)
    return target


def _settings(backend: str) -> dict[str, Any]:
    server = {"url": backend, "model": "m", "in_flight": 256, "prices": {"input": 1, "output": 2}}
    return {
        "backends": {"m": server, "n": server},
        "routes": {
            "brief": {"backend": "m", "system": "brief"},
            "thorough": {"backend": "m", "system": "thorough"},
        },
        "begin": "brief",
        "callers": [{"name": "bench", "token_env": "BENCH_TOKEN", "requests_per_minute": 1_000_000}],
        "page": {"on": False},
    }


@contextmanager
def _gateway(folder: Path, backend: str, name: str, changes: Mapping[str, Any], *more: str) -> Iterator[Side]:
    file = folder / f"{name}.yaml"
    write_atomic(file, json.dumps(_settings(backend) | dict(changes)))
    places = ["--config", str(file), "--folder", str(folder / name), "--port", "0", "--no-access-log", *more]
    env = {"BENCH_TOKEN": PEER_TOKEN, "NORIA_TOKEN": PEER_TOKEN + "-operator"}
    with launched([sys.executable, "-m", "noria.cli", "serve", *places], folder, env=env) as process:
        yield Side(name, process.url, (process.process.pid,))


# -- what parts add ---------------------------------------------------------------------------------------------------


def _added(sides: Mapping[str, Side], rounds: int, shown: Progress) -> list[Row]:
    """CPU milliseconds that parts add to a request, round by round in alternation."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    text = "Find me a small red umbrella for at most twenty euros, please. " * 3
    body = json.dumps(
        {"model": "noria", "user": "ann", "messages": [{"role": "user", "content": text}]}
    ).encode()
    shown.say("CPU of a request with each part")
    order = list(sides)
    for turn in range(-1, rounds):
        for name in order if turn % 2 else reversed(order):
            before = sides[name].cpu()
            asyncio.run(load(sides[name].url, body, REQUESTS, CALLERS))
            if turn >= 0:
                spent[name].append(1e3 * (sides[name].cpu() - before) / REQUESTS)
    bound = [BOUND] * rounds
    added = {
        name: [max(1e-3, part - bare) for part, bare in zip(spent[name], spent["bare"], strict=True)]
        for name in ("skills", "router")
    }
    return [
        Row.of("CPU that the choice of a skill adds", f"bound of {BOUND:g} ms", "ms", added["skills"], bound,
               better="lower", goal=1.0),
        Row.of("CPU that the choice of a model adds", f"bound of {BOUND:g} ms", "ms", added["router"], bound,
               better="lower", goal=1.0),
        Row.of("CPU of a request, skills, router and tools on offer", "the bare gateway", "ms", spent["whole"],
               spent["bare"], better="lower", goal=1 / 3),
    ]  # fmt: skip


# -- a turn -----------------------------------------------------------------------------------------------------------


def _turn(folder: Path, backend: str, rounds: int, shown: Progress) -> list[Row]:
    """Seconds of a turn by stage, and answers a second while turns run beside."""
    changes = {
        "judging": {
            "checklist": [{"id": "complete", "question": "Is it complete?"}], "backends": ["m"], "share": 0.3,
        },
        "learning": {"judge": "m", "gate_judge": "n", "least_rated": 40},
    }  # fmt: skip
    with _gateway(folder, backend, "learning", changes) as side:
        shown.say(f"{LEARNED} requests are asked and judged")
        asyncio.run(ask_many(side.url, LEARNED, token=PEER_TOKEN))
        wait_for_judgements(folder / "learning", LEARNED + LEARNED // 5)
        shutil.copytree(
            folder / "learning", folder / "learned"
        )  # before the load below becomes traffic to learn from
        body = json.dumps({"model": "noria", "messages": [{"role": "user", "content": "one more"}]}).encode()
        alone, beside = [], []
        seconds: dict[str, list[float]] = {}
        shown.say("answers a second, with and without a turn beside")
        for number in range(rounds):
            copy = (
                folder / f"copy-{number}"
            )  # a turn of its own: what was proposed once is not proposed again
            shutil.copytree(folder / "learned", copy)
            alone.append(_rate(side, body))
            process = subprocess.Popen(
                _learn(folder, copy), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
            )
            rates = []
            while process.poll() is None:
                rates.append(_rate(side, body, 200))
            beside.append(statistics.median(rates))
            for stage, took in _stages(copy).items():
                seconds.setdefault(stage, []).append(took)
            shutil.rmtree(copy)
    whole = [sum(took[n] for took in seconds.values()) for n in range(rounds)]
    rows = [
        Row.of(
            f"a turn on {LEARNED} requests: {stage[2:]}",
            "the whole turn",
            "s",
            took,
            whole,
            better="lower",
            goal=1.0,
        )
        for stage, took in sorted(seconds.items())
    ]
    return [
        Row.of(
            "answers a second while a turn runs beside",
            "without it",
            "1/s",
            beside,
            alone,
            better="higher",
            goal=0.5,
        ),
        *rows,
    ]


def _rate(side: Side, body: bytes, requests: int = REQUESTS) -> float:
    began = time.perf_counter()
    asyncio.run(load(side.url, body, requests, CALLERS))
    return requests / (time.perf_counter() - began)


def _learn(folder: Path, copy: Path) -> list[str]:
    places = ["--config", str(folder / "learning.yaml"), "--folder", str(copy)]
    return ["nice", "-n", "5", sys.executable, "-m", "noria.cli", "assistant", "learn", *places]


def _environment() -> dict[str, str]:
    return os.environ | {"BENCH_TOKEN": PEER_TOKEN, "NORIA_TOKEN": PEER_TOKEN + "-operator"}


def _stages(folder: Path) -> dict[str, float]:
    """Seconds of each stage of the newest turn, by the times of the files that end them."""
    turn = max((folder / "turns").glob("*/receipt.json")).parent
    outcome = json.loads((turn / "receipt.json").read_text())["outcome"]
    if outcome != "handed over":
        raise RunError(f"the turn that is timed ended as {outcome!r}", where=str(turn))
    ends = sorted((path.stat().st_mtime, path.parent.name) for path in turn.glob("[1-9]-*/*.json"))
    last: dict[str, float] = {}
    for at, stage in ends:
        last[stage] = at
    began = (turn / "config.json").stat().st_mtime
    took = {}
    for stage in sorted(last):
        took[stage], began = max(1e-3, last[stage] - began), last[stage]
    return took
