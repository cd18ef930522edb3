"""Settings of the parts of the pipeline: skills, tools, the order of products, drafts, the model router."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from noria.core.config import ENVIRONMENT, Config
from noria.core.errors import ConfigError

LEARNT = {"edit": "planner", "generate": "student"}
"""Kind of the artefact that a kind of tool answers by."""


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
    """A tool: a server of pictures, videos or reports, or an MCP server; one that runs, or that the gateway starts."""

    kind: Literal["edit", "generate", "try_on", "report", "mcp"] = Field(
        description="What it is: an OpenAI-compatible server that edits or makes pictures, noria tryon serve, noria "
        "reports serve, or an MCP server over HTTP."
    )
    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Address: http://host:8000/v1, or an MCP endpoint; a server that is started announces it.",
    )
    start: tuple[str, ...] = Field(
        (),
        description="Command that the gateway starts and keeps running, as a list of words; no shell reads it.",
    )
    model: str | None = Field(None, description="Name of the model on a server of pictures.")
    tools: tuple[str, ...] = Field((), description="Tools of an MCP server that are offered; all by default.")
    read_only: tuple[str, ...] = Field(
        (),
        description="Tools of an MCP server that only read although it does not say so, and that text from outside "
        "may therefore lead to.",
    )
    description: str = Field(
        "", max_length=2000, description="Words by which the model knows the tool; an MCP server has its own."
    )
    versions: bool = Field(
        False,
        description="Whether each request names the planner (edit) or student (generate) of the version that answers, "
        "by its content hash: noria editing serve and noria distill serve with --versions.",
    )
    cost: float = Field(0.0, ge=0, description="Cost of a call, in the currency of the prices.")
    seconds: float = Field(60.0, gt=0, le=3600, description="Longest time of a call.")
    key_env: str | None = Field(
        None, pattern=ENVIRONMENT, description="Environment variable with the server's key."
    )

    @model_validator(mode="after")
    def _somewhere(self) -> ToolConfig:
        if self.url is None and not self.start:
            raise ValueError("a tool needs a url, or a command to start")
        if not all(self.start):
            raise ValueError("start: a word of the command is empty")
        if self.versions and self.kind not in LEARNT:
            raise ValueError(f"versions: a tool of the kind {self.kind} has none")
        return self

    @property
    def path(self) -> str:
        """Path of the interface on a server that announced its address."""
        return "/mcp" if self.kind == "mcp" else "/v1"

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


class DraftingConfig(Config):
    """Drafts of a backend that decodes speculatively, and what its heads were calibrated to."""

    metrics: str = Field(
        pattern=r"^https?://",
        description="Address of the metrics of noria mtp serve or vLLM, as in …/metrics.",
    )
    prefix_rates: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        min_length=1,
        description="Share of the rounds in which the drafts up to step 1, 2, … are accepted, by noria mtp evaluate.",
    )
    tolerance: float = Field(0.05, ge=0, lt=1, description="Share of the accept length that may be lost.")
    threshold: float = Field(8.0, gt=0, description="Cumulative sum above which an alarm is raised.")
    every: float = Field(30.0, ge=0.05, description="Seconds between two looks at the metrics.")
    least: int = Field(
        50, ge=1, description="Fewest rounds that a look at the metrics reads; with fewer it waits."
    )

    @model_validator(mode="after")
    def _falling(self) -> DraftingConfig:
        if any(late > early for early, late in itertools.pairwise(self.prefix_rates)):
            raise ValueError("prefix_rates: a later step is accepted no more often than an earlier one")
        return self


class PartsConfig(Config):
    """Parts of the pipeline before the answer; one that is left out does nothing."""

    skills: SkillsConfig | None = Field(
        None, description="Skills whose bodies go before the requests that they fit."
    )
    tools: dict[str, ToolConfig] = Field(
        default_factory=dict, description="Tools by the name that a model calls."
    )
    blending: Path | None = Field(
        None,
        description="Snapshot by noria blending fit, or its folder, that puts the products of tools in order.",
    )
    drafting: dict[str, DraftingConfig] = Field(
        default_factory=dict, description="Watch over the drafts of backends, by the backend's name."
    )
    tool_rounds: int = Field(4, ge=1, le=16, description="Most rounds of calls before the answer.")
    tool_money: float | None = Field(
        None, ge=0, description="Most that the tools of one request may cost; any by default."
    )
    router: Path | None = Field(
        None,
        description="Folder of a router by noria routing train, whose models are backends of the same names.",
    )

    @model_validator(mode="after")
    def _named(self) -> PartsConfig:
        for name in self.tools:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ValueError(f"tools: {name!r} is no name of a tool; use a-z, 0-9, _ and -")
        return self
