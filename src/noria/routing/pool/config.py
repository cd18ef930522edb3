"""A pool as a YAML file has it: models, where they are, and the strategies they are asked in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from noria.core.chat import (
    ChatServer,
    Prices,
)
from noria.core.config import Config, load_config
from noria.routing.pool.calculator import fill_in
from noria.routing.tables.table import Route

__all__ = ["DEFAULT_STRATEGIES", "Member", "PoolConfig", "Strategy", "read_pool"]


class Strategy(Config):
    """How a model is made to think.

    Attributes:
        instruction: set before the question; "{question}" stands for it.
        max_tokens: of the answer.
        stop: texts that end it.
        tool: `calculator` works out what the model puts between <calc> and </calc>.
    """

    instruction: str = "{question}"
    max_tokens: int | None = Field(512, ge=1)
    stop: tuple[str, ...] = ()
    tool: Literal["calculator"] | None = None

    @model_validator(mode="after")
    def _has_place(self) -> Strategy:
        if "{question}" not in self.instruction:
            raise ValueError("an instruction needs {question} in it")
        return self

    def prompt(self, question: str) -> str:
        """What the model reads."""
        return self.instruction.replace("{question}", question)

    def read(self, text: str) -> str:
        """What is made of what the model wrote."""
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
    """A model of the pool: on a server, or in this process.

    Attributes:
        name: as routers write it.
        about: what it is good at, for routers that read.
        server: where it is served.
        local: instead, a model folder, a GGUF file, or `small`.
        prices: of a local model; a server has its own.
        strategies: in which it is asked.
    """

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\n<>|]+$")
    about: str = ""
    server: ChatServer | None = None
    local: str | None = None
    prices: Prices = Prices()
    strategies: tuple[str, ...] = ("direct",)

    @model_validator(mode="after")
    def _one_place(self) -> Member:
        if (self.server is None) == (self.local is None):
            raise ValueError(f"{self.name}: give either a server or a local model")
        if not self.strategies:
            raise ValueError(f"{self.name}: no strategy")
        return self


class PoolConfig(Config):
    """A pool as a YAML file has it.

    Attributes:
        models: its members.
        strategies: more of them by name, or others of the names that there are.
    """

    models: tuple[Member, ...] = Field(min_length=1)
    strategies: dict[str, Strategy] = Field(default_factory=dict)

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
        """Ours and those of the file."""
        return DEFAULT_STRATEGIES | self.strategies

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every model in each of its strategies."""
        return tuple(Route(member.name, strategy) for member in self.models for strategy in member.strategies)


def read_pool(file: Path) -> PoolConfig:
    """A pool's YAML file.

    Raises:
        ConfigError: with line and field.
    """
    return load_config(PoolConfig, file=file)
