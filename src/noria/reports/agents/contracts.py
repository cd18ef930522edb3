"""Contracts between the stages: the plan, the demands of a request, visual requirements; and repairs by code.

What the paper asks of prompts (S1: two to five body sections, introduction and conclusion of 100 to 300 words without
visuals, at most three visuals a section, word targets that add up) is checked and mended here, before any model is
asked again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from noria.reports.charts.records import KINDS
from noria.reports.document.blocks import LABELS, Language, Missing

VisualKind = Literal["chart", "image"]
MOST_VISUALS = 3
BODY = (2, 5)
EDGE_WORDS = (100, 300)
LEAST_WORDS = 50
NOTES = 6
"""Passages that a section's writer is given."""


class Requirement(msgspec.Struct, frozen=True):
    """A visual that a section needs.

    Attributes:
        id: `C1` for a chart, `I1` for a picture.
        kind: chart or image.
        goal: sub-goal that it serves, in words.
        chart: kind of chart; empty leaves it to the chart maker.
        entities, measures: what it shows, as the corpus names it.
        demanded: words of the request that ask for it; empty where the planner added it.
    """

    id: str
    kind: VisualKind
    goal: str
    chart: str = ""
    entities: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    demanded: str = ""


class SectionPlan(msgspec.Struct, frozen=True):
    """A planned section: title, summary, word target, visuals, and research notes by evidence id."""

    id: str
    title: str
    summary: str = ""
    words: int = 200
    visuals: tuple[Requirement, ...] = ()
    notes: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """An outline, editable before anything is spent.

    Attributes:
        title: title of the report.
        language: language of the report.
        sections: introduction, body, conclusion.
        dropped: visuals that the contract left no room for.
        words: word total that the request names; 0 where it names none.
        queries: queries for the search; empty leaves them to the agents.
    """

    title: str
    language: Language
    sections: tuple[SectionPlan, ...]
    dropped: tuple[Missing, ...] = ()
    words: int = 0
    queries: tuple[str, ...] = ()


def repair_plan(plan: Plan) -> tuple[Plan, list[str]]:
    """Make a plan obey the contract, by code.

    Returns:
        The plan, and what was mended; idempotent, so a mended plan needs no mending.
    """
    notes: list[str] = []
    zh = plan.language == "zh"
    labels = LABELS[plan.language]
    sections = list(plan.sections)
    if not sections or not _is(sections[0], labels["introduction"]):
        sections.insert(0, SectionPlan("intro", labels["introduction"], words=150))
        notes.append("an introduction was added")
    if not _is(sections[-1], labels["conclusion"]):
        sections.append(SectionPlan("end", labels["conclusion"], words=150))
        notes.append("a conclusion was added")
    body = sections[1:-1]
    if len(body) > BODY[1]:
        body = [*body[: BODY[1] - 1], _merged(body[BODY[1] - 1 :])]
        notes.append(f"the body was merged into {BODY[1]} sections")
    dropped = list(plan.dropped)
    body = [_trimmed(section, dropped, zh) for section in body]
    edges = [
        msgspec.structs.replace(s, visuals=(), words=min(max(s.words, EDGE_WORDS[0]), EDGE_WORDS[1]))
        for s in (sections[0], sections[-1])
    ]
    for section in (sections[0], sections[-1]):
        for one in section.visuals:
            dropped.append(
                Missing(
                    one.id,
                    one.goal,
                    "引言和结论中不放图" if zh else "an introduction and a conclusion hold no visuals",
                )
            )
    body = _scaled(body, plan.words - sum(s.words for s in edges)) if plan.words else body
    body = [msgspec.structs.replace(s, visuals=tuple(_known(v) for v in s.visuals)) for s in body]
    mended = [msgspec.structs.replace(s, id=f"s{n}") for n, s in enumerate([edges[0], *body, edges[1]])]
    if len(dropped) > len(plan.dropped):
        notes.append(f"{len(dropped) - len(plan.dropped)} visuals were dropped")
    return msgspec.structs.replace(plan, sections=tuple(mended), dropped=tuple(dropped)), notes


def _is(section: SectionPlan, label: str) -> bool:
    return label.lower() in section.title.lower() or (label == "结论" and "总结" in section.title)


def _known(visual: Requirement) -> Requirement:
    return visual if visual.chart in KINDS else msgspec.structs.replace(visual, chart="")


def _merged(sections: list[SectionPlan]) -> SectionPlan:
    first = sections[0]
    return msgspec.structs.replace(
        first,
        title=" / ".join(section.title for section in sections)[:120],
        words=sum(section.words for section in sections),
        visuals=tuple(v for s in sections for v in s.visuals),
        notes=tuple(dict.fromkeys(n for s in sections for n in s.notes)),
        measures=tuple(dict.fromkeys(m for s in sections for m in s.measures)),
        entities=tuple(dict.fromkeys(e for s in sections for e in s.entities)),
    )


def _trimmed(section: SectionPlan, dropped: list[Missing], zh: bool) -> SectionPlan:
    """Keep three visuals; those that the request demands come first."""
    ordered = sorted(section.visuals, key=lambda v: not v.demanded)
    for visual in ordered[MOST_VISUALS:]:
        dropped.append(
            Missing(
                visual.id,
                visual.goal,
                "每节最多三图" if zh else f"a section holds at most {MOST_VISUALS} visuals",
            )
        )
    return msgspec.structs.replace(section, visuals=tuple(ordered[:MOST_VISUALS]))


def _scaled(body: list[SectionPlan], total: int) -> list[SectionPlan]:
    """Scale word targets so that they add up to a total, to the word, with at least `LEAST_WORDS` a section."""
    if not body or total <= 0:
        return body
    spare = max(0, total - LEAST_WORDS * len(body))
    weights = [max(0, section.words - LEAST_WORDS) for section in body]
    weights = weights if sum(weights) else [1] * len(body)
    ends = [spare * sum(weights[: n + 1]) // sum(weights) for n in range(len(body))]
    sizes = [LEAST_WORDS + end - start for start, end in zip([0, *ends], ends, strict=False)]
    return [msgspec.structs.replace(s, words=size) for s, size in zip(body, sizes, strict=True)]


def requirements(plan: Plan) -> list[Requirement]:
    """Visual requirements of a plan in order."""
    return [visual for section in plan.sections for visual in section.visuals]
