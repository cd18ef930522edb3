"""The claims of iTryOn (arXiv 2605.21431) at a size that fits a laptop.

A real Wan-VACE transformer of .4 million weights learns clips of a procedural world. In E1 captions alone tell what
happens when; in E2 the hand is on the same path whether it touches the cloth or not. Judged clips have motions,
colours and combinations of words that no training clip has.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from noria.core.proofs.arms import Arm, best_candidate
from noria.tryon.proof.arms import ARMS, CHOSEN, QUICK, RATES, SCALES, SEEDS, TUNED_ON, UNIT
from noria.tryon.proof.checks import identities, ruler
from noria.tryon.proof.learning import Scale, run_arm

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext

Results = Mapping[str, list[dict[str, Any]]]
SOURCE = "arXiv 2605.21431"
CLAIMS = {
    "arope-bag": (
        "A-RoPE",
        "Bag of captions",
        "action_accuracy",
        "With A-RoPE the right action shows at its time more often than with a bag of captions, by 40 points",
        0.4,
    ),
    "arope-error": (
        "A-RoPE",
        "Bag of captions",
        "action_error",
        "With A-RoPE frames with an action are nearer to the truth than with a bag of captions",
        0.0,
    ),
    "arope-stamps": (
        "A-RoPE",
        "Time stamps in text",
        "action_accuracy",
        "A-RoPE binds captions to their time better than time stamps in the text",
        0.0,
    ),
    "arope-relay": (
        "A-RoPE",
        "Relay penalty",
        "action_accuracy",
        "A-RoPE binds captions to their time better than Prompt Relay's penalty, trained with it",
        0.0,
    ),
    "hands-wrist": (
        "3-D hand map",
        "Wrist path",
        "segment_accuracy",
        "A 3-D hand map tells contact from hovering where the 2-D path cannot, by 25 points of all segments",
        0.25,
    ),
    "hands-keypoints": (
        "3-D hand map",
        "2-D keypoints",
        "segment_accuracy",
        "A 3-D hand map tells contact from hovering better than 21 joints in 2-D",
        0.0,
    ),
    "constraint": (
        "Rare actions, constraint",
        "Rare actions, no constraint",
        "action_error",
        "Where 6 % of the training's frames have an action, the constraint lowers the error on such frames",
        0.0,
    ),
    "ladder-hands": (
        "(c) hands",
        "(b) clips with actions",
        "clip_accuracy",
        "Hands make more clips right in all segments than the pose alone (the ladder's c over b)",
        0.0,
    ),
    "ladder-captions": (
        "(d) captions by A-RoPE",
        "(c) hands",
        "clip_accuracy",
        "Captions by A-RoPE make more clips right in all segments than hands alone (the ladder's d over c)",
        0.0,
    ),
}
"""By id: subject, baseline, metric, words, margin. The first and `hands-wrist` have the pilot's margins."""


def prove(context: ProofContext) -> Evidence:
    """Train and judge all arms, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + seed for seed in context.seeds] if context.seeds else SEEDS[context.scale]
    names = list(ARMS) if context.scale == "full" else list(QUICK)
    rates = _tuned(context, names) if context.scale == "full" else {name: CHOSEN[name] for name in names}
    jobs = {
        f"{name}, seed {seed}": (name, ARMS[name], seed, rates[name], asdict(scale))
        for name in names
        for seed in seeds
    }
    results = context.map(run_arm, jobs, label="arms")
    table = {name: results[n * len(seeds) : (n + 1) * len(seeds)] for n, name in enumerate(names)}
    return Evidence(
        system="tryon",
        claims=claims(table, rates, scale, tuned=context.scale == "full"),
        checks=checks(table),
        seconds=time.perf_counter() - began,
        versions=versions("torch", "diffusers"),
        figures=figures(table),
        notes=notes(context.scale, scale, len(seeds)),
        config=asdict(scale)
        | {"seeds": seeds, "arms": {name: ARMS[name] | {"rate": rates[name]} for name in names}},
    )


def _tuned(context: ProofContext, names: list[str]) -> dict[str, float]:
    """The best learning rate of each arm, by its error on frames with an action, at a third of the steps."""
    scale = Scale(steps=SCALES["full"].steps // 3, judged=48)
    jobs = {
        f"{name}, rate {rate:g}": (name, ARMS[name], TUNED_ON[0], rate, asdict(scale))
        for name in names
        for rate in RATES
    }
    found = context.map(run_arm, jobs, label="tuning")
    chosen = {}
    for place, name in enumerate(names):
        part = found[place * len(RATES) : (place + 1) * len(RATES)]
        chosen[name] = RATES[best_candidate([[row["action_error"]] for row in part], "lower")]
    return chosen


def claims(table: Results, rates: Mapping[str, float], scale: Scale, *, tuned: bool) -> list[Claim]:
    """The claims whose arms are in `table`.

    Args:
        table: results by arm, one for each seed.
        rates: learning rate of each arm.
        scale: size of the proof.
        tuned: whether the rates were searched.
    """
    from noria.core.proofs.proof import Claim

    made = []
    for name, (subject, baseline, metric, statement, margin) in CLAIMS.items():
        if subject not in table or baseline not in table:
            continue
        error = metric.endswith("error")
        made.append(
            Claim(
                id=name,
                statement=statement,
                metric=metric,
                better="lower" if error else "higher",
                subject=subject,
                baseline=baseline,
                arms={arm: [row[metric] for row in table[arm]] for arm in (subject, baseline)},
                comparison="log_ratio" if error else "difference",
                margin=margin,
                source=SOURCE,
                paid={
                    arm: Arm(
                        arm,
                        UNIT,
                        scale.steps,
                        tries=len(RATES) if tuned else 0,
                        tuning_seeds=TUNED_ON if tuned else (),
                        settings={"rate": rates[arm]},
                    )
                    for arm in (subject, baseline)
                },
            )
        )
    return made


def checks(table: Results) -> list[Check]:
    """What must hold: identities of the model, the ruler on true clips, and chance for the bag of captions."""
    from noria.core.proofs.proof import Check

    found = [*identities(), ruler()]
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
        f"{scale.steps} steps of {scale.batch} clips, {scale.judged} judged clips a seed, {seeds} seeds. The micro "
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
