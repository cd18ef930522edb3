"""What ReCal (arXiv 2606.12479) claims of calibrated rewards, at a scale that fits a laptop.

A real pool of solvers is asked questions of seven real data sets, and recorded. On that table, and on one that is given
as `--table` (LLMRouter's published one, say), equal rollouts are turned into gradients by every estimator and compared
with the exact gradient, which the table makes known; policies are trained by each; and a small language model that
writes the router's grammar is trained by TRL. Every arm has its own best of six settings (`tuning`). The paper's
numbers could not be read, so each stage has a claim of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from noria.core.proofs.arms import TRIES, Arm
from noria.core.proofs.proof import Claim, Evidence, ProofContext, versions
from noria.routing.proof.arms import ESTIMATORS, run_default, run_gradients, run_record, run_training
from noria.routing.proof.figures import Results, figures
from noria.routing.proof.tuning import (
    TRAINING,
    TUNING_SEEDS,
    WEIGHTS,
    WRITING,
    Settings,
    paid,
    tuned,
    tuned_weights,
)
from noria.routing.proof.writer_arms import run_school, run_writer
from noria.routing.tables.imports import import_table

SOURCE = "arXiv 2606.12479"


@dataclass(frozen=True)
class Scale:
    """Size of the proof.

    Attributes:
        questions: number of questions of every data set to record.
        batches: number of batches whose gradients are measured, for each policy.
        prompts: number of questions of a batch.
        estimators: estimators whose gradients are measured.
        steps: number of training steps of the policies that choose once.
        trained: estimators that train them.
        school: number of steps in which the router that writes is taught the grammar; 0 leaves it out.
        writer_steps, writer_prompts: steps and questions of its training by TRL.
        writers: estimators that train it.
    """

    questions: int
    batches: int
    prompts: int
    estimators: tuple[str, ...]
    steps: int
    trained: tuple[str, ...]
    school: int = 0
    writer_steps: int = 0
    writer_prompts: int = 0
    writers: tuple[str, ...] = ()


SCALES = {
    "quick": Scale(
        questions=60,
        batches=16,
        prompts=64,
        estimators=("GRPO", "Dr.GRPO", "GDPO", "gates", "ReCal", "ReCal without group deviation"),
        steps=200,
        trained=("GRPO", "GDPO", "ReCal"),
    ),
    "full": Scale(
        questions=150,
        batches=60,
        prompts=64,
        estimators=tuple(ESTIMATORS),
        steps=1000,
        trained=tuple(list(ESTIMATORS)[:8]),  # all but two variants of ReCal
        school=700,
        writer_steps=60,
        writer_prompts=8,
        writers=("GRPO", "GDPO", "ReCal"),
    ),
}
SEEDS = {"quick": [10, 11, 12], "full": [10, 11, 12, 13, 14]}
"""Seeds that are judged: neither those that arms are tuned on, nor 0 to 2, on which the defaults were once chosen."""
SHORT_STEPS = 250
"""Most steps of a policy in the search for settings; a router that writes has half of its own there."""
DEFAULT = "ReCal, the product's defaults"
"""Arm of policies that are trained as `noria routing train` trains one."""
SPLITS = 0.2 / 0.8
"""Questions left out over questions used: seeds are splits of one table, which overlap."""
HALVES = 0.15 / 0.7
"""The same for routers that write: they train on .7 of the table, and a seed is judged on half of the rest."""
RECORDED = "the recorded pool"
GIVEN = "the given table"
SHORT = {RECORDED: "recorded", GIVEN: "given"}
"""Words for a table in the names of claims."""


def prove(context: ProofContext) -> Evidence:
    """Record a pool, measure gradients, train policies, and judge the claims."""
    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = context.seeds or SEEDS[context.scale]
    path = context.folder / "table.jsonl"
    recording = {"table": (scale.questions, str(path))}
    (recorded,) = context.map(run_record, recording, label="recording")
    if not path.exists():  # the result is remembered, the table was removed
        recorded = run_record(scale.questions, str(path))
    tables = {RECORDED: recorded["path"]}
    given = context.given.get("table")
    if given is not None:
        tables[GIVEN] = str(given.resolve())
    gradients = {name: _gradients(context, scale, seeds, name, file) for name, file in tables.items()}
    trained = {name: _trained(context, scale, seeds, name, file) for name, file in tables.items()}
    written = _written(context, scale, seeds, recorded["path"]) if scale.school else {}
    return Evidence(
        system="routing",
        claims=claims(gradients, trained, written),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "scikit-learn", "trl"),
        figures=figures(gradients, trained, written, recorded["path"]),
        notes=notes(scale, seeds, given),
        config=asdict(scale) | {"seeds": seeds, "tables": list(tables)},
    )


def _by_arm(
    context: ProofContext,
    function: Any,
    jobs: Mapping[tuple[str, int], tuple[str, Sequence[Any]]],
    label: str,
) -> Results:
    """Run jobs {(arm, seed): (name, arguments)}, and collect their results by arm."""
    results = context.map(function, dict(jobs.values()), label=label)
    collected: Results = {}
    for (arm, _), result in zip(jobs, results, strict=True):
        collected.setdefault(arm, []).append(result)
    return collected


def _gradients(
    context: ProofContext, scale: Scale, seeds: Sequence[int], name: str, file: str
) -> list[dict[str, Any]]:
    few = max(1, scale.batches // 2)
    weights = tuned_weights(context, name, file, scale.estimators, few, scale.prompts)
    jobs = {
        f"gradients on {name}, seed {seed}": (file, weights, seed, scale.batches, scale.prompts)
        for seed in seeds
    }
    return context.map(run_gradients, jobs, label=f"gradients on {name}")


def _trained(context: ProofContext, scale: Scale, seeds: Sequence[int], name: str, file: str) -> Results:
    steps = min(scale.steps, SHORT_STEPS)

    def job(arm: str, seed: int, own: Settings) -> tuple[Any, ...]:
        return (file, arm, seed, steps, own)

    settings = tuned(context, run_training, TRAINING, job, scale.trained, f"policies on {name}", "macro")
    jobs = {
        (arm, seed): (f"{arm} on {name}, seed {seed}", (file, arm, seed, scale.steps, settings[arm]))
        for seed in seeds
        for arm in scale.trained
    }
    defaults = {(DEFAULT, seed): (f"defaults on {name}, seed {seed}", (file, seed)) for seed in seeds}
    return _by_arm(context, run_training, jobs, f"policies on {name}") | _by_arm(
        context, run_default, defaults, f"default policies on {name}"
    )


def _written(context: ProofContext, scale: Scale, seeds: Sequence[int], file: str) -> Results:
    school = context.folder / "school"
    context.map(run_school, {"school": (file, scale.school, str(school))}, label="the router's school")
    if not school.is_dir():  # the result is remembered, the model was removed
        run_school(file, scale.school, str(school))
    size = (scale.writer_steps, scale.writer_prompts)
    short = (scale.writer_steps // 2, scale.writer_prompts)

    def job(arm: str, seed: int, own: Settings) -> tuple[Any, ...]:
        return (file, str(school), ESTIMATORS[arm], seed, *short, own)

    settings = tuned(context, run_writer, WRITING, job, scale.writers, "routers that write", "area")
    jobs = {
        (arm, seed): (
            f"writer by {arm}, seed {seed}",
            (file, str(school), ESTIMATORS[arm], seed, *size, settings[arm]),
        )
        for seed in seeds
        for arm in scale.writers
    }
    return _by_arm(context, run_writer, jobs, "routers that write")


# -- what is claimed --------------------------------------------------------------------------------------------------


def claims(
    gradients: Mapping[str, list[dict[str, Any]]], trained: Mapping[str, Results], written: Results
) -> list[Claim]:
    """Make the claims whose arms were measured."""
    measured = [claim for name, results in gradients.items() for claim in _gradient_claims(name, results)]
    measured += [claim for name, arms in trained.items() for claim in _training_claims(name, arms)]
    return [*measured, *(_writer_claims(written) if written else [])]


def _gradient_claims(name: str, results: list[dict[str, Any]]) -> Iterator[Claim]:
    def arms(condition: str, what: str) -> dict[str, list[float]]:
        return {e: [float(r[condition][e][what]) for r in results] for e in results[0][condition]}

    def told(condition: str, *names: str) -> dict[str, Arm]:
        tries = 0 if condition == "scale" else TRIES  # every rollout is readable there
        return {name: paid(name, results[0][condition][name], tries=tries) for name in names}

    claim = partial(_claim, better="higher", overlap=SPLITS)
    short, unreadable = SHORT[name], "cosine to the exact gradient, 30 % unreadable"
    yield claim(
        f"{short}-gates-over-grpo",
        "With three of ten rollouts unreadable, and each at its best weight of form, gates bring the gradient nearer "
        f"to the exact one than GRPO, by more than 0.10 of cosine, on {name}",
        unreadable,
        arms("form", "cosine"),
        paid=told("form", "gates", "GRPO"),
        subject="gates",
        margin=0.10,
    )
    yield claim(
        f"{short}-recal-combined",
        "With unreadable rollouts, unequal reward scales and uneven sampling together, ReCal's cosine is "
        f"more than 1.5 times GRPO's, on {name}",
        "cosine to the exact gradient, all three together",
        arms("both", "cosine"),
        paid=told("both", "ReCal", "GRPO"),
        comparison="log_ratio",
        margin=math.log(1.5),
    )
    yield claim(
        f"{short}-data-sets-even",
        "Where rewards differ in scale and nothing is divided by a group's deviation, scaling by data "
        f"set evens the data sets' shares of the gradient, on {name}",
        "evenness of the data sets' shares of the squared gradient, rewards × 0.2, 1, 5",
        arms("scale", "evenness"),
        paid=told("scale", "ReCal without group deviation", "Dr.GRPO"),
        subject="ReCal without group deviation",
        baseline="Dr.GRPO",
    )
    if "gates and variance" in results[0]["form"]:
        yield claim(
            f"{short}-variance-weight",
            f"Weighting groups by their variance brings the gradient nearer to the exact one, on {name}",
            unreadable,
            arms("form", "cosine"),
            paid=told("form", "gates and variance", "gates"),
            subject="gates and variance",
            baseline="gates",
        )


PARITY = 0.02


def _training_claims(name: str, arms: Results) -> Iterator[Claim]:
    ends = {arm: [float(r["macro"]) for r in results] for arm, results in arms.items()}
    spreads = {arm: [float(r["spread"]) for r in results] for arm, results in arms.items()}
    less = f"GRPO less {PARITY}"
    told = {name: paid(name, arms[name][0]) for name in ("ReCal", "GRPO")}
    own = paid(DEFAULT, arms[DEFAULT][0], tries=0)
    single = Arm("best single", "rollouts", 0.0)
    yield _claim(
        f"{SHORT[name]}-over-best-single",
        f"A policy that is trained with the product's defaults ends above the best single route, on {name}",
        "macro accuracy on questions that were not seen",
        {
            DEFAULT: ends[DEFAULT],
            "best single": [float(r["baselines"]["best_single"]) for r in arms[DEFAULT]],
        },
        better="higher",
        subject=DEFAULT,
        baseline="best single",
        overlap=SPLITS,
        paid={DEFAULT: own, "best single": single},
    )
    yield _claim(
        f"{SHORT[name]}-parity",
        f"Policies trained with ReCal end at most {PARITY} of accuracy below GRPO's, on {name}",
        "macro accuracy on questions that were not seen",
        ends | {less: [value - PARITY for value in ends["GRPO"]]},
        better="higher",
        baseline=less,
        overlap=SPLITS,
        paid=told | {less: replace(told["GRPO"], name=less)},
    )
    yield _claim(
        f"{SHORT[name]}-steadier",
        f"At the end of training ReCal's accuracy moves less than GRPO's, on {name}",
        "deviation of macro accuracy over the last fifth of training",
        spreads,
        better="lower",
        overlap=SPLITS,
        paid=told,
    )


def _writer_claims(written: Results) -> Iterator[Claim]:
    def arms(key: str) -> dict[str, list[float]]:
        return {arm: [float(r[key]) for r in results] for arm, results in written.items()}

    told = {arm: paid(arm, results[0]) for arm, results in written.items()}
    claim = partial(_claim, overlap=HALVES, paid=told)
    for baseline, name in (("GRPO", "learns"), ("GDPO", "learns-gdpo")):
        yield claim(
            f"writer-{name}",
            f"A router that writes has a higher accuracy over its training with ReCal than with {baseline}",
            "mean macro accuracy over the training, on questions that were not seen",
            arms("area"),
            better="higher",
            baseline=baseline,
        )
    yield claim(
        "writer-form",
        "Late in training fewer rollouts are malformed with ReCal than with GRPO",
        "share of malformed rollouts in the last fifth of training",
        arms("malformed_late"),
        better="lower",
    )
    yield claim(
        "writer-steadier",
        "A router that writes falls back less in training with ReCal than with GRPO",
        "deepest fall of macro accuracy from an earlier height",
        arms("drawdown"),
        better="lower",
    )


def _claim(id: str, statement: str, metric: str, arms: dict[str, list[float]], **more: Any) -> Claim:
    """A claim of the paper: ReCal against GRPO, where `more` does not say otherwise."""
    return Claim(
        id=id,
        statement=statement,
        metric=metric,
        arms=arms,
        source=SOURCE,
        **{"subject": "ReCal", "baseline": "GRPO"} | more,
    )


# -- what a reader must know ------------------------------------------------------------------------------------------


def notes(s: Scale, seeds: Sequence[int], given: Path | None) -> list[str]:
    """Notes on the proof's size, its reconstruction and its settings."""
    words = [
        "The paper's equations and tables could not be read; what is tested is the reconstruction that the "
        "documentation states, stage by stage.",
        f"The recorded pool's solvers were trained on at most {s.questions} questions of each data set and asked at "
        f"most {s.questions} others. Every estimator has {len(seeds)} seeds, {', '.join(map(str, seeds))}: they differ "
        "in the split of the table, in the policies and in all rollouts; the table is the same.",
        "A policy that chooses once learns whom to ask; that all estimators end at about one accuracy is what others "
        "find, too (arXiv 2606.07587), and is claimed here as parity only.",
        "Form is pure noise in these rollouts, so that its weight λ decides much: every arm has the best of "
        f"{', '.join(f'{w:g}' for w in WEIGHTS)} on seeds {' and '.join(map(str, TUNING_SEEDS))}, by condition. "
        "Policies have the best of six settings of λ, of what entropy is worth and of the learning rate, the defaults "
        "among them, by accuracy on these seeds. A proof that held every arm at λ = 1 had found gates nearer than GRPO "
        "by .15 of cosine. GDPO whose form has the weight 0 is GRPO, and so it has no claim of its own.",
        "A failure is worth 0: the one rollout of ten that is lost earns no answer, in training as in use. Seeds are "
        "splits of one table; intervals are widened for what they share (Nadeau and Bengio).",
    ]
    if s.school:
        words.append(
            f"The router that writes has {len(seeds)} seeds of each of {', '.join(s.writers)}, {s.writer_steps} steps "
            f"of {s.writer_prompts} questions × 8 rollouts; all begin with one model, which was taught the grammar "
            "with a third of its lessons malformed."
        )
    else:
        words.append("The quick proof leaves out half of the estimators and the router that writes.")
    if given is None:
        words.append(
            "No published table was given; `--table PATH` runs the same grid on one, such as the folder of LLMRouter's "
            "train.json, default_query_train.jsonl and default_llm.json."
        )
    else:
        words.append(_described(given))
    return words


def _described(path: Path) -> str:

    table = import_table(path)
    return (
        f"The given table, {path.name}, has {len(table.questions):,} questions of {len(set(table.dataset))} data sets "
        f"and {len(table.routes)} routes. No claim is about its costs."
    )
