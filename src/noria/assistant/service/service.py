"""The gateway as a service: its routes, its state, and what runs beside requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_args

from noria.assistant.config import AssistantConfig
from noria.assistant.folder import check_secret, open_control, open_versions, read_secret, service_name
from noria.assistant.service.accompanying import accompany
from noria.assistant.service.answering.sharing import Sharing
from noria.assistant.service.bundles import Bundles
from noria.assistant.service.console.console import Console
from noria.assistant.service.feedback import Conversations
from noria.assistant.service.gateway import Gateway
from noria.assistant.service.making import Making
from noria.assistant.service.mcp.tools import gateway_tools
from noria.assistant.service.operations import Operations
from noria.assistant.service.peers import Peers
from noria.assistant.service.recording import Recorder
from noria.assistant.service.retention import forgetting, remove_old
from noria.core.chat.settings import ChatServer
from noria.core.completions.answers import model_list
from noria.core.completions.jobs import Jobs
from noria.core.errors import ConfigError, NoriaError, needing
from noria.core.service.callers import Callers
from noria.core.service.responses import json_response
from noria.core.service.serving import Limits, Request, Response, Route, Service, route
from noria.core.storage.control import SQLControl
from noria.core.storage.shares import Shares
from noria.core.traces.index.costs import spent_today
from noria.core.traces.records import Status
from noria.core.traces.redaction import open_redactor
from noria.core.traces.store import TraceStore

with needing("serve"):
    from prometheus_client import Counter, Gauge, Histogram

POLL = 0.5
"""Seconds between two looks at what serves."""
log = logging.getLogger("noria.serving")


class Pages(Protocol):
    """Pages that stand on a gateway, and run with it."""

    def routes(self) -> list[Route]:
        """The routes of the pages; one that the console has, too, is theirs."""

    async def close(self) -> None:
        """Finish what is under way."""


@dataclass
class GatewayState:
    """What a gateway holds while it runs."""

    secret: bytes
    store: TraceStore
    control: SQLControl
    bundles: Bundles
    gateway: Gateway
    conversations: Conversations
    operations: Operations
    jobs: Jobs
    sharing: Sharing = field(default_factory=Sharing)


def open_state(folder: Path, config: AssistantConfig) -> GatewayState:
    """Open the folder of a gateway, or make it.

    Raises:
        RunError: another gateway uses the folder, or the disk refuses.
        ConfigError: a setting cannot be honoured.
    """
    redactor = open_redactor(keep=config.keep_personal, find=config.find_personal)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    secret = read_secret(folder)
    store = TraceStore(folder)
    try:
        control = open_control(folder, config)
        check_secret(control, secret, folder)
        store.also.append(lambda user: forgetting(store, control, user))
        bundles = Bundles(control, open_versions(folder, config), config)
        bundles.begin()
        recorder = Recorder(store.clock, redactor, keep_texts=config.keep_texts)
        gateway = Gateway(config, store, secret, recorder)
        gateway.serving = bundles.serving()
        share = config.judging.human_share
        conversations = Conversations(store, store.clock, redactor, secret, Peers(config.peers), share)
        return GatewayState(
            secret,
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
    pages: Callable[[GatewayState], Pages] | None = None,
) -> Iterator[Service]:
    """The service of a gateway; its folder is let go at the end of the block.

    Args:
        folder: folder of the traces, versions and experiments.
        config: settings of the gateway.
        token: the operator's secret.
        companion: whether the process that indexes, judges and decides experiments runs beside it.
        access_log: whether to log one line for each request.
        pages: makes the pages for people, if any.

    Raises:
        NoriaError: what keeps it from starting, in a line.
    """
    callers = Callers.read(config.callers) if config.callers else None
    budgets = {one.name: one.budget_per_day for one in config.callers} | {"page": config.page.budget_per_day}
    limited = {name: budget for name, budget in budgets.items() if budget is not None}
    for name in limited:
        _check_prices(config.backends, name)
    state = open_state(folder, config)
    try:
        if limited:  # what was spent last may not have been indexed before the end
            state.store.index.follow(state.store.folder)
        shares = None if config.control_env is None else Shares(state.control, service_name(folder))
        state.sharing = Sharing(shares, callers or ())
        for name, budget in limited.items():
            spent = spent_today(state.store.index, name)
            state.gateway.money.allowances[name] = state.sharing.allowance(name, budget, spent)
            hidden, share = spent_today(state.store.index, name, shadow=True), config.shadow_share
            state.gateway.money.hidden[name] = state.sharing.allowance(
                f"{name}/shadow", share * budget, hidden
            )
        made = None if pages is None else pages(state)
        yield _service(state, config, token, callers, made, companion=companion, access_log=access_log)
    finally:
        state.store.close()
        state.control.close()


def _service(
    state: GatewayState,
    config: AssistantConfig,
    token: str | None,
    callers: Callers | None,
    pages: Pages | None,
    *,
    companion: bool,
    access_log: bool,
) -> Service:
    def ready() -> str | None:
        if state.store.journal.broken is not None:
            return "traces cannot be kept"
        return None if state.gateway.serving is not None else "nothing serves"

    service = Service(
        "gateway",
        _routes(state, config, pages),
        token=token,
        callers=callers,
        hosts=config.page.hosts,
        limits=Limits(body_bytes=1 << 20, seconds=60.0, in_flight=1024),
        ready=ready,
        around=lambda service: _around(service, state, config, pages, companion=companion),
        access_log=access_log,
    )
    _count(service, state)
    return service


def _routes(state: GatewayState, config: AssistantConfig, pages: Pages | None) -> list[Route]:
    """Routes of the gateway, of the pages for people and of the console."""
    making = Making(state.gateway)

    async def models(request: Request) -> Response:
        return json_response(model_list(["noria", *config.routes]))

    return [
        route(
            "/v1/chat/completions", state.gateway.chat, methods=("POST",), access="chat",
            body_bytes=config.body_bytes, seconds=longest_answer(config),
        ),
        route("/v1/models", models, access="chat"),
        *state.conversations.routes(),
        *state.operations.routes(),
        *state.jobs.routes(),
        *making.routes(),
        gateway_tools(state.gateway, state.conversations, state.operations, making, state.jobs),
        *([] if pages is None else pages.routes()),
        *Console(state.store, state.bundles, state.operations, state.conversations).routes(),
    ]  # fmt: skip


@asynccontextmanager
async def _around(
    service: Service, state: GatewayState, config: AssistantConfig, pages: Pages | None, *, companion: bool
) -> AsyncIterator[None]:
    """Run what runs beside requests: tools, jobs, the companion, the pages."""
    if config.page.hosts:  # what comes by a public name may come from anybody, also over loopback
        service.private = True
    for name, why in state.operations.off().items():
        log.warning("off: %s: %s", name, why)
    state.jobs.open()
    await state.gateway.open()
    tasks = [
        asyncio.create_task(_follow(state, index=not companion)),
        asyncio.create_task(state.sharing.run()),
    ]
    if companion:
        tasks.append(asyncio.create_task(accompany(state.store, config)))
    try:
        yield
    finally:
        if pages is not None:
            await pages.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await state.jobs.close()
        await state.gateway.close()
        await state.conversations.peers.close()


def longest_answer(config: AssistantConfig) -> float:
    """Seconds after which an answer is given up: those of the backend, and of the slowest tool where there is one."""
    return config.seconds + 30.0 + max((one.seconds for one in config.parts.tools.values()), default=0.0)


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

    up = Gauge(
        "noria_gateway_server_up", "Whether a server that the gateway started serves.", ["server"], **own
    )
    for name, one in state.gateway.started.servers.items():
        up.labels(name).set_function(lambda one=one: float(one.state == "serving"))  # type: ignore[misc]

    by_status = {status: answers.labels(status) for status in get_args(Status)}
    tokens_in, tokens_out = tokens.labels("in"), tokens.labels("out")

    def counted(status: str, elapsed: float, usage: Any) -> None:
        by_status[status].inc()
        seconds.observe(elapsed)
        tokens_in.inc(usage.tokens_in)
        tokens_out.inc(usage.tokens_out)
        if usage.cost is not None:
            cost.inc(usage.cost)

    state.gateway.traces.counted = counted
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
                await asyncio.to_thread(remove_old, state.bundles, service_name(state.store.folder))
        except NoriaError as error:
            log.warning("what serves stays as it was: %s", error)
        except Exception:  # nobody waits for this task: without it, no switch and no roll-back would be heard
            log.exception("what serves stays as it was")


def _check_prices(backends: dict[str, ChatServer], caller: str) -> None:
    for name, server in backends.items():
        if not server.prices.known:
            raise ConfigError(
                f"a budget needs the prices of the backend {name}",
                where="page.budget_per_day" if caller == "page" else f"callers.{caller}.budget_per_day",
                mend="give input and output prices per million tokens, 0 where it is free",
            )
