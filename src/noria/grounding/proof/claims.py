"""What MM-OCEAN (arXiv 2605.22109) claims of its rates, and what this package claims of its controls, measured.

On SynthOCEAN, where it is known what is shown: one model that sees, one that is prejudiced, each asked through the
whole product. With the released records, which a user brings, the ladder of readers that see nothing.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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
NEAR = 0.05
"""How far from chance is still chance."""

Worlds = list[dict[str, Any]]
"""One result a seed."""


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
    found = claims(worlds, leaks, written)
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
        found += reader_claims(readers)
        shown += ladder_figures(ladder, readers)
    return Evidence(
        system="grounding",
        claims=found,
        seconds=time.perf_counter() - began,
        versions=versions("torch", "av", "openai", "scikit-learn"),
        figures=shown,
        notes=notes(scale, annotations is not None),
        config=size | {"seeds": seeds},
    )


def value(world: dict[str, Any], arm: str, figure: str) -> float | None:
    """A figure of an arm; None where undefined."""
    found = world[arm]["figures"][figure]
    return None if found is None else float(found)


def _off(world: dict[str, Any], arm: str, figure: str, chance: float) -> float | None:
    found = value(world, arm, figure)
    return None if found is None else abs(found - chance)


def _gap(world: dict[str, Any], figure: str) -> float | None:
    one, two = value(world, "seer", figure), value(world, "prejudiced", figure)
    return None if one is None or two is None else one - two


def claims(worlds: Worlds, leaks: Worlds, written: Worlds) -> list[Claim]:
    """The claims on SynthOCEAN."""
    from noria.core.proofs.proof import Claim

    def row(arm: str, figure: str) -> list[float | None]:
        return [value(world, arm, figure) for world in worlds]

    def constant(number: float) -> list[float | None]:
        return [number] * len(worlds)

    questions = {
        arm: row(arm, "T3")
        for arm in (
            "seer",
            "seer, black frames",
            "seer, another clip's frames",
            "seer, frames reversed",
            "seer, no frames",
            "prejudiced",
        )
    } | {"a guess": constant(CHANCE)}
    grounding = {arm: row(arm, "T3 grounding") for arm in ("seer", "prejudiced")} | {
        "a guess": constant(CHANCE)
    }
    rating = {arm: row(arm, "T1") for arm in ("seer", "prejudiced", "prejudiced, colours at random")}
    rating |= {"one level for all": constant(0.2)}
    prejudice = {arm: row(arm, "PR") for arm in ("seer", "prejudiced")}
    holistic = {arm: row(arm, "HR") for arm in ("seer", "prejudiced")}
    gaps = {
        "gap in HR": [_gap(world, "HR") for world in worlds],
        "gap in T1": [None if (gap := _gap(world, "T1")) is None else abs(gap) for world in worlds],
    }

    def claim(
        id_: str, statement: str, metric: str, arms: Any, subject: str, baseline: str, **more: Any
    ) -> Claim:
        return Claim(
            id=id_,
            statement=statement,
            metric=metric,
            better=more.pop("better", "higher"),
            subject=subject,
            baseline=baseline,
            arms=arms,
            source=more.pop("source", ""),
            **more,
        )

    def near_chance(id_: str, statement: str, arm: str, figure: str, chance: float) -> Claim:
        arms = {arm: [_off(world, arm, figure, chance) for world in worlds], f"{NEAR:g} off": constant(NEAR)}
        return claim(
            id_, statement, f"distance of {figure} from chance", arms, arm, f"{NEAR:g} off", better="lower"
        )

    share = "share of questions right"
    return [
        claim(
            "sees",
            "A model that sees answers grounding questions far above chance",
            "share of visual-grounding questions right",
            grounding,
            "seer",
            "a guess",
            margin=0.3,
        ),
        claim(
            "black", "… and not from black frames", share, questions, "seer", "seer, black frames", margin=0.3
        ),
        claim(
            "shuffled",
            "… nor from another clip's frames",
            share,
            questions,
            "seer",
            "seer, another clip's frames",
            margin=0.3,
        ),
        near_chance("black-is-chance", "On black frames it is at chance", "seer, black frames", "T3", CHANCE),
        near_chance(
            "shuffled-is-chance",
            "On another clip's frames it is at chance",
            "seer, another clip's frames",
            "T3",
            CHANCE,
        ),
        near_chance(
            "blind-is-chance", "The questions' words alone give nothing away", "seer, no frames", "T3", CHANCE
        ),
        claim(
            "prejudiced-rates",
            "A model that reads the confounder rates far above any constant",
            "share of levels right",
            rating,
            "prejudiced",
            "one level for all",
            margin=0.3,
        ),
        claim(
            "prejudice-convicts",
            "PR tells it from the model that sees",
            "prejudice rate",
            prejudice,
            "seer",
            "prejudiced",
            better="lower",
            margin=0.3,
            source=SOURCE,
        ),
        claim(
            "holistic",
            "HR tells them apart",
            "holistic-grounding rate",
            holistic,
            "seer",
            "prejudiced",
            margin=0.3,
            source=SOURCE,
        ),
        claim(
            "holistic-where-rating-does-not",
            "HR parts them by far more than T1 does",
            "difference of the two models",
            gaps,
            "gap in HR",
            "gap in T1",
            margin=0.3,
            source=SOURCE,
        ),
        near_chance(
            "no-confounder-no-rating",
            "Without the confounder the prejudiced model falls to the prior",
            "prejudiced, colours at random",
            "T1",
            0.2,
        ),
        claim(
            "staged",
            "Asking for ratings before questions are shown takes a leak of levels away",
            "T1 of a reader of leaked words",
            {p: [leak[p]["figures"]["T1"] for leak in leaks] for p in ("unified", "staged")},
            "staged",
            "unified",
            better="lower",
            margin=0.3,
        ),
        claim(
            "adversary",
            "The builder's adversary takes away what blind classifiers answer",
            "questions that the best blind classifier answers",
            {
                "first drafts": [w["first"] for w in written],
                "after the adversary": [w["last"] for w in written],
            },
            "after the adversary",
            "first drafts",
            better="lower",
            margin=0.3,
        ),
    ]


def reader_claims(readers: Worlds) -> list[Claim]:
    """The claims on released records."""
    from noria.core.proofs.proof import Claim
    from noria.grounding.proof.reading import ARMS

    found = []
    for name, words in (
        ("grounding", "visual-grounding questions"),
        ("Spat", "spatial questions"),
        ("TSJnt", "questions on time and place"),
        ("Micro", "questions on micro-expressions"),
    ):
        arms = {arm: [reader[arm][name] for reader in readers] for arm in ARMS}
        for baseline in ARMS[1:]:
            found.append(
                Claim(
                    id=f"reader-{name}-{baseline.split()[0]}",
                    statement=f"On the released records what was observed helps a small reader with {words}",
                    metric="share right",
                    better="higher",
                    subject=ARMS[0],
                    baseline=baseline,
                    arms=arms,
                )
            )
    return found


# -- what is shown ----------------------------------------------------------------------------------------------------

SHOWN = ("T1", "MAE", "T2", "T3", "T3 grounding", "PR", "CR", "IR", "HR")


def _mean(values: list[Any]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def figures(worlds: Worlds) -> list[Figure]:
    """All arms' figures, and their categories."""
    import altair as alt

    from noria.core.pages.charts import Figure
    from noria.grounding.corpus.types import CATEGORIES, SHORT

    rows = [[arm, *(_mean([value(w, arm, name) for w in worlds]) for name in SHOWN)] for arm in worlds[0]]
    points = [
        {"arm": arm, "category": SHORT[c], "share": _mean([value(w, arm, f"T3 {SHORT[c]}") for w in worlds])}
        for arm in ("seer", "seer, black frames", "seer, another clip's frames", "prejudiced")
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
        [reader, *(percent(dict(zip(keys, found[name], strict=True))) for name in names)]
        for reader, found in ladder.items()
        if reader != "blind"
    ]
    columns = list(next(iter(readers[0].values())))
    means = [
        [arm, *(_mean([100 * reader[arm][c] for reader in readers]) for c in columns)] for arm in readers[0]
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
