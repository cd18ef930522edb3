"""`noria grounding report`: a page of one model, or a board of several.

No face and no person's rating is on any page: aggregates only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import ConfigError
from noria.core.files import output_path, write_atomic
from noria.core.pages.charts import Figure
from noria.core.pages.report import write_page
from noria.grounding.corpus.types import CATEGORIES, SHORT
from noria.grounding.scoring.config import ScoreSettings
from noria.grounding.scoring.rates import BY_CATEGORY, BY_TRAIT, RATES
from noria.grounding.verbs.options import OutputPath, SourceOptions
from noria.grounding.verbs.tables import Scores, cell, confidence, figure_of, gap_lines, percent, summary
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption


class ReportConfig(ScoreSettings, SourceOptions, OutputOption):
    """Settings of `noria grounding report`."""

    sources: Annotated[list[Path], Argument()] = Field(description="Run folders, or files of predictions.")
    output: OutputPath = Field(None, description="Page to write (default: report.html in the first run).")


@make_command(ReportConfig, extra="grounding")
def command(config: ReportConfig) -> None:
    """Figures with intervals, references, thresholds and comparisons on one page."""
    result, path = run(config)
    for score in result["scores"]:
        for line in gap_lines(score):
            click.echo(f"{score['name']}: {line}", err=True)
    if len(result["scores"]) > 1 and result["comparison"] is None:
        click.echo("noria: warning: the models were asked different questions, so none is compared", err=True)
    click.echo(f"report  {path}")


def run(config: ReportConfig) -> tuple[dict[str, Any], Path]:
    """Write a page of one model or a board of several, and its data as JSON beside it.

    Raises:
        ConfigError: models asked about different videos, or no place for the page.
    """
    import numpy as np

    from noria.grounding.results.scores import about, asked_alike, compare_sources, shared_keys
    from noria.grounding.results.sources import open_source
    from noria.grounding.scoring.evaluation import evaluate
    from noria.grounding.scoring.intervals import cluster_weights

    settings = config.part(ScoreSettings)
    sources = [
        open_source(path, data=config.data, judge=config.judge, tags=config.reasoning_tags)
        for path in config.sources
    ]
    if config.output is None and not config.sources[0].is_dir():
        raise ConfigError("a file has no folder for its page", where="--output", mend="give it")
    path = output_path(config.output) if config.output else config.sources[0] / "report.html"
    if path.suffix == ".json":
        mend = "give a name such as board.html"
        raise ConfigError("the page's figures are written beside it as .json", where="--output", mend=mend)
    keys = shared_keys(sources)
    models = [source.scored(keys, settings) for source in sources]
    generator = np.random.default_rng(settings.seed)
    weights = cluster_weights(models[0].truth.sources, settings.draws, generator)
    scores = [
        about(source) | evaluate(model, settings, weights=weights)
        for source, model in zip(sources, models, strict=True)
    ]
    several = len(sources) > 1 and asked_alike(sources, keys)
    result = {"scores": scores, "comparison": compare_sources(sources, settings) if several else None}
    write_atomic(path.with_suffix(".json"), json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_board(path, result)
    return result, path


# -- the page ---------------------------------------------------------------------------------------------------------

MEANINGS = (
    "T1 and T3 are shares of levels and of answers that are right, T2 the judge's mean of 1 to 10. PR: of the videos "
    "rated rightly, the share whose cues were not found (right for the wrong reason). CR: of those, the share "
    "with poor reasons. IR: of the videos whose cues were found, the share rated wrongly. HR: right in all three. "
    "Brackets are {level} intervals of a bootstrap over source videos. What was not answered is wrong."
)


def write_board(path: Path, results: Mapping[str, Any]) -> None:
    """Write a page of one model, or a board of several, from what `run` gives.

    Raises:
        RunError: the disk refuses.
    """
    scores: Scores = results["scores"]
    first = scores[0]
    counts = first["counts"]
    by_category = _columns("Accuracy by category", scores, ("T3", "T3 grounding", *BY_CATEGORY))
    sections: list[tuple[str, Sequence[Figure | str]]] = [
        ("Results", [summary(scores), *_picture(scores)]),
        ("Grounding by category", [by_category, *_categories(scores)]),
        ("Rating by trait", [_columns("Accuracy by trait", scores, BY_TRAIT)]),
        ("The eight cells", [_cells(scores)]),
        ("References and chance", [_references(scores)]),
        ("Thresholds", _thresholds(scores)),
    ]
    if results.get("comparison"):
        sections.append(("Comparisons", _comparison(results["comparison"])))
    sections.append(("How it was asked and read", [_settings(scores)]))
    title = first["name"] if len(scores) == 1 else f"{len(scores)} models: right, and for the right reason?"
    intro = (
        f"{counts['videos']:,} videos of {counts['sources']:,} sources, {counts['questions']:,} questions. "
        + MEANINGS.format(level=confidence(first))
        + "".join(f"\n\n{score['name']}: {line}." for score in scores for line in gap_lines(score))
        + "\n\nFigures are about models, not about people; nothing on this page may be used to assess a person."
    )
    write_page(path, title, sections, intro=intro, footer="Made by noria grounding.")


def _picture(scores: Scores) -> list[Figure]:
    """Rating against prejudice, the plane in which right for the right reason is a corner."""
    import altair as alt

    points = []
    for score in scores:
        figures = {name: figure_of(score, name) for name in ("T1", "PR")}
        if any(figure.get("value") is None for figure in figures.values()):
            continue
        point = {"model": score["name"]}
        for name, figure in figures.items():
            for place, end in ((name, "value"), (f"{name} low", "low"), (f"{name} high", "high")):
                if figure.get(end) is not None:
                    point[place] = 100 * figure[end]
        points.append(point)
    if not points:
        return []
    base = alt.Chart(alt.Data(values=points)).encode(color=alt.Color("model:N", title=None))
    x = alt.X("T1:Q", title="rating right, %", scale=alt.Scale(domain=[0, 100]))
    y = alt.Y("PR:Q", title="prejudice rate, % (lower is better)", scale=alt.Scale(domain=[0, 100]))
    dots = base.mark_point(filled=True, size=80).encode(x=x, y=y, tooltip=["model:N", "T1:Q", "PR:Q"])
    across = base.mark_rule(strokeWidth=2).encode(x="T1 low:Q", x2="T1 high:Q", y="PR:Q")
    up = base.mark_rule(strokeWidth=2).encode(x="T1:Q", y="PR low:Q", y2="PR high:Q")
    chart = (across + up + dots).properties(width="container", height=320)
    caption = "The lower right corner is right for the right reason."
    return [Figure.chart("Rating against prejudice", chart, caption)]


def _columns(title: str, scores: Scores, names: Sequence[str]) -> Figure:
    """A row a model, a column a figure."""
    header = ["model", *(f"{name.removeprefix('T3 ').removeprefix('T1 ')}, %" for name in names)]
    return Figure.table(title, header, [[s["name"], *(cell(s, name) for name in names)] for s in scores])


def _categories(scores: Scores) -> list[Figure]:
    """Shares right by category, with their intervals."""
    import altair as alt

    values = [
        {
            "model": score["name"],
            "category": name.removeprefix("T3 "),
            "share": figure["value"],
            "low": figure["low"],
            "high": figure["high"],
        }
        for score in scores
        for name in BY_CATEGORY
        if (figure := figure_of(score, name)).get("value") is not None
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
    chart = (bars + dots + rule).properties(width="container", height=height)
    return [Figure.chart("Share right by category", chart, "The dashed line is a guess among six options.")]


def _cells(scores: Scores) -> Figure:
    names = list(scores[0]["table"])
    return Figure.table(
        "Videos by what they passed",
        ["model", *names],
        [[s["name"], *(s["table"][name] for name in names)] for s in scores],
        "r1 the rating, r2 the reasons, r3 the grounding. Empty where nobody judged the reasons.",
    )


REFERENCES = {
    "T1_constant": "one level for all: T1",
    "r1_constant": "one level for all: passes r1",
    "T3_guess": "a guess: T3",
    "T3_letter": "the best single letter: T3",
    "r3_guess": "a guess passes r3",
    "PR_guess": "a guess: PR",
    "PR_guess_here": "a guess: PR on what the model rates rightly",
    "PR_avoided": "share of a guess's PR that the model avoids",
}


def _references(scores: Scores) -> Figure:
    rows = [[words, *(s["references"].get(key) for s in scores)] for key, words in REFERENCES.items()]
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


def _thresholds(scores: Scores) -> list[Figure]:
    """PR and HR over the threshold of the grounding, and the settings of the sweep."""
    import altair as alt

    figures = []
    for rate in ("PR", "HR"):
        values = [
            {"model": score["name"], "threshold": x, "rate": row[rate]}
            for score in scores
            for curve in score["curves"]
            if curve["of"] == "grounding"
            for x, row in curve["points"]
            if row[rate] is not None
        ]
        if values:
            chart = (
                alt.Chart(alt.Data(values=values))
                .mark_line(interpolate="step-before")
                .encode(
                    x=alt.X("threshold:Q", title="threshold of grounding"),
                    y=alt.Y("rate:Q", title=rate, scale=alt.Scale(domain=[0, 1])),
                    color=alt.Color("model:N", title=None),
                    tooltip=["model:N", "threshold:Q", "rate:Q"],
                )
                .properties(width="container", height=240)
            )
            figures.append(Figure.chart(f"{rate} by the threshold of grounding", chart))
    keys = ("value", "low", "high")
    sweep = Figure.table(
        f"The different settings of the sweep: {scores[0]['name']}",
        ["θ1/θ2/θ3", *(f"{rate}, %" for rate in RATES)],
        [
            [row["theta"], *(percent(dict(zip(keys, row[rate], strict=True))) for rate in RATES)]
            for row in scores[0]["sweep"]
        ],
        "Of the 27 settings of the paper those that are different rules for these videos.",
    )
    return [*figures, sweep]


def _comparison(results: Mapping[str, Any]) -> list[Figure | str]:
    blocks: list[Figure | str] = [
        Figure.table(
            f"{pair['first']} against {pair['second']}",
            ["figure", pair["first"], pair["second"], "difference", "p (Holm)"],
            [[r["name"], r["first"], r["second"], _signed(r), r["adjusted"]] for r in pair["rows"]],
            "Resampled together by source. PR fair is over the videos that both rate rightly.",
        )
        for pair in results["pairs"]
    ]
    for name, pairs in results["family"].items():
        if len(pairs) > 1:
            title = f"{name}: p of all pairs together (max-T)"
            blocks.append(Figure.table(title, ["pair", "p"], [list(p) for p in pairs.items()]))
    if results["rgm"]:
        rows = [[name, value] for name, value in results["rgm"].items()]
        words = (
            "½ (rank in T2 + rank in T3) − rank in T1; positive: its rating ranks better than its reasons."
        )
        blocks.append(Figure.table("Rating-grounding misalignment", ["model", "RGM"], rows, words))
    return blocks


def _signed(row: Mapping[str, Any]) -> str | None:
    if row["difference"] is None:
        return None
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _settings(scores: Scores) -> Figure:
    """Table of how each model was asked and read, and what it left open."""
    rows = []
    for score in scores:
        run, counts, settings = score.get("run") or {}, score["counts"], score["settings"]
        rows.append(
            {
                "model": score["name"],
                "protocol": run.get("protocol"),
                "control": run.get("control"),
                "judgement": score.get("judged") or None,
                "bins, polarity": f"{settings['bins']}, {settings['polarity']}",
                "levels missing (leniently read)": _both(counts, "levels_missing"),
                "answers missing (leniently read)": _both(counts, "answers_missing"),
                "videos without answers": f"{score['coverage']['absent']} of {score['coverage']['videos']}",
                "rationales missing": counts["rationales_missing"],
                "judgements missing": counts["judgements_missing"],
                "T3 leniently read, %": None
                if score["lenient"]["T3"] is None
                else 100 * score["lenient"]["T3"],
            }
        )
    return Figure.table("Settings and gaps", list(rows[0]), [list(row.values()) for row in rows])


def _both(counts: Mapping[str, int], name: str) -> str:
    return f"{counts[name]} ({counts[f'{name}_lenient']})"
