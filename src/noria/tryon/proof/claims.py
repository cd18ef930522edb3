"""The claims of iTryOn (arXiv 2605.21431) at a size that fits a laptop.

A real Wan-VACE transformer of .4 million weights learns clips of a procedural world. In E1 captions alone tell what
happens when; in E2 the hand is on the same path whether it touches the cloth or not. Judged clips have motions,
colours and combinations of words that no training clip has.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from noria.core.proofs.arms import Arm, best_candidate
from noria.tryon.proof.arms import (
    ARMS,
    CHOSEN,
    CHOSEN_BY,
    LIKE,
    QUICK,
    RATES,
    SCALES,
    SEEDS,
    STUDIED,
    TUNED_ON,
    UNIT,
)
from noria.tryon.proof.checks import identities, rays, ruler
from noria.tryon.proof.learning import Scale, run_arm

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext

Results = Mapping[str, list[dict[str, Any]]]
SOURCE = "arXiv 2605.21431"
PILOT = "the pilot's least"
IDLE = "always naming none"
LEVELS = {"arope-level": 0.6, "hands-level": 0.85}
"""Values that an arm has to be above, from the pilot."""


@dataclass(frozen=True)
class Wanted:
    """A claim before it is measured: subject, baseline, metric, words, margin, and how the two are compared."""

    subject: str
    baseline: str
    metric: str
    statement: str
    margin: float = 0.0
    comparison: Literal["difference", "log_ratio"] = "difference"


CLAIMS = {
    "arope-level": Wanted(
        "A-RoPE",
        PILOT,
        "action_accuracy",
        "With A-RoPE the right action shows at its time in more than 60 % of the segments that have one",
    ),
    "arope-bag": Wanted(
        "A-RoPE",
        "Bag of captions",
        "action_accuracy",
        "With A-RoPE the right action shows at its time three times as often as with a bag of captions, or more",
        math.log(3),
        "log_ratio",
    ),
    "arope-error": Wanted(
        "A-RoPE",
        "Bag of captions",
        "action_error",
        "With A-RoPE the error of frames with an action is at most .4 of that with a bag of captions",
        math.log(1 / 0.4),
        "log_ratio",
    ),
    "arope-stamps": Wanted(
        "A-RoPE",
        "Time stamps in text",
        "action_accuracy",
        "A-RoPE binds captions to their time better than time stamps in the text",
    ),
    "arope-relay": Wanted(
        "A-RoPE",
        "Relay penalty",
        "action_accuracy",
        "A-RoPE binds captions to their time better than Prompt Relay's penalty, trained with it",
    ),
    "hands-level": Wanted(
        "3-D hand map",
        PILOT,
        "segment_accuracy",
        "With a 3-D hand map more than 85 % of the segments are right",
    ),
    "hands-wrist": Wanted(
        "3-D hand map",
        "Wrist path",
        "segment_accuracy",
        "A 3-D hand map tells contact from hovering where the 2-D path cannot, by 25 points of all segments",
        0.25,
    ),
    "hands-idle": Wanted(
        "3-D hand map",
        IDLE,
        "segment_accuracy",
        "A 3-D hand map is better than naming no action ever, by 25 points of all segments",
        0.25,
    ),
    "constraint": Wanted(
        "Rare actions, constraint",
        "Rare actions, no constraint",
        "action_error",
        "Where 6 % of the training's frames have an action, the constraint lowers the error on such frames",
        comparison="log_ratio",
    ),
    "ladder-hands": Wanted(
        "(c) hands",
        "(b) clips with actions",
        "clip_accuracy",
        "Hands make more clips right in all segments than the pose alone (the ladder's c over b)",
    ),
    "ladder-captions": Wanted(
        "(d) captions by A-RoPE",
        "(c) hands",
        "clip_accuracy",
        "Captions by A-RoPE make more clips right in all segments than hands alone (the ladder's d over c)",
    ),
}
"""The claims by id; levels, ratios and margins of E1 and E2 are the pilot's."""
CLAIMED = {arm for wanted in CLAIMS.values() for arm in (wanted.subject, wanted.baseline)} & ARMS.keys()
"""Arms that a claim is about: they are tuned, and trained on every seed."""


def prove(context: ProofContext) -> Evidence:
    """Train and judge all arms, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + seed for seed in context.seeds] if context.seeds else SEEDS[context.scale]
    full = context.scale == "full"
    names = list(ARMS) if full else list(QUICK)
    rates = _tuned(context) if full else {name: CHOSEN[name] for name in names}
    own = {name: seeds if name in CLAIMED else seeds[:STUDIED] for name in names}
    jobs = {
        f"{name}, seed {seed}": (name, ARMS[name], seed, rates[name], asdict(scale))
        for name in names
        for seed in own[name]
    }
    results = iter(context.map(run_arm, jobs, label="arms"))
    table = {name: [next(results) for _ in own[name]] for name in names}
    return Evidence(
        system="tryon",
        claims=claims(table, rates, scale, tuned=full),
        checks=checks(table),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "diffusers"),
        figures=figures(table),
        notes=notes(context.scale, scale, len(seeds)),
        config=asdict(scale)
        | {"seeds": seeds, "arms": {name: ARMS[name] | {"rate": rates[name]} for name in names}},
    )


def _tuned(context: ProofContext) -> dict[str, float]:
    """The best learning rate of each arm of a claim, at a third of the steps, on clips that nothing is judged on."""
    scale, names = Scale(steps=SCALES["full"].steps // 3, judged=48), sorted(CLAIMED)
    jobs = {
        f"{name}, rate {rate:g}": (name, ARMS[name], TUNED_ON[0], rate, asdict(scale), "tune")
        for name in names
        for rate in RATES
    }
    found = context.map(run_arm, jobs, label="tuning")
    chosen = {}
    for place, name in enumerate(names):
        part = found[place * len(RATES) : (place + 1) * len(RATES)]
        chosen[name] = RATES[best_candidate([[_short(ARMS[name], row)] for row in part], "lower")]
    return chosen | {name: chosen[like] for name, like in LIKE.items()}


def _short(arm: Mapping[str, Any], row: Mapping[str, float]) -> float:
    """Return the shortfall of an arm in the figure that it is tuned for; the least one is chosen."""
    if arm.get("trained_on") == "sparse":
        return row["action_error"]
    return 1e-3 * row["action_error"] - row[CHOSEN_BY[arm.get("task", "captions")]]


def claims(table: Results, rates: Mapping[str, float], scale: Scale, *, tuned: bool) -> list[Claim]:
    """The claims whose arms are in `table`.

    Args:
        table: results by arm, one for each seed.
        rates: learning rate of each arm.
        scale: size of the proof.
        tuned: whether the rates were searched.
    """
    from noria.core.proofs.proof import Claim

    def paid(arm: str) -> Arm:
        if arm not in ARMS:
            return Arm(arm, UNIT, 0)
        tries, seeds = (len(RATES), TUNED_ON) if tuned else (0, ())
        return Arm(
            arm, UNIT, scale.steps, tries=tries, tuning_seeds=seeds, settings={"rate": rates[arm]}
        )  # fmt: skip

    made = []
    for name, wanted in CLAIMS.items():
        rows = table.get(wanted.subject, [])
        fixed = {
            PILOT: [LEVELS.get(name, math.nan)] * len(rows),
            IDLE: [row["idle_share"] for row in rows],
        }
        rival = fixed.get(wanted.baseline) or [row[wanted.metric] for row in table.get(wanted.baseline, [])]
        if not rows or not rival:
            continue
        made.append(
            Claim(
                id=name,
                statement=wanted.statement,
                metric=wanted.metric,
                better="lower" if wanted.metric.endswith("error") else "higher",
                subject=wanted.subject,
                baseline=wanted.baseline,
                arms={wanted.subject: [row[wanted.metric] for row in rows], wanted.baseline: rival},
                comparison=wanted.comparison,
                margin=wanted.margin,
                source=SOURCE,
                paid={arm: paid(arm) for arm in (wanted.subject, wanted.baseline)},
            )
        )
    return made


def checks(table: Results) -> list[Check]:
    """What must hold: identities of the model, the ruler on true clips, and chance for the bag of captions."""
    from noria.core.proofs.proof import Check

    found = [*identities(), ruler(), rays()]
    if "Bag of captions" in table:
        worst = max(row["action_accuracy"] for row in table["Bag of captions"])
        found.append(
            Check(
                "bag-chance",
                "A bag of captions names no more actions than guessing one of the clip's two would (one half)",
                worst <= 0.55,
                f"highest action accuracy {worst:.3f}",
            )
        )
    return found


def figures(table: Results) -> list[Figure]:
    """A table of all arms, and pictures of what some of them made."""
    import numpy as np

    from noria.core.pages.charts import Figure, image_grid

    names = ["segment_accuracy", "action_accuracy", "idle_accuracy", "clip_accuracy", "swapped"]
    names += ["action_error", "idle_error"]
    rows = [
        [arm, *(statistics.fmean(row[name] for row in results) for name in names), results[0]["cpu_seconds"]]
        for arm, results in table.items()
    ]
    blocks = [
        Figure.table("Arms, mean over seeds", ["arm", *(n.replace("_", " ") for n in names), "CPU s"], rows)
    ]
    for arm, results in table.items():
        pairs = np.asarray(results[0]["strip"], np.uint8)[:2]  # [clips, frames, 2 size, size, 3]
        caption = "Above the truth, below the sample; a column is a frame."
        blocks.append(Figure.picture(arm, image_grid(pairs, ["clip 1", "clip 2"], scale=3), caption))
    return blocks


def notes(scale_name: str, scale: Scale, seeds: int) -> list[str]:
    """What a reader needs beside the figures."""
    text = [
        "The world is scripted: hands follow written paths and grip what they reach; the cloth is simulated. Hands are "
        "not drawn into the pictures; they reach a model by its hand map, or by dots in its control.",
        "Segments are named by the nearest of what their garment would look like, drawn of other motions.",
        f"{scale.steps} steps of {scale.batch} clips, {scale.judged} judged clips a seed, {seeds} seeds, each with a "
        f"library of motions of its own; arms that are in no claim have {min(seeds, STUDIED)}, and the rate of the arm "
        "that they are most like. Rates are chosen on motions, colours and wordings that are not judged. The micro "
        "size has no autoencoder: a latent frame is a frame, and pixels are folded into channels.",
        "The ladder's clips show the wrist in every segment, the hand map in half of them, and have captions of their "
        "actions; its steps are the paper's: data, hands, captions, constraint. Not run: the larger size with all six "
        "actions.",
    ]
    if scale_name == "quick":
        text.append(
            "One seed gives no interval: a quick proof shows the figures, and only a full one can support a claim."
        )
    return text
