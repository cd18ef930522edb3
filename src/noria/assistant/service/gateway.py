"""The endpoint of chat completions: who asks, which bundle answers, what it costs, and the trace before the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

from noria.assistant.config import AssistantConfig
from noria.assistant.parts.loop import Heard
from noria.assistant.parts.protocol import prepare
from noria.assistant.parts.tools import Tools
from noria.assistant.service.answering.backends import Backends
from noria.assistant.service.answering.keeping import TraceKeeper
from noria.assistant.service.answering.money import CallersMoney, Reservation
from noria.assistant.service.answering.shadow import Shadow
from noria.assistant.service.answering.streams import AnswerStream, EventResponse, error_event, tool_events
from noria.assistant.service.answering.tools import OUTSIDE, answer_with_tools, open_tools
from noria.assistant.service.bundles import Choice, Serving
from noria.assistant.service.recording import Identity, Recorder, Recording
from noria.assistant.service.started import StartedServers, started_by
from noria.core.chat.outcomes import Failure, Outcome
from noria.core.completions.answers import DONE, completion, header_text
from noria.core.completions.requests import CompletionRequest, read_completion
from noria.core.errors import needing
from noria.core.service.callers import Caller
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response
from noria.core.traces.blobs import blob_names, put_back_blobs
from noria.core.traces.ids import user_key
from noria.core.traces.records import Trace
from noria.core.traces.store import TraceStore

with needing("serve"):
    import msgspec

AUTO = ("", "noria", "auto")
"""Models by which a request asks for whatever serves."""
_encode = msgspec.json.Encoder().encode


class Gateway:
    """Answers chat completions by what serves.

    Args:
        config: settings of the gateway.
        store: traces.
        secret: secret that turns users' names into keys.
        recorder: makes traces.

    Attributes:
        started: servers of tools that this process starts.
        backends: connections to the servers that answer.
        money: what the callers may spend.
        traces: keeps the traces of answers.
        shadow: lets challengers answer that nobody sees.
        serving: what serves now; replaced as a whole.
        tools: tools of the configuration; None without one.
    """

    def __init__(self, config: AssistantConfig, store: TraceStore, secret: bytes, recorder: Recorder) -> None:
        self.config, self.store, self.secret, self.recorder = config, store, secret, recorder
        self.started = StartedServers(*started_by(config), store.folder)
        self.backends = Backends(config.backends, config.seconds)
        self.money = CallersMoney(config, self.backends)
        self.traces = TraceKeeper(config, store, recorder)
        self.shadow = Shadow(config.shadow_share, recorder, self.backends, self.traces, self.money)
        self.serving: Serving | None = None
        self.tools: Tools | None = None
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Start the servers of tools, and open the connections to the backends and to the tools.

        Raises:
            ConfigError: an MCP server has no such tool.
        """
        async with AsyncExitStack() as stack:  # what was opened is closed again where the rest fails
            self.started.start()
            stack.push_async_callback(self.started.close)
            if self.config.parts.tools or self.config.products:
                self.tools = await open_tools(self.config, self.store.folder, self.started, stack)
            await self.backends.open(stack)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        """Finish what runs in the shadow, and close the connections."""
        await self.shadow.close()
        await self._stack.aclose()

    # -- one request --------------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """Answer a request for a chat completion."""
        query = read_completion(await request.body())
        conversation = request.headers.get("x-noria-conversation")
        recording = self._begin(query, request.caller, conversation)
        answer = self._stream if query.stream else self._whole
        if query.stream and self._offered(query) is not None:
            answer = self._whole_as_stream
        return await request.unless_left(answer(recording, request.caller))

    async def answer(self, query: CompletionRequest, caller: Caller) -> tuple[str, str]:
        """Answer a request of a caller that did not come as a completion; the text, and the id of its trace.

        Raises:
            HttpError: as `chat` does.
        """
        recording = self._begin(query, caller, None)
        outcome, _ = await self._answered(recording)
        if isinstance(outcome, Failure):
            raise recording.error(outcome)
        return outcome.text, recording.id

    async def converse(
        self,
        query: CompletionRequest,
        caller: Caller,
        heard: Heard,
        *,
        beside: str | None = None,
        outside: bool = False,
    ) -> tuple[Outcome, str]:
        """Answer a request while somebody watches; the outcome, also a failure, and the id of its trace.

        Args:
            query: the request.
            caller: whose it is.
            heard: hears `began` with the id of the trace, pieces of the text, and what the tools do.
            beside: id of the trace whose request this answers once more, for a choice; tools that write stay idle.
            outside: whether an earlier answer of the conversation rests on text from outside.

        Raises:
            HttpError: nothing was asked, or the trace cannot be kept.
        """
        recording = self._begin(query, caller, None)
        recording.heard = heard
        if outside:
            recording.labels[OUTSIDE] = "earlier"
        if beside is not None:
            recording.labels["beside"] = beside
            if self.tools is not None:
                tools = self.tools.toolbox(query).tools
                reading = frozenset(name for name, tool in tools.items() if not tool.spec.writes)
                recording.tools = reading if recording.tools is None else reading & recording.tools
        heard("began", {"trace": recording.id})
        outcome, _ = await self._answered(recording)
        return outcome, recording.id

    def _begin(self, query: CompletionRequest, caller: Caller, conversation: str | None) -> Recording:
        self.traces.check()
        identity = self.identify(query, caller.name, conversation)
        recording = self.recorder.begin(query, identity, self._choose(query.model, identity))
        if (tools := self._offered(query)) is not None:
            recording.note_off(tools.off())
        return recording

    def champion(self) -> Choice:
        """The bundle that answers where no experiment assigns another.

        Raises:
            HttpError: 503, nothing serves yet.
        """
        if self.serving is None:
            raise HttpError(503, "not_ready", "nothing serves yet", headers={"retry-after": "1"})
        return self.serving.champion

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
        self.champion()
        serving = self.serving
        assert serving is not None
        if model in AUTO:
            return serving.choose(identity.unit)
        if model not in serving.named:
            raise HttpError(404, "model_not_found", "there is no such model; see /v1/models", param="model")
        return serving.named[model]

    def _headers(self, recording: Recording, caller: Caller) -> dict[str, str]:
        """What an answer says of itself; the arm, and the bundle that tells it, to operators alone.

        Whoever knows the arms of users that it makes up could rate one arm only.
        """
        told = "operate" in caller.rights or not recording.choice.assignments
        arms = ", ".join(f"{one.experiment}={one.arm}" for one in recording.choice.assignments)
        named = {
            "x-noria-trace": recording.id,
            "x-noria-bundle": recording.choice.bundle[:16] if told else "",
            "x-noria-arms": arms if told else "",
            "x-noria-skill": recording.labels.get("skill", ""),
            "x-noria-model": recording.route.backend if recording.steps else "",
        }
        return {name: header_text(value) for name, value in named.items() if value}

    # -- whole answers ------------------------------------------------------------------------------------------------

    async def _whole(self, recording: Recording, caller: Caller) -> Response:
        outcome, reply = await self._answered(recording)
        if isinstance(outcome, Failure):
            raise recording.error(outcome)
        content = reply if reply is not None else completion(recording.query.model or "noria", outcome)
        return json_response(
            _encode(content | {"id": recording.id}), headers=self._headers(recording, caller)
        )

    async def _answered(self, recording: Recording) -> tuple[Outcome, dict[str, Any] | None]:
        """Ask, and keep the trace; the outcome, and the JSON of the backend's reply where there is one."""
        tools = self._offered(recording.query)
        reserved = await self.money.reserve_answer(recording, tools=tools is not None)
        outcome: Outcome | None = None
        reply: dict[str, Any] | None = None
        try:
            if tools is not None:
                ask, parts = self.money.asking(recording, reserved), self.money.parts(reserved)
                outcome = await answer_with_tools(recording, tools, ask, parts, self.recorder.clock)
            else:
                outcome, reply = await self.backends.ask(recording.route, recording.query, recording.heard)
        finally:
            self.money.settle_answer(recording, reserved, outcome)
            if outcome is None:  # the caller left, or the service is stopping
                self.traces.post_cancelled(recording)
        await self.traces.keep(recording, outcome)
        self.shadow.follow(recording, self.serving)
        return outcome, reply

    def _offered(self, query: CompletionRequest) -> Tools | None:
        """The gateway's tools where they are on offer: a caller with tools of its own runs its own rounds."""
        return None if query.content.get("tools") else self.tools

    async def _whole_as_stream(self, recording: Recording, caller: Caller) -> Response:
        """Answer with tools: what each does while it works, and the answer once its trace is on the disk."""
        pieces = tool_events(recording, self._answered)
        first = await anext(pieces, None)
        if isinstance(first, HttpError):
            await pieces.aclose()
            raise first
        return EventResponse(first, pieces, self._headers(recording, caller))

    # -- streams ------------------------------------------------------------------------------------------------------

    async def _stream(self, recording: Recording, caller: Caller) -> Response:
        reserved = await self.money.reserve_answer(recording, tools=False)
        pieces = self._pieces(recording, reserved)
        first = await anext(pieces, None)
        if isinstance(first, HttpError):
            await pieces.aclose()
            raise first
        return EventResponse(first, pieces, self._headers(recording, caller))

    async def _pieces(self, recording: Recording, reserved: Reservation) -> AsyncGenerator[bytes | HttpError]:
        """Events of the answer. The trace is on the disk before the last one; an error before the first is given."""
        stream = AnswerStream(recording, self.backends.forwarder(recording.route), self.config.seconds)
        try:
            async with aclosing(stream.events()) as events:
                async for event in events:
                    yield event
        finally:
            self.money.settle_answer(recording, reserved, stream.outcome)
            if stream.outcome is None:
                self.traces.post_cancelled(recording)
        outcome = stream.outcome
        fault: HttpError | None = recording.error(outcome) if isinstance(outcome, Failure) else None
        try:
            await self.traces.keep(recording, outcome)
        except HttpError as refused:
            fault = refused
        self.shadow.follow(recording, self.serving)
        if fault is None:
            yield DONE
        elif stream.sent:
            yield error_event(fault)
        else:
            yield fault

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
        return (await self.backends.ask(prepared.route, query))[0]
