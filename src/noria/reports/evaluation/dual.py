"""The dual-path evaluation of one report by judges: ten metrics over an immutable text, or in the released order."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.core.chat import Answer, ChatModel, ChatRequest, Image, Outcome
from noria.core.errors import NoriaError
from noria.core.files import inside, read_bytes
from noria.core.judging import krippendorff_alpha
from noria.reports.document.parsing import CitedSentence, ParsedFigure, ParsedReport, parse_report
from noria.reports.evaluation import judged, metrics, official
from noria.reports.evaluation.automatic import measure_figures
from noria.reports.evidence.records import digest
from noria.reports.evidence.support import Verdict
from noria.reports.figures.pictures import open_picture, png_of

CONTRADICTIONS = (
    "List every pair of statements in the report that contradict each other, in numbers, facts or logic."
)
CHART = "List every number or statement of the chart that contradicts its sources. Quote the caption or the sources."
SUPPORT = (
    'Is the fact stated by its source? Answer {"label": '
    '"supported"}, {"label": "partial"} or {"label": "unsupported"}, '
    'with "quote": the words of the source that decide it.'
)

VOTES = {"supported": 1.0, "partial": 0.5, "unsupported": 0.0}


class Counted:
    """A judge whose questions are counted.

    Args:
        judge: the judge.

    Attributes:
        put, unanswered: questions that were put, and those of them without an answer.
        reason: why the first of these has none.
    """

    def __init__(self, judge: ChatModel) -> None:
        self.judge, self.put, self.unanswered, self.reason = judge, 0, 0, ""

    async def ask(self, request: ChatRequest) -> Outcome:
        """Put a question to the judge."""
        outcome = await self.judge.ask(request)
        self.put += 1
        if not isinstance(outcome, Answer):
            self.unanswered += 1
            words = " ".join(str(getattr(outcome, "message", "") or getattr(outcome, "text", "")).split())
            self.reason = self.reason or f"{type(outcome).__name__.lower()}: {words}"[:200]
        return outcome


async def evaluate_judged(
    markdown: str,
    judges: Sequence[ChatModel],
    *,
    folder: Path | None,
    sources: Mapping[int, str],
    checklist: Sequence[str],
    repeats: int = 1,
    compat: bool = False,
) -> dict[str, Any]:
    """Score a report by all ten metrics.

    Args:
        markdown: the report.
        judges: chat models; scores are medians over judges and repeats.
        folder: folder of its pictures.
        sources: text of each reference that could be read, by number.
        checklist: questions of the task.
        repeats: times that each rubric is asked of each judge.
        compat: whether to follow the released order, rewrites included; by default the text is the same for all.

    Returns:
        `scores` by metric (None where undefined), `totals`, `details`, `agreement`, the digest of the text before and
        after: equal unless `compat`; and `questions`: how many were put and how many had no answer, with the first
        reason.
    """
    counted = [Counted(judge) for judge in judges]
    judges = counted
    parsed = parse_report(markdown)
    details: dict[str, Any] = {}
    scores: dict[str, float | None] = {}
    scores["CS"], details["CS"] = await _support(parsed, judges, sources, compat)
    pictures = _pictures(parsed.figures, folder)
    scores["FQ"], details["FQ"] = await _figure_quality(parsed, judges, folder, pictures)
    scores["CSC"], details["CSC"] = await _charts(parsed, judges, sources, pictures, compat)
    scores["FCQ"], details["FCQ"], captions = await _per_figure("FCQ", parsed, judges, pictures, repeats)
    scores["FCI"], details["FCI"], _ = await _per_figure("FCI", parsed, judges, pictures, repeats)
    unread = [f.path for f in parsed.figures if f.path not in pictures]
    text = official.rewrite_captions(markdown, captions, unread) if compat else markdown
    scores["MC"], details["MC"] = await _composition(parse_report(text), judges, text, repeats)
    for name in ("WQ", "ADB"):
        rated = await judged.score_rubrics(judges, name, [judged.cut(text)], repeats=repeats)
        scores[name] = metrics.rubric_score(judged.median_scores(rated), list(judged.rubrics()[name]))
        details[name] = rated
    scores["FLC"], details["FLC"] = await _contradictions(judges, text)
    items = [[await judged.score_item(judge, question, text) for question in checklist] for judge in judges]
    medians = [_median([row[n] for row in items]) for n in range(len(checklist))]
    scores["IA"], details["IA"] = metrics.instruction_alignment(medians), {"items": medians, "judges": items}
    return {
        "scores": {name: scores[name] for name in metrics.METRICS},
        "totals": metrics.totals(scores),
        "details": details,
        "agreement": _agreement(items, details),
        "text": {"before": digest(markdown), "after": digest(text)},
        "compat": list(official.DEFECTS) if compat else [],
        "questions": {
            "put": sum(judge.put for judge in counted),
            "unanswered": sum(judge.unanswered for judge in counted),
            "reason": next((judge.reason for judge in counted if judge.reason), ""),
        },
    }


async def _support(
    parsed: ParsedReport, judges: Sequence[ChatModel], sources: Mapping[int, str], compat: bool
) -> tuple[float | None, Any]:
    """CS: facts with their sources; a fact without a readable source is unknown, and no judge is asked."""
    facts = distinct_facts([s for s in parsed.sentences if s.cites])
    labels: list[Verdict] = []
    unquoted = 0
    for fact in facts:
        texts = [sources[n] for n in fact.cites if n in sources]
        if not texts:
            labels.append("unknown")
            continue
        votes = []
        for judge in judges:
            reply = await judged.ask_json(judge, SUPPORT, [fact.text, judged.cut("\n\n".join(texts))])
            value = reply.value if isinstance(reply.value, dict) else {}
            label = value.get("label")
            if label not in VOTES:
                continue
            if label != "unsupported" and not _quoted(str(value.get("quote", "")), texts):
                unquoted += 1
                continue
            votes.append(VOTES[label])
        labels.append(_verdict(votes))
    score = metrics.citation_support(labels, unknown="zero" if compat else "excluded")
    return score, {
        "facts": len(facts),
        "labels": {name: labels.count(name) for name in ("supported", "partial", "unsupported", "unknown")},
        "unknown_as_zero": metrics.citation_support(labels, unknown="zero"),
        "AEC": metrics.effective_citations(labels),
        "quotes_dropped": unquoted,
    }


def _quoted(quote: str, texts: Sequence[str]) -> bool:
    """Whether a quote occurs in one of the sources."""
    words = judged.squeezed(quote)
    return bool(words) and any(words in judged.squeezed(text) for text in texts)


def _verdict(votes: Sequence[float]) -> Verdict:
    """Lower median of the votes; unknown where there is none."""
    if not votes:
        return "unknown"
    middle = statistics.median_low(votes)
    return "supported" if middle == 1 else "partial" if middle else "unsupported"


def distinct_facts(facts: Sequence[CitedSentence]) -> list[CitedSentence]:
    """Facts without near duplicates among those that cite the same sources, by MinHash bands and not all pairs.

    The release asks a model about every pair of a group, O(m²) requests; here none is asked.
    """
    from noria.reports.evaluation.duplicates import near_duplicates

    dropped: set[int] = set()
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, fact in enumerate(facts):
        groups.setdefault(tuple(sorted(fact.cites)), []).append(place)
    for members in groups.values():
        pairs = near_duplicates([facts[m].text for m in members])
        dropped |= {members[later] for _, later in pairs}
    return [fact for place, fact in enumerate(facts) if place not in dropped]


def _pictures(figures: Sequence[ParsedFigure], folder: Path | None) -> dict[str, bytes]:
    """PNG of each figure that can be opened, by its path."""
    found: dict[str, bytes] = {}
    for figure in figures:
        if folder is None or figure.path.startswith("http"):
            continue
        try:
            found[figure.path] = png_of(
                open_picture(read_bytes(inside(folder, figure.path), limit=64_000_000), figure.path)
            )
        except NoriaError:
            continue
    return found


async def _figure_quality(
    parsed: ParsedReport, judges: Sequence[ChatModel], folder: Path | None, pictures: Mapping[str, bytes]
) -> tuple[float | None, Any]:
    measured = measure_figures(parsed.figures, folder)["images"]
    charts = [figure for figure in parsed.figures if figure.kind == "chart"]
    rated = [
        await judged.score_checks(judges, pictures[f.path]) if f.path in pictures else 0.0 for f in charts
    ]
    known = [value for value in rated if value is not None]
    mean = sum(known) / len(known) if known else None
    score = metrics.figure_quality(measured["official"], measured["count"], mean, len(known))
    return score, {"images": measured, "charts": rated}


async def _charts(
    parsed: ParsedReport,
    judges: Sequence[ChatModel],
    sources: Mapping[int, str],
    pictures: Mapping[str, bytes],
    compat: bool,
) -> tuple[float | None, Any]:
    entries: list[dict[str, Any]] = []
    counts: list[int | None] = []
    for figure in parsed.figures:
        if figure.kind != "chart":
            continue
        texts = "\n\n".join(sources[n] for n in figure.cites if n in sources)
        issues = None
        if texts and figure.path in pictures:
            found = [
                await judged.find_issues(
                    j,
                    CHART,
                    [Image(pictures[figure.path]), figure.caption, judged.cut(texts)],
                    figure.caption + texts,
                )
                for j in judges
            ]
            known = [len(one[0]) for one in found if one is not None]
            issues = statistics.median_low(known) if known else None
        counts.append(issues)
        entries.append(
            {
                "path": figure.path,
                "cited": bool(figure.cites),
                "contradictions": issues or 0,
                "judged": issues is not None,
            }
        )
    if compat:
        return official.official_chart_consistency(entries), entries
    return metrics.chart_source_consistency(counts), entries


async def _per_figure(
    name: str, parsed: ParsedReport, judges: Sequence[ChatModel], pictures: Mapping[str, bytes], repeats: int
) -> tuple[float | None, Any, dict[int, tuple[int, str]]]:
    rated: list[dict[str, int | None] | None] = []
    lowest: dict[int, tuple[int, str]] = {}
    for place, figure in enumerate(parsed.figures, 1):
        words = figure.caption if name == "FCQ" else figure.context
        if not words:
            rated.append(None)
            continue
        material: list[Any] = [
            f"Caption: {figure.caption}",
            *([f"Context: {judged.cut(figure.context)}"] if name == "FCI" else []),
        ]
        if figure.path in pictures:
            material.append(Image(pictures[figure.path]))
        scores = judged.median_scores(await judged.score_rubrics(judges, name, material, repeats=repeats))
        rated.append(scores)
        known = [value for value in scores.values() if value is not None]
        if name == "FCQ" and known and min(known) <= official.LOW_CAPTION:
            reply = await judged.ask_json(
                judges[0], 'Write a better caption. Answer as {"caption": "…"}.', material
            )
            better = reply.value.get("caption") if isinstance(reply.value, dict) else None
            lowest[figure.anchor or place] = (min(known), str(better or ""))
    return (
        metrics.per_figure(rated, list(judged.rubrics()[name])),
        {"figures": rated, "suggestions": lowest},
        lowest,
    )


async def _composition(
    parsed: ParsedReport, judges: Sequence[ChatModel], text: str, repeats: int
) -> tuple[float | None, Any]:
    if not parsed.figures:
        return None, "no figures"
    layout = judged.median_scores(
        await judged.score_rubrics(judges, "MC", [judged.cut(text)], repeats=repeats)
    )["layout"]
    named = [
        one
        for judge in judges
        if (one := await judged.describe_variety(judge, parsed.figures, text)) is not None
    ]
    if not named:
        return None, "no judge named the kinds"
    first = named[0]
    images, charts = (len(set(map(str, first.get(key) or []))) for key in ("image_types", "chart_types"))
    band = metrics.variety_band(first["topic"], images, charts, valid=any(f.cites for f in parsed.figures))
    variety = first.get("variety")
    value = variety if isinstance(variety, int) and not isinstance(variety, bool) else None
    return metrics.composition(layout, value, band), {
        "layout": layout,
        "topic": first["topic"],
        "images": images,
        "charts": charts,
        "band": band,
    }


async def _contradictions(judges: Sequence[ChatModel], text: str) -> tuple[float | None, Any]:
    found = [await judged.find_issues(judge, CONTRADICTIONS, [judged.cut(text)], text) for judge in judges]
    known = [one for one in found if one is not None]
    count = statistics.median_low([len(one[0]) for one in known]) if known else None
    return metrics.consistency(count), {
        "contradictions": count,
        "dropped_quotes": sum(one[1] for one in known),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median_low(known) if known else None


def _agreement(
    items: Sequence[Sequence[float | None]], details: Mapping[str, Any]
) -> dict[str, float | None]:
    """Krippendorff's alpha of the judges over checklist items (ordinal would be tied; interval) and over rubrics."""
    import numpy as np

    def alpha(rows: Sequence[Sequence[float | None]]) -> float | None:
        table = np.array(
            [[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64
        )
        return krippendorff_alpha(table.T, "interval") if table.size and len(rows) > 1 else None

    rated = [list(scores) for name in ("WQ", "ADB") for scores in details[name].values()]
    width = min((len(row) for row in rated), default=0)
    return {"checklist": alpha(items), "rubrics": alpha([[row[n] for row in rated] for n in range(width)])}
