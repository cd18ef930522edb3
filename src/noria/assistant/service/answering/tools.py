"""The gateway's tools: opened with it, and called in rounds before an answer."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from noria.assistant.config import AssistantConfig
from noria.assistant.config.parts import PartsConfig
from noria.assistant.parts.loop import Ask, ToolRounds, unheard
from noria.assistant.parts.protocol import RankContext
from noria.assistant.parts.ranking import Placer
from noria.assistant.parts.tools import Tools
from noria.assistant.products.catalogue import NAME as CATALOGUE, Catalogue
from noria.assistant.products.search import ProductSearch
from noria.assistant.service.recording import Recording
from noria.assistant.service.started import StartedServers
from noria.core.chat.outcomes import Outcome
from noria.core.errors import needing
from noria.core.tools import ToolContext
from noria.core.traces.ids import Clock

with needing("serve"):
    import aiohttp

OUTSIDE = "outside"
"""Label of a trace before which text from outside had entered its conversation."""


async def open_tools(
    config: AssistantConfig, folder: Path, started: StartedServers, stack: AsyncExitStack
) -> Tools:
    """The tools of the configuration, with the shop's search where it has products; the stack closes them.

    Args:
        config: settings of the gateway.
        folder: folder of the gateway's data, which holds the catalogue.
        started: servers that the gateway starts, which know their addresses.
        stack: closes the tools.

    Raises:
        ConfigError: an MCP server has no such tool.
    """
    products, search = config.products, None
    session = await stack.enter_async_context(aiohttp.ClientSession())
    located = {name: one.locate for name, one in started.servers.items()}
    if products is not None:
        catalogue = Catalogue(folder / CATALOGUE)
        stack.callback(catalogue.close)
        search = ProductSearch(catalogue, products.tool, products.most)
    tools = await Tools.open(config.parts.tools, session, located, search)
    stack.push_async_callback(tools.close)
    return tools


async def answer_with_tools(
    recording: Recording, tools: Tools, ask: Ask, parts: PartsConfig, clock: Clock
) -> Outcome:
    """The answer after rounds of tools, which are steps of the recording also where they came to nothing.

    Args:
        recording: the request.
        tools: the gateway's tools.
        ask: asks the backend, once a round.
        parts: settings of the pipeline, which limit the rounds and their money.
        clock: clock of the service.
    """
    identity = recording.identity
    placer = Placer(
        recording.choice.ranker,
        RankContext("", recording.query.question, identity.user, recording.labels),
        clock,
    )
    rounds = ToolRounds(
        tools.toolbox(recording.query, placer, recording.choice.artefacts),
        ToolContext(recording.id, identity.caller, identity.user),
        recording.tools,
        parts.tool_rounds,
        parts.tool_money,
        clock,
        placer,
        recording.heard or recording.watched or unheard,
        OUTSIDE in recording.labels,
    )
    try:
        return await rounds.answer(recording.query, ask)
    finally:
        recording.steps += tuple(rounds.steps)
        recording.spent, recording.used = rounds.spent, rounds.used
