"""The backends of a gateway: connections to them, and a route's request to its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from noria.assistant.parts.loop import Heard
from noria.assistant.service.answering.aloud import ask_aloud
from noria.assistant.service.answering.asking import ask, composed
from noria.core.chat import ChatServer
from noria.core.chat.forwarding import Forwarder
from noria.core.chat.outcomes import Failure, Outcome
from noria.core.completions.requests import CompletionRequest
from noria.core.learning.routes.route import Route


class Backends:
    """Connections to the backends.

    Args:
        servers: the backends by name.
        seconds: longest time of a request.
    """

    def __init__(self, servers: Mapping[str, ChatServer], seconds: float) -> None:
        self.servers, self.seconds = servers, seconds
        self._forwarders: dict[str, Forwarder] = {}
        self._silent: set[str] = set()  # those that refuse to stream

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the connections, which the stack closes."""
        for name, server in self.servers.items():
            self._forwarders[name] = await stack.enter_async_context(Forwarder(server))

    def forwarder(self, route: Route) -> Forwarder:
        """Connection to a route's backend."""
        return self._forwarders[route.backend]

    async def ask(
        self, route: Route, query: CompletionRequest, heard: Heard | None = None
    ) -> tuple[Outcome, dict[str, Any] | None]:
        """Ask a route's backend; the outcome, and the JSON of the reply where there is one.

        Args:
            route: how the request is answered.
            query: the request.
            heard: hears the pieces of the answer; the reply comes as a whole without it.
        """
        forwarder = self.forwarder(route)
        if heard is None or route.backend in self._silent:
            return await ask(forwarder, route, query, within=self.seconds)
        body = composed(query, route, forwarder, stream=True)
        outcome = await ask_aloud(forwarder, body, self.seconds, heard)
        if not (isinstance(outcome, Failure) and outcome.kind == "request"):
            return outcome, None
        whole, reply = await ask(forwarder, route, query, within=self.seconds)
        if not isinstance(whole, Failure):  # it was the stream that it refused
            self._silent.add(route.backend)
        return whole, reply
