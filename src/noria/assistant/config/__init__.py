"""Settings of the gateway: its file, whose parts are the modules of this package.

```yaml
backends:
  small: {url: "http://127.0.0.1:8001/v1", model: qwen-small, prices: {input: 0.1, output: 0.4}}
routes:
  default: {backend: small, system: "Answer briefly."}
begin: default
callers:
  - {name: shop, token_env: SHOP_TOKEN, requests_per_minute: 600, budget_per_day: 20}
```
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from noria.assistant.config.clickhouse import ClickHouseConfig
from noria.assistant.config.judging import JudgingConfig
from noria.assistant.config.learning import LearningConfig
from noria.assistant.config.page import PageConfig
from noria.assistant.config.parts import PartsConfig
from noria.assistant.config.products import ProductsConfig
from noria.assistant.privacy import PrivacyConfig
from noria.core.chat import ChatServer
from noria.core.config import ENVIRONMENT, Option
from noria.core.learning.routes.route import Route
from noria.core.service.callers import CallerConfig
from noria.verbs.options import ListenOptions

Promotion = Literal["auto", "ask"]


class AssistantConfig(PrivacyConfig):
    """Settings of a gateway, from its file."""

    backends: dict[str, ChatServer] = Field(min_length=1, description="Servers that answer, by name.")
    routes: dict[str, Route] = Field(min_length=1, description="Ways to answer, by name.")
    begin: str = Field(description="Route that answers requests until another route is promoted.")
    parts: PartsConfig = Field(PartsConfig(), description="Parts of the pipeline: skills, a model router.")
    products: ProductsConfig | None = Field(None, description="Products of the shop; none by default.")
    start: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Commands, as lists of words, of servers that the gateway starts, by the name of the backend that "
        "they are; each listens where the backend's url says.",
    )
    callers: tuple[CallerConfig, ...] = Field((), description="Callers with tokens of their own.")
    judging: JudgingConfig = Field(JudgingConfig(), description="Judging of the answers.")
    learning: LearningConfig = Field(LearningConfig(), description="Turns of learning.")
    page: PageConfig = Field(PageConfig(), description="The web page for people.")
    keep_texts: bool = Field(True, description="Whether traces hold the texts of requests and answers.")
    shadow_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the requests that a challenger in the shadow answers, too, and the share of a caller's "
        "budget that its answers may cost beside it.",
    )
    control_env: str | None = Field(
        None,
        pattern=ENVIRONMENT,
        description="Environment variable with the address of a PostgreSQL that several gateways share.",
    )
    versions: Path | None = Field(
        None,
        description="Folder of the versions, on a disk that several gateways share; by default one of its own.",
    )
    keep_versions: int | None = Field(
        None,
        ge=2,
        description="Number of newest champions and turns whose versions are kept, for a roll-back or a replay; null "
        "keeps all.",
    )
    peers: tuple[str, ...] = Field(
        (),
        description="Addresses of the other gateways, which this gateway asks for traces that it does not hold.",
    )
    clickhouse: ClickHouseConfig | None = Field(
        None, description="ClickHouse to which sealed traces are shipped; none by default."
    )
    webhook: str | None = Field(
        None, pattern=r"^https?://", description="Address to which each event is sent as one line of JSON."
    )
    promote: Promotion = Field(
        "ask", description="Whether a test that is won promotes by itself, or waits for an operator."
    )
    promote_kinds: dict[str, Promotion] = Field(
        default_factory=dict,
        description="Promotion by kind of change, over promote: bodies, which ask by default, descriptions, or a "
        "kind of artefact such as route or model-router. A new skill (creation) always asks.",
    )
    body_bytes: int = Field(32 << 20, ge=1 << 10, description="Largest body of a request.")
    seconds: float = Field(300.0, gt=0, description="Seconds that an answer may take.")

    @model_validator(mode="after")
    def _names(self) -> AssistantConfig:
        if self.promote_kinds.get("creation") == "auto":
            raise ValueError("promote_kinds.creation: a new skill asks for a person's yes; leave it out")
        for name, one in self.routes.items():
            if one.backend not in self.backends:
                raise ValueError(f"routes.{name}.backend: there is no backend {one.backend!r}")
        if self.products is not None and self.products.tool in self.parts.tools:
            raise ValueError(f"products.tool: there is a tool {self.products.tool!r} already")
        if self.begin not in self.routes:
            raise ValueError(f"begin: there is no route {self.begin!r}")
        for name in self.judging.backends:
            if name not in self.backends:
                raise ValueError(f"judging.backends: there is no backend {name!r}")
        for name, words in self.start.items():
            if name not in self.backends or name in self.parts.tools or not words or not all(words):
                raise ValueError(
                    f"start.{name}: give a backend that no tool is named like, and the words of a command"
                )
        for name in self.parts.drafting:
            if name not in self.backends:
                raise ValueError(f"parts.drafting: there is no backend {name!r}")
        grounding = self.judging.grounding
        if grounding is not None and grounding.judge not in self.backends:
            raise ValueError(f"judging.grounding.judge: there is no backend {grounding.judge!r}")
        for role in ("judge", "gate_judge", "writer"):
            backend = getattr(self.learning, role)
            if backend is not None and backend not in self.backends:
                raise ValueError(f"learning.{role}: there is no backend {backend!r}")
        if (
            len({caller.name for caller in self.callers} | {"local", "operator", "page"})
            < len(self.callers) + 3
        ):
            raise ValueError("callers: names are unique, and none of local, operator and page")
        self._page_can_be_served()
        return self

    def promotion(self, changed: Collection[str]) -> Promotion:
        """Whether a version that changes these kinds promotes by itself; it asks where any of them asks.

        A skill that is new always asks.
        """
        policy = {"bodies": "ask", **self.promote_kinds, "creation": "ask"}
        return "ask" if not changed or any(policy.get(k, self.promote) == "ask" for k in changed) else "auto"

    def _page_can_be_served(self) -> None:
        compare = self.page.compare
        if compare is not None and compare.route not in self.routes:
            raise ValueError(f"page.compare.route: there is no route {compare.route!r}")
        if self.page.on and not self.keep_texts:
            raise ValueError("page.on: the page shows what traces hold, which needs keep_texts")
        if self.page.on and self.peers:
            raise ValueError("page.on: one gateway serves the page, for erasing must reach all of a user")


class ServeConfig(AssistantConfig, ListenOptions):
    """Settings of `noria serve`: those of the gateway, and where it listens."""

    folder: Annotated[Path, Option("--folder", "-f", metavar="FOLDER")] = Field(
        Path("noria-data"), description="Folder of the traces, versions and experiments."
    )
    companion: bool = Field(True, description="Run the process that judges, indexes and decides experiments.")
    access_log: bool = Field(True, description="Write a line on stderr for each request.")
