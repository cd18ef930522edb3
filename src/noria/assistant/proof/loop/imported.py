"""The loop on imported logs: learnt from, tested on users and promoted, against an OpenAI-compatible stub.

An application without Noria asks the shop's large model under a plain prompt and keeps OTLP and an export of Langfuse.
Both are imported; a gateway whose routes are that prompt and one that holds the shop's terms starts on them; a turn
replays the logged requests before its judges; users ask over HTTP and rate. Gateway, journal, index, turn and the
companion's looks are those of `noria serve`; the stub is the server of the shop's models.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.companion.companion import Companion
from noria.assistant.config import AssistantConfig
from noria.assistant.folder import import_logs
from noria.assistant.learning import opened_turn
from noria.assistant.proof.bench_serve import PEER_TOKEN
from noria.assistant.service.service import POLL, opened_gateway
from noria.assistant.world.catalogue import catalogue
from noria.assistant.world.judges.model import QUESTIONS, WEIGHTS
from noria.assistant.world.oracle import Seen, quality
from noria.assistant.world.shop import SYSTEM, TOPICS
from noria.assistant.world.users import TRUTH, User, Wish, Wishes, population
from noria.core.experiments.lifecycle import OPEN
from noria.core.files import write_atomic
from noria.core.runs.workers import report
from noria.core.service.hosting import launched, running

LOGS, TESTED, EXAMINED = 500, 400, 120
"""Logged requests, users of the test and questions of the exam."""
FACTS = " ".join(f"{topic}: {value}." for topic, value in TRUTH.items())
_AT_ONCE = 16
Ask = Any


def run_imported(seed: int) -> dict[str, Any]:
    """From two logs to a promotion.

    Returns:
        Traces that were imported (`traces`) and that a second import added (`again`), how turn and test ended, and
        the oracle's quality of the answers to the same questions before and after.
    """
    logging.getLogger("noria.companion").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        folder = Path(home)
        servers = {
            name: stack.enter_context(
                launched([sys.executable, "-m", f"noria.assistant.world.{name}"], folder)
            ).url
            for name in ("model_server", "judges.server")
        }
        return asyncio.run(_run(folder, servers["model_server"], servers["judges.server"], seed, stack))


async def _run(folder: Path, models: str, judges: str, seed: int, stack: ExitStack) -> dict[str, Any]:
    pairs = _questions(seed, LOGS + TESTED + EXAMINED)
    logged, tested, examined = pairs[:LOGS], pairs[LOGS:-EXAMINED], pairs[-EXAMINED:]
    said = await _asked(models, [_body(SYSTEM, wish) for _, wish in logged])
    logs = _written(folder, logged, [one["choices"][0]["message"]["content"] for one in said])
    report(1, 5)
    data = folder / "data"
    first = await asyncio.to_thread(import_logs, data, logs)
    again = await asyncio.to_thread(import_logs, data, logs)
    config = AssistantConfig.model_validate(settings(models, judges))
    service = stack.enter_context(
        opened_gateway(data, config, token=PEER_TOKEN, companion=False, access_log=False)
    )
    address = await asyncio.to_thread(stack.enter_context, running(service))
    companion = Companion(data, config)
    stack.callback(companion.close)
    before = await _examined(address, examined)
    async with opened_turn(data, config, by="proof", reason="imported logs") as (turn, _):
        receipt = await turn.run()
    report(2, 5)
    stage = await _tested(address, companion, tested) if receipt["outcome"] == "handed over" else "none"
    report(4, 5)
    after = await _examined(address, examined)
    return {"imported": {"traces": first.new, "again": again.new, "outcome": receipt["outcome"],
                         "reason": receipt["reason"], "stage": stage, "before": before, "after": after}}  # fmt: skip


def settings(models: str, judges: str) -> dict[str, Any]:
    """Settings of a gateway before the stub, with a plain route and one that holds the shop's terms."""
    backends: dict[str, Any] = {
        "large": {"url": f"{models}/v1", "model": "large", "prices": {"input": 0.4, "output": 1.6}}
    }
    for name in ("judge-learner", "judge-gate"):
        backends[name] = {"url": f"{judges}/v1", "model": name, "prices": {"input": 0.02, "output": 0.08}}
    checklist = [
        {"id": name, "question": words, "weight": WEIGHTS[name]} for name, words in QUESTIONS.items()
    ]
    experiment = {"shadow_requests": 0, "canary_units": 0, "planned": TESTED, "least": 30}
    return {
        "backends": backends,
        "routes": {
            "plain": {"backend": "large", "system": SYSTEM},
            "terms": {"backend": "large", "system": f"{SYSTEM} {FACTS}"},
        },
        "begin": "plain",
        "judging": {"checklist": checklist},
        "learning": {
            "learner": "routes", "judge": "judge-learner", "gate_judge": "judge-gate", "least_rated": 0,
            "most_items": 150, "experiment": experiment,
        },
        "promote": "auto",
        "page": {"on": False},
    }  # fmt: skip


def _questions(seed: int, number: int) -> list[tuple[User, Wish]]:
    """Questions about the shop's terms, in the usual words, each of a user of its own."""
    wishes = Wishes(seed, catalogue(), TOPICS)
    found = []
    for turn in range(20):
        for user in population(seed):
            wish = wishes.wish(user, 600, turn)
            if wish.intent == "help":
                found.append((user, wish))
            if len(found) == number:
                return found
    raise AssertionError("there are users enough")


def _body(system: str, wish: Wish) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": wish.text}]
    return {"model": "large", "messages": messages}


async def _asked(url: str, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Answers of an address to chat completions."""
    import aiohttp

    places = asyncio.Semaphore(_AT_ONCE)
    headers = {"authorization": f"Bearer {PEER_TOKEN}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:

        async def one(body: Mapping[str, Any]) -> dict[str, Any]:
            async with places, session.post("/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                return dict(await answer.json())

        return list(await asyncio.gather(*(one(body) for body in bodies)))


def _written(folder: Path, pairs: Sequence[tuple[User, Wish]], answers: Sequence[str]) -> list[Path]:
    """Logs of an application: the first half as OTLP in JSON, the second as lines of an export of Langfuse."""
    half = len(pairs) // 2
    spans, lines = [], []
    for number, ((user, wish), answer) in enumerate(zip(pairs, answers, strict=True)):
        messages = _body(SYSTEM, wish)["messages"]
        began = 1_767_225_600_000_000_000 + number * 10**9
        if number < half:
            attributes = {
                "gen_ai.operation.name": "chat", "gen_ai.request.model": "large", "user.id": str(user.number),
                "gen_ai.input.messages": json.dumps(messages),
                "gen_ai.output.messages": json.dumps([{"role": "assistant", "content": answer}]),
            }  # fmt: skip
            spans.append({
                "traceId": f"{number + 1:032x}", "spanId": f"{number + 1:016x}", "name": "chat",
                "startTimeUnixNano": str(began), "endTimeUnixNano": str(began + 10**8),
                "attributes": [{"key": k, "value": {"stringValue": v}} for k, v in attributes.items()],
            })  # fmt: skip
        else:
            at = f"2026-01-01T00:{number // 60 % 60:02d}:{number % 60:02d}Z"
            lines.append({
                "id": f"o{number}", "traceId": f"t{number}", "type": "GENERATION", "startTime": at, "endTime": at,
                "model": "large", "userId": str(user.number), "input": messages,
                "output": {"role": "assistant", "content": answer},
            })  # fmt: skip
    otlp, langfuse = folder / "otlp.json", folder / "langfuse.jsonl"
    write_atomic(otlp, json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}) + "\n")
    write_atomic(langfuse, "".join(json.dumps(line) + "\n" for line in lines))
    return [otlp, langfuse]


async def _examined(address: str, pairs: Sequence[tuple[User, Wish]]) -> float:
    """Oracle's quality of what serves."""
    replies = await _asked(address, [_of_user("guest", user, wish) for user, wish in pairs])
    return float(np.mean([quality(*pair, _seen(one)) for pair, one in zip(pairs, replies, strict=True)]))


async def _tested(address: str, companion: Companion, pairs: Sequence[tuple[User, Wish]]) -> str:
    """Let users ask and rate until the experiment has ended; its stage."""
    import aiohttp

    await asyncio.to_thread(companion.look)
    await asyncio.sleep(1.5 * POLL)
    stage = ""
    for first in range(0, len(pairs), 50):
        some = pairs[first : first + 50]
        replies = await _asked(address, [_of_user("user", user, wish) for user, wish in some])
        async with aiohttp.ClientSession(
            address, headers={"authorization": f"Bearer {PEER_TOKEN}"}
        ) as session:
            for (user, wish), one in zip(some, replies, strict=True):
                body = {
                    "target": one["id"], "value": quality(user, wish, _seen(one)), "client_key": "1",
                    "user": f"user {wish.name}",
                }  # fmt: skip
                async with session.post("/v1/feedback", json=body) as answer:
                    answer.raise_for_status()
        await asyncio.to_thread(companion.look)
        async with (
            aiohttp.ClientSession(address, headers={"authorization": f"Bearer {PEER_TOKEN}"}) as session,
            session.get("/v1/experiments") as answer,
        ):
            (found,) = (await answer.json())["data"]
        stage = str(found["stage"])
        if stage not in OPEN:
            break
    await asyncio.sleep(1.5 * POLL)
    return stage


def _of_user(crowd: str, user: User, wish: Wish) -> dict[str, Any]:
    return {
        "model": "noria", "user": f"{crowd} {wish.name}", "messages": [{"role": "user", "content": wish.text}],
    }  # fmt: skip


def _seen(reply: Mapping[str, Any]) -> Seen:
    return Seen(reply["choices"][0]["message"].get("content") or "")
