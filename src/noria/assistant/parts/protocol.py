"""What a part of the pipeline does: it changes how a request is answered, and says why in a span.

A part that is left out is the identity, so that an ablation is a setting. A part that fails leaves the request as it
was: the failure is a span of the trace, and the answer is given all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from noria.core.completions.requests import CompletionRequest
from noria.core.errors import NoriaError
from noria.core.learning.routes.route import Route
from noria.core.traces.ids import Clock, new_id
from noria.core.traces.records import Candidate, Span, SpanError, SpanKind

log = logging.getLogger("noria.serving")


@dataclass(frozen=True)
class Step:
    """One change that a part made to a request, and its reason.

    Attributes:
        name: name of what decided.
        route: how the request is answered from now on.
        scores: score of every option.
        chosen: name of the option that was taken.
        labels: labels of the trace.
        attributes: further JSON values of the span.
        tools: tools that may be called from now on; None changes nothing.
    """

    name: str
    route: Route
    scores: Mapping[str, float]
    chosen: str
    labels: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tools: frozenset[str] | None = None


class Part(Protocol):
    """A part of the pipeline that acts before the answer."""

    kind: SpanKind
    artefact: str

    def apply(self, query: CompletionRequest, route: Route) -> Step | None:
        """Apply the part to a request; None where the part leaves the request as it is.

        Raises:
            NoriaError: it cannot decide; the request goes on as it was.
        """
        ...


@dataclass(frozen=True)
class Prepared:
    """A request after all parts.

    Attributes:
        route: route by which the request is answered.
        steps: what each part did, as spans of the trace.
        labels: labels of the trace, such as the skill.
        tools: tools that may be called; None for all.
    """

    route: Route
    steps: tuple[Span, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    tools: frozenset[str] | None = None


def prepare(query: CompletionRequest, route: Route, parts: Sequence[Part], clock: Clock) -> Prepared:
    """The request after these parts, in their order."""
    prepared = Prepared(route)
    for part in parts:
        began = clock()
        try:
            step = part.apply(query, prepared.route)
        except (NoriaError, ValueError, ArithmeticError, LookupError) as error:
            log.warning("the part %s failed, and the request goes on without it: %s", part.kind, error)
            fault = SpanError("part_failed", "the part could not decide")
            span = Span(
                new_id(began), part.kind, part.kind, began, clock(), artefact=part.artefact, error=fault
            )
            prepared = replace(prepared, steps=(*prepared.steps, span))
            continue
        if step is not None:
            prepared = Prepared(
                step.route,
                (*prepared.steps, _span(part, step, began, clock())),
                {**prepared.labels, **step.labels},
                prepared.tools if step.tools is None else step.tools,
            )
    return prepared


def _span(part: Part, step: Step, began: int, ended: int) -> Span:
    """A decision as a span: all options with their scores, and the certain propensity of a part that never draws."""
    return Span(
        new_id(began), part.kind, step.name, began, ended, artefact=part.artefact,
        candidates=tuple(
            Candidate(name, score, float(name == step.chosen)) for name, score in step.scores.items()
        ),
        chosen=step.chosen, attributes=dict(step.attributes),
    )  # fmt: skip


@dataclass(frozen=True)
class RankContext:
    """For whom, and for what, results are put in order.

    Attributes:
        tool: name of the tool that gave them.
        question: words of the request.
        user: key of the user; None where the request names none.
        labels: labels of the trace, such as the skill.
        at: seconds since 1970 UTC.
    """

    tool: str
    question: str = ""
    user: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    at: float = 0.0


@dataclass(frozen=True)
class Ranking:
    """An order of items.

    Attributes:
        order: places of the items as they were given, the best first; every item once.
        scores: score of each item in that order; fewer where the last ones have none.
        accounts: terms of each score by their name, in that order.
        attributes: further JSON values of the span.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]
    accounts: tuple[tuple[tuple[str, float], ...], ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Ranker(Protocol):
    """A part of the pipeline that acts on a tool's result: it puts items in order, each with its account."""

    name: str
    artefact: str

    def rank(self, items: Sequence[Mapping[str, Any]], context: RankContext) -> Ranking | None:
        """The order of items that have an `id`, and may have `score`, `source` and `features`; None where it has none.

        Raises:
            NoriaError: it cannot decide; the items stay as they are.
        """
        ...


MODULES = {"skills": "noria.assistant.parts.skills", "model-router": "noria.assistant.parts.routing"}
"""Module of each kind of artefact that is a part, in the order in which parts act."""
Opener = Callable[[Path, str, Sequence[str]], Part]
"""Opens a part from the folder of its artefact, its digest and the names of the backends."""


RANKERS = {"plans": "noria.assistant.parts.blending"}
"""Module of each kind of artefact that is a ranker."""


def open_ranker(kind: str, folder: Path, digest: str) -> Ranker:
    """The ranker of an artefact.

    Raises:
        MissingExtra: its extra is not installed. NoriaError: the artefact cannot be used.
    """
    ranker: Ranker = import_module(RANKERS[kind]).open_ranker(folder, digest)
    return ranker


def open_part(kind: str, folder: Path, digest: str, backends: Sequence[str]) -> Part:
    """The part of an artefact.

    Raises:
        MissingExtra: its extra is not installed.
        NoriaError: the artefact cannot be used here.
    """
    opener: Opener = import_module(MODULES[kind]).open_part
    return opener(folder, digest, backends)
