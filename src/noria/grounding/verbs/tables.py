"""Figures of scores as tables show them, on pages and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from noria.core.pages.charts import Figure
from noria.grounding.scoring.rates import SUMMARY
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.grounding.results.sources import Source

Scores: TypeAlias = Sequence[Mapping[str, Any]]
"""What `evaluate` says of each model, with its name."""


def figure_of(score: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A figure by its name; empty where there is none."""
    return next((figure for figure in score["figures"] if figure["name"] == name), {})


def percent(figure: Mapping[str, Any], *, scale: float = 100.0, digits: int = 1) -> str | None:
    """`56.2 [51.0, 61.3]`; None where undefined."""
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return None
    text = f"{scale * value:.{digits}f}"
    if low is None or high is None:
        return text
    return f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def cell(score: Mapping[str, Any], name: str) -> str | None:
    """A figure as a table shows it: shares in per cent, MAE and T2 as they are."""
    plain = name in ("MAE", "T2")
    return percent(figure_of(score, name), scale=1.0 if plain else 100.0, digits=2 if plain else 1)


def share(value: float | None) -> str:
    """A share in per cent; a dash where undefined."""
    return "-" if value is None else f"{100 * value:.1f} %"


def figures_text(scores: Scores) -> str:
    """The main figures for the terminal: a column for one model, a row for each of several."""
    if len(scores) == 1:
        (score,) = scores
        header = ["figure", f"value [{confidence(score)}]", "of"]
        rows = [[name, cell(score, name) or "-", f"{figure_of(score, name)['whole']:g}"] for name in SUMMARY]
        return table([header, *rows])
    return table(
        [["", *SUMMARY], *([s["name"], *(cell(s, name) or "-" for name in SUMMARY)] for s in scores)]
    )


def confidence(score: Mapping[str, Any]) -> str:
    """Confidence of a score's intervals, in words."""
    return f"{100 * score['settings']['level']:g} %"


def gap_lines(score: Mapping[str, Any]) -> list[str]:
    """What the figures of a model do not rest on, a line each; none where nothing is missing."""
    coverage, samples = score["coverage"], score.get("samples")
    lines = []
    if coverage["absent"]:
        lines.append(
            f"videos: {coverage['absent']:,} of {coverage['videos']:,} have no prediction, which counts as wrong"
        )
    if coverage["unknown"]:
        lines.append(f"left out: {coverage['unknown']:,} predictions of videos that the annotations lack")
    if score["judged"] and coverage["judged"] < coverage["rationales"]:
        rest = "rest on those alone" if coverage["judged"] else "are undefined"
        lines.append(
            f"{score['judged']}: {coverage['judged']:,} of {coverage['rationales']:,} rationales are judged; "
            f"T2, CR and HR {rest}"
        )
    if samples and (set(samples["states"]) - {"ok"} or samples["never_asked"]):
        states = [*sorted(samples["states"].items()), ("never asked", samples["never_asked"])]
        told = ", ".join(f"{n:,} {state}" for state, n in states if n)
        lines.append(f"samples: {told}; what was not answered counts as wrong")
    return lines


def first_order_only(source: Source) -> list[str]:
    """A note where a format holds one answer a question, and a run asked in several orders of options."""
    if len(source.sets) < 2:
        return []
    return [f"{source.path}: of {len(source.sets)} orders of options, the first alone is taken"]


def summary(scores: Scores) -> Figure:
    """The main figures for a page, the best model first."""
    ordered = sorted(
        scores, key=lambda s: -(figure_of(s, "HR").get("value") or figure_of(s, "T3").get("value") or 0)
    )
    rows = [[s["name"], *(cell(s, name) for name in SUMMARY)] for s in ordered]
    names = ["model", *(f"{n}, %" if n not in ("MAE", "T2") else n for n in SUMMARY)]
    return Figure.table(
        "All figures",
        names,
        rows,
        "Higher is better for T1, T2, T3 and HR, lower for MAE, PR, CR and IR. PR linked asks, for each trait rated "
        "rightly, about the questions on that trait alone.",
    )
