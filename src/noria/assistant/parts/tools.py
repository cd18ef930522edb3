"""Tools of the assistant: pictures, videos and reports that a server makes, and tools of MCP servers.

Each is a server of its own that the operator names or lets the gateway start: `noria editing serve`, `noria distill
serve`, `noria tryon serve`, `noria reports serve`, any OpenAI-compatible server of pictures, an MCP server of the
shop's. What a tool returns is data, fenced before a model reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from noria.assistant.config.parts import ToolConfig
from noria.assistant.parts.makers import PictureTool, ReportTool, TryOnTool
from noria.assistant.parts.mcp import McpServerTool, open_mcp
from noria.assistant.parts.ranking import HitRanker, Placer
from noria.assistant.parts.servers import Locate, ToolServer
from noria.assistant.products.search import ProductSearch
from noria.core.chat.messages import Image
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import DataError, NoriaError, RunError
from noria.core.tools import Tool, Toolbox
from noria.core.traces.blobs import take_out_blobs

if TYPE_CHECKING:
    import aiohttp

RETRY = 5.0
"""Seconds after which an MCP server that could not be reached is asked again."""
PATIENCE = 10.0
"""Longest wait for the list of an MCP server's tools at the start."""
log = logging.getLogger("noria.serving")
_MAKERS: dict[str, Callable[[str, ToolServer, bytes | None], Tool]] = {
    "edit": PictureTool,
    "generate": PictureTool,
    "try_on": TryOnTool,
    "report": ReportTool,
}


class Tools:
    """The tools that the configuration names, for one request at a time.

    Args:
        configs: settings by name.
        session: connections.
        located: finds the servers that the gateway started, by the tool's name.
        search: search of the shop's products.
    """

    def __init__(
        self,
        configs: Mapping[str, ToolConfig],
        session: aiohttp.ClientSession,
        located: Mapping[str, Locate] | None = None,
        search: ProductSearch | None = None,
    ) -> None:
        located = located or {}
        self.servers = {name: ToolServer(one, session, located.get(name)) for name, one in configs.items()}
        self._configs, self._search = configs, search
        self._listed: dict[str, list[McpServerTool]] = {}
        self._unlisted: dict[str, str] = {}  # why a server's tools are not known
        self._asking: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        configs: Mapping[str, ToolConfig],
        session: aiohttp.ClientSession,
        located: Mapping[str, Locate] | None = None,
        search: ProductSearch | None = None,
    ) -> Tools:
        """Ask the MCP servers what they have; one that cannot be reached is off, and asked again.

        Raises:
            ConfigError: one has no such tool.
        """
        tools = cls(configs, session, located, search)
        for name, one in configs.items():
            if one.kind != "mcp":
                continue
            try:
                await tools._ask(name, min(PATIENCE, one.seconds))
            except RunError as error:
                log.warning("the tools of %s are off: %s", name, error)
                tools._unlisted[name] = str(error)
                tools._asking.append(asyncio.create_task(tools._ask_later(name)))
        return tools

    async def close(self) -> None:
        """Stop asking MCP servers."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    def off(self) -> dict[str, str]:
        """Tools that cannot be called now, and why."""
        off = {}
        for name, server in self.servers.items():
            try:
                server.place()
            except NoriaError as error:
                off[name] = str(error)
            else:
                if server.config.kind == "mcp" and name not in self._listed:
                    off[name] = self._unlisted.get(name, "it was not asked for its tools yet")
        return off

    def kind(self, *kinds: str) -> dict[str, ToolConfig]:
        """The configured tools of some kinds."""
        return {name: one for name, one in self._configs.items() if one.kind in kinds}

    def toolbox(
        self,
        query: CompletionRequest,
        placer: Placer | None = None,
        artefacts: Mapping[str, str] | None = None,
    ) -> Toolbox:
        """The tools with the last picture of a conversation.

        Args:
            query: the conversation.
            placer: puts the hits of the shop's search in order; they stay as they are by default.
            artefacts: content hashes of the version that answers, by kind, for tools that take versions.

        Raises:
            ConfigError: two tools have one name.
        """
        picture = last_picture(query)
        made: list[Tool] = [
            _MAKERS[server.config.kind](name, server.at(artefacts or {}), picture)
            for name, server in self.servers.items()
            if server.config.kind != "mcp"
        ]
        searches = [] if self._search is None else [self._searching(self._search, picture, placer)]
        listed = [tool for tools in self._listed.values() for tool in tools]
        return Toolbox([*made, *listed, *searches])

    @staticmethod
    def _searching(search: ProductSearch, picture: bytes | None, placer: Placer | None) -> ProductSearch:
        ranker = search.ranker if placer is None else HitRanker(placer, search.name)
        return replace(search, picture=picture, ranker=ranker)

    async def _ask(self, name: str, seconds: float) -> None:
        """Ask an MCP server what it has.

        Raises:
            RunError: it does not answer in time, or lists what cannot be offered. ConfigError: it has no such tool.
        """
        try:
            async with asyncio.timeout(seconds):
                listed = await open_mcp(self.servers[name])
        except TimeoutError:
            raise RunError(f"no list of its tools in {seconds:g} s", where=name) from None
        taken = {one for one, server in self.servers.items() if server.config.kind != "mcp"}
        taken |= {tool.spec.name for tools in self._listed.values() for tool in tools}
        taken |= set() if self._search is None else {self._search.name}
        twice = next((tool.spec.name for tool in listed if tool.spec.name in taken), None)
        if twice is not None:
            raise RunError(
                f"another tool is named {twice!r}, too",
                where=name,
                mend="name those that it offers in `tools`",
            )
        self._listed[name] = listed

    async def _ask_later(self, name: str) -> None:
        while name not in self._listed:
            try:
                await self._ask(name, self.servers[name].config.seconds)
            except NoriaError as error:
                self._unlisted[name] = str(error)
                await asyncio.sleep(RETRY if "starting" not in str(error) else 0.25)


def last_picture(query: CompletionRequest) -> bytes | None:
    """The last picture of a conversation, without a camera's notes."""
    for message in reversed(query.messages):  # a picture that is sent once more is the last one again
        _, blobs = take_out_blobs(message)
        for content in reversed(blobs.values()):
            with contextlib.suppress(DataError):
                Image(content)
                return content
    return None
