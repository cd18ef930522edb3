"""What MM-OCEAN (arXiv 2605.22109) claims of its rates, and what this package claims of its controls, measured.

On SynthOCEAN, where it is known what is shown: one model that sees, one that is prejudiced, one that is blind, each
asked through the whole product. With the released records, which a user brings, the ladder of readers that see nothing.
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
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext

SCALES = {
    "quick": Scale(train=110, epochs=3, test=20, words=200, leak=40, written=36),
    "full": Scale(train=240, epochs=4, test=60, words=600, leak=120, written=60),
}
SEEDS = {"quick": [1, 2, 3, 4], "full": [1, 2, 3, 4, 5, 6, 7, 8]}
READER_SEEDS = {"quick": [1, 2, 3], "full": [1, 2, 3]}
SOURCE = "arXiv 2605.22109"
BLACK, SHUFFLED, BLIND = "seer, black frames", "seer, another clip's frames", "blind classifier"
RANDOM = "prejudiced, colours at random"
NEAR = 0.05
"""Largest lead over a reader that sees nothing which still counts as none."""

GUESS, CONSTANT = "a guess", "the best level for all"
CLAIMS = (
    (
        "sees",
        "A model that sees answers grounding questions far better than a classifier of their words",
        "share of visual-grounding questions right",
        "T3 grounding",
        "seer",
        BLIND,
        "",
    ),
    (
        "black-frames",
        "From black frames it answers no better than the blind classifier",
        "",
        "T3",
        BLACK,
        BLIND,
        "",
    ),
    (
        "shuffled-frames",
        "From another clip's frames it answers no better than the blind classifier",
        "",
        "T3",
        SHUFFLED,
        BLIND,
        "",
    ),
    (
        "blind-is-chance",
        "The best classifier of the questions' words answers no better than a guess",
        "",
        "words",
        BLIND,
        GUESS,
        "",
    ),
    (
        "prejudiced-rates",
        "A model that reads the confounder rates far better than the best level for all",
        "share of levels right",
        "T1",
        "prejudiced",
        CONSTANT,
        "",
    ),
    (
        "prejudice-convicts",
        "PR is far higher for it than for the model that sees",
        "prejudice rate",
        "PR",
        "prejudiced",
        "seer",
        SOURCE,
    ),
    (
        "holistic-where-rating-does-not",
        "HR parts the two by far more than T1 does",
        "lead of the model that sees",
        "lead",
        "seer's lead in HR",
        "seer's lead in T1",
        SOURCE,
    ),
    (
        "no-confounder-no-rating",
        "Without the confounder the prejudiced model rates no better than the best level for all",
        "",
        "T1",
        RANDOM,
        CONSTANT,
        "",
    ),
)
"""Claims on SynthOCEAN: id, statement, metric, figure, subject, baseline, source. With a metric the subject is better
by more than .3; without, by less than `NEAR`."""

Worlds = list[dict[str, Any]]
"""One result a seed."""
Values = dict[str, Sequence[float | None]]
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
    judged = claims(worlds, written, scale)
    shown = figures(worlds)
    said = notes(scale, worlds, context.given.get("annotations") is not None)
    if context.scale == "full":
        said += _search(context, size)
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
        judged += reader_claims(readers, passes)
        shown += ladder_figures(ladder, readers)
    return Evidence(
        system="grounding",
        claims=judged,
        checks=checks(worlds, leaks),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "av", "openai", "scikit-learn"),
        figures=shown,
        notes=said,
        config=size | {"seeds": seeds},
    )


def _search(context: ProofContext, size: dict[str, int]) -> list[str]:
    """Search the free settings again, on worlds of their own, and say where another one is best now."""
    from noria.grounding.proof.tuning import SEEDS as TUNING, SPACES, TUNED, chosen, run_try, tries

    found = []
    for model in SPACES:
        jobs = {
            f"{model}, setting {n}, seed {seed}": (model, n, seed, size)
            for n in range(len(tries(model)))
            for seed in TUNING
        }
        flat = context.map(run_try, jobs, label=f"settings of the {model} model")
        scores = [flat[n : n + len(TUNING)] for n in range(0, len(flat), len(TUNING))]
        best = chosen(model, scores)
        same = "as used" if best == TUNED[model] else f"and {dict(TUNED[model])} was used"
        found.append(f"Searched again, the best settings of the {model} model are {best}, {same}.")
    return found


def value(world: dict[str, Any], arm: str, figure: str) -> float | None:
    """A figure of an arm; None where undefined."""
    number = world[arm]["figures"][figure]
    return None if number is None else float(number)


def claims(worlds: Worlds, written: Worlds, scale: Scale) -> list[Claim]:
    """The claims on SynthOCEAN.

    Args:
        worlds: results of `run_world`, one a seed.
        written: results of `run_adversary`, one a seed.
        scale: sizes of the experiments.
    """
    from noria.core.proofs.proof import Claim

    made = []
    for name, statement, metric, figure, subject, baseline, source in CLAIMS:
        paid = _paid(scale, subject, baseline)
        one, other = ([_value(w, figure, arm, subject) for w in worlds] for arm in (subject, baseline))
        arms: Values = {subject: one, baseline: other}
        if metric:
            claim = Claim(
                name,
                statement,
                metric,
                "higher",
                subject,
                baseline,
                arms,
                margin=0.3,
                source=source,
                paid=paid,
            )
        else:
            more, limit = f"{subject} less {baseline}", f"{NEAR:g}"
            gaps = [None if a is None or b is None else a - b for a, b in zip(one, other, strict=True)]
            claim = Claim(
                name,
                statement,
                f"share right, {more}",
                "lower",
                more,
                limit,
                arms | {more: gaps, limit: [NEAR] * len(gaps)},
                paid=paid | {more: paid[subject], limit: paid[baseline]},
            )
        made.append(claim)
    return [*made, _adversary(written)]


def _value(world: dict[str, Any], figure: str, arm: str, subject: str) -> float | None:
    """A figure of an arm; of a constant, what it would have where the subject was asked."""
    if arm == GUESS:
        return 1 / 6
    if arm == CONSTANT:
        return float(world[subject]["constant"])
    if figure == "words":
        return float(world["words"])
    if figure == "lead":
        seer, prejudiced = (value(world, model, arm.split()[-1]) for model in ("seer", "prejudiced"))
        return None if seer is None or prejudiced is None else seer - prejudiced
    return value(world, arm, figure)


def _paid(scale: Scale, *names: str) -> dict[str, Arm]:
    """What arms were paid: clips to learn from; a constant, and a guess, none."""
    from noria.core.proofs.arms import Arm
    from noria.grounding.proof.tuning import SEEDS as TUNING, TUNED, tries

    arms = {}
    for name in names:
        model = name.split(",")[0].split()[0]
        if model in TUNED:
            arms[name] = Arm(
                name,
                "clips",
                scale.train,
                tries=len(tries(model)),
                tuning_seeds=TUNING,
                settings=TUNED[model],
            )
        else:
            arms[name] = Arm(name, "clips", 0)
    return arms


def _adversary(written: Worlds) -> Claim:
    """The adversary against writing as many questions anew, with the same scripted writer."""
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim

    ours, rival = "after the adversary", "as many at random"
    values: Values = {
        "first drafts": [w["first"] for w in written],
        ours: [w["last"] for w in written],
        rival: [w["random"] for w in written],
    }
    spent = mean_known([sum(w["rewritten"]) for w in written]) or 0.0
    return Claim(
        "adversary",
        "With a scripted writer half of whose drafts tell, the adversary leaves less to blind classifiers than "
        "writing as many questions anew at random",
        "questions that the best blind classifier answers",
        "lower",
        ours,
        rival,
        values,
        margin=NEAR,
        paid={name: Arm(name, "questions written anew", spent) for name in (ours, rival)},
    )


def checks(worlds: Worlds, leaks: Worlds) -> list[Check]:
    """What must hold in every world."""
    from noria.core.proofs.proof import Check

    arms = [arm for world in worlds for arm in world.values() if isinstance(arm, dict)]
    states = [leak[p]["states"] for leak in leaks for p in ("unified", "staged")]
    states += [arm["states"] for arm in arms]
    asked, answered = sum(sum(s.values()) for s in states), sum(s.get("ok", 0) for s in states)
    staged, unified = ([leak[p]["figures"]["T1"] for leak in leaks] for p in ("staged", "unified"))
    off = max(
        abs(_rate(arm["table"], name) - figure)
        for arm in arms
        for name in ("HR", "PR")
        if (figure := arm["figures"][name]) is not None
    )
    return [
        Check(
            "answered",
            "Every request of every run ended in an answer that was read",
            asked == answered,
            f"{answered:,} of {asked:,} requests",
        ),
        Check(
            "staged",
            "A script that reads levels in the questions' words rates no better than Medium for all when ratings are "
            "asked for first, and better when all is asked at once",
            all(
                abs(s - leak["medium"]) < 1e-12 < u - s
                for s, u, leak in zip(staged, unified, leaks, strict=True)
            ),
            f"T1 {mean_known(staged):.3f} staged, {mean_known(unified):.3f} at once",
        ),
        Check(
            "cells",
            "HR and PR are quotients of the eight cells where nothing is refused",
            off < 1e-12,
            f"largest difference {off:.0e} over {len(arms)} runs",
            SOURCE,
        ),
    ]


def _rate(table: dict[str, float], name: str) -> float:
    """HR or PR of the eight cells."""
    cells = list(table.values())
    whole, part = (sum(cells), cells[7]) if name == "HR" else (sum(cells[4:]), cells[4] + cells[6])
    return part / whole


def reader_claims(readers: Worlds, passes: int) -> list[Claim]:
    """The claims on released records: all visual-grounding questions; its categories, which follow, are in the figures.

    Seeds are splits of the same records into five parts, so their differences hang together (Nadeau and Bengio).

    Args:
        readers: results of `run_reader`, one a seed.
        passes: passes over the training questions that each reader was paid.
    """
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim
    from noria.grounding.proof.reading import ARMS

    paid = {arm: Arm(arm, "passes over the questions", passes) for arm in ARMS}
    return [
        Claim(
            id=f"reader-grounding-{baseline.split()[0]}",
            statement="On the released records what was observed helps a small reader with visual-grounding questions "
            f"(against {baseline})",
            metric="share right",
            better="higher",
            subject=ARMS[0],
            baseline=baseline,
            arms={arm: [reader[arm]["grounding"] for reader in readers] for arm in ARMS},
            paid={arm: paid[arm] for arm in (ARMS[0], baseline)},
            overlap=1 / 4,
        )
        for baseline in ARMS[1:]
    ]


# -- what is shown ----------------------------------------------------------------------------------------------------

SHOWN = ("T1", "MAE", "T2", "T3", "T3 grounding", "PR", "CR", "IR", "HR")


def _runs(worlds: Worlds) -> list[str]:
    return [name for name, result in worlds[0].items() if isinstance(result, dict)]


def figures(worlds: Worlds) -> list[Figure]:
    """All arms' figures, and their categories."""
    import altair as alt

    from noria.core.pages.charts import Figure
    from noria.grounding.corpus.types import CATEGORIES, SHORT

    rows: list[list[Any]] = [
        [arm, *(mean_known([value(w, arm, name) for w in worlds]) for name in SHOWN)] for arm in _runs(worlds)
    ]
    points = [
        {
            "arm": arm,
            "category": SHORT[c],
            "share": mean_known([value(w, arm, f"T3 {SHORT[c]}") for w in worlds]),
        }
        for arm in ("seer", BLACK, SHUFFLED, "prejudiced", BLIND)
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
    states = [
        [arm, *(sum(w[arm]["states"].get(s, 0) for w in worlds) for s in STATES)] for arm in _runs(worlds)
    ]
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


def notes(scale: Scale, worlds: Worlds, released: bool) -> list[str]:
    """What a reader must know."""
    leads = (("T3", BLACK), ("HR", "prejudiced"))
    seen, holistic = (
        (mean_known([value(w, "seer", f) for w in worlds]) or 0.0)
        - (mean_known([value(w, other, f) for w in worlds]) or 0.0)
        for f, other in leads
    )
    words = [
        f"A seed is a world: {scale.train} clips that all models learn from, {scale.test} that are written as mp4, "
        "decoded, sent as frames over HTTP to a server on loopback, parsed, judged by rules and scored.",
        "The seer is a convolutional network that learned behaviours from frames; the prejudiced model is a dense one "
        "that learned levels from the average picture, where nine stripes of ten on the shirt have the level's colour, "
        "and answers questions by the blind classifier; that one reads the questions' words and nothing else. How each "
        "reads a request and words its reply is a script.",
        f"What follows from these claims is not counted: from frames the seer answers {seen:+.2f} against black "
        f"frames, and its HR is {holistic:+.2f} against the prejudiced model's.",
        "SynthOCEAN is drawn: that a network sees it well says nothing about people in videos. What is tested is that "
        "the rates tell seeing from prejudice when it is known who sees.",
    ]
    if not released:
        words.append(
            "The released annotations may not be passed on; with a copy of one's own, `--annotations DIR` adds the "
            "ladder of readers on the real records."
        )
    return words
