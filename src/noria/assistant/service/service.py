"""The gateway as a service: its routes, its state, and what runs beside requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from noria.assistant.config import AssistantConfig
from noria.assistant.folder import check_secret, open_control, open_versions, read_secret
from noria.assistant.service.bundles import Bundles
from noria.assistant.service.console import Console
from noria.assistant.service.feedback import Conversations
from noria.assistant.service.gateway import Allowance, Gateway
from noria.assistant.service.operations import Operations
from noria.assistant.service.peers import Peers
from noria.assistant.service.recording import Recorder
from noria.assistant.service.tools import gateway_tools
from noria.core.chat.settings import ChatServer
from noria.core.completions.jobs import Jobs
from noria.core.errors import ConfigError, NoriaError, needing
from noria.core.service.callers import Callers
from noria.core.service.responses import json_response
from noria.core.service.serving import Limits, Request, Response, Service, route
from noria.core.storage.control import SQLControl
from noria.core.traces.records import JudgementRecord, Status, decode
from noria.core.traces.redaction import Redactor
from noria.core.traces.store import TraceStore, UnknownTrace

with needing("serve"):
    from prometheus_client import Counter, Gauge, Histogram

POLL = 0.5
"""Seconds between two looks at what serves."""
log = logging.getLogger("noria.serving")


@dataclass
class GatewayState:
    """What a gateway holds while it runs."""

    store: TraceStore
    control: SQLControl
    bundles: Bundles
    gateway: Gateway
    conversations: Conversations
    operations: Operations
    jobs: Jobs


def open_state(folder: Path, config: AssistantConfig) -> GatewayState:
    """Open the folder of a gateway, or make it.

    Raises:
        RunError: another gateway uses the folder, or the disk refuses.
        ConfigError: a setting cannot be honoured.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    secret = read_secret(folder)
    try:
        redactor = Redactor(keep=config.keep_personal)
    except ValueError as error:
        raise ConfigError(str(error), where="keep_personal") from None
    store = TraceStore(folder)
    try:
        control = open_control(folder, config)
        check_secret(control, secret, folder)
        bundles = Bundles(control, open_versions(folder, config), config)
        bundles.begin()
        recorder = Recorder(store.clock, redactor, keep_texts=config.keep_texts)
        gateway = Gateway(config, store, secret, recorder)
        gateway.serving = bundles.serving()
        conversations = Conversations(store, store.clock, redactor, secret, Peers(config.peers))
        return GatewayState(
            store,
            control,
            bundles,
            gateway,
            conversations,
            Operations(bundles, gateway),
            Jobs(folder / "jobs"),
        )
    except BaseException:
        store.close()
        raise


@contextmanager
def opened_gateway(
    folder: Path,
    config: AssistantConfig,
    *,
    token: str | None = None,
    companion: bool = True,
    access_log: bool = True,
) -> Iterator[Service]:
    """The service of a gateway; its folder is let go at the end of the block.

    Args:
        folder: folder of the traces, versions and experiments.
        config: settings of the gateway.
        token: the operator's secret.
        companion: whether the process that indexes, judges and decides experiments runs beside it.
        access_log: whether to log one line for each request.

    Raises:
        NoriaError: what keeps it from starting, in a line.
    """
    callers = Callers.read(config.callers) if config.callers else None
    limited = [one for one in config.callers if one.budget_per_day is not None]
    for one in limited:
        _check_prices(config.backends, one.name)
    state = open_state(folder, config)
    try:
        for one in limited:
            spent = state.store.index.spent_today(one.name)
            state.gateway.allowances[one.name] = Allowance(one.budget_per_day or 0.0, spent)
        yield _service(state, config, token, callers, companion=companion, access_log=access_log)
    finally:
        state.store.close()
        state.control.close()


def _service(
    state: GatewayState,
    config: AssistantConfig,
    token: str | None,
    callers: Callers | None,
    *,
    companion: bool,
    access_log: bool,
) -> Service:
    @asynccontextmanager
    async def around(service: Service) -> AsyncIterator[None]:
        state.jobs.open()
        await state.gateway.open()
        tasks = [asyncio.create_task(_follow(state, index=not companion))]
        if companion:
            tasks.append(asyncio.create_task(_accompany(state.store, config)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await state.jobs.close()
            await state.gateway.close()
            await state.conversations.peers.close()

    async def models(request: Request) -> Response:
        names = ["noria", *config.routes]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "noria"} for name in names]
        return json_response({"object": "list", "data": data})

    def ready() -> str | None:
        if state.store.journal.broken is not None:
            return "traces cannot be kept"
        return None if state.gateway.serving is not None else "nothing serves"

    service = Service(
        "gateway",
        [
            route(
                "/v1/chat/completions", state.gateway.chat, methods=("POST",), access="chat",
                body_bytes=config.body_bytes, seconds=config.seconds + 30.0,
            ),
            route("/v1/models", models, access="chat"),
            *state.conversations.routes(),
            *state.operations.routes(),
            *state.jobs.routes(),
            gateway_tools(state.gateway, state.conversations, state.operations),
            *Console(state.store, state.bundles, state.operations).routes(),
        ],
        token=token,
        callers=callers,
        limits=Limits(body_bytes=1 << 20, seconds=60.0, in_flight=1024),
        ready=ready,
        around=around,
        access_log=access_log,
    )  # fmt: skip
    _count(service, state)
    return service


def _count(service: Service, state: GatewayState) -> None:
    """Make the gateway's own metrics."""
    own: dict[str, Any] = {"registry": service.registry}
    answers = Counter("noria_gateway_answers", "Answers by how they ended.", ["status"], **own)
    seconds = Histogram(
        "noria_gateway_answer_seconds", "Seconds of an answer, its backend included.",
        buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120), **own,
    )  # fmt: skip
    tokens = Counter("noria_gateway_tokens", "Tokens of answers.", ["side"], **own)
    cost = Counter("noria_gateway_cost", "Cost of answers, where it is known.", **own)
    feedback = Counter("noria_gateway_feedback", "Feedback by its kind.", ["kind"], **own)
    Gauge("noria_gateway_waiting_bytes", "Bytes that wait for the disk.", **own).set_function(
        lambda: state.store.journal.waiting
    )
    Gauge("noria_gateway_champion", "Number of the champion's move.", **own).set_function(
        lambda: 0 if state.gateway.serving is None else state.gateway.serving.version
    )

    by_status = {status: answers.labels(status) for status in get_args(Status)}
    tokens_in, tokens_out = tokens.labels("in"), tokens.labels("out")

    def counted(status: str, elapsed: float, usage: Any) -> None:
        by_status[status].inc()
        seconds.observe(elapsed)
        tokens_in.inc(usage.tokens_in)
        tokens_out.inc(usage.tokens_out)
        if usage.cost is not None:
            cost.inc(usage.cost)

    state.gateway.counted = counted
    state.conversations.counted = lambda kind: feedback.labels(kind).inc()


async def _follow(state: GatewayState, *, index: bool) -> None:
    """Serve what the documents say, also where another process has changed them; remove pictures whose time is over."""
    number = 0
    while True:
        await asyncio.sleep(POLL)
        number += 1
        try:
            state.gateway.serving = await asyncio.to_thread(state.bundles.serving)
            if index and number % 2 == 0:
                await asyncio.to_thread(state.store.index.follow, state.store.folder)
            if number % 7200 == 1:
                await state.store.journal.expire_blobs()
        except NoriaError as error:
            log.warning("what serves stays as it was: %s", error)


async def _accompany(store: TraceStore, config: AssistantConfig) -> None:
    """Keep the companion running, and write what it judges; one that ends is started again, each time later."""
    wait = 1.0
    clock = asyncio.get_running_loop().time
    while True:
        began = clock()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "noria.assistant.companion.companion", str(store.folder),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
        )  # fmt: skip
        assert process.stdin is not None
        try:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(config.model_dump_json().encode() + b"\n")
                await process.stdin.drain()
            await _take_judgements(process, store)
            code = await process.wait()
        except asyncio.CancelledError:
            process.stdin.close()  # the end of its stdin ends it
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            raise
        wait = 1.0 if clock() - began > 60 else wait
        log.warning("the companion ended with %d; it is started again in %.0f s", code, wait)
        await asyncio.sleep(wait)
        wait = min(60.0, 2 * wait)


async def _take_judgements(process: asyncio.subprocess.Process, store: TraceStore) -> None:
    """Write each judgement that the companion hands over, until it ends."""
    assert process.stdout is not None
    async for line in process.stdout:
        try:
            record = decode(line, "the companion")
            if isinstance(record, JudgementRecord):
                await store.judge(record)
        except UnknownTrace:
            continue  # its user was erased meanwhile
        except NoriaError as error:
            log.warning("a judgement was not kept: %s", error)


def _check_prices(backends: dict[str, ChatServer], caller: str) -> None:
    for name, server in backends.items():
        if not server.prices.known:
            raise ConfigError(
                f"a budget needs the prices of the backend {name}",
                where=f"callers.{caller}.budget_per_day",
                mend="give input and output prices per million tokens, 0 where it is free",
            )
