"""Experiments through the real gateway, journal, index and companion, beside the same experiments on arrays.

Users ask once and rate by the route that answered them. After every look the stage that the companion has written is
compared with the one that the same pure functions give on the arrays of who was dealt where and what they said.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.companion.companion import Companion
from noria.assistant.config import AssistantConfig
from noria.assistant.proof.bench_serve import PEER_TOKEN
from noria.assistant.service.bundles import EXPERIMENT
from noria.assistant.service.service import POLL, opened_gateway
from noria.core.experiments.lifecycle import (
    CONTROL,
    TREATMENT,
    Estimate,
    ExperimentConfig,
    Reading,
    Stage,
    next_step,
)
from noria.core.runs.workers import report
from noria.core.service.hosting import launched, running

USERS = 400
"""Users of an experiment at its end."""
LOOK = 50
"""Users between two looks."""
EFFECTS = (0.0, 0.3, -0.3)
"""By how much the challenger's answers help more often than the champion's .5; experiments take turns."""


def run_through_service(runs: int, seed: int) -> dict[str, float]:
    """Run experiments through a gateway on loopback.

    Returns:
        Number of looks, number of them at which both sides agree on the stage, and of experiments that were promoted
        and rolled back.
    """
    rng = np.random.default_rng(seed)
    logging.getLogger("noria.companion").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        command = [sys.executable, "-m", "noria.assistant.proof.bench_peer", "echo"]
        url = stack.enter_context(launched(command, Path(home))).url + "/v1"
        config = AssistantConfig.model_validate(
            {
                "backends": {"m": {"url": url, "model": "m"}},
                "routes": {
                    "a": {"backend": "m", "system": CONTROL},
                    "b": {"backend": "m", "system": TREATMENT},
                },
                "begin": "a",
            }
        )
        folder = Path(home) / "data"
        service = opened_gateway(folder, config, token=PEER_TOKEN, companion=False, access_log=False)
        address = stack.enter_context(running(stack.enter_context(service)))
        companion = Companion(folder, config)
        stack.callback(companion.close)
        totals = {"looks": 0, "equal": 0, "promoted": 0, "rolled back": 0}
        for run in range(runs):
            ended = asyncio.run(_experiment(address, companion, f"run-{run}", EFFECTS[run % 3], rng, totals))
            totals["promoted"] += ended == "promoted"
            totals["rolled back"] += ended == "rolled back"
            report(run + 1, runs)
    return {name: float(count) for name, count in totals.items()}


async def _experiment(
    address: str,
    companion: Companion,
    name: str,
    effect: float,
    rng: np.random.Generator,
    totals: dict[str, int],
) -> str:
    """One experiment to its end: the stage it ended with, `promoted` where it waits for an operator."""
    import aiohttp

    headers = {"authorization": f"Bearer {PEER_TOKEN}"}
    async with aiohttp.ClientSession(address, headers=headers) as session:

        async def post(path: str, content: Any) -> Any:
            async with session.post(path, json=content) as answer:
                body = await answer.read()
                if answer.status >= 400:
                    raise RuntimeError(f"{path} was answered {answer.status}: {body[:200]!r}")
                return json.loads(body)

        wish = {
            "name": name,
            "challenger": "b",
            "shadow_requests": 0,
            "canary_units": 0,
            "planned": USERS,
            "least": 30,
        }
        config = ExperimentConfig.model_validate((await post("/v1/experiments", wish))["experiment"])
        await asyncio.to_thread(companion.look)  # nobody is in the canary, which ends at once
        await asyncio.sleep(1.5 * POLL)  # the gateway takes the stage over
        ratings: dict[str, list[float]] = {CONTROL: [], TREATMENT: []}

        async def user(number: int, luck: float) -> None:
            body = {"user": f"{name} {number}", "messages": [{"role": "user", "content": "x"}]}
            answer = await post("/v1/chat/completions", body)
            arm = answer["choices"][0]["message"]["content"]
            value = float(luck < 0.5 + (effect if arm == TREATMENT else 0.0))
            await post("/v1/feedback", {"target": answer["id"], "value": value, "client_key": "1"})
            ratings[arm].append(value)

        stage: Stage = "ab"
        for first in range(0, USERS, LOOK):
            luck = rng.random(LOOK)
            await asyncio.gather(*(user(first + n, luck[n]) for n in range(LOOK)))
            await asyncio.to_thread(companion.look)
            expected = next_step(config, "ab", _reading(ratings)).stage
            value = _value(companion, name)
            stage = "promoted" if value.get("won") else value["stage"]
            totals["looks"] += 1
            totals["equal"] += stage == expected
            if expected != "ab" or stage != "ab":
                break
        if _value(companion, name)["stage"] == "ab":  # it won, and a person would be asked
            await post(f"/v1/experiments/{name}/stop", {"reason": "the proof goes to the next"})
        return stage


def _value(companion: Companion, name: str) -> dict[str, Any]:
    document = companion.control.read(EXPERIMENT, name)
    assert document is not None
    assert document.value is not None
    return document.value


def _reading(ratings: dict[str, list[float]]) -> Reading:
    """What the arrays say: number, mean and Welch's standard error."""
    counts = {arm: len(values) for arm, values in ratings.items()}
    if min(counts.values()) < 2:
        return Reading(counts, counts, Estimate(math.nan, math.nan))
    means = {arm: sum(values) / len(values) for arm, values in ratings.items()}
    squares = {
        arm: sum((value - means[arm]) ** 2 for value in values) / (len(values) - 1) / len(values)
        for arm, values in ratings.items()
    }
    error = math.sqrt(squares[CONTROL] + squares[TREATMENT])
    return Reading(counts, counts, Estimate(means[TREATMENT] - means[CONTROL], error))


if __name__ == "__main__":
    began = time.perf_counter()
    print(run_through_service(int(sys.argv[1]), 0), f"{time.perf_counter() - began:.1f} s")
