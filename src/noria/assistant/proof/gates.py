"""What the gates of the loop promise, tried on simulated turns, tests and logs whose truth is known.

The users, answers and candidates are simulated: the proof shows that the decisions are right where the data are as
assumed, not that people are happier.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noria.assistant.proof.kills import run_service_kills, run_turn_kills
from noria.assistant.proof.simulations import (
    HORIZON,
    ITEMS,
    LOOK,
    TURNS,
    run_off_policy,
    run_splits,
    run_tests,
    run_turns,
)
from noria.assistant.proof.through_service import run_through_service
from noria.core.experiments.sequential import SPLIT_ALPHA, split_evidence

if TYPE_CHECKING:
    from noria.core.proofs.proof import Check, Claim, Evidence, ProofContext

RUNS = {"quick": 125, "full": 500}
"""Simulated runs, tests and experiments of each seed."""
SEEDS = list(range(8))
HARMFUL = 0.54
"""Share of answers that help under the harmful version; the champion's is .6."""
UNEVEN = 0.51
"""True share of the challenger where the check of the split is to find something."""
USERS = 50_000
THROUGH = {"quick": 6, "full": 40}
"""Experiments that also run through the real gateway, journal, index and companion."""
KILLS = {"quick": (6, 2), "full": (140, 60)}
"""Kills of the gateway or its companion under load, and of a turn."""

_ONCE = (run_through_service, run_service_kills, run_turn_kills)
Results = Mapping[str, Sequence[Mapping[str, float]]]
"""Results of each arm, one a seed."""


def prove(context: ProofContext) -> Evidence:
    """Simulate every arm on every seed, and judge the claims."""
    from noria.core.proofs.proof import Evidence, versions

    began = time.perf_counter()
    seeds = context.seeds or SEEDS
    runs = RUNS[context.scale]
    arms: dict[str, tuple[Callable[..., dict[str, float]], tuple[Any, ...]]] = {
        "no gate": (run_turns, ("none", runs)),
        "monotone gate": (run_turns, ("monotone", runs)),
        "paired gate": (run_turns, ("bound", runs)),
        "equal": (run_tests, (0.6, runs)),
        "harmful": (run_tests, (HARMFUL, runs)),
        "better": (run_tests, (0.66, runs)),
        "even split": (run_splits, (0.5, USERS, runs)),
        "uneven split": (run_splits, (UNEVEN, USERS, runs)),
        "logs": (run_off_policy, (runs,)),
        "through the service": (run_through_service, (THROUGH[context.scale],)),
        "killed services": (run_service_kills, (KILLS[context.scale][0],)),
        "killed turns": (run_turn_kills, (KILLS[context.scale][1],)),
    }
    results: dict[str, list[dict[str, float]]] = {}
    for name, (function, settings) in arms.items():
        own = seeds[:1] if function in _ONCE else seeds
        jobs = {f"{name}, seed {seed}": (*settings, seed) for seed in own}
        results[name] = context.map(function, jobs, label=name)
    return Evidence(
        system="gates",
        claims=claims(results),
        seconds=time.perf_counter() - began,
        versions=versions("numpy", "scipy"),
        figures=[],
        notes=notes(results, runs * len(seeds)),
        config={"seeds": list(seeds), "runs a seed": runs, "turns": TURNS, "items of a gate": ITEMS,
                "users of a test": HORIZON, "users between looks": LOOK},
        checks=checks(results, runs * len(seeds)),
    )  # fmt: skip


def claims(results: Results) -> list[Claim]:
    """The claims, each on arms that saw the same simulated data.

    Args:
        results: results of each arm, one a seed.
    """
    below = {name: _column(results, name, "below") for name in ("no gate", "paired gate")}
    harmful = {name: _column(results, name, "harmful") for name in ("monotone gate", "paired gate")}
    equal = {
        "confidence sequence": _sum(results, "equal", "promoted", "rolled back"),
        "t test at every look": _column(results, "equal", "peeked"),
        "allowed": [0.05] * len(results["equal"]),
    }
    rolled = {
        "confidence sequence": _column(results, "harmful", "rolled back"),
        "asked for": [0.85] * len(results["harmful"]),
    }
    covered = {name: _column(results, "logs", name) for name in ("ips", "snips", "dr")}
    covered["asked for"] = [0.93] * len(results["logs"])
    source = "design of the loop, 3.6"
    ends = "share of runs that end below their start"
    decided = "share of tests of two equal versions that decide for one"
    return [
        paired_claim(
            "gate-keeps", "Runs under the paired gate end below their start less often than without a gate",
            ends, "lower", "paired gate", "no gate", below,
            ("judged items", {"paired gate": TURNS * ITEMS, "no gate": 0}), source, margin=0.3,
        ),
        paired_claim(
            "gate-harmful", "The paired gate takes fewer harmful candidates than a monotone one on as many items",
            "harmful candidates taken in twelve turns", "lower", "paired gate", "monotone gate", harmful,
            ("judged items", dict.fromkeys(harmful, TURNS * ITEMS)), source,
        ),
        paired_claim(
            "looks", "Looked at all the time, a confidence sequence errs less often than a t test",
            decided, "lower", "confidence sequence", "t test at every look", equal,
            ("users", dict.fromkeys(equal, HORIZON)), source, margin=0.1,
        ),
        paired_claim(
            "level", "A confidence sequence errs at most at its level of .05 over all looks",
            decided, "lower", "confidence sequence", "allowed", equal,
            ("users", {"confidence sequence": HORIZON, "allowed": 0}), source,
        ),
        paired_claim(
            "roll-back", "A version six points worse is rolled back within the horizon in more than .85 of tests",
            "share of tests that are rolled back", "higher", "confidence sequence", "asked for", rolled,
            ("users", {"confidence sequence": HORIZON, "asked for": 0}), source,
        ),
        *(
            paired_claim(
                f"off-policy-{name}", f"The interval of {name.upper()} holds the truth in more than .93 of logs",
                "share of 95 % intervals that hold the truth", "higher", name, "asked for", covered,
                ("rounds of a log", {name: 600, "asked for": 0}), source,
            )
            for name in ("ips", "snips", "dr")
        ),
    ]  # fmt: skip


def checks(results: Results, runs: int) -> list[Check]:
    """What must hold: the false alarms of the split's check, and its power by its closed form."""
    from scipy import stats

    from noria.core.proofs.proof import Check

    alarms = round(sum(_column(results, "even split", "ever")) * runs / len(results["even split"]))
    p_value = stats.binomtest(alarms, runs, SPLIT_ALPHA, alternative="greater").pvalue
    power = power_of_split(UNEVEN, USERS)
    seen = round(sum(_column(results, "uneven split", "last")) * runs / len(results["uneven split"]))
    agrees = stats.binomtest(seen, runs, power).pvalue
    (service,), (killed,), (turns,) = [
        results[name] for name in ("through the service", "killed services", "killed turns")
    ]
    return [
        Check(
            "service-equal",
            "Through the real gateway, journal and companion every look decides as the same functions on arrays",
            service["equal"] == service["looks"] > 0,
            f"{service['equal']:.0f} of {service['looks']:.0f} looks; {service['promoted']:.0f} experiments promoted, "
            f"{service['rolled back']:.0f} rolled back",
            "one decision function for simulation and service",
        ),
        Check(
            "kills",
            "After kill −9 at random moments nothing that was acknowledged is lost, and nothing is there twice",
            killed["lost"] == killed["twice"] == 0 < killed["traces"],
            f"{killed['kills']:.0f} kills of gateway or companion; {killed['traces']:,.0f} traces, "
            f"{killed['feedback']:,.0f} feedback and {killed['promotions']:,.0f} promotions acknowledged, "
            f"{killed['lost']:.0f} lost, {killed['twice']:.0f} twice",
            "design of the loop, 3.4",
        ),
        Check(
            "killed-turns",
            "A turn that is killed at a random moment ends with the receipt of the turn that was not",
            turns["same"] == turns["kills"] > 0,
            f"{turns['same']:.0f} of {turns['kills']:.0f}; money and seconds, which a kill may add to, are left out",
            "design of the loop, 3.6",
        ),
        Check(
            "split-level",
            f"The check of the split alarms falsely in at most {SPLIT_ALPHA} of experiments, over ten looks",
            p_value > 1e-3,
            f"{alarms} of {runs:,}",
            "Ville's inequality",
        ),
        Check(
            "split-power",
            f"It finds {UNEVEN:.0%} in the place of 50 % at {USERS:,} users as often as its closed form says",
            agrees > 1e-3,
            f"{seen / runs:.3f}, by the closed form {power:.3f}",
            "binomial tails at the two counts that alarm",
        ),
    ]


def power_of_split(share: float, users: int) -> float:
    """Probability that an even split is refuted at one look: both binomial tails beyond the counts that alarm."""
    from scipy import stats

    bound = -math.log(SPLIT_ALPHA)
    low, high = 0, users // 2  # the evidence falls from no user of an arm to half of them
    while high - low > 1:
        middle = (low + high) // 2
        alarms = split_evidence({"a": middle, "b": users - middle}, {"a": 0.5, "b": 0.5}) > bound
        low, high = (middle, high) if alarms else (low, middle)
    law = stats.binom(users, share)
    return float(law.cdf(low) + law.sf(users - low - 1))


def notes(results: Results, runs: int) -> list[str]:
    """What a reader needs beside the claims."""
    mean = {
        (arm, figure): sum(_column(results, arm, figure)) / len(results[arm])
        for arm, figure in (
            ("no gate", "below"), ("no gate", "points"), ("monotone gate", "points"), ("paired gate", "points"),
            ("equal", "once"), ("better", "promoted"), ("better", "users"), ("harmful", "users"),
        )
    }  # fmt: skip
    return [
        f"{runs:,} runs, tests and logs an arm; users, answers and candidates are simulated.",
        f"Without a gate {mean['no gate', 'below']:.0%} of runs of {TURNS} turns end below their start.",
        f"Points gained: {mean['no gate', 'points']:+.1f} without a gate, "
        f"{mean['monotone gate', 'points']:+.1f} under a monotone one, {mean['paired gate', 'points']:+.1f} under the "
        f"paired one, on {ITEMS} items each: caution costs gains, too.",
        f"One look at the end of a test of equal versions decides for one in {mean['equal', 'once']:.1%}.",
        f"A version that is six points better is promoted in {mean['better', 'promoted']:.0%} of tests, after "
        f"{mean['better', 'users']:,.0f} of {HORIZON:,} users on average; one that is six points worse is rolled back "
        f"after {mean['harmful', 'users']:,.0f}.",
    ]


def _column(results: Results, arm: str, figure: str) -> list[float]:
    return [result[figure] for result in results[arm]]


def _sum(results: Results, arm: str, *figures: str) -> list[float]:
    return [sum(result[figure] for figure in figures) for result in results[arm]]


def paired_claim(
    name: str,
    statement: str,
    metric: str,
    better: Any,
    subject: str,
    baseline: str,
    arms: Mapping[str, Sequence[float | None]],
    spent: tuple[str, Mapping[str, float]],
    source: str,
    margin: float = 0.0,
) -> Claim:
    """A claim on two arms, and what each was paid: the unit, and the amount by arm."""
    from noria.core.proofs.arms import Arm
    from noria.core.proofs.proof import Claim

    unit, amounts = spent
    return Claim(
        id=name, statement=statement, metric=metric, better=better, subject=subject, baseline=baseline, arms=arms,
        margin=margin, source=source, paid={arm: Arm(arm, unit, amounts[arm]) for arm in (subject, baseline)},
    )  # fmt: skip
