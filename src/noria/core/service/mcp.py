"""Model Context Protocol: tools of a service for assistants, as one stateless POST route.

It speaks revision 2026-07-28, in which every request carries its version and nothing is remembered between two, and
answers `initialize` of the revisions before, which need no memory either. There is no stream and no session. A tool's
result is data for a model; what a caller may not use is neither listed nor called.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from noria import __version__
from noria.core.errors import NoriaError, caller_line
from noria.core.records import json_values
from noria.core.service.callers import Caller, Right
from noria.core.service.responses import HttpError, json_response, read_json
from noria.core.service.serving import Request, Response, Route, route

VERSION = "2026-07-28"
"""Revision of the protocol."""
EARLIER = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Earlier revisions that are answered, too."""
_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
_INVALID_REQUEST, _NO_METHOD, _INVALID_PARAMS, _INTERNAL = -32600, -32601, -32602, -32603
_HEADER_MISMATCH, _UNSUPPORTED_VERSION = -32020, -32022

log = logging.getLogger("noria.serving")


@dataclass(frozen=True)
class McpTool:
    """A tool that a model may call.

    Attributes:
        name: name of the tool.
        description: description of the tool, for a model.
        schema: JSON schema of its arguments, an object.
        right: right that its caller needs.
        call: does it, given the arguments and the caller; returns a text, JSON values, or a result with files.
        read_only: whether it changes nothing.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    right: Right
    call: Callable[[Mapping[str, Any], Caller], Awaitable[Any]]
    read_only: bool = True


@dataclass(frozen=True)
class McpFile:
    """A file of a result: a picture stands in it as one, anything else as a resource.

    Attributes:
        name: name of the file.
        media_type: media type of the file.
        content: bytes of the file.
    """

    name: str
    media_type: str
    content: bytes

    def wire(self) -> dict[str, Any]:
        """The file as a piece of a result's content."""
        data = base64.b64encode(self.content).decode("ascii")
        if self.media_type.startswith("image/"):
            return {"type": "image", "data": data, "mimeType": self.media_type}
        resource = {"uri": f"file:///{quote(self.name)}", "mimeType": self.media_type}
        words = (
            {"text": self.content.decode("utf-8", "replace")}
            if self.media_type.startswith("text/")
            else {"blob": data}
        )
        return {"type": "resource", "resource": resource | words}


@dataclass(frozen=True)
class McpResult:
    """Result of a tool with files beside its values.

    Attributes:
        values: a text or JSON values.
        files: files of the result.
        fault: whether the call failed.
    """

    values: Any
    files: Sequence[McpFile] = ()
    fault: bool = False


class _RpcError(Exception):
    def __init__(self, code: int, message: str, *, status: int = 200, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.data = code, message, status, data


def mcp_route(
    tools: Sequence[McpTool],
    *,
    name: str,
    instructions: str = "",
    path: str = "/mcp",
    seconds: float = 300.0,
    body_bytes: int | None = None,
) -> Route:
    """The route of some tools.

    Args:
        tools: tools of the service.
        name: name of the server.
        instructions: what a model should know of the server.
        path: path of the route.
        seconds: longest time of a call.
        body_bytes: most bytes of a message; the service's limit by default.
    """
    known = {tool.name: tool for tool in tools}
    server = {"name": name, "version": __version__}

    async def answer(request: Request) -> Response:
        caller = request.app.identify(request)
        if caller is None:
            raise HttpError(
                401,
                "wrong_token",
                "this needs a caller's token as `Authorization: Bearer TOKEN`",
                headers={"www-authenticate": 'Bearer realm="noria"'},
            )
        message = read_json(await request.body())
        number = message.get("id") if isinstance(message, dict) else None
        try:
            if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
                raise _RpcError(_INVALID_REQUEST, "a message is one JSON-RPC 2.0 object", status=400)
            if "id" not in message:
                return Response(None, 202)  # a notification
            if isinstance(number, bool) or not isinstance(number, str | int):
                raise _RpcError(_INVALID_REQUEST, "an id is a text or a whole number", status=400)
            params = message.get("params") or {}
            if not isinstance(params, dict):
                raise _RpcError(_INVALID_PARAMS, "params is an object", status=400)
            _check_version(request, message.get("method"), params)
            result = await _result(message.get("method"), params, caller)
        except _RpcError as error:
            fault = {"code": error.code, "message": error.message} | (
                {"data": error.data} if error.data else {}
            )
            return json_response({"jsonrpc": "2.0", "id": number, "error": fault}, status=error.status)
        return json_response({"jsonrpc": "2.0", "id": number, "result": result})

    async def _result(method: Any, params: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        mine = [tool for tool in tools if tool.right in caller.rights]
        if method == "server/discover":
            return _cacheable(
                {"supportedVersions": [VERSION], "capabilities": {"tools": {}}, "serverInfo": server,
                 "instructions": instructions}
            )  # fmt: skip
        if method == "initialize":  # of the revisions before
            asked = params.get("protocolVersion")
            version = asked if asked in EARLIER else EARLIER[0]
            return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server,
                    "instructions": instructions}  # fmt: skip
        if method == "ping":
            return {}
        if method == "tools/list":
            return _cacheable({"tools": [_described(tool) for tool in mine]})
        if method == "tools/call":
            return await _call(params, {tool.name: tool for tool in mine}, caller)
        raise _RpcError(_NO_METHOD, f"there is no method {str(method)[:80]!r}", status=404)

    async def _call(params: Mapping[str, Any], mine: Mapping[str, McpTool], caller: Caller) -> dict[str, Any]:
        wanted, arguments = params.get("name"), params.get("arguments")
        arguments = {} if arguments is None else arguments
        tool = mine.get(wanted) if isinstance(wanted, str) else None
        if tool is None:
            why = "this caller may not use it" if wanted in known else "there is no such tool"
            raise _RpcError(_INVALID_PARAMS, f"{str(wanted)[:80]!r}: {why}")
        if not isinstance(arguments, dict):
            raise _RpcError(_INVALID_PARAMS, "arguments is an object")
        wait = await caller.admit()
        if wait:
            return _told(f"the rate is used up; ask again in {wait} s", fault=True)
        try:
            _check_arguments(tool.schema, arguments)
            return _told(await tool.call(arguments, caller))
        except HttpError as error:
            return _told(error.message, fault=True)
        except NoriaError as error:
            log.warning("the tool %s failed: %s", tool.name, error)
            return _told(caller_line(error), fault=True)
        except Exception:
            log.exception("the tool %s failed", tool.name)
            raise _RpcError(_INTERNAL, "the tool failed; the service's log says why") from None

    return route(path, answer, methods=("POST",), access="open", body_bytes=body_bytes, seconds=seconds)


def _check_version(request: Request, method: Any, params: Mapping[str, Any]) -> None:
    """Check that the revision which a request names is spoken, and that its headers repeat the body.

    Raises:
        _RpcError: another revision, or headers that tell something else than the body.
    """
    meta = params.get("_meta")
    named = meta.get(_VERSION_KEY) if isinstance(meta, dict) else None
    if named is None:
        return  # a revision before, whose version stands in a header
    header = request.headers.get("mcp-protocol-version")
    if named != VERSION:
        raise _RpcError(
            _UNSUPPORTED_VERSION, f"revision {str(named)[:40]} is not spoken", status=400,
            data={"supported": [VERSION], "requested": str(named)[:40]},
        )  # fmt: skip
    told = {"mcp-protocol-version": named, "mcp-method": method}
    if method == "tools/call":
        told["mcp-name"] = params.get("name")
    for name, value in told.items():
        given = header if name == "mcp-protocol-version" else request.headers.get(name)
        if given is not None and given != value:
            raise _RpcError(_HEADER_MISMATCH, f"the header {name} differs from the body", status=400)


def _check_arguments(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Check names and types of arguments, as far as a tool's flat schema says them."""
    kinds = {
        "string": str,
        "integer": int,
        "number": int | float,
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in arguments:
            raise HttpError(400, "bad_arguments", f"{name} is missing")
    for name, value in arguments.items():
        if name not in properties:
            raise HttpError(400, "bad_arguments", f"there is no argument {name[:80]!r}")
        kind = kinds.get(properties[name].get("type", ""))
        wrong = kind is not None and (
            not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        )
        if wrong:
            raise HttpError(400, "bad_arguments", f"{name} is no {properties[name]['type']}")
        choices = properties[name].get("enum")
        if choices and value not in choices:
            raise HttpError(400, "bad_arguments", f"{name} is one of {', '.join(map(str, choices))}")


def _described(tool: McpTool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": {"type": "object", "additionalProperties": False} | dict(tool.schema),
        "annotations": {"readOnlyHint": tool.read_only},
    }


def _told(value: Any, *, fault: bool = False) -> dict[str, Any]:
    """The result of a call."""
    files: Sequence[McpFile] = ()
    if isinstance(value, McpResult):
        value, files, fault = value.values, value.files, value.fault
    values = json_values(value)
    text = values if isinstance(values, str) else json.dumps(values, ensure_ascii=False)
    content = [{"type": "text", "text": text}, *(one.wire() for one in files)]
    result: dict[str, Any] = {"content": content, "isError": fault, "resultType": "complete"}
    return result if isinstance(values, str) or fault else result | {"structuredContent": values}


def _cacheable(result: dict[str, Any]) -> dict[str, Any]:
    return result | {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
