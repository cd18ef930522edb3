"""Routes: which model answers, under which prompt and sampling. The first thing that a loop can learn.

A route is an artefact of one file, `route.json`. It names a backend of the operator's and can add neither tools nor
addresses. Its id follows from its content, and is the name by which decisions in traces have it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from noria.core.chat import ChatModel, ChatRequest, Failure, Message, Outcome, Prices, system
from noria.core.chat.budget import estimated_cost
from noria.core.config import Config
from noria.core.errors import ConfigError, DataError
from noria.core.experiments.off_policy import OffPolicy, off_policy
from noria.core.files import write_atomic
from noria.core.learning.dataset import Row
from noria.core.records import json_object

KIND = "route"
LONGEST_PROMPT = 20_000


class Route(Config):
    """A model, its prompt and its sampling."""

    backend: str = Field(pattern=r"^[\w.-]{1,80}$", description="Name of a backend of the operator's.")
    model: str = Field("", max_length=200, description="Name of the model on the backend.")
    system: str = Field("", max_length=LONGEST_PROMPT, description="System prompt above every conversation.")
    temperature: float | None = Field(None, ge=0, le=2, description="Temperature; the server's by default.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus of the sampling.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer in tokens.")
    seed: int | None = Field(None, description="Seed of the sampling, where the server honours one.")

    @property
    def id(self) -> str:
        """Backend, model, and 12 hex digits of the content: the name of the route in traces."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"{self.backend}/{self.model}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def request(self, messages: Sequence[Message]) -> ChatRequest:
        """The request that this route makes of a conversation."""
        above = (system(self.system),) if self.system else ()
        return ChatRequest(
            (*above, *messages),
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Backend:
    """A chat model of the operator's, with its prices; a free one has prices of 0."""

    model: ChatModel
    prices: Prices = field(default_factory=Prices)

    def most_cost(self, request: ChatRequest) -> float | None:
        """Most that a request may cost, by estimate; None where a price is missing."""
        return estimated_cost(self.prices, request.wire("")) if self.prices.known else None


@dataclass(frozen=True)
class Backends:
    """The backends that routes may name, by backend and model, or by backend where it serves any model."""

    by_name: Mapping[str, Backend]

    def of(self, route: Route) -> Backend:
        """The backend of a route.

        Raises:
            ConfigError: the operator has none of that name.
        """
        for name in (f"{route.backend}/{route.model}", route.backend):
            if name in self.by_name:
                return self.by_name[name]
        known = ", ".join(sorted(self.by_name)) or "none"
        raise ConfigError(f"no backend {route.backend!r}", where=route.id, mend=f"there are: {known}")


def cost_of(outcome: Outcome) -> float | None:
    """Cost of a request; 0 where none was sent, and None where it is not known."""
    if isinstance(outcome, Failure):
        return 0.0 if outcome.attempts == 0 else None
    return outcome.cost


def write_route(folder: Path, route: Route) -> None:
    """Write a route as the files of an artefact."""
    write_atomic(folder / "route.json", json.dumps(route.model_dump(mode="json"), indent=1) + "\n")


def read_route(folder: Path) -> Route:
    """Read the route of an artefact.

    Raises:
        DataError: there is none, or it is none.
    """
    path = folder / "route.json"
    try:
        return Route.model_validate(json_object(path, "a route"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"no route: {where}: {first['msg']}", where=str(path)) from None


_ADDRESS = re.compile(
    r"\w+://|\bwww\.|\b(?:data|javascript|mailto):|\b[\w-]+\.(?:com|net|org|io|dev)\b", re.I
)
_TOOLS = re.compile(r"allowed-tools|\btool_?(?:calls?|use|choice)\b|\bfunction_?calls?\b|<\|", re.IGNORECASE)


def check_prompt(prompt: str, parent: str) -> str:
    """What a proposer may not write into a prompt, in words; empty where there is nothing.

    Addresses and names of tools that the parent's prompt has may stay; a proposer adds none.
    """
    if not prompt.strip():
        return "it is empty"
    if len(prompt) > LONGEST_PROMPT:
        return f"it has more than {LONGEST_PROMPT:,} characters"
    if any(ord(c) < 32 and c not in "\n\t" for c in prompt):
        return "it has control characters"
    for what, pattern in (("an address", _ADDRESS), ("a tool", _TOOLS)):
        allowed = {found.group().lower() for found in pattern.finditer(parent)}
        if any(found.group().lower() not in allowed for found in pattern.finditer(prompt)):
            return f"it adds {what}"
    return ""


@dataclass(frozen=True)
class Logged:
    """What the log says about routes: for each rated decision its reward, and the probability of every option.

    Attributes:
        groups: leakage group of each.
        chosen: id of the route that answered.
        reward: score of the answer.
        propensities: probability of each option, by its id.
    """

    groups: tuple[str, ...]
    chosen: tuple[str, ...]
    reward: tuple[float, ...]
    propensities: tuple[Mapping[str, float], ...]

    def estimates(self, route: str, other: str, *, seed: int) -> tuple[OffPolicy, OffPolicy]:
        """What the log says that two routes would have earned; refused where it says too little.

        Only decisions that could have taken either count: routes that were offered for other requests do not compare.
        """
        could = [
            i
            for i, options in enumerate(self.propensities)
            if options.get(route, 0) > 0 and options.get(other, 0) > 0
        ]
        first, second = (
            off_policy(
                [self.reward[i] for i in could],
                [self.propensities[i][self.chosen[i]] for i in could],
                [float(self.chosen[i] == name) for i in could],
                generator=np.random.default_rng(seed),
                clusters=[self.groups[i] for i in could],
            )
            for name in (route, other)
        )
        return first, second


def logged(rows: Sequence[Row]) -> Logged:
    """The rated decisions for a model whose options all have a known propensity."""
    groups, chosen, reward, propensities = [], [], [], []
    for row in rows:
        span = next((s for s in row.view.trace.spans if s.kind == "model" and s.chosen is not None), None)
        if span is None or row.example is None or row.example.score is None:
            continue
        options: dict[str, Any] = {one.name: one.propensity for one in span.candidates}
        known = all(p is not None and 0 <= p <= 1 for p in options.values())
        assert span.chosen is not None
        if known and options[span.chosen] > 0:
            groups.append(row.example.group)
            chosen.append(span.chosen)
            reward.append(row.example.score)
            propensities.append(options)
    return Logged(tuple(groups), tuple(chosen), tuple(reward), tuple(propensities))
