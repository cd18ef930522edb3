"""The endpoint of chat completions: who asks, which bundle answers, what it costs, and the trace before the answer."""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.parts.loop import ToolRounds
from noria.assistant.parts.protocol import prepare
from noria.assistant.parts.tools import Tools
from noria.assistant.service.bundles import Choice, Serving
from noria.assistant.service.recording import Identity, Recorder, Recording
from noria.core.chat.budget import Budget, estimated_cost
from noria.core.chat.faults import CutError, GarbageError
from noria.core.chat.forwarding import Forwarder
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal
from noria.core.chat.replies import StreamedReply, read_reply
from noria.core.completions.answers import DONE, ChunkWriter, completion, failure_error, header_text
from noria.core.completions.requests import CompletionRequest, read_completion
from noria.core.errors import NoriaError, RunError, needing
from noria.core.experiments.assignment import position
from noria.core.learning.route import Route
from noria.core.service.callers import Caller
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response
from noria.core.tools import ToolContext
from noria.core.traces.blobs import blob_names, put_back_blobs
from noria.core.traces.ids import user_key
from noria.core.traces.records import Trace
from noria.core.traces.store import TraceStore

with needing("serve"):
    import aiohttp
    import msgspec
    from starlette.responses import StreamingResponse
    from starlette.types import Receive, Scope, Send

AUTO = ("", "noria", "auto")
"""Models by which a request asks for whatever serves."""
log = logging.getLogger("noria.serving")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Allowance:
    """What a caller may spend in a day (UTC): reserved before a request is sent, and settled after.

    Args:
        limit: most money in a day.
        spent: what was spent today before.
        today: gives the day.
    """

    def __init__(self, limit: float, spent: float = 0.0, *, today: Any = None) -> None:
        self._today = today or (lambda: datetime.datetime.now(datetime.UTC).date())
        self._limit, self._day = limit, self._today()
        self.budget = Budget(limit, spent=spent)

    def present(self) -> Budget:
        """The budget of this day."""
        if self._today() != self._day:
            self._day, self.budget = self._today(), Budget(self._limit)
        return self.budget


class Gateway:
    """Answers chat completions by what serves.

    Args:
        config: settings of the gateway.
        store: traces.
        secret: secret that turns users' names into keys.
        recorder: makes traces.

    Attributes:
        serving: what serves now; replaced as a whole.
        allowances: money of the callers that have a limit, by name.
    """

    def __init__(self, config: AssistantConfig, store: TraceStore, secret: bytes, recorder: Recorder) -> None:
        self.config, self.store, self.secret, self.recorder = config, store, secret, recorder
        self.serving: Serving | None = None
        self.forwarders: dict[str, Forwarder] = {}
        self.allowances: dict[str, Allowance] = {}
        self.counted: Any = lambda status, seconds, usage: None
        self._shadows: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self.tools: Tools | None = None

    async def open(self) -> None:
        """Open the connections to the backends, and to the tools.

        Raises:
            RunError: an MCP server cannot be reached.
        """
        if self.config.parts.tools:
            session = await self._stack.enter_async_context(aiohttp.ClientSession())
            self.tools = await Tools.open(self.config.parts.tools, session)
        for name, server in self.config.backends.items():
            self.forwarders[name] = await self._stack.enter_async_context(Forwarder(server))

    async def close(self) -> None:
        """Finish what runs in the shadow, and close the connections."""
        await asyncio.gather(*self._shadows, return_exceptions=True)
        await self._stack.aclose()

    # -- one request --------------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """Answer a request for a chat completion."""
        query = read_completion(await request.body())
        conversation = request.headers.get("x-noria-conversation")
        recording = self._begin(query, request.caller, conversation)
        answer = self._stream if query.stream else self._whole
        if query.stream and self._has_tools(query):
            answer = self._whole_as_stream
        return await request.unless_left(answer(recording))

    async def answer(self, query: CompletionRequest, caller: Caller) -> tuple[str, str]:
        """Answer a request of a caller that did not come as a completion; the text, and the id of its trace.

        Raises:
            HttpError: as `chat` does.
        """
        recording = self._begin(query, caller, None)
        outcome, _ = await self._answered(recording)
        if isinstance(outcome, Failure):
            raise failure_error(outcome)
        return outcome.text, recording.id

    def _begin(self, query: CompletionRequest, caller: Caller, conversation: str | None) -> Recording:
        if self.store.journal.broken is not None:
            raise HttpError(503, "store_failed", "traces cannot be kept, so nothing is answered")
        identity = self.identify(query, caller.name, conversation)
        return self.recorder.begin(query, identity, self._choose(query.model, identity))

    def identify(self, query: CompletionRequest, caller: str, conversation: str | None) -> Identity:
        """Whose request it is: the caller by its token, the user and conversation as the request names them."""
        content = query.content
        metadata = content.get("metadata")
        fields: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
        name = content.get("user") or content.get("safety_identifier") or fields.get("user")
        conversation = fields.get("conversation") or conversation
        for what, value in (("user", name), ("conversation", conversation)):
            if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 512):
                raise HttpError(400, f"bad_{what}", f"{what} is a text of up to 512 characters", param=what)
        user = None if name is None else user_key(self.secret, f"{caller}\0{name}")
        if conversation is not None:
            conversation = user_key(self.secret, f"{caller}\0conversation\0{conversation}")
        return Identity(caller, user, conversation, user or conversation or self.recorder.fresh_unit())

    def _choose(self, model: str, identity: Identity) -> Choice:
        serving = self.serving
        if serving is None:
            raise HttpError(503, "not_ready", "nothing serves yet", headers={"retry-after": "1"})
        if model in AUTO:
            return serving.choose(identity.unit)
        if model not in serving.named:
            raise HttpError(404, "model_not_found", "there is no such model; see /v1/models", param="model")
        return serving.named[model]

    def _reserve(self, recording: Recording) -> float:
        """Reserve the estimated cost in the caller's money.

        Raises:
            HttpError: 429, too little is left.
        """
        allowance = self.allowances.get(recording.identity.caller)
        if allowance is None:
            return 0.0
        prices = self.config.backends[recording.route.backend].prices
        budget = allowance.present()
        amounts = [estimated_cost(prices, recording.query.content)]
        if self._has_tools(recording.query):
            parts = self.config.parts
            dearest = max(tool.cost for tool in parts.tools.values())
            amounts *= 1 + parts.tool_rounds
            amounts.append(parts.tool_rounds * dearest if parts.tool_money is None else parts.tool_money)
        if not budget.set_aside(sum(amounts)):
            raise HttpError(429, "budget_spent", "the budget of this caller for today is spent")
        return sum(amounts)

    def _settle(self, recording: Recording, reserved: float, outcome: Outcome | None) -> None:
        allowance = self.allowances.get(recording.identity.caller)
        if allowance is None:
            return
        unsent = isinstance(outcome, Failure) and outcome.kind not in (
            "timeout",
            "cut",
            "too_large",
            "garbage",
        )
        cost = outcome.cost if isinstance(outcome, Answer | Refusal) else None
        allowance.budget.settle(reserved, 0.0 if unsent else cost)

    async def _keep(self, recording: Recording, outcome: Outcome | None) -> None:
        """Keep the trace; it is on the disk when this returns.

        Raises:
            HttpError: 503, the disk refuses.
        """
        route = recording.route
        trace, blobs = self.recorder.trace(recording, outcome, self.config.backends[route.backend].model)
        days = self.config.keep_pictures_days
        expires = None if days is None or not blobs else int(time.time() + 86400 * days)
        self.counted(trace.status, (trace.ended - trace.began) / 1e9, trace.usage)
        try:
            await self.store.write(trace, blobs=blobs, expires=expires)
        except RunError as error:
            log.error("a trace was not kept, and its answer not given: %s", error)
            raise HttpError(
                503, "store_failed", "the trace cannot be kept, so the answer is not given"
            ) from None

    def _headers(self, recording: Recording) -> dict[str, str]:
        arms = ", ".join(f"{one.experiment}={one.arm}" for one in recording.choice.assignments)
        named = {
            "x-noria-trace": recording.id,
            "x-noria-bundle": recording.choice.bundle[:16],
            "x-noria-arms": arms,
            "x-noria-skill": recording.labels.get("skill", ""),
            "x-noria-model": recording.route.backend if recording.steps else "",
        }
        return {name: header_text(value) for name, value in named.items() if value}

    # -- whole answers ------------------------------------------------------------------------------------------------

    async def _whole(self, recording: Recording) -> Response:
        outcome, reply = await self._answered(recording)
        if isinstance(outcome, Failure):
            raise failure_error(outcome)
        content = reply if reply is not None else completion(recording.query.model or "noria", outcome)
        return json_response(_encode(content | {"id": recording.id}), headers=self._headers(recording))

    async def _answered(self, recording: Recording) -> tuple[Outcome, dict[str, Any] | None]:
        """Ask, and keep the trace; the outcome, and the JSON of the backend's reply where there is one."""
        reserved = self._reserve(recording)
        outcome: Outcome | None = None
        try:
            if self._has_tools(recording.query):
                outcome, reply = await self._with_tools(recording), None
            else:
                outcome, reply = await self._ask(recording.route, recording.query)
        finally:
            self._settle(recording, reserved, outcome)
            if outcome is None:  # the caller left, or the service is stopping
                self._post_cancelled(recording)
        await self._keep(recording, outcome)
        self._shadow(recording, outcome)
        return outcome, reply

    def _has_tools(self, query: CompletionRequest) -> bool:
        """Whether the gateway's tools are on offer: a caller with tools of its own runs its own rounds."""
        return self.tools is not None and not query.content.get("tools")

    async def _with_tools(self, recording: Recording) -> Outcome:
        """The answer after rounds of tools, which are steps of the trace also where they came to nothing."""
        assert self.tools is not None
        identity, parts = recording.identity, self.config.parts
        rounds = ToolRounds(
            self.tools.toolbox(recording.query),
            ToolContext(recording.id, identity.caller, identity.user),
            recording.tools,
            parts.tool_rounds,
            parts.tool_money,
            self.recorder.clock,
        )
        try:
            return await rounds.answer(recording.query, partial(self._ask, recording.route))
        finally:
            recording.steps += tuple(rounds.steps)

    async def _whole_as_stream(self, recording: Recording) -> Response:
        """Answer with tools: events, once the rounds have ended and the trace is on the disk."""
        outcome, _ = await self._answered(recording)
        if isinstance(outcome, Failure):
            raise failure_error(outcome)
        writer = ChunkWriter(recording.query.model or "noria", recording.id)
        text = outcome.text if isinstance(outcome, Answer) else ""
        events = [writer.chunk({"role": "assistant", "content": text}), writer.last(outcome)]
        if recording.query.include_usage:
            events.append(writer.usage(outcome.usage))
        body = b"".join([*events, DONE])
        return Response(body, 200, {"content-type": "text/event-stream", **self._headers(recording)})

    async def _ask(self, route: Route, query: CompletionRequest) -> tuple[Outcome, dict[str, Any] | None]:
        """Ask a route's backend; the outcome, and the JSON of the reply where there is one."""
        forwarder = self.forwarders[route.backend]
        reply = await forwarder.forward(composed(query, route, forwarder), within=self.config.seconds)
        if isinstance(reply, Failure | Refusal):
            return reply, None
        try:
            content = _decode(reply.body)
            outcome = read_reply(content, forwarder.server.prices)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, GarbageError):
            return Failure("garbage", "the reply holds no message", attempts=reply.attempts), None
        return _timed(outcome, reply.seconds, reply.attempts), content

    def _post_cancelled(self, recording: Recording) -> None:
        route = recording.route
        trace, blobs = self.recorder.trace(recording, None, self.config.backends[route.backend].model)
        try:
            self.store.post(trace, blobs=blobs)
        except NoriaError as error:
            log.error("the trace of a cancelled request was not kept: %s", error)

    # -- streams ------------------------------------------------------------------------------------------------------

    async def _stream(self, recording: Recording) -> Response:
        reserved = self._reserve(recording)
        pieces = self._pieces(recording, reserved)
        first = await anext(pieces, None)
        if isinstance(first, HttpError):
            await pieces.aclose()
            raise first
        return _EventStream(first, pieces, self._headers(recording))

    async def _pieces(self, recording: Recording, reserved: float) -> AsyncGenerator[bytes | HttpError]:
        """Events of the answer. The trace is on the disk before the last one; an error before the first is given."""
        route, query = recording.route, recording.query
        forwarder, reply = self.forwarders[route.backend], StreamedReply()
        outcome: Outcome | None = None
        began = time.monotonic()
        sent = False
        try:
            body = composed(query, route, forwarder, stream=True)
            async with forwarder.stream(body, within=self.config.seconds) as events:
                try:
                    async for data in events:
                        event = _decode(data)
                        if reply.add(event):
                            recording.first_word()
                        if not event.get("choices") and not query.include_usage:
                            continue  # the count of tokens, which the caller has not asked for
                        event["id"] = recording.id
                        sent = True
                        yield b"data: " + _encode(event) + b"\n\n"
                    outcome = events.failure or reply.outcome(forwarder.server.prices)
                except (msgspec.DecodeError, AttributeError, GarbageError):
                    outcome = Failure("garbage", "the stream does not follow the protocol")
                except CutError as error:
                    outcome = Failure("cut", str(error), partial="".join(reply.text))
            if isinstance(outcome, Failure) and reply.text and not outcome.partial:
                outcome = replace(outcome, partial="".join(reply.text))
            if isinstance(outcome, Answer | Refusal):
                outcome = _timed(outcome, time.monotonic() - began, 1)
        finally:
            self._settle(recording, reserved, outcome)
            if outcome is None:
                self._post_cancelled(recording)
        fault: HttpError | None = failure_error(outcome) if isinstance(outcome, Failure) else None
        try:
            await self._keep(recording, outcome)
        except HttpError as refused:
            fault = refused
        self._shadow(recording, outcome)
        if fault is None:
            yield DONE
        elif sent:
            shape = {"message": fault.message, "type": "server_error", "code": fault.code}
            yield b"data: " + _encode({"error": shape}) + b"\n\n"
        else:
            yield fault

    # -- the shadow ---------------------------------------------------------------------------------------------------

    def _shadow(self, recording: Recording, outcome: Outcome | None) -> None:
        """Let challengers in the shadow answer a share of the requests, too; nobody sees what they say."""
        serving = self.serving
        if (
            serving is None
            or recording.choice.bundle != serving.bundle
            or recording.query.content.get("tools")
            or any(step.kind == "tool" for step in recording.steps)
        ):
            return  # an answer with tools is one of several, and the tools may act
        for experiment in serving.experiments:
            if experiment.stage != "shadow" or len(self._shadows) >= 16:
                continue
            if position(experiment.config.salt, recording.id) < self.config.shadow_share:
                choice = experiment.challenger
                task = asyncio.create_task(self._answer_in_shadow(recording, choice, experiment.config.name))
                self._shadows.add(task)
                task.add_done_callback(self._shadows.discard)

    async def _answer_in_shadow(self, recording: Recording, choice: Choice, experiment: str) -> None:
        hidden = self.recorder.begin(recording.query, recording.identity, choice)
        hidden.labels |= {"shadow": experiment, "of": recording.id}
        try:
            outcome, _ = await self._ask(hidden.route, recording.query)
            trace, blobs = self.recorder.trace(
                hidden, outcome, self.config.backends[hidden.route.backend].model
            )
            self.store.post(trace, blobs=blobs)
        except NoriaError as error:
            log.warning("an answer in the shadow was not kept: %s", error)

    async def replay(self, trace: Trace, choice: Choice) -> Outcome:
        """Answer a trace's request by a bundle, without a trace of it.

        Raises:
            HttpError: 409, the trace does not hold its request, or a picture of it is gone.
        """
        given = next((span.input for span in trace.spans if span.kind == "chat"), None)
        messages = given.get("messages") if isinstance(given, Mapping) else None
        if not messages:
            raise HttpError(409, "no_request", "the trace does not hold its request")
        names = {name: self.store.blob(name) for name in blob_names(messages)}
        if None in names.values():
            raise HttpError(409, "no_picture", "a picture of the request is gone")
        content = {"messages": put_back_blobs(messages, {n: b for n, b in names.items() if b is not None})}
        query = read_completion(_encode(content))
        prepared = prepare(query, choice.route, choice.parts, self.recorder.clock)
        return (await self._ask(prepared.route, query))[0]


def composed(query: CompletionRequest, route: Route, forwarder: Forwarder, *, stream: bool = False) -> bytes:
    """Body of the request to a route's backend: the caller's, with the route's model, system message and sampling."""
    server = forwarder.server
    content = {
        name: value for name, value in query.content.items() if name not in ("user", "metadata", "store")
    }
    content["model"] = server.model
    if route.system:
        content["messages"] = [{"role": "system", "content": route.system}, *query.messages]
    for name, value in route.sampling.items():
        content.setdefault(name, value)
    length = content.pop("max_completion_tokens", content.pop("max_tokens", None))
    if length is not None:
        content[server.length_field] = length
    if stream:
        content["stream_options"] = {"include_usage": True}
    for name in server.refuses:
        content.pop(name, None)
    return _encode(content)


def _timed(outcome: Answer | Refusal, seconds: float, attempts: int) -> Answer | Refusal:
    """The outcome with the time and attempts that it took."""
    return replace(outcome, seconds=seconds, attempts=attempts)


class _EventStream(StreamingResponse):
    """A stream of events that lets its backend go in any case, also where the caller left before the first event."""

    def __init__(
        self, first: bytes | None, pieces: AsyncGenerator[bytes | HttpError], headers: Mapping[str, str]
    ) -> None:
        super().__init__(self._events(first, pieces), 200, headers, "text/event-stream")
        self.pieces = pieces

    @staticmethod
    async def _events(first: bytes | None, pieces: AsyncIterator[bytes | HttpError]) -> AsyncIterator[bytes]:
        if first is not None:
            yield first
        async for piece in pieces:
            assert isinstance(piece, bytes)
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.pieces):
            await super().__call__(scope, receive, send)
