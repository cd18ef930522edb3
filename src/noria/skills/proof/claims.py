"""What SkillChain (arXiv 2606.12984) claims, and what this package claims of its gates, measured in the picture world.

The paper's numbers are of a large model on a shop's traffic and are not reproduced; its order of configurations, its
ablations and its gates are tried on a world whose truth is known. The assistant of the many seeds is a simulation that
obeys what its body states; that it does is a setting and no claim. A few seeds have a neural assistant trained here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from noria.skills.proof.arms import run_chain, run_gates, run_neural, run_queue

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext

SOURCE = "arXiv 2606.12984"


@dataclass(frozen=True)
class Scale:
    """Sizes of the experiments.

    Attributes:
        size: labelled requests of a seed's pool.
        candidates: candidates before each gate.
        steps: steps of the neural assistant's training.
        neural: seeds with a neural assistant.
    """

    size: int
    candidates: int
    steps: int
    neural: int


SCALES = {"quick": Scale(1000, 50, 300, 1), "full": Scale(3000, 200, 1500, 5)}
SEEDS = {"quick": list(range(1, 11)), "full": list(range(1, 21))}
JUDGED = 300
"""Number that is added to a seed. This package's settings saw seeds 101 to 106; a first proof of six seeds,
from 201 on, showed that six are few; nothing was looked at on these."""
SEARCHED = {"tries": 60, "tuning_seeds": (101, 102, 103, 104)}
"""Tries and seeds of the search for the three numbers of the queue of missing skills; nothing else was searched."""
Rows = Sequence[Mapping[str, Any]]


def prove(context: ProofContext) -> Evidence:
    """Run the arms of every seed and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [JUDGED + s for s in (context.seeds or SEEDS[context.scale])]
    chains = context.map(run_chain, {f"chain, seed {s}": (s, scale.size) for s in seeds}, label="chains")
    gates = context.map(run_gates, {f"gates, seed {s}": (s, scale.candidates) for s in seeds}, label="gates")
    queues = context.map(run_queue, {f"queue, seed {s}": (s, scale.size) for s in seeds}, label="queues")
    neural = context.map(
        run_neural,
        {f"neural, seed {s}": (s, scale.size // 2, scale.steps) for s in seeds[: scale.neural]},
        label="neural assistants",
    )
    return Evidence(
        system="skills",
        claims=claims(chains, gates, queues, neural, scale),
        checks=checks(chains, gates, neural, scale),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "tokenizers"),
        figures=figures(chains, neural),
        notes=notes(chains, neural),
        config=asdict(scale) | {"seeds": seeds},
    )


def claims(chains: Rows, gates: Rows, queues: Rows, neural: Rows, scale: Scale) -> list[Claim]:
    """The claims over all seeds."""
    made = _stages(chains, scale)
    made += _gates(gates, chains, scale)
    made += [
        _ablation(chains, name, scale) for name in ("no judge", "no rules", "no induction", "no aggregation")
    ]
    healed: dict[str, list[float | None]] = {
        kind: [row["healed"][kind] for row in chains] for kind in ("structural", "content")
    }
    made.append(
        _claim("structural-first", "Structural faults heal in fewer rounds than faults of content",
               "round of the repair",
               "lower", "structural", "content", healed, scale.size, source=SOURCE)
    )  # fmt: skip
    for figure in ("precision", "recall"):
        values = {"queue": [float(row[figure]) for row in queues], "a bar of .8": [0.8] * len(queues)}
        made.append(
            _claim(f"queue-{figure}", f"The queue of missing skills has a {figure} of at least .8", figure, "higher",
                   "queue", "a bar of .8", values, scale.size, tuned=SEARCHED)
        )  # fmt: skip
    found = {"planned test": [float(r["ab"]["found"]) for r in chains], "planned power": [0.8] * len(chains)}
    made.append(
        _claim("planned-power", "The A/B test of the full chain finds its effect more often than planned",
               "share of tests", "higher", "planned test", "planned power", found, scale.size)
    )  # fmt: skip
    if len(neural) > 1:
        values_ = {name: [float(r["quality"][name]) for r in neural] for name in ("S1+S2", "full")}
        made.append(
            _claim("neural", "With a neural assistant and a learned judge, stage 3 raises the true quality",
                   "true score", "higher", "full", "S1+S2", values_, scale.size)
        )  # fmt: skip
    return made


def _claim(
    id: str,
    statement: str,
    metric: str,
    better: Literal["lower", "higher"],
    subject: str,
    baseline: str,
    values: Mapping[str, Sequence[float | None]],
    spent: int,
    *,
    margin: float = 0.0,
    source: str = "",
    tuned: Mapping[str, Any] | None = None,
) -> Claim:
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim

    paid = {name: Arm(name, "labelled requests", spent) for name in (subject, baseline)}
    paid[subject] = Arm(subject, "labelled requests", spent, **(tuned or {}))
    return Claim(
        id, statement, metric, better, subject, baseline, values, margin=margin, source=source, paid=paid
    )


def _stages(chains: Rows, scale: Scale) -> list[Claim]:
    names = ("no skill", "manual", "S1", "S1+S2", "full")
    quality = {name: [float(row["quality"][name]) for row in chains] for name in names}
    f1 = {
        half: {name: [float(row["f1"][half][name]) for row in chains] for name in names[1:]}
        for half in ("known", "new")
    }

    def raises(id: str, statement: str, subject: str, baseline: str) -> Claim:
        return _claim(
            id, statement, "true score", "higher", subject, baseline, quality, scale.size, source=SOURCE
        )

    return [
        raises("stage-1", "Skills written by stage 1 are better than no skill", "S1", "no skill"),
        raises("stage-2", "Stage 2 raises the true quality of stage 1", "S1+S2", "S1"),
        raises("stage-3", "Stage 3 raises the true quality of stage 2", "full", "S1+S2"),
        raises("manual", "The full chain is better than skills that a person wrote without traffic", "full", "manual"),
        _claim(
            "routing-known", "Stage 2 lifts routing in known wording on things that it never saw", "macro F1", "higher",
            "S1+S2", "S1", f1["known"], scale.size,
        ),
        _claim(
            "routing-new", "Stage 2 lifts routing on wording that it never saw", "macro F1", "higher", "S1+S2", "S1",
            f1["new"], scale.size, source=SOURCE,
        ),
    ]  # fmt: skip


def _gates(gates: Rows, chains: Rows, scale: Scale) -> list[Claim]:
    noise = {g: [float(row[f"noise, {g}"]) for row in gates] for g in ("paired", "monotone")}
    harm = {
        name: [float(row["quality"][name]) for row in chains]
        for name in ("harmful, paired", "harmful, monotone", "harmful, no gate")
    }
    return [
        _claim(
            "gate-noise", "The paired gate accepts far less pure noise than the monotone gate", "share accepted",
            "lower", "paired", "monotone", noise, scale.size, margin=0.25,
        ),
        _claim(
            "gate-harm", "With a proposer that harms, the paired gate keeps more quality than no gate", "true score",
            "higher", "harmful, paired", "harmful, no gate", harm, scale.size,
        ),
    ]  # fmt: skip


def _ablation(chains: Rows, name: str, scale: Scale) -> Claim:
    values = {arm: [float(row["quality"][arm]) for row in chains] for arm in ("full", name)}
    return _claim(
        f"ablation-{name.split()[1]}", f"Stage 3 with {name} is worse", "true score", "higher", "full", name, values,
        scale.size, source=SOURCE,
    )  # fmt: skip


def checks(chains: Rows, gates: Rows, neural: Rows, scale: Scale) -> list[Check]:
    """What must hold in every seed."""
    from noria.core.proofs.proof import Check
    from noria.skills.judging.rubric import DIMENSIONS, Rubric

    attacks = sum(row["poison"]["reached"] for row in chains)
    tools = sum(not row["poison"]["tools"] for row in chains)
    share = float(np.mean([row["noise, paired"] for row in gates]))
    tried = scale.candidates * len(gates)
    alpha = 0.05 * 6 / np.pi**2
    bar = alpha + 4 * np.sqrt(alpha * (1 - alpha) / tried)
    published = {"TCR": 61.3, "CCC": 72.2, "CQ": 82.3, "CA": 62.7}
    sizes = Rubric().dimensions
    mean = sum(sizes[n].points * published[n] for n in DIMENSIONS) / sum(sizes[n].points for n in DIMENSIONS)
    stated = [row["stated"] for row in neural]
    return [
        Check(
            "poison",
            "No attack in requests or in a judge's words reaches a body, and no skill gets a tool",
            attacks == 0 and tools == 0,
            f"{attacks} bodies reached, {tools} lists of tools changed, in {len(chains)} seeds",
        ),
        Check(
            "gate-level",
            "The paired gate accepts pure noise at most at its first round's level",
            share <= bar,
            f"{share:.3f} of {tried} candidates, level {alpha:.3f}",
        ),
        Check(
            "weights",
            "The paper's percentages by dimension give its mean of 72.2 when weighted by points",
            abs(mean - 72.2) < 0.05,
            f"{mean:.2f}",
            SOURCE,
        ),
        Check(
            "sensitivity",
            "The neural assistant meets a need more often where its body states it",
            all(row["stated"] > row["unstated"] + 0.2 for row in neural),
            f"stated {np.mean(stated):.2f}, not stated {np.mean([r['unstated'] for r in neural]):.2f}",
        ),
    ]


def figures(chains: Rows, neural: Rows) -> list[Figure]:
    """Means of every configuration."""
    from noria.core.pages.charts import Figure

    names = list(chains[0]["quality"])
    rows = [
        _mean_row(
            name,
            [row["quality"][name] for row in chains],
            *([row["f1"][half].get(name) for row in chains] for half in ("known", "new")),
        )
        for name in names
    ]
    heads = ["configuration", "true score", "sd over seeds", "macro F1, known wording", "new wording"]
    shown = [Figure.table("Configurations", heads, rows,
                          "Mean over seeds, on things of no pool; half of the requests have wordings of the pools. The "
                          "score counts misroutes.")]  # fmt: skip
    learned = [[n, row["quality"]["S1"], row["quality"]["S1+S2"], row["quality"]["full"], row["judge"], row["stated"],
                row["unstated"]] for n, row in enumerate(neural, start=1)]  # fmt: skip
    header = ["seed", "S1", "S1+S2", "full", "judge's rank correlation", "met if stated", "met if not"]
    return [*shown, Figure.table("Neural assistant and learned judge", header, learned)]


def _mean_row(name: str, quality: Sequence[float], *sides: Sequence[float | None]) -> list[Any]:
    known = [[v for v in side if v is not None] for side in sides]
    means = [float(np.mean(side)) if side else None for side in known]
    return [name, float(np.mean(quality)), float(np.std(quality)), *means]


def notes(chains: Rows, neural: Rows) -> list[str]:
    """What a reader needs beside the claims."""
    from noria.skills.proof.pictures import make_catalogue

    catalogue = make_catalogue()
    mean: Callable[[str], float] = lambda name: float(np.mean([row["quality"][name] for row in chains]))  # noqa: E731
    false = [row["ab"]["false"] for row in chains if row["ab"]["false"] is not None]
    return [
        f"Image search finds the right one of {len(catalogue.things)} things first for "
        f"{catalogue.recall(~catalogue.learned):.0%} of those that its weights were not learned on.",
        "The simulated assistant meets a need with .95 where the body says its sentence, .75 where it names the fault "
        "and .35 else: settings, not findings. How much stage 3 gains follows from them; that it finds the faults "
        "among spurious ones does not. No judge quotes the sentence that a body lacks.",
        f"Under a proposer that harms, mean true scores are {mean('harmful, paired'):.1f} with the paired gate, "
        f"{mean('harmful, monotone'):.1f} with the monotone one and {mean('harmful, no gate'):.1f} with none.",
        f"Tests without an effect found one in {np.mean(false):.1%} of the runs."
        if false
        else "No test could be planned.",
        f"{len(neural)} seeds have a neural assistant; a single one gives a figure and no claim.",
    ]
