"""Search by a tool of an MCP server: one that is started as a process, or one at an address.

A server's results are data: addresses that the guard checks, fetches and reads like those of any other service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from noria.core.errors import ConfigError, RunError, require, ungrouped
from noria.reports.search.protocol import Hit
from noria.reports.search.web import read_hits

SECONDS = 60.0
"""Longest time of a call, the start of the server included."""
_QUERY = ("query", "q", "search", "text", "question", "input")
_ADDRESS = re.compile(r"https?://[^\s<>\"')\]]+")


class McpSearch:
    """A search tool of an MCP server.

    Args:
        server: address of a server over HTTP, or the command that starts one on standard input and output.
        tool: name of the tool; empty takes the first one whose name holds "search".

    Attributes:
        name: what errors call the server: its host, or its program. Addresses and arguments may hold keys, and errors
            stand in reports and are told to callers.

    Raises:
        ConfigError: an empty command, or one that cannot be read.
        MissingExtra: the package `mcp` is not installed.
    """

    def __init__(self, server: str, tool: str = "") -> None:
        require("mcp", "mcp")
        self.server, self.tool = server, tool
        try:
            self.command = [] if server.startswith(("http://", "https://")) else shlex.split(server)
        except ValueError as error:
            raise ConfigError(f"not a command: {error}", where="--mcp") from None
        if not server.strip():
            raise ConfigError("an empty command", where="--mcp", mend="give a command or an address")
        self.name = str(urlsplit(server).hostname) if not self.command else PurePath(self.command[0]).name

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """Addresses for a query, best first.

        Raises:
            RunError: the server does not start, has no such tool, or its tool fails.
        """
        try:
            with ungrouped():
                return asyncio.run(asyncio.wait_for(self._search(query, k), SECONDS))
        except RunError:
            raise
        except TimeoutError:
            raise RunError(f"no answer in {SECONDS:g} seconds", where=self.name) from None
        except Exception as error:  # the library raises groups of many kinds
            raise RunError(f"no results: {type(error).__name__}", where=self.name) from None

    async def _search(self, query: str, k: int) -> list[Hit]:
        from mcp import ClientSession

        async with contextlib.AsyncExitStack() as stack:
            read, write = (await stack.enter_async_context(self._transport()))[:2]
            session = await stack.enter_async_context(ClientSession(read, write))
            await session.initialize()
            tool = self._chosen((await session.list_tools()).tools)
            fields = tool.input_schema.get("properties", {})
            name = next((one for one in _QUERY if one in fields), next(iter(fields), "query"))
            result = await session.call_tool(tool.name, {name: query})
            if result.is_error:
                raise RunError(f"the tool {tool.name} failed", where=self.name)
            return read_result(result)[:k]

    def _transport(self) -> Any:
        if not self.command:
            from mcp.client.streamable_http import streamable_http_client

            return streamable_http_client(self.server)
        from mcp import StdioServerParameters, stdio_client

        return stdio_client(StdioServerParameters(command=self.command[0], args=self.command[1:]))

    def _chosen(self, tools: list[Any]) -> Any:
        named = [
            one for one in tools if (one.name == self.tool if self.tool else "search" in one.name.lower())
        ]
        if not named:
            known = ", ".join(one.name for one in tools)[:300]
            raise RunError(f"no tool {self.tool or 'for search'!r}; it has {known}", where=self.name)
        return named[0]


def read_result(result: Any) -> list[Hit]:
    """Hits of a tool's result: of JSON with addresses, else the addresses in its text."""
    texts = [part.text for part in result.content if getattr(part, "text", None)]
    values = [result.structured_content] if getattr(result, "structured_content", None) else []
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError):
            values.append(json.loads(text))
    for value in values:
        if hits := list(read_hits(_listed(value))):
            return hits
    found = dict.fromkeys(match.rstrip(".,;") for text in texts for match in _ADDRESS.findall(text))
    return list(read_hits([{"url": url} for url in found]))


def _listed(value: Any) -> list[Any]:
    """The first list of objects in a value, looked for through its fields."""
    waiting = [value]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, list) and any(isinstance(one, dict) for one in part):
            return part
        if isinstance(part, dict):
            waiting += part.values()
    return []
