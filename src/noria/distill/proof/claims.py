"""The claims of CDM (arXiv 2605.06376) at a scale that fits a laptop.

A class-conditional teacher is trained on real images; students of equal step budget are distilled from it by CDM, its
ablations and its rivals; all are measured on the same noise over the ladder 1, 2, 3, 4, 6, 8 and a foreign σ shift.
Settings were chosen on seed 0 alone, so the proof's seeds start at 1.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noria.distill.proof.arms import ARMS, FOREIGN, Scale, run_arm, run_teacher
from noria.distill.types import LADDER

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

__all__ = ["SCALES", "claims", "ladder_distance", "prove"]

SCALES = {
    "quick": Scale(
        data="digits", teacher_steps=0, student_steps=80, samples=400, student_lr=3e-4, critic_lr=6e-4
    ),
    "full": Scale(
        data="mnist",
        teacher_steps=5000,
        student_steps=600,
        samples=1000,
        max_steps=16,
        student_lr=2e-4,
        critic_lr=1e-3,
    ),
}
SEEDS = {"quick": [1, 2, 3], "full": [1, 2, 3]}
QUICK_ARMS = ("CDM", "CDM, re-noise", "DMD2", "Consistency")
LADDER_METRIC = "Fréchet distance, geometric mean over 1-8 steps and a foreign shift"
SOURCE = "arXiv 2605.06376"


CLAIMS = {
    "off-grid-dmd2": ("CDM", "DMD2", "Over the ladder CDM stays closer to the data than DMD2"),
    "off-grid-published": (
        "CDM",
        "DMD2, critic of ends",
        "Over the ladder CDM stays closer to the data than DMD2 with its published critic",
    ),
    "off-grid-schedule": (
        "CDM",
        "CDM, fixed grid",
        "All else equal, the dynamic schedule beats the fixed grid over the ladder",
    ),
    "off-grid-schedule-plain": (
        "CDM, no CDM term",
        "Decoupled-DMD",
        "Without the CDM term, the dynamic schedule beats the fixed grid over the ladder",
    ),
    "off-grid-schedule-ends": (
        "CDM, critic of ends",
        "CDM, fixed grid, critic of ends",
        "With a critic of rollout ends, the dynamic schedule beats the fixed grid over the ladder",
    ),
    "four-euler": ("CDM", "Teacher, Euler 4", "CDM at 4 steps beats the teacher's 4 Euler steps"),
    "four-consistency": ("CDM", "Consistency", "CDM at 4 steps beats consistency distillation"),
    "velocity-renoise": (
        "CDM",
        "CDM, re-noise",
        "Extrapolating along the velocity beats Gaussian re-noise over the ladder",
    ),
    "cdm-term": ("CDM", "CDM, no CDM term", "The CDM term improves on CA + DM alone over the ladder"),
    "on-grid-dmd2": ("CDM", "DMD2", "On the trained 4-step grid CDM beats DMD2"),
    "on-grid-decoupled": ("CDM", "Decoupled-DMD", "On the trained 4-step grid CDM beats Decoupled-DMD"),
    "guidance-above": (
        "CDM",
        "CDM, CA below",
        "Reading CA above the anchor beats the release's reading below it at 4 steps",
    ),
    "critic-told": (
        "CDM",
        "CDM, critic of anchors",
        "Telling the critic its sample's anchor beats a critic of all anchors at 4 steps",
    ),
    "critic-ends": (
        "CDM",
        "CDM, critic of ends",
        "Telling the critic its sample's anchor beats a critic of rollout ends at 4 steps",
    ),
}
"""By id: the arm that a claim is about, the arm that it beats, and its words."""

AT_FOUR_STEPS = ("four-", "on-grid-", "guidance-", "critic-")
"""Beginnings of the ids of claims about 4 steps; the others are about the whole ladder."""


def prove(context: ProofContext) -> Evidence:
    """Train and measure all arms and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + s for s in context.seeds] if context.seeds else SEEDS[context.scale]
    folder = prepare(context, scale)
    data = str(context.data / "mnist")
    arms = list(ARMS) if context.scale == "full" else list(QUICK_ARMS)
    shared = (asdict(scale), str(folder), data)
    jobs = [("Teacher", seed) for seed in seeds] + [(arm, seed) for seed in seeds for arm in arms]
    results = context.map(
        _job, {f"{arm}, seed {seed}": (arm, seed, *shared) for arm, seed in jobs}, label="students"
    )
    table: dict[str, list[dict[str, Any]]] = {}
    for (arm, _), result in zip(jobs, results, strict=True):
        table.setdefault(arm, []).append(result)
    return Evidence(
        system="distill",
        claims=claims(table),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "diffusers", "scikit-learn"),
        figures=figures(table),
        notes=notes(context.scale, scale, seeds),
        config=asdict(scale) | {"seeds": seeds, "arms": {n: asdict(ARMS[n]) for n in arms}},
    )


def prepare(context: ProofContext, scale: Scale) -> Path:
    """Teacher and classifier in the proof's folder, made once."""
    from noria.distill.proof.arms import DIGITS_TEACHER

    folder = context.folder
    teacher = folder / "teacher.safetensors"
    if not teacher.exists() and scale.data == "digits":
        shutil.copyfile(DIGITS_TEACHER, teacher)
    context.map(
        _prepare,
        {"teacher and classifier": (asdict(scale), str(folder), str(context.data / "mnist"))},
        label="teacher and classifier",
    )
    return folder


def _prepare(scale: dict[str, Any], folder: str, data_folder: str | None) -> dict[str, Any]:
    from noria.core.models.flow import SmallTransformerConfig
    from noria.core.runs.workers import report
    from noria.distill.config import TeacherConfig
    from noria.distill.evaluation.classifier import train_classifier
    from noria.distill.proof.arms import load_data
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


def _job(arm: str, seed: int, scale: dict[str, Any], folder: str, data_folder: str | None) -> dict[str, Any]:
    if arm == "Teacher":
        return run_teacher(seed, scale, folder, data_folder)
    return run_arm(arm, seed, scale, folder, data_folder)


def ladder_distance(result: dict[str, Any]) -> float:
    """Geometric mean of the Fréchet distance over the ladder and the foreign shift.

    The geometric mean, because distances span three decades and an arithmetic mean would be the one-step figure alone.
    """
    values = [result["metrics"][grid]["frechet"] for grid in (*map(str, LADDER), FOREIGN)]
    return math.exp(sum(math.log(max(v, 1e-9)) for v in values) / len(values))


def claims(table: dict[str, list[dict[str, Any]]]) -> list[Claim]:
    """The claims whose arms are in `table`, {arm: one result for each seed}."""
    from noria.core.proofs.proof import Claim

    ladder = {
        arm: [ladder_distance(r) for r in results] for arm, results in table.items() if arm != "Teacher"
    }
    four = {arm: [r["metrics"]["4"]["frechet"] for r in results] for arm, results in table.items()}
    four["Teacher, Euler 4"] = four.pop("Teacher")
    chosen = []
    for name, (subject, baseline, statement) in CLAIMS.items():
        at_four = name.startswith(AT_FOUR_STEPS)
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
                arms=dict(arms),
                source=SOURCE,
            )
            chosen.append(claim)
    return chosen


def figures(table: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Ladder chart, 4-step table, sample grids and training health."""
    return [_ladder_chart(table), _four_steps(table), *_samples(table), _health(table)]


def _ladder_chart(table: dict[str, list[dict[str, Any]]]) -> Figure:
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
        "Mean over seeds; the rule spans them. Students are trained for 4 steps; the last point has a foreign σ shift.",
    )


def _four_steps(table: dict[str, list[dict[str, Any]]]) -> Figure:
    import numpy as np

    from noria.core.pages.charts import Figure

    names = ("frechet", "precision", "recall", "accuracy", "sliced_wasserstein", "modes", "std_ratio")
    body = []
    for arm, results in table.items():
        cost = [f"{np.mean([r['seconds'] for r in results]):.0f}", f"{results[0]['forwards']:,}"]
        for grid in ("4", "50") if arm == "Teacher" else ("4",):
            cells = [f"{np.mean([r['metrics'][grid][n] for r in results]):.3g}" for n in names]
            body.append([f"{arm}, {grid} steps", *cells, *cost])
    header = ["arm", *(n.replace("_", " ") for n in names), "seconds", "network evaluations"]
    return Figure.table(
        "Four steps in detail", header, body, "Means over seeds, on the same evaluation noise."
    )


def _health(table: dict[str, list[dict[str, Any]]]) -> Figure:
    import altair as alt

    from noria.core.pages.charts import Figure

    labels = {"cos_ca_dm": "cos(CA, DM)", "critic_lag": "critic lag", "std_ratio": "spread ratio"}
    points = [
        {"arm": arm, "iteration": point["iteration"], "figure": label, "value": point[name]}
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
            x="iteration:Q",
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("arm:N", title=None),
        )
        .properties(width=260, height=180)
        .facet(column=alt.Column("figure:N", title=None))
        .resolve_scale(y="independent"),
        "First seed. Critic lag: the critic's loss on fresh student samples over the frozen teacher's.",
    )


def _samples(table: dict[str, list[dict[str, Any]]]) -> list[Figure]:
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


def notes(name: str, scale: Scale, seeds: list[int]) -> list[str]:
    """Notes that a reader needs to judge the figures."""
    return [
        f"Data: {scale.data}. Guidance {scale.guidance} in every arm: CA scale {scale.guidance - 1:g}, "
        f"DMD2's real read and the teacher at CFG {scale.guidance:g}. {scale.student_steps} student steps, "
        f"batch {scale.batch_size}, N_max {scale.max_steps}, {scale.samples} samples a figure, "
        f"seeds {seeds}. Settings were chosen on seed 0.",
        "Unless its name says otherwise, an arm tells its critic the anchor of the sample (critic.source="
        "anchor_conditioned, this project's addition) and reads CA above the anchor (objective.ca_tau=above, "
        "Decoupled-DMD's setting). 'CDM, as released' does neither.",
        "A told critic on a fixed grid has never seen the levels between the grid's, where the CDM term reads it; "
        "what 'CDM, fixed grid' loses there is that. 'CDM, no CDM term' and 'Decoupled-DMD' differ in the schedule "
        "alone and are free of it. An arm whose accuracy at 4 steps is near chance has collapsed, and its distance "
        "measures that.",
        "Distances are measured in the penultimate features of a small classifier trained on the same data; "
        "they are comparable within this report only.",
        "These are small images and a small network: they test the method's mechanism, "
        "not the paper's benchmark figures.",
    ] + (
        []
        if name == "full"
        else ["A quick run leaves out nine arms of the full proof (noria prove distill --full)."]
    )
