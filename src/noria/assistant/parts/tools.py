"""Tools of the assistant: pictures that are edited or made by a server, and tools of MCP servers.

Each is a server of its own that the operator names: `noria editing serve`, `noria distill`'s pipelines behind any
OpenAI-compatible server, an MCP server of the shop's. What a tool returns is data, fenced before a model reads it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noria.assistant.config import ToolConfig
from noria.core.chat.messages import Image
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import DataError, RunError, needing
from noria.core.tools import Toolbox, ToolContext, ToolResult, ToolSpec
from noria.core.traces.blobs import take_out_blobs

if TYPE_CHECKING:
    import aiohttp

_LARGEST = 64 << 20
_PROTOCOL = "2025-06-18"
_WORDS = {"type": "string", "minLength": 1, "maxLength": 4000}


class PictureTool:
    """Edits the picture of the conversation, or makes one, by an OpenAI-compatible server.

    Args:
        name: name by which the model calls it.
        config: where the server is, and what it costs.
        session: connections.
        picture: the last picture of the conversation; None where there is none.
    """

    def __init__(
        self, name: str, config: ToolConfig, session: aiohttp.ClientSession, picture: bytes | None = None
    ) -> None:
        self.config, self._session, self._picture = config, session, picture
        edits = config.kind == "edit"
        words = "Edit the last picture of the conversation" if edits else "Make a picture"
        self.spec = ToolSpec(
            name,
            config.description or f"{words} as the prompt says; the user sees the result.",
            {"type": "object", "properties": {"prompt": _WORDS}, "required": ["prompt"]},
            spends=True, trusted=True, most_cost=config.cost, seconds=config.seconds,
        )  # fmt: skip

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says."""
        body: dict[str, Any] = {"prompt": arguments["prompt"], "n": 1, "response_format": "b64_json"}
        if self.config.model:
            body["model"] = self.config.model
        path = "images/generations"
        if self.config.kind == "edit":
            if self._picture is None:
                return ToolResult("there is no picture in the conversation", error="failed", trusted=True)
            path = "images/edits"
            kind = Image(self._picture).media_type
            body["image"] = f"data:{kind};base64,{base64.b64encode(self._picture).decode('ascii')}"
        answer = await post_json(self._session, f"{self.config.url.rstrip('/')}/{path}", body, self.config)
        try:
            content = base64.b64decode(answer["data"][0]["b64_json"], validate=True)
            Image(content)
        except (LookupError, TypeError, binascii.Error, ValueError, DataError):
            raise DataError("the server gave no picture", where=self.spec.name) from None
        return ToolResult(
            "done: the picture is shown to the user", {"picture": content}, self.config.cost, trusted=True
        )


class McpServerTool:
    """One tool of an MCP server.

    Args:
        listed: the tool as the server lists it.
        config: where the server is, and what a call costs.
        session: connections.
    """

    def __init__(self, listed: Mapping[str, Any], config: ToolConfig, session: aiohttp.ClientSession) -> None:
        self.config, self._session, self._name = config, session, str(listed["name"])
        hints = listed.get("annotations") or {}
        self.spec = ToolSpec(
            self._name,
            str(listed.get("description") or self._name)[:2000],
            listed.get("inputSchema") or {"type": "object"},
            writes=hints.get("readOnlyHint") is not True,  # what says nothing may write
            spends=config.cost > 0, most_cost=config.cost, seconds=config.seconds,
        )  # fmt: skip

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        """Do what :meth:`Tool.call` says."""
        result = await call_mcp(
            self._session, self.config, "tools/call", {"name": self._name, "arguments": dict(arguments)}
        )
        texts, blobs = [], {}
        for number, piece in enumerate(result.get("content") or []):
            if piece.get("type") == "text":
                texts.append(str(piece.get("text", "")))
            elif piece.get("type") == "image":
                blobs[f"picture {number}"] = base64.b64decode(str(piece.get("data", "")), validate=True)
        for content in blobs.values():
            Image(content)
        text = "\n".join(texts) or json.dumps(result.get("structuredContent") or {}, ensure_ascii=False)
        return ToolResult(text, blobs, self.config.cost, "failed" if result.get("isError") else None)


async def open_mcp(config: ToolConfig, session: aiohttp.ClientSession) -> list[McpServerTool]:
    """The tools of an MCP server that the configuration names, all by default.

    Raises:
        RunError: the server cannot be reached, or lists no such tool. DataError: what it lists is no tool.
    """
    listed = (await call_mcp(session, config, "tools/list", {})).get("tools") or []
    by_name = {str(one.get("name")): one for one in listed if isinstance(one, dict)}
    missing = [name for name in config.tools if name not in by_name]
    if missing:
        raise RunError(
            f"there is no tool {missing[0]!r}",
            where=config.url,
            mend=f"it lists {', '.join(by_name) or 'none'}",
        )
    return [
        McpServerTool(one, config, session)
        for name, one in by_name.items()
        if not config.tools or name in config.tools
    ]


async def call_mcp(
    session: aiohttp.ClientSession, config: ToolConfig, method: str, params: Mapping[str, Any]
) -> dict[str, Any]:
    """The result of a call of an MCP server that is stateless, over streamable HTTP.

    Raises:
        RunError: it cannot be reached, or refuses.
    """
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params)}
    answer = await post_json(session, config.url, body, config, {"mcp-protocol-version": _PROTOCOL})
    if "error" in answer:
        raise RunError(f"the server refuses: {str(answer['error'].get('message'))[:200]}", where=config.url)
    result = answer.get("result")
    return result if isinstance(result, dict) else {}


async def post_json(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, Any],
    config: ToolConfig,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON object that a server answers; redirects are not followed.

    Raises:
        RunError: it cannot be reached, refuses, or answers something else or too much.
    """
    with needing("serve"):
        import aiohttp
    sent = {"accept": "application/json, text/event-stream", **config.headers(), **(headers or {})}
    try:
        async with session.post(url, json=body, headers=sent, allow_redirects=False) as answer:
            content = bytearray()
            async for chunk in answer.content.iter_chunked(1 << 16):
                content += chunk
                if len(content) > _LARGEST:
                    raise RunError("the answer is too large", where=url)
            if answer.status >= 300:
                raise RunError(f"the server answered {answer.status}", where=url)
            text = content.decode("utf-8", "replace")
            if answer.content_type == "text/event-stream":
                text = next((line[5:] for line in text.splitlines() if line.startswith("data:")), "")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise RunError(f"it cannot be reached: {type(error).__name__}", where=url) from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RunError("the answer is no JSON object", where=url)
    return value


class Tools:
    """The tools that the configuration names, for one request at a time.

    Args:
        configs: settings by name.
        session: connections.
        served: tools of MCP servers.
    """

    def __init__(
        self,
        configs: Mapping[str, ToolConfig],
        session: aiohttp.ClientSession,
        served: Sequence[McpServerTool],
    ) -> None:
        self._configs, self._session, self._served = configs, session, tuple(served)

    @classmethod
    async def open(cls, configs: Mapping[str, ToolConfig], session: aiohttp.ClientSession) -> Tools:
        """Ask the MCP servers what they have.

        Raises:
            RunError: one cannot be reached.
        """
        servers = [one for one in configs.values() if one.kind == "mcp"]
        return cls(configs, session, [tool for one in servers for tool in await open_mcp(one, session)])

    def toolbox(self, query: CompletionRequest) -> Toolbox:
        """The tools with the last picture of a conversation.

        Raises:
            ConfigError: two tools have one name.
        """
        picture = _last_picture(query)
        made = [
            PictureTool(name, one, self._session, picture)
            for name, one in self._configs.items()
            if one.kind != "mcp"
        ]
        return Toolbox([*made, *self._served])


def _last_picture(query: CompletionRequest) -> bytes | None:
    """The last picture of a conversation, without a camera's notes."""
    _, blobs = take_out_blobs(query.messages)
    for content in reversed(blobs.values()):
        with contextlib.suppress(DataError):
            Image(content)
            return content
    return None
