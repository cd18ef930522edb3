"""Tools of MCP servers: what the servers list, called over streamable HTTP without a session."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from noria.assistant.parts.cards import cards_of
from noria.assistant.parts.servers import ToolServer
from noria.core.chat.messages import Image
from noria.core.errors import ConfigError, RunError, ServedError
from noria.core.tools import Toolbox, ToolContext, ToolResult, ToolSpec

_PROTOCOL = "2025-06-18"
_ID = 1
"""Id of a request; a connection serves one at a time."""


class McpServerTool:
    """One tool of an MCP server.

    Args:
        listed: the tool as the server lists it.
        server: address of the server and price of a call.
    """

    def __init__(self, listed: Mapping[str, Any], server: ToolServer) -> None:
        config = server.config
        self.server, self._name = server, str(listed["name"])
        hints = listed.get("annotations") or {}
        schema = listed.get("inputSchema") or {"type": "object"}
        if not (isinstance(hints, dict) and isinstance(schema, dict)):
            raise ConfigError("its annotations or its schema are no object", where=self._name[:64])
        reads = hints.get("readOnlyHint") is True or self._name in config.read_only
        self.spec = ToolSpec(
            self._name,
            str(listed.get("description") or self._name)[:2000],
            schema,
            writes=not reads,  # what says nothing may write
            spends=config.cost > 0, most_cost=config.cost, seconds=config.seconds,
        )  # fmt: skip

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says. Structured content that is a list of products is shown as cards."""
        result = await call_mcp(self.server, "tools/call", {"name": self._name, "arguments": dict(arguments)})
        texts, blobs = [], {}
        for number, piece in enumerate(result.get("content") or []):
            if piece.get("type") == "text":
                texts.append(str(piece.get("text", "")))
            elif piece.get("type") == "image":
                blobs[f"picture {number}"] = base64.b64decode(str(piece.get("data", "")), validate=True)
        for content in blobs.values():
            Image(content)
        structured = result.get("structuredContent") or {}
        text = "\n".join(texts) or json.dumps(structured, ensure_ascii=False)
        cost = self.server.config.cost
        if result.get("isError"):
            return ToolResult(text, blobs, cost, "failed")
        cards, files = cards_of(structured)
        return ToolResult(text, {**blobs, **files}, cost, shown=[] if cards is None else [cards])


async def open_mcp(server: ToolServer) -> list[McpServerTool]:
    """The tools of an MCP server that the configuration names, all by default.

    Raises:
        RunError: the server cannot be reached, or what it lists is no tool. ConfigError: it lists no such tool.
    """
    listed = (await call_mcp(server, "tools/list", {})).get("tools")
    given = listed if isinstance(listed, list) else []
    by_name = {str(one["name"]): one for one in given if isinstance(one, dict) and "name" in one}
    named = (*server.config.tools, *server.config.read_only)
    missing = [name for name in named if name not in by_name]
    if missing:
        raise ConfigError(
            f"there is no tool {missing[0]!r}",
            where=server.place()[0],
            mend=f"it lists {', '.join(by_name) or 'none'}",
        )
    try:
        offered = [
            McpServerTool(one, server)
            for name, one in by_name.items()
            if not server.config.tools or name in server.config.tools
        ]
        Toolbox(offered)
    except ConfigError as error:
        raise RunError(f"it lists what is no tool: {error}"[:400], where=server.place()[0]) from None
    return offered


async def call_mcp(server: ToolServer, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a call of an MCP server that is stateless, over streamable HTTP.

    Raises:
        RunError: it cannot be reached, refuses, or answers without a result.
    """
    body = {"jsonrpc": "2.0", "id": _ID, "method": method, "params": dict(params)}
    messages = await server.messages("", body, {"mcp-protocol-version": _PROTOCOL})
    # A notification, or a request of the server, may come before the response.
    answer = next((one for one in messages if _answers(one)), {})
    if "error" in answer:
        fault = answer["error"]
        words = fault.get("message") if isinstance(fault, dict) else None
        raise RunError(f"the server refuses: {str(words)[:200]}", where=server.place()[0])
    result = answer.get("result")
    if not isinstance(result, dict):
        raise ServedError(f"the server answered {method} without a result", where=server.place()[0])
    return result


def _answers(message: Mapping[str, Any]) -> bool:
    """Whether a message is the response to our request; an error of one that could not be read has no id."""
    number = message.get("id")
    return "method" not in message and (number == _ID or (number is None and "error" in message))
