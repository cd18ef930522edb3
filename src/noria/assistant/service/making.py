"""Tools by themselves: pictures by OpenAI's routes, and what MCP clients may call; each call is a trace of its own.

POST   /v1/images/edits, /v1/images/generations   as OpenAI, by the tool that `model` names, else the first of its kind

A call has the limits, the money and the redaction of any request. The bundle is the champion's: no experiment deals it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from noria.assistant.config.parts import ToolConfig
from noria.assistant.parts.loop import KeptCall, kept_call
from noria.assistant.parts.makers import (
    Made,
    ReportTool,
    TryOnTool,
    data_url,
    made_result,
    make_pictures,
    spec_of,
)  # fmt: skip
from noria.assistant.parts.servers import ToolServer
from noria.assistant.service.gateway import Gateway
from noria.assistant.service.recording import Recording
from noria.core.chat.messages import ToolCall
from noria.core.completions.answers import header_text
from noria.core.completions.images import (
    ImageRequest,
    images_answer,
    read_edit,
    read_generation,
    refuse_fields,
)
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import NoriaError
from noria.core.service.callers import Caller
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response, Route, route
from noria.core.tools import Tool, Toolbox, ToolContext, ToolResult
from noria.core.traces.ids import new_id
from noria.core.traces.records import Status

_FAULTS = {"arguments": 400, "budget": 429, "timeout": 504}
log = logging.getLogger("noria.serving")


@dataclass
class PicturesTool:
    """Makes the pictures of one request of OpenAI's routes.

    Args:
        name: name of the tool.
        server: server of pictures.
        asked: the request.
    """

    name: str
    server: ToolServer
    asked: ImageRequest

    def __post_init__(self) -> None:
        self.made: list[Made] = []
        whole = {"type": "integer"}
        schema = {"prompt": {"type": "string"}, "n": whole, "seed": whole, "size": {"type": "string"}}
        self.spec = spec_of(self.name, self.server, "", schema, ["prompt"], times=self.asked.n)

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says."""
        asked = self.asked
        self.made = await make_pictures(
            self.server, asked.prompt, [one.data for one in asked.images], n=asked.n, seed=asked.seed,
            size=None if asked.size is None else f"{asked.size[0]}x{asked.size[1]}",
            mask=None if asked.mask is None else asked.mask.data,
        )  # fmt: skip
        return made_result(self.made, self.spec.most_cost or 0.0, self.server)


class Making:
    """The tools of a gateway that make something, called by themselves.

    Args:
        gateway: the gateway, whose money, names and traces they share.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def routes(self) -> list[Route]:
        """The routes of pictures."""
        config = self.gateway.config
        limits: dict[str, Any] = {"methods": ("POST",), "access": "chat", "body_bytes": config.body_bytes}
        return [
            route(f"/v1/images/{name}", handler, seconds=self._seconds(kind), **limits)
            for name, kind, handler in (
                ("edits", "edit", self.edits),
                ("generations", "generate", self.generations),
            )
        ]

    async def edits(self, request: Request) -> Response:
        """Edit pictures by a tool of the kind `edit`."""
        return await self._pictures(request, "edit", await read_edit(request))

    async def generations(self, request: Request) -> Response:
        """Make pictures by a tool of the kind `generate`."""
        return await self._pictures(request, "generate", await read_generation(request))

    async def _pictures(self, request: Request, kind: str, asked: ImageRequest) -> Response:
        name = self.named(kind, asked.model)
        refuse_fields(asked)
        tool = PicturesTool(name, self.server(name), asked)
        given = {"prompt": asked.prompt, "images": [data_url(one.data) for one in asked.images]}
        if asked.mask is not None:
            given["mask"] = data_url(asked.mask.data)
        numbers = {"n": asked.n, "seed": asked.seed, "size": asked.size}
        arguments = {"prompt": asked.prompt, **{k: v for k, v in numbers.items() if isinstance(v, int)}}
        user = asked.extra.get("user")
        kept, trace = await request.unless_left(
            self.call(tool, arguments, request.caller, user=user, given={**given, **arguments})
        )
        if kept.result.error is not None:
            raise HttpError(
                _FAULTS.get(kept.result.error, 502), f"tool_{kept.result.error}", kept.result.text
            )
        each = [{} if one.plan is None else {"revised_prompt": one.plan} for one in tool.made]
        pictures = [one.data for one in kept.pictures]
        return json_response(
            images_answer(pictures, each=each), headers={"x-noria-trace": header_text(trace)}
        )

    # -- any tool -----------------------------------------------------------------------------------------------------

    def named(self, kind: str, wanted: str = "") -> str:
        """Name of the tool of a kind: the wanted one, by its name or that of its model; the first one by default.

        Raises:
            HttpError: 404, there is none.
        """
        tools = self.of_kind(kind)
        if wanted in ("", "noria", "auto") and tools:
            return next(iter(tools))
        for name, one in tools.items():
            if wanted in (name, one.model):
                return name
        raise HttpError(404, "model_not_found", f"no tool of the kind {kind} has this name", param="model")

    def of_kind(self, kind: str) -> dict[str, ToolConfig]:
        """The configured tools of a kind."""
        return {name: one for name, one in self.gateway.config.parts.tools.items() if one.kind == kind}

    def server(self, name: str) -> ToolServer:
        """The server of a tool at the version that serves, once the gateway runs."""
        assert self.gateway.tools is not None
        return self.gateway.tools.servers[name].at(self.gateway.champion().artefacts)

    async def try_on(
        self, garment: bytes, arguments: Mapping[str, Any], caller: Caller
    ) -> tuple[KeptCall, str]:
        """Put a garment on a person in a clip; the call as it is kept, and the id of its trace."""
        name = self.named("try_on")
        given = {**arguments, "garment": data_url(garment)}
        return await self.call(TryOnTool(name, self.server(name), garment), arguments, caller, given=given)

    async def report(self, request: str, caller: Caller) -> tuple[KeptCall, str]:
        """Write a report; the call as it is kept, and the id of its trace."""
        name = self.named("report")
        return await self.call(ReportTool(name, self.server(name)), {"request": request}, caller)

    async def call(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        caller: Caller,
        *,
        user: Any = None,
        given: Mapping[str, Any] | None = None,
    ) -> tuple[KeptCall, str]:
        """Call a tool within its limits and the caller's money, and keep the trace before anything is given.

        Args:
            tool: the tool.
            arguments: arguments of the call.
            caller: who asked.
            user: name of the user, where the request has one.
            given: what was asked for as the trace keeps it; the arguments by default.

        Raises:
            HttpError: 429, the money of the caller is spent; 503, the trace cannot be kept.
        """
        gateway = self.gateway
        gateway.traces.check()
        content = {"messages": [], "user": user} if user is not None else {"messages": []}
        query = CompletionRequest(content, "", False, False, {})
        identity = gateway.identify(query, caller.name, None)
        choice = gateway.champion()
        began = gateway.recorder.clock()
        recording = Recording(query, identity, choice, new_id(began), began, choice.route)
        recording.labels["tool"] = tool.spec.name
        most = tool.spec.most_cost or 0.0
        reserved = await gateway.money.set_aside(caller.name, most)
        result: ToolResult | None = None
        try:
            session = Toolbox([tool]).session(ToolContext(recording.id, caller.name, identity.user))
            words = json.dumps(dict(arguments), ensure_ascii=False)
            result = await session.call(ToolCall(recording.id, tool.spec.name, words))
        finally:
            reserved.settle(None if result is None else result.cost)
            if result is None:
                result = ToolResult("the caller left", error="failed", cost=None, trusted=True)
                self._post(recording, kept_call(tool.spec.name, "", result, began, gateway.recorder.clock()))
        kept = kept_call(tool.spec.name, words, result, began, gateway.recorder.clock())
        recording.steps = (kept.span,)
        status: Status = "ok" if kept.result.error is None else "failed"
        cost = result.cost if result.cost is not None else most
        trace, blobs = gateway.recorder.tool_trace(
            recording, arguments if given is None else given, status, cost
        )
        digests = zip(kept.span.blobs, dict.fromkeys(kept.files.values()), strict=True)
        await gateway.traces.write(trace, {**blobs, **dict(digests)} if gateway.config.keep_texts else {})
        return kept, recording.id

    def _post(self, recording: Recording, kept: KeptCall) -> None:
        recording.steps = (kept.span,)
        trace, _ = self.gateway.recorder.tool_trace(recording, {}, "cancelled", None)
        try:
            self.gateway.store.post(trace)
        except NoriaError as error:
            log.error("the trace of a cancelled call was not kept: %s", error)

    def _seconds(self, kind: str) -> float:
        return 30.0 + max((one.seconds for one in self.of_kind(kind).values()), default=0.0)
