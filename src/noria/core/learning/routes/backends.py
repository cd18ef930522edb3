"""Routes: which model answers, under which prompt and sampling. The first thing that a loop can learn.

A route is an artefact of one file, `route.json`. It names a backend of the operator's and can add neither tools nor
addresses. Its id follows from its content, and is the name by which decisions in traces have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from noria.core.chat import ChatModel, ChatRequest, Failure, Outcome, Prices
from noria.core.chat.budget import estimated_cost
from noria.core.errors import ConfigError, DataError
from noria.core.experiments.off_policy import OffPolicy, off_policy
from noria.core.files import write_atomic
from noria.core.learning.dataset import Row
from noria.core.learning.routes.route import FILE, Route
from noria.core.records import json_object

LONGEST_PROMPT = 20_000
"""Most characters of a prompt that a proposer writes."""


@dataclass(frozen=True)
class Backend:
    """A chat model of the operator's, with its prices; a free one has prices of 0."""

    model: ChatModel
    prices: Prices = field(default_factory=Prices)

    def most_cost(self, request: ChatRequest) -> float | None:
        """Most that a request may cost, by estimate; None where a price is missing."""
        return estimated_cost(self.prices, request.wire("")) if self.prices.known else None


def backend_of(route: Route, backends: Mapping[str, Backend]) -> Backend:
    """The backend of a route.

    Raises:
        ConfigError: the operator has none of that name.
    """
    if route.backend not in backends:
        known = ", ".join(sorted(backends)) or "none"
        raise ConfigError(f"no backend {route.backend!r}", where=route.id, mend=f"there are: {known}")
    return backends[route.backend]


def cost_of(outcome: Outcome) -> float | None:
    """Cost of a request; 0 where none was sent, and None where it is not known."""
    if isinstance(outcome, Failure):
        return 0.0 if outcome.attempts == 0 else None
    return outcome.cost


def write_route(folder: Path, route: Route) -> None:
    """Write a route as the files of an artefact."""
    write_atomic(folder / FILE, route.text)


def read_route(folder: Path) -> Route:
    """Read the route of an artefact.

    Raises:
        DataError: there is none, or it is none.
    """
    path = folder / FILE
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


def logged(rows: Sequence[Row], route_of: Callable[[str], str | None]) -> Logged:
    """The rated decisions whose options all have a known propensity.

    A decision is a span of the kind `model` with candidates, or else the arm of the one experiment that a trace was in:
    the other arm of an experiment of two has the rest of the probability.

    Args:
        rows: rows of a data set.
        route_of: id of the route of a bundle, by its content hash; None where it has none.
    """
    arms: dict[str, dict[str, str | None]] = {}
    for row in rows:
        for one in row.view.trace.assignments:
            arms.setdefault(one.experiment, {})[one.arm] = route_of(row.view.trace.bundle)
    found = []
    for row in rows:
        options = _decided(row) or _assigned(row, arms)
        if row.example is not None and row.example.score is not None and options is not None:
            found.append((row.example.group, options[0], row.example.score, options[1]))
    columns = zip(*found, strict=True) if found else ((), (), (), ())
    return Logged(*(tuple(column) for column in columns))


def _decided(row: Row) -> tuple[str, dict[str, float]] | None:
    """The route that a router took, and the probability of each."""
    span = next((s for s in row.view.trace.spans if s.kind == "model" and s.chosen is not None), None)
    if span is None or span.chosen is None:
        return None
    options = {one.name: one.propensity for one in span.candidates}
    known = {name: p for name, p in options.items() if p is not None and 0 <= p <= 1}
    return (span.chosen, known) if len(known) == len(options) and known[span.chosen] > 0 else None


def _assigned(row: Row, arms: Mapping[str, Mapping[str, str | None]]) -> tuple[str, dict[str, float]] | None:
    """The route that an experiment dealt, and the probability of both; None beside other experiments."""
    if len(row.view.trace.assignments) != 1:
        return None
    one = row.view.trace.assignments[0]
    routes = arms[one.experiment]
    mine = routes[one.arm]
    others = [route for arm, route in routes.items() if arm != one.arm]
    if mine is None or len(others) != 1 or others[0] is None or others[0] == mine:
        return None
    if not 0 < one.propensity < 1:
        return None
    return mine, {mine: one.propensity, others[0]: 1 - one.propensity}
