"""The pages that scores and audits leave behind. No face and no person's rating is on any of them: aggregates only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.grounding.corpus.types import CATEGORIES, LETTERS, SHORT, TRAITS
from noria.grounding.scoring.evaluation import BY_CATEGORY, BY_TRAIT, SUMMARY

__all__ = ["write_audit_page", "write_board"]

Rows = list[dict[str, Any]]
Section = tuple[str, Sequence[Figure | str]]

MEANINGS = (
    "T1 and T3 are shares of levels and of answers that are right, T2 the judge's mean of 1 to 10. PR: of the videos "
    "rated rightly, the share whose cues were not found (right for the wrong reason). CR: of those, the share "
    "with poor "
    "reasons. IR: of the videos whose cues were found, the share rated wrongly. HR: right in all three. Brackets "
    "are 95 % "
    "intervals of a bootstrap over source videos. What was not answered is wrong."
)


def write_board(path: Path, results: Mapping[str, Any]) -> None:
    """Write a page of one model, or a board of several, from what `report` found.

    Raises:
        RunError: the disk refuses.
    """
    scores: Rows = results["scores"]
    first = scores[0]
    counts = first["counts"]
    sections: list[Section] = [
        ("Results", [_summary(scores), *_picture(scores)]),
        (
            "Grounding by category",
            [
                _columns("Accuracy by category", scores, ("T3", "T3 grounding", *BY_CATEGORY)),
                *_categories(scores),
            ],
        ),
        ("Rating by trait", [_columns("Accuracy by trait", scores, BY_TRAIT)]),
        ("The eight cells", [_cells(scores)]),
        ("References and chance", [_references(scores)]),
        ("Thresholds", _thresholds(scores)),
    ]
    if results.get("comparison"):
        sections.append(("Comparisons", _comparison(results["comparison"])))
    sections.append(("How it was asked and read", [_asked(scores)]))
    title = first["name"] if len(scores) == 1 else f"{len(scores)} models: right, and for the right reason?"
    intro = (
        f"{counts['videos']:,} videos of {counts['sources']:,} sources, {counts['questions']:,} questions. "
        + MEANINGS
        + "\n\nFigures are about models, not about people; nothing on this page may be used to assess a person."
    )
    write_page(path, title, sections, intro=intro, footer="Made by noria grounding.")


def _of(score: Mapping[str, Any], name: str) -> dict[str, Any]:
    return next((f for f in score["figures"] if f["name"] == name), {})


def percent(figure: Mapping[str, Any], *, scale: float = 100.0, digits: int = 1) -> str | None:
    """`56.2 [51.0, 61.3]`; None where undefined."""
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return None
    text = f"{scale * value:.{digits}f}"
    return (
        text
        if low is None or high is None
        else f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    )


def cell(score: Mapping[str, Any], name: str) -> str | None:
    """A figure as a table shows it: shares in per cent, MAE and T2 as they are."""
    plain = name in ("MAE", "T2")
    return percent(_of(score, name), scale=1.0 if plain else 100.0, digits=2 if plain else 1)


def _summary(scores: Rows) -> Figure:
    ordered = sorted(scores, key=lambda s: -(_of(s, "HR").get("value") or _of(s, "T3").get("value") or 0))
    rows = [[s["name"], *(cell(s, name) for name in SUMMARY)] for s in ordered]
    names = ["model", *(f"{n}, %" if n not in ("MAE", "T2") else n for n in SUMMARY)]
    note = "Higher is better for T1, T2, T3 and HR, lower for MAE, PR, CR and IR. PR linked asks, for each trait rated "
    return Figure.table(
        "All figures", names, rows, note + "rightly, about the questions on that trait alone."
    )


def _picture(scores: Rows) -> list[Figure]:
    """Rating against prejudice, the plane in which right for the right reason is a corner."""
    import altair as alt

    points = [
        {
            "model": s["name"],
            **{k: 100 * _of(s, n)[e] for k, n, e in PLACES if _of(s, n).get(e) is not None},
        }
        for s in scores
        if _of(s, "T1").get("value") is not None and _of(s, "PR").get("value") is not None
    ]
    if not points:
        return []
    base = alt.Chart(alt.Data(values=points)).encode(color=alt.Color("model:N", title=None))
    x = alt.X("T1:Q", title="rating right, %", scale=alt.Scale(domain=[0, 100]))
    y = alt.Y("PR:Q", title="prejudice rate, % (lower is better)", scale=alt.Scale(domain=[0, 100]))
    dots = base.mark_point(filled=True, size=80).encode(x=x, y=y, tooltip=["model:N", "T1:Q", "PR:Q"])
    across = base.mark_rule(strokeWidth=2).encode(x="T1 low:Q", x2="T1 high:Q", y="PR:Q")
    up = base.mark_rule(strokeWidth=2).encode(x="T1:Q", y="PR low:Q", y2="PR high:Q")
    chart = (across + up + dots).properties(width="container", height=320)
    return [
        Figure.chart(
            "Rating against prejudice", chart, "The lower right corner is right for the right reason."
        )
    ]


PLACES = (
    ("T1", "T1", "value"),
    ("T1 low", "T1", "low"),
    ("T1 high", "T1", "high"),
    ("PR", "PR", "value"),
    ("PR low", "PR", "low"),
    ("PR high", "PR", "high"),
)


def _columns(title: str, scores: Rows, names: Sequence[str]) -> Figure:
    rows = [[s["name"], *(cell(s, name) for name in names)] for s in scores]
    return Figure.table(
        title, ["model", *(f"{name.removeprefix('T3 ').removeprefix('T1 ')}, %" for name in names)], rows
    )


def _categories(scores: Rows) -> list[Figure]:
    import altair as alt

    values = [
        {
            "model": s["name"],
            "category": name.removeprefix("T3 "),
            "share": f["value"],
            "low": f["low"],
            "high": f["high"],
        }
        for s in scores
        for name in BY_CATEGORY
        if (f := _of(s, name)) and f["value"] is not None
    ]
    if not values:
        return []
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("category:N", title=None, sort=[SHORT[c] for c in CATEGORIES]),
        yOffset="model:N",
        color=alt.Color("model:N", title=None),
    )
    dots = base.mark_point(filled=True, size=60).encode(
        x=alt.X("share:Q", title="share right", scale=alt.Scale(domain=[0, 1])),
        tooltip=["model:N", "category:N", "share:Q", "low:Q", "high:Q"],
    )
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    rule = alt.Chart(alt.Data(values=[{"x": 1 / 6}])).mark_rule(strokeDash=[4, 4]).encode(x="x:Q")
    height = max(220, 7 * (14 * len(scores) + 8))
    return [
        Figure.chart(
            "Share right by category",
            (bars + dots + rule).properties(width="container", height=height),
            "The dashed line is a guess among six options.",
        )
    ]


def _cells(scores: Rows) -> Figure:
    names = list(scores[0]["table"])
    rows = [[s["name"], *(s["table"][name] for name in names)] for s in scores]
    return Figure.table(
        "Videos by what they passed",
        ["model", *names],
        rows,
        "r1 the rating, r2 the reasons, r3 the grounding. Empty where nobody judged the reasons.",
    )


def _references(scores: Rows) -> Figure:
    lines = (
        ("T1_constant", "one level for all: T1"),
        ("r1_constant", "one level for all: passes r1"),
        ("T3_guess", "a guess: T3"),
        ("T3_letter", "the best single letter: T3"),
        ("r3_guess", "a guess passes r3"),
        ("PR_guess", "a guess: PR"),
        ("PR_guess_here", "a guess: PR on what the model rates rightly"),
        ("PR_avoided", "share of a guess's PR that the model avoids"),
    )
    rows = [[words, *(s["references"].get(key) for s in scores)] for key, words in lines]
    rows += [["lift HR / (P1 P2 P3)", *(s["association"]["lift"] for s in scores)]]
    rows += [["φ of r1 and r3", *(s["association"]["phi"] for s in scores)]]
    rows += [["σ of letters, % (of the right ones)", *(_sigma(s["positional_bias"]) for s in scores)]]
    return Figure.table(
        "What says nothing about a model",
        ["", *(s["name"] for s in scores)],
        rows,
        "Shares unless it says otherwise.",
    )


def _sigma(bias: Mapping[str, float | None]) -> str | None:
    if bias["sigma"] is None or bias["of_truth"] is None:
        return None
    return f"{bias['sigma']:.1f} ({bias['of_truth']:.1f})"


def _thresholds(scores: Rows) -> list[Figure]:
    import altair as alt

    figures = []
    for rate, of in (("PR", "grounding"), ("HR", "grounding")):
        values = [
            {"model": s["name"], "threshold": x, "rate": row[rate]}
            for s in scores
            for curve in s["curves"]
            if curve["of"] == of
            for x, row in curve["points"]
            if row[rate] is not None
        ]
        if values:
            chart = (
                alt.Chart(alt.Data(values=values))
                .mark_line(interpolate="step-before")
                .encode(
                    x=alt.X("threshold:Q", title=f"threshold of {of}"),
                    y=alt.Y("rate:Q", title=rate, scale=alt.Scale(domain=[0, 1])),
                    color=alt.Color("model:N", title=None),
                    tooltip=["model:N", "threshold:Q", "rate:Q"],
                )
                .properties(width="container", height=240)
            )
            figures.append(Figure.chart(f"{rate} by the threshold of {of}", chart))
    first = scores[0]["sweep"]
    keys = ("value", "low", "high")
    rows = [
        [
            row["theta"],
            *(percent(dict(zip(keys, row[rate], strict=True))) for rate in ("PR", "CR", "IR", "HR")),
        ]
        for row in first
    ]
    figures.append(
        Figure.table(
            f"The different settings of the sweep: {scores[0]['name']}",
            ["θ1/θ2/θ3", "PR, %", "CR, %", "IR, %", "HR, %"],
            rows,
            "Of the 27 settings of the paper those that are different rules for these videos.",
        )
    )
    return figures


def _comparison(found: Mapping[str, Any]) -> list[Figure | str]:
    blocks: list[Figure | str] = []
    for pair in found["pairs"]:
        rows = [
            [
                row["name"],
                row["first"],
                row["second"],
                _signed(row),
                row["adjusted"],
            ]
            for row in pair["rows"]
        ]
        blocks.append(
            Figure.table(
                f"{pair['first']} against {pair['second']}",
                ["figure", pair["first"], pair["second"], "difference", "p (Holm)"],
                rows,
                "Resampled together by source. PR fair is over the videos that both rate rightly.",
            )
        )
    for name, pairs in found["family"].items():
        if len(pairs) > 1:
            title = f"{name}: p of all pairs together (max-T)"
            blocks.append(Figure.table(title, ["pair", "p"], [list(p) for p in pairs.items()]))
    if found["rgm"]:
        rows = [[name, value] for name, value in found["rgm"].items()]
        words = (
            "½ (rank in T2 + rank in T3) − rank in T1; positive: its rating ranks better than its reasons."
        )
        blocks.append(Figure.table("Rating-grounding misalignment", ["model", "RGM"], rows, words))
    return blocks


def _signed(row: Mapping[str, Any]) -> str | None:
    if row["difference"] is None:
        return None
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _asked(scores: Rows) -> Figure:
    rows = []
    for s in scores:
        run, c, settings = s.get("run") or {}, s["counts"], s["settings"]
        rows.append(
            [
                s["name"],
                run.get("protocol"),
                run.get("control"),
                s.get("judged") or None,
                f"{settings['bins']}, {settings['polarity']}",
                f"{c['levels_missing']} ({c['levels_missing_lenient']})",
                f"{c['answers_missing']} ({c['answers_missing_lenient']})",
                c["rationales_missing"],
                c["judgements_missing"],
                None if s["lenient"]["T3"] is None else 100 * s["lenient"]["T3"],
            ]
        )
    header = [
        "model",
        "protocol",
        "control",
        "judgement",
        "bins, polarity",
        "levels missing (leniently read)",
    ]
    header += [
        "answers missing (leniently read)",
        "rationales missing",
        "judgements missing",
        "T3 leniently read, %",
    ]
    return Figure.table("Settings and gaps", header, rows)


# -- the audit --------------------------------------------------------------------------------------------------------


def write_audit_page(path: Path, found: Mapping[str, Any]) -> None:
    """Write the page of an audit.

    Raises:
        RunError: the disk refuses.
    """
    leaks, boundaries, polarity, constant = (
        found[key] for key in ("leaks", "boundaries", "polarity", "constant")
    )
    words = [
        ("Always Medium: T1", constant["T1"]),
        ("Always Medium: passes the rating", constant["r1"]),
        ("Stems that name a level", leaks["stems"]),
        ("… and it is right", leaks["stems_right"]),
        ("Levels told by stems or options", leaks["pairs"]),
        ("… and they are right", leaks["pairs_right"]),
        ("T1 of reading them, else Medium", leaks["T1_of_reading_them"]),
        ("Scores on which the two binnings differ", boundaries["binnings_differ"]),
        ("Analyses whose level is not their score's", boundaries["analyses_disagree"]),
        ("Questions with an option over 15 % off the mean length", found["lengths"]["rule_broken_share"]),
        ("Questions that are there twice", found["duplicates"]["questions_repeated"]),
    ]
    sections: list[Section] = [
        ("Findings", [Figure.table("Findings", ["", "value"], [list(row) for row in words])])
    ]
    if found["problems"]:
        rows = [list(row) for row in found["problems"].items()]
        sections.append(("Faults of records", [Figure.table("Faults", ["kind", "how many"], rows)]))
    letters = [[name, *row["counts"], row["p"], row["always_best"]] for name, row in found["letters"].items()]
    header = ["category", *LETTERS, "p (even)", "best letter"]
    sections.append(("Letters", [Figure.table("Right letters", header, letters)]))
    if found["blind"]:
        sections.append(("Who answers without seeing", _blind(found["blind"])))
    if polarity["correlations"]:
        rows = [[t, polarity["correlations"].get(t)] for t in TRAITS if t in polarity["correlations"]]
        rows.append(["smiles in the observations", polarity["smiles"]])
        sections.append(
            (
                "Polarity of neuroticism",
                [
                    Figure.table("Correlation of the neuroticism score", ["with", "r"], rows),
                    f"Verdict: {polarity['verdict'].replace('_', ' ')}. Neuroticism goes against the other four "
                    "in people "
                    "and raters; a score that goes with them, and with smiles, looks like emotional stability.",
                ],
            )
        )
    clean = found["clean"]
    if found.get("ladder"):
        sections.append(("Readers that see nothing", [_summary(found["ladder"])]))
    rules = "they name no level, and their options are within 15 % of their mean length"
    if found["blind"]:
        rules += "; fewer than three of five blind classifiers answer them"
    intro = (
        f"{found['videos']:,} videos, {found['questions']:,} questions, of which {clean['questions']:,} are clean: "
        f"{rules}. `clean.json` lists them; score on them with --subset."
    )
    write_page(
        path,
        "Audit of the questions and labels",
        sections,
        intro=intro,
        footer="Made by noria grounding audit.",
    )


def _blind(found: Mapping[str, Any]) -> list[Figure | str]:
    auditors = list(next(iter(found["accuracy"].values())))
    rows = [
        [name, found["questions"][name], *(None if v is None else 100 * v for v in row.values())]
        for name, row in found["accuracy"].items()
    ]
    text = (
        "Accuracy in per cent of classifiers that read questions only, cross-validated with sources kept together; a "
        "guess is 16.7. They learn from the set's own statistics, so they bound artefacts that can be exploited."
    )
    blocks: list[Figure | str] = [
        Figure.table("Blind classifiers", ["category", "questions", *auditors], rows, text)
    ]
    if all(value is None for value in found["accuracy"]["all"].values()):
        return [*blocks, "There are too few questions to train on."]
    solved = f"{found['artefact_solvable']:,} questions are answered by at least three of the first five."
    return [*blocks, solved]
