"""The claims of Bebop (arXiv 2606.12370) at a scale that fits a laptop.

The small language model that ships writes text of its own; one head, warm from cross-entropy, is trained on with every
loss for equally many steps on the same batches, each loss at its own best learning rate, and scored on text that was
held out, drawn at several temperatures. The warm head itself, which is trained no further, is an arm.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from noria.core.proofs.proof import smollm2
from noria.mtp.proof.arms import (
    ARMS,
    RATES,
    REAL,
    RL_ARMS,
    SCALES,
    TUNING_SEEDS,
    Scale,
    run_arm,
    run_pace,
    run_rl,
    run_text,
    run_warm,
)
from noria.mtp.proof.figures import (
    PARTS,
    Table,
    figures,
    length,
    loss_a_nat,
    moved,
    notes,
    pace,
    pace_table,
    part,
    rl_figures,
)

if TYPE_CHECKING:
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim, Evidence, ProofContext

SEEDS = [1, 2, 3]
QUICK_ARMS = ("CE", "KL", "TV", "e2e TV")
SOURCE = "arXiv 2606.12370"
TOKENS, UPDATES = "tokens of text", "updates of the policy"
SHORT = 40
"""Fewest steps of a try in the search for learning rates, where the training has more."""
HELD_SEED = 90_001
"""Seed of the text that heads are judged on; the one behind it is that of the text they are tuned on."""


def prove(context: ProofContext) -> Evidence:
    """Write text, train and score all arms, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    scale = SCALES[context.scale]
    seeds = [1 + s for s in context.seeds] if context.seeds else SEEDS
    arms = list(ARMS) if context.scale == "full" else ["warm head", *QUICK_ARMS]
    table, paid = _heads(context, scale, seeds, arms)
    file = smollm2() if context.scale == "full" else None
    real, of_real = _heads(context, replace(REAL, model=file), seeds, arms) if file else ({}, {})
    trained, paced = _policies(context, scale.rl_steps, seeds) if scale.rl_steps else ({}, [])
    return Evidence(
        system="mtp",
        claims=[
            *claims(table, paid),
            *(_of_real(claim) for claim in (claims(real, of_real) if real else [])),
            *(rl_claims(trained, scale.rl_steps) if trained else []),
            *(pace_claims(paced, scale.rl_steps) if paced else []),
        ],
        seconds=time.perf_counter() - began,
        versions=versions("torch", "transformers"),
        figures=[
            *figures(table, paid),
            *(figures(real, of_real, "SmolLM2-135M: ") if real else []),
            *(rl_figures(trained, table) if trained else []),
            *([pace_table(paced)] if paced else []),
        ],
        notes=[*notes(context.scale, scale, seeds, bool(real)), *(moved(trained) if trained else [])],
        config=asdict(scale) | {"seeds": seeds, "arms": {name: ARMS[name] for name in arms}},
    )


def _heads(
    context: ProofContext, scale: Scale, seeds: list[int], arms: list[str]
) -> tuple[Table, dict[str, Arm]]:
    """Results of all arms on one model, and what each was paid."""
    real = scale.model != "small"
    train, held = _texts(context, scale, seeds)
    warm: list[str] = []
    if real:
        warm = [str(context.folder / "smollm2-warm.safetensors")]
        context.map(
            run_warm,
            {"SmolLM2, warm head": (asdict(scale), train[seeds[0]], warm[0])},
            label="warm head",
        )
    losses = [arm for arm in arms if ARMS[arm]]
    rates = tune(context, scale, losses, warm)
    jobs = [(arm, seed) for seed in seeds for arm in arms if ARMS[arm] or seed == seeds[0]]
    results = context.map(
        run_arm,
        {
            f"{'SmolLM2, ' * real}{arm}, seed {seed}": (
                arm,
                seed,
                asdict(scale),
                rates.get(arm, 0.0),
                train[seed],
                held,
                *warm,
            )
            for arm, seed in jobs
        },
        label="heads",
    )
    table: Table = {}
    for (arm, _), result in zip(jobs, results, strict=True):
        table.setdefault(arm, []).extend([result] if ARMS[arm] else [result] * len(seeds))
    return table, {arm: _paid(arm, scale, rates) for arm in arms}


def tune(context: ProofContext, scale: Scale, losses: list[str], warm: list[str]) -> dict[str, float]:
    """The learning rate of each loss with the greatest accept length by rejection, on text that is not judged.

    A try has a third of the steps, but no fewer than `SHORT`.

    Args:
        context: the proof.
        scale: size of the training.
        losses: arms to tune.
        warm: file of the warm head, if it is not the one that ships.
    """
    from noria.core.proofs.arms import best_candidate

    scale = replace(scale, steps=min(scale.steps, max(SHORT, scale.steps // 3)))
    train, _ = _texts(context, replace(scale, temperatures=()), list(TUNING_SEEDS))
    _, held = _texts(context, replace(scale, temperatures=(1.0,)), [], held_seed=HELD_SEED + 1)
    jobs = [(arm, lr, seed) for arm in losses for lr in RATES for seed in TUNING_SEEDS]
    start = "SmolLM2, " if warm else ""
    results = context.map(
        run_arm,
        {
            f"{start}{arm}, lr {lr:g}, seed {seed}": (arm, seed, asdict(scale), lr, train[seed], held, *warm)
            for arm, lr, seed in jobs
        },
        label="tuning",
    )
    scores = {job: length(result) for job, result in zip(jobs, results, strict=True)}
    return {
        arm: RATES[
            best_candidate([[scores[arm, lr, seed] for seed in TUNING_SEEDS] for lr in RATES], "higher")
        ]
        for arm in losses
    }


def _paid(arm: str, scale: Scale, rates: Mapping[str, float]) -> Arm:
    from noria.core.proofs.arms import Arm

    if arm not in rates:
        return Arm(arm, TOKENS, 0)
    return Arm(arm, TOKENS, scale.tokens, len(RATES), TUNING_SEEDS, {"lr": rates[arm]})


def _texts(
    context: ProofContext, scale: Scale, seeds: list[int], held_seed: int = HELD_SEED
) -> tuple[dict[int, str], dict[str, str]]:
    """Files of text: to train on by seed, to be scored on by temperature. Made once."""
    start = "" if scale.model == "small" else "smollm2-"
    train = {seed: str(context.folder / f"{start}train-{seed}.safetensors") for seed in seeds}
    name = f"{start}held" + f"-{held_seed}" * (held_seed != HELD_SEED)
    held = {str(t): str(context.folder / f"{name}-{t}.safetensors") for t in scale.temperatures}
    jobs = {
        f"{start}text, seed {seed}": (seed, scale.rows, scale.length, 1.0, path, scale.model)
        for seed, path in train.items()
    }
    jobs |= {
        f"{name}-out text, temperature {t}": (
            held_seed,
            scale.held,
            scale.length,
            float(t),
            path,
            scale.model,
        )
        for t, path in held.items()
    }
    context.map(run_text, jobs, label="text")
    return train, held


def _policies(context: ProofContext, steps: int, seeds: list[int]) -> tuple[Table, list[dict[str, Any]]]:
    """Runs of reinforcement learning by arm; and those that train in turn with and without drafts, one a seed."""
    runs = [(arm, seed) for seed in seeds for arm in RL_ARMS]
    jobs = {f"{arm}, seed {seed}": (arm, seed, steps) for arm, seed in runs}
    trained: Table = {}
    for (arm, _), log in zip(runs, context.map(run_rl, jobs, label="policies"), strict=True):
        trained.setdefault(arm, []).append(log)
    paced = context.map(run_pace, {f"pace, seed {seed}": (seed, steps) for seed in seeds}, label="pace")
    return trained, paced


def _of_real(claim: Claim) -> Claim:
    return replace(claim, id=f"smollm2-{claim.id}", statement=f"SmolLM2-135M: {claim.statement}")


Said = tuple[str, str, str, str]
"""A claim about two arms: its id, its statement, the subject and the baseline."""
BETTER_HEADS: tuple[Said, ...] = (
    ("e2e-over-warm", "Training on with the end-to-end TV loss beats the warm head", "e2e TV", "warm head"),
    ("ce-over-warm", "Training on with cross-entropy beats the warm head", "CE", "warm head"),
    ("e2e-over-ce", "The end-to-end TV loss beats cross-entropy", "e2e TV", "CE"),
    ("kl-over-ce", "KL beats cross-entropy", "KL", "CE"),
    ("tv-over-kl", "TV beats KL", "TV", "KL"),
    ("tv-over-rkl", "TV beats reverse KL", "TV", "reverse KL"),
    ("e2e-over-tv", "The end-to-end loss beats TV step by step", "e2e TV", "TV"),
    ("e2e-over-lk", "The end-to-end TV loss beats the LK hybrid", "e2e TV", "LK"),
    ("exact-over-product", "The exact chain objective beats the paper's product", "e2e TV, exact", "e2e TV"),
)
"""Claims about two heads by accept length."""
A_TENTH = "a tenth of CE's, rejection"
LESS_LOST: tuple[Said, ...] = (
    (
        "entropy-rule",
        "Rejection loses less accept length to a nat of entropy than target-only",
        "e2e TV, rejection",
        "e2e TV, target-only",
    ),
    (
        "entropy-loss",
        "By rejection, an e2e-TV head loses less to entropy than a CE head",
        "e2e TV, rejection",
        "CE, rejection",
    ),
    (
        "entropy-free",
        "By rejection, an e2e-TV head loses less than a tenth of what a CE head loses",
        "e2e TV, rejection",
        A_TENTH,
    ),
)
"""Claims about what a nat of entropy costs, by rule and by loss."""


def claims(table: Table, paid: Mapping[str, Arm]) -> list[Claim]:
    """The claims whose arms are in `table`.

    Args:
        table: results by arm.
        paid: what each arm was paid.
    """
    tv, ce, rules = table["e2e TV"], table["CE"], {"rejection": "rejection", "target-only": "target_only"}
    slopes = {
        "e2e TV, rejection": [loss_a_nat(r, "rejection") for r in tv],
        "e2e TV, target-only": [loss_a_nat(r, "target_only") for r in tv],
        "CE, rejection": [loss_a_nat(r, "rejection") for r in ce],
    }
    slopes[A_TENTH] = [value / 10 for value in slopes["CE, rejection"]]
    # Values that are read off another arm were paid what that arm was paid.
    read_off = {name: "e2e TV" if name.startswith("e2e") else "CE" for name in slopes}
    paid_too = {name: replace(paid["e2e TV"], name=name) for name in rules}
    paid_too |= {name: replace(paid[arm], name=name) for name, arm in read_off.items()}
    over: Said = (
        "rejection-over-target-only",
        "Rejection sampling accepts more of an e2e-TV head than target-only",
        "rejection",
        "target-only",
    )
    gains: Said = (
        "target-only-does-not-care",
        "What e2e TV gains over cross-entropy, it gains by rejection more than by target-only",
        "rejection",
        "target-only",
    )
    return [
        *_claims(
            [over],
            "accept length, three drafts, temperature 1",
            {name: [length(r, rule) for r in tv] for name, rule in rules.items()},
            paid_too,
        ),
        *_claims(
            [gains],
            "gain of accept length over the CE head",
            {
                name: [length(a, rule) - length(b, rule) for a, b in zip(tv, ce, strict=True)]
                for name, rule in rules.items()
            },
            paid_too,
        ),
        *_claims(
            [said for said in BETTER_HEADS if table.keys() >= set(said[2:])],
            "accept length by rejection, three drafts, temperature 1",
            {arm: [length(r) for r in results] for arm, results in table.items()},
            paid,
        ),
        *_claims(
            LESS_LOST, "accept length lost per nat, over the temperatures", slopes, paid_too, better="lower"
        ),
    ]


def _claims(
    said: Sequence[Said],
    metric: str,
    arms: Mapping[str, Sequence[float]],
    paid: Mapping[str, Arm],
    **more: Any,
) -> list[Claim]:
    """Claims about the same figure of the same arms; more is better where `more` does not say otherwise."""
    from noria.core.proofs.proof import Claim

    return [
        Claim(
            id=name,
            statement=statement,
            metric=metric,
            arms=arms,
            subject=subject,
            baseline=baseline,
            source=SOURCE,
            paid={arm: paid[arm] for arm in (subject, baseline)},
            **{"better": "higher"} | more,
        )
        for name, statement, subject, baseline in said
    ]


def rl_claims(trained: Table, steps: int) -> list[Claim]:
    """The claims about heads in runs of reinforcement learning.

    Args:
        trained: runs by arm.
        steps: updates of each run's policy.
    """
    early, late = (
        {arm: [part(log["accept_length"], which) for log in logs] for arm, logs in trained.items()}
        for which in (0, 3)
    )
    changes = {arm: [b - a for a, b in zip(early[arm], late[arm], strict=True)] for arm in trained}
    paid = _updated([*trained, "last quarter", "97 % of the first"], steps)
    result = []
    for way in ("", ", entropy up", ", entropy down"):
        tv, ce, run = f"frozen e2e TV{way}", f"frozen CE{way}", f"a run{way.replace(', ', ' that pushes ')}"
        keeps = f"Over {run} a frozen e2e-TV head keeps more"
        end = way.replace(", entropy ", "-")
        result += _claims(
            [
                (
                    f"rl-frozen-suffices{end}",
                    f"{keeps} than 97 % of its accept length",
                    "last quarter",
                    "97 % of the first",
                )
            ],
            "accept length",
            {"last quarter": late[tv], "97 % of the first": [0.97 * x for x in early[tv]]},
            paid,
        )
        result += _claims(
            [(f"rl-keeps{end}", f"{keeps} of its accept length than a frozen CE head", tv, ce)],
            "accept length, last quarter less first",
            {arm: changes[arm] for arm in (tv, ce)},
            paid,
        )
    along: Said = (
        "rl-online",
        "Training the head along accepts more late in a run than a frozen head",
        "online e2e TV",
        "frozen e2e TV",
    )
    return result + _claims(
        [along], "accept length, last quarter", {arm: late[arm] for arm in along[2:]}, paid
    )


def pace_claims(paced: list[dict[str, Any]], steps: int) -> list[Claim]:
    """The claims about time.

    Args:
        paced: both runs, one pair a seed.
        steps: updates of each policy.
    """
    arms = ("drafts", "no drafts")
    return [
        claim
        for name, statement, parts in (
            ("step", "Drafted rollouts shorten a whole step of reinforcement learning", PARTS),
            ("rollout", "Drafted rollouts are faster", ("rollout",)),
        )
        for claim in _claims(
            [(f"rl-{name}-time", statement, *arms)],
            f"milliseconds of a {name}, a token",
            {arm: [pace(both[arm], parts) for both in paced] for arm in arms},
            _updated(arms, steps),
            better="lower",
            comparison="log_ratio",
        )
    ]


def _updated(names: Iterable[str], steps: int) -> dict[str, Arm]:
    """What arms of reinforcement learning were paid; none has a setting that was searched."""
    from noria.core.proofs.arms import Arm

    return {name: Arm(name, UPDATES, steps) for name in names}
