"""One asynchronous client for every OpenAI-compatible server, over the `openai` package."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from noria.core.chat.budget import Budget
from noria.core.chat.cache import ChatCache
from noria.core.chat.faults import BusyError, GarbageError, fault_of
from noria.core.chat.messages import ChatRequest, request_key
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal
from noria.core.chat.replies import StreamedReply, read_reply
from noria.core.chat.sending import Sender, logger
from noria.core.chat.settings import ChatServer, redacted
from noria.core.errors import ModelError, needing, ungrouped


class ChatClient(Sender):
    """Client of one model on one server. Use it as an asynchronous context, from one event loop.

    Args:
        server: settings of the server.
        cache: cache of answers, if any.
        budget: limit on costs, if any; it needs prices.

    Raises:
        ConfigError: the key's variable is not set, or a budget without prices.
        MissingExtra: the `openai` package is absent.
    """

    def __init__(
        self, server: ChatServer, *, cache: ChatCache | None = None, budget: Budget | None = None
    ) -> None:
        super().__init__(server, budget=budget)
        self.cache = cache
        with needing("openai"):
            import openai

            from noria.core.chat.transport import http_client
        self._openai = openai.AsyncOpenAI(
            base_url=server.url,
            api_key=self._key,
            timeout=server.timeout,
            max_retries=0,  # this class retries: it counts attempts, and knows cut streams
            http_client=http_client(server.url, timeout=server.timeout, largest=server.largest_reply),
        )

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._openai.close()

    def with_settings(self, **changes: Any) -> ChatClient:
        """A client with other settings of attempts and times, which shares connections and limits with this one."""
        twin = copy.copy(self)
        twin.server = self.server.model_copy(update=changes)
        return twin

    async def ask(self, request: ChatRequest, *, within: float | None = None) -> Outcome:
        """Send one request, or take its outcome from the cache.

        Args:
            request: the request.
            within: longest wait, in seconds, for one of the `in_flight` places, and for the turn that
                `requests_per_minute` gives; more is a failure of kind `busy`.
        """
        body = self._body(request)
        key, cached = self._cached(request, body)
        if cached is not None:
            return cached
        reserved = self._reserve(request)
        if isinstance(reserved, Failure):
            return reserved
        outcome: Outcome | None = None
        try:
            async with self.place(within):
                outcome = await self._attempts(body, within)
        except BusyError as error:
            outcome = Failure("busy", str(error), attempts=0)
        finally:
            self.settle(reserved, outcome)
        if self.cache:
            self.cache.put(key, outcome)
        return outcome

    async def ask_all(
        self,
        requests: Iterable[ChatRequest],
        *,
        on_outcome: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Send many requests, `in_flight` of them at once; outcomes are in the order of the requests.

        Args:
            requests: requests, each taken from the iterable when it can be sent.
            on_outcome: called with the number of a request and its outcome, as soon as that is there.
        """
        outcomes: dict[int, Outcome] = {}
        waiting = enumerate(requests)

        async def work() -> None:
            for number, request in waiting:
                outcomes[number] = await self.ask(request)
                if on_outcome:
                    on_outcome(number, outcomes[number])

        with ungrouped():
            async with asyncio.TaskGroup() as group:
                for _ in range(self.server.in_flight):
                    group.create_task(work())
        return [outcomes[number] for number in range(len(outcomes))]

    def stream(self, request: ChatRequest, *, within: float | None = None) -> Stream:
        """Send a request and stream its answer. A cached answer comes as one piece; `within` is that of `ask`."""
        return Stream(self, request, within)

    async def models(self) -> list[str]:
        """Names of the models that the server serves.

        Raises:
            ModelError: the server does not answer as an OpenAI-compatible one.
        """
        try:
            page = await self._openai.models.list()
            return [str(model.id) for model in page.data]
        except Exception as error:
            fault = fault_of(error)
            if fault is None and not isinstance(error, AttributeError | TypeError):
                raise
            what = "its list of models is malformed" if fault is None else f"{fault.kind}: {fault.message}"
            raise ModelError(redacted(what, self._key), where=self.server.url) from None

    # -- one request -----------------------------------------------------------------------------------------

    def _body(self, request: ChatRequest, **more: Any) -> bytes:
        server = self.server
        return request.encoded(server.model, length_field=server.length_field, omitted=server.refuses, **more)

    def _cached(self, request: ChatRequest, body: bytes) -> tuple[str, Answer | Refusal | None]:
        """Key of a request in the cache, and the outcome there; no key without a cache."""
        if self.cache is None:
            return "", None
        key = request_key(self.server.url, body, request.sample)
        return key, self.cache.get(key)

    def _reserve(self, request: ChatRequest) -> float | Failure:
        if self.budget is None:
            return 0.0
        return self.reserve(request.wire(self.server.model, length_field=self.server.length_field))

    async def _attempts(self, body: bytes, within: float | None) -> Outcome:
        began = time.monotonic()
        for attempt in range(1, self.server.attempts + 1):
            try:
                await self.turn(within)
                async with asyncio.timeout(self.server.timeout):
                    reply = await self._post(body)
                outcome = read_reply(reply, self.server.prices)
                logger.info("%s: %s, attempt %d", self.server.model, type(outcome).__name__, attempt)
                return replace(outcome, seconds=time.monotonic() - began, attempts=attempt)
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
            wait = self.wait(fault, attempt)
            if wait is None:
                return self.failed(fault, attempt, time.monotonic() - began)
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt ends it")

    async def _post(self, body: bytes) -> Any:
        import httpx2

        response = await self._openai.post("/chat/completions", content=body, cast_to=httpx2.Response)
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError):
            raise GarbageError("the reply is not JSON") from None


class Stream:
    """A streamed answer: iterate over its pieces of text, then read its `outcome`.

    A fault before the first piece is retried as in `ask`; a later one ends the stream with a `Failure` that holds the
    partial text. Use it as an asynchronous context, so that a stream that is left early is closed.
    """

    def __init__(self, client: ChatClient, request: ChatRequest, within: float | None = None) -> None:
        self._outcome: Outcome | None = None
        self._within = within
        self._coming = self._run(client, request)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._coming.aclose()

    def __aiter__(self) -> AsyncIterator[str]:
        return self._coming

    @property
    def outcome(self) -> Outcome:
        """The outcome, once the stream has ended.

        Raises:
            ValueError: the stream has not ended.
        """
        if self._outcome is None:
            raise ValueError("the stream has not ended")
        return self._outcome

    async def _run(self, client: ChatClient, request: ChatRequest) -> AsyncGenerator[str]:
        key, cached = client._cached(request, client._body(request))
        if cached is not None:
            if isinstance(cached, Answer):
                yield cached.text
            self._outcome = cached
            return
        reserved = client._reserve(request)
        if isinstance(reserved, Failure):
            self._outcome = reserved
            return
        try:
            body = client._body(request, stream=True, stream_options={"include_usage": True})
            async with (
                client.place(self._within),
                contextlib.aclosing(self._attempts(client, body)) as pieces,
            ):
                async for piece in pieces:
                    yield piece
        except BusyError as error:
            self._outcome = Failure("busy", str(error), attempts=0)
        finally:
            client.settle(reserved, self._outcome)
        if client.cache:
            client.cache.put(key, self.outcome)

    async def _attempts(self, client: ChatClient, body: bytes) -> AsyncGenerator[str]:
        began = time.monotonic()
        for attempt in range(1, client.server.attempts + 1):
            reply = StreamedReply()
            try:
                await client.turn(self._within)
                async with contextlib.aclosing(self._events(client, body)) as events:
                    async for event in events:
                        if piece := reply.add(event):
                            yield piece
                outcome = reply.outcome(client.server.prices)
                self._outcome = replace(outcome, seconds=time.monotonic() - began, attempts=attempt)
                return
            except Exception as error:
                fault = fault_of(error, began=reply.began)
                if fault is None:
                    raise
            wait = None if reply.began else client.wait(fault, attempt)
            if wait is None:
                seconds = time.monotonic() - began
                self._outcome = client.failed(fault, attempt, seconds, "".join(reply.text))
                return
            await asyncio.sleep(wait)

    async def _events(self, client: ChatClient, body: bytes) -> AsyncGenerator[Any]:
        """Yield the JSON of each event of one attempt; the timeout of an attempt holds for each event."""
        import openai

        async with asyncio.timeout(client.server.timeout):
            chunks: Any = await client._openai.post(
                "/chat/completions",
                content=body,
                cast_to=object,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
        events = aiter(chunks)
        try:
            while True:
                async with asyncio.timeout(client.server.timeout):
                    event = await anext(events, None)
                if event is None:
                    return
                yield event
        finally:
            await chunks.response.aclose()


def ask_all(
    server: ChatServer,
    requests: Sequence[ChatRequest],
    *,
    cache: ChatCache | None = None,
    budget: Budget | None = None,
    on_outcome: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    """Send many requests as `ChatClient.ask_all` does, in a program that is not asynchronous.

    Raises:
        ConfigError: the key's variable is not set, or a budget has no prices.
    """

    async def run() -> list[Outcome]:
        async with ChatClient(server, cache=cache, budget=budget) as client:
            return await client.ask_all(requests, on_outcome=on_outcome)

    return asyncio.run(run())
