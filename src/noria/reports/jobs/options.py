"""Settings of a report, which verbs and the service share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from noria.core.config import Config, Option
from noria.core.errors import ConfigError
from noria.reports.search.protocol import SourceRules
from noria.verbs.options import ServerOptions

if TYPE_CHECKING:
    from noria.reports.agents.pipeline import Job
    from noria.reports.agents.research import Search
    from noria.reports.agents.roles import Agents
    from noria.reports.search.index import Index

_DATE = r"^(\d{4}(-\d\d){0,2})?$"


class WritingOptions(SourceRules, ServerOptions):
    """What a report is made of, by whom, from which sources and within which limits."""

    section: ClassVar[str] = "Report"

    charts: bool = Field(True, description="Make the charts of the plan.")
    images: bool = Field(True, description="Look for the pictures of the plan.")
    language: Literal["en", "zh"] | None = Field(
        None, description="Language of the report (default: that of the request)."
    )
    research_language: Literal["en", "zh"] | None = Field(
        None, description="Language of the search (default: that of the report)."
    )
    stale_before: str = Field(
        "", pattern=_DATE, description="Date before which evidence is used, and marked as stale."
    )
    seconds: float | None = Field(
        None, gt=0, description="Most seconds of a report; it is partial where they end."
    )
    budget: float | None = Field(
        None, gt=0, description="Most money that the model may cost; the report is partial where it ends."
    )
    tokens: int | None = Field(
        None, ge=1, description="Most tokens in and out of the model; the report is partial where they end."
    )
    borders: Annotated[Path | None, Option(metavar="FILE")] = Field(
        None, description="TopoJSON of countries with names, for maps (npm world-atlas: countries-110m.json)."
    )
    fonts: Annotated[Path | None, Option(metavar="DIR")] = Field(
        None, description="Folder of more fonts for charts."
    )
    css: Annotated[Path | None, Option(metavar="FILE", was=("--house",))] = Field(
        None, description="Style sheet that is added to the page's own, such as that of a company."
    )

    def countries(self) -> Any:
        """Borders of countries; None where no file was given.

        Raises:
            DataError: the file is no JSON object.
        """
        from noria.core.records import json_object

        return None if self.borders is None else json_object(self.borders, "a TopoJSON file")

    def style(self) -> str:
        """Text of the style sheet; empty where none was given.

        Raises:
            DataError: the file cannot be read.
        """
        from noria.core.files import read_text

        return "" if self.css is None else read_text(self.css, limit=1_000_000)

    def agents(self, folder: Path) -> Agents:
        """The engine, or a model whose replies and costs are kept in the report's folder.

        Raises:
            ConfigError: a limit of money or tokens without a model, or of money without prices.
        """
        from noria.reports.agents.roles import Extractive

        if not (self.url or self.model):
            if self.budget is not None or self.tokens is not None:
                raise ConfigError(
                    "a limit on a model without a model", where="--budget, --tokens", mend="give --url"
                )
            return Extractive()
        from noria.core.chat import ChatCache
        from noria.reports.agents.asking import Asker
        from noria.reports.agents.models import ModelAgents

        cache = ChatCache(folder / "stages" / "replies")
        file = folder / "stages" / "spending.json"
        return ModelAgents(Asker(self.server(), cache, money=self.budget, tokens=self.tokens, file=file))

    def job(self, folder: Path, index: Index, agents: Agents, version: str) -> Job:
        """A report of these options.

        Args:
            folder: folder of the bundle.
            index: the corpus.
            agents: who plans and writes.
            version: what the stages depend on beside these options: the corpus.
        """
        from noria.reports.agents.pipeline import Job, Limits

        return Job(
            folder,
            index,
            agents,
            Limits(self.seconds),
            charts=self.charts,
            images=self.images,
            language=self.language or "",
            research_language=self.research_language or "",
            stale_before=self.stale_before,
            countries=self.countries(),
            house=self.style(),
            version=f"{version}{self.model}{self.charts}{self.images}{self.language}{self.part(SourceRules)}",
        )


class SearchOptions(Config):
    """Search on the web: services, MCP servers, and the user's own addresses."""

    section: ClassVar[str] = "Search"

    service: tuple[Literal["tavily", "brave", "serper", "searxng"], ...] = Field(
        (), description="Search services; the key is in TAVILY_API_KEY, BRAVE_API_KEY or SERPER_API_KEY."
    )
    searxng: Annotated[str | None, Option(metavar="URL")] = Field(
        None, description="Address of a SearXNG instance that answers in JSON."
    )
    mcp: Annotated[tuple[str, ...], Option(metavar="SERVER", split=False)] = Field(
        (), description="MCP servers with a search tool: addresses, or commands that start one."
    )
    mcp_tool: str = Field("", description="Name of the tool (default: the first with search in its name).")
    address: Annotated[tuple[str, ...], Option(metavar="URL", split=False)] = Field(
        (), description="Pages of your own, read before any search."
    )
    pages: int = Field(12, ge=1, le=500, description="Most pages that a search brings in.")
    rounds: int = Field(2, ge=1, le=10, description="Most rounds of queries and reading.")
    offline: bool = Field(False, description="Forbid every connection to the network.")


class ReportOptions(WritingOptions, SearchOptions):
    """Settings of one report and of its search on the web."""

    def search(self) -> Search:
        """The search of these options.

        Raises:
            ConfigError: an unknown service, no key, no address of SearXNG, a server that --offline forbids, or a tool
                without its server.
            MissingExtra: the package `mcp` is not installed.
        """
        from noria.reports.agents.research import Search
        from noria.reports.search.mcp import McpSearch
        from noria.reports.search.web import web_services

        if self.offline and (self.service or self.searxng or self.mcp or self.address):
            raise ConfigError("a search on the network", where="--offline", mend="leave one of them out")
        if self.offline and self.url:
            raise ConfigError(
                "a server on the network is asked for", where="--offline, --url", mend="give one of them"
            )
        if self.mcp_tool and not self.mcp:
            raise ConfigError("a tool without its server", where="--mcp-tool", mend="give --mcp")
        services: list[Any] = list(web_services(self.service, self.searxng))
        services += [McpSearch(server, self.mcp_tool) for server in self.mcp]
        language = self.research_language or self.language or ""
        return Search(services, self.address, rules_of(self), self.pages, self.rounds, language)


def rules_of(config: ReportOptions) -> SourceRules:
    """Rules of the sources, which the user's own addresses pass whatever `only` names."""
    rules = config.part(SourceRules)
    if not rules.only or not config.address:
        return rules
    return rules.model_copy(update={"only": (*rules.only, *config.address)})
