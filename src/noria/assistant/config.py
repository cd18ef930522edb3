"""Configuration of the gateway: backends, routes over them, callers, judging, storage.

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

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from noria.core.chat import ChatServer
from noria.core.config import Config, Option
from noria.core.errors import ConfigError
from noria.core.learning.route import Route
from noria.core.learning.schedule import ScheduleConfig
from noria.core.service.callers import CallerConfig
from noria.verbs.options import ListenOptions

ENVIRONMENT = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
"""Names of environment variables."""


class ChecklistItem(Config):
    """A question of the judges' checklist."""

    id: str = Field(pattern=r"^[\w.-]{1,80}$", description="Name of the question.")
    question: str = Field(min_length=3, max_length=2000, description="Question with the answer yes or no.")
    good: Literal["yes", "no"] = Field("yes", description="Answer that is good.")
    weight: float = Field(1.0, gt=0, description="Weight of the question in the score.")


class JudgingConfig(Config):
    """Judging of answers: all of them by rules, a share of them by a panel of models."""

    checklist: tuple[ChecklistItem, ...] = Field((), description="Questions that the judges answer.")
    backends: tuple[str, ...] = Field((), description="Backends that judge, each a member of the panel.")
    share: float = Field(0.05, ge=0, le=1, description="Share of the traces that the panel judges.")
    budget_per_day: float | None = Field(
        None, ge=0, description="Most that judging may cost in a day (UTC), in the currency of the prices."
    )

    most_cost: float = Field(
        0.05, ge=0, description="Most that one judge's judgement may cost, set aside before it is asked."
    )
    slow: float = Field(60.0, gt=0, description="Seconds above which the rules call an answer slow.")

    @model_validator(mode="after")
    def _whole(self) -> JudgingConfig:
        if self.backends and not self.checklist:
            raise ValueError("judges need a checklist")
        if len({one.id for one in self.checklist}) < len(self.checklist):
            raise ValueError("two questions of the checklist have the same id")
        if len(set(self.backends)) < len(self.backends):
            raise ValueError("a backend judges twice")
        return self


class ClickHouseConfig(Config):
    """A ClickHouse to which sealed traces are shipped, for what is above one machine."""

    url: str = Field(
        pattern=r"^https?://",
        description="Address of its HTTP interface, as in https://user@host:8443/database.",
    )
    password_env: str | None = Field(
        None, pattern=ENVIRONMENT, description="Environment variable that holds the password."
    )
    service: str | None = Field(
        None, pattern=r"^[\w.-]{1,64}$", description="Name of this gateway there; the machine's by default."
    )


class SkillsConfig(Config):
    """Skills of the assistant: a bank, and how a request finds its skill."""

    bank: Path = Field(description="Folder of the bank.")
    data: Path | None = Field(
        None,
        description="Labelled samples, from which the thresholds come; without them every request has a skill.",
    )
    encoder: Literal["ngrams", "static"] = Field(
        "ngrams", description="Vectors: hashed n-grams, or static word embeddings (noria assets wordllama)."
    )
    project: str | None = Field(None, description="Set of skills in bank.json that is offered.")


class ToolConfig(Config):
    """A tool: a server that edits or makes pictures, or an MCP server."""

    kind: Literal["edit", "generate", "mcp"] = Field(
        description="What it is: an OpenAI-compatible server of pictures, or an MCP server over HTTP."
    )
    url: str = Field(
        pattern=r"^https?://",
        description="Address: http://host:8000/v1 of a picture server, or an MCP endpoint.",
    )
    model: str | None = Field(None, description="Name of the model on a picture server.")
    tools: tuple[str, ...] = Field((), description="Tools of an MCP server that are offered; all by default.")
    description: str = Field(
        "", max_length=2000, description="Words by which the model knows a picture tool."
    )
    cost: float = Field(0.0, ge=0, description="Cost of a call, in the currency of the prices.")
    seconds: float = Field(60.0, gt=0, le=3600, description="Longest time of a call.")
    key_env: str | None = Field(
        None, pattern=ENVIRONMENT, description="Environment variable with the server's key."
    )

    def headers(self) -> dict[str, str]:
        """Headers of a call.

        Raises:
            ConfigError: the environment variable is not set.
        """
        if self.key_env is None:
            return {}
        if self.key_env not in os.environ:
            raise ConfigError(f"the environment variable {self.key_env} is not set", where="tools.key_env")
        return {"authorization": f"Bearer {os.environ[self.key_env]}"}


class PartsConfig(Config):
    """Parts of the pipeline before the answer; one that is left out does nothing."""

    skills: SkillsConfig | None = Field(
        None, description="Skills whose bodies go before the requests that they fit."
    )
    tools: dict[str, ToolConfig] = Field(
        default_factory=dict, description="Tools by the name that a model calls."
    )
    tool_rounds: int = Field(4, ge=1, le=16, description="Most rounds of calls before the answer.")
    tool_money: float | None = Field(
        None, ge=0, description="Most that the tools of one request may cost; any by default."
    )
    router: Path | None = Field(
        None,
        description="Folder of a router by noria routing train, whose models are backends of the same names.",
    )


class LearningConfig(Config):
    """Turns of learning: who judges, and what a turn may take."""

    judge: str | None = Field(None, description="Backend that judges while a learner estimates.")
    gate_judge: str | None = Field(
        None, description="Backend that judges at the gate, another one than the learner's."
    )
    learner: Literal["routes", "descriptions"] = Field(
        "routes",
        description="What learns: the choice of route and prompt, or the descriptions of the skills from corrections "
        "named skill.",
    )
    writer: str | None = Field(None, description="Backend that writes prompts; nobody by default.")
    least_rated: int = Field(
        100, ge=0, description="Rated traces below which a turn of routes is underpowered."
    )
    most_items: int = Field(400, ge=1, description="Most requests that are replayed.")
    money: float | None = Field(
        None, ge=0, description="Most that a turn may cost, in the currency of the prices."
    )
    seconds: float | None = Field(None, gt=0, description="Longest time of a turn.")
    experiment: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the experiment that follows, such as planned."
    )
    schedule: ScheduleConfig | None = Field(
        None, description="What starts a turn without anybody's word: volume, or a drift. Nothing by default."
    )

    @model_validator(mode="after")
    def _judged(self) -> LearningConfig:
        if self.schedule is not None and self.learner == "routes" and self.gate_judge is None:
            raise ValueError("a schedule needs a gate_judge: a turn without one could not gate")
        return self


class AssistantConfig(Config):
    """Settings of a gateway, from its file."""

    backends: dict[str, ChatServer] = Field(min_length=1, description="Servers that answer, by name.")
    routes: dict[str, Route] = Field(min_length=1, description="Ways to answer, by name.")
    begin: str = Field(description="Route that serves until another one is promoted.")
    parts: PartsConfig = Field(PartsConfig(), description="Parts of the pipeline: skills, a model router.")
    callers: tuple[CallerConfig, ...] = Field((), description="Callers with tokens of their own.")
    judging: JudgingConfig = Field(JudgingConfig(), description="Judging of the answers.")
    learning: LearningConfig = Field(LearningConfig(), description="Turns of learning.")
    keep_personal: tuple[str, ...] = Field(
        (), description="Kinds of personal data that are not redacted, such as ipv4."
    )
    keep_pictures_days: float | None = Field(
        30.0,
        gt=0,
        description="Days for which pictures are kept; null keeps them until their user is erased.",
    )
    keep_texts: bool = Field(True, description="Whether traces hold the texts of requests and answers.")
    shadow_share: float = Field(
        0.1, ge=0, le=1, description="Share of the requests that a challenger in the shadow answers, too."
    )
    control_env: str | None = Field(
        None,
        pattern=ENVIRONMENT,
        description="Environment variable with the address of a PostgreSQL that several gateways share.",
    )
    versions: Path | None = Field(
        None, description="Folder of the versions, on a disk that several gateways share; its own by default."
    )
    peers: tuple[str, ...] = Field(
        (), description="Addresses of the other gateways, which are asked for traces that are not here."
    )
    clickhouse: ClickHouseConfig | None = Field(
        None, description="ClickHouse to which sealed traces are shipped; none by default."
    )
    webhook: str | None = Field(
        None, pattern=r"^https?://", description="Address that gets one line of JSON when something happens."
    )
    promote: Literal["auto", "ask"] = Field(
        "ask", description="Whether a test that is won promotes by itself, or waits for an operator."
    )
    body_bytes: int = Field(32 << 20, ge=1 << 10, description="Largest body of a request.")
    seconds: float = Field(300.0, gt=0, description="Seconds that an answer may take.")

    @model_validator(mode="after")
    def _names(self) -> AssistantConfig:
        for name, one in self.routes.items():
            if one.backend not in self.backends:
                raise ValueError(f"routes.{name}.backend: there is no backend {one.backend!r}")
        if self.begin not in self.routes:
            raise ValueError(f"begin: there is no route {self.begin!r}")
        for name in self.judging.backends:
            if name not in self.backends:
                raise ValueError(f"judging.backends: there is no backend {name!r}")
        for role in ("judge", "gate_judge", "writer"):
            backend = getattr(self.learning, role)
            if backend is not None and backend not in self.backends:
                raise ValueError(f"learning.{role}: there is no backend {backend!r}")
        if len({caller.name for caller in self.callers} | {"local", "operator"}) < len(self.callers) + 2:
            raise ValueError("callers: names are unique, and neither local nor operator")
        return self


class ServeConfig(AssistantConfig, ListenOptions):
    """Settings of `noria serve`: those of the gateway, and where it listens."""

    folder: Annotated[Path, Option("--folder", "-f", metavar="FOLDER")] = Field(
        Path("noria-data"), description="Folder of the traces, versions and experiments."
    )
    companion: bool = Field(True, description="Run the process that judges, indexes and decides experiments.")
    access_log: bool = Field(True, description="Write a line on stderr for each request.")
