"""What MM-OCEAN (arXiv 2605.22109) claims of its rates, and what this package claims of its controls, measured.

On SynthOCEAN, where it is known what is shown: one model that sees, one that is prejudiced, each asked through the
whole product. With the released records, which a user brings, the ladder of readers that see nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from noria.core.statistics.intervals import mean_known
from noria.grounding.proof.arms import Scale, run_adversary, run_annotations, run_leak, run_reader, run_world

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

__all__ = ["SCALES", "claims", "prove"]

SCALES = {
    "quick": Scale(train=110, epochs=3, test=20, colours=300, leak=40, written=36),
    "full": Scale(train=240, epochs=4, test=60, colours=600, leak=120, written=60),
}
SEEDS = {"quick": [1, 2, 3], "full": [1, 2, 3, 4, 5]}
READER_SEEDS = {"quick": [1, 2, 3], "full": [1, 2, 3]}
SOURCE = "arXiv 2605.22109"
CHANCE = 1 / 6
BLACK, SHUFFLED, BLIND = "seer, black frames", "seer, another clip's frames", "seer, no frames"
RANDOM = "prejudiced, colours at random"
NEAR = 0.05
"""How far from chance is still chance."""

Worlds = list[dict[str, Any]]
"""One result a seed."""
Arms = dict[str, Sequence[float | None]]
"""Figures of each arm, one a seed."""


def prove(context: ProofContext) -> Evidence:
    """Make the worlds, ask the models, judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + s for s in context.seeds] if context.seeds else SEEDS[context.scale]
    size = asdict(scale)
    jobs = {f"world, seed {seed}": (seed, size) for seed in seeds}
    worlds = context.map(run_world, jobs, label="worlds")
    leaks = context.map(run_leak, {f"leak, seed {seed}": (seed, size) for seed in seeds}, label="leaks")
    written = context.map(
        run_adversary, {f"builder, seed {seed}": (seed, size) for seed in seeds}, label="builders"
    )
    judged = claims(worlds, leaks, written)
    shown = figures(worlds)
    annotations = context.given.get("annotations")
    if annotations is not None:
        where = str(annotations.resolve())
        (ladder,) = context.map(run_annotations, {"reference ladder": (where,)}, label="released records")
        passes = 6 if context.scale == "full" else 3
        readers = context.map(
            run_reader,
            {f"reader, seed {seed}": (where, seed, passes) for seed in READER_SEEDS[context.scale]},
            label="readers",
        )
        judged += reader_claims(readers)
        shown += ladder_figures(ladder, readers)
    return Evidence(
        system="grounding",
        claims=judged,
        seconds=time.perf_counter() - began,
        versions=versions("torch", "av", "openai", "scikit-learn"),
        figures=shown,
        notes=notes(scale, annotations is not None),
        config=size | {"seeds": seeds},
    )


def value(world: dict[str, Any], arm: str, figure: str) -> float | None:
    """A figure of an arm; None where undefined."""
    number = world[arm]["figures"][figure]
    return None if number is None else float(number)


def claims(worlds: Worlds, leaks: Worlds, written: Worlds) -> list[Claim]:
    """The claims on SynthOCEAN.

    Args:
        worlds: results of `run_world`, one a seed.
        leaks: results of `run_leak`, one a seed.
        written: results of `run_adversary`, one a seed.
    """
    return [*_seeing(worlds), *_prejudice(worlds), *_methods(leaks, written)]


def _seeing(worlds: Worlds) -> list[Claim]:
    """A model that sees answers, and does not from what is put in the place of the clip."""
    guess = {"a guess": [CHANCE] * len(worlds)}
    grounding = _arms(worlds, "T3 grounding", "seer", "prejudiced") | guess
    everyone = ("seer", BLACK, SHUFFLED, "seer, frames reversed", BLIND, "prejudiced")
    questions = _arms(worlds, "T3", *everyone) | guess
    share, grounded = "share of questions right", "share of visual-grounding questions right"
    sees = "A model that sees answers grounding questions far above chance"
    return [
        _claim("sees", sees, grounded, grounding, "seer", "a guess"),
        _claim("black", "… and not from black frames", share, questions, "seer", BLACK),
        _claim("shuffled", "… nor from another clip's frames", share, questions, "seer", SHUFFLED),
        _near("black-is-chance", "On black frames it is at chance", worlds, BLACK, "T3", CHANCE),
        _near(
            "shuffled-is-chance", "On another clip's frames it is at chance", worlds, SHUFFLED, "T3", CHANCE
        ),
        _near("blind-is-chance", "The questions' words alone give nothing away", worlds, BLIND, "T3", CHANCE),
    ]


def _prejudice(worlds: Worlds) -> list[Claim]:
    """The rates tell a model that sees from one that is prejudiced, where accuracy does not."""
    both = ("seer", "prejudiced")
    rating = _arms(worlds, "T1", *both, RANDOM) | {"one level for all": [0.2] * len(worlds)}
    prejudice, holistic = _arms(worlds, "PR", *both), _arms(worlds, "HR", *both)
    gaps: Arms = {
        f"gap in {figure}": [_gap(world, figure, signed=figure == "HR") for world in worlds]
        for figure in ("HR", "T1")
    }
    reads = "A model that reads the confounder rates far above any constant"
    tells, apart = "PR tells it from the model that sees", "HR tells them apart"
    more, falls = (
        "HR parts them by far more than T1 does",
        "Without the confounder the prejudiced model falls to the prior",
    )
    lower = {"better": "lower", "source": SOURCE}
    return [
        _claim("prejudiced-rates", reads, "share of levels right", rating, "prejudiced", "one level for all"),
        _claim("prejudice-convicts", tells, "prejudice rate", prejudice, *both, **lower),
        _claim("holistic", apart, "holistic-grounding rate", holistic, *both, source=SOURCE),
        _claim(
            "holistic-where-rating-does-not",
            more,
            "difference of the two models",
            gaps,
            "gap in HR",
            "gap in T1",
            source=SOURCE,
        ),
        _near("no-confounder-no-rating", falls, worlds, RANDOM, "T1", 0.2),
    ]


def _methods(leaks: Worlds, written: Worlds) -> list[Claim]:
    """The staged protocol and the builder's adversary do what they are for."""
    levels: Arms = {p: [leak[p]["figures"]["T1"] for leak in leaks] for p in ("unified", "staged")}
    solved: Arms = {
        "first drafts": [w["first"] for w in written],
        "after the adversary": [w["last"] for w in written],
    }
    return [
        _claim(
            "staged",
            "Asking for ratings before questions are shown takes a leak of levels away",
            "T1 of a reader of leaked words",
            levels,
            "staged",
            "unified",
            better="lower",
        ),
        _claim(
            "adversary",
            "The builder's adversary takes away what blind classifiers answer",
            "questions that the best blind classifier answers",
            solved,
            "after the adversary",
            "first drafts",
            better="lower",
        ),
    ]


def _arms(worlds: Worlds, figure: str, *names: str) -> Arms:
    return {name: [value(world, name, figure) for world in worlds] for name in names}


def _claim(
    id_: str, statement: str, metric: str, arms: Arms, subject: str, baseline: str, **more: Any
) -> Claim:
    """A claim of a difference of more than .3."""
    from noria.core.proofs.proof import Claim

    settings: dict[str, Any] = {"better": "higher", "margin": 0.3} | more
    return Claim(id_, statement, metric, subject=subject, baseline=baseline, arms=arms, **settings)


def _near(id_: str, statement: str, worlds: Worlds, arm: str, figure: str, chance: float) -> Claim:
    """A claim that a figure is nearer to chance than `NEAR`."""
    from noria.core.proofs.proof import Claim

    limit = f"{NEAR:g} off"
    off = [None if (x := value(world, arm, figure)) is None else abs(x - chance) for world in worlds]
    arms: Arms = {arm: off, limit: [NEAR] * len(worlds)}
    return Claim(id_, statement, f"distance of {figure} from chance", "lower", arm, limit, arms)


def _gap(world: dict[str, Any], figure: str, *, signed: bool) -> float | None:
    """The difference of the two models in a figure."""
    seer, prejudiced = value(world, "seer", figure), value(world, "prejudiced", figure)
    if seer is None or prejudiced is None:
        return None
    return seer - prejudiced if signed else abs(seer - prejudiced)


def reader_claims(readers: Worlds) -> list[Claim]:
    """The claims on released records."""
    from noria.core.proofs.proof import Claim
    from noria.grounding.proof.reading import ARMS

    kinds = {
        "grounding": "visual-grounding questions",
        "Spat": "spatial questions",
        "TSJnt": "questions on time and place",
        "Micro": "questions on micro-expressions",
    }
    return [
        Claim(
            id=f"reader-{name}-{baseline.split()[0]}",
            statement=f"On the released records what was observed helps a small reader with {words}",
            metric="share right",
            better="higher",
            subject=ARMS[0],
            baseline=baseline,
            arms={arm: [reader[arm][name] for reader in readers] for arm in ARMS},
        )
        for name, words in kinds.items()
        for baseline in ARMS[1:]
    ]


# -- what is shown ----------------------------------------------------------------------------------------------------

SHOWN = ("T1", "MAE", "T2", "T3", "T3 grounding", "PR", "CR", "IR", "HR")


def figures(worlds: Worlds) -> list[Figure]:
    """All arms' figures, and their categories."""
    import altair as alt

    from noria.core.pages.charts import Figure
    from noria.grounding.corpus.types import CATEGORIES, SHORT

    rows: list[list[Any]] = [
        [arm, *(mean_known([value(w, arm, name) for w in worlds]) for name in SHOWN)] for arm in worlds[0]
    ]
    points = [
        {
            "arm": arm,
            "category": SHORT[c],
            "share": mean_known([value(w, arm, f"T3 {SHORT[c]}") for w in worlds]),
        }
        for arm in ("seer", BLACK, SHUFFLED, "prejudiced")
        for c in CATEGORIES
    ]
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_point(filled=True, size=70)
        .encode(
            x=alt.X("share:Q", title="share right", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("category:N", title=None, sort=[SHORT[c] for c in CATEGORIES]),
            color=alt.Color("arm:N", title=None),
            tooltip=["arm:N", "category:N", "share:Q"],
        )
        .properties(width="container", height=260)
    )
    states = [[arm, *(sum(w[arm]["states"].get(s, 0) for w in worlds) for s in STATES)] for arm in worlds[0]]
    return [
        Figure.table(
            "All arms", ["model and control", *SHOWN], rows, "Means over seeds; shares but for MAE and T2."
        ),
        Figure.chart(
            "By category",
            chart,
            "Mixed asks for the face and the voice together; who does not hear is right half of the time.",
        ),
        Figure.table("What became of the requests", ["model and control", *STATES], states),
    ]


STATES = ("ok", "parse_failed", "refused", "error")


def ladder_figures(ladder: dict[str, Any], readers: Worlds) -> list[Figure]:
    """The reference ladder on released records."""
    from noria.core.pages.charts import Figure
    from noria.grounding.scoring.rates import BY_CATEGORY
    from noria.grounding.verbs.tables import percent

    names = ("T1", "T3", "T3 grounding", *BY_CATEGORY, "PR", "IR")
    keys = ("value", "low", "high")
    rows = [
        [reader, *(percent(dict(zip(keys, figures[name], strict=True))) for name in names)]
        for reader, figures in ladder.items()
    ]
    columns = list(next(iter(readers[0].values())))
    means: list[list[Any]] = [
        [arm, *(mean_known([100 * reader[arm][c] for reader in readers]) for c in columns)]
        for arm in readers[0]
    ]
    return [
        Figure.table(
            "Readers that see nothing, on the released records",
            ["reader", *(f"{n}, %" for n in names)],
            rows,
            "The oracle reads the verified observations. Brackets are 95 % intervals over source videos.",
        ),
        Figure.table(
            "A small trained reader, %",
            ["it reads", *columns],
            means,
            "Five folds by source; means over seeds.",
        ),
    ]


def notes(scale: Scale, released: bool) -> list[str]:
    """What a reader must know."""
    words = [
        f"A seed is a world: {scale.train} clips to learn from, {scale.test} that are written as mp4, decoded, sent as "
        "frames over HTTP to a server on loopback, parsed, judged by rules and scored, under each control.",
        "The seer is a convolutional network that learned behaviours from frames; the prejudiced model is a dense one "
        "that learned levels from the average picture, where nine stripes of ten on the shirt have the level's colour.",
        "SynthOCEAN is drawn: that a network sees it well says nothing about people in videos. What is tested is that "
        "the rates tell seeing from prejudice when it is known who sees.",
    ]
    if not released:
        words.append(
            "The released annotations may not be passed on; with a copy of one's own, `--annotations DIR` adds the "
            "ladder of readers on the real records."
        )
    return words
