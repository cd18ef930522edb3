"""The pages that training and evaluation leave behind, drawn from what is in the folder alone.

A page can thus be made again at any time, without the model, and also for a run that was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from noria.core.errors import DataError
from noria.core.pages.charts import Figure, lines, series
from noria.core.pages.report import RunPage, RunRecord, run_page, write_page
from noria.distill.types import FIGURES, LADDER_KEY, SIGMA_BINS

Rows = Sequence[Mapping[str, Any]]

_LOSSES = {
    "loss_ca": "CA",
    "loss_dm": "DM",
    "loss_cdm": "CDM",
    "loss_consistency": "consistency",
    "loss_critic": "critic",
}
_HEALTH = {"cos_ca_dm": "cos(CA, DM)", "critic_lag": "critic lag", "std_ratio": "spread ratio"}
_NORMS = {"grad_norm_student": "student", "grad_norm_critic": "critic"}
_PUSHES = {f"push_bin{n}": f"{low:g} to {high:g}" for n, (low, high) in enumerate(pairwise(SIGMA_BINS))}


class RunSettings(BaseModel):
    """The settings of a run that its page names."""

    model: str
    preset: str
    train: str
    batch_size: int
    update_ratio: int


class LadderScore(BaseModel):
    """One arm on one grid, as `ladder.json` and `evaluation.json` hold it."""

    arm: str
    grid: str
    sigmas: list[float]
    figures: dict[str, Annotated[float, Field(allow_inf_nan=False)] | None]
    missing: dict[str, str] = {}


class LadderFile(BaseModel):
    """Content of `ladder.json` and `evaluation.json`, as far as a page shows it."""

    name: str
    step: int | None
    seconds: Annotated[float, Field(allow_inf_nan=False)]
    samples: int
    seed: int
    reference: str
    lens: str
    shown: list[str]
    scores: list[LadderScore]


Content = TypeVar("Content", bound=BaseModel)


def _content(kind: type[Content], values: Mapping[str, Any], path: Path, mend: str) -> Content:
    """Values of a JSON file, checked.

    Raises:
        DataError: a field is missing, or of another type.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{field}: {first['msg'].lower()}", where=str(path), mend=mend) from None


def _run_page(run: RunRecord) -> RunPage:
    """The page of a run: its ladder, pictures, losses and health, from the files in its folder alone."""
    config = _content(
        RunSettings, run.config, run.folder / "config.json", "give the folder of a distillation run"
    )
    path = run.folder / "ladder.json"
    stored = run.file("ladder.json")
    evaluation = (
        _content(LadderFile, stored, path, "remove it, and train on to make it again") if stored else None
    )
    iterations = max((evaluation.step if evaluation else None) or 0, run.steps)
    intro = (
        f"{config.model} distilled with the preset {config.preset}, {config.train} training, "
        f"{iterations:,} iterations of {config.batch_size} samples; the student moved on every "
        f"{_ordinal(config.update_ratio)}."
    )
    sections: list[tuple[str, Sequence[Figure | str]]] = []
    if evaluation:
        ladder = _ladder(evaluation, run.folder / "pictures" / "ladder.png")
        sections.append(("Quality by number of steps", ladder))
    if progress := [*_over_time(run.rows), *_pictures(run.folder)]:
        sections.append(("While training", progress))
    sections.append(("Losses and health", _health(run.rows) or ["Nothing was logged yet."]))
    return RunPage(config.preset, intro, sections)


write_run_page = run_page("distill", _run_page)


def write_evaluation_page(path: Path, results: Mapping[str, Any], picture: Path | None) -> None:
    """Write the page of one evaluation.

    Raises:
        RunError: the disk refuses.
    """
    evaluation = LadderFile.model_validate(results)
    intro = (
        f"{evaluation.samples} samples, seed {evaluation.seed}; compared with {evaluation.reference}, through "
        f"{evaluation.lens}."
    )
    write_page(
        path,
        f"Evaluation: {evaluation.name}",
        [("Quality by number of steps", _ladder(evaluation, picture))],
        intro=intro,
        footer=f"{evaluation.seconds:.0f} s. Made by noria distill evaluate.",
    )


def _ladder(evaluation: LadderFile, picture: Path | None) -> list[Figure | str]:
    import altair as alt

    scores = evaluation.scores
    order = list(dict.fromkeys(s.grid for s in scores))
    values = [
        {"arm": s.arm, "grid": s.grid, "value": s.figures.get("sliced_wasserstein")}
        for s in scores
        if len(s.sigmas) <= 20
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_line(point=True)
        .encode(
            x=alt.X("grid:N", sort=order, title="steps"),
            y=alt.Y("value:Q", title="sliced Wasserstein distance"),
            color=alt.Color("arm:N", title=None),
            tooltip=["arm:N", "grid:N", "value:Q"],
        )
        .properties(width="container", height=300)
    )
    names = [n for n in FIGURES if any(n in s.figures for s in scores)]
    table = [[s.arm, s.grid, *(s.figures.get(n) for n in names)] for s in scores]
    meanings = " ".join(f"{n.replace('_', ' ').capitalize()}: {FIGURES[n]}." for n in names)
    reasons = sorted({f"{name}: {why}" for s in scores for name, why in s.missing.items()})
    if reasons:
        meanings += " Missing: " + "; ".join(reasons) + "."
    reference = f"Compared with {evaluation.reference}, through {evaluation.lens}."
    shown: list[Figure | str] = [
        Figure.chart("Distance on every grid", chart, f"Lower is better. {reference}"),
        Figure.table("All figures", ["arm", "grid", *(n.replace("_", " ") for n in names)], table, meanings),
    ]
    if picture is not None and picture.is_file():
        caption = "A column is one prompt and one noise: " + "; ".join(evaluation.shown[:8]) + "."
        shown.append(Figure.picture("Samples on every grid", picture.read_bytes(), caption))
    return shown


def _over_time(rows: Rows) -> list[Figure | str]:
    """The ladder's distances as training went on."""
    grids = dict.fromkeys(name for row in rows for name in row if name.startswith(LADDER_KEY))
    points = series(rows, {name: name.removeprefix(LADDER_KEY) for name in grids}, x="iteration")
    if not points:
        return []
    chart = lines(
        points, y="sliced Wasserstein distance", x="iteration", legend="steps", marks=True, height=280
    )
    return [Figure.chart("The ladder over training", chart, "Lower is better; one line a number of steps.")]


def _pictures(folder: Path) -> list[Figure | str]:
    """Sample grids of at most four moments, the last among them."""
    paths = sorted((folder / "pictures").glob("step-*.png"))
    last = len(paths) - 1
    chosen = [paths[n] for n in sorted({round(last * k / 3) for k in range(4)})] if paths else []
    return [
        Figure.picture(f"After {int(path.stem.removeprefix('step-')):,} iterations", path.read_bytes())
        for path in chosen
    ]


def _health(rows: Rows) -> list[Figure | str]:
    """Curves of losses, health, gradients and pushes, those that the log has."""
    charts = (
        (
            "Losses",
            _LOSSES,
            _facets,
            "A push loss is the mean squared length of the step it asks for: it need not fall, but must not "
            "explode. The critic's is its flow-matching error on the student's samples.",
        ),
        (
            "Health",
            _HEALTH,
            _facets,
            "cos(CA, DM): do guidance and matching agree in direction? Critic lag: the critic's loss on fresh "
            "student samples over the frozen teacher's; above 1 it trails the student. Spread ratio: the "
            "student's standard deviation over the teacher's; growing above 1 is over-saturation.",
        ),
        ("Gradient norms", _NORMS, partial(lines, x="iteration"), "Before clipping."),
        (
            "Push by noise level",
            _PUSHES,
            partial(lines, x="iteration", legend="σ"),
            "Mean length of the step asked for, by the σ of the estimate.",
        ),
    )
    return [
        Figure.chart(title, draw(points), caption)
        for title, names, draw, caption in charts
        if (points := series(rows, names, x="iteration"))
    ]


def _facets(values: Rows) -> Any:
    import altair as alt

    order = list(dict.fromkeys(v["name"] for v in values))
    return (
        alt.Chart(alt.Data(values=values))
        .mark_line()
        .encode(
            x=alt.X("iteration:Q"),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            tooltip=["name:N", "iteration:Q", "value:Q"],
        )
        .properties(width=260, height=150)
        .facet(facet=alt.Facet("name:N", title=None, sort=order), columns=3)
        .resolve_scale(y="independent")
    )


def _ordinal(n: int) -> str:
    return {1: "one", 2: "second", 3: "third"}.get(n, f"{n}th")
