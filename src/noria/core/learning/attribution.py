"""The one cause of each failed answer, in an order such that an outage never edits prose.

A failure has the first cause that there is evidence for: infrastructure, routing, tool, safety, grounding, body, model.
A request that timed out and then got a bad grade failed by the infrastructure, whatever judges say of its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from noria.core.chat.outcomes import FailureKind
from noria.core.judging import Checklist
from noria.core.learning.trust import robust_score
from noria.core.traces.records import Span
from noria.core.traces.store import TraceView

Cause = Literal["infrastructure", "routing", "tool", "safety", "grounding", "body", "model"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
OUTAGES = frozenset(get_args(FailureKind))
"""Kinds of errors of spans that say nothing about what was asked or answered."""
TOOLS = ("tool", "retrieve", "generate")
"""Kinds of spans that call something beside the model that answers."""
ROUTING = ("skill", "model", "plan")
"""Kinds of spans that choose, which are names of corrections, too: `skill` says which skill it should have been."""
NOTHING = "none"
"""Name of the option of a decision that takes nothing."""


@dataclass(frozen=True)
class Attribution:
    """The cause of a failure, and the evidence for it in words of our own."""

    trace: str
    cause: Cause
    evidence: str


def failed(view: TraceView, checklists: Mapping[str, Checklist], *, least_score: float = 0.5) -> bool | None:
    """Whether an answer failed: an error, a bad score, a correction, a bad verdict on safety or of a rule.

    Args:
        view: trace with what was said about it.
        checklists: checklists by digest.
        least_score: score from which an answer is good.

    Returns:
        None where nothing is known about it: it was cancelled, or nobody said anything valid.
    """
    if view.trace.status == "failed":
        return True
    if view.trace.status == "cancelled":
        return None
    if any(path == "safety" or ruled for path, _, ruled in _bad_verdicts(view, checklists)):
        return True
    if any(
        one.kind == "correction" and one.item is None for one in view.feedback
    ):  # it should have been otherwise
        return True
    score = robust_score(view)
    return None if score is None else score < least_score


def attribute(
    view: TraceView, checklists: Mapping[str, Checklist], *, least_score: float = 0.5
) -> Attribution | None:
    """The cause of a failure; None where the answer did not fail, or nothing is known.

    Evidence is an error of a span, a bad verdict on an item whose path names a cause, or a bad rating or a correction
    of a span. A bad score without any has the cause `body` where a skill was in use, else `model`.

    Args:
        view: trace with what was said about it.
        checklists: checklists by digest, by which verdicts are read.
        least_score: score from which an answer is good.
    """
    if not failed(view, checklists, least_score=least_score):
        return None
    evidence = _evidence(view, checklists)
    for cause in CAUSES:
        if cause in evidence:
            return Attribution(view.trace.id, cause, evidence[cause])
    if view.trace.status == "failed":  # with no reason given, and not the text's fault for all we know
        return Attribution(view.trace.id, "infrastructure", "it failed, and no span says why")
    body = _body(view)
    cause = "model" if body is None else "body"
    return Attribution(view.trace.id, cause, "a bad score" if body is None else f"a bad score with {body}")


def attribute_all(
    views: Iterable[TraceView], checklists: Mapping[str, Checklist], *, least_score: float = 0.5
) -> tuple[list[Attribution], dict[str, int]]:
    """The attributions of all failures, and how many traces failed, stood or are not known."""
    counts = {"failed": 0, "stood": 0, "not known": 0}
    found = []
    for view in views:
        verdict = failed(view, checklists, least_score=least_score)
        counts["not known" if verdict is None else "failed" if verdict else "stood"] += 1
        one = attribute(view, checklists, least_score=least_score)
        found += [] if one is None else [one]
    return found, counts


def _evidence(view: TraceView, checklists: Mapping[str, Checklist]) -> dict[Cause, str]:
    """The first evidence for each cause."""
    evidence: dict[Cause, str] = {}
    spans = {span.id: span for span in view.trace.spans}
    for span in spans.values():
        if span.error is None or span.kind == "judge":  # a judge comes after the answer
            continue
        cause = _cause_of_error(span)
        evidence.setdefault(cause, f"{span.kind} {span.name}: {span.error.kind}")
    for path, item, _ in _bad_verdicts(view, checklists):
        if path in CAUSES:
            evidence.setdefault(path, f"a bad verdict on {item}")
    for one in view.feedback:
        bad = one.kind == "correction" or (one.kind == "rating" and one.value is not None and one.value < 0.5)
        if not bad:
            continue
        if one.name in CAUSES:
            evidence.setdefault(one.name, f"feedback on {one.name}")
        elif one.name in ROUTING:
            evidence.setdefault("routing", f"feedback on the {one.name}")
        elif one.span in spans and (named := _cause_of_span(spans[one.span])) is not None:
            evidence.setdefault(named, f"feedback on {spans[one.span].name}")
    return evidence


def _cause_of_error(span: Span) -> Cause:
    assert span.error is not None
    if span.error.kind in OUTAGES:
        return "infrastructure"
    return _cause_of_span(span) or "infrastructure"


def _cause_of_span(span: Span) -> Cause | None:
    """The part that a span belongs to; None for a chat or another step, whose fault can lie anywhere."""
    if span.kind in ROUTING:
        return "routing"
    return "tool" if span.kind in TOOLS else None


def _bad_verdicts(view: TraceView, checklists: Mapping[str, Checklist]) -> list[tuple[str, str, bool]]:
    """Path and id of every item with a bad verdict, and whether a rule said so; unknown checklists say nothing."""
    bad = []
    for judgement in view.judgements:
        checklist = checklists.get(judgement.checklist)
        if checklist is None or judgement.path == "vote":  # the panel's judgement counts
            continue
        items = {item.id: item for item in checklist.items}
        for verdict in judgement.verdicts:
            item = items.get(verdict.item)
            if item is not None and verdict.value not in ("invalid", item.good):
                bad.append((item.path or judgement.path, item.id, judgement.path == "rule"))
    return bad


def _body(view: TraceView) -> str | None:
    """Name of the skill that was in use; None where none was."""
    chosen = next((s.chosen for s in view.trace.spans if s.kind == "skill" and s.chosen is not None), None)
    name = chosen or view.trace.labels.get("skill")
    return None if name == NOTHING else name
