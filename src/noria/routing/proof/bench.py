"""Speed of the calibration and of AIQ against the code that is in use, and what the service adds to a request.

The peers are written again here as they are published: verl's default GRPO estimator (0.9.1), which goes row by row
and which its GDPO calls once a component, and RouterBench's hull, which tries every pair of points on every other one.
Both give our numbers, which is checked first.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noria.core.progress import Progress
from noria.core.proofs.bench import Benchmark, Row, alternate
from noria.core.service.hosting import launched
from noria.routing.rewards.calibration import calibrate
from noria.routing.rewards.components import Component
from noria.routing.rewards.config import preset
from noria.routing.routers.metrics import aiq

__all__ = ["benchmarks"]

ROWS = 16_384
POINTS = 80
"""Points of the published hull. Its time grows with their cube, ours with n log n: at 1,000 the ratio is larger."""
NAMES = ("form", "answer", "thrift")


def benchmarks(rounds: int = 5, *, progress: Progress | None = None) -> Benchmark:
    """Time every pair.

    Args:
        rounds: timed turns of each side.
        progress: where to report.
    """
    with progress or Progress() as shown:
        rows = [
            _calibration(rounds, shown),
            _share_of_a_step(rounds, shown),
            _hull(rounds, shown),
            _service(shown),
        ]
    return Benchmark("routing", rows)


# -- calibration ------------------------------------------------------------------------------------------------------


def batch(rows: int = ROWS, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, groups of eight and data sets."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(rows) // 8
    rewards = torch.stack(
        [
            (torch.rand(rows, generator=generator) > 0.3).float(),
            (torch.rand(rows, generator=generator) > 0.5).float(),
            torch.rand(rows, generator=generator),
        ],
        1,
    )
    return rewards, group, group % 14


def by_components(rewards: torch.Tensor, index: Any) -> torch.Tensor:
    """The sum of the estimator below over the components."""
    return torch.stack([by_rows(rewards[:, k], index) for k in range(rewards.shape[1])], 1).sum(1)


def by_rows(scores: torch.Tensor, index: Any, epsilon: float = 1e-6) -> torch.Tensor:
    """Verl's default estimator: rows are collected, and then scaled, one after the other."""
    by_group: dict[Any, list[torch.Tensor]] = defaultdict(list)
    mean, std = {}, {}
    scaled = scores.clone()
    for n in range(len(scaled)):
        by_group[index[n]].append(scaled[n])
    for name, values in by_group.items():
        if len(values) == 1:
            mean[name], std[name] = torch.tensor(0.0), torch.tensor(1.0)
        else:
            stacked = torch.stack(values)
            mean[name], std[name] = torch.mean(stacked), torch.std(stacked)
    for n in range(len(scaled)):
        scaled[n] = (scaled[n] - mean[index[n]]) / (std[index[n]] + epsilon)
    return scaled


def _calibration(rounds: int, shown: Progress) -> Row:
    rewards, group, dataset = batch()
    index = np.array([f"uid-{g}" for g in group.tolist()], dtype=object)
    open_gates = {name: Component() for name in NAMES}
    plain = preset("gates", open_gates, epsilon=1e-6, gate="zero")
    same = calibrate(rewards, group, torch.zeros_like(group), names=NAMES, config=plain).advantages
    torch.testing.assert_close(same, by_components(rewards, index), atol=1e-5, rtol=1e-4)
    # Ours does all of ReCal: gates, variance weights and data sets on top of that.
    whole = preset("recal")
    state = calibrate(rewards, group, dataset, names=NAMES, config=whole).state
    return _timed(
        (f"ReCal on {ROWS:,} rows of three components", "verl's row loop, three times"),
        lambda: calibrate(rewards, group, dataset, names=NAMES, config=whole, state=state),
        lambda: by_components(rewards, index),
        rounds=rounds,
        shown=shown,
        goal=100.0,
    )


def _timed(
    names: tuple[str, str],
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int,
    shown: Progress,
    goal: float,
    share: float = 1.0,
) -> Row:
    """Time two functions in turns: a row in milliseconds, of whose time the peer is given a share."""
    shown.say(names[0])
    timing = alternate(ours, theirs, rounds=rounds, progress=shown)
    own, peer = ([1e3 * s for s in timing.ours], [1e3 * share * s for s in timing.theirs])
    return Row.of(*names, "ms", own, peer, better="lower", goal=goal)


def _share_of_a_step(rounds: int, shown: Progress) -> Row:
    """The calibration against a hundredth of a training step of the small language model on as many rows."""
    from noria.core.models.lm import small_lm
    from noria.core.training.rl import policy_loss

    rows, length = 64, 96
    rewards, group, dataset = batch(rows)
    config = preset("recal")
    model, _ = small_lm()
    tokens = torch.randint(2, 1000, (rows, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(rows, length - 1)

    def step() -> None:
        """Forward and backward alone; generation, which takes longest, is left out."""
        logits = model(tokens).logits[:, :-1]
        logp = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        advantages = calibrate(rewards, group, dataset, names=NAMES, config=config).advantages
        policy_loss(logp, logp.detach(), advantages, mask).loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    return _timed(
        (f"calibration of {rows} rollouts", "a hundredth of the learner's step"),
        lambda: calibrate(rewards, group, dataset, names=NAMES, config=config),
        step,
        rounds=max(2, rounds // 2),
        shown=shown,
        goal=1.0,
        share=0.01,
    )


# -- quality against cost ---------------------------------------------------------------------------------------------


def published_area(cost: Sequence[float], quality: Sequence[float]) -> float:
    """RouterBench's area: at every point the best of all lines between two others, decreasing points dropped.

    Its loops, with a dictionary where it searches a list.
    """
    points = sorted(zip(cost, quality, strict=True))
    best: dict[float, float] = {}
    for x1, y1 in points:
        for x2, y2 in points:
            if x2 < x1:
                continue
            for x, y in points:
                if x1 < x < x2:
                    between = float(np.interp(x, [x1, x2], [y1, y2]))
                    best[x] = max(best.get(x, y), between, y)
    for x, y in (points[0], points[-1]):
        best[x] = max(best.get(x, y), y)
    hull = sorted(best.items())
    kept = [hull[0]]
    for point in hull[1:]:
        if point[1] >= kept[-1][1]:
            kept.append(point)
    kept.append((points[-1][0], kept[-1][1]))
    return float(np.trapezoid([y for _, y in kept], [x for x, _ in kept]))


def routers(number: int, *, seed: int = 0) -> tuple[list[float], list[float]]:
    """Costs and qualities with falling returns and noise."""
    generator = np.random.default_rng(seed)
    cost = np.sort(generator.uniform(0.1, 10, number))
    quality = 1 - np.exp(-cost / 3) + 0.1 * generator.standard_normal(number)
    return cost.tolist(), quality.tolist()


def _hull(rounds: int, shown: Progress) -> Row:
    cost, quality = routers(POINTS)
    span = max(cost) - min(cost)
    assert abs(aiq(cost, quality) * span - published_area(cost, quality)) < 1e-9
    return _timed(
        (f"AIQ of {POINTS} routers", "RouterBench's hull"),
        lambda: aiq(cost, quality),
        lambda: published_area(cost, quality),
        rounds=max(2, rounds // 2),
        shown=shown,
        goal=100.0,
    )


# -- the service ------------------------------------------------------------------------------------------------------

IN_FLIGHT, REQUESTS, LATENCY = 200, 800, 1.0
"""Requests under way, in all, and seconds that a backend takes; a language model takes as long."""

_BACKEND = """
import asyncio, json, sys
import uvicorn
body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0,
    "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}).encode()
async def app(scope, receive, send):
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    await asyncio.sleep(float(sys.argv[1]))
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"serving on http://127.0.0.1:{port}", flush=True)
Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off")).run()
"""

_FRONT = """
import sys
import numpy as np
from noria.core.chat import ChatServer
from noria.core.service.hosting import serve
from noria.routing.pool.config import Member, PoolConfig
from noria.routing.pool.pool import open_pool
from noria.routing.routers.baselines import BestSingle
from noria.routing.service.service import routing_service
from noria.routing.tables.table import Route
names = ("a", "b")
members = tuple(Member(name=n, server=ChatServer(url=sys.argv[1], model=n, attempts=1, in_flight=1024)) for n in names)
router = BestSingle([Route(n) for n in names], np.array([2.0, 1.0]), mean=np.array([0.9, 0.5]))
serve(routing_service(router, open_pool(PoolConfig(models=members)), access_log=False), port=0)
"""


def _service(shown: Progress) -> Row:
    """What a request costs through the router and straight to the backend, 200 of each in flight."""
    shown.say(f"the service, {IN_FLIGHT} requests in flight")
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        with (
            launched([sys.executable, "-c", _BACKEND, str(LATENCY)], folder) as backend,
            launched([sys.executable, "-c", _FRONT, f"{backend.url}/v1"], folder) as front,
        ):
            straight, routed = [], []
            for _ in range(2):
                straight.append(statistics.median(asyncio.run(_load(backend.url))))
                routed.append(statistics.median(asyncio.run(_load(front.url))))
    return Row.of(
        f"a request of {LATENCY:g} s through the router, {IN_FLIGHT} in flight",
        "the backend itself",
        "s",
        routed,
        straight,
        better="lower",
        goal=0.8,
    )


async def _load(url: str) -> list[float]:
    """Time requests, IN_FLIGHT at a time: seconds of each.

    Raises:
        RuntimeError: one was not answered as it should be.
    """
    import httpx2

    content = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
    seconds: list[float] = []
    left = iter(range(REQUESTS))
    limits = httpx2.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    async with httpx2.AsyncClient(limits=limits, timeout=120) as client:

        async def work() -> None:
            for _ in left:
                began = time.perf_counter()
                answer = await client.post(f"{url}/v1/chat/completions", json=content)
                seconds.append(time.perf_counter() - began)
                if answer.status_code != 200 or b"hello" not in answer.content:
                    raise RuntimeError(f"a request was answered {answer.status_code}")

        async with asyncio.TaskGroup() as group:
            for n in range(IN_FLIGHT):
                group.create_task(work())
                if not n % 20:
                    await asyncio.sleep(LATENCY / 20)  # they do not all come at once
    return seconds
