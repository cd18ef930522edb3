"""Whom a router can ask: models on servers, in this process, or recorded, each made to think in several ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from noria.core.chat import (
    Answer,
    Budget,
    ChatCache,
    ChatClient,
    ChatModel,
    ChatRequest,
    Failure,
    Refusal,
    user,
)
from noria.core.errors import ConfigError
from noria.routing.pool.config import DEFAULT_STRATEGIES, PoolConfig, Strategy
from noria.routing.tables.table import REFUSED, Question, Route, Table


@dataclass(frozen=True)
class Reply:
    """Reply of a route to a query.

    Attributes:
        text: words of the route; None where it failed.
        cost: cost of asking, also for a reply that was kept from earlier; NaN where it is not known.
        failure: why there are no words, or that they are a refusal.
        prompt_tokens, completion_tokens: count of tokens; NaN where they were not counted.
        seconds: time of the request; NaN for a reply that was kept.
        cached: whether the reply was kept, so that nothing was paid now.
        asked: whether the route was asked; nothing is known of it where a table has no reply, or our own budget forbade
            the request.
    """

    text: str | None
    cost: float = math.nan
    failure: str | None = None
    prompt_tokens: float = math.nan
    completion_tokens: float = math.nan
    seconds: float = math.nan
    cached: bool = False
    asked: bool = True


class Asker(Protocol):
    """Protocol of a source of replies by route."""

    @property
    def routes(self) -> tuple[Route, ...]:
        """Routes that can be asked."""
        ...

    async def ask(self, route: Route, query: str, *, question: Question | None = None) -> Reply:
        """Ask a route a query; `question` is what the rollout is about, where there is one."""
        ...


class Pool:
    """Chat models by name, in strategies. Use it as an asynchronous context, which closes its clients.

    Args:
        models: chat models by name.
        routes: models and strategies that can be asked; every model directly by default.
        strategies: strategies by name.
        about: by a model's name, what it is good at, for routers that read.
    """

    def __init__(
        self,
        models: Mapping[str, ChatModel],
        routes: Sequence[Route] | None = None,
        *,
        strategies: Mapping[str, Strategy] | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.models, self.strategies = dict(models), dict(strategies or DEFAULT_STRATEGIES)
        self.routes = tuple(Route(name) for name in models) if routes is None else tuple(routes)
        self.about = dict(about or {})
        for route in self.routes:
            if route.model not in self.models or route.strategy not in self.strategies:
                raise ConfigError(f"{route.label!r} has no model or no strategy", where="pool")

    def add(self, route: Route) -> None:
        """Add a route of a model and a strategy that are there."""
        self.routes = (*self.routes, route)

    @property
    def described(self) -> list[tuple[str, str]]:
        """(label, what it is good at) of every route."""
        return [(route.label, self.about.get(route.model, "")) for route in self.routes]

    def live(self, *, attempts: int, patience: float) -> Pool:
        """This pool with its servers' settings for live traffic: nobody waits for a server that asks to wait.

        Args:
            attempts: most attempts at a server, instead of its own.
            patience: seconds that a server may take for its answer, unless its own are fewer.
        """
        models = {
            name: model.with_settings(
                attempts=attempts, longest_wait=0.0, timeout=min(patience, model.server.timeout)
            )
            if isinstance(model, ChatClient)
            else model
            for name, model in self.models.items()
        }
        return Pool(models, self.routes, strategies=self.strategies, about=self.about)

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(self, *error: object) -> None:
        for model in self.models.values():
            if isinstance(model, ChatClient):
                await model.aclose()

    async def ask(self, route: Route, query: str, *, question: Question | None = None) -> Reply:
        """Send one request to a model, in its strategy."""
        strategy, model = self.strategies[route.strategy], self.models[route.model]
        message = user(strategy.prompt(query))
        outcome = await model.ask(
            ChatRequest.of(
                message,
                temperature=strategy.temperature,
                max_tokens=strategy.max_tokens,
                stop=strategy.stop,
            )
        )
        if isinstance(outcome, Failure):
            why = f"{outcome.kind}: {outcome.message}"
            return Reply(None, failure=why, seconds=outcome.seconds, asked=outcome.kind != "budget")
        usage, cost, kept = outcome.usage, outcome.cost, outcome.cached
        if kept and isinstance(
            model, ChatClient
        ):  # nothing was paid, but routes are judged by what asking costs
            cost = model.server.prices.cost(usage)
        return Reply(
            strategy.read(outcome.text) if isinstance(outcome, Answer) else outcome.text,
            cost=_number(cost),
            failure=REFUSED if isinstance(outcome, Refusal) else None,
            prompt_tokens=_number(usage.prompt_tokens),
            completion_tokens=_number(usage.completion_tokens),
            seconds=math.nan if kept else outcome.seconds,
            cached=kept,
        )


class ReplayPool:
    """A recorded table as a pool: a route says what it said to the rollout's question, however the query is worded.

    Args:
        table: a table with responses.
    """

    def __init__(self, table: Table) -> None:
        self.routes = table.routes
        self._cells = {(table.questions[q].id, table.routes[r]): cell for (q, r), cell in table.cells.items()}

    async def ask(self, route: Route, query: str, *, question: Question | None = None) -> Reply:
        """Give the recorded reply; a failure where the route failed, and where nothing was recorded."""
        cell = None if question is None else self._cells.get((question.id, route))
        if cell is None or (cell.response is None and not cell.failed):
            return Reply(None, failure="not recorded", asked=False)
        if cell.failed:
            return Reply(None, failure=cell.failure, seconds=cell.seconds)
        return Reply(
            cell.response,
            cost=cell.cost,
            prompt_tokens=cell.prompt_tokens,
            completion_tokens=cell.completion_tokens,
            seconds=cell.seconds,
            failure=cell.failure,
        )


def open_pool(
    config: PoolConfig,
    *,
    cache: Path | None = None,
    budget: float | None = None,
    in_flight: int | None = None,
    allow_download: bool = False,
) -> Pool:
    """Open the models of a configuration, ready to be asked in one event loop.

    Args:
        config: models and strategies.
        cache: folder where answers of servers are kept and looked up.
        budget: most that all answers may cost together.
        in_flight: requests under way at a server whose own `in_flight` is not set.
        allow_download: whether a hub id of a local model may be fetched.

    Raises:
        ConfigError: a key's variable is not set, there is a budget and no price, or a cache and no server.
        ModelError: a local model does not open.
        MissingExtra: a package is absent.
    """
    if cache is not None and all(member.server is None for member in config.models):
        raise ConfigError("only answers of servers are kept, and the pool has none", where="--cache")
    limit = None if budget is None else Budget(budget)
    kept = None if cache is None else ChatCache(cache)
    models: dict[str, ChatModel] = {}
    for member in config.models:
        if member.server is not None:
            server = member.server
            if in_flight is not None and "in_flight" not in server.model_fields_set:
                server = server.model_copy(update={"in_flight": in_flight})
            models[member.name] = ChatClient(server, cache=kept, budget=limit)
        else:
            from noria.core.models.loading import open_language_model
            from noria.routing.pool.local import LocalChat

            assert member.local is not None
            if limit is not None and not member.prices.known:
                raise ConfigError(
                    f"a budget needs the prices of {member.name}",
                    where="prices",
                    mend="give input and output prices per million tokens, 0 where it is free",
                )
            opened = open_language_model(member.local, allow_download=allow_download)
            models[member.name] = LocalChat(opened, prices=member.prices, budget=limit)
    return Pool(
        models,
        config.routes,
        strategies=config.all_strategies,
        about={member.name: member.about for member in config.models},
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
