"""One asynchronous client for every OpenAI-compatible server, over the `openai` package."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from noria.core.chat.budget import Budget
from noria.core.chat.cache import ChatCache
from noria.core.chat.faults import BusyError, CutError, Fault, GarbageError, fault_of
from noria.core.chat.messages import ChatRequest, request_key
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal, Usage
from noria.core.chat.settings import ChatServer, Prices, redacted
from noria.core.errors import ConfigError, ModelError, needing, ungrouped

logger = logging.getLogger("noria.chat")


class ChatClient:
    """Client of one model on one server. Use it as an asynchronous context, from one event loop.

    Attempts that fail for a reason that may pass are repeated with exponential backoff and full jitter, or when the
    server says so (Retry-After). The log (`noria.chat`) has models, kinds of failures and times, but no text of
    requests or answers and no key.

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
        if budget is not None and not server.prices.known:
            raise ConfigError(
                f"a budget needs the prices of {server.model}",
                where="prices",
                mend="give input and output prices per million tokens, 0 where it is free",
            )
        self.server, self.cache, self.budget = server, cache, budget
        self._key = server.key()
        self._slots = asyncio.Semaphore(server.in_flight)
        self._logged: set[str] = set()  # kinds of failures that were logged as a warning
        with needing("openai"):
            import openai
            from aiolimiter import AsyncLimiter

            from noria.core.chat.transport import http_client
        rate = server.requests_per_minute
        self._rate = None if rate is None else AsyncLimiter(max(1.0, rate / 60), max(1.0, 60 / rate))
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
            async with self._place(within):
                outcome = await self._attempts(body, within)
        except BusyError as error:
            outcome = Failure("busy", str(error), attempts=0)
        finally:
            self._settle(reserved, outcome)
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
        """Reserve the estimated cost of a request in the budget; a `Failure` where that is impossible."""
        if self.budget is None:
            return 0.0
        body = request.wire(self.server.model, length_field=self.server.length_field)
        reserved = self.budget.reserve(self.server.prices, body)
        if reserved is None:
            message = (
                f"{self.budget.spent:.4g} of {self.budget.limit:.4g} is spent, and the rest is too little"
            )
            return Failure("budget", message, attempts=0)
        return reserved

    def _settle(self, reserved: float, outcome: Outcome | None) -> None:
        if self.budget is None:
            return
        # After these four the server may have written an answer, and charged it.
        if isinstance(outcome, Failure) and outcome.kind not in ("timeout", "cut", "too_large", "garbage"):
            self.budget.settle(reserved, 0.0)
        else:
            self.budget.settle(reserved, outcome.cost if isinstance(outcome, Answer | Refusal) else None)

    async def _attempts(self, body: bytes, within: float | None) -> Outcome:
        began = time.monotonic()
        for attempt in range(1, self.server.attempts + 1):
            try:
                await self._turn(within)
                async with asyncio.timeout(self.server.timeout):
                    reply = await self._post(body)
                outcome = _read_reply(reply, self.server.prices)
                logger.info("%s: %s, attempt %d", self.server.model, type(outcome).__name__, attempt)
                return replace(outcome, seconds=time.monotonic() - began, attempts=attempt)
            except Exception as error:
                fault = fault_of(error)
                if fault is None:
                    raise
            wait = self._wait(fault, attempt)
            if wait is None:
                return self._failed(fault, attempt, time.monotonic() - began)
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt ends it")

    @contextlib.asynccontextmanager
    async def _place(self, within: float | None) -> AsyncGenerator[None]:
        """Hold one of the places of requests under way.

        Raises:
            BusyError: none was free in time.
        """
        try:
            async with asyncio.timeout(within):
                await self._slots.acquire()
        except TimeoutError:
            raise BusyError(f"{self.server.in_flight} requests are under way") from None
        try:
            yield
        finally:
            self._slots.release()

    async def _turn(self, within: float | None) -> None:
        """Wait until the rate allows another request.

        Raises:
            BusyError: it does not in time.
        """
        if self._rate is None:
            return
        try:
            async with asyncio.timeout(within):
                await self._rate.acquire()
        except TimeoutError:
            raise BusyError(f"{self.server.requests_per_minute:g} requests a minute are allowed") from None

    async def _post(self, body: bytes) -> Any:
        import httpx2

        response = await self._openai.post("/chat/completions", content=body, cast_to=httpx2.Response)
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError):
            raise GarbageError("the reply is not JSON") from None

    def _wait(self, fault: Fault, attempt: int) -> float | None:
        """Seconds to wait before another attempt; None where the request is given up."""
        if not fault.passing or attempt >= self.server.attempts:
            return None
        if not self.server.longest_wait and fault.kind in ("rate_limit", "connection"):
            return None  # without a wait, the next attempt would fail alike
        if fault.wait is not None:
            return None if fault.wait > self.server.longest_wait else fault.wait
        longest = min(self.server.longest_wait, self.server.backoff * 2 ** (attempt - 1))
        return random.uniform(0, longest)

    def _failed(self, fault: Fault, attempts: int, seconds: float, partial: str = "") -> Failure | Refusal:
        """Log a fault after which there is no other attempt, and make an outcome of it."""
        message = redacted(fault.message, self._key)
        if fault.filtered:
            logger.info("%s: %s", self.server.model, message)
            return Refusal("a content filter declined the request", seconds=seconds, attempts=attempts)
        # One warning for each kind: thousands of requests may fail alike, and each outcome has its own message.
        level = logging.INFO if fault.kind in self._logged else logging.WARNING
        self._logged.add(fault.kind)
        status = fault.status or "no status"
        logger.log(level, "%s: %s (%s), attempt %d", self.server.model, fault.kind, status, attempts)
        return Failure(fault.kind, message, fault.status, seconds, attempts, partial, fault.wait)


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
                client._place(self._within),
                contextlib.aclosing(self._attempts(client, body)) as pieces,
            ):
                async for piece in pieces:
                    yield piece
        except BusyError as error:
            self._outcome = Failure("busy", str(error), attempts=0)
        finally:
            client._settle(reserved, self._outcome)
        if client.cache:
            client.cache.put(key, self.outcome)

    async def _attempts(self, client: ChatClient, body: bytes) -> AsyncGenerator[str]:
        began = time.monotonic()
        for attempt in range(1, client.server.attempts + 1):
            reply = _StreamedReply()
            try:
                await client._turn(self._within)
                async with contextlib.aclosing(self._events(client, body)) as events:
                    async for event in events:
                        if piece := reply.add(event):
                            yield piece
                outcome = reply.outcome(client.server.prices)
                self._outcome = replace(outcome, seconds=time.monotonic() - began, attempts=attempt)
                return
            except Exception as error:
                fault = fault_of(error, began=bool(reply.text))
                if fault is None:
                    raise
            wait = None if reply.text else client._wait(fault, attempt)
            if wait is None:
                seconds = time.monotonic() - began
                self._outcome = client._failed(fault, attempt, seconds, "".join(reply.text))
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


class _StreamedReply:
    """The reply that the events of a stream add up to."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.declined: list[str] = []
        self.reasoning: list[str] = []
        self.finish: Any = None
        self.model: Any = None
        self.usage = Usage()

    def add(self, event: Any) -> str | None:
        """Add an event, and return its piece of text, if it has one.

        Raises:
            GarbageError: the event does not follow the protocol.
        """
        try:
            self.model = event.get("model") or self.model
            if event.get("usage") is not None:
                self.usage = _usage(event["usage"])
            for choice in (event.get("choices") or [])[:1]:
                self.finish = choice.get("finish_reason") or self.finish
                delta = choice.get("delta") or {}
                self.declined.append("" + (delta.get("refusal") or ""))  # raises where it is no text
                self.reasoning.append(_reasoning(delta) or "")
                piece = delta.get("content")
                if piece:
                    self.text.append("" + piece)
                    return self.text[-1]
        except (LookupError, TypeError, AttributeError):
            raise GarbageError("an event of the stream holds no piece of a message") from None
        return None

    def outcome(self, prices: Prices) -> Answer | Refusal:
        """The outcome, once the events have ended.

        Raises:
            GarbageError: the stream was empty.
            CutError: the stream ended before the answer did.
        """
        if self.finish is None:
            raise CutError("the stream ended before the answer") if self.text else GarbageError("no answer")
        text, declined, reasoning = ("".join(part) for part in (self.text, self.declined, self.reasoning))
        return _outcome(text, declined, self.finish, self.usage, self.model, reasoning or None, prices)


# -- replies ----------------------------------------------------------------------------------------------------------


def _read_reply(reply: Any, prices: Prices) -> Answer | Refusal:
    """Read an answer or a refusal from the JSON of a reply.

    Raises:
        GarbageError: it holds neither.
    """
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text, declined = message.get("content"), message.get("refusal")
        finish, model = choice.get("finish_reason"), reply.get("model")
        usage = _usage(reply.get("usage"))
        reasoning = _reasoning(message)
    except (LookupError, TypeError, AttributeError):
        raise GarbageError("the reply holds no message") from None
    return _outcome(text, declined, finish, usage, model, reasoning, prices)


def _outcome(
    text: Any, declined: Any, finish: Any, usage: Usage, model: Any, reasoning: Any, prices: Prices
) -> Answer | Refusal:
    """Make an answer or a refusal of the fields of a reply, which may be of any type."""
    cost = prices.cost(usage)
    name = model if isinstance(model, str) else None
    if declined or finish == "content_filter":
        return Refusal(str(declined or text or "stopped by a content filter"), usage, cost, model=name)
    if text is None and finish == "length":
        text = ""  # the reasoning used up the whole length
    if not isinstance(text, str):
        raise GarbageError("the reply's message holds no text")
    return Answer(
        text,
        finish if isinstance(finish, str) else None,
        usage,
        cost,
        model=name,
        reasoning=reasoning,
    )


def _reasoning(message: Any) -> str | None:
    """Reasoning in a message or its delta, by either of its names."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return reasoning if isinstance(reasoning, str) else None


def _usage(values: Any) -> Usage:
    """Token counts of a reply; None where a count is missing or impossible."""
    if not isinstance(values, Mapping):
        return Usage()
    counts = [values.get(name) for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*(n if type(n) is int and 0 <= n < 2**53 else None for n in counts))


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
