"""A pool as a YAML file has it: models, where they are, and the strategies they are asked in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from noria.core.chat import ChatServer, Prices
from noria.core.config import Config, load_config
from noria.routing.pool.calculator import fill_in
from noria.routing.tables.table import Route


class Strategy(Config):
    """A way in which a model is made to think."""

    instruction: str = Field(
        "{question}", description="Text around the question, which {question} stands for."
    )
    max_tokens: int | None = Field(512, ge=1, description="Most tokens of the answer.")
    temperature: float | None = Field(
        0.0, ge=0, description="Temperature of the answer; null leaves it to the server."
    )
    stop: tuple[str, ...] = Field((), description="Texts that end the answer.")
    tool: Literal["calculator"] | None = Field(
        None, description="Tool: the calculator works out what stands between <calc> and </calc>."
    )

    @model_validator(mode="after")
    def _has_place(self) -> Strategy:
        if "{question}" not in self.instruction:
            raise ValueError("an instruction needs {question} in it")
        return self

    def prompt(self, question: str) -> str:
        """Write what the model reads."""
        return self.instruction.replace("{question}", question)

    def read(self, text: str) -> str:
        """Read what the model wrote, worked out by the tool."""
        return fill_in(text) if self.tool == "calculator" else text


DEFAULT_STRATEGIES = {
    "direct": Strategy(),
    "step_by_step": Strategy(
        instruction="{question}\n\nThink step by step, then give the answer alone on the last line.",
        max_tokens=1024,
    ),
    "tool": Strategy(
        instruction=(
            "{question}\n\nDo not work out numbers yourself. Write each calculation as <calc>3*(4+5)</calc>; it is "
            "replaced by its value. End with the answer alone on the last line."
        ),
        max_tokens=512,
        tool="calculator",
    ),
}


class Member(Config):
    """A model of the pool: on a server, or in this process."""

    name: str = Field(
        min_length=1, max_length=200, pattern=r"^[^\n<>|]+$", description="Name of the model in routes."
    )
    about: str = Field("", description="What the model is good at, for routers that read.")
    server: ChatServer | None = Field(None, description="Server of the model.")
    local: str | None = Field(
        None, description='Model folder, .gguf file, hub id or "small", instead of a server.'
    )
    prices: Prices = Field(Prices(), description="Prices of a local model's tokens; a server has its own.")
    strategies: tuple[str, ...] = Field(("direct",), description="Strategies that the model is asked in.")

    @model_validator(mode="after")
    def _one_place(self) -> Member:
        if (self.server is None) == (self.local is None):
            raise ValueError(f"{self.name}: give either a server or a local model")
        if not self.strategies:
            raise ValueError(f"{self.name}: no strategy")
        return self


class PoolConfig(Config):
    """Models and strategies of a pool, as its YAML file has them."""

    models: tuple[Member, ...] = Field(min_length=1, description="Models of the pool.")
    strategies: dict[str, Strategy] = Field(
        default_factory=dict,
        description="Strategies by name, beside those that are there or instead of them.",
    )

    @model_validator(mode="after")
    def _names(self) -> PoolConfig:
        names = [member.name for member in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"the name {max(names, key=names.count)!r} is given twice")
        for member in self.models:
            for strategy in member.strategies:
                if strategy not in self.all_strategies:
                    raise ValueError(f"{member.name}: no strategy {strategy!r}")
        return self

    @property
    def all_strategies(self) -> dict[str, Strategy]:
        """The default strategies and those of the file."""
        return DEFAULT_STRATEGIES | self.strategies

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every model in each of its strategies."""
        return tuple(Route(member.name, strategy) for member in self.models for strategy in member.strategies)


def read_pool(file: Path) -> PoolConfig:
    """Read a pool's YAML file.

    Raises:
        ConfigError: with line and field: something in it is wrong.
    """
    return load_config(PoolConfig, file=file)
