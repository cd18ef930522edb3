"""The claims of CDM (arXiv 2605.06376) at a scale that fits a laptop.

A class-conditional teacher is trained on real images; students are distilled from it by CDM, its ablations and its
rivals, each paid the same number of network evaluations and each at its own best settings; all are measured on the
same noise over the ladder 1, 2, 3, 4, 6, 8 and a foreign σ shift. Settings are searched on seed 0, so the proof's seeds
start at 1.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.core.proofs.arms import TRIES, Arm
from noria.distill.proof.arms import ARMS, CHOSEN, FOREIGN, UNIT, Scale
from noria.distill.proof.running import DIGITS_TEACHER, load_data, run_arm, run_teacher
from noria.distill.types import LADDER

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

SCALES = {
    "quick": Scale(data="digits", teacher_steps=0, budget=40_000, samples=400),
    "full": Scale(data="mnist", teacher_steps=5000, budget=250_000, samples=1000, max_steps=16),
}
SEEDS = [1, 2, 3, 4, 5]
QUICK_ARMS = ("CDM", "CDM, as released", "DMD2", "Consistency", "Consistency, real images")
EULER = "Teacher, Euler 4"
LADDER_METRIC = "Fréchet distance, geometric mean over 1-8 steps and a foreign shift"
SOURCE = "arXiv 2605.06376"
Results = Mapping[str, list[dict[str, Any]]]
"""Results of arms by name, one for each seed."""

CLAIMS = {
    "ladder-dmd2": ("CDM", "DMD2", "Over the ladder CDM stays closer to the data than DMD2"),
    "four-dmd2": ("CDM", "DMD2", "On the trained 4-step grid CDM beats DMD2"),
    "four-released": (
        "CDM, as released",
        "DMD2",
        "On the trained 4-step grid CDM as released beats DMD2",
    ),
    "ladder-released": (
        "CDM",
        "CDM, as released",
        "Over the ladder this project's recipe for small models improves on the release",
    ),
    "four-euler": ("CDM", EULER, "CDM at 4 steps beats the teacher's 4 Euler steps"),
    "ladder-consistency": (
        "CDM",
        "Consistency",
        "Over the ladder CDM beats consistency distillation, neither seeing images",
    ),
    "ladder-images": (
        "CDM",
        "Consistency, real images",
        "Over the ladder CDM without images beats consistency distillation on real images",
    ),
    "velocity-renoise": (
        "CDM",
        "CDM, re-noise",
        "Extrapolating along the velocity beats Gaussian re-noise over the ladder",
    ),
    "cdm-term": ("CDM", "CDM, no CDM term", "The CDM term improves on CA + DM alone over the ladder"),
    "schedule": (
        "CDM, no CDM term",
        "Decoupled-DMD",
        "Without the CDM term, the dynamic schedule beats the fixed grid over the ladder",
    ),
    "schedule-cdm": (
        "CDM",
        "CDM, fixed grid",
        "With the CDM term, the dynamic schedule beats the fixed grid over the ladder",
    ),
}
"""By id: the arm that a claim is about, the arm that it beats, and its words."""


def prove(context: ProofContext) -> Evidence:
    """Train and measure all arms and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + s for s in context.seeds] if context.seeds else SEEDS
    data = str(context.data / "mnist")
    arms = list(ARMS) if context.scale == "full" else list(QUICK_ARMS)
    folder = prepare(context, scale, context.folder)
    chosen, searched = _settings(context, arms)
    shared = (asdict(scale), str(folder), data)
    teachers = {f"Teacher, seed {seed}": (seed, *shared) for seed in seeds}
    students = {f"{arm}, seed {seed}": (arm, seed, chosen[arm], *shared) for arm in arms for seed in seeds}
    table = {"Teacher": context.map(run_teacher, teachers, label="teacher")}
    results = context.map(run_arm, students, label="students")
    table |= {arm: results[n * len(seeds) : (n + 1) * len(seeds)] for n, arm in enumerate(arms)}
    return Evidence(
        system="distill",
        claims=claims(table, chosen),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "diffusers", "scikit-learn"),
        figures=figures(table, searched),
        notes=notes(context.scale, scale),
        config=asdict(scale)
        | {"seeds": seeds, "arms": {n: asdict(ARMS[n]) | {"chosen": chosen[n]} for n in arms}},
    )


def _settings(context: ProofContext, arms: list[str]) -> tuple[dict[str, dict[str, Any]], list[list[Any]]]:
    """The settings of each arm: searched for by a full proof, and kept in a table for a quick one."""
    from noria.distill.proof.tuning import tune

    if context.scale == "quick":
        return CHOSEN, []
    folder = context.folder / "search"
    folder.mkdir(parents=True, exist_ok=True)
    return tune(context, arms, SCALES["quick"], prepare(context, SCALES["quick"], folder))


def prepare(context: ProofContext, scale: Scale, folder: Path) -> Path:
    """Teacher and classifier of a scale in a folder, made once."""
    teacher = folder / "teacher.safetensors"
    if not teacher.exists() and scale.data == "digits":
        shutil.copyfile(DIGITS_TEACHER, teacher)
    context.map(
        _prepare,
        {
            f"teacher and classifier of {scale.data}": (
                asdict(scale),
                str(folder),
                str(context.data / "mnist"),
            )
        },
        label="teacher and classifier",
    )
    return folder


def _prepare(scale: dict[str, Any], folder: str, data_folder: str | None) -> dict[str, Any]:
    from noria.core.models.flow import SmallTransformerConfig
    from noria.core.runs.workers import report
    from noria.distill.config import TeacherConfig
    from noria.distill.evaluation.classifier import train_classifier
    from noria.distill.training.teacher import save_teacher, train_teacher

    s, home = Scale(**scale), Path(folder)
    data = load_data(s, data_folder)
    if not (home / "teacher.safetensors").exists():
        shape = SmallTransformerConfig(image_size=28, patch=7, width=96, blocks=4)
        teacher = train_teacher(
            data,
            shape,
            TeacherConfig(steps=s.teacher_steps, batch_size=64),
            on_step=lambda step, loss: report(step, s.teacher_steps, f"loss {loss:.3f}"),
        )
        save_teacher(teacher, home / "teacher.safetensors")
    if not (home / "classifier.safetensors").exists():
        train_classifier(data, seed=0).save(home / "classifier.safetensors")
    return {}


def ladder_distance(metrics: Mapping[str, Mapping[str, float]]) -> float:
    """Geometric mean of the Fréchet distance over the ladder and the foreign shift.

    The geometric mean, because distances span three decades and an arithmetic mean would be the one-step figure alone.
    """
    values = [metrics[grid]["frechet"] for grid in (*map(str, LADDER), FOREIGN)]
    return math.exp(sum(math.log(max(v, 1e-9)) for v in values) / len(values))


def claims(table: Results, chosen: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """The claims whose arms are in `table`.

    Args:
        table: results by arm, one for each seed.
        chosen: settings of each arm.
    """
    from noria.core.proofs.proof import Claim

    ladder = {
        arm: [ladder_distance(r["metrics"]) for r in results]
        for arm, results in table.items()
        if arm != "Teacher"
    }
    four = {arm: [r["metrics"]["4"]["frechet"] for r in results] for arm, results in table.items()}
    four[EULER] = four.pop("Teacher")
    paid = {arm: _paid(arm, results, chosen) for arm, results in table.items() if arm != "Teacher"}
    paid[EULER] = Arm(EULER, UNIT, 0)
    selected = []
    for name, (subject, baseline, statement) in CLAIMS.items():
        at_four = name.startswith("four-")
        arms = four if at_four else ladder
        if subject in arms and baseline in arms:
            claim = Claim(
                id=name,
                statement=statement,
                metric="Fréchet distance at 4 steps" if at_four else LADDER_METRIC,
                better="lower",
                comparison="log_ratio",
                subject=subject,
                baseline=baseline,
                arms={arm: arms[arm] for arm in (subject, baseline)},
                source=SOURCE,
                paid={arm: paid[arm] for arm in (subject, baseline)},
            )
            selected.append(claim)
    return selected


def _paid(arm: str, results: list[dict[str, Any]], chosen: Mapping[str, Mapping[str, Any]]) -> Arm:
    """What an arm was paid and how it was tuned."""
    from noria.distill.proof.tuning import SEEDS as TUNING_SEEDS

    spent = statistics.fmean(result["spent"] for result in results)
    return Arm(arm, UNIT, spent, TRIES, TUNING_SEEDS, dict(chosen[arm]))


def figures(table: Results, searched: list[list[Any]]) -> list[Figure]:
    """Ladder chart, tables of the ladder and of 4 steps, sample grids, training health and the search of settings."""
    from noria.core.pages.charts import Figure

    drawn = [_ladder_chart(table), _ladder_table(table), _four_steps(table), *_samples(table), _health(table)]
    if searched:
        header = ["arm", "settings", "distance over the ladder", ""]
        caption = "Quick scale, seed 0, the same number of tries for each arm."
        drawn.append(Figure.table("Search of settings", header, searched, caption))
    return drawn


def _ladder_table(table: Results) -> Figure:
    import numpy as np

    from noria.core.pages.charts import Figure

    grids = (*map(str, LADDER), FOREIGN)
    body = []
    for arm, results in table.items():
        cells = [f"{np.mean([r['metrics'][grid]['frechet'] for r in results]):.3g}" for grid in grids]
        whole = f"{np.mean([ladder_distance(r['metrics']) for r in results]):.3g}"
        early = (
            [f"{np.mean([ladder_distance(r['early']) for r in results]):.3g}"]
            if "early" in results[0]
            else [""]
        )
        body.append([arm, *cells, whole, *early])
    header = ["arm", *grids, "over the ladder", "after a quarter of the budget"]
    return Figure.table("Fréchet distance on every grid", header, body, "Means over seeds; lower is better.")


def _ladder_chart(table: Results) -> Figure:
    import altair as alt

    from noria.core.pages.charts import Figure

    rows = [
        {"arm": arm, "steps": grid, "seed": seed, "distance": metrics["frechet"]}
        for arm, results in table.items()
        for seed, result in enumerate(results)
        for grid, metrics in result["metrics"].items()
        if grid != "50"
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "steps:N",
            sort=[*map(str, LADDER), FOREIGN],
            title="evaluation steps",
            axis=alt.Axis(labelAngle=0),
        ),
        color=alt.Color("arm:N", title=None, sort=list(table)),
    )
    distance = alt.Y("mean(distance):Q", scale=alt.Scale(type="log"), title="Fréchet distance (log)")
    lines = base.mark_line(point=True).encode(y=distance, tooltip=["arm:N", "steps:N", "mean(distance):Q"])
    spread = base.mark_rule(opacity=0.5).encode(
        y=alt.Y("min(distance):Q", scale=alt.Scale(type="log")), y2="max(distance):Q"
    )
    return Figure.chart(
        "One student, every number of steps",
        (lines + spread).properties(width="container", height=360),
        "Mean over seeds; the rule spans them. Students are meant for 4 steps; the last point has a foreign σ shift.",
    )


def _four_steps(table: Results) -> Figure:
    import numpy as np

    from noria.core.pages.charts import Figure

    names = (
        "frechet",
        "precision",
        "recall",
        "accuracy",
        "sliced_wasserstein",
        "modes",
        "std_ratio",
        "detail",
    )
    body = []
    for arm, results in table.items():
        cost = [
            f"{np.mean([r['seconds'] for r in results]):.0f}",
            f"{results[0]['spent']:,}",
            f"{results[0]['steps']:,}",
        ]
        for grid in ("4", "50") if arm == "Teacher" else ("4",):
            cells = [f"{np.mean([r['metrics'][grid][n] for r in results]):.3g}" for n in names]
            body.append([f"{arm}, {grid} steps", *cells, *cost])
    header = ["arm", *(n.replace("_", " ") for n in names), "seconds", UNIT, "student steps"]
    caption = (
        "Means over seeds, on the same evaluation noise. Detail: mean squared difference of neighbouring pixels over "
        "the data's; blurred images are below 1."
    )
    return Figure.table("Four steps in detail", header, body, caption)


def _health(table: Results) -> Figure:
    import altair as alt

    from noria.core.pages.charts import Figure

    labels = {"cos_ca_dm": "cos(CA, DM)", "critic_lag": "critic lag", "std_ratio": "spread ratio"}
    points = [
        {"arm": arm, "spent": point["spent"], "figure": label, "value": point[name]}
        for arm, results in table.items()
        for point in results[0]["curve"]
        for name, label in labels.items()
        if name in point
    ]
    return Figure.chart(
        "Training health",
        alt.Chart(alt.Data(values=points))
        .mark_line()
        .encode(
            x=alt.X("spent:Q", title=UNIT),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("arm:N", title=None),
        )
        .properties(width=260, height=180)
        .facet(column=alt.Column("figure:N", title=None))
        .resolve_scale(y="independent"),
        "First seed. Critic lag: the critic's loss on fresh student samples over the frozen teacher's.",
    )


def _samples(table: Results) -> list[Figure]:
    import numpy as np

    from noria.core.pages.charts import Figure, image_grid

    grids = []
    for grid, title in (("1", "1 step"), ("2", "2 steps"), ("4", "4 steps"), ("8", "8 steps")):
        rows = {arm: results[0]["images"].get(grid) for arm, results in table.items()}
        if grid == "4":
            rows = {"Teacher, 50 steps": table["Teacher"][0]["images"].get("50")} | rows
        images = {arm: np.asarray(row, dtype=np.uint8) for arm, row in rows.items() if row is not None}
        pixels = np.stack(list(images.values()))
        picture = image_grid(pixels, list(images), scale=4 if pixels.shape[-1] < 16 else 2)
        grids.append(
            Figure.picture(f"Samples, {title}", picture, "Same noise and classes in every row; first seed.")
        )
    return grids


def notes(name: str, scale: Scale) -> list[str]:
    """Notes that a reader needs to judge the figures."""
    search = (
        "found by this run's search"
        if name == "full"
        else "kept from the full proof's search, which repeats it"
    )
    return [
        f"Every student was paid {scale.budget:,} {UNIT}, counted a sample: 1 for a forward pass of whichever network, "
        "and 2 more for a backward pass, which multiplies each weight matrix twice. Sampling for these figures is not "
        "counted.",
        f"Data: {scale.data}. Guidance {scale.guidance} in every arm: CA scale {scale.guidance - 1:g}, DMD2's real "
        f"read and the teacher at CFG {scale.guidance:g}. Batch {scale.batch_size}, N_max {scale.max_steps}, "
        f"{scale.samples} samples a figure.",
        f"Settings of each arm ({TRIES} tries, quick scale, seed 0, by the distance over the ladder): {search}.",
        "'CDM' is this project's recipe for small models (preset cdm-small): it tells the critic the anchor of its "
        "sample, reads CA above the anchor, and draws inner levels from .02 to .98. 'CDM, as released' does neither, "
        "and draws them from .25 to .95. 'DMD2' follows its release: it simulates and samples by re-noising, its "
        "critic learns the image of the sampled step, with five critic updates to one of the student; its GAN loss, "
        "which needs real images, is left out. 'Consistency' re-noises the student's own rollouts; 'Consistency, real "
        "images' sees the data that every arm is compared with, and the other arms see no image.",
        "Distances are measured in the penultimate features of a small classifier trained on the same data; "
        "they are comparable within this report only.",
        "These are small images and a small network: they test the method's mechanism, "
        "not the paper's benchmark figures.",
    ] + (
        []
        if name == "full"
        else ["A quick run leaves out four arms of the full proof (noria prove distill --full)."]
    )
